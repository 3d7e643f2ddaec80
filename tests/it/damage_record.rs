//! What is noted as damaged: nothing that was found is forgotten, and what becomes damage by a removal is noted.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use backuptool::object::{HashAlgorithm, ObjectId};
use backuptool::repo::WriterOptions;
use backuptool::store::damaged::{self, Damaged};
use backuptool::store::pack::PackName;
use backuptool::store::{Backend, Crash, MemoryBackend, layout, verified};

use crate::support::fault::{FaultBackend, Plan, full_from};
use crate::support::model::{Model, Source, noise};
use crate::support::repos::{
    LOOSE, PACKED, Repairing, check, init, open, prune_with, read_back, repair_with, session, take_with,
};
use crate::support::sweep::{Sweep, slow};

const LENGTH: usize = 60_000;

/// The first frame of a pack holds some of the first files, and not the last ones.
fn content(name: char, number: u64) -> Vec<u8> {
    noise(u64::from(name) * 1000 + number, LENGTH)
}

fn files(model: Model, name: char, numbers: impl IntoIterator<Item = u64>) -> Model {
    numbers.into_iter().fold(model, |model, number| model.file(&format!("{name}{number:03}"), content(name, number)))
}

/// Flips a bit in the pack that holds this content and no other pack does (or of those that do, in each).
fn damage(memory: &MemoryBackend, content: &[u8]) {
    let packs = memory.paths().into_iter().filter(|path| path.starts_with("packs/"));
    let mut hit = 0;
    for path in packs {
        let mut bytes = memory.contents(&path).unwrap();
        let needle = &content[1000..1064];
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            bytes[at] ^= 1;
            memory.set_contents(&path, bytes).unwrap();
            hit += 1;
        }
    }
    assert_eq!(hit, 1);
}

fn noted(memory: &MemoryBackend) -> Damaged {
    damaged::read(memory).unwrap()
}

fn assert_restores(case: &str, memory: &MemoryBackend, number: u64, model: &Model) {
    let found = read_back(&open(memory.clone()).unwrap(), number).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(found.differences(model), [] as [String; 0], "{case}");
}

/// Some files of which a pack has damaged copies, and another pack, or loose objects, good ones. With the names of those.
struct Mended {
    memory: MemoryBackend,
    source: Source,
    /// What stays of it in the end: only such as are whole in the damaged pack.
    rest: Source,
    objects: BTreeSet<ObjectId>,
}

fn mended(writing: WriterOptions) -> Mended {
    let memory = MemoryBackend::new();
    init(memory.clone()).unwrap();
    let rest = files(Model::default(), 'y', 80..240);
    let source = Source::new(files(files(rest.clone(), 'a', 0..1), 'y', 0..80));
    take_with(memory.clone(), source.path(), PACKED).unwrap();
    damage(&memory, &content('a', 0));
    assert!(!check(memory.clone()).unwrap().is_clean());
    let objects: BTreeSet<ObjectId> = noted(&memory).objects.into_iter().collect();
    assert!(objects.contains(&HashAlgorithm::Blake3.hash(&content('a', 0))), "{objects:?}");
    assert!(objects.len() < 80, "{}", objects.len());
    let more = Source::new(files(source.model.clone(), 'z', 0..80));
    take_with(memory.clone(), more.path(), writing).unwrap();
    assert_eq!(noted(&memory), Damaged::default(), "all of it is stored again");
    take_with(memory.clone(), Source::new(rest.clone()).path(), PACKED).unwrap();
    Mended { memory, source, rest: Source::new(rest), objects }
}

#[test]
fn what_only_a_damaged_copy_is_left_of_after_a_prune_is_damaged() {
    for writing in [PACKED, LOOSE] {
        let Mended { memory, source, rest, objects } = mended(writing);
        let full = memory.crash(Crash::KeepAll);
        let report = prune_with(memory.clone(), &[1, 2], PACKED).unwrap();
        assert_eq!((report.rotten.len(), report.objects > 0), (1, true), "{report:?}");
        assert_eq!(noted(&memory).objects.into_iter().collect::<BTreeSet<_>>(), objects);
        // When it comes back it is stored.
        let number = take_with(memory.clone(), source.path(), PACKED).unwrap().snapshot.number;
        assert_restores("after the prune", &memory, number, &source.model);
        assert_restores("after the prune", &memory, 3, &rest.model);

        // Where that cannot be noted, the good copies stay.
        prune_with(full_from(&full, 1), &[1, 2], PACKED).unwrap();
        assert_eq!(noted(&full), Damaged::default());
        let number = take_with(full.clone(), source.path(), PACKED).unwrap().snapshot.number;
        assert_restores("after the prune of a full disk", &full, number, &source.model);
    }
}

/// Whatever stops the prune: what comes back after it is stored again where only a damaged copy is left.
#[test]
fn a_prune_that_stops_leaves_no_damage_unnoted() {
    let mut verified = 0;
    for (writing, numbers) in [(LOOSE, &[1, 2, 3][..]), (PACKED, &[1, 2, 3]), (LOOSE, &[1, 2])] {
        if numbers.len() == 2 && !slow() {
            continue;
        }
        let Mended { memory, source, .. } = mended(writing);
        memory.sync_all().unwrap();
        let counted = FaultBackend::new(Arc::new(memory.crash(Crash::KeepAll)), Plan::None);
        prune_with(counted.clone(), numbers, PACKED).unwrap();
        let sweep = Sweep::new(&source, u64::from(slow()));
        let changes = |step: &str| [" remove ", " replace ", " sync_dir "].iter().any(|kind| step.contains(kind));
        // Of many loose objects that go one after the other only some.
        let is_tried = |n: u64, step: &str| slow() || !step.contains("remove objects") || n.is_multiple_of(40);
        let steps = (1..).zip(counted.log()).filter(|(n, step)| changes(step) && is_tried(*n, step));
        for (n, step) in steps {
            let after = memory.crash(Crash::KeepAll);
            let faults = FaultBackend::failing_with(Arc::new(after.clone()), Plan::FailFrom(n), ErrorKind::Other);
            let done = prune_with(faults, numbers, PACKED).is_ok();
            for crash in sweep.crashes(n, ErrorKind::Other).into_iter().take(if slow() { 9 } else { 2 }) {
                let after = after.crash(crash);
                if sweep.is_new(&after, done) {
                    verified += 1;
                    let number = take_with(after.clone(), source.path(), PACKED).unwrap().snapshot.number;
                    assert_restores(&format!("{numbers:?}: {step}, {crash:?}"), &after, number, &source.model);
                }
            }
        }
    }
    println!("{verified} states");
    assert!(verified > 10, "{verified}");
}

#[test]
fn what_only_a_damaged_copy_is_left_of_after_a_repair_is_damaged() {
    let Mended { memory, source, objects, .. } = mended(PACKED);
    // Both packs are damaged now: nothing needs the one with the good copies, and the other has something needed that is
    // whole nowhere.
    damage(&memory, &content('z', 79));
    damage(&memory, &content('y', 239));
    for number in [1, 2] {
        memory.replace(&format!("snapshots/{number}.json"), &format!("snapshots/{number}.pruned")).unwrap();
    }
    // Whether or not a check has seen what is damaged, and more.
    for seen in [false, true] {
        let memory = memory.crash(Crash::KeepAll);
        if seen {
            check(memory.clone()).unwrap();
            let names: Vec<String> =
                noted(&memory).objects.iter().chain(&objects).map(|id| format!("{id}\n")).collect();
            memory.set_contents(layout::DAMAGED, names.concat().into_bytes()).unwrap();
        }
        let packs = || memory.paths().into_iter().filter(|path| path.starts_with("packs/")).collect::<BTreeSet<_>>();
        let before = packs();
        repair_with(memory.clone(), Repairing::default(), PACKED).unwrap();
        assert_eq!(before.difference(&packs()).count(), 1);
        let now = noted(&memory).objects;
        assert!(objects.iter().all(|id| now.contains(id)), "{now:?} lacks some of {objects:?}");
        let number = take_with(memory.clone(), source.path(), PACKED).unwrap().snapshot.number;
        assert_restores("after the repair", &memory, number, &source.model);
    }
}

/// What the list says that cannot be read is not known: so what is in packs is read before it is relied on, until a check
/// has read everything.
#[test]
fn while_it_is_not_sure_what_is_damaged_what_is_in_packs_is_read() {
    let memory = MemoryBackend::new();
    init(memory.clone()).unwrap();
    let source = Source::new(files(Model::default(), 'a', 0..80));
    take_with(memory.clone(), source.path(), PACKED).unwrap();
    damage(&memory, &content('a', 0));
    damage(&memory, &content('a', 79));
    check(memory.clone()).unwrap();
    let names = memory.contents(layout::DAMAGED).unwrap();
    // Only the first name is left of it, or none.
    for cut in [names[..65 + 20].to_vec(), b"garbage".to_vec()] {
        let memory = memory.crash(Crash::KeepAll);
        memory.set_contents(layout::DAMAGED, cut.clone()).unwrap();
        let first = Source::new(files(Model::default(), 'a', 0..1));
        for (source, stored) in [(&first, 1), (&source, 2)] {
            let report = take_with(memory.clone(), source.path(), PACKED).unwrap();
            assert!(report.replaced >= stored - 1, "{report:?}");
            assert_restores("in doubt", &memory, report.snapshot.number, &source.model);
            assert!(noted(&memory).is_doubtful, "what the first one has mended is not all that may be damaged");
        }
        assert!(check(memory.clone()).unwrap().damaged.is_empty());
        assert_eq!(noted(&memory), Damaged::default());
    }
}

/// The last object is damaged before the Nth step, and a check finds that; whether it could note it is said then: it could
/// not if it would have waited for who takes this step.
fn damaged_and_checked_at(memory: &MemoryBackend, n: u64) -> (FaultBackend, Arc<AtomicBool>) {
    let (below, steps, is_noted) = (memory.clone(), AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let of_check = Arc::clone(&is_noted);
    let hooked = FaultBackend::hooked(memory.clone(), move |_, _| {
        if steps.fetch_add(1, Ordering::Relaxed) + 1 == n {
            damage(&below, &content('a', 79));
            let report = thread::scope(|scope| scope.spawn(|| check(below.clone()).unwrap()).join().unwrap());
            of_check.store(report.not_recorded.is_none(), Ordering::Relaxed);
        }
        Ok(())
    });
    (hooked, is_noted)
}

/// A check that comes to its end in the middle of a snapshot that mends something, at whatever step.
#[test]
fn what_a_check_notes_while_a_snapshot_mends_something_else_stays_noted() {
    let memory = MemoryBackend::new();
    init(memory.clone()).unwrap();
    let source = Source::new(files(Model::default(), 'a', 0..80));
    take_with(memory.clone(), source.path(), PACKED).unwrap();
    damage(&memory, &content('a', 0));
    check(memory.clone()).unwrap();
    let base = memory.crash(Crash::KeepAll);
    let first = Source::new(files(Model::default(), 'a', 0..1));
    let counted = FaultBackend::new(Arc::new(memory), Plan::None);
    take_with(counted.clone(), first.path(), PACKED).unwrap();
    let mut held = 0;
    for n in 1..=counted.operations() {
        let memory = base.crash(Crash::KeepAll);
        let (hooked, is_noted) = damaged_and_checked_at(&memory, n);
        take_with(hooked, first.path(), PACKED).unwrap();
        if !is_noted.load(Ordering::Relaxed) {
            held += 1;
            continue;
        }
        let last = HashAlgorithm::Blake3.hash(&content('a', 79));
        assert!(noted(&memory).objects.contains(&last), "before step {n}");
        let number = take_with(memory.clone(), source.path(), PACKED).unwrap().snapshot.number;
        assert_restores(&format!("before step {n}"), &memory, number, &source.model);
    }
    assert!(held > 0 && held < 20, "{held}");
}

/// A check that has read a pack before it was damaged ends after one that has seen the damage: at whatever step.
#[test]
fn an_older_check_does_not_take_back_what_a_newer_one_has_found() {
    let memory = MemoryBackend::new();
    init(memory.clone()).unwrap();
    let source = Source::new(files(Model::default(), 'a', 0..80));
    take_with(memory.clone(), source.path(), PACKED).unwrap();
    check(memory.clone()).unwrap();
    let first_check = memory.crash(Crash::KeepAll);
    memory.remove(layout::VERIFIED).unwrap();
    let mut held = 0;
    for (base, case) in [(first_check, "noted before"), (memory, "not noted before")] {
        let counted = FaultBackend::new(Arc::new(base.crash(Crash::KeepAll)), Plan::None);
        check(counted.clone()).unwrap();
        for n in 1..=counted.operations() {
            let memory = base.crash(Crash::KeepAll);
            let (hooked, is_noted) = damaged_and_checked_at(&memory, n);
            check(hooked).unwrap();
            if !is_noted.load(Ordering::Relaxed) {
                held += 1;
                continue;
            }
            let last = HashAlgorithm::Blake3.hash(&content('a', 79));
            assert!(noted(&memory).objects.contains(&last), "{case}, before step {n}");
            let repo = open(memory.clone()).unwrap();
            let whole = verified::read(&memory, repo.place(), session().start).unwrap();
            let holds: Vec<PackName> =
                repo.packed_copies(last).unwrap().iter().map(|at| repo.packs().unwrap().name(at.slot)).collect();
            assert_eq!(holds.len(), 1);
            assert_eq!(whole.last(holds[0]), None, "{case}, before step {n}");
        }
    }
    assert!(held > 0 && held < 20, "{held}");
}
