//! What a snapshot takes for unchanged and does not read again: each thing that it looks at by itself, times that cannot
//! be told apart, caches that are damaged, foreign or out of date, and random edits against what the source really was.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use backuptool::object::{Content, EntryKind, HashAlgorithm, Labels};
use backuptool::ops::check::{self, CheckOptions};
use backuptool::ops::prune::{self, PruneOptions};
use backuptool::ops::snapshot::{ChangeDetection, SnapshotOptions, SnapshotReport, snapshot};
use backuptool::repo::{self, InitOptions, SharedRepository, WriterOptions};
use backuptool::store::LocalBackend;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::support::cli::{self, Node, Tree, noise, overwrite, read_tree, scratch};
use crate::support::fault::FaultBackend;
use crate::support::repos::{ONE, open, restore, session};

/// A clock for which every file of a test is old. It stands, so that no test depends on how long it takes.
fn later() -> Timestamp {
    static LATER: LazyLock<Timestamp> = LazyLock::new(|| Timestamp::now() + SignedDuration::from_hours(24));
    *LATER
}

const READS_ALL: ChangeDetection = ChangeDetection { rescan: true, ignore_ctime: false, ignore_inode: false };
const BY_MTIME: ChangeDetection = ChangeDetection { rescan: false, ignore_ctime: true, ignore_inode: true };

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: scratch() };
        bench.init("repo");
        fs::create_dir(bench.source("")).unwrap();
        bench
    }

    fn init(&self, name: &str) {
        self.init_with(name, HashAlgorithm::Blake3);
    }

    fn init_with(&self, name: &str, hash: HashAlgorithm) {
        let backend = Arc::new(LocalBackend::make(&self.path(name)).unwrap());
        repo::init(backend, &InitOptions { hash, ..InitOptions::default() }, &session()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn source(&self, name: &str) -> PathBuf {
        self.path("src").join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.source(name).parent().unwrap()).unwrap();
        fs::write(self.source(name), content).unwrap();
    }

    /// Files in two directories, and one that is newer than all others: that one is read again.
    fn with_files() -> Self {
        let bench = Self::new();
        for number in 0..5_u64 {
            bench.write(&format!("a/{number}"), &noise(number, 500));
            bench.write(&format!("b/{number}"), &noise(10 + number, 500));
        }
        bench.write("b/large", &noise(20, 300_000));
        symlink("a/1", bench.source("link")).unwrap();
        bench.settle();
        bench
    }

    /// Files enough for several blocks of the change cache, and one that is newer than all others.
    fn with_blocks() -> Self {
        let bench = Self::new();
        let write = |number: usize| bench.write(&format!("{}/{}", number / 100 + 10, number % 100 + 10), &[1]);
        (0..6000).for_each(write);
        bench.settle();
        bench
    }

    /// Makes all other files older than the newest one.
    fn settle(&self) {
        // The clock that makes the times goes in steps.
        thread::sleep(Duration::from_millis(30));
        self.write("newest", b"newest");
    }

    fn open(&self, repo: &str) -> SharedRepository {
        SharedRepository::open(repo::local(&self.path(repo)).unwrap(), &session()).unwrap()
    }

    fn take_of(
        &self,
        repo: &str,
        source: &Path,
        clock: fn() -> Timestamp,
        detection: ChangeDetection,
    ) -> SnapshotReport {
        let report = Self::take_in(&self.open(repo), source, clock, detection);
        assert_eq!((report.snapshot.incomplete.count, report.snapshot.changed.count), (0, 0));
        report
    }

    fn take_in(
        repo: &SharedRepository,
        source: &Path,
        clock: fn() -> Timestamp,
        detection: ChangeDetection,
    ) -> SnapshotReport {
        Self::take_writing(repo, source, clock, detection, WriterOptions::default())
    }

    fn take_writing(
        repo: &SharedRepository,
        source: &Path,
        clock: fn() -> Timestamp,
        detection: ChangeDetection,
        writing: WriterOptions,
    ) -> SnapshotReport {
        let options = SnapshotOptions {
            source,
            user: b"user",
            clock,
            utc_offset: 0,
            allow_empty: true,
            one_file_system: false,
            detection,
            labels: &Labels::default(),
            writing,
            threads: ONE,
        };
        snapshot(repo, &options, &session()).unwrap()
    }

    /// Takes a snapshot when all files are old, and sees that it is what the source is. Returns how many files were not read.
    fn take(&self) -> u64 {
        let report = self.take_of("repo", &self.source(""), later, ChangeDetection::default());
        assert!(self.restored(report.snapshot.number) == read_tree(&self.source("")));
        report.unchanged
    }

    /// How many files are read when all files are old.
    fn read(&self) -> u64 {
        let files = read_tree(&self.source("")).values().filter(|node| matches!(node, Node::File(_))).count();
        files as u64 - self.take()
    }

    fn restored(&self, number: u64) -> Tree {
        let out = self.path("out");
        let backend = LocalBackend::open(&self.path("repo")).unwrap();
        restore(backend, number, &out).unwrap();
        let tree = read_tree(&out);
        fs::remove_dir_all(out).unwrap();
        tree
    }

    fn caches(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path("repo/cache")) else { return Vec::new() };
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut caches: Vec<_> = paths.filter(|path| path.to_str().unwrap().contains("/seen-")).collect();
        caches.sort();
        caches
    }

    fn prune(&self, number: u64) {
        let repo = self.open("repo");
        let plan = prune::plan(&repo, &PruneOptions::numbers(&[number])).unwrap();
        prune::execute(repo, plan, WriterOptions::default(), &session()).unwrap();
    }

    fn clean(&self) {
        let report = check::check(&self.open("repo"), &CheckOptions::everything(ONE), &session()).unwrap();
        assert!(report.is_clean(), "{report:?}");
    }
}

/// Writes other bytes of the same length, and puts the time of the last change of content back.
fn edit_secretly(path: &Path) {
    let before = fs::metadata(path).unwrap();
    let mut content = fs::read(path).unwrap();
    content[0] ^= 0xff;
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&content, 0).unwrap();
    set_modified(path, before.modified().unwrap());
    let after = fs::metadata(path).unwrap();
    assert_eq!(
        (before.len(), before.modified().unwrap(), before.ino()),
        (after.len(), after.modified().unwrap(), after.ino())
    );
}

fn set_modified(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

#[test]
fn what_is_as_it_was_is_not_read() {
    let bench = Bench::with_files();
    assert_eq!(bench.read(), 12);
    assert_eq!(bench.caches().len(), 1);
    let cache = fs::metadata(&bench.caches()[0]).unwrap();
    assert_eq!((bench.read(), bench.read()), (1, 1));
    // Nothing new is to be remembered.
    assert_eq!(fs::metadata(&bench.caches()[0]).unwrap().ino(), cache.ino());

    let names = |bench: &Bench| {
        let repo = bench.open("repo");
        repo.snapshots().unwrap().snapshots.iter().map(|snapshot| snapshot.added.objects).collect::<Vec<_>>()
    };
    assert!(names(&bench)[0] > 0);
    assert_eq!(names(&bench)[1..], [0, 0]);
    // A file that is new, and one that is gone.
    bench.write("a/new", b"new");
    fs::remove_file(bench.source("b/0")).unwrap();
    // And what was the newest then.
    assert_eq!(bench.read(), 2);
    assert_eq!(bench.caches().len(), 1);
    bench.settle();
    assert_eq!((bench.read(), bench.read()), (2, 1));
    bench.clean();
}

#[test]
fn each_thing_that_changes_is_seen_by_itself() {
    let bench = Bench::with_files();
    bench.take();
    let file = bench.source("a/2");
    let before = fs::metadata(&file).unwrap();

    // The size alone, as far as one can.
    OpenOptions::new().append(true).open(&file).unwrap().set_len(499).unwrap();
    set_modified(&file, before.modified().unwrap());
    bench.settle();
    assert_eq!(bench.read(), 2);
    // The time of the content.
    set_modified(&file, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    bench.settle();
    assert_eq!(bench.read(), 2);
    // By a nanosecond.
    set_modified(&file, SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 1));
    bench.settle();
    assert_eq!(bench.read(), 2);
    // The other time only.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    bench.settle();
    assert_eq!(bench.read(), 2);
    // Secretly.
    edit_secretly(&file);
    bench.settle();
    assert_eq!(bench.read(), 2);
    // A large one.
    edit_secretly(&bench.source("b/large"));
    bench.settle();
    assert_eq!(bench.read(), 2);
    // Another inode.
    let copy = bench.source("copy");
    fs::copy(&file, &copy).unwrap();
    set_modified(&copy, fs::metadata(&file).unwrap().modified().unwrap());
    fs::rename(copy, &file).unwrap();
    bench.settle();
    assert_eq!(bench.read(), 2);
    // Another kind.
    fs::remove_file(&file).unwrap();
    symlink("1", &file).unwrap();
    bench.settle();
    assert_eq!(bench.read(), 1);
    fs::remove_file(&file).unwrap();
    symlink("3", &file).unwrap();
    bench.settle();
    assert_eq!(bench.read(), 1);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    bench.settle();
    assert_eq!(bench.read(), 1);
    bench.write("a/2/inside", b"inside");
    bench.settle();
    assert_eq!(bench.read(), 2);
    fs::remove_dir_all(&file).unwrap();
    bench.write("a/2", b"a file again");
    bench.settle();
    assert_eq!(bench.read(), 2);
    bench.clean();
}

#[test]
fn each_thing_is_enough_where_all_others_are_as_they_were() {
    let bench = Bench::with_files();
    let ignore_ctime = ChangeDetection { ignore_ctime: true, ..ChangeDetection::default() };
    let take = |detection| {
        bench.settle();
        let report = bench.take_of("repo", &bench.source(""), later, detection);
        assert!(bench.restored(report.snapshot.number) == read_tree(&bench.source("")));
        report.unchanged
    };
    let file = bench.source("a/2");
    let looks = || {
        let meta = fs::metadata(&file).unwrap();
        (meta.len(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()), meta.ino())
    };
    take(BY_MTIME);
    assert_eq!(take(BY_MTIME), 11, "nothing");

    // The size, since ctime and inode do not count.
    let before = looks();
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    File::options().append(true).open(&file).unwrap().set_len(600).unwrap();
    set_modified(&file, modified);
    assert!(looks().0 != before.0 && looks().1 == before.1);
    assert_eq!(take(BY_MTIME), 10, "size");
    // The mtime.
    let before = looks();
    set_modified(&file, modified - Duration::from_nanos(1));
    assert!(looks().0 == before.0 && looks().1 != before.1);
    assert_eq!(take(BY_MTIME), 10, "mtime");
    // The inode: both times may be what they were, but ctime can be set by nobody.
    let before = looks();
    let copy = bench.source("copy");
    fs::write(&copy, noise(77, 600)).unwrap();
    set_modified(&copy, fs::metadata(&file).unwrap().modified().unwrap());
    fs::rename(&copy, &file).unwrap();
    assert!((looks().0, looks().1) == (before.0, before.1) && looks().3 != before.3);
    assert_eq!(take(ignore_ctime), 10, "inode");
    assert_eq!(take(ChangeDetection::default()), 11, "nothing");
    // The ctime.
    let before = looks();
    edit_secretly(&file);
    assert!((looks().0, looks().1, looks().3) == (before.0, before.1, before.3) && looks().2 != before.2);
    assert_eq!(take(ChangeDetection { ignore_inode: true, ..ChangeDetection::default() }), 10, "ctime");
    // The kind.
    for kind in [FileType::Fifo, FileType::Socket] {
        fs::remove_file(&file).unwrap();
        mknodat(CWD, &file, kind, Mode::RUSR, 0).unwrap();
        bench.settle();
        let report = bench.take_of("repo", &bench.source(""), later, BY_MTIME);
        assert_eq!((report.unchanged, report.special), (10, 1));
        assert!(!bench.restored(report.snapshot.number).contains_key(Path::new("a/2")));
        fs::remove_file(&file).unwrap();
        bench.write("a/2", &noise(78, 600));
        assert_eq!(take(BY_MTIME), 10, "a file again");
    }
    bench.clean();
}

#[test]
fn a_cache_of_a_newer_version_says_nothing() {
    let bench = Bench::with_files();
    bench.take();
    let cache = bench.caches().remove(0);
    let good = fs::read(&cache).unwrap();
    // The footer begins with the magic number, of which the last byte is the version, and ends with a hash of what is in it
    // behind that of the first block.
    let at = good.windows(7).rposition(|window| window == b"BTseen\0").unwrap();
    let sealed = |version: u8| {
        let mut bytes = good[..good.len() - 32].to_vec();
        bytes[at + 7] = version;
        let check = HashAlgorithm::Blake3.hash(&[&good[8..40], &bytes[at..]].concat());
        [&bytes[..], check.as_bytes()].concat()
    };
    let version = good[at + 7];
    assert!(sealed(version) == good, "this is how it is sealed");
    overwrite(&cache, &sealed(version));
    assert_eq!(bench.read(), 1);
    for other in [version + 1, version - 1, 255] {
        overwrite(&cache, &sealed(other));
        assert_eq!(bench.read(), 12, "version {other}");
    }
    bench.clean();
}

#[test]
fn what_is_not_settled_is_read_again() {
    let bench = Bench::with_files();
    // By the real clock, everything was written a moment ago.
    let take = |clock| bench.take_of("repo", &bench.source(""), clock, ChangeDetection::default()).unchanged;
    assert_eq!((take(Timestamp::now), take(Timestamp::now)), (0, 0));
    // By a clock that is wrong it was written in the future.
    let long_ago = || "1999-01-01T00:00:00Z".parse().unwrap();
    assert_eq!((take(long_ago), take(long_ago)), (0, 0));
    // Once it is settled that is remembered, although the tree is the same. The newest one was met before.
    assert_eq!((take(later), take(later)), (0, 12));
    // A time that has not come yet never is.
    set_modified(&bench.source("a/1"), SystemTime::now() + Duration::from_secs(1_000_000));
    bench.settle();
    assert_eq!((bench.read(), bench.read(), bench.read()), (2, 2, 2));
    // The very newest time is not either, however old it is: there a server's clock may be behind.
    edit_secretly(&bench.source("newest"));
    assert_eq!(bench.read(), 2);
}

#[test]
fn the_newest_time_is_settled_when_it_is_met_again_long_enough_after() {
    let bench = Bench::with_files();
    let take = |clock| bench.take_of("repo", &bench.source(""), clock, ChangeDetection::default()).unchanged;
    take(later);
    // As much later as is not enough: the server's clock may count in steps of two seconds, and be at the same one still.
    assert_eq!(take(|| later() + SignedDuration::from_secs(2)), 11);
    // It is read once more, since the first snapshot may have met it too early; that it was as it had been is remembered.
    assert_eq!(take(|| later() + SignedDuration::from_secs(5)), 11);
    assert_eq!(take(|| later() + SignedDuration::from_secs(5)), 12);
    // Also when other things are written down.
    fs::remove_file(bench.source("a/1")).unwrap();
    assert_eq!(take(|| later() + SignedDuration::from_secs(5)), 11);
    assert_eq!(take(|| later() + SignedDuration::from_secs(5)), 11);
    // A change is seen, and is the newest then.
    edit_secretly(&bench.source("newest"));
    assert_eq!([0; 2].map(|_| take(|| later() + SignedDuration::from_secs(10))), [10, 10]);
    let last = bench.take_of("repo", &bench.source(""), later, READS_ALL);
    assert!(bench.restored(last.snapshot.number) == read_tree(&bench.source("")));
}

#[test]
fn an_older_time_that_becomes_the_newest_is_not_settled_because_a_newer_one_was() {
    let bench = Bench::with_files();
    thread::sleep(Duration::from_millis(30));
    bench.write("newer", b"newer");
    let take = |clock| bench.take_of("repo", &bench.source(""), clock, ChangeDetection::default()).unchanged;
    take(later);
    assert_eq!([0; 2].map(|_| take(|| later() + SignedDuration::from_secs(5))), [12, 13]);
    // The clock that made the newest one may have been set back since, or be that of another disk.
    fs::remove_file(bench.source("newer")).unwrap();
    assert_eq!([0; 2].map(|_| take(|| later() + SignedDuration::from_secs(10))), [12, 11]);
    assert_eq!([0; 2].map(|_| take(|| later() + SignedDuration::from_secs(15))), [11, 12]);
}

#[test]
fn the_newest_time_is_settled_though_the_top_directory_has_become_another_one() {
    let bench = Bench::with_files();
    for name in ["newest", "link"] {
        fs::remove_file(bench.source(name)).unwrap();
    }
    thread::sleep(Duration::from_millis(30));
    bench.write("b/newest", b"newest");
    let take = |clock| bench.take_of("repo", &bench.source(""), clock, ChangeDetection::default()).unchanged;
    take(later);
    // The files stay as they are, with their times: what is moved is the directories that they are in.
    fs::rename(bench.source(""), bench.path("before")).unwrap();
    fs::create_dir(bench.source("")).unwrap();
    for name in ["a", "b"] {
        fs::rename(bench.path("before").join(name), bench.source(name)).unwrap();
    }
    assert_eq!(take(|| later() + SignedDuration::from_secs(5)), 11);
    assert_eq!(take(|| later() + SignedDuration::from_secs(10)), 11);
    assert_eq!(take(|| later() + SignedDuration::from_secs(15)), 12);
}

#[test]
fn who_ignores_ctime_settles_no_newest_time_for_others() {
    let bench = Bench::with_files();
    let take = |clock, detection| bench.take_of("repo", &bench.source(""), clock, detection).unchanged;
    take(later, ChangeDetection::default());
    fs::remove_file(bench.source("a/1")).unwrap();
    let ignoring = ChangeDetection { ignore_ctime: true, ..ChangeDetection::default() };
    assert_eq!(take(|| later() + SignedDuration::from_secs(5), ignoring), 11);
    assert_eq!(take(|| later() + SignedDuration::from_secs(10), ChangeDetection::default()), 10);
    assert_eq!(take(|| later() + SignedDuration::from_secs(10), ChangeDetection::default()), 11);
}

#[test]
fn a_change_in_the_same_tick_of_the_clock_is_seen() {
    // As on a file system that counts in steps of two seconds: what is changed within the step looks as it did.
    let bench = Bench::with_files();
    let tick = SystemTime::now();
    let mut times = Vec::new();
    for round in 0..20_u8 {
        let file = bench.source("a/3");
        fs::write(&file, [round; 500]).unwrap();
        set_modified(&file, tick);
        times.push(fs::metadata(&file).unwrap().ctime_nsec());
        let report = bench.take_of("repo", &bench.source(""), Timestamp::now, BY_MTIME);
        assert!(bench.restored(report.snapshot.number) == read_tree(&bench.source("")), "round {round}");
    }
}

#[test]
fn what_is_to_be_ignored_is_ignored() {
    let bench = Bench::with_files();
    bench.take();
    let take = |detection| bench.take_of("repo", &bench.source(""), later, detection);
    let file = bench.source("a/2");
    let old = fs::read(&file).unwrap();
    edit_secretly(&file);
    bench.settle();
    // Who says so gets what he asked for; and it shows that the file is not read.
    let ignoring = take(ChangeDetection { ignore_ctime: true, ..ChangeDetection::default() });
    assert_eq!(ignoring.unchanged, 11);
    let restored = bench.restored(ignoring.snapshot.number);
    assert!(matches!(&restored[Path::new("a/2")], Node::File(content) if *content == old));
    // To read everything helps.
    let all = take(READS_ALL);
    assert_eq!(all.unchanged, 0);
    assert!(bench.restored(all.snapshot.number) == read_tree(&bench.source("")));
    // Files that were copied with their times.
    let copy = bench.source("copy");
    fs::copy(&file, &copy).unwrap();
    set_modified(&copy, fs::metadata(&file).unwrap().modified().unwrap());
    fs::rename(copy, &file).unwrap();
    bench.settle();
    let inode = ChangeDetection { ignore_inode: true, ..ChangeDetection::default() };
    assert_eq!((take(inode).unchanged, take(inode).unchanged), (10, 11));
    fs::remove_dir_all(bench.path("repo/cache")).unwrap();
    bench.take();
    for name in ["a/1", "a/2"] {
        let copy = bench.source("copy");
        fs::copy(bench.source(name), &copy).unwrap();
        set_modified(&copy, fs::metadata(bench.source(name)).unwrap().modified().unwrap());
        fs::rename(copy, bench.source(name)).unwrap();
    }
    bench.settle();
    assert_eq!((take(BY_MTIME).unchanged, take(BY_MTIME).unchanged), (11, 12));
}

#[test]
fn a_source_that_was_moved_is_the_same_and_one_that_was_copied_is_not() {
    let bench = Bench::with_files();
    bench.take();
    let moved = bench.path("elsewhere");
    fs::rename(bench.source(""), &moved).unwrap();
    let take = |source: &Path| bench.take_of("repo", source, later, ChangeDetection::default()).unchanged;
    assert_eq!((take(&moved), take(&moved)), (11, 11));
    assert_eq!(bench.caches().len(), 2);
    assert!(Command::new("cp").args(["-a"]).arg(&moved).arg(bench.source("")).status().unwrap().success());
    // The one that was there before is not the same directory.
    assert_eq!(bench.read(), 12);
    bench.settle();
    assert_eq!((bench.read(), bench.read()), (1, 1));
    assert_eq!(take(&moved), 11);
    bench.clean();
}

#[test]
fn a_cache_that_is_not_what_it_must_be_is_passed_over() {
    let bench = Bench::with_files();
    bench.take();
    edit_secretly(&bench.source("a/1"));
    edit_secretly(&bench.source("b/large"));
    bench.settle();
    let cache = bench.caches().remove(0);
    let good = fs::read(&cache).unwrap();
    let expected = read_tree(&bench.source(""));
    let try_with = |bytes: &[u8], case: &str| {
        for cache in bench.caches() {
            fs::remove_file(cache).unwrap();
        }
        overwrite(&cache, bytes);
        let report = bench.take_of("repo", &bench.source(""), later, ChangeDetection::default());
        assert!(bench.restored(report.snapshot.number) == expected, "{case}");
        report.unchanged
    };
    assert_eq!(try_with(&good, "the good one"), 9);
    for length in (0..good.len()).step_by(97).chain([good.len() - 1]) {
        assert_eq!(try_with(&good[..length], &format!("cut after {length}")), 0);
    }
    for at in (0..good.len()).step_by(41) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let unchanged = try_with(&bad, &format!("byte {at}"));
        // A frame may say the same with another bit.
        let may_be_same = blocks_of(&good).iter().any(|block| block.frame.contains(&at)) && unchanged == 9;
        assert!(unchanged == 0 || may_be_same, "byte {at}: {unchanged} of a block of which anything is wrong are used");
    }
    assert_eq!(try_with(&noise(1, 5000), "noise"), 0);
    assert_eq!(try_with(&[&good[..], b"more"].concat(), "more behind it"), 0);
    assert_eq!(try_with(&good, "the good one again"), 9);
}

#[test]
fn where_nothing_has_changed_only_the_ref_is_written() {
    let bench = Bench::with_blocks();
    bench.take();
    let made = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&made);
    let local = LocalBackend::open(&bench.path("repo")).unwrap();
    let watched = FaultBackend::hooked(local, move |operation, path| {
        if operation == "create" {
            noted.lock().unwrap().push(path.rsplit('/').next().unwrap_or_default().to_owned());
        }
        Ok(())
    });
    let report = Bench::take_in(&open(watched).unwrap(), &bench.source(""), later, ChangeDetection::default());
    assert_eq!(report.unchanged, 6000);
    assert_eq!(*made.lock().unwrap(), ["ref-2"]);
}

/// What the cache holds after a snapshot.
fn cache_after(bench: &Bench, detection: ChangeDetection) -> Vec<u8> {
    bench.take_of("repo", &bench.source(""), later, detection);
    fs::read(&bench.caches()[0]).unwrap()
}

/// A block of a change cache: see docs/format.md.
struct BlockPlace {
    start: usize,
    frame: Range<usize>,
}

const BLOCK_HEAD: usize = 40;

fn blocks_of(cache: &[u8]) -> Vec<BlockPlace> {
    const FOOTER: usize = 97;
    let (mut blocks, mut start) = (Vec::new(), 0);
    while start < cache.len() - FOOTER {
        let number = |at: usize| u32::from_le_bytes(cache[at..at + 4].try_into().unwrap()) as usize;
        let frame = start + BLOCK_HEAD + number(start);
        let end = frame + number(start + 4);
        blocks.push(BlockPlace { start, frame: frame..end });
        start = end;
    }
    assert_eq!(start, cache.len() - FOOTER);
    blocks
}

#[test]
fn what_is_taken_over_from_the_cache_before_is_what_would_be_written_anew() {
    for hash in HashAlgorithm::ALL {
        let bench = Bench::with_blocks();
        fs::remove_dir_all(bench.path("repo")).unwrap();
        bench.init_with("repo", hash);
        let first = cache_after(&bench, ChangeDetection::default());
        assert!(blocks_of(&first).len() > 5, "a head, and several blocks");
        let edits: [&dyn Fn(); 8] = [
            // The records stay where they were, and then they do not.
            &|| edit_secretly(&bench.source("40/10")),
            &|| edit_secretly(&bench.source("10/10")),
            &|| edit_secretly(&bench.source("69/99")),
            &|| bench.write("40/50 and more", b"new"),
            &|| fs::remove_file(bench.source("50/10")).unwrap(),
            &|| fs::rename(bench.source("60"), bench.source("61/moved")).unwrap(),
            &|| bench.write("0", b"the first of all"),
            &|| fs::remove_dir_all(bench.source("10")).unwrap(),
        ];
        for (number, edit) in edits.into_iter().enumerate() {
            edit();
            bench.settle();
            let taken_over = cache_after(&bench, ChangeDetection::default());
            assert!(taken_over == cache_after(&bench, READS_ALL), "edit {number}");
            assert_eq!(bench.read(), 1, "edit {number}");
        }
        // Where nothing differs, but all has to be written: under another name.
        let moved = bench.path("moved");
        fs::rename(bench.source(""), &moved).unwrap();
        let take = || bench.take_of("repo", &moved, later, ChangeDetection::default());
        let files = take().unchanged;
        assert!(files > 5000);
        assert_eq!((bench.caches().len(), take().unchanged), (2, files));
    }
}

#[test]
fn what_has_not_changed_is_taken_over_as_it_stands() {
    let bench = Bench::with_blocks();
    let good = cache_after(&bench, ChangeDetection::default());
    // The same records in other frames, by which it shows where a block comes from.
    let (_, footer) = good.split_at(blocks_of(&good).last().unwrap().frame.end);
    let mut marked = Vec::new();
    for BlockPlace { start, frame } in blocks_of(&good) {
        let packed = zstd::bulk::compress(&zstd::decode_all(&good[frame.clone()]).unwrap(), 12).unwrap();
        assert_ne!(packed, good[frame.clone()]);
        marked.extend_from_slice(&good[start..start + 4]);
        marked.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        marked.extend_from_slice(&good[start + 8..frame.start]);
        marked.extend_from_slice(&packed);
    }
    marked.extend_from_slice(footer);
    overwrite(&bench.caches()[0], &marked);
    edit_secretly(&bench.source("40/10"));
    bench.settle();
    let after = cache_after(&bench, ChangeDetection::default());
    let (old, new) = (blocks_of(&marked), blocks_of(&after));
    assert_eq!(old.len(), new.len());
    let places = old.iter().zip(&new);
    let same: Vec<bool> = places.map(|(old, new)| marked[old.frame.clone()] == after[new.frame.clone()]).collect();
    let count = same.len();
    // The head is new, what has changed is in one block, and the newest file in the last one.
    assert_eq!(same.iter().filter(|same| !**same).count(), 3, "{same:?}");
    assert!(!same[0] && same[1] && same[count - 2] && !same[count - 1], "{same:?}");
}

#[test]
fn nothing_is_taken_over_from_what_is_damaged() {
    let bench = Bench::with_blocks();
    let good = cache_after(&bench, ChangeDetection::default());
    for BlockPlace { start, frame } in blocks_of(&good) {
        // The lengths, the hash, the first of the names or of the frame, and a name in the middle.
        for at in [start + 1, start + 6, start + 20, start + BLOCK_HEAD, (start + BLOCK_HEAD + frame.start) / 2] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            overwrite(&bench.caches()[0], &bad);
            let read = bench.read();
            assert!(read > 1, "byte {at}");
            // It was written down again as a whole, be it that it is the same.
            assert_eq!(bench.read(), 1, "byte {at}");
        }
    }
}

#[test]
fn a_last_block_that_is_damaged_is_written_down_again() {
    // There is nothing to be read in it: a directory, and links.
    let bench = Bench::with_blocks();
    for number in 0..6000 {
        fs::create_dir_all(bench.source("z")).unwrap();
        symlink("target", bench.source(&format!("z/{number}"))).unwrap();
    }
    let good = cache_after(&bench, ChangeDetection::default());
    let mut bad = good.clone();
    bad[blocks_of(&good).last().unwrap().start + 20] ^= 1;
    overwrite(&bench.caches()[0], &bad);
    assert!(cache_after(&bench, ChangeDetection::default()) == good);
}

#[test]
fn a_cache_that_is_cut_short_while_it_is_taken_over_costs_no_more_than_itself() {
    for failing in ["cut short", "create"] {
        let bench = Bench::with_blocks();
        bench.take();
        edit_secretly(&bench.source("40/10"));
        bench.settle();
        let cache = bench.caches().remove(0);
        let local = LocalBackend::open(&bench.path("repo")).unwrap();
        let hooked = FaultBackend::hooked(local, move |operation, path| {
            if operation != "create" || !path.ends_with("/seen") {
                return Ok(());
            }
            if failing == "create" {
                return Err(ErrorKind::StorageFull.into());
            }
            let length = fs::metadata(&cache).unwrap().len();
            OpenOptions::new().write(true).open(&cache).unwrap().set_len(length / 4)
        });
        let report = Bench::take_in(&open(hooked).unwrap(), &bench.source(""), later, ChangeDetection::default());
        assert!(bench.restored(report.snapshot.number) == read_tree(&bench.source("")), "{failing}");
        bench.take();
        assert_eq!(bench.read(), 1, "{failing}");
    }
}

#[test]
fn a_file_that_changed_each_time_it_was_read_is_gone_when_it_is_gone() {
    let bench = Bench::with_files();
    let busy = bench.source("a/busy");
    fs::write(&busy, noise(5, 8_000_000)).unwrap();
    let stop = AtomicBool::new(false);
    let mut was_busy = false;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new().append(true).open(&busy).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"more").unwrap();
            }
        });
        for _ in 0..20 {
            let detection = ChangeDetection::default();
            let report = Bench::take_in(&bench.open("repo"), &bench.source(""), later, detection);
            was_busy = report.snapshot.changed.count == 1;
            if was_busy {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(was_busy, "a file that changes all the time was never seen to change");
    // It is read again, and is no longer in its directory when it has gone.
    fs::rename(&busy, bench.source("moved")).unwrap();
    bench.take();
    fs::remove_file(bench.source("moved")).unwrap();
    bench.take();
    bench.clean();
}

#[test]
fn what_was_ignored_once_counts_for_those_who_do_not_ignore_it() {
    for ignoring in [
        ChangeDetection { ignore_ctime: true, ..ChangeDetection::default() },
        ChangeDetection { ignore_inode: true, ..ChangeDetection::default() },
    ] {
        let bench = Bench::with_files();
        bench.take();
        let file = bench.source("a/2");
        if ignoring.ignore_ctime {
            edit_secretly(&file);
        } else {
            // With the times of the other one: only ctime cannot be set, and it is that of the last rename.
            let (one, other) = (fs::metadata(&file).unwrap(), bench.source("other"));
            fs::write(&other, noise(99, 500)).unwrap();
            set_modified(&other, one.modified().unwrap());
            fs::rename(&other, &file).unwrap();
        }
        bench.settle();
        let both = ChangeDetection { ignore_ctime: true, ..ignoring };
        assert_eq!(bench.take_of("repo", &bench.source(""), later, both).unchanged, 11);
        // It takes a snapshot that does not ignore it, and that one sees what the file is.
        assert_eq!(bench.read(), 2);
        bench.clean();
    }
}

#[test]
fn a_cache_is_used_only_as_long_as_a_ref_has_its_tree() {
    let bench = Bench::with_files();
    bench.take();
    bench.take();
    bench.prune(1);
    assert_eq!(bench.read(), 1);
    let cache = bench.caches().remove(0);
    let old = fs::read(&cache).unwrap();
    bench.write("a/1", b"different");
    bench.settle();
    bench.take();
    bench.prune(2);
    bench.prune(3);
    // An old one comes back, of which the tree and some blobs are gone.
    overwrite(&cache, &old);
    bench.clean();
    assert_eq!(bench.read(), 1);
    for cache in bench.caches() {
        fs::remove_file(cache).unwrap();
    }
    overwrite(&cache, &old);
    assert_eq!(bench.read(), 12);
    bench.clean();

    // One of another repository says nothing here.
    bench.init("other");
    let other = bench.path("other/cache").join(bench.caches()[0].file_name().unwrap());
    fs::create_dir_all(other.parent().unwrap()).unwrap();
    fs::copy(&bench.caches()[0], other).unwrap();
    assert_eq!(bench.take_of("other", &bench.source(""), later, ChangeDetection::default()).unchanged, 0);
    let report = check::check(&bench.open("other"), &CheckOptions::everything(ONE), &session()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_copy_of_the_repository_reads_everything_once() {
    let bench = Bench::with_files();
    bench.take();
    let copy = bench.path("copy");
    let copied = Command::new("cp").arg("-a").arg(bench.path("repo")).arg(&copy).status().unwrap();
    assert!(copied.success());
    // As when others were at work: the ref has come along, and an object has not.
    let lost = HashAlgorithm::Blake3.hash(&noise(3, 500)).to_string();
    fs::remove_file(&cli::objects(&copy)[&lost]).unwrap();
    let take = || bench.take_of("copy", &bench.source(""), later, ChangeDetection::default()).unchanged;
    assert_eq!((take(), take()), (0, 11));
    let report = check::check(&bench.open("copy"), &CheckOptions::everything(ONE), &session()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn where_a_pack_is_gone_or_cannot_be_used_everything_is_read() {
    for is_indexed in [false, true] {
        for is_gone in [false, true] {
            let bench = Bench::with_files();
            let packing = WriterOptions { loose_limit: 0, ..WriterOptions::default() };
            let take = || {
                let (repo, detection) = (bench.open("repo"), ChangeDetection::default());
                Bench::take_writing(&repo, &bench.source(""), later, detection, packing).unchanged
            };
            assert_eq!((take(), take()), (0, 11));
            if is_indexed {
                let mut alone = bench.open("repo").into_exclusive(&session()).unwrap();
                alone.rebuild_index(&session()).unwrap();
            }
            let packs = fs::read_dir(bench.path("repo/packs")).unwrap().map(|entry| entry.unwrap().path());
            let blobs = packs.into_iter().find(|path| path.to_str().unwrap().contains("blobs")).unwrap();
            let whole = fs::read(&blobs).unwrap();
            if is_gone {
                fs::remove_file(&blobs).unwrap();
            } else {
                overwrite(&blobs, &whole[..whole.len() / 2]);
            }
            // Of one that is gone only the index of all packs knows, and what that covers is not looked at.
            let expected = if is_gone == is_indexed { 0 } else { 11 };
            assert_eq!(take(), expected, "indexed: {is_indexed}, gone: {is_gone}");
        }
    }
}

#[test]
fn a_snapshot_does_not_forget_what_a_check_finds_meanwhile() {
    let bench = Bench::with_files();
    bench.take();
    let blob = HashAlgorithm::Blake3.hash(&noise(3, 500)).to_string();
    overwrite(&cli::objects(&bench.path("repo"))[&blob], b"damage");
    let report = check::check(&bench.open("repo"), &CheckOptions::everything(ONE), &session()).unwrap();
    assert_eq!(report.damaged.len(), 1);
    let (list, other) = (bench.path("repo/cache/damaged"), HashAlgorithm::Blake3.hash(b"other").to_string());
    let (in_hook, found) = (list.clone(), format!("{blob}\n{other}\n"));
    let local = LocalBackend::open(&bench.path("repo")).unwrap();
    let hooked = FaultBackend::hooked(local, move |operation, path| {
        if operation == "publish_new" && path.contains("ref-") {
            overwrite(&in_hook, found.as_bytes());
        }
        Ok(())
    });
    Bench::take_in(&open(hooked).unwrap(), &bench.source(""), later, ChangeDetection::default());
    assert_eq!(fs::read_to_string(list).unwrap(), format!("{other}\n"));
}

#[test]
fn while_it_is_not_sure_what_is_damaged_everything_is_read() {
    let bench = Bench::with_files();
    bench.take();
    assert_eq!(bench.read(), 1);
    overwrite(&bench.path("repo/cache/damaged"), &noise(1, 300));
    assert_eq!((bench.read(), bench.read()), (12, 12));
    bench.clean();
    assert_eq!(bench.read(), 1);
}

#[test]
fn what_was_not_settled_is_not_because_its_ctime_was_ignored() {
    let bench = Bench::with_files();
    set_modified(&bench.source("a/2"), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    bench.settle();
    let take = |clock, detection| bench.take_of("repo", &bench.source(""), clock, detection).unchanged;
    assert_eq!(take(Timestamp::now, ChangeDetection::default()), 0);
    // Only its other time is known to be old.
    assert_eq!(take(later, ChangeDetection { ignore_ctime: true, ..ChangeDetection::default() }), 1);
    assert_eq!((bench.read(), bench.read()), (2, 1));
}

#[test]
fn what_was_written_down_of_a_source_goes_with_its_last_snapshot() {
    let bench = Bench::with_files();
    bench.take();
    let own = bench.caches();
    let other = bench.path("other source");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "other").unwrap();
    bench.take_of("repo", &other, later, ChangeDetection::default());
    assert_eq!(bench.caches().len(), 2);
    bench.prune(2);
    assert_eq!(bench.caches(), own);
    assert_eq!(bench.read(), 1);
}

#[test]
fn what_check_finds_damaged_or_missing_is_read_and_stored_again() {
    for damage in [fs::remove_file as fn(PathBuf) -> std::io::Result<()>, |path| {
        overwrite(&path, b"damage");
        Ok(())
    }] {
        let bench = Bench::with_files();
        bench.take();
        let objects = cli::objects(&bench.path("repo"));
        let blob = HashAlgorithm::Blake3.hash(&noise(3, 500)).to_string();
        damage(objects[&blob].clone()).unwrap();
        // It is not met as long as nobody knows.
        assert_eq!(bench.take_of("repo", &bench.source(""), later, ChangeDetection::default()).unchanged, 11);
        let report = check::check(&bench.open("repo"), &CheckOptions::everything(ONE), &session()).unwrap();
        assert_eq!(report.damaged.len(), 1);
        assert_eq!(bench.read(), 12);
        bench.clean();
        // Then it is forgotten, and nothing is read again for its sake.
        assert!(!bench.path("repo/cache/damaged").exists());
        assert_eq!(bench.read(), 1);
    }
}

#[test]
fn a_directory_of_many_files_keeps_its_tree() {
    let bench = Bench::new();
    for number in 0..10_000 {
        bench.write(&format!("many/{number}"), format!("{number}").as_bytes());
    }
    bench.settle();
    bench.take();
    assert_eq!(bench.read(), 1);
    bench.write("many/5000x", b"new");
    bench.settle();
    assert_eq!(bench.read(), 2);
    let repo = bench.open("repo");
    let added: Vec<_> = repo.snapshots().unwrap().snapshots.iter().map(|snapshot| snapshot.added).collect();
    assert_eq!(added[1].objects, 0);
    assert!(added[2].bytes < 200_000, "a few pieces of the tree: {:?}", added[2]);
    drop(repo);
    bench.clean();
}

/// The offsets in the source's file `large` where the last snapshot cut it.
fn cuts(bench: &Bench) -> Vec<usize> {
    let repo = bench.open("repo");
    let tree = repo.snapshots().unwrap().snapshots.last().unwrap().tree;
    let mut entries = repo.entries(tree).map(Result::unwrap);
    let large = entries.find(|entry| entry.name.as_bytes() == b"large").unwrap();
    let EntryKind::File { size, content: Content::Chunks { list, depth } } = large.kind else { panic!("{large:?}") };
    repo.chunks(list, depth, size).map(|chunk| usize::try_from(chunk.unwrap().offset).unwrap()).collect()
}

/// Takes a snapshot that knows where `large` was cut, and one that reads everything as if it had never been there.
fn assert_cut_as_if_new(bench: &Bench, case: &str) {
    let [known, anew] = [ChangeDetection::default(), READS_ALL]
        .map(|detection| bench.take_of("repo", &bench.source(""), later, detection).snapshot);
    assert_eq!(known.tree, anew.tree, "{case}");
}

/// Several parts, and several runs of what is as it was.
const LARGE: usize = 60 << 20;

#[test]
fn a_large_file_that_has_changed_is_cut_where_it_would_be_if_it_were_new() {
    let bench = Bench::new();
    let mut content = noise(1, LARGE);
    content[9_000_000..12_000_000].fill(0);
    content[15_000_000..15_500_000].fill(7);
    bench.write("large", &content);
    assert_cut_as_if_new(&bench, "first");
    let mut drawn = 0;
    let mut next = |below: usize| {
        drawn += 1;
        usize::from_le_bytes(noise(drawn, 8).try_into().unwrap()) % below
    };
    for round in 0..24 {
        let cuts = cuts(&bench);
        let at = next(content.len());
        match round % 8 {
            // The byte behind a cut has a say in it. (Not two chunks in a row: each is to be looked at by itself.)
            0 => cuts[1..].iter().step_by(5).for_each(|cut| content[*cut] ^= 0x55),
            // So has the last one before it.
            1 => cuts[1..].iter().step_by(5).for_each(|cut| content[*cut - 1] ^= 0x55),
            2 => (0..3).for_each(|_| content[next(LARGE)] ^= 1),
            3 => drop(content.splice(at..at, noise(3, next(100_000)))),
            4 => drop(content.drain(at..content.len().min(at + next(300_000)))),
            // The last chunk goes on.
            5 => content.extend_from_slice(&noise(4, 1 + next(200_000))),
            6 => content.truncate(cuts[cuts.len() - 1 - next(3)] + next(2)),
            _ => content[at..].iter_mut().take(500_000).for_each(|byte| *byte = 0),
        }
        content.resize(content.len().max(LARGE), 9);
        bench.write("large", &content);
        assert_cut_as_if_new(&bench, &format!("round {round}"));
    }
    bench.take();
    bench.clean();
}

#[test]
fn a_large_file_is_cut_anew_where_it_is_not_known_how_it_was_cut() {
    let bench = Bench::new();
    let mut content = noise(1, 20 << 20);
    bench.write("large", &content);
    bench.take();
    let packs = fs::read_dir(bench.path("repo/packs")).unwrap().map(|entry| entry.unwrap().path());
    let trees: Vec<_> = packs.filter(|path| path.to_str().unwrap().contains(".trees.")).collect();
    assert_eq!(trees.len(), 1);
    fs::remove_file(&trees[0]).unwrap();
    content[1_000_000] ^= 1;
    bench.write("large", &content);
    bench.take();
    assert_cut_as_if_new(&bench, "after that");
}

/// Random edits, some of which do all they can not to be seen, between snapshots.
#[test]
fn whatever_is_edited_every_snapshot_is_what_the_source_was() {
    for seed in 0..4_u64 {
        let bench = Bench::with_files();
        let mut taken = Vec::new();
        let mut random = noise(seed, 4000).into_iter().cycle();
        let mut next = |below: u8| usize::from(random.next().unwrap() % below);
        for _ in 0..40 {
            for _ in 0..=next(4) {
                edit(
                    &bench,
                    next(16),
                    ["a/0", "a/1", "b/2", "b/large", "c", "d/e"][next(6)],
                    ["a/4", "b/0", "f"][next(3)],
                );
            }
            let clock = if next(3) == 0 { Timestamp::now } else { later };
            let report = bench.take_of("repo", &bench.source(""), clock, ChangeDetection::default());
            taken.push((report.snapshot.number, read_tree(&bench.source(""))));
        }
        for (number, tree) in taken {
            assert!(bench.restored(number) == tree, "seed {seed}, snapshot {number}");
        }
        bench.clean();
    }
}

fn edit(bench: &Bench, kind: usize, one: &str, other: &str) {
    let (first, second) = (bench.source(one), bench.source(other));
    let is_file = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let remove = |path: &Path| match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    };
    match kind {
        0..3 if is_file(&first) => edit_secretly(&first),
        3 if is_file(&first) && is_file(&second) => {
            // Two files swap their places.
            let aside = bench.source("aside");
            fs::rename(&first, &aside).unwrap();
            fs::rename(&second, &first).unwrap();
            fs::rename(aside, &second).unwrap();
        }
        4 if is_file(&first) => {
            remove(&second);
            fs::rename(&first, &second).unwrap();
        }
        5 if is_file(&first) => {
            remove(&second);
            fs::hard_link(&first, &second).unwrap();
        }
        6 => {
            remove(&first);
            symlink(other, &first).unwrap_or_default();
        }
        7 => {
            remove(&first);
            bench.write(&format!("{one}/inside"), one.as_bytes());
        }
        8 => remove(&first),
        10 => {
            // Two directories swap their places; what is in them looks as it did.
            let [one, other, aside] = ["a", "b", "aside"].map(|name| bench.source(name));
            if one.is_dir() && other.is_dir() {
                fs::rename(&one, &aside).unwrap();
                fs::rename(&other, &one).unwrap();
                fs::rename(aside, &other).unwrap();
            }
        }
        11 => {
            // A directory takes the place of another entry with all that is in it, or goes back to where it was.
            let (one, other) = (bench.source("b"), bench.source("f"));
            let (from, to) = if other.is_dir() { (other, one) } else { (one, other) };
            remove(&to);
            if fs::rename(from, to).is_ok() {
                fs::create_dir_all(bench.source("b")).unwrap();
            }
        }
        12 if is_file(&first) => {
            // A little shorter or longer, with the old time.
            let meta = fs::metadata(&first).unwrap();
            let file = OpenOptions::new().write(true).open(&first).unwrap();
            file.set_len(meta.len() ^ 1).unwrap();
            set_modified(&first, meta.modified().unwrap());
        }
        13 => {
            remove(&first);
            if first.parent().is_some_and(Path::is_dir) {
                mknodat(CWD, &first, FileType::Fifo, Mode::RUSR, 0).unwrap();
            }
        }
        9 if is_file(&first) => {
            // Another file with the same times.
            let times = fs::metadata(&first).unwrap().modified().unwrap();
            let aside = bench.source("aside");
            fs::write(&aside, noise(7, fs::metadata(&first).unwrap().len().try_into().unwrap())).unwrap();
            set_modified(&aside, times);
            fs::rename(aside, &first).unwrap();
        }
        _ => {
            remove(&first);
            if first.parent().is_some_and(|parent| parent.symlink_metadata().is_ok_and(|meta| !meta.is_dir())) {
                remove(first.parent().unwrap());
            }
            bench.write(one, &noise(kind as u64, 400));
        }
    }
}
