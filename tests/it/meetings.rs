//! Two processes that meet where packs are: one does all of its work between two steps of the other, whichever.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use backuptool::repo::{Repository, WriterOptions};
use backuptool::store::batch::SyncMethod;
use backuptool::store::{Crash, MemoryBackend, layout};
use backuptool::{Error, Result};

use crate::support::fault::{FaultBackend, Plan};
use crate::support::model::{Model, Source, noise};
use crate::support::repos::{
    check, open, pack_plan, pack_with, prune_plan, prune_with, read_back, restored, take_with,
};
use crate::support::sweep::{Expect, Sweep, World, slow};

/// Everything goes to packs.
const PACKED: WriterOptions = WriterOptions { sync: SyncMethod::Auto, loose_limit: 0, pack_size: 64 << 10 };

/// Everything stays loose.
const LOOSE: WriterOptions = WriterOptions { loose_limit: usize::MAX, ..PACKED };

fn files(numbers: impl IntoIterator<Item = u64>) -> Model {
    numbers
        .into_iter()
        .fold(Model::default(), |model, number| model.file(&format!("{number}"), noise(number + 300, 200)))
}

/// What one of the two does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    /// A snapshot of what snapshot 1 holds, of which much is dead without it.
    TakeFirst,
    /// A snapshot of something of which some is new.
    TakeNew,
    /// The same, and then packs are folded, if the lock is to be had.
    TakeNewAndPack,
    /// The removal of a snapshot.
    Prune(u64),
    Pack,
    Check,
    /// Snapshot 3, which stays, is read.
    Read,
}

/// What came of it: the snapshot that was added.
type Done = Result<Option<u64>>;

/// Where they meet: snapshots 1 and 2 in packs, of which one is dead without 1 and one in part, and snapshot 3 loose.
struct Scene {
    world: World,
    first: Source,
    new: Source,
}

impl Scene {
    fn new() -> Self {
        let [first, second, third] = [files(0..4), files(3..6), files(5..8)].map(Source::new);
        let world = World::new(MemoryBackend::new());
        let world = world.with_written(&[&first, &second], PACKED).with_written(&[&third], LOOSE);
        let plan = prune_plan(world.copy(), &[1]).unwrap();
        assert_eq!((plan.dead_packs.len(), plan.rewrite.len()), (1, 1));
        let plan = pack_plan(world.copy(), PACKED).unwrap();
        assert_eq!((plan.loose.len(), plan.fold.len()), (3, 4));
        Self { world, first, new: Source::new(files([2, 6, 9])) }
    }

    /// The work, to be done on any backend.
    fn work(&self, work: Work) -> impl Fn(FaultBackend) -> Done + Clone + Send + Sync + 'static {
        let [first, new] = [&self.first, &self.new].map(|source| source.path().to_path_buf());
        let take = |backend, source: &Path| Ok(Some(take_with(backend, source, PACKED)?.snapshot.number));
        move |backend| match work {
            Work::TakeFirst => take(backend, &first),
            Work::TakeNew => take(backend, &new),
            Work::TakeNewAndPack => {
                let number = take(backend.clone(), &new)?;
                match pack_with(backend, PACKED) {
                    Ok(_) | Err(Error::Locked { .. }) => Ok(number),
                    Err(error) => Err(error),
                }
            }
            Work::Prune(number) => prune_with(backend, &[number], PACKED).map(|_| None),
            Work::Pack => pack_with(backend, PACKED).map(|_| None),
            Work::Check => {
                let report = check(backend)?;
                assert!(report.is_clean(), "{report:?}");
                Ok(None)
            }
            Work::Read => read_back(&*open(backend)?, 3).map(|_| None),
        }
    }

    /// What must be found after this, or may be.
    fn note(&self, expect: &mut Expect, work: Work, done: &Done) {
        match (work, done) {
            (Work::TakeFirst | Work::TakeNew | Work::TakeNewAndPack, Ok(number)) => {
                let number = number.unwrap();
                let source = if work == Work::TakeFirst { &self.first } else { &self.new };
                expect.must.insert(number, source.model.clone());
                expect.highest = expect.highest.max(number);
            }
            (Work::Prune(number), done) => {
                let model = expect.must.remove(&number);
                if done.is_err() {
                    expect.may.extend(model.map(|model| (number, model)));
                }
            }
            _ => {}
        }
    }

    /// The steps of a work before which another one may come: all that change or lock something, and some others.
    fn steps(&self, work: Work) -> Vec<u64> {
        let backend = FaultBackend::new(Arc::new(self.world.copy()), Plan::None);
        self.work(work)(backend.clone()).unwrap();
        let only_reads = |step: &str| {
            let name = step.split(' ').nth(1).unwrap();
            ["open", "read", "read_at", "list", "length"].contains(&name)
        };
        let log = backend.log();
        let steps = (1..).zip(&log).filter(|(n, step)| slow() || n % 8 == 1 || !only_reads(step));
        steps.map(|(n, _)| n).collect()
    }

    /// One begins, and before its Nth step the other does all of its work; then the one goes on, or it `dies` there.
    fn meet(&self, sweep: &Sweep, [one, other]: [Work; 2], n: u64, dies: bool) {
        let memory = self.world.copy();
        let steps = AtomicU64::new(0);
        let of_other: Arc<Mutex<Option<Done>>> = Arc::default();
        let (below, work, result) = (memory.clone(), self.work(other), Arc::clone(&of_other));
        let backend = FaultBackend::hooked(memory.clone(), move |_, _| {
            let step = steps.fetch_add(1, Ordering::Relaxed) + 1;
            if step == n {
                *result.lock().unwrap() = Some(work(FaultBackend::new(Arc::new(below.clone()), Plan::None)));
            }
            if dies && step >= n { Err(ErrorKind::Other.into()) } else { Ok(()) }
        });
        let of_one = self.work(one)(backend.clone());
        let of_other = of_other.lock().unwrap().take().unwrap();
        let step = &backend.log()[usize::try_from(n).unwrap() - 1];
        let case = format!("{other:?} within {one:?} at {step}, which dies: {dies}");

        assert!(dies || of_one.is_ok(), "{case}: {of_one:?}");
        // Whoever cannot have the lock does nothing; that is the only reason to fail.
        assert!(matches!(&of_other, Ok(_) | Err(Error::Locked { .. })), "{case}: {of_other:?}");
        let mut expect = self.world.expect();
        self.note(&mut expect, other, &of_other);
        self.note(&mut expect, one, &of_one);
        if of_one.is_err()
            && let Work::TakeFirst | Work::TakeNew = one
        {
            // It may have come as far as its ref.
            let source = if one == Work::TakeFirst { &self.first } else { &self.new };
            let number = [4, 5].into_iter().find(|number| !expect.must.contains_key(number)).unwrap();
            expect.may.insert(number, source.model.clone());
        }
        for crash in [Crash::KeepAll, Crash::LoseAll] {
            let after = memory.crash(crash);
            if sweep.is_new(&after, dies) {
                sweep.verify(&format!("{case}, {crash:?}"), &after, &expect);
            }
        }
    }
}

#[test]
fn whatever_comes_between_two_steps_of_another_does_no_harm() {
    use Work::{Check, Pack, Prune, Read, TakeFirst, TakeNew, TakeNewAndPack};

    let scene = Scene::new();
    let mut cases = 0;
    for one in [TakeFirst, TakeNew, Prune(1), Pack, Check, Read] {
        let steps = scene.steps(one);
        for other in [TakeFirst, TakeNew, TakeNewAndPack, Prune(1), Prune(2), Pack] {
            let sweep = Sweep::new(&scene.new, 0).packing(PACKED);
            for n in &steps {
                scene.meet(&sweep, [one, other], *n, false);
                cases += 1;
                // Who only reads leaves nothing behind.
                if !matches!(one, Check | Read) {
                    scene.meet(&sweep, [one, other], *n, true);
                    cases += 1;
                }
            }
        }
    }
    println!("meetings: {cases} cases");
    assert!(cases >= 1000, "{cases}");
}

fn packs(memory: &MemoryBackend) -> BTreeSet<String> {
    memory.paths().into_iter().filter(|path| path.starts_with("packs/")).collect()
}

/// Dies when it would sync the names of packs.
fn dying_at_a_sync_of_packs(memory: &MemoryBackend) -> FaultBackend {
    let is_dead = AtomicBool::new(false);
    FaultBackend::hooked(memory.clone(), move |operation, path| {
        is_dead.fetch_or((operation, path) == ("sync_dir", layout::PACKS), Ordering::Relaxed);
        if is_dead.load(Ordering::Relaxed) { Err(ErrorKind::Other.into()) } else { Ok(()) }
    })
}

#[test]
fn a_pack_that_another_run_did_not_sync_is_synced_before_a_ref_relies_on_it() {
    let Scene { world, new, .. } = Scene::new();
    let memory = world.copy();
    // The first one leaves a pack of blobs, the second one finds it and leaves a pack of trees.
    for left in 1..=2 {
        assert!(take_with(dying_at_a_sync_of_packs(&memory), new.path(), PACKED).is_err());
        assert_eq!(packs(&memory).len(), packs(&world.memory).len() + left);
    }
    assert_eq!(packs(&memory.crash(Crash::LoseAll)), packs(&world.memory));

    let added = take_with(memory.crash(Crash::KeepAll), new.path(), PACKED).unwrap().snapshot.added;
    assert_eq!(added.objects, 0);
    let operation = |faults: FaultBackend| take_with(faults, new.path(), PACKED).map(|_| ());
    let cases = Sweep::new(&new, 4)
        .packing(PACKED)
        .run("packs of others", &memory, operation, |done| world.expect_next(&new, done));
    assert!(cases.run >= 500, "{cases:?}");
}

#[test]
fn two_snapshots_that_publish_the_same_packs_leave_them_once() {
    let scene = Scene::new();
    let alone = scene.world.copy();
    assert!(take_with(alone.clone(), scene.new.path(), PACKED).unwrap().snapshot.added.objects > 0);
    // Before each renaming of one, the other one does all of it.
    for at in 0..2 {
        let memory = scene.world.copy();
        let (below, work) = (memory.clone(), scene.work(Work::TakeNew));
        let (renamed, other) = (AtomicU64::new(0), Arc::new(Mutex::new(None)));
        let of_other = Arc::clone(&other);
        let one = FaultBackend::hooked(memory.clone(), move |operation, path| {
            let is_pack = path.contains("/blobs-") || path.contains("/trees-");
            if operation == "replace" && is_pack && renamed.fetch_add(1, Ordering::Relaxed) == at {
                *of_other.lock().unwrap() = Some(work(FaultBackend::new(Arc::new(below.clone()), Plan::None)));
            }
            Ok(())
        });
        let report = take_with(one, scene.new.path(), PACKED).unwrap();
        assert!(report.snapshot.added.objects > 0);
        let of_other = other.lock().unwrap().take().unwrap().unwrap();
        assert_eq!((of_other, report.snapshot.number), (Some(4), 5));
        assert_eq!(packs(&memory), packs(&alone), "{at}");
        let after = memory.crash(Crash::LoseAll);
        for number in [4, 5] {
            assert_eq!(restored(after.clone(), number).unwrap(), scene.new.model, "{at}");
        }
    }
}

#[test]
fn pack_removes_nothing_beside_a_reader() {
    let Scene { world, .. } = Scene::new();
    let memory = world.copy();
    // One has looked at nothing yet, the other one at everything.
    let [late, early] = [(); 2].map(|()| open(memory.clone()).unwrap());
    let read_all = |repo: &Repository| {
        for (number, model) in &world.taken {
            assert_eq!(read_back(repo, *number).unwrap().differences(model), [""; 0]);
        }
    };
    read_all(&early);
    let files = || {
        let is_file = |path: &String| path.starts_with("packs/") || path.starts_with("objects/");
        memory.paths().into_iter().filter(is_file).collect::<BTreeSet<_>>()
    };
    let before = files();
    let report = pack_with(memory.clone(), PACKED).unwrap();
    assert!(report.old_files_remain && report.new == 2, "{report:?}");
    assert!(files().is_superset(&before) && files().len() == before.len() + 2);
    read_all(&late);
    read_all(&early);

    // The second time nothing has to be copied: it is in the new packs.
    let report = pack_with(memory.clone(), PACKED).unwrap();
    assert!(report.old_files_remain, "{report:?}");
    assert!(files().len() == before.len() + 2, "{:?}", files());
    drop((late, early));
    let report = pack_with(memory.clone(), PACKED).unwrap();
    assert!(!report.old_files_remain, "{report:?}");
    assert!(files().is_disjoint(&before) && files().len() == 2);
    read_all(&open(memory.clone()).unwrap());
}

/// Where a reader may not write and there is no lock file, it reads without a lock: others fold under its hands.
#[test]
fn a_reader_without_a_lock_finds_what_was_folded_meanwhile() {
    let scene = Scene::new();
    let memory = scene.world.copy();
    let attempts = AtomicU64::new(0);
    let unlocked = FaultBackend::hooked(memory.clone(), move |operation, path| {
        if operation != "try_lock" || path != layout::LOCK {
            return Ok(());
        }
        // First it wants to make the file, then to open it.
        let first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
        Err(if first { ErrorKind::PermissionDenied.into() } else { ErrorKind::NotFound.into() })
    });
    let reader = open(unlocked).unwrap();
    let before = reader.packs().unwrap().list();
    assert!(before.len() > 1);
    assert!(!pack_with(memory.clone(), PACKED).unwrap().old_files_remain);
    let gone = before.iter().filter(|(name, _)| memory.contents(&name.path()).is_none()).count();
    assert!(gone > 1, "{gone}");
    for (number, model) in &scene.world.taken {
        let found = read_back(&reader, *number).unwrap();
        assert_eq!(found.differences(model), Vec::<String>::new(), "{number}");
    }
}
