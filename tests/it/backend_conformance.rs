//! What the contract of `Backend` promises, checked on every backend there is.

use std::io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, Other, StorageFull};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use backuptool::store::{Backend, Crash, Entry, EntryKind, LocalBackend, LockMode, MemoryBackend};
use backuptool::{Error, Result};

use crate::support::fault::{FaultBackend, Plan};

type Check = fn(&dyn Backend);

/// One line of the contract each.
const CHECKS: [(&str, Check); 43] = [
    ("create makes an empty file", create_makes_an_empty_file),
    ("create refuses an existing name", create_refuses_an_existing_name),
    ("create in a missing directory is not found", create_in_a_missing_directory),
    ("of racing creates one wins", racing_creates),
    ("appends are read back in order, before any sync", appends_in_order),
    ("read gives any part, and less where the file ends", read_parts),
    ("read past the end gives nothing", read_past_the_end),
    ("length is the number of bytes", length_counts_bytes),
    ("an open file gives any part, and less where the file ends", open_files_give_parts),
    ("an open file stays readable when its name is replaced or removed", open_files_stay),
    ("list is sorted and tells files from directories", list_sorted_with_kinds),
    ("list shows one directory and nothing below", list_one_level),
    ("list of an empty directory is empty", list_empty),
    ("create_dir makes a directory", create_dir_makes_a_directory),
    ("create_dir leaves an existing directory as it is", create_dir_twice),
    ("create_dir in a missing directory is not found", create_dir_without_parent),
    ("publish_new renames to a free name", publish_new_renames),
    ("publish_new leaves both files as they are if the name exists", publish_new_refuses),
    ("of racing publish_new one wins", racing_publish_new),
    ("replace renames over an existing file", replace_over_existing),
    ("replace renames to a free name", replace_to_a_free_name),
    ("replace is atomic for readers", replace_is_atomic),
    ("remove removes one file", remove_one_file),
    ("a removed name can be created again", create_after_remove),
    ("remove_dir removes an empty directory", remove_dir_removes),
    ("remove_dir refuses a directory that is not empty", remove_dir_not_empty),
    ("missing files and directories are not found", missing_is_not_found),
    ("errors name the full path", errors_name_the_path),
    ("a file can be synced", sync_a_file),
    ("directories can be synced", sync_directories),
    ("everything can be synced", sync_everything),
    ("a lock with create makes an empty file", lock_creates),
    ("a lock with create leaves an existing file as it is", lock_keeps_content),
    ("a lock without create wants a file", lock_without_create),
    ("shared locks go together", shared_locks),
    ("an exclusive lock goes alone", exclusive_lock),
    ("dropping a lock releases it", dropping_releases),
    ("locks of different files are independent", locks_are_per_file),
    ("a lock belongs to the file, not to its name", lock_of_a_removed_file),
    ("a lock is current as long as its name leads to the locked file", lock_is_current),
    ("a lock is not current when another file was renamed to its name", replaced_lock_is_not_current),
    ("of racing exclusive locks one wins", racing_locks),
    ("what is written to a lock is readable and replaces what was there", lock_write),
];

/// Runs all checks, each on a place of its own, and names all that fail.
fn conformance(make: impl Fn() -> Arc<dyn Backend>) {
    let fails = |check: Check| catch_unwind(AssertUnwindSafe(|| check(&*make()))).is_err();
    let failed: Vec<_> = CHECKS.iter().filter(|(_, check)| fails(*check)).map(|(name, _)| name).collect();
    assert!(failed.is_empty(), "not as the contract says: {failed:#?}");
}

/// Runs `test` with a function that makes empty local places.
fn with_local_places(test: impl FnOnce(&dyn Fn() -> Arc<dyn Backend>)) {
    let top = tempfile::tempdir().unwrap();
    let made = AtomicUsize::new(0);
    test(&|| {
        let dir = top.path().join(made.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&dir).unwrap();
        Arc::new(LocalBackend::open(&dir).unwrap())
    });
}

#[test]
fn memory_conforms() {
    conformance(|| Arc::new(MemoryBackend::new()));
    conformance(|| Arc::new(MemoryBackend::new().without_sync_all()));
}

#[test]
fn memory_conforms_after_a_crash() {
    conformance(|| {
        let memory = MemoryBackend::new();
        put(&memory, "lost", b"lost");
        Arc::new(memory.crash(Crash::LoseAll))
    });
}

#[test]
fn local_conforms() {
    with_local_places(|make| conformance(make));
}

#[test]
fn faults_that_never_fire_are_transparent() {
    conformance(|| Arc::new(FaultBackend::new(Arc::new(MemoryBackend::new()), Plan::None)));
    with_local_places(|make| conformance(|| Arc::new(FaultBackend::new(make(), Plan::None))));
}

fn put(backend: &dyn Backend, path: &str, content: &[u8]) {
    backend.create(path).unwrap().append(content).unwrap();
}

fn get(backend: &dyn Backend, path: &str) -> Vec<u8> {
    backend.read(path, 0, 1 << 20).unwrap()
}

fn exists(backend: &dyn Backend, path: &str) -> bool {
    match backend.length(path) {
        Ok(_) => true,
        Err(error) if error.is_not_found() => false,
        Err(error) => panic!("{error}"),
    }
}

fn names(backend: &dyn Backend, path: &str) -> Vec<String> {
    backend.list(path).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn error<T>(result: Result<T>) -> Error {
    result.err().expect("this must fail")
}

/// Lets 8 threads do the same at once; each is told its number. Returns what each one got.
fn race<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    const THREADS: usize = 8;
    let start = std::sync::Barrier::new(THREADS);
    thread::scope(|scope| {
        let racer = |number| {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(number)
            })
        };
        let racers: Vec<_> = (0..THREADS).map(racer).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    })
}

fn create_makes_an_empty_file(backend: &dyn Backend) {
    backend.create("a").unwrap();
    assert_eq!(backend.length("a").unwrap(), 0);
}

fn create_refuses_an_existing_name(backend: &dyn Backend) {
    put(backend, "a", b"old");
    backend.create_dir("d").unwrap();
    for name in ["a", "d"] {
        assert_eq!(error(backend.create(name)).io_kind(), Some(AlreadyExists), "{name}");
    }
    assert_eq!(get(backend, "a"), b"old");
}

fn create_in_a_missing_directory(backend: &dyn Backend) {
    assert!(error(backend.create("d/a")).is_not_found());
}

fn racing_creates(backend: &dyn Backend) {
    let made = race(|_| backend.create("a").is_ok());
    assert_eq!(made.iter().filter(|made| **made).count(), 1);
}

fn appends_in_order(backend: &dyn Backend) {
    let mut file = backend.create("a").unwrap();
    for part in [&b"one"[..], b"", b", two", b", three"] {
        file.append(part).unwrap();
    }
    assert_eq!(get(backend, "a"), b"one, two, three");
}

fn read_parts(backend: &dyn Backend) {
    put(backend, "a", b"0123456789");
    let parts: [(u64, usize, &[u8]); 5] =
        [(0, 10, b"0123456789"), (0, 3, b"012"), (4, 3, b"456"), (8, 100, b"89"), (5, 0, b"")];
    for (offset, len, expected) in parts {
        assert_eq!(backend.read("a", offset, len).unwrap(), expected, "{len} at {offset}");
    }
}

fn read_past_the_end(backend: &dyn Backend) {
    put(backend, "a", b"0123456789");
    for offset in [10, 11, 1 << 40, u64::MAX] {
        assert_eq!(backend.read("a", offset, 4).unwrap(), b"", "{offset}");
    }
}

fn open_files_give_parts(backend: &dyn Backend) {
    backend.create("a").unwrap().append(b"0123456789").unwrap();
    let file = backend.open("a").unwrap();
    assert_eq!(file.length(), 10);
    let mut buffer = [0; 4];
    assert_eq!(file.read_at(3, &mut buffer).unwrap(), 4);
    assert_eq!(&buffer, b"3456");
    assert_eq!(file.read_at(8, &mut buffer).unwrap(), 2);
    assert_eq!(&buffer[..2], b"89");
    assert_eq!(file.read_at(10, &mut buffer).unwrap(), 0);
    assert_eq!(file.read_at(u64::from(u32::MAX), &mut buffer).unwrap(), 0);
    assert!(backend.open("missing").unwrap_err().is_not_found());
}

fn open_files_stay(backend: &dyn Backend) {
    backend.create("a").unwrap().append(b"first").unwrap();
    backend.create("b").unwrap().append(b"second").unwrap();
    let (a, b) = (backend.open("a").unwrap(), backend.open("b").unwrap());
    backend.replace("b", "a").unwrap();
    backend.remove("a").unwrap();
    let mut buffer = [0; 8];
    for (file, content) in [(&a, &b"first"[..]), (&b, b"second")] {
        let count = file.read_at(0, &mut buffer).unwrap();
        assert_eq!(&buffer[..count], content);
    }
}

fn length_counts_bytes(backend: &dyn Backend) {
    put(backend, "a", &vec![7; 100_000]);
    assert_eq!(backend.length("a").unwrap(), 100_000);
}

fn list_sorted_with_kinds(backend: &dyn Backend) {
    for name in ["b", "a.json", "10", "9", "a-b", "a", "a_b"] {
        put(backend, name, b"");
    }
    backend.create_dir("ab").unwrap();
    backend.create_dir("0").unwrap();
    let expected = ["0/", "10", "9", "a", "a-b", "a.json", "a_b", "ab/", "b"].map(|name| {
        let kind = if name.ends_with('/') { EntryKind::Dir } else { EntryKind::File };
        Entry { name: name.trim_end_matches('/').to_owned(), kind }
    });
    assert_eq!(backend.list("").unwrap(), expected);
}

fn list_one_level(backend: &dyn Backend) {
    backend.create_dir("d").unwrap();
    backend.create_dir("d/e").unwrap();
    put(backend, "d/a", b"");
    put(backend, "d/e/b", b"");
    put(backend, "dd", b"");
    assert_eq!(names(backend, ""), ["d", "dd"]);
    assert_eq!(names(backend, "d"), ["a", "e"]);
    assert_eq!(names(backend, "d/e"), ["b"]);
}

fn list_empty(backend: &dyn Backend) {
    assert!(names(backend, "").is_empty());
    backend.create_dir("d").unwrap();
    assert!(names(backend, "d").is_empty());
}

fn create_dir_makes_a_directory(backend: &dyn Backend) {
    backend.create_dir("d").unwrap();
    put(backend, "d/a", b"x");
    assert_eq!(get(backend, "d/a"), b"x");
}

fn create_dir_twice(backend: &dyn Backend) {
    backend.create_dir("d").unwrap();
    put(backend, "d/a", b"x");
    backend.create_dir("d").unwrap();
    assert_eq!(names(backend, "d"), ["a"]);
}

fn create_dir_without_parent(backend: &dyn Backend) {
    assert!(error(backend.create_dir("d/e")).is_not_found());
}

fn publish_new_renames(backend: &dyn Backend) {
    backend.create_dir("d").unwrap();
    for to in ["b", "d/b"] {
        put(backend, "a", b"x");
        assert!(backend.publish_new("a", to).unwrap());
        assert!(!exists(backend, "a"));
        assert_eq!(get(backend, to), b"x");
    }
}

fn publish_new_refuses(backend: &dyn Backend) {
    backend.create_dir("d").unwrap();
    put(backend, "a", b"new");
    for to in ["b", "d/b"] {
        put(backend, to, b"old");
        assert!(!backend.publish_new("a", to).unwrap());
        assert_eq!((get(backend, "a"), get(backend, to)), (b"new".to_vec(), b"old".to_vec()));
    }
}

fn racing_publish_new(backend: &dyn Backend) {
    for round in 0..20 {
        let to = format!("to.{round}");
        let from = |number: usize| format!("from.{round}.{number}");
        for number in 0..8 {
            put(backend, &from(number), number.to_string().as_bytes());
        }
        let renamed = race(|number| backend.publish_new(&from(number), &to).unwrap());
        let winners: Vec<_> = (0..8).filter(|number| renamed[*number]).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(get(backend, &to), winners[0].to_string().as_bytes());
        for (number, renamed) in renamed.into_iter().enumerate() {
            assert_eq!(exists(backend, &from(number)), !renamed);
        }
    }
}

fn replace_over_existing(backend: &dyn Backend) {
    backend.create_dir("d").unwrap();
    for to in ["b", "d/b"] {
        put(backend, "a", b"new");
        put(backend, to, b"the old one");
        backend.replace("a", to).unwrap();
        assert!(!exists(backend, "a"));
        assert_eq!(get(backend, to), b"new");
    }
}

fn replace_to_a_free_name(backend: &dyn Backend) {
    put(backend, "a", b"new");
    backend.replace("a", "b").unwrap();
    assert!(!exists(backend, "a"));
    assert_eq!(get(backend, "b"), b"new");
}

fn replace_is_atomic(backend: &dyn Backend) {
    put(backend, "b", &[0; 1000]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1..100 {
                put(backend, "a", &[version; 1000]);
                backend.replace("a", "b").unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let content = get(backend, "b");
            assert_eq!(content, [content[0]; 1000]);
        }
    });
}

fn remove_one_file(backend: &dyn Backend) {
    for name in ["a", "b", "c"] {
        put(backend, name, b"");
    }
    backend.remove("b").unwrap();
    assert_eq!(names(backend, ""), ["a", "c"]);
}

fn create_after_remove(backend: &dyn Backend) {
    put(backend, "a", b"old");
    backend.remove("a").unwrap();
    put(backend, "a", b"new");
    assert_eq!(get(backend, "a"), b"new");
}

fn remove_dir_removes(backend: &dyn Backend) {
    backend.create_dir("d").unwrap();
    put(backend, "d/a", b"");
    backend.remove("d/a").unwrap();
    backend.remove_dir("d").unwrap();
    assert!(names(backend, "").is_empty());
}

fn remove_dir_not_empty(backend: &dyn Backend) {
    backend.create_dir("d").unwrap();
    put(backend, "d/a", b"");
    assert_eq!(error(backend.remove_dir("d")).io_kind(), Some(DirectoryNotEmpty));
    assert_eq!(names(backend, "d"), ["a"]);
}

fn missing_is_not_found(backend: &dyn Backend) {
    put(backend, "there", b"");
    for missing in ["a", "d/a"] {
        let errors = [
            ("length", error(backend.length(missing))),
            ("read", error(backend.read(missing, 0, 1))),
            ("list", error(backend.list(missing))),
            ("remove", error(backend.remove(missing))),
            ("remove_dir", error(backend.remove_dir(missing))),
            ("sync_dir", error(backend.sync_dir(missing))),
            ("publish_new from", error(backend.publish_new(missing, "free"))),
            ("replace from", error(backend.replace(missing, "there"))),
            ("try_lock", error(backend.try_lock(missing, LockMode::Shared, false))),
        ];
        for (operation, error) in errors {
            assert!(error.is_not_found(), "{operation} {missing}: {error}");
        }
    }
    assert!(error(backend.publish_new("there", "d/a")).is_not_found());
    assert!(error(backend.replace("there", "d/a")).is_not_found());
    assert!(error(backend.try_lock("d/lock", LockMode::Exclusive, true)).is_not_found());
    assert_eq!(names(backend, ""), ["there"]);
}

fn errors_name_the_path(backend: &dyn Backend) {
    put(backend, "there", b"");
    let path = "no-dir/no-file";
    let errors = [
        error(backend.create(path)),
        error(backend.create_dir(path)),
        error(backend.length(path)),
        error(backend.read(path, 0, 1)),
        error(backend.list(path)),
        error(backend.remove(path)),
        error(backend.remove_dir(path)),
        error(backend.sync_dir(path)),
        error(backend.publish_new("there", path)),
        error(backend.replace("there", path)),
        error(backend.try_lock(path, LockMode::Shared, false)),
        error(backend.try_lock(path, LockMode::Shared, true)),
    ];
    let full = backend.describe(path).display().to_string();
    for error in errors {
        assert!(error.to_string().contains(&full), "{full} is not in: {error}");
    }
    assert!(full.ends_with(path), "{full}");
}

fn sync_a_file(backend: &dyn Backend) {
    let mut file = backend.create("a").unwrap();
    file.append(b"x").unwrap();
    file.sync().unwrap();
    assert_eq!(get(backend, "a"), b"x");
}

fn sync_directories(backend: &dyn Backend) {
    backend.create_dir("d").unwrap();
    put(backend, "d/a", b"x");
    backend.sync_dir("d").unwrap();
    backend.sync_dir("").unwrap();
    assert_eq!(get(backend, "d/a"), b"x");
}

fn sync_everything(backend: &dyn Backend) {
    put(backend, "a", b"x");
    if backend.can_sync_all() {
        backend.sync_all().unwrap();
    }
    assert_eq!(get(backend, "a"), b"x");
}

fn lock_creates(backend: &dyn Backend) {
    assert!(backend.try_lock("lock", LockMode::Exclusive, true).unwrap().is_some());
    assert_eq!(backend.length("lock").unwrap(), 0);
}

fn lock_keeps_content(backend: &dyn Backend) {
    backend.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap().write(b"x").unwrap();
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        assert!(backend.try_lock("lock", mode, true).unwrap().is_some());
    }
    assert_eq!(get(backend, "lock"), b"x");
}

fn lock_without_create(backend: &dyn Backend) {
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        assert!(error(backend.try_lock("lock", mode, false)).is_not_found());
    }
    // A file that was created as data, and so is only readable, can be locked as well.
    put(backend, "lock", b"");
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        assert!(backend.try_lock("lock", mode, false).unwrap().is_some());
    }
}

fn shared_locks(backend: &dyn Backend) {
    let first = backend.try_lock("lock", LockMode::Shared, true).unwrap().unwrap();
    let second = backend.try_lock("lock", LockMode::Shared, false).unwrap().unwrap();
    assert!(backend.try_lock("lock", LockMode::Exclusive, false).unwrap().is_none());
    drop(first);
    assert!(backend.try_lock("lock", LockMode::Exclusive, false).unwrap().is_none());
    drop(second);
    assert!(backend.try_lock("lock", LockMode::Exclusive, false).unwrap().is_some());
}

fn exclusive_lock(backend: &dyn Backend) {
    let _held = backend.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        for create in [true, false] {
            assert!(backend.try_lock("lock", mode, create).unwrap().is_none(), "{mode:?}");
        }
    }
}

fn dropping_releases(backend: &dyn Backend) {
    let held = backend.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    drop(held);
    let held = backend.try_lock("lock", LockMode::Shared, false).unwrap().unwrap();
    drop(held);
    assert!(backend.try_lock("lock", LockMode::Exclusive, false).unwrap().is_some());
}

fn locks_are_per_file(backend: &dyn Backend) {
    let _held = backend.try_lock("a", LockMode::Exclusive, true).unwrap().unwrap();
    assert!(backend.try_lock("b", LockMode::Exclusive, true).unwrap().is_some());
}

fn lock_of_a_removed_file(backend: &dyn Backend) {
    let _old = backend.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    backend.remove("lock").unwrap();
    let _new = backend.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    assert!(backend.try_lock("lock", LockMode::Shared, false).unwrap().is_none());
}

fn lock_is_current(backend: &dyn Backend) {
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        let lock = backend.try_lock("lock", mode, true).unwrap().unwrap();
        assert!(lock.is_current().unwrap());
        backend.remove("lock").unwrap();
        assert!(!lock.is_current().unwrap());
        // A new file of the same name and content is another one.
        put(backend, "lock", b"");
        assert!(!lock.is_current().unwrap());
        drop(lock);
        let lock = backend.try_lock("lock", mode, false).unwrap().unwrap();
        assert!(lock.is_current().unwrap());
    }
}

fn replaced_lock_is_not_current(backend: &dyn Backend) {
    let mut lock = backend.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    lock.write(b"x").unwrap();
    assert!(lock.is_current().unwrap());
    put(backend, "other", b"x");
    backend.replace("other", "lock").unwrap();
    assert!(!lock.is_current().unwrap());
    // The lock of the file that has the name now is independent.
    let other = backend.try_lock("lock", LockMode::Exclusive, false).unwrap().unwrap();
    assert!(other.is_current().unwrap() && !lock.is_current().unwrap());
}

fn racing_locks(backend: &dyn Backend) {
    // All are held until the last racer has tried.
    let locks = race(|_| backend.try_lock("lock", LockMode::Exclusive, true).unwrap());
    assert_eq!(locks.iter().flatten().count(), 1);
}

fn lock_write(backend: &dyn Backend) {
    let mut lock = backend.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    for content in [&b"the first, long content"[..], b"second", b""] {
        lock.write(content).unwrap();
        assert_eq!(get(backend, "lock"), content);
    }
    lock.write(b"last").unwrap();
    drop(lock);
    assert_eq!(get(backend, "lock"), b"last");
}

#[test]
fn local_handles_lock_each_other_out() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (LocalBackend::open(dir.path()).unwrap(), LocalBackend::open(dir.path()).unwrap());
    let held = one.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    assert!(other.try_lock("lock", LockMode::Shared, true).unwrap().is_none());
    drop(held);
    assert!(other.try_lock("lock", LockMode::Exclusive, true).unwrap().is_some());
}

/// The repository stays the one that was opened, and its lock counts, whatever a directory above it is called.
#[test]
fn a_local_repository_may_be_moved_while_it_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    std::fs::create_dir_all(before.join("repo")).unwrap();
    let local = LocalBackend::open(&before.join("repo")).unwrap();
    let held = local.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    std::fs::rename(&before, &after).unwrap();
    assert!(held.is_current().unwrap());
    local.create_dir("tmp").unwrap();
    assert!(after.join("repo/tmp").is_dir());
    std::fs::remove_file(after.join("repo/lock")).unwrap();
    assert!(!held.is_current().unwrap());
}

#[test]
fn local_paths_are_below_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let local = LocalBackend::open(dir.path()).unwrap();
    assert_eq!(local.local_root(), Some(dir.path()));
    assert_eq!(local.describe("a/b"), dir.path().join("a/b"));
    assert_eq!(local.describe(""), dir.path());
    assert!(error(LocalBackend::open(&dir.path().join("missing"))).is_not_found());
}

#[cfg(unix)]
#[test]
fn local_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let local = LocalBackend::open(dir.path()).unwrap();
    local.create_dir("d").unwrap();
    put(&local, "d/staged", b"x");
    local.publish_new("d/staged", "d/published").unwrap();
    put(&local, "d/staged", b"x");
    drop(local.try_lock("lock", LockMode::Exclusive, true).unwrap());
    let mode = |path: &str| local.describe(path).metadata().unwrap().permissions().mode() & 0o7777;
    let modes = ["d", "d/staged", "d/published", "lock"].map(|path| format!("{path} {:o}", mode(path)));
    assert_eq!(modes, ["d 700", "d/staged 400", "d/published 400", "lock 600"]);
}

#[cfg(unix)]
#[test]
fn local_lists_what_is_neither_file_nor_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(".", dir.path().join("link")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap());
    let local = LocalBackend::open(dir.path()).unwrap();
    let other = |name: &str| Entry { name: name.to_owned(), kind: EntryKind::Other };
    assert_eq!(local.list("").unwrap(), [other("link"), other("socket")]);
}

/// Only here can a file system be relied on to take any bytes as a name.
#[cfg(target_os = "linux")]
#[test]
fn local_lists_names_that_are_not_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    for name in [&b"\xff"[..], b"a\xfez", b"new\nline", b" ", b"fine"] {
        std::fs::write(dir.path().join(OsStr::from_bytes(name)), b"").unwrap();
    }
    let local = LocalBackend::open(dir.path()).unwrap();
    assert_eq!(names(&local, ""), [" ", "a\u{fffd}z", "fine", "new\nline", "\u{fffd}"]);
}

#[test]
fn memory_is_nowhere_on_this_machine() {
    let memory = MemoryBackend::new();
    assert_eq!(memory.local_root(), None);
    assert_eq!(memory.describe("a/b"), Path::new("memory:/a/b"));
}

/// A small protocol of six operations.
fn protocol(backend: &dyn Backend) -> Result<()> {
    let mut file = backend.create("a")?;
    file.append(b"0123456789")?;
    file.sync()?;
    backend.publish_new("a", "b")?;
    backend.sync_dir("")?;
    backend.length("b").map(|_| ())
}

fn run(plan: Plan) -> (MemoryBackend, FaultBackend, Result<()>) {
    let memory = MemoryBackend::new();
    let faults = FaultBackend::failing_with(Arc::new(memory.clone()), plan, StorageFull);
    let result = protocol(&faults);
    (memory, faults, result)
}

#[test]
fn operations_are_counted_and_logged() {
    let (_, faults, result) = run(Plan::None);
    result.unwrap();
    assert!(!faults.fired());
    let log = ["1 create a", "2 append a, 10 bytes", "3 sync a", "4 publish_new a -> b", "5 sync_dir .", "6 length b"];
    assert_eq!(faults.log(), log);
    assert_eq!(faults.operations(), 6);
}

#[test]
fn each_operation_can_fail() {
    for n in 1..=6 {
        let (_, faults, result) = run(Plan::FailFrom(n));
        assert_eq!(error(result).io_kind(), Some(StorageFull));
        assert!(faults.fired());
        assert_eq!(faults.operations(), n);
        assert!(faults.log().last().unwrap().ends_with(" (made to fail)"));
        assert!(faults.list("").is_err());
    }
    assert!(!run(Plan::FailFrom(7)).1.fired());
}

#[test]
fn a_single_failure_leaves_the_rest_working() {
    let (memory, faults, result) = run(Plan::FailOnce(4));
    let message = error(result).to_string();
    assert!(message.contains("memory:/a") && message.contains("operation 4"), "{message}");
    assert_eq!(memory.paths(), ["a"]);
    assert!(faults.publish_new("a", "b").unwrap());
}

#[test]
fn a_torn_append_writes_half() {
    let (memory, faults, result) = run(Plan::TornFrom(2));
    assert_eq!(error(result).io_kind(), Some(StorageFull));
    assert_eq!(memory.contents("a").unwrap(), b"01234");
    assert!(faults.remove("a").is_err());

    let faults = FaultBackend::new(Arc::new(memory.clone()), Plan::TornFrom(2));
    let mut lock = faults.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    assert_eq!(error(lock.write(b"0123")).io_kind(), Some(Other));
    assert_eq!(memory.contents("lock").unwrap(), b"01");
    drop(lock);
    assert!(memory.try_lock("lock", LockMode::Exclusive, false).unwrap().is_some());
}
