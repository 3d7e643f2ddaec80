//! Every way to stop half-way where objects go to packs, are taken out of them, and are folded; and a full disk. The
//! counterpart of `sweeps.rs`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;

use backuptool::object::ChunkSizes;
use backuptool::repo::{InitOptions, WriterOptions};
use backuptool::store::batch::SyncMethod;
use backuptool::store::pack::{PackFile, PackKind};
use backuptool::store::{Crash, MemoryBackend, layout};

use crate::support::fault::{FaultBackend, Plan, full_from};
use crate::support::model::{Model, Source, noise};
use crate::support::repos::{check, open, pack_plan, pack_with, prune_plan, prune_with, take_with};
use crate::support::sweep::{Expect, Sweep, World, verify_nothing_left};

/// Everything goes to packs, and a full frame makes one.
const PACKED: WriterOptions = WriterOptions { sync: SyncMethod::Auto, loose_limit: 0, pack_size: 64 << 10 };

/// Everything stays loose.
const LOOSE: WriterOptions = WriterOptions { loose_limit: usize::MAX, ..PACKED };

/// A repository in which a file of 1 MiB is one object.
fn of_large_objects() -> World {
    let options = InitOptions { chunks: ChunkSizes::with_average(1 << 20).unwrap(), ..InitOptions::default() };
    World::with_init(MemoryBackend::new(), &options)
}

/// Files of which four fill a frame, and whose compressed frame fills a pack.
fn large_files(numbers: impl IntoIterator<Item = u64>) -> Model {
    numbers.into_iter().fold(Model::default(), |model, number| {
        model.file(&format!("{number:02}"), noise(number + 500, 32 << 10).repeat(32))
    })
}

/// Directories whose trees fill a frame, and compress to much less than a pack.
fn large_trees(model: Model) -> Model {
    (0..180).fold(model, |model, number| model.link(&format!("wide{}/{number}", number % 3), &"x".repeat(4000)))
}

/// Small files, as many as there are numbers.
fn small_files(numbers: impl IntoIterator<Item = u64>) -> Model {
    numbers.into_iter().fold(Model::default(), |model, number| {
        model.file(&format!("dir{}/{number}", number % 3), noise(number + 900, 300))
    })
}

/// The packs that there are.
fn packs(memory: &MemoryBackend) -> BTreeSet<String> {
    memory.paths().into_iter().filter(|path| path.starts_with(layout::PACKS)).collect()
}

/// How many frames each pack of a kind has, the last one aside.
fn frames(memory: &MemoryBackend, kind: PackKind) -> Vec<usize> {
    let rules = open(memory.clone()).unwrap().rules();
    let names = packs(memory).into_iter().filter_map(|path| layout::parse_pack(path.strip_prefix("packs/")?));
    let of_kind = names.filter(|name| name.kind == kind);
    let mut frames: Vec<_> = of_kind.map(|name| PackFile::open(memory, rules, name).unwrap().frames() - 1).collect();
    frames.sort_unstable();
    frames
}

/// How many packs the operations of a log have published.
fn published(log: &[String]) -> usize {
    log.iter().filter(|step| step.contains(" replace ") && step.contains("-> packs/")).count()
}

fn log_of_snapshot(world: &World, source: &Source, writing: WriterOptions) -> Vec<String> {
    let faults = FaultBackend::new(Arc::new(world.copy()), Plan::None);
    take_with(faults.clone(), source.path(), writing).unwrap();
    faults.log()
}

#[test]
fn a_snapshot_that_leaves_packs_can_stop_anywhere() {
    let large = Source::new(large_trees(large_files(0..5)));
    let taken = of_large_objects().with_written(&[&large], PACKED);
    assert_eq!(frames(&taken.memory, PackKind::Blobs), [1, 1]);
    assert_eq!(frames(&taken.memory, PackKind::Trees), [2]);
    let [first, second, third] = [small_files(0..8), small_files(2..12), small_files(0..3)].map(Source::new);
    let few = WriterOptions { loose_limit: 3, ..PACKED };
    let packed = || World::new(MemoryBackend::new()).with_written(&[&first], PACKED);
    for (name, world, source, writing, new_packs, least) in [
        ("several packs and frames in a first run", of_large_objects(), &large, PACKED, 3, 500),
        ("packs beside packs", packed(), &second, PACKED, 2, 500),
        ("packs once it is too much", packed(), &second, few, 2, 500),
        ("loose beside packs", packed(), &third, WriterOptions { loose_limit: 8, ..PACKED }, 0, 500),
    ] {
        assert_eq!(published(&log_of_snapshot(&world, source, writing)), new_packs, "{name}");
        let operation = |faults: FaultBackend| take_with(faults, source.path(), writing).map(|_| ());
        let cases = Sweep::new(&third, 1)
            .packing(PACKED)
            .run(name, &world.copy(), operation, |done| world.expect_next(source, done));
        assert!(cases.run >= least, "{cases:?}");
    }
}

/// Snapshots whose packs are, once the first is removed, dead, needed in part, and needed wholly.
fn shared_packs() -> (World, [Source; 4]) {
    let sources = [
        Source::new(small_files(0..9)),
        Source::new(small_files((0..4).chain(9..15))),
        Source::new(small_files((0..2).chain(9..15).chain(20..24))),
        Source::new(small_files(40..43)),
    ];
    let [first, second, third, _] = &sources;
    (World::new(MemoryBackend::new()).with_written(&[first, second, third], PACKED), sources)
}

#[test]
fn a_prune_that_rewrites_packs_can_stop_anywhere() {
    let (world, sources) = shared_packs();
    for (name, numbers, dead, rewrite) in
        [("prune 1", &[1][..], 1, 1), ("prune 1 and 2", &[1, 2], 2, 1), ("prune all", &[1, 2, 3], 6, 0)]
    {
        let plan = prune_plan(world.copy(), numbers).unwrap();
        assert_eq!((plan.dead_packs.len(), plan.rewrite.len()), (dead, rewrite), "{name}");
        let operation = |faults: FaultBackend| prune_with(faults, numbers, PACKED).map(|_| ());
        let cases = Sweep::new(&sources[3], 1)
            .packing(PACKED)
            .run(name, &world.copy(), operation, |done| world.expect_without(numbers, done));
        assert!(cases.run >= 500, "{cases:?}");
    }
}

/// Small packs and loose objects.
fn unpacked() -> (World, [Source; 3]) {
    let sources = [small_files(0..5), small_files(3..8), small_files(6..12)].map(Source::new);
    let [first, second, third] = &sources;
    let world = World::new(MemoryBackend::new()).with_written(&[first, second], PACKED).with_written(&[third], LOOSE);
    (world, sources)
}

/// The same, and copies of both in large packs.
fn unpacked_copies() -> (World, [Source; 3]) {
    let (world, sources) = unpacked();
    // As if the removal of what was packed had been lost.
    let before = world.copy();
    pack_with(world.memory.clone(), PACKED).unwrap();
    for path in before.paths() {
        let is_copy = path.starts_with("packs/") || path.starts_with("objects/");
        if is_copy && world.memory.contents(&path).is_none() && path.as_bytes().last().unwrap() % 2 == 0 {
            world.memory.set_contents(&path, before.contents(&path).unwrap()).unwrap();
        }
    }
    (world, sources)
}

#[test]
fn packing_can_stop_anywhere() {
    let (fresh, [first, ..]) = unpacked();
    let (copies, _) = unpacked_copies();
    for (name, world, least) in [("pack", fresh, 500), ("pack copies", copies, 500)] {
        let plan = pack_plan(world.copy(), PACKED).unwrap();
        assert!(plan.loose.len() > 3 && plan.fold.len() > 1, "{plan:?}");
        let operation = |faults: FaultBackend| pack_with(faults, PACKED).map(|_| ());
        let cases = Sweep::new(&first, 1).packing(PACKED).run(name, &world.copy(), operation, |_| world.expect());
        assert!(cases.run >= least, "{cases:?}");
    }
}

#[test]
fn a_full_disk_can_be_pruned() {
    let (world, sources) = shared_packs();
    let large = Source::new(large_files(0..10));
    let kept = Source::new(large_files((0..10).step_by(2)));
    let halves = of_large_objects().with_written(&[&large, &kept], PACKED);
    let (mut cases, mut after_a_pack) = (0, 0);
    for (world, next) in [(world, &sources[3]), (halves, &kept)] {
        let before = packs(&world.memory);
        let plan = prune_plan(world.copy(), &[1]).unwrap();
        assert!(!plan.rewrite.is_empty());
        let dead: BTreeSet<String> = plan.dead_packs.iter().map(|pack| pack.name.path()).collect();
        for first in 1.. {
            let memory = world.copy();
            let full = full_from(&memory, first);
            let report = prune_with(full.clone(), &[1], PACKED).unwrap();
            assert_eq!(report.removed, [1]);
            assert_eq!(report.packs_removed, dead.len() as u64);
            let case = format!("full from write {first} on");
            if report.not_rewritten.is_none() {
                // From here on it became full after the rewriting, or not at all.
                assert!(first > 6, "{case}");
                assert_eq!(report.packs_rewritten, plan.rewrite.len() as u64);
                break;
            }
            cases += 1;
            after_a_pack += published(&full.log());
            assert_eq!(report.not_rewritten.unwrap().io_kind(), Some(ErrorKind::StorageFull));
            // What is dead is gone, and no half copy is left.
            assert_eq!(packs(&memory), before.difference(&dead).cloned().collect(), "{case}");
            assert!(!memory.paths().iter().any(|path| path.starts_with("tmp/")), "{case}");
            let mut must = world.taken.clone();
            must.remove(&1);
            let expect = Expect { must, may: [].into(), highest: world.highest };
            Sweep::verify_snapshots(&case, &memory.crash(Crash::LoseAll), &expect);
            assert!(check(memory.clone()).unwrap().is_clean(), "{case}");
            // When there is space again, the next prune does the rest.
            assert_eq!(prune_with(memory.clone(), &[], PACKED).unwrap().packs_rewritten, plan.rewrite.len() as u64);
            verify_nothing_left(&case, &memory);
            Sweep::new(next, 0).packing(PACKED).verify(&case, &memory, &expect);
        }
    }
    assert!(cases >= 18 && after_a_pack >= 4, "{cases}, {after_a_pack}");
}

#[test]
fn packing_on_a_full_disk_makes_room_for_the_rest() {
    // As few bytes a pack as can be folded, which make several full ones.
    let small = WriterOptions { pack_size: 24 << 10, ..PACKED };
    let sources = [large_files(0..4), large_files(4..8), large_files(8..12)].map(Source::new);
    let [first, second, third] = &sources;
    let folding = of_large_objects().with_written(&[first, second, third], small);
    let (copies, [.., next]) = unpacked_copies();
    let mut parts = 0;
    for (world, source) in [(copies, &next), (folding, third)] {
        let before = packs(&world.memory);
        let space = |memory: &MemoryBackend| -> usize {
            packs(memory).iter().map(|path| memory.contents(path).unwrap().len()).sum()
        };
        for first in 1.. {
            let case = format!("full from write {first} on");
            let memory = world.copy();
            let report = pack_with(full_from(&memory, first), PACKED).unwrap();
            let Some(error) = &report.full else {
                assert!(first > 6 && packs(&memory) != before, "{case}");
                break;
            };
            assert_eq!(error.io_kind(), Some(ErrorKind::StorageFull), "{case}");
            assert!(!memory.paths().iter().any(|path| path.starts_with("tmp/")), "{case}");
            if report.new > 0 {
                parts += 1;
                // What was copied is gone from where it was, so that the next run finds room again.
                assert!(space(&memory) <= space(&world.memory), "{case}: {report:?}");
                assert!(before.difference(&packs(&memory)).count() > 0, "{case}: {report:?}");
            }
            Sweep::new(source, 0).packing(PACKED).verify(&case, &memory, &world.expect());
        }
    }
    assert!(parts > 0);
}
