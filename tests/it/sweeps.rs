//! Every way to stop half-way: each operation on the storage fails in turn, and the power is lost after it.
//! (`pack_sweeps.rs` does the same for packs.) And what must hold where two processes meet, or files are damaged.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use backuptool::Error;
use backuptool::error::ObjectProblem;
use backuptool::object::{Content, EntryKind, HashAlgorithm, Name, ObjectId, TreeId};
use backuptool::ops::check::Leftovers;
use backuptool::ops::prune::{self, PruneOptions};
use backuptool::repo::{SharedRepository, WriterOptions};
use backuptool::store::batch::{FEW, SyncMethod};
use backuptool::store::{Backend, Crash, LocalBackend, MemoryBackend, codec, layout, loose};

use crate::support::fault::{FaultBackend, Plan};
use crate::support::model::{Model, Source, noise};
use crate::support::repos::{check, init, newer, open, prune, restore, restored, sealed, session, take};
use crate::support::sweep::{Cases, Expect, Sweep, World, fingerprint};

/// A bit of everything: an empty file and directory, links, equal files, a file of several chunks.
fn small() -> Model {
    Model::default()
        .file("a", *b"hello")
        .file("empty", *b"")
        .file("dir/again", *b"hello")
        .file("dir/deeper/c", *b"below")
        .file("large", noise(1, 200_000))
        .dir("hollow")
        .link("link", "nowhere")
}

/// Small trees that share most of their objects.
fn versions() -> [Source; 4] {
    let changed = |seed: u64| noise(seed, 300);
    [
        Source::new(small()),
        Source::new(small().file("a", changed(2)).file("new", *b"new")),
        Source::new(small().without("dir").file("a", changed(3)).file("other/new", *b"new")),
        Source::new(Model::default().file("other/new", *b"new").file("own", changed(4))),
    ]
}

/// More new objects than are synced one by one.
fn many() -> Source {
    let files = u64::try_from(FEW).unwrap() + 2;
    Source::new((0..files).fold(Model::default(), |model, n| model.file(&format!("file{n}"), noise(n + 100, 40))))
}

fn sweep_snapshot(name: &str, world: &World, source: &Source, sync: SyncMethod, seeds: u64) -> Cases {
    let operation = |faults: FaultBackend| take(faults, source.path(), sync).map(|_| ());
    Sweep::new(source, seeds).run(name, &world.copy(), operation, |done| world.expect_next(source, done))
}

fn log_of(world: &World, source: &Source, sync: SyncMethod) -> Vec<String> {
    let faults = FaultBackend::new(Arc::new(world.copy()), Plan::None);
    take(faults.clone(), source.path(), sync).unwrap();
    faults.log()
}

#[test]
fn a_small_snapshot_can_stop_anywhere() {
    let [first, second, ..] = versions();
    for (name, memory, sync) in [
        ("small, auto", MemoryBackend::new(), SyncMethod::Auto),
        ("small, each", MemoryBackend::new(), SyncMethod::Each),
        ("small, no syncfs", MemoryBackend::new().without_sync_all(), SyncMethod::Auto),
    ] {
        let world = World::new(memory).with(&[&first]);
        assert!(!log_of(&world, &second, sync).iter().any(|step| step.contains("sync_all")));
        let cases = sweep_snapshot(name, &world, &second, sync, 6);
        assert!(cases.run >= 1600, "{cases:?}");
    }
}

#[test]
fn a_first_snapshot_can_stop_anywhere() {
    let [first, ..] = versions();
    let world = World::new(MemoryBackend::new());
    let cases = sweep_snapshot("first", &world, &first, SyncMethod::Auto, 6);
    assert!(cases.run >= 2000, "{cases:?}");
}

#[test]
fn a_large_snapshot_can_stop_anywhere() {
    let [first, ..] = versions();
    let many = many();
    let world = World::new(MemoryBackend::new()).with(&[&first]);
    let log = log_of(&world, &many, SyncMethod::Auto);
    assert_eq!(log.iter().filter(|step| step.contains(" sync_all ")).count(), 2);
    let cases = sweep_snapshot("large, auto", &world, &many, SyncMethod::Auto, 2);
    assert!(cases.run >= 5000, "{cases:?}");
}

#[test]
fn a_large_snapshot_that_syncs_each_file_can_stop_anywhere() {
    let many = many();
    let world = World::new(MemoryBackend::new().without_sync_all());
    let cases = sweep_snapshot("large, no syncfs", &world, &many, SyncMethod::Auto, 1);
    assert!(cases.run >= 5500, "{cases:?}");
}

#[test]
fn a_prune_can_stop_anywhere() {
    let sources = versions();
    let [first, second, third, fourth] = &sources;
    for (name, numbers) in [
        ("prune 2", &[2][..]),
        ("prune 1 and 3", &[1, 3]),
        ("prune 5, the last", &[5]),
        ("prune all", &[1, 2, 3, 4, 5]),
    ] {
        let world = World::new(MemoryBackend::new()).with(&[first, second, third, fourth, second]);
        let operation = |faults: FaultBackend| prune(faults, numbers).map(|_| ());
        let cases =
            Sweep::new(third, 4).run(name, &world.copy(), operation, |done| world.expect_without(numbers, done));
        assert!(cases.run >= 1000, "{cases:?}");
    }
}

#[test]
fn an_init_can_stop_anywhere() {
    let [first, ..] = versions();
    let mut sum = Cases::default();
    let base = MemoryBackend::new();
    let sweep = Sweep::new(&first, 12);
    let counted = FaultBackend::new(Arc::new(base.crash(Crash::KeepAll)), Plan::None);
    init(counted.clone()).unwrap();
    for (n, step) in (1..).zip(counted.log()) {
        for plan in [Plan::FailOnce(n), Plan::FailFrom(n), Plan::TornFrom(n)] {
            for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
                let memory = base.crash(Crash::KeepAll);
                let faults = FaultBackend::failing_with(Arc::new(memory.clone()), plan, kind);
                let done = init(faults.clone()).ok().map(|repo| repo.config().id.clone());
                assert!(faults.fired(), "{plan:?} of {step} never came");
                for crash in sweep.crashes(n, kind) {
                    let case = format!("init: {plan:?} ({kind}) of {step}, {crash:?}, done: {done:?}");
                    let after = memory.crash(crash);
                    sum.run += 1;
                    verify_init(&case, &after, done.as_deref());
                    // The second init has made another random id, so every state is a new one.
                    if matches!(crash, Crash::KeepAll | Crash::LoseAll) {
                        sum.distinct += 1;
                        sweep.is_new(&after, done.is_some());
                        let none = Expect { must: BTreeMap::new(), may: BTreeMap::new(), highest: 0 };
                        sweep.verify(&case, &after, &none);
                    }
                }
            }
        }
    }
    sum.operations = counted.operations();
    println!("init: {sum:?}");
    assert!(sum.run >= 1700, "{sum:?}");
}

/// After an init that was stopped there is a whole repository, or the next init makes one.
fn verify_init(case: &str, memory: &MemoryBackend, done: Option<&str>) {
    let is_there = memory.contents(layout::CONFIG).is_some();
    assert!(is_there || done.is_none(), "{case}: the repository is gone");
    if !is_there {
        assert!(matches!(open(memory.clone()), Err(Error::NoRepository { .. })), "{case}");
        init(memory.clone()).unwrap_or_else(|error| panic!("{case}, then init: {error}"));
    }
    // The configuration comes last, so where it is everything is.
    let readme = memory.contents(layout::README).unwrap_or_else(|| panic!("{case}: no README"));
    assert!(readme.starts_with(b"This directory is a backuptool repository.\n"), "{case}");
    for dir in layout::DIRS {
        memory.list(dir).unwrap_or_else(|error| panic!("{case}: {error}"));
    }
    let repo = open(memory.clone()).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(done.is_none_or(|id| id == repo.config().id), "{case}: it is another repository");
    assert!(matches!(init(memory.clone()), Err(Error::Refused { .. })), "{case}");
}

/// Run A has renamed objects and not synced the directories; run B finds them there and relies on them.
#[test]
fn what_another_run_renamed_and_did_not_sync_is_synced_before_it_is_relied_on() {
    let [first, second, ..] = versions();
    let mut cases = 0;
    for source in [second, many()] {
        let world = World::new(MemoryBackend::new()).with(&[&first]);
        let log = log_of(&world, &source, SyncMethod::Auto);
        let renamed = |step: &String| step.contains(" replace ") && step.contains("-> objects/");
        let first_rename = log.iter().position(renamed).unwrap();
        let last_rename = log.iter().rposition(renamed).unwrap();
        // From the first rename up to the first sync after the last one.
        for n in first_rename + 2..=last_rename + 2 {
            let memory = world.copy();
            let faults = FaultBackend::new(Arc::new(memory.clone()), Plan::FailFrom(n as u64));
            assert!(take(faults.clone(), source.path(), SyncMethod::Auto).is_err());
            assert!(faults.fired());
            let report = take(memory.clone(), source.path(), SyncMethod::Auto).unwrap();
            let reused = u64::try_from(n - first_rename - 1).unwrap();
            let objects = u64::try_from(log.iter().filter(|step| renamed(step)).count()).unwrap();
            assert_eq!(report.snapshot.added.objects, objects - reused, "{}", log[n - 1]);
            let after = memory.crash(Crash::LoseAll);
            let expect = Expect { must: [(2, source.model.clone())].into(), may: world.taken.clone(), highest: 2 };
            Sweep::verify_restores(&log[n - 1], &after, &expect, n == last_rename + 2);
            cases += 1;
        }
    }
    println!("two runs: {cases} cases");
    assert!(cases >= FEW);
}

#[test]
fn a_snapshot_taken_after_the_plan_keeps_what_the_plan_calls_dead() {
    let [first, second, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first, &second]);
    let repo = open(world.memory.clone()).unwrap();
    let plan = prune::plan(&repo, &PruneOptions::numbers(&[1])).unwrap();
    assert!(!plan.dead.is_empty());
    assert_eq!(take(world.memory.clone(), first.path(), SyncMethod::Auto).unwrap().snapshot.added.objects, 0);
    let report = prune::execute(repo, plan, WriterOptions::default(), &session()).unwrap();
    assert_eq!((report.removed, report.objects, report.bytes), (vec![1], 0, 0));
    let must = [(2, second.model.clone()), (3, first.model.clone())].into();
    Sweep::verify_written(&world.memory, &Expect { must, may: BTreeMap::new(), highest: 3 });
    assert!(check(world.memory).unwrap().is_clean());
}

#[test]
fn two_prunes_of_the_same_snapshot_do_no_harm() {
    let [first, second, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first, &second]);
    let repo = open(world.memory.clone()).unwrap();
    let plan = prune::plan(&repo, &PruneOptions::numbers(&[1])).unwrap();
    let other = open(world.memory.clone()).unwrap();
    let other_plan = prune::plan(&other, &PruneOptions::numbers(&[1])).unwrap();
    drop(other);
    assert_eq!(prune::execute(repo, plan, WriterOptions::default(), &session()).unwrap().removed, [1]);
    // The number is free of objects now, and the same content comes again.
    assert_eq!(take(world.memory.clone(), first.path(), SyncMethod::Auto).unwrap().snapshot.number, 3);
    let other = open(world.memory.clone()).unwrap();
    assert_eq!(prune::execute(other, other_plan, WriterOptions::default(), &session()).unwrap().removed, [0; 0]);
    let must = [(2, second.model.clone()), (3, first.model.clone())].into();
    Sweep::verify_written(&world.memory, &Expect { must, may: BTreeMap::new(), highest: 3 });
}

fn entry(repo: &SharedRepository, top: TreeId, name: &str) -> EntryKind {
    repo.find(top, &Name::new(name.as_bytes()).unwrap()).unwrap().unwrap()
}

#[test]
fn an_object_that_is_a_blob_and_a_tree_is_marked_as_both() {
    let model = Model::default().file("m/only/here", *b"a content of its own").file("large", noise(7, 300_000));
    let plain = Source::new(model.clone());
    let world = World::new(MemoryBackend::new()).with(&[&plain]);
    let (tree, list) = {
        let repo = open(world.memory.clone()).unwrap();
        let top = repo.snapshot(1).unwrap().tree;
        let EntryKind::Dir { tree, .. } = entry(&repo, top, "m") else { panic!() };
        let EntryKind::File { content: Content::Chunks { list, .. }, .. } = entry(&repo, top, "large") else {
            panic!()
        };
        (repo.read_object(tree.object()).unwrap(), repo.read_object(list.object()).unwrap())
    };
    // The same bytes as files, met before and after they are met as what they are.
    let mut both = model;
    for (name, content) in [("a", &tree), ("z", &tree), ("b", &list), ("y", &list)] {
        both = both.file(name, content.to_vec());
    }
    let both = Source::new(both);
    let world = world.with(&[&both]);
    prune(world.memory.clone(), &[1]).unwrap();
    assert_eq!(restored(world.memory.clone(), 2).unwrap(), both.model);
    assert!(check(world.memory).unwrap().is_clean());
}

fn objects(memory: &MemoryBackend) -> Vec<ObjectId> {
    loose::list(memory).unwrap().objects
}

/// From a whole frame to a damaged one.
type Damage = fn(Vec<u8>) -> Vec<u8>;

#[test]
fn a_damaged_object_that_is_met_again_is_stored_again() {
    let [first, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first]);
    let stored = objects(&world.memory);
    assert!(stored.len() > 8);
    let damages: [(&str, Damage); 5] = [
        ("a flipped bit", |mut frame| {
            let middle = frame.len() / 2;
            frame[middle] ^= 4;
            frame
        }),
        ("no byte", |_| Vec::new()),
        ("a lost end", |frame| frame[..frame.len() - 1].to_vec()),
        ("another object", |_| codec::compress(b"something else").unwrap()),
        ("zeros", |frame| vec![0; frame.len()]),
    ];
    for (what, damage) in damages {
        for id in &stored {
            let memory = world.copy();
            let path = layout::object_path(*id);
            memory.set_contents(&path, damage(memory.contents(&path).unwrap())).unwrap();
            let report = check(memory.clone()).unwrap();
            assert_eq!(report.damaged.keys().collect::<Vec<_>>(), [id], "{what}");
            assert!(!report.damaged[id].files.is_empty() && report.whole.is_empty(), "{what} in {id}");
            let report = take(memory.clone(), first.path(), SyncMethod::Auto).unwrap();
            assert_eq!((report.replaced, report.snapshot.added.objects), (1, 1), "{what} in {id}");
            let after = memory.crash(Crash::LoseAll);
            assert!(check(after.clone()).unwrap().is_clean(), "{what} in {id}");
            assert_eq!(restored(after, 1).unwrap(), first.model, "{what} in {id}");
        }
    }
}

/// What stands between a new snapshot's objects and a file that an ill-behaved disk left under the name of one.
#[test]
fn an_empty_file_is_never_taken_for_an_object() {
    let [first, second, ..] = versions();
    let whole = World::new(MemoryBackend::new()).with(&[&second]);
    let world = World::new(MemoryBackend::new()).with(&[&first]);
    let new: Vec<_> = objects(&whole.memory);
    for id in &new {
        world.memory.set_contents(&layout::object_path(*id), Vec::new()).unwrap();
    }
    let report = take(world.memory.clone(), second.path(), SyncMethod::Auto).unwrap();
    assert_eq!(report.replaced, new.len() as u64);
    assert_eq!(restored(world.memory.clone(), 2).unwrap(), second.model);
    let report = check(world.memory).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

/// What the kernel says of a bad sector, and of a file system whose checksums do not match.
const BROKEN_MEDIUM: [rustix::io::Errno; 2] = [rustix::io::Errno::IO, rustix::io::Errno::BADMSG];

/// A place in which one file cannot be read.
fn unreadable(memory: &MemoryBackend, path: &str, error: rustix::io::Errno) -> FaultBackend {
    let bad = path.to_string();
    FaultBackend::hooked(memory.clone(), move |operation, path| match (operation, path) {
        ("read", path) if path == bad => Err(error.into()),
        _ => Ok(()),
    })
}

#[test]
fn an_object_on_a_bad_sector_is_damage_and_is_stored_again() {
    let [first, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first]);
    for id in objects(&world.memory) {
        for error in BROKEN_MEDIUM {
            let memory = world.copy();
            let path = layout::object_path(id);
            memory.set_contents(&path, b"what the disk does not give back".to_vec()).unwrap();
            // The check goes on, and names it with what it concerns.
            let report = check(unreadable(&memory, &path, error)).unwrap();
            assert_eq!(report.damaged.keys().collect::<Vec<_>>(), [&id], "{error}");
            assert!(!report.damaged[&id].files.is_empty() && report.whole.is_empty(), "{report:?}");
            let report = take(unreadable(&memory, &path, error), first.path(), SyncMethod::Auto).unwrap();
            assert_eq!((report.replaced, report.snapshot.added.objects), (1, 1), "{error} of {id}");
            let after = memory.crash(Crash::LoseAll);
            assert!(check(after.clone()).unwrap().is_clean(), "{error} of {id}");
            assert_eq!(restored(after, 2).unwrap(), first.model);
        }
        // What only this user may not read is not broken: nothing is put in its place. (A snapshot that knows what the last
        // one saw does not ask for each tree.)
        let memory = world.copy();
        for cache in memory.list(layout::CACHE).unwrap() {
            memory.remove(&format!("{}/{}", layout::CACHE, cache.name)).unwrap();
        }
        let before = fingerprint(&memory);
        let closed = unreadable(&memory, &layout::object_path(id), rustix::io::Errno::ACCESS);
        let error = take(closed.clone(), first.path(), SyncMethod::Auto).unwrap_err();
        assert_eq!(error.io_kind(), Some(ErrorKind::PermissionDenied), "{error}");
        assert_eq!(fingerprint(&memory), before);
        assert_eq!(check(closed).unwrap().damaged.keys().collect::<Vec<_>>(), [&id]);
    }
}

/// What is in a shard that cannot be listed is not known: check says so and goes on, nothing is added or removed.
#[test]
fn a_shard_that_cannot_be_listed_is_damage() {
    let [first, second, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first, &second]);
    let id = objects(&world.memory)[0];
    let shard = layout::shard_path(id.as_bytes()[0]);
    let closed = FaultBackend::hooked(world.memory.clone(), move |operation, path| match (operation, path) {
        ("list", path) if path == shard => Err(rustix::io::Errno::IO.into()),
        _ => Ok(()),
    });
    let report = check(closed.clone()).unwrap();
    assert!(!report.is_clean() && report.unlistable.len() == 1 && report.damaged.contains_key(&id), "{report:?}");
    let before = fingerprint(&world.memory);
    assert!(take(closed.clone(), first.path(), SyncMethod::Auto).is_err());
    assert!(prune(closed, &[1]).is_err());
    assert_eq!(fingerprint(&world.memory), before);
}

#[test]
fn an_object_that_cannot_be_removed_does_not_keep_the_others() {
    let [first, .., second] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first, &second]);
    let dead: Vec<_> = prune::plan(&open(world.memory.clone()).unwrap(), &PruneOptions::numbers(&[1])).unwrap().dead;
    assert!(dead.len() > 3, "{dead:?}");
    for (id, _) in &dead {
        let memory = world.copy();
        let stays = layout::object_path(*id);
        let stuck = FaultBackend::hooked(memory.clone(), move |operation, path| match (operation, path) {
            ("remove", path) if path == stays => Err(rustix::io::Errno::PERM.into()),
            _ => Ok(()),
        });
        let error = prune(stuck, &[1]).unwrap_err().to_string();
        for text in [&layout::object_path(*id), "the snapshots are removed", "run the same prune again"] {
            assert!(error.contains(text), "{error}");
        }
        let left = objects(&memory);
        let still: Vec<_> = dead.iter().map(|(id, _)| id).filter(|id| left.contains(id)).collect();
        assert_eq!(still, [id]);
        assert_eq!(memory.list(layout::TMP).unwrap(), []);
        let report = check(memory.clone()).unwrap();
        assert!(report.is_clean() && report.whole == [2] && report.leftovers.unneeded == 1, "{report:?}");
        // The same again, when it is mended.
        let report = prune(memory.clone(), &[1]).unwrap();
        assert_eq!((report.removed, report.objects), (vec![], 1));
        assert_eq!(check(memory.clone()).unwrap().leftovers, Leftovers::default());
        assert_eq!(restored(memory, 2).unwrap(), second.model);
    }
}

/// Another copy of the repository was copied over this one: whoever comes now locks another file.
#[test]
fn a_lock_whose_file_was_replaced_is_not_relied_on() {
    fn replace_lock(backend: &dyn Backend) {
        backend.remove(layout::LOCK).unwrap();
        backend.create(layout::LOCK).unwrap();
    }
    fn try_all<B: Backend + Clone + 'static>(backend: &B, names: impl Fn() -> Vec<String>) {
        let [first, second, ..] = versions();
        for source in [&first, &second] {
            take(backend.clone(), source.path(), SyncMethod::Auto).unwrap();
        }
        let refs = || backend.list(layout::SNAPSHOTS).unwrap();
        let (before, all) = (refs(), names());
        let replaced_at = |moment: (&'static str, &'static str)| {
            let below = backend.clone();
            FaultBackend::hooked(backend.clone(), move |operation, path| {
                if (operation, path) == moment {
                    replace_lock(&below);
                }
                Ok(())
            })
        };
        let last = || replaced_at(("is_current", layout::LOCK));
        for error in [
            take(last(), first.path(), SyncMethod::Auto).unwrap_err(),
            take(replaced_at(("list", layout::OBJECTS)), first.path(), SyncMethod::Auto).unwrap_err(),
            prune(last(), &[1]).unwrap_err(),
            prune(replaced_at(("list", layout::SNAPSHOTS)), &[1]).unwrap_err(),
        ] {
            assert!(matches!(&error, Error::Refused { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("rely on the lock") && text.contains("was replaced while it was locked"), "{text}");
            assert_eq!(refs(), before);
        }
        assert_eq!(names(), all);
        // With the file that is there now everything goes on.
        assert_eq!(take(backend.clone(), first.path(), SyncMethod::Auto).unwrap().snapshot.number, 3);
        assert_eq!(prune(backend.clone(), &[1]).unwrap().removed, [1]);
        assert!(check(backend.clone()).unwrap().is_clean());
    }
    let memory = MemoryBackend::new();
    init(memory.clone()).unwrap();
    try_all(&memory, || memory.paths());

    let dir = tempfile::tempdir().unwrap();
    let local = FaultBackend::new(Arc::new(LocalBackend::open(dir.path()).unwrap()), Plan::None);
    init(local.clone()).unwrap();
    let names = || {
        let files = walkdir::WalkDir::new(dir.path()).sort_by_file_name().into_iter();
        files.map(|entry| entry.unwrap().path().display().to_string()).collect()
    };
    try_all(&local, names);
}

/// The trees and lists, and the blobs, that a snapshot needs and no object that another one needs.
fn own_objects(memory: &MemoryBackend, number: u64) -> (Vec<ObjectId>, Vec<ObjectId>) {
    let repo = open(memory.clone()).unwrap();
    let dead = prune::plan(&repo, &PruneOptions::numbers(&[number])).unwrap().dead;
    dead.into_iter().map(|(id, _)| id).partition(|id| repo.read_tree(TreeId(*id)).is_ok())
}

#[test]
fn a_prune_that_cannot_know_what_is_needed_changes_nothing() {
    let [first, second, third, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first, &second, &third]);
    let (trees, _) = own_objects(&world.memory, 2);
    assert!(!trees.is_empty());
    for id in trees {
        for damaged in [true, false] {
            let memory = world.copy();
            let path = layout::object_path(id);
            if damaged {
                memory.set_contents(&path, codec::compress(b"no tree").unwrap()).unwrap();
            } else {
                memory.remove(&path).unwrap();
            }
            let before = fingerprint(&memory);
            let error = prune(memory.clone(), &[1]).unwrap_err();
            assert!(matches!(error, Error::Refused { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("snapshot 2") && text.contains(&id.to_hex()), "{text}");
            assert_eq!(fingerprint(&memory), before);
            // The snapshot with the damage can go.
            prune(memory.clone(), &[2]).unwrap();
            assert_eq!(restored(memory.clone(), 1).unwrap(), first.model);
            assert_eq!(restored(memory.clone(), 3).unwrap(), third.model);
            assert!(check(memory).unwrap().is_clean());
        }
    }
}

#[test]
fn a_prune_refuses_when_a_snapshot_came_after_the_plan_that_it_cannot_read() {
    let [first, second, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first]);
    let repo = open(world.memory.clone()).unwrap();
    let plan = prune::plan(&repo, &PruneOptions::numbers(&[1])).unwrap();
    let report = take(world.memory.clone(), second.path(), SyncMethod::Auto).unwrap();
    world.memory.set_contents(&layout::object_path(report.snapshot.tree.object()), Vec::new()).unwrap();
    let before = fingerprint(&world.memory);
    let error = prune::execute(repo, plan, WriterOptions::default(), &session()).unwrap_err();
    assert!(error.to_string().contains("what snapshot 2 needs, which is to stay"), "{error}");
    assert_eq!(fingerprint(&world.memory), before);
}

#[test]
fn a_missing_blob_is_reported_and_does_not_hinder_a_prune() {
    let [first, second, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first, &second]);
    let blob = HashAlgorithm::Blake3.hash(b"new");
    world.memory.remove(&layout::object_path(blob)).unwrap();
    let report = prune(world.memory.clone(), &[1]).unwrap();
    assert_eq!((report.removed, report.missing), (vec![1], vec![blob]));
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("output");
    let report = restore(world.memory.clone(), 2, &output).unwrap();
    let [(path, error)] = &report.failures[..] else { panic!("{report:?}") };
    assert_eq!(path, &output.join("new"));
    assert!(matches!(error, Error::Object { id, problem: ObjectProblem::Missing } if *id == blob), "{error}");
    assert_eq!(Model::read(&output), second.model.clone().without("new"));
    let report = check(world.memory).unwrap();
    assert_eq!(report.damaged.keys().collect::<Vec<_>>(), [&blob]);
    assert_eq!(report.damaged[&blob].files, [(b"new".to_vec(), vec![2])].into());
}

/// One alone could not be removed: the other one stays, and what it needs is not known.
#[test]
fn snapshots_with_damaged_refs_are_named_together_and_removed_together() {
    let [first, second, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first, &second, &first, &second]);
    for number in [2, 3] {
        world.memory.set_contents(&format!("snapshots/{number}.json"), Vec::new()).unwrap();
    }
    for (named, advised) in [(&[1][..], "--snapshot=1-3`"), (&[2], "--snapshot=2-3`"), (&[4], "--snapshot=2-4`")] {
        let error = prune(world.memory.clone(), named).unwrap_err().to_string();
        assert!(error.contains(advised), "{error}");
    }
    assert_eq!(prune(world.memory.clone(), &[2, 3]).unwrap().removed, [2, 3]);
    assert_eq!(restored(world.memory.clone(), 4).unwrap(), second.model);
    assert!(check(world.memory).unwrap().is_clean());
}

#[test]
fn a_snapshot_with_a_damaged_ref_can_be_removed_and_hinders_the_removal_of_others() {
    let [first, second, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first, &second]);
    let mut damaged = world.memory.contents("snapshots/2.json").unwrap();
    damaged[100] ^= 1;
    for content in [damaged, Vec::new(), world.memory.contents("snapshots/1.json").unwrap()] {
        let memory = world.copy();
        memory.set_contents("snapshots/2.json", content).unwrap();
        let report = check(memory.clone()).unwrap();
        assert!(!report.is_clean() && report.unreadable[0].0 == 2, "{report:?}");
        assert!(restore(memory.clone(), 2, tempfile::tempdir().unwrap().path()).is_err());
        let before = fingerprint(&memory);
        let error = prune(memory.clone(), &[1]).unwrap_err();
        assert!(error.to_string().contains("what snapshot 2 needs, which is to stay"), "{error}");
        assert_eq!(fingerprint(&memory), before);
        assert_eq!(prune(memory.clone(), &[2]).unwrap().removed, [2]);
        assert_eq!(restored(memory.clone(), 1).unwrap(), first.model);
        let report = check(memory.clone()).unwrap();
        assert!(report.is_clean() && report.leftovers == Leftovers::default(), "{report:?}");
        assert_eq!(take(memory, second.path(), SyncMethod::Auto).unwrap().snapshot.number, 3);
    }
}

/// A file system without an atomic rename may leave both names.
#[test]
fn a_snapshot_whose_removal_was_interrupted_is_pruned() {
    let sources = versions();
    let [first, second, third, _] = &sources;
    let world = World::new(MemoryBackend::new()).with(&[first, second, third]);
    for number in [1, 3] {
        let memory = world.copy();
        let content = memory.contents(&format!("snapshots/{number}.json")).unwrap();
        memory.set_contents(&format!("snapshots/{number}.pruned"), content).unwrap();
        let mut must = world.taken.clone();
        must.remove(&number);
        let expect = Expect { must, may: BTreeMap::new(), highest: 3 };
        Sweep::verify_written(&memory, &expect);
        assert_eq!(check(memory.clone()).unwrap().leftovers.half_removed, [number]);
        // Naming it again completes it.
        let again = memory.crash(Crash::KeepAll);
        assert!(prune(again.clone(), &[number]).unwrap().objects > 0);
        assert_eq!(check(again).unwrap().leftovers, Leftovers::default());
        // Whatever stops the prune that completes it, it does not come back.
        let operation = |faults: FaultBackend| prune(faults, &[2]).map(|_| ());
        let cases = Sweep::new(second, 3).run("half removed", &memory, operation, |done| {
            let mut expect = expect.clone();
            let model = expect.must.remove(&2).unwrap();
            if !done {
                expect.may.insert(2, model);
            }
            expect
        });
        assert!(cases.run >= 900, "{cases:?}");
    }
}

#[test]
fn what_is_no_pack_is_noted_and_left_alone() {
    let [first, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first]);
    world.memory.set_contents("packs/x.blobs.tar.zst", b"x".to_vec()).unwrap();
    let report = check(world.memory.clone()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.leftovers.strangers, ["packs/x.blobs.tar.zst"]);
    prune(world.memory.clone(), &[1]).unwrap();
    assert!(world.memory.contents("packs/x.blobs.tar.zst").is_some());
}

#[test]
fn a_newer_repository_is_refused() {
    let [first, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first]);
    let text = String::from_utf8(world.memory.contents(layout::CONFIG).unwrap()).unwrap();
    let format_2 = sealed(&text.replace("\"format\": 1", "\"format\": 2"));
    for (config, what) in [(format_2, "format 2"), (newer(text.as_bytes()), "votes")] {
        let memory = world.copy();
        memory.set_contents(layout::CONFIG, config).unwrap();
        let before = fingerprint(&memory);
        for error in refusals(&memory, &first) {
            assert!(matches!(&error, Error::TooNew { .. }), "{error:?}");
            assert!(error.to_string().contains(what), "{error}");
        }
        assert_eq!(fingerprint(&memory), before);
    }
    // A ref that requires more is refused by itself.
    let newer = newer(&world.memory.contents("snapshots/1.json").unwrap());
    world.memory.set_contents("snapshots/1.json", newer).unwrap();
    assert!(matches!(restored(world.memory.clone(), 1), Err(Error::TooNew { .. })));
    let world = world.with(&[&first]);
    assert!(matches!(prune(world.memory.clone(), &[2]), Err(Error::Refused { .. })));
    assert_eq!(restored(world.memory, 2).unwrap(), first.model);
}

/// The errors of all operations.
fn refusals(memory: &MemoryBackend, source: &Source) -> [Error; 4] {
    [
        take(memory.clone(), source.path(), SyncMethod::Auto).unwrap_err(),
        restored(memory.clone(), 1).unwrap_err(),
        prune(memory.clone(), &[1]).unwrap_err(),
        check(memory.clone()).unwrap_err(),
    ]
}

#[test]
fn staging_of_the_dead_is_removed_and_of_the_living_is_not() {
    let [first, second, ..] = versions();
    let world = World::new(MemoryBackend::new()).with(&[&first]);
    let log = log_of(&world, &second, SyncMethod::Auto);
    let renames = log.iter().position(|step| step.contains(" replace ")).unwrap() as u64 + 1;
    let memory = world.copy();
    take(FaultBackend::new(Arc::new(memory.clone()), Plan::FailFrom(renames)), second.path(), SyncMethod::Auto)
        .unwrap_err();
    let runs = || memory.list(layout::TMP).unwrap();
    let dead = runs();
    assert_eq!(dead.len(), 1);
    assert_eq!(check(memory.clone()).unwrap().leftovers.staging, 1);
    let repo = open(memory.clone()).unwrap();
    let writer = repo.writer(&session(), WriterOptions::default()).unwrap();
    let living = runs();
    assert!(living.len() == 1 && living != dead, "{living:?}");
    writer.blobs().store(b"not published yet").unwrap();
    let held: Vec<_> = memory.paths().into_iter().filter(|path| path.starts_with("tmp/")).collect();
    assert_eq!(held.len(), 1, "{held:?}");
    take(memory.clone(), second.path(), SyncMethod::Auto).unwrap();
    assert_eq!(memory.paths().into_iter().filter(|path| path.starts_with("tmp/")).collect::<Vec<_>>(), held);
    // Nor does a prune that wants to be alone.
    assert!(matches!(prune(memory.clone(), &[1]), Err(Error::Locked { .. })));
    assert_eq!(runs(), living);
    drop(writer);
    assert_eq!(runs(), []);
}
