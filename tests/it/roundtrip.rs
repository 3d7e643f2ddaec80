//! Properties of random trees: what is stored comes back, the same content has the same name, nothing is stored twice,
//! and any sequence of edits, snapshots and prunes does what a plain model of it does.
//!
//! `PROPTEST_CASES` raises the number of cases.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::num::NonZero;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backuptool::object::{ChunkSizes, HashAlgorithm, Snapshot};
use backuptool::ops::address::Address;
use backuptool::ops::restore::{RestoreOptions, restore};
use backuptool::ops::snapshot::{SnapshotOptions, snapshot};
use backuptool::ops::{check, list, prune};
use backuptool::progress::Silent;
use backuptool::repo::{self, InitOptions, Session, SharedRepository, WriterOptions};
use backuptool::store::LocalBackend;
use backuptool::store::batch::SyncMethod;
use jiff::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

use crate::support::cli::{Node, Tree, noise, objects, read_tree, scratch, write_tree};

// ---- random trees

/// What a file holds, in a form that is small to print.
#[derive(Clone, Debug)]
enum Content {
    Bytes(Vec<u8>),
    /// The same bytes again and again, with a few others before them, so that they begin anywhere.
    Repeats {
        seed: u64,
        before: usize,
        length: usize,
        times: usize,
    },
    Zeros(usize),
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Repeats { seed, before, length, times } => {
                [noise(seed + 1000, *before), noise(*seed, *length).repeat(*times)].concat()
            }
            Self::Zeros(length) => vec![0; *length],
        }
    }
}

#[derive(Clone, Debug)]
enum Spec {
    File(Content),
    Link(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, Spec>),
}

fn any_content() -> impl Strategy<Value = Content> {
    let repeats = |before: usize, length: usize, times: usize| {
        // Few seeds: files share what they hold.
        (0..4_u64, 0..=before, 0..=length, 0..=times).prop_map(|(seed, before, length, times)| Content::Repeats {
            seed,
            before,
            length,
            times,
        })
    };
    prop_oneof![
        12 => vec(any::<u8>(), 0..200).prop_map(Content::Bytes),
        4 => repeats(100, 30_000, 3),
        2 => repeats(5000, 150_000, 4),
        1 => repeats(1 << 20, 1 << 20, 4),
        1 => (0..200_000_usize).prop_map(Content::Zeros),
    ]
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if byte == 0 || byte == b'/' { b'_' } else { byte });
    prop_oneof![
        3 => "[a-e]{1,2}".prop_map(String::into_bytes),
        2 => vec(byte.clone(), 1..12),
        1 => vec(byte, 1..=255),
    ]
    .prop_map(|name| if name == b"." || name == b".." { b"dots".to_vec() } else { name })
}

fn any_target() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_map(|byte| byte.max(1)), 1..100)
}

fn any_entries() -> impl Strategy<Value = BTreeMap<Vec<u8>, Spec>> {
    let leaf = prop_oneof![
        5 => any_content().prop_map(Spec::File),
        1 => any_target().prop_map(Spec::Link),
        1 => Just(Spec::Dir(BTreeMap::new())),
    ];
    let spec = leaf.prop_recursive(4, 24, 6, |inner| btree_map(any_name(), inner, 0..6).prop_map(Spec::Dir));
    btree_map(any_name(), spec, 0..8)
}

fn add(tree: &mut Tree, at: &Path, entries: &BTreeMap<Vec<u8>, Spec>) {
    for (name, spec) in entries {
        let path = at.join(OsString::from_vec(name.clone()));
        let node = match spec {
            Spec::File(content) => Node::File(content.bytes()),
            Spec::Link(target) => Node::Link(target.clone()),
            Spec::Dir(_) => Node::Dir,
        };
        tree.insert(path.clone(), node);
        if let Spec::Dir(entries) = spec {
            add(tree, &path, entries);
        }
    }
}

fn tree_of(entries: &BTreeMap<Vec<u8>, Spec>) -> Tree {
    let mut tree = Tree::new();
    add(&mut tree, Path::new(""), entries);
    tree
}

// ---- a repository and a source

struct Bench {
    dir: TempDir,
}

const THREADS: NonZero<usize> = NonZero::new(2).unwrap();

fn session() -> Session<'static> {
    Session {
        host: "host".into(),
        pid: 1,
        command: "test".into(),
        start: Timestamp::UNIX_EPOCH,
        lock_wait: Duration::from_secs(10),
        progress: &Silent,
    }
}

impl Bench {
    fn new(hash: HashAlgorithm, average: u32) -> Self {
        let bench = Self { dir: scratch() };
        let options = InitOptions { hash, chunks: ChunkSizes::with_average(average).unwrap() };
        repo::init(Arc::new(LocalBackend::make(&bench.path("repo")).unwrap()), &options, &session()).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> SharedRepository {
        SharedRepository::open(repo::local(&self.path("repo")).unwrap(), &session()).unwrap()
    }

    /// Puts a tree in place of what is at `place`.
    fn put(&self, place: &str, tree: &Tree) {
        let place = self.path(place);
        if place.exists() {
            fs::remove_dir_all(&place).unwrap();
        }
        write_tree(&place, tree);
    }

    fn snapshot(&self, place: &str) -> Snapshot {
        let source = self.path(place);
        let options = SnapshotOptions {
            source: &source,
            user: b"user",
            clock: Timestamp::now,
            utc_offset: 0,
            allow_empty: true,
            writing: WriterOptions { sync: SyncMethod::Each, ..WriterOptions::default() },
            threads: THREADS,
        };
        let report = snapshot(&self.open(), &options, &session()).unwrap();
        assert_eq!((report.replaced, report.snapshot.incomplete.count, report.snapshot.changed.count), (0, 0, 0));
        report.snapshot
    }

    fn restored(&self, number: u64) -> Tree {
        let repo = self.open();
        let address = Address::resolve(&repo, number.to_string().as_ref()).unwrap();
        let out = self.path("out");
        let options = RestoreOptions { address: &address, output: &out, paths: &[], threads: THREADS };
        let report = restore(&repo, &options, &Silent).unwrap();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        let tree = read_tree(&out);
        fs::remove_dir_all(out).unwrap();
        tree
    }

    fn assert_clean(&self) -> check::CheckReport {
        let report = check::check(&self.open(), THREADS, &session()).unwrap();
        assert!(report.is_clean() && report.leftovers == check::Leftovers::default(), "{report:?}");
        report
    }

    fn numbers(&self) -> Vec<u64> {
        let listing = list::list(&self.open()).unwrap();
        assert!(listing.unreadable.is_empty());
        listing.snapshots.iter().map(|snapshot| snapshot.number).collect()
    }

    fn prune(&self, number: u64) {
        let repo = self.open();
        let plan = prune::plan(&repo, &[number]).unwrap();
        assert!(plan.missing.is_empty());
        prune::execute(repo, plan, WriterOptions::default(), &session()).unwrap();
    }
}

/// `PROPTEST_CASES`, or so many.
fn cases(default: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: default, ..config } }
}

fn any_hash() -> impl Strategy<Value = HashAlgorithm> {
    proptest::sample::select(&HashAlgorithm::ALL[..])
}

// ---- the properties

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn what_is_stored_comes_back(
        entries in any_entries(),
        hash in any_hash(),
        average in proptest::sample::select(vec![16 << 10, 64 << 10]),
    ) {
        let tree = tree_of(&entries);
        let bench = Bench::new(hash, average);
        bench.put("src", &tree);
        prop_assert!(read_tree(&bench.path("src")) == tree);
        let first = bench.snapshot("src");
        let bytes = tree.values().map(|node| if let Node::File(content) = node { content.len() as u64 } else { 0 });
        prop_assert_eq!(first.counts.bytes, bytes.sum::<u64>());
        prop_assert!(bench.restored(1) == tree);

        // The same content adds no object, now or later, here or elsewhere.
        let stored = objects(&bench.path("repo"));
        prop_assert_eq!(first.added.objects, stored.len() as u64);
        let again = bench.snapshot("src");
        bench.put("elsewhere", &tree);
        let elsewhere = bench.snapshot("elsewhere");
        for same in [&again, &elsewhere] {
            prop_assert_eq!((same.tree, same.counts, same.added.objects), (first.tree, first.counts, 0));
        }
        prop_assert!(objects(&bench.path("repo")) == stored);
        bench.assert_clean();

        // Another repository of the same kind gives it the same name, and the other hash another one.
        let same = Bench::new(hash, average);
        same.put("src", &tree);
        prop_assert_eq!(same.snapshot("src").tree, first.tree);
        prop_assert_eq!(objects(&same.path("repo")).into_keys().collect::<Vec<_>>(), stored.into_keys().collect::<Vec<_>>());
        for number in [2, 1, 3] {
            bench.prune(number);
        }
        prop_assert!(objects(&bench.path("repo")).is_empty());
        bench.assert_clean();
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Puts something in place of what has the name, if anything has.
    Put(Vec<u8>, Spec),
    Remove(Index),
    Snapshot,
    Prune(Index),
}

fn any_step() -> impl Strategy<Value = Step> {
    let small = prop_oneof![
        6 => any_content().prop_map(Spec::File),
        1 => any_target().prop_map(Spec::Link),
        2 => btree_map(any_name(), any_content().prop_map(Spec::File), 0..4).prop_map(Spec::Dir),
    ];
    prop_oneof![
        4 => (any_name(), small).prop_map(|(name, spec)| Step::Put(name, spec)),
        1 => any::<Index>().prop_map(Step::Remove),
        3 => Just(Step::Snapshot),
        2 => any::<Index>().prop_map(Step::Prune),
    ]
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn any_sequence_does_what_a_plain_model_does(hash in any_hash(), steps in vec(any_step(), 1..24)) {
        let bench = Bench::new(hash, 16 << 10);
        let mut source: BTreeMap<Vec<u8>, Spec> = BTreeMap::new();
        let mut taken: BTreeMap<u64, Tree> = BTreeMap::new();
        let mut highest = 0;
        for step in steps {
            match step {
                Step::Put(name, spec) => {
                    source.insert(name, spec);
                }
                Step::Remove(at) => {
                    if !source.is_empty() {
                        let name = at.get(&source.keys().cloned().collect::<Vec<_>>()).clone();
                        source.remove(&name);
                    }
                }
                Step::Snapshot => {
                    let tree = tree_of(&source);
                    bench.put("src", &tree);
                    highest += 1;
                    prop_assert_eq!(bench.snapshot("src").number, highest);
                    taken.insert(highest, tree);
                }
                Step::Prune(at) => {
                    if !taken.is_empty() {
                        let number = *at.get(&taken.keys().copied().collect::<Vec<_>>());
                        bench.prune(number);
                        taken.remove(&number);
                    }
                }
            }
            prop_assert_eq!(bench.numbers(), taken.keys().copied().collect::<Vec<_>>());
        }
        let report = bench.assert_clean();
        prop_assert_eq!(report.whole, taken.keys().copied().collect::<Vec<_>>());
        for (number, tree) in &taken {
            prop_assert!(bench.restored(*number) == *tree, "snapshot {}", number);
        }
    }
}
