//! Properties of random trees, loose and in packs: what is stored comes back, the same content has the same name,
//! nothing is stored twice, and any sequence of edits, snapshots, prunes, packing and lost caches does what a plain
//! model of it does.
//!
//! `PROPTEST_CASES` raises the number of cases.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::num::NonZero;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backuptool::object::{ChunkSizes, Content as Stored, EntryKind, HashAlgorithm, Labels, ObjectId, Snapshot};
use backuptool::ops::address::Address;
use backuptool::ops::check::CheckOptions;
use backuptool::ops::prune::PruneOptions;
use backuptool::ops::restore::{RestoreOptions, restore};
use backuptool::ops::snapshot::{ChangeDetection, SnapshotOptions, snapshot};
use backuptool::ops::{check, list, pack, prune};
use backuptool::progress::Silent;
use backuptool::repo::{self, InitOptions, Session, SharedRepository, WriterOptions};
use backuptool::store::batch::SyncMethod;
use backuptool::store::pack::PackKind;
use backuptool::store::{LocalBackend, layout, loose};
use jiff::Timestamp;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::TempDir;

use crate::support::cli::{Node, Tree, noise, read_tree, scratch, write_tree};
use crate::support::repos::{self, ONE};

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
    writing: WriterOptions,
}

const THREADS: NonZero<usize> = NonZero::new(2).unwrap();

fn session() -> Session<'static> {
    Session { lock_wait: Duration::from_secs(10), ..repos::session() }
}

impl Bench {
    fn new(hash: HashAlgorithm, average: u32, writing: WriterOptions) -> Self {
        let bench = Self { dir: scratch(), writing };
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
            one_file_system: false,
            detection: ChangeDetection::default(),
            labels: &Labels::default(),
            writing: self.writing,
            threads: THREADS,
        };
        let report = snapshot(&self.open(), &options, &session()).unwrap();
        assert_eq!((report.replaced, report.snapshot.incomplete.count, report.snapshot.changed.count), (0, 0, 0));
        report.snapshot
    }

    fn restored(&self, number: u64) -> Tree {
        let repo = self.open();
        let address = Address::parse(number.to_string().as_ref()).unwrap().unwrap();
        let out = self.path("out");
        let options = RestoreOptions { address: &address, output: &out, paths: &[], threads: THREADS };
        let report = restore(&repo, &options, &Silent).unwrap();
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        let tree = read_tree(&out);
        fs::remove_dir_all(out).unwrap();
        tree
    }

    /// Nothing is damaged, and nothing is left that a prune would remove.
    fn assert_clean(&self) -> check::CheckReport {
        let repo = self.open();
        let report = check::check(&repo, &CheckOptions::everything(THREADS), &session()).unwrap();
        // Of what is in packs a little may be dead.
        let unneeded = if report.packs > 0 { report.leftovers.unneeded } else { 0 };
        let leftovers = check::Leftovers { unneeded, ..check::Leftovers::default() };
        assert!(report.is_clean() && report.leftovers == leftovers, "{report:?}");
        let plan = prune::plan(&repo, &PruneOptions::numbers(&[])).unwrap();
        assert_eq!((plan.objects(), plan.missing.len()), (0, 0), "{plan:?}");
        report
    }

    /// The objects that are stored, each once.
    fn objects(&self) -> BTreeSet<ObjectId> {
        let repo = self.open();
        let mut stored = loose::list(repo.backend()).unwrap().objects;
        let packs = repo.packs().unwrap();
        for (slot, _) in (0..).zip(packs.list()) {
            stored.extend(packs.file(slot).unwrap().index().unwrap().members.iter().map(|member| member.id));
        }
        let count = stored.len();
        let stored: BTreeSet<ObjectId> = stored.into_iter().collect();
        assert_eq!(stored.len(), count);
        stored
    }

    /// The files that hold objects.
    fn files(&self) -> BTreeSet<PathBuf> {
        let dirs = [layout::OBJECTS, layout::PACKS].map(|dir| self.path("repo").join(dir));
        let entries = dirs.into_iter().filter(|dir| dir.exists()).flat_map(walkdir::WalkDir::new);
        entries.map(|entry| entry.unwrap().into_path()).filter(|path| path.is_file()).collect()
    }

    fn numbers(&self) -> Vec<u64> {
        let listing = list::list(&self.open(), ONE, |listed| listed.snapshot.number).unwrap();
        assert!(listing.unreadable.is_empty());
        listing.snapshots
    }

    fn prune(&self, number: u64) {
        let repo = self.open();
        let plan = prune::plan(&repo, &PruneOptions::numbers(&[number])).unwrap();
        assert!(plan.missing.is_empty());
        prune::execute(repo, plan, self.writing, &session()).unwrap();
    }

    /// Afterwards nothing is left to pack.
    fn pack(&self) {
        // A process that another test has just begun holds a lock of this one until it runs its own program, and then
        // nothing is removed.
        let is_done = || {
            drop(self.open().into_exclusive(&session()).unwrap());
            let repo = self.open();
            let plan = pack::plan(&repo, self.writing).unwrap();
            let report = pack::execute(repo, &plan, self.writing, &session()).unwrap();
            assert_eq!(report.damaged, [""; 0]);
            !report.old_files_remain
        };
        assert!((0..100).any(|_| is_done()));
        assert_eq!(loose::list(self.open().backend()).unwrap().objects, []);
        let plan = pack::plan(&self.open(), self.writing).unwrap();
        assert!(plan.is_empty(), "{plan:?}");
    }
}

/// All in packs, few or many loose; packs of one frame and of several.
fn any_writing() -> impl Strategy<Value = WriterOptions> {
    let limits = proptest::sample::select(vec![0, 3, WriterOptions::LOOSE_LIMIT]);
    let sizes = proptest::sample::select(vec![1, 4 << 10, 1 << 20]);
    (limits, sizes).prop_map(|(loose_limit, pack_size)| WriterOptions {
        sync: SyncMethod::Each,
        loose_limit,
        pack_size,
    })
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
        writing in any_writing(),
    ) {
        let tree = tree_of(&entries);
        let bench = Bench::new(hash, average, writing);
        bench.put("src", &tree);
        prop_assert!(read_tree(&bench.path("src")) == tree);
        let first = bench.snapshot("src");
        let bytes = tree.values().map(|node| if let Node::File(content) = node { content.len() as u64 } else { 0 });
        prop_assert_eq!(first.counts.bytes, bytes.sum::<u64>());
        prop_assert!(bench.restored(1) == tree);

        // The same content adds no object, now or later, here or elsewhere.
        let (stored, files) = (bench.objects(), bench.files());
        prop_assert_eq!(first.added.objects, stored.len() as u64);
        let again = bench.snapshot("src");
        bench.put("elsewhere", &tree);
        let elsewhere = bench.snapshot("elsewhere");
        for same in [&again, &elsewhere] {
            prop_assert_eq!((same.tree, same.counts, same.added.objects), (first.tree, first.counts, 0));
        }
        prop_assert_eq!(bench.files(), files);
        bench.assert_clean();
        bench.pack();
        prop_assert!(bench.objects() == stored);
        prop_assert!(bench.restored(2) == tree);

        // Another repository of the same kind gives it the same name, and the other hash another one.
        let same = Bench::new(hash, average, WriterOptions { loose_limit: usize::MAX, ..writing });
        same.put("src", &tree);
        prop_assert_eq!(same.snapshot("src").tree, first.tree);
        prop_assert!(same.objects() == stored);
        for number in [2, 1, 3] {
            bench.prune(number);
        }
        prop_assert!(bench.files().is_empty());
        bench.assert_clean();
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Puts something in place of what has the name, if anything has.
    Put(Vec<u8>, Spec),
    Remove(Index),
    /// Written with this limit.
    Snapshot(usize),
    Prune(Index),
    Pack,
    Check,
    /// `cache/index` is lost, or all of `cache`.
    Lose(&'static str),
    /// The repository is copied by something that drops empty directories.
    DropEmpty,
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
        4 => proptest::sample::select(vec![0, 3, WriterOptions::LOOSE_LIMIT]).prop_map(Step::Snapshot),
        2 => any::<Index>().prop_map(Step::Prune),
        1 => Just(Step::Pack),
        1 => Just(Step::Check),
        1 => proptest::sample::select(vec![layout::INDEX, layout::CACHE]).prop_map(Step::Lose),
        1 => Just(Step::DropEmpty),
    ]
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn any_sequence_does_what_a_plain_model_does(
        hash in any_hash(),
        writing in any_writing(),
        steps in vec(any_step(), 1..28),
    ) {
        let mut bench = Bench::new(hash, 16 << 10, writing);
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
                Step::Snapshot(loose_limit) => {
                    bench.writing.loose_limit = loose_limit;
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
                Step::Pack => bench.pack(),
                Step::Check => {
                    let report = bench.assert_clean();
                    prop_assert_eq!(report.whole, taken.keys().copied().collect::<Vec<_>>());
                }
                Step::Lose(path) => {
                    let path = bench.path("repo").join(path);
                    if path.is_dir() {
                        fs::remove_dir_all(path).unwrap();
                    } else if path.exists() {
                        fs::remove_file(path).unwrap();
                    }
                }
                Step::DropEmpty => {
                    for dir in layout::DIRS {
                        // Those that hold something stay.
                        let _ = fs::remove_dir(bench.path("repo").join(dir));
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

/// Several frames and packs of blobs, and a list that is cut into pieces.
#[test]
fn a_large_file_comes_back_from_packs() {
    let writing = WriterOptions { sync: SyncMethod::Each, loose_limit: 0, pack_size: 7 << 20 };
    let mut bench = Bench::new(HashAlgorithm::Blake3, 16 << 10, writing);
    let tree = |seed: u64| {
        let content = [noise(seed, 1 << 20), noise(1, 24 << 20), vec![0; 1 << 20]].concat();
        Tree::from([("large".into(), Node::File(content))])
    };
    let frames = || {
        let repo = bench.open();
        let packs = repo.packs().unwrap();
        let files = (0..).zip(packs.list()).map(|(slot, _)| packs.file(slot).unwrap());
        files.filter(|file| file.name().kind == PackKind::Blobs).map(|file| file.frames() - 1).collect::<Vec<_>>()
    };
    bench.put("src", &tree(2));
    let first = bench.snapshot("src");
    let repo = bench.open();
    let EntryKind::File { content: Stored::Chunks { depth, .. }, .. } =
        repo.entries(first.tree).next().unwrap().unwrap().kind
    else {
        panic!("it is not chunked");
    };
    assert_eq!(depth, 2);
    drop(repo);
    assert!(frames().len() >= 3 && frames().into_iter().max() >= Some(2), "{:?}", frames());
    assert!(bench.restored(1) == tree(2));

    // Another beginning: the rest is found, whether there is an index of all packs or none.
    bench.put("src", &tree(3));
    let second = bench.snapshot("src");
    assert!(second.added.bytes < 2 << 20, "{:?}", second.added);
    fs::remove_dir_all(bench.path("repo/cache")).unwrap();
    bench.pack();
    bench.prune(1);
    assert!(bench.restored(2) == tree(3));

    // In another order than it is stored, some of it twice, and a little of it loose.
    let old = noise(1, 24 << 20);
    let (front, back) = old.split_at(11 << 20);
    let content = [back, &vec![0; 1 << 20], &noise(4, 50_000), front, &vec![0; 1 << 20], back].concat();
    let shuffled = Tree::from([("large".into(), Node::File(content))]);
    bench.put("src", &shuffled);
    bench.writing.loose_limit = 4096;
    bench.snapshot("src");
    assert!(bench.restored(3) == shuffled);
    assert_eq!(bench.assert_clean().whole, [2, 3]);
}
