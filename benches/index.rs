//! The index of all packs at scale: how long it takes to open, to find and not to find, and what it holds in memory; and
//! the same for the plan of a prune, which marks them all, and for a check, which reads them all.
//!
//! ```text
//! cargo bench --bench index -- DIR [OBJECTS [PACKS]]
//! ```
//!
//! Makes packs in a new repository in DIR (which must not exist), 10 million objects in 1,000 packs unless said otherwise.
//! They have a whole index and a hole where the frames would be: 36 bytes an object on the disk. They are taken in one by
//! one, as a snapshot does it, with the index file written whenever much has come; then everything is opened anew. Then
//! a snapshot refers to all of them, from directories of 1,000 files, and a prune is planned. At last as many objects of
//! 8 bytes are stored in a repository beside it (DIR.whole), and are checked.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backuptool::object::{
    Added, BlobId, Content, Counts, Entry, EntryKind, HashAlgorithm, Labels, MAX_OBJECT, Name, ObjectId, PathNotes,
    Snapshot, TreeBuilder,
};
use backuptool::ops;
use backuptool::ops::check::{self, CheckOptions};
use backuptool::ops::prune::{self, PruneOptions};
use backuptool::progress::{Interruption, Silent};
use backuptool::repo::{self, Appender, InitOptions, Session, WriterOptions};
use backuptool::store::LocalBackend;
use backuptool::store::loose::ReadRules;
use backuptool::store::pack::{FinishedPack, FrameEntry, Member, PackIndex, PackKind, PackName};
use backuptool::store::packs::Packs;
use backuptool::store::staging::{RunInfo, Staging};
use jiff::Timestamp;

/// The first argument of a run that only checks, so that its memory is its own.
const CHECK: &str = "--check";
const HASH: HashAlgorithm = HashAlgorithm::Blake3;
const RULES: ReadRules = ReadRules { hash: HASH, max_object: MAX_OBJECT };
const LOOKUPS: u64 = 1_000_000;
/// A frame has about so many objects.
const FRAME: usize = 100;

fn main() {
    // `cargo bench` passes this to every bench.
    let mut arguments = std::env::args_os().skip(1).filter(|argument| argument != "--bench");
    let first = arguments.next();
    if first.as_ref().is_some_and(|first| first == CHECK) {
        return check(&PathBuf::from(arguments.next().expect("a directory")));
    }
    let Some(dir) = first.map(PathBuf::from) else {
        println!("usage: cargo bench --bench index -- DIR [OBJECTS [PACKS]]");
        return;
    };
    let mut number = |default: u64| {
        let argument = arguments.next().map(|text| text.to_str().and_then(|text| text.parse().ok()).expect("a number"));
        argument.unwrap_or(default)
    };
    // As the program does: each hit is confirmed in a pack, which is best held open.
    ops::raise_open_file_limit();
    let (objects, packs) = (number(10_000_000), number(1000));
    let session = session();
    let made = Arc::new(LocalBackend::make(&dir).expect("DIR must not exist"));
    repo::init(made, &InitOptions::default(), &session).expect("make the repository");
    let backend = Arc::new(LocalBackend::open(&dir).expect("open the repository"));
    let info = RunInfo { host: "bench".into(), pid: 0, command: "bench".into(), start: Timestamp::UNIX_EPOCH };
    let staging = Staging::begin(&*backend, &info).expect("begin staging");

    let each = objects / packs;
    println!("{} objects in {packs} packs", each * packs);
    let begun = Instant::now();
    let all = Packs::open(backend.clone(), RULES).expect("open no packs");
    for pack in 0..packs {
        all.add(&make(&dir, pack * each..(pack + 1) * each));
        all.save_if_much(&staging).expect("write the index");
    }
    all.save(&staging).expect("write the index");
    println!("made: {:.1} s; {}", begun.elapsed().as_secs_f64(), memory());
    drop(all);

    let begun = Instant::now();
    let all = Packs::open(backend.clone(), RULES).expect("open the packs");
    let length = fs::metadata(dir.join("cache/index")).expect("the index").len();
    println!("open: {:.1} ms; the file has {} MiB; {}", begun.elapsed().as_secs_f64() * 1e3, length >> 20, memory());

    for round in ["first", "second"] {
        time(
            &format!("hits, {round} time"),
            |n| all.holds(name(scattered(n) % (each * packs))).expect("look up"),
            true,
        );
        let mut near = all.near();
        time(&format!("hits in the order of the packs, {round} time"), |n| near.holds(name(n)).expect("look up"), true);
        time(&format!("misses, {round} time"), |n| all.holds(name(u64::MAX - n)).expect("look up"), false);
    }
    drop(all);

    fs::remove_file(dir.join("cache/index")).expect("remove the index");
    let begun = Instant::now();
    let all = Packs::open(backend.clone(), RULES).expect("open the packs");
    println!("open without the index file: {:.1} s; {}", begun.elapsed().as_secs_f64(), memory());
    all.save(&staging).expect("write the index");
    drop((all, staging));
    refer_to_all(&dir, each * packs, &session, |_, n| (name(n), 4096));
    fs::write("/proc/self/clear_refs", "5").expect("begin to measure the peak anew");
    println!("before the plan: {}", memory());
    let begun = Instant::now();
    let repo = ops::open(&dir, &session).expect("open the repository");
    let plan = prune::plan(&repo, &PruneOptions::numbers(&[])).expect("plan a prune");
    assert_eq!((plan.objects(), plan.missing.len()), (0, 0));
    println!("plan of a prune: {:.1} s; {}", begun.elapsed().as_secs_f64(), memory());
    drop((repo, plan));

    let whole = dir.with_extension("whole");
    let made = Arc::new(LocalBackend::make(&whole).expect("DIR.whole must not exist"));
    repo::init(made, &InitOptions::default(), &session).expect("make the repository");
    let begun = Instant::now();
    refer_to_all(&whole, each * packs, &session, |blobs, n| {
        let content = n.to_le_bytes();
        (blobs.store(&content).expect("store an object"), content.len() as u64)
    });
    println!("{} objects stored: {:.1} s; {}", each * packs, begun.elapsed().as_secs_f64(), memory());
    let itself = std::env::current_exe().expect("this program");
    let checked = Command::new(itself).arg(CHECK).arg(&whole).status().expect("run this program");
    assert!(checked.success());
}

fn check(dir: &Path) {
    ops::raise_open_file_limit();
    let session = session();
    let begun = Instant::now();
    let repo = ops::open(dir, &session).expect("open the repository");
    let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let report = check::check(&repo, &CheckOptions::everything(threads), &session).expect("check");
    assert!(report.is_clean());
    println!("check of {} objects: {:.1} s; {}", report.objects, begun.elapsed().as_secs_f64(), memory());
}

fn session() -> Session<'static> {
    Session {
        host: "bench".into(),
        pid: 0,
        command: "bench".into(),
        start: Timestamp::UNIX_EPOCH,
        lock_wait: Duration::ZERO,
        progress: &Silent,
        interruption: Interruption::default(),
    }
}

/// Adds a snapshot of so many files. `object` says of each which object it is, and its length; it may store it.
fn refer_to_all(
    dir: &Path,
    objects: u64,
    session: &Session<'_>,
    object: impl Fn(&mut Appender<'_, '_>, u64) -> (ObjectId, u64),
) {
    let repo = ops::open(dir, session).expect("open the repository");
    let writer = repo.writer(session, WriterOptions { loose_limit: 0, ..WriterOptions::default() }).expect("begin");
    let named = |n: u64| Name::new(format!("{n:012}").into_bytes()).expect("a name");
    let (mut blobs, mut trees) = (writer.blobs(), writer.trees());
    let mut top = TreeBuilder::new(HASH);
    for first in (0..objects).step_by(1000) {
        let mut tree = TreeBuilder::new(HASH);
        for n in first..objects.min(first + 1000) {
            let (id, size) = object(&mut blobs, n);
            let kind = EntryKind::File { size, content: Content::Blob(BlobId(id)) };
            tree.push(Entry { name: named(n), kind }, &mut |piece| trees.store_tree(piece)).expect("store a tree");
        }
        let (tree, size) = tree.finish(&mut |piece| trees.store_tree(piece)).expect("store a tree");
        let entry = Entry { name: named(first), kind: EntryKind::Dir { size, tree } };
        top.push(entry, &mut |piece| trees.store_tree(piece)).expect("store a tree");
    }
    let (tree, bytes) = top.finish(&mut |piece| trees.store_tree(piece)).expect("store a tree");
    drop((blobs, trees));
    let counts = Counts { files: objects, bytes, ..Counts::default() };
    let snapshot = Snapshot {
        number: 0,
        start: Timestamp::UNIX_EPOCH,
        end: Timestamp::UNIX_EPOCH,
        utc_offset: 0,
        host: b"bench".to_vec(),
        user: b"bench".to_vec(),
        source: b"/".to_vec(),
        options: Vec::new(),
        tool: "bench".into(),
        tree,
        counts,
        added: Added::default(),
        incomplete: PathNotes::default(),
        changed: PathNotes::default(),
    };
    writer.commit(snapshot, &Labels::default(), None, session).expect("take the snapshot");
}

fn time(what: &str, mut look_up: impl FnMut(u64) -> bool, expected: bool) {
    let begun = Instant::now();
    for n in 0..LOOKUPS {
        assert_eq!(look_up(n), expected);
    }
    let each = begun.elapsed().as_secs_f64() / f64::from(u32::try_from(LOOKUPS).unwrap_or(u32::MAX));
    println!("{what}: {:.2} µs each; {}", each * 1e6, memory());
}

/// A number that has nothing to do with those beside it.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 8
}

fn name(n: u64) -> ObjectId {
    HASH.hash(&n.to_le_bytes())
}

/// Makes a pack for these objects, with a hole in place of the frames.
fn make(dir: &Path, objects: std::ops::Range<u64>) -> FinishedPack {
    let hash = HASH.hash(&[b"pack", &objects.start.to_le_bytes()[..]].concat());
    let name_of_pack = PackName { hash, kind: PackKind::Blobs };
    let members: Vec<Member> = objects.map(|n| Member { id: name(n), length: 4096 }).collect();
    let frame = |members: &[Member]| FrameEntry { length: 100_000, objects: u32::try_from(members.len()).unwrap_or(0) };
    let index = PackIndex { frames: members.chunks(FRAME).map(frame).collect(), members };
    let bytes = index.encode(HASH);
    let data = index.frames.iter().map(|frame| u64::from(frame.length)).sum::<u64>();
    let file = File::create(dir.join(name_of_pack.path())).expect("make a pack");
    file.write_all_at(&bytes, data).expect("write a pack");
    FinishedPack { name: name_of_pack, length: data + bytes.len() as u64, members: index.members }
}

/// What this process holds, as the system sees it.
fn memory() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) >> 10
    };
    std::io::stdout().flush().unwrap_or_default();
    format!(
        "memory {} MiB, of it mapped files {} MiB, peak {} MiB",
        value("VmRSS:"),
        value("RssFile:"),
        value("VmHWM:")
    )
}
