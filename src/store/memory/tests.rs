//! What a crash may and may not do to the disk that is modelled.

use std::io::ErrorKind::InvalidInput;

use super::disk::Rng;
use super::*;

/// A place with some durable directories.
fn with_dirs() -> MemoryBackend {
    let memory = MemoryBackend::new();
    for dir in ["tmp", "objects", "snapshots"] {
        memory.create_dir(dir).unwrap();
    }
    memory.sync_all().unwrap();
    memory
}

fn put(memory: &MemoryBackend, path: &str, data: &[u8]) {
    let mut file = memory.create(path).unwrap();
    file.append(data).unwrap();
    file.sync().unwrap();
}

fn found(memory: &MemoryBackend, paths: &[&str]) -> Vec<bool> {
    paths.iter().map(|path| memory.length(path).is_ok()).collect()
}

/// The different outcomes of many random crashes.
fn outcomes<T: Ord>(memory: &MemoryBackend, look: impl Fn(&MemoryBackend) -> T) -> BTreeSet<T> {
    (0..300).map(|seed| look(&memory.crash(Crash::Random(seed)))).collect()
}

#[test]
fn names_and_content_are_lost_unless_synced() {
    let memory = with_dirs();
    put(&memory, "objects/a", b"data");
    assert!(memory.crash(Crash::LoseAll).paths().is_empty());
    assert_eq!(memory.crash(Crash::KeepNames).contents("objects/a").unwrap(), b"data");
    memory.sync_dir("objects").unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).contents("objects/a").unwrap(), b"data");
}

#[test]
fn a_synced_name_does_not_sync_the_content() {
    let memory = with_dirs();
    memory.create("objects/a").unwrap().append(b"data").unwrap();
    memory.sync_dir("objects").unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).contents("objects/a").unwrap(), b"");
    assert_eq!(memory.crash(Crash::KeepNames).contents("objects/a").unwrap(), b"");
    assert_eq!(memory.crash(Crash::KeepAll).contents("objects/a").unwrap(), b"data");
}

#[test]
fn content_that_is_synced_stays_and_the_rest_is_cut_anywhere() {
    let memory = with_dirs();
    let mut file = memory.create("objects/a").unwrap();
    file.append(b"ab").unwrap();
    file.sync().unwrap();
    file.append(b"cd").unwrap();
    memory.sync_dir("objects").unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).contents("objects/a").unwrap(), b"ab");
    let found = outcomes(&memory, |left| left.contents("objects/a").unwrap());
    assert_eq!(found, BTreeSet::from([b"ab".to_vec(), b"abc".to_vec(), b"abcd".to_vec()]));
}

#[test]
fn the_content_written_to_a_lock_is_not_durable() {
    let memory = with_dirs();
    memory.set_contents("lock", b"old".to_vec()).unwrap();
    let mut lock = memory.try_lock("lock", LockMode::Exclusive, false).unwrap().unwrap();
    lock.write(b"n").unwrap();
    assert_eq!(memory.contents("lock").unwrap(), b"n");
    assert_eq!(memory.crash(Crash::LoseAll).contents("lock").unwrap(), b"old");
    let found = outcomes(&memory, |left| left.contents("lock").unwrap());
    assert_eq!(found, BTreeSet::from([b"old".to_vec(), b"".to_vec(), b"n".to_vec()]));
    memory.sync_all().unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).contents("lock").unwrap(), b"n");
}

#[test]
fn sync_all_makes_everything_durable() {
    let memory = with_dirs();
    memory.create("tmp/a").unwrap().append(b"data").unwrap();
    memory.publish_new("tmp/a", "objects/a").unwrap();
    memory.sync_all().unwrap();
    let left = memory.crash(Crash::LoseAll);
    assert_eq!((left.paths(), left.total_bytes()), (vec!["objects/a".to_owned()], 4));
}

#[test]
fn sync_all_without_effect_makes_nothing_durable() {
    let memory = MemoryBackend::new().without_sync_all();
    put(&memory, "a", b"data");
    memory.sync_all().unwrap();
    assert!(!memory.can_sync_all() && !memory.crash(Crash::KeepAll).can_sync_all());
    assert!(memory.crash(Crash::LoseAll).paths().is_empty());
}

#[test]
fn a_synced_directory_does_not_sync_its_own_name() {
    let memory = with_dirs();
    memory.create_dir("objects/ab").unwrap();
    put(&memory, "objects/ab/c", b"data");
    memory.sync_dir("objects/ab").unwrap();
    assert!(memory.crash(Crash::LoseAll).list("objects/ab").unwrap_err().is_not_found());
    memory.sync_dir("objects").unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).paths(), ["objects/ab/c"]);
}

#[test]
fn a_file_survives_only_with_its_directories() {
    let memory = with_dirs();
    memory.create_dir("tmp/1").unwrap();
    put(&memory, "tmp/1/a", b"");
    let found = outcomes(&memory, |left| {
        let dirs = left.list("tmp").unwrap().len();
        (dirs, left.paths().len())
    });
    assert_eq!(found, BTreeSet::from([(0, 0), (1, 0), (1, 1)]));
}

#[test]
fn a_published_name_is_durable_without_the_staged_one() {
    let memory = with_dirs();
    put(&memory, "tmp/a", b"data");
    memory.publish_new("tmp/a", "objects/a").unwrap();
    memory.sync_dir("objects").unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).paths(), ["objects/a"]);
}

#[test]
fn a_rename_between_directories_never_vanishes_from_both() {
    let memory = with_dirs();
    put(&memory, "tmp/a", b"data");
    memory.sync_dir("tmp").unwrap();
    memory.publish_new("tmp/a", "objects/a").unwrap();
    let names = ["tmp/a", "objects/a"];
    let all = BTreeSet::from([vec![true, false], vec![true, true], vec![false, true]]);
    assert_eq!(outcomes(&memory, |left| found(left, &names)), all);

    let added = memory.crash(Crash::KeepAll);
    added.sync_dir("objects").unwrap();
    assert_eq!(found(&added.crash(Crash::LoseAll), &names), [true, true]);
    memory.sync_dir("tmp").unwrap();
    assert_eq!(found(&memory.crash(Crash::LoseAll), &names), [false, true]);
}

#[test]
fn a_file_renamed_into_a_new_directory_does_not_vanish_with_it() {
    let memory = with_dirs();
    put(&memory, "tmp/a", b"data");
    memory.sync_dir("tmp").unwrap();
    memory.create_dir("objects/ab").unwrap();
    memory.publish_new("tmp/a", "objects/ab/c").unwrap();
    let names = ["tmp/a", "objects/ab/c"];
    assert!(!outcomes(&memory, |left| found(left, &names)).contains(&vec![false, false]));
    memory.sync_dir("tmp").unwrap();
    assert_eq!(found(&memory.crash(Crash::LoseAll), &names), [false, true]);
}

#[test]
fn half_a_rename_leaves_two_names_of_one_file() {
    let memory = with_dirs();
    put(&memory, "tmp/a", b"data");
    memory.sync_dir("tmp").unwrap();
    memory.publish_new("tmp/a", "objects/a").unwrap();
    memory.sync_dir("objects").unwrap();
    let left = memory.crash(Crash::LoseAll);
    assert_eq!(left.total_bytes(), 4);
    left.replace("tmp/a", "objects/a").unwrap();
    assert_eq!(left.paths(), ["objects/a", "tmp/a"]);
}

#[test]
fn a_rename_inside_a_directory_is_one_step() {
    let memory = with_dirs();
    put(&memory, "snapshots/1.json", b"data");
    memory.sync_dir("snapshots").unwrap();
    memory.publish_new("snapshots/1.json", "snapshots/1.pruned").unwrap();
    let found = outcomes(&memory, |left| found(left, &["snapshots/1.json", "snapshots/1.pruned"]));
    assert_eq!(found, BTreeSet::from([vec![true, false], vec![false, true]]));
}

#[test]
fn a_replaced_name_is_old_or_new_and_never_gone() {
    for staged in ["tmp/a", "snapshots/a"] {
        let memory = with_dirs();
        put(&memory, "snapshots/1.json", b"old");
        memory.sync_all().unwrap();
        put(&memory, staged, b"new");
        memory.replace(staged, "snapshots/1.json").unwrap();
        let found = outcomes(&memory, |left| left.contents("snapshots/1.json").unwrap());
        assert_eq!(found, BTreeSet::from([b"old".to_vec(), b"new".to_vec()]));
        assert_eq!(memory.crash(Crash::LoseAll).contents("snapshots/1.json").unwrap(), b"old");
        memory.sync_dir("snapshots").unwrap();
        assert_eq!(memory.crash(Crash::LoseAll).contents("snapshots/1.json").unwrap(), b"new");
    }
}

#[test]
fn a_removed_name_comes_back_until_synced() {
    let memory = with_dirs();
    put(&memory, "objects/a", b"data");
    memory.sync_dir("objects").unwrap();
    memory.remove("objects/a").unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).contents("objects/a").unwrap(), b"data");
    assert_eq!(outcomes(&memory, |left| left.paths().len()), BTreeSet::from([0, 1]));
    memory.sync_dir("objects").unwrap();
    assert!(memory.crash(Crash::LoseAll).paths().is_empty());
}

#[test]
fn steps_survive_independently_of_their_order() {
    let memory = with_dirs();
    put(&memory, "objects/a", b"");
    put(&memory, "snapshots/1.json", b"");
    let found = outcomes(&memory, |left| found(left, &["objects/a", "snapshots/1.json"]));
    assert_eq!(found.len(), 4);
}

#[test]
fn a_step_whose_ground_is_lost_is_skipped() {
    let memory = with_dirs();
    put(&memory, "tmp/a", b"old");
    memory.sync_all().unwrap();
    memory.remove("tmp/a").unwrap();
    put(&memory, "tmp/a", b"new");
    memory.publish_new("tmp/a", "tmp/b").unwrap();
    let found = outcomes(&memory, |left| (left.contents("tmp/a"), left.contents("tmp/b")));
    let (old, new) = (Some(b"old".to_vec()), Some(b"new".to_vec()));
    assert_eq!(found, BTreeSet::from([(old, None), (None, None), (new.clone(), None), (None, new)]));
}

#[test]
fn a_removed_directory_goes_with_what_emptied_it() {
    let memory = with_dirs();
    memory.create_dir("tmp/1").unwrap();
    put(&memory, "tmp/1/a", b"data");
    memory.sync_all().unwrap();
    memory.publish_new("tmp/1/a", "objects/a").unwrap();
    memory.remove_dir("tmp/1").unwrap();
    let found = outcomes(&memory, |left| {
        (left.list("tmp").unwrap().len(), left.contents("tmp/1/a").is_some(), left.contents("objects/a").is_some())
    });
    let all = [(1, true, false), (1, true, true), (1, false, true), (0, false, true)];
    assert_eq!(found, BTreeSet::from(all));
    memory.sync_dir("tmp").unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).paths(), ["objects/a"]);
}

#[test]
fn a_directory_made_again_is_a_new_one() {
    let memory = with_dirs();
    memory.create_dir("tmp/1").unwrap();
    put(&memory, "tmp/1/old", b"");
    memory.sync_all().unwrap();
    memory.remove("tmp/1/old").unwrap();
    memory.remove_dir("tmp/1").unwrap();
    memory.create_dir("tmp/1").unwrap();
    put(&memory, "tmp/1/new", b"");
    memory.sync_dir("tmp/1").unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).paths(), ["tmp/1/old"]);
    memory.sync_dir("tmp").unwrap();
    assert_eq!(memory.crash(Crash::LoseAll).paths(), ["tmp/1/new"]);
}

#[test]
fn the_death_of_a_process_loses_its_locks_and_no_data_yet() {
    let memory = with_dirs();
    let held = memory.try_lock("lock", LockMode::Exclusive, true).unwrap().unwrap();
    memory.create("tmp/a").unwrap().append(b"data").unwrap();
    let next = memory.crash(Crash::KeepAll);
    assert!(next.try_lock("lock", LockMode::Exclusive, false).unwrap().is_some());
    assert!(memory.try_lock("lock", LockMode::Shared, false).unwrap().is_none());
    drop(held);
    assert_eq!(next.contents("tmp/a").unwrap(), b"data");
    assert!(next.crash(Crash::LoseAll).paths().is_empty());
}

#[test]
fn what_a_power_loss_left_is_durable() {
    let memory = with_dirs();
    memory.create("tmp/a").unwrap().append(b"data").unwrap();
    for seed in 0..50 {
        let left = memory.crash(Crash::Random(seed));
        let again = left.crash(Crash::LoseAll);
        assert_eq!((left.paths(), left.contents("tmp/a")), (again.paths(), again.contents("tmp/a")));
    }
}

#[test]
fn the_same_seed_gives_the_same_crash() {
    let memory = with_dirs();
    for n in 0..20 {
        memory.create(&format!("tmp/{n}")).unwrap().append(b"data").unwrap();
    }
    let state = |left: &MemoryBackend| {
        let paths = left.paths();
        paths.into_iter().map(|path| (left.contents(&path), path)).collect::<Vec<_>>()
    };
    let crash = |seed| state(&memory.crash(Crash::Random(seed)));
    assert_eq!(crash(7), crash(7));
    assert!(outcomes(&memory, state).len() > 250);
}

/// Renames files at random between directories that come and go, with syncs in between. A file that is never
/// removed or replaced must be found after every crash, whole, wherever it was on its way.
#[test]
fn no_crash_loses_a_file_that_is_only_renamed() {
    const FILES: usize = 5;
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let memory = with_dirs();
        for file in 0..FILES {
            put(&memory, &format!("tmp/{file}"), &[u8::try_from(file).unwrap()]);
        }
        memory.sync_all().unwrap();
        for _ in 0..30 {
            let dirs = ["tmp", "objects", "objects/a", "objects/a/b", "snapshots"];
            let dir = dirs[rng.below(dirs.len())];
            // Many of these fail, as they would on a disk: there is no such directory, or it is not empty.
            match rng.below(10) {
                0 => drop(memory.sync_dir(dir)),
                1 => drop(memory.create_dir("objects/a").and_then(|()| memory.create_dir("objects/a/b"))),
                2 => drop(memory.remove_dir(dir)),
                _ => {
                    let paths = memory.paths();
                    let from = &paths[rng.below(paths.len())];
                    drop(memory.publish_new(from, &format!("{dir}/{}", rng.below(FILES))));
                }
            }
            let crashes = [Crash::LoseAll, Crash::KeepNames, Crash::Random(rng.next()), Crash::Random(rng.next())];
            for how in crashes {
                let left = memory.crash(how);
                let found: BTreeSet<_> = left.paths().iter().filter_map(|path| left.contents(path)).collect();
                assert_eq!(found.len(), FILES, "seed {seed}, {how:?}: {:?}", left.paths());
            }
        }
        memory.sync_all().unwrap();
        assert_eq!(memory.crash(Crash::LoseAll).paths(), memory.paths());
    }
}

#[test]
fn damage_is_durable_at_once() {
    let memory = with_dirs();
    put(&memory, "tmp/a", b"data");
    memory.publish_new("tmp/a", "objects/a").unwrap();
    memory.set_contents("objects/a", b"dat".to_vec()).unwrap();
    memory.set_contents("new/dir/Odd Name", b"x".to_vec()).unwrap();
    let left = memory.crash(Crash::LoseAll);
    assert_eq!(left.paths(), ["new/dir/Odd Name", "objects/a"]);
    assert_eq!(left.contents("objects/a").unwrap(), b"dat");
}

#[test]
fn names_that_some_file_system_cannot_hold_are_refused() {
    let memory = with_dirs();
    for name in ["tmp/A", "tmp/a:b", "tmp/..", "tmp/é", "tmp/", ""] {
        assert_eq!(memory.create(name).err().unwrap().io_kind(), Some(InvalidInput), "{name}");
    }
    put(&memory, "README", b"");
}

#[test]
fn a_shared_lock_does_not_write() {
    let memory = with_dirs();
    let mut lock = memory.try_lock("lock", LockMode::Shared, true).unwrap().unwrap();
    assert!(lock.write(b"x").is_err());
    assert_eq!(memory.contents("lock").unwrap(), b"");
}
