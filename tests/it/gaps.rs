//! What a mutation run found that no test noticed (see docs/testing.md), and that belongs to no other file: figures of a
//! prune, the index of all packs, numbers that others take, locks that may not be had, open files.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use backuptool::Error;
use backuptool::object::{EntryKind, HashAlgorithm, Labels};
use backuptool::ops::pack::{MANY_LOOSE, is_due};
use backuptool::ops::prune::{self, PruneOptions};
use backuptool::repo::WriterOptions;
use backuptool::store::index::IndexFile;
use backuptool::store::pack::{PACK_OBJECTS, PackName};
use backuptool::store::{Backend, Crash, MemoryBackend, layout, refs};

use crate::support::cli;
use crate::support::fault::FaultBackend;
use crate::support::model::{Model, Source, files, noise};
use crate::support::repos::{
    LOOSE, PACKED, check, init, open, pack_plan, packs, plain_snapshot, prune, prune_plan, prune_with, put_object,
    restore_paths, restored, save_index, session, staging, take_with,
};

fn repository(snapshots: &[(Model, WriterOptions)]) -> MemoryBackend {
    let memory = MemoryBackend::new();
    init(memory.clone()).unwrap();
    for (model, writing) in snapshots {
        take_with(memory.clone(), Source::new(model.clone()).path(), *writing).unwrap();
    }
    memory
}

/// The bytes of everything that holds objects.
fn stored(memory: &MemoryBackend) -> u64 {
    let holds = |path: &String| path.starts_with("packs/") || path.starts_with("objects/");
    memory.paths().into_iter().filter(holds).map(|path| memory.length(&path).unwrap()).sum()
}

#[test]
fn what_a_prune_says_it_frees_is_what_is_lost() {
    let [some, few, all] = [files(1..10), files(3..10), files(1..10).file("more", noise(50, 5_000))];
    for (case, snapshots) in [
        ("loose objects", vec![(all.clone(), LOOSE), (few.clone(), LOOSE)]),
        ("whole packs", vec![(few.clone(), PACKED), (files(20..23), PACKED)]),
        ("packs to rewrite", vec![(some.clone(), PACKED), (few.clone(), PACKED)]),
        ("all of these", vec![(files(30..34), PACKED), (all, PACKED), (few, PACKED), (files(40..43), LOOSE)]),
    ] {
        let memory = repository(&snapshots);
        let going: Vec<u64> = (1..snapshots.len() as u64).filter(|number| *number != 3).collect();
        let before = stored(&memory);
        let objects = check(memory.clone()).unwrap().objects;
        let plan = prune_plan(memory.clone(), &going).unwrap();
        let report = prune_with(memory.clone(), &going, PACKED).unwrap();
        let lost = before - stored(&memory);
        assert!(lost > 20_000, "{case}");
        assert_eq!(report.bytes, lost, "{case}");
        // Roughly: how well what stays compresses is not known before.
        assert!(plan.bytes().abs_diff(lost) < 2_000, "{case}: {}, {lost}", plan.bytes());
        let gone = objects - check(memory).unwrap().objects;
        assert_eq!((plan.objects(), report.objects), (gone, gone), "{case}");
    }
}

#[test]
fn a_pack_that_has_just_as_much_that_is_dead_as_it_may_is_left_alone() {
    // Of the content of the pack of blobs, a quarter.
    let memory = repository(&[(files(0..4), PACKED), (files(0..3), PACKED)]);
    let rewritten = |max_dead: u8| {
        let options = PruneOptions { max_dead, ..PruneOptions::numbers(&[1]) };
        let plan = prune::plan(&open(memory.clone()).unwrap(), &options).unwrap();
        plan.rewrite.len()
    };
    assert_eq!([0, 24, 25, 26, 100].map(rewritten), [1, 1, 0, 0, 0]);
}

#[test]
fn the_index_of_all_packs_is_written_where_packs_have_changed() {
    let covered = |memory: &MemoryBackend| -> Option<BTreeSet<PackName>> {
        let index = IndexFile::open(memory, HashAlgorithm::Blake3)?;
        Some(index.packs().iter().map(|(name, _)| *name).collect())
    };
    // A pack goes as a whole, and none is new.
    let memory = repository(&[(files(1..5), PACKED), (files(20..25), PACKED)]);

    prune_with(memory.clone(), &[1], PACKED).unwrap();
    assert_eq!(packs(&memory).len(), 2);
    assert_eq!(covered(&memory), Some(packs(&memory)));
    // Nothing changes.
    memory.remove(layout::INDEX).unwrap();
    prune_with(memory.clone(), &[], PACKED).unwrap();
    assert_eq!(covered(&memory), None);
    // A pack is rewritten.
    let memory = repository(&[(files(1..5), PACKED), (files(1..4), PACKED)]);
    let before = packs(&memory);
    prune_with(memory.clone(), &[1], PACKED).unwrap();
    assert_ne!(packs(&memory), before);
    assert_eq!(covered(&memory), Some(packs(&memory)));
    // The last one goes.
    let memory = repository(&[(files(1..5), PACKED)]);
    prune_with(memory.clone(), &[1], PACKED).unwrap();
    assert_eq!((packs(&memory).len(), covered(&memory)), (0, None));
}

#[test]
fn what_a_snapshot_says_it_stored_is_what_came() {
    for writing in [PACKED, LOOSE] {
        let memory = repository(&[(files(1..4), writing)]);
        let before = stored(&memory);
        let report = take_with(memory.clone(), Source::new(files(2..8)).path(), writing).unwrap();
        assert_eq!(report.snapshot.added.stored, stored(&memory) - before);
    }
}

#[test]
fn packs_that_cannot_be_used_are_counted() {
    let memory = repository(&[(files(1..4), PACKED), (files(2..8), PACKED)]);
    let all = packs(&memory);
    let cut = all.first().unwrap().path();
    memory.set_contents(&cut, memory.contents(&cut).unwrap()[..100].to_vec()).unwrap();
    let report = check(memory).unwrap();
    assert_eq!((report.packs, report.damaged_packs.len()), (all.len() as u64, 1));
}

/// What is needed through something that is lost is not known, so nothing is called superfluous.
#[test]
fn nothing_is_said_to_be_unneeded_while_something_is_lost() {
    let deep = |model: Model| model.file("dir/deep/one", *b"one").file("dir/two", *b"two");
    let memory = repository(&[(deep(files(1..3)), LOOSE), (deep(files(5..6)), LOOSE)]);
    let lost: Vec<String> = memory.paths().into_iter().filter(|path| path.starts_with("objects/")).collect();
    for path in lost.iter().map(String::as_str).chain(["snapshots/1.json"]) {
        let content = memory.contents(path).unwrap();
        memory.set_contents(path, b"damaged".into()).unwrap();
        let report = check(memory.clone()).unwrap();
        assert!(!report.is_clean() && report.leftovers.unneeded == 0, "{path}: {report:?}");
        memory.set_contents(path, content).unwrap();
    }
    assert!(check(memory.clone()).unwrap().is_clean());
    let removed = memory.crash(Crash::KeepAll);
    memory.remove("snapshots/1.json").unwrap();
    let report = check(memory).unwrap();
    assert!(!report.is_clean() && report.leftovers.unneeded == 0, "{report:?}");
    removed.replace("snapshots/1.json", "snapshots/1.pruned").unwrap();
    let report = check(removed).unwrap();
    assert!(report.is_clean() && report.leftovers.unneeded != 0, "{report:?}");
}

#[test]
fn a_number_that_another_process_takes_in_between_is_passed_over() {
    let memory = repository(&[(files(1..3), PACKED)]);
    let other = memory.contents("snapshots/1.json").unwrap();
    let (below, taken) = (memory.clone(), AtomicU64::new(2));
    // Two others come first, each time right before the ref gets its name.
    let racing = FaultBackend::hooked(memory.clone(), move |operation, path| {
        let number = taken.load(Ordering::Relaxed);
        if operation == "publish_new" && path.ends_with(&format!("/ref-{number}")) && number < 4 {
            below.set_contents(&format!("snapshots/{number}.json"), other.clone()).unwrap();
            taken.store(number + 1, Ordering::Relaxed);
        }
        Ok(())
    });
    let source = Source::new(files(2..5));
    assert_eq!(take_with(racing, source.path(), PACKED).unwrap().snapshot.number, 4);
    assert_eq!(restored(memory.clone(), 4).unwrap(), files(2..5));
    assert!(!memory.paths().iter().any(|path| path.starts_with("tmp/")), "{:?}", memory.paths());
}

#[test]
fn a_ref_has_the_greatest_length_and_number_at_most() {
    let memory = repository(&[]);
    let staging = staging(&memory);
    let publish = |length: usize| refs::publish(&memory, &staging, None, &mut |_| vec![0; length]);
    for length in [refs::MAX_REF + 1, 2 * refs::MAX_REF] {
        assert!(matches!(publish(length), Err(Error::Refused { .. })), "{length}");
    }
    assert_eq!(publish(refs::MAX_REF).unwrap(), 1);
    memory.set_contents(&format!("snapshots/{}.json", layout::MAX_NUMBER - 1), Vec::new()).unwrap();
    assert_eq!(publish(10).unwrap(), layout::MAX_NUMBER);
    assert!(matches!(publish(10), Err(Error::Refused { .. })));
    assert_eq!(refs::list(&memory).unwrap().snapshots, [1, layout::MAX_NUMBER - 1, layout::MAX_NUMBER]);
}

#[test]
fn a_snapshot_is_not_finished_when_something_could_not_be_stored_whoever_was_told() {
    let memory = repository(&[]);
    let failures = AtomicU64::new(0);
    let hooked = FaultBackend::hooked(memory.clone(), move |operation, path| {
        let fails = operation == "append" && path.contains("/blobs-") && failures.fetch_add(1, Ordering::Relaxed) == 0;
        if fails { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    let (repo, session) = (open(hooked).unwrap(), session());
    let writer = repo.writer(&session, PACKED).unwrap();
    let mut blobs = writer.blobs();
    assert!((0..20).any(|number| blobs.store(&noise(number, 1 << 20)).is_err()));
    // It counts as stored, and the disk has space again.
    drop(blobs);
    let tree = writer.trees().store(b"a tree").unwrap();
    let error = writer.commit(plain_snapshot(0, tree, 0), &Labels::default(), None, &session).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(refs::list(&memory).unwrap().snapshots, [0; 0]);
}

#[test]
fn a_pack_is_complete_when_it_has_many_objects_however_small() {
    let memory = repository(&[]);
    let writing = WriterOptions { loose_limit: 0, ..WriterOptions::default() };
    let repo = open(memory.clone()).unwrap();
    let session = session();
    let writer = repo.writer(&session, writing).unwrap();
    let mut blobs = writer.blobs();
    for number in 0..PACK_OBJECTS + 20_000 {
        blobs.store(&number.to_le_bytes()).unwrap();
    }
    // A run that was interrupted: what was complete is there.
    drop(blobs);
    drop(writer);
    let list = open(memory.clone()).unwrap().packs().unwrap().list();
    let [(large, objects)] = list[..] else { panic!("{list:?}") };
    assert!((PACK_OBJECTS..PACK_OBJECTS + 10_000).contains(&(objects as usize)), "{objects}");
    // By its bytes it would be folded together with this one.
    let bytes = usize::try_from(memory.length(&large.path()).unwrap()).unwrap();
    take_with(memory.clone(), Source::new(Model::default().file("a", noise(1, bytes * 2 / 3))).path(), writing)
        .unwrap();
    let plan = pack_plan(memory, WriterOptions::default()).unwrap();
    assert!(plan.fold.iter().all(|pack| pack.name != large), "{plan:?}");
}

/// Threads that read beside each other all miss what an index hides; the first of them that looks again gives it up.
#[test]
fn what_an_index_hid_is_looked_for_again_by_every_thread_that_missed_it() {
    let memory = repository(&[(files(1..5), PACKED)]);
    save_index(&memory);
    let id = open(memory.clone()).unwrap().packs().unwrap().file(0).unwrap().index().unwrap().members[0].id;
    let mut index = memory.contents(layout::INDEX).unwrap();
    let entries = IndexFile::open(&memory, HashAlgorithm::Blake3).unwrap().entry_count() as usize;
    index[..16 * entries].fill(0);
    memory.set_contents(layout::INDEX, index).unwrap();
    let repo = open(memory).unwrap();
    let packs = repo.packs().unwrap();
    let edition = packs.edition();
    assert_eq!(packs.find(id).unwrap(), []);
    assert!(packs.look_again(edition).unwrap());
    // The other thread has asked before that, and comes now.
    assert!(packs.look_again(edition).unwrap());
    assert_eq!(packs.find(id).unwrap().len(), 1);
    assert!(!packs.look_again(packs.edition()).unwrap());
}

#[test]
fn a_run_lists_the_directories_of_the_loose_objects_that_it_meets_and_no_others() {
    let memory = repository(&[(files(1..200), LOOSE)]);
    let shards = |memory: &MemoryBackend| memory.list(layout::OBJECTS).unwrap().len();
    assert!(shards(&memory) > 100);
    let listed = Arc::new(Mutex::new(BTreeSet::new()));
    let noted = Arc::clone(&listed);
    let watched = FaultBackend::hooked(memory.clone(), move |operation, path| {
        if operation == "list" && path.starts_with("objects/") {
            assert!(noted.lock().unwrap().insert(path.to_owned()), "{path} was listed twice");
        }
        Ok(())
    });
    // Two that are there, and the tree of the two, which is not.
    let report = take_with(watched, Source::new(files(1..3)).path(), LOOSE).unwrap();
    assert_eq!(report.snapshot.added.objects, 1);
    assert!((1..=3).contains(&listed.lock().unwrap().len()), "{listed:?}");
    assert_eq!(restored(memory, 2).unwrap(), files(1..3));
}

#[test]
fn names_are_durable_before_a_copy_goes_for_their_sake() {
    let memory = repository(&[(files(1..20), LOOSE), (files(1..10), LOOSE)]);
    let log = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&log);
    let watched = FaultBackend::hooked(memory.clone(), move |operation, path| {
        noted.lock().unwrap().push(format!("{operation} {path}"));
        Ok(())
    });
    prune_with(watched, &[1], LOOSE).unwrap();
    let log = log.lock().unwrap();
    let removed = log.iter().position(|line| line.starts_with("remove objects/")).unwrap();
    let begun = log[..removed].iter().rposition(|line| line.starts_with("remove ")).unwrap_or(0);
    for dir in [layout::PACKS, layout::OBJECTS] {
        assert!(log[begun..removed].contains(&format!("sync_dir {dir}")), "{dir}: {log:?}");
    }
    assert_eq!(restored(memory, 2).unwrap(), files(1..10));
}

#[test]
fn no_copy_goes_for_one_in_a_pack_whose_index_is_damaged() {
    let memory = repository(&[(files(1..10), PACKED)]);
    let other = MemoryBackend::new();
    init(other.clone()).unwrap();
    take_with(other.clone(), Source::new(files(1..30)).path(), PACKED).unwrap();
    // A larger pack with the same objects comes along; the index of all packs covers it, and then its own is damaged.
    let larger = other.paths().into_iter().find(|path| path.contains(".blobs.")).unwrap();
    let mut bytes = other.contents(&larger).unwrap();
    memory.set_contents(&larger, bytes.clone()).unwrap();
    save_index(&memory);
    let last_name = bytes.len() - 64 - 36;
    bytes[last_name + 5] ^= 1;
    memory.set_contents(&larger, bytes).unwrap();
    prune_with(memory.clone(), &[], PACKED).unwrap();
    memory.remove(layout::INDEX).unwrap_or_default();
    assert_eq!(restored(memory, 1).unwrap(), files(1..10));
}

#[test]
fn to_pack_is_due_when_about_so_many_objects_are_loose() {
    for (count, expected) in [(MANY_LOOSE / 4 * 3, false), (MANY_LOOSE / 4 * 5, true)] {
        let memory = repository(&[]);
        for number in 0..count {
            put_object(&memory, &number.to_le_bytes());
        }
        // One that cannot be listed counts for nothing.
        let is_denied =
            |path: &str| if path == "objects/10" { Err(ErrorKind::PermissionDenied.into()) } else { Ok(()) };
        let backend = FaultBackend::hooked(memory, move |operation, path| match operation {
            "list" => is_denied(path),
            _ => Ok(()),
        });
        assert_eq!(is_due(&open(backend).unwrap(), PACKED).unwrap(), expected, "{count}");
    }
    let memory = repository(&[]);
    memory.set_contents("objects/10", b"no directory".to_vec()).unwrap();
    assert!(!is_due(&open(memory).unwrap(), PACKED).unwrap());
}

#[test]
fn a_number_that_was_given_back_since_the_refs_were_listed_is_passed_over() {
    let memory = repository(&[]);
    let staging = staging(&memory);
    let listed = refs::list(&memory).unwrap().next_number();
    memory.set_contents("snapshots/2.json", Vec::new()).unwrap();
    memory.set_contents("snapshots/3.pruned", Vec::new()).unwrap();
    memory.set_contents("snapshots/1.pruned", Vec::new()).unwrap();
    assert_eq!(listed, 1);
    assert_eq!(refs::publish(&memory, &staging, Some(listed), &mut |_| vec![0; 10]).unwrap(), 4);
    assert_eq!(refs::list(&memory).unwrap().snapshots, [2, 4]);
}

#[test]
fn a_lock_that_is_there_and_cannot_be_opened_is_not_done_without() {
    let memory = repository(&[(files(1..3), PACKED)]);
    let failing = |kind: ErrorKind| {
        FaultBackend::hooked(memory.clone(), move |operation, path| {
            if operation == "try_lock" && path == layout::LOCK { Err(kind.into()) } else { Ok(()) }
        })
    };
    for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem, ErrorKind::StorageFull] {
        assert_eq!(open(failing(kind)).unwrap_err().io_kind(), Some(kind));
        assert_eq!(prune(failing(kind), &[1]).unwrap_err().io_kind(), Some(kind));
    }
    assert!(check(memory).unwrap().is_clean());
}

#[test]
fn many_loose_objects_are_written_with_few_open_files() {
    for sync in ["batch", "each"] {
        let world = cli::World::new();
        world.init(&[]);
        for number in 0..400 {
            cli::write(world.path(format!("src/{number}")), number.to_string());
        }
        let mut command = Command::new("sh");
        command.current_dir(world.path("")).args(["-c", "ulimit -n 128; exec \"$@\"", "sh"]);
        command.arg(env!("CARGO_BIN_EXE_backuptool")).args(["snapshot", "-r", "repo", "--loose-limit=100000"]);
        command.args([&format!("--fsync={sync}"), "src"]);
        cli::run(command).exits(0);
        assert!(world.objects("repo").len() > 400);
        world.clean();
    }
}

/// Where the disk cannot give back a directory on the way to one path, the others are restored, and the failure is named.
#[test]
fn of_several_paths_one_on_a_bad_sector_does_not_hinder_the_others() {
    let model = Model::default().file("bad/in/a", "a").file("good/b", "b").file("other", "c");
    let memory = repository(&[(model, LOOSE)]);
    let repo = open(memory.clone()).unwrap();
    let top = repo.entries(repo.snapshot(1).unwrap().tree);
    let bad = top.map(Result::unwrap).find_map(|entry| match entry.kind {
        EntryKind::Dir { tree, .. } if entry.name.as_bytes() == b"bad" => Some(layout::object_path(tree.object())),
        _ => None,
    });
    let bad = bad.unwrap();
    let broken =
        FaultBackend::hooked(
            memory,
            move |_, path| {
                if path == bad { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
            },
        );
    let output = tempfile::tempdir().unwrap();
    let output = output.path().join("out");
    let report = restore_paths(broken, 1, &["bad/in", "good"], &output).unwrap();
    let failures: Vec<_> = report.failures.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(failures, [output.join("bad")]);
    assert_eq!(Model::read(&output), Model::default().dir("bad").file("good/b", "b"));
}
