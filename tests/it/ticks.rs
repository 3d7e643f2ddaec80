//! Sources whose clock goes in coarse steps: what is changed within one step looks as it did before, and is seen all the
//! same.
//!
//! ext4 with inodes of 128 bytes counts seconds, FAT two seconds, ramfs the kernel's ticks. That takes root and, but for
//! ramfs, loop devices; where something is missing the tests say so and pass. One test acts as if, anywhere.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use backuptool::object::Labels;
use backuptool::ops::snapshot::{ChangeDetection, SnapshotOptions, SnapshotReport, WriterOptions, snapshot};
use backuptool::store::MemoryBackend;
use jiff::Timestamp;

use crate::support::cli::{have, noise, scratch, write};
use crate::support::disk::{Disk, can_mount};
use crate::support::fault::FaultBackend;
use crate::support::model::Model;
use crate::support::repos::{ONE, check, init, open, read_back, session};

/// So many rounds of edits and snapshots.
const ROUNDS: usize = 50;
const FILES: usize = 9;
/// What is settled after two seconds at the latest is waited for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be done to a file without changing its size.
#[derive(Debug, Clone, Copy)]
enum Edit {
    /// Its bytes are overwritten.
    InPlace,
    /// The same, and the time of that is set back to what it was.
    PutBack,
    /// Another file with the same times takes its name.
    RenameOver,
    /// It and the next one change their names.
    Swap,
    /// Its bytes are overwritten, and the time is rounded down to two seconds, as FAT does.
    Rounded,
}

/// A source, and a repository in memory.
struct Bench {
    top: PathBuf,
    memory: MemoryBackend,
    detection: ChangeDetection,
    edits: Vec<Edit>,
    /// Makes each content another one.
    edited: AtomicUsize,
    /// How often a file looked after an edit as it did before.
    hidden: AtomicUsize,
}

impl Bench {
    fn new(top: &Path, edits: &[Edit], detection: ChangeDetection) -> Arc<Self> {
        let memory = MemoryBackend::new();
        init(memory.clone()).unwrap();
        let bench = Self {
            top: top.to_path_buf(),
            memory,
            detection,
            edits: edits.to_vec(),
            edited: AtomicUsize::new(0),
            hidden: AtomicUsize::new(0),
        };
        for number in 0..FILES {
            // One of them has chunks.
            let length = if number == 4 { 150_000 } else { 100 };
            write(bench.file(number), noise(1000 + number as u64, length));
        }
        Arc::new(bench)
    }

    fn file(&self, number: usize) -> PathBuf {
        self.top.join(format!("d{}/{number}", number % 3))
    }

    /// Edits every file, each in another way in each round.
    fn edit(&self, round: usize) {
        for number in 0..FILES {
            let path = self.file(number);
            let looks = || {
                let meta = fs::metadata(&path).unwrap();
                let changed = (!self.detection.ignore_ctime).then(|| (meta.ctime(), meta.ctime_nsec()));
                let inode = (!self.detection.ignore_inode).then(|| meta.ino());
                (meta.len(), meta.mtime(), meta.mtime_nsec(), changed, inode)
            };
            let before = looks();
            self.edit_one(&path, number, self.edits[(round + number) % self.edits.len()]);
            self.hidden.fetch_add(usize::from(looks() == before), Ordering::Relaxed);
        }
    }

    fn edit_one(&self, path: &Path, number: usize, edit: Edit) {
        let meta = fs::metadata(path).unwrap();
        let other = noise(self.edited.fetch_add(1, Ordering::Relaxed) as u64, meta.len().try_into().unwrap());
        let overwrite = || OpenOptions::new().write(true).open(path).unwrap().write_all_at(&other, 0).unwrap();
        match edit {
            Edit::InPlace => overwrite(),
            Edit::PutBack => {
                overwrite();
                set_modified(path, meta.modified().unwrap());
            }
            Edit::RenameOver => {
                let aside = self.top.join("aside");
                fs::write(&aside, &other).unwrap();
                set_modified(&aside, meta.modified().unwrap());
                fs::rename(aside, path).unwrap();
            }
            Edit::Swap => {
                let (aside, next) = (self.top.join("aside"), self.file((number + 3) % FILES));
                fs::rename(path, &aside).unwrap();
                fs::rename(&next, path).unwrap();
                fs::rename(aside, next).unwrap();
            }
            Edit::Rounded => {
                overwrite();
                set_modified(path, rounded(SystemTime::now()));
            }
        }
    }

    /// Takes a snapshot by the real clock. When everything was read and the snapshot is about to become visible,
    /// `meanwhile` is done.
    fn take(&self, meanwhile: impl Fn() + Send + Sync + 'static) -> SnapshotReport {
        let done = AtomicBool::new(false);
        let backend = FaultBackend::hooked(self.memory.clone(), move |operation, _| {
            if operation == "publish_new" && !done.swap(true, Ordering::Relaxed) {
                meanwhile();
            }
            Ok(())
        });
        let options = SnapshotOptions {
            source: &self.top,
            user: b"user",
            clock: Timestamp::now,
            utc_offset: 0,
            allow_empty: false,
            one_file_system: false,
            detection: self.detection,
            labels: &Labels::default(),
            writing: WriterOptions::default(),
            threads: ONE,
        };
        snapshot(&open(backend).unwrap(), &options, &session()).unwrap()
    }

    fn verify(&self, taken: &BTreeMap<u64, Model>) {
        let repo = open(self.memory.clone()).unwrap();
        for (number, state) in taken {
            let found = read_back(&repo, *number).unwrap();
            assert!(found == *state, "snapshot {number}: {:?}", state.differences(&found));
        }
        drop(repo);
        assert!(check(self.memory.clone()).unwrap().is_clean());
    }

    /// Edits and takes snapshots by turns, and edits while they are taken; each must be what the source was.
    fn change_all_the_time(self: &Arc<Self>) {
        let mut taken = BTreeMap::new();
        for round in 0..ROUNDS {
            // In some rounds nothing happens but what happened while the last snapshot was taken.
            if round % 3 != 2 {
                self.edit(round);
            }
            let state = Model::read(&self.top);
            let bench = Arc::clone(self);
            let report = self.take(move || bench.edit(round + 1));
            taken.insert(report.snapshot.number, state);
        }
        self.verify(&taken);
        let hidden = self.hidden.load(Ordering::Relaxed);
        println!("{hidden} edits in {ROUNDS} rounds of {FILES} files could not be seen");
        assert!(hidden > 0, "the times are finer than they should be");
    }

    /// When nothing happens any more, all files but the newest are soon taken as unchanged; and then a change is seen.
    fn settle(&self) {
        let begun = Instant::now();
        loop {
            // What is the newest of all is read, since it is another one each time.
            fs::write(self.top.join("newest"), "newest").unwrap();
            let report = self.take(|| {});
            if report.unchanged == FILES as u64 {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{} of {FILES} unchanged", report.unchanged);
            thread::sleep(Duration::from_millis(100));
        }
        let mut taken = BTreeMap::new();
        for round in 0..self.edits.len() {
            self.edit(round);
            let report = self.take(|| {});
            taken.insert(report.snapshot.number, Model::read(&self.top));
        }
        self.verify(&taken);
    }
}

fn set_modified(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
}

/// The last even second.
fn rounded(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds / 2 * 2)
}

const ALL: [Edit; 4] = [Edit::InPlace, Edit::PutBack, Edit::RenameOver, Edit::Swap];

#[test]
fn on_a_file_system_that_counts_seconds_no_change_is_missed() {
    if !can_mount() || !have(&["mkfs.ext4"]) {
        return;
    }
    let dir = scratch();
    Disk::make(&dir.path().join("image"), 16 << 20, &["mkfs.ext4", "-q", "-F", "-I", "128"]);
    let Some(disk) = Disk::mount(&dir.path().join("image"), &dir.path().join("src")) else { return };
    let bench = Bench::new(&disk.at, &ALL, ChangeDetection::default());
    bench.change_all_the_time();
    bench.settle();
}

#[test]
fn on_fat_no_change_is_missed() {
    if !can_mount() || !have(&["mkfs.vfat"]) {
        return;
    }
    let dir = scratch();
    Disk::make(&dir.path().join("image"), 16 << 20, &["mkfs.vfat"]);
    let Some(disk) = Disk::mount(&dir.path().join("image"), &dir.path().join("src")) else { return };
    // It has no ctime of its own, so a change after which an old time is put back cannot be seen there.
    let bench = Bench::new(&disk.at, &[Edit::InPlace, Edit::Rounded], ChangeDetection::default());
    bench.change_all_the_time();
    bench.settle();
}

#[test]
fn on_ramfs_no_change_is_missed() {
    if !can_mount() {
        return;
    }
    let dir = scratch();
    let Some(disk) = Disk::ramfs(&dir.path().join("src")) else { return };
    let bench = Bench::new(&disk.at, &ALL, ChangeDetection::default());
    bench.change_all_the_time();
    bench.settle();
}

#[test]
fn by_times_of_two_seconds_alone_no_change_is_missed() {
    let dir = scratch();
    let by_time = ChangeDetection { rescan: false, ignore_ctime: true, ignore_inode: true };
    let bench = Bench::new(&dir.path().join("src"), &[Edit::Rounded], by_time);
    bench.change_all_the_time();
    bench.settle();
}
