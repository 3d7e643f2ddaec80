//! Repair: every kind of damage to every kind of file, with each kind of place that what is lost can come from. After
//! it everything is whole, or what is said to be left is what `check` finds. Nothing comes in that does not verify.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use backuptool::object::{HashAlgorithm, Labels};
use backuptool::ops::check::CheckReport;
use backuptool::repo::{InitOptions, WriterOptions};
use backuptool::store::pack::{FrameEntry, Member, PackIndex, PackKind, PackName, member_header};
use backuptool::store::{Backend, Crash, MemoryBackend, codec, layout};
use backuptool::{Error, Result};

use crate::support::cli;
use crate::support::fault::{FaultBackend, Plan, full_from};
use crate::support::model::{Model, Source, noise};
use crate::support::repos::{
    LOOSE, PACKED, Repairing, check, init, newer, open, pack_with, prune_with, put_labels, read_back, repair_in,
    repair_plan, repair_with, session, staging, take_with,
};
use crate::support::sweep::{Sweep, World, fingerprint, slow};

const USUAL: WriterOptions = WriterOptions { loose_limit: WriterOptions::LOOSE_LIMIT, ..PACKED };

/// Sources that grow: the last one has all the files of the others.
fn sources() -> [Source; 3] {
    let first = (0..8)
        .fold(Model::default(), |model, number| model.file(&format!("dir{}/{number}", number % 2), noise(number, 300)));
    let first = first.file("chunked", noise(70, 300_000)).file("empty", *b"").link("link", "empty").dir("void");
    let second = first.clone().file("dir0/new", noise(80, 500)).file("other/deep/new", *b"new");
    let third = second.clone().file("loose", noise(90, 200)).file("loose chunked", noise(91, 150_000));
    [first, second, third].map(Source::new)
}

/// The files that hold objects.
fn object_files(memory: &MemoryBackend) -> Vec<String> {
    let is_stored = |path: &String| path.starts_with("packs/") || path.starts_with("objects/");
    memory.paths().into_iter().filter(is_stored).collect()
}

/// Nothing of any object is left.
fn ruin_objects(memory: &MemoryBackend) {
    for path in object_files(memory) {
        harm(memory, &path, Harm::Emptied);
    }
}

/// The refs of the three snapshots of a bed are lost, and their labels stay.
fn lose_refs(memory: &MemoryBackend) {
    for number in 1..=3 {
        memory.remove(&format!("snapshots/{number}.json")).unwrap();
    }
}

/// Then nothing proves any more that there were some.
fn forget_snapshots(memory: &MemoryBackend) {
    for path in memory.paths().into_iter().filter(|path| path.starts_with("cache/seen-")) {
        memory.remove(&path).unwrap();
    }
}

struct Bed {
    world: World,
    sources: [Source; 3],
}

impl Bed {
    /// Two snapshots in packs, of which the second has labels, and one that is loose beside them.
    fn new() -> Self {
        let sources = sources();
        let [first, second, third] = &sources;
        let world = World::new(MemoryBackend::new());
        let world = world.with_written(&[first, second], PACKED).with_written(&[third], LOOSE);
        put_labels(&world.memory, 2, &labelled("kept"));
        Self { world, sources }
    }

    /// A repository of its own with the same content in other files.
    fn other(&self) -> MemoryBackend {
        let [first, second, third] = &self.sources;
        let world = World::new(MemoryBackend::new()).with_written(&[third], PACKED).with_written(&[second], LOOSE);
        world.with_written(&[first], PACKED).memory
    }

    fn copy(&self) -> MemoryBackend {
        self.world.copy()
    }

    /// The files that hold objects.
    fn files(&self) -> Vec<String> {
        object_files(&self.world.memory)
    }

    fn assert_all_restore(&self, case: &str, memory: &MemoryBackend) {
        let repo = open(memory.clone()).unwrap();
        for (number, model) in &self.world.taken {
            let found = read_back(&repo, *number).unwrap_or_else(|error| panic!("{case}: {error}"));
            assert_eq!(found.differences(model), [] as [String; 0], "{case}: snapshot {number}");
        }
    }
}

fn labelled(message: &str) -> Labels {
    Labels { message: Some(message.into()), ..Labels::default() }
}

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Deleted,
    Emptied,
    Halved,
    /// A bit flipped at this part of it, in thousandths.
    Flipped(usize),
    /// The last byte but so many.
    FlippedEnd(usize),
    /// Replaced by another file of its kind.
    Replaced,
}

const HARMS: [Harm; 11] = [
    Harm::Deleted,
    Harm::Emptied,
    Harm::Halved,
    Harm::Flipped(0),
    Harm::Flipped(30),
    Harm::Flipped(300),
    Harm::Flipped(700),
    Harm::FlippedEnd(120),
    Harm::FlippedEnd(60),
    Harm::FlippedEnd(3),
    Harm::Replaced,
];

fn harm(memory: &MemoryBackend, path: &str, harm: Harm) {
    let content = memory.contents(path).unwrap();
    let flip = |at: usize| {
        let mut content = content.clone();
        let at = at.min(content.len() - 1);
        content[at] ^= 4;
        content
    };
    let content = match harm {
        Harm::Deleted => {
            memory.remove(path).unwrap();
            return memory.sync_all().unwrap();
        }
        Harm::Emptied => Vec::new(),
        Harm::Halved => content[..content.len() / 2].to_vec(),
        Harm::Flipped(part) => flip(content.len() * part / 1000),
        Harm::FlippedEnd(at) => flip(content.len().saturating_sub(at)),
        Harm::Replaced => {
            let (dir, suffix) = (&path[..6], path.rsplit_once('.').map_or("", |(_, suffix)| suffix));
            let is_like = |other: &String| other != path && other.starts_with(dir) && other.ends_with(suffix);
            let other = memory.paths().into_iter().find(is_like).unwrap();
            memory.contents(&other).unwrap()
        }
    };
    memory.set_contents(path, content).unwrap();
    memory.sync_all().unwrap();
}

/// What is damaged, without the reasons.
fn damage(report: &CheckReport) -> impl PartialEq + std::fmt::Debug + use<> {
    let objects: BTreeMap<_, _> = report.damaged.iter().map(|(id, damage)| (*id, damage.files.clone())).collect();
    let packs: BTreeSet<_> = report.damaged_packs.iter().map(|(name, _)| *name).collect();
    let [refs, labels] = [&report.unreadable, &report.damaged_labels]
        .map(|errors| errors.iter().map(|(number, _)| *number).collect::<Vec<_>>());
    (objects, packs, refs, labels, report.whole.clone(), report.unlistable.len())
}

/// Repairs and asserts what always holds. Returns whether all is whole then.
fn repair(case: &str, memory: &MemoryBackend, repairing: Repairing<'_>, writing: WriterOptions) -> bool {
    let before = fingerprint(memory);
    let copies_before: Vec<_> = repairing.copies.iter().map(fingerprint).collect();
    let plan = repair_plan(memory.clone(), repairing, writing).unwrap_or_else(|error| panic!("{case}: {error}"));
    let expected = damage(&plan.remaining);
    let is_clean = plan.remaining.is_clean();
    drop(plan);
    assert_eq!(fingerprint(memory), before, "{case}: a plan changed something");
    let report = repair_with(memory.clone(), repairing, writing).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(report.not_done, [] as [String; 0], "{case}");
    let copies_after: Vec<_> = repairing.copies.iter().map(fingerprint).collect();
    assert_eq!(copies_after, copies_before, "{case}: a copy changed");
    assert!(!memory.paths().iter().any(|path| path.starts_with("tmp/")), "{case}");
    // What it says is what there is, and durable.
    let durable = memory.crash(Crash::LoseAll);
    for memory in [&durable, memory] {
        let found = check(memory.clone()).unwrap();
        assert_eq!(damage(&found), expected, "{case}");
        assert_eq!(found.is_clean(), is_clean, "{case}");
    }
    let again = repair_plan(memory.clone(), repairing, writing).unwrap();
    assert!(again.is_nothing(), "{case}: a second run has something to do: {again:?}");
    is_clean
}

#[test]
fn what_is_whole_is_left_alone() {
    let bed = Bed::new();
    for memory in [bed.copy(), MemoryBackend::new()] {
        if memory.paths().is_empty() {
            World::new(memory.clone());
        }
        // It leaves a note of what is whole.
        check(memory.clone()).unwrap();
        let before = fingerprint(&memory);
        for copies in [vec![], vec![bed.copy()], vec![bed.other()]] {
            let directory = Some(bed.sources[0].path());
            let repairing = Repairing { copies: &copies, directory, remove: true };
            let plan = repair_plan(memory.clone(), repairing, USUAL).unwrap();
            assert!(plan.is_nothing() && plan.remaining.is_clean(), "{plan:?}");
            assert!(repair("whole", &memory, repairing, USUAL));
            assert_eq!(fingerprint(&memory), before);
        }
    }
}

#[test]
fn every_damage_to_every_file_is_mended_from_a_copy_and_from_another_repository() {
    let bed = Bed::new();
    let mut cases = 0;
    for (source, other) in [("a copy", bed.copy()), ("another repository", bed.other())] {
        for path in bed.files() {
            for kind in HARMS {
                let case = format!("{path} {kind:?}, from {source}");
                let memory = bed.copy();
                harm(&memory, &path, kind);
                let copies = [other.clone()];
                let writing = if cases % 2 == 0 { USUAL } else { PACKED };
                let repairing = Repairing { copies: &copies, ..Repairing::default() };
                assert!(repair(&case, &memory, repairing, writing), "{case}");
                bed.assert_all_restore(&case, &memory);
                cases += 1;
            }
        }
    }
    assert!(cases > 150, "{cases}");
}

#[test]
fn what_the_directory_still_has_is_mended_and_the_rest_is_named() {
    let bed = Bed::new();
    let (mut whole, mut lacking) = (0, 0);
    for path in bed.files() {
        for kind in HARMS {
            let case = format!("{path} {kind:?}, from the directory");
            let memory = bed.copy();
            harm(&memory, &path, kind);
            let last = Repairing { directory: Some(bed.sources[2].path()), ..Repairing::default() };
            let is_whole = repair(&case, &memory, last, USUAL);
            // Every file is still there: what may lack are directories that were otherwise before.
            let report = check(memory.clone()).unwrap();
            assert!(report.whole.contains(&3), "{case}: {report:?}");
            if is_whole {
                whole += 1;
                bed.assert_all_restore(&case, &memory);
            } else {
                lacking += 1;
                assert!(path.contains("trees"), "{case}");
                // Those are found in what was taken before.
                let first = Repairing { directory: Some(bed.sources[0].path()), ..Repairing::default() };
                let second = Repairing { directory: Some(bed.sources[1].path()), ..Repairing::default() };
                repair(&case, &memory, first, USUAL);
                assert!(repair(&case, &memory, second, USUAL), "{case}");
                bed.assert_all_restore(&case, &memory);
            }
        }
    }
    assert!(whole > 80 && lacking > 5, "{whole}, {lacking}");
}

#[test]
fn with_nothing_else_what_is_whole_in_a_damaged_pack_is_saved_and_the_rest_is_named() {
    let bed = Bed::new();
    let (mut whole, mut lacking) = (0, 0);
    for path in bed.files() {
        for kind in HARMS {
            let case = format!("{path} {kind:?}, from nothing");
            let memory = bed.copy();
            harm(&memory, &path, kind);
            if repair(&case, &memory, Repairing::default(), USUAL) {
                whole += 1;
                bed.assert_all_restore(&case, &memory);
                continue;
            }
            lacking += 1;
            // Giving up what cannot be made whole leaves a whole repository.
            let before = check(memory.clone()).unwrap().whole;
            let giving_up = Repairing { remove: true, ..Repairing::default() };
            assert!(repair(&case, &memory, giving_up, USUAL), "{case}");
            let repo = open(memory.clone()).unwrap();
            let left: Vec<u64> = repo.snapshots().unwrap().snapshots.iter().map(|snapshot| snapshot.number).collect();
            assert_eq!(left, before, "{case}");
            for number in left {
                assert_eq!(read_back(&repo, number).unwrap(), bed.world.taken[&number], "{case}");
            }
            drop(repo);
            let next = take_with(memory.clone(), bed.sources[0].path(), PACKED).unwrap();
            assert_eq!(next.snapshot.number, 4, "{case}");
            assert!(check(memory.clone()).unwrap().is_clean(), "{case}");
        }
    }
    // The index and the footer of a pack, and much of a frame, can be done without.
    assert!(whole > 10 && lacking > 50, "{whole}, {lacking}");
}

/// If its index is damaged, what was in it and is not whole is not known by name. So it stays while anything is missing.
#[test]
fn a_pack_of_which_not_all_is_known_stays_while_anything_is_missing() {
    let bed = Bed::new();
    let mut stayed = 0;
    for path in bed.files().into_iter().filter(|path| path.starts_with(layout::PACKS)) {
        for at in [30, 300, 700] {
            let case = format!("{path}, {at}");
            let memory = bed.copy();
            harm(&memory, &path, Harm::FlippedEnd(3));
            harm(&memory, &path, Harm::Flipped(at));
            if !repair(&case, &memory, Repairing::default(), USUAL) {
                assert!(memory.contents(&path).is_some(), "{case}");
                stayed += 1;
            }
        }
    }
    assert!(stayed > 3, "{stayed}");
}

#[test]
fn many_damages_at_once_are_mended_from_several_places() {
    let bed = Bed::new();
    let files = bed.files();
    for seed in 0..40_usize {
        let memory = bed.copy();
        let copies = [bed.copy(), bed.other()];
        for (at, path) in files.iter().enumerate() {
            let kind = HARMS[(seed * 7 + at * 3) % HARMS.len()];
            // What one copy lacks the other has, since its files are others.
            match (seed + at) % 3 {
                0 => harm(&memory, path, kind),
                1 => harm(&copies[0], path, kind),
                _ => {
                    harm(&memory, path, kind);
                    harm(&copies[0], path, kind);
                }
            }
        }
        let case = format!("seed {seed}");
        let writing = if seed % 2 == 0 { USUAL } else { PACKED };
        assert!(repair(&case, &memory, Repairing { copies: &copies, ..Repairing::default() }, writing), "{case}");
        bed.assert_all_restore(&case, &memory);
    }
}

#[test]
fn damaged_refs_and_the_configuration_come_only_from_a_copy_of_this_repository() {
    let bed = Bed::new();
    for (path, unreadable) in [("snapshots/2.json", Some(2)), (layout::CONFIG, None)] {
        for kind in [Harm::Emptied, Harm::Halved, Harm::Flipped(20), Harm::Flipped(500), Harm::FlippedEnd(20)] {
            let case = format!("{path} {kind:?}");
            let memory = bed.copy();
            harm(&memory, path, kind);
            let others = [bed.other()];
            let from_other = Repairing { copies: &others, ..Repairing::default() };
            let before = fingerprint(&memory);
            if let Some(number) = unreadable {
                let plan = repair_plan(memory.clone(), from_other, USUAL).unwrap();
                assert_eq!(plan.remaining.unreadable[0].0, number, "{case}");
                assert!(plan.is_nothing(), "{case}: {plan:?}");
            } else {
                let error = repair_plan(memory.clone(), from_other, USUAL).unwrap_err();
                assert!(matches!(error, Error::Refused { .. } | Error::TooNew { .. }), "{case}: {error}");
            }
            assert_eq!(fingerprint(&memory), before, "{case}");
            let copies = [bed.other(), bed.copy()];
            assert!(repair(&case, &memory, Repairing { copies: &copies, ..Repairing::default() }, USUAL), "{case}");
            assert_eq!(memory.contents(path), bed.world.memory.contents(path), "{case}");
            bed.assert_all_restore(&case, &memory);
        }
    }
}

#[test]
fn damaged_labels_come_only_from_a_copy_of_this_repository_that_has_some() {
    const LABELS: &str = "snapshots/2.labels.json";
    let bed = Bed::new();
    let bare = bed.copy();
    bare.remove(LABELS).unwrap();
    put_labels(&bare, 1, &labelled("of another snapshot"));
    let other = bed.other();
    put_labels(&other, 2, &labelled("of another repository"));
    let ruined = bed.copy();
    harm(&ruined, LABELS, Harm::Halved);
    for kind in [Harm::Emptied, Harm::Halved, Harm::Flipped(20), Harm::Flipped(500), Harm::FlippedEnd(20)] {
        let case = format!("{kind:?}");
        let memory = bed.copy();
        harm(&memory, LABELS, kind);
        let vain = [other.clone(), bare.clone(), ruined.clone()];
        assert!(!repair(&case, &memory, Repairing { copies: &vain, ..Repairing::default() }, USUAL), "{case}");
        assert_eq!(open(memory.clone()).unwrap().labels(1).unwrap(), Labels::default(), "{case}");
        let [first, second, third] = vain;
        let copies = [first, second, third, bed.copy()];
        assert!(repair(&case, &memory, Repairing { copies: &copies, ..Repairing::default() }, USUAL), "{case}");
        assert_eq!(memory.contents(LABELS), bed.world.memory.contents(LABELS), "{case}");
    }
    // What is whole here is newer than what a copy has, or was taken away.
    let memory = bed.copy();
    put_labels(&memory, 2, &labelled("changed"));
    let copies = [bed.copy(), bare];
    assert!(repair("whole", &memory, Repairing { copies: &copies, ..Repairing::default() }, USUAL));
    let labels = |number| open(memory.clone()).unwrap().labels(number).unwrap();
    assert_eq!([1, 2].map(labels), [Labels::default(), labelled("changed")]);
}

#[test]
fn a_pin_that_comes_from_a_copy_keeps_its_snapshot() {
    let bed = Bed::new();
    let [memory, copy, unpinned] = [bed.copy(), bed.copy(), bed.copy()];
    put_labels(&copy, 2, &Labels { pinned: true, ..labelled("kept") });
    [&memory, &copy, &unpinned].into_iter().for_each(ruin_objects);
    harm(&memory, "snapshots/2.labels.json", Harm::Halved);
    let copies = [copy];
    let removing = Repairing { copies: &copies, remove: true, ..Repairing::default() };
    let before = fingerprint(&memory);
    let error = repair_plan(memory.clone(), removing, USUAL).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains("pinned"), "{error}");
    assert_eq!(fingerprint(&memory), before);
    // Without its labels nobody knows of the pin, and of what is removed no labels are brought.
    let plan = repair_plan(memory, Repairing { copies: &[unpinned], ..removing }, USUAL).unwrap();
    assert_eq!((plan.remove, plan.labels.len()), (vec![1, 2, 3], 0));
}

#[test]
fn labels_come_from_the_first_copy_that_has_those_of_the_same_snapshot() {
    let bed = Bed::new();
    let memory = bed.copy();
    for path in ["snapshots/2.json", "snapshots/2.labels.json"] {
        harm(&memory, path, Harm::Halved);
    }
    // One has the ref alone, one has both, and one has others.
    let (bare, changed) = (bed.copy(), bed.copy());
    bare.remove("snapshots/2.labels.json").unwrap();
    put_labels(&changed, 2, &labelled("older"));
    let copies = [bare, bed.copy(), changed];
    assert!(repair("in turn", &memory, Repairing { copies: &copies, ..Repairing::default() }, USUAL));
    assert_eq!(open(memory.clone()).unwrap().labels(2).unwrap(), labelled("kept"));

    // A copy that went its own way has another snapshot of this number.
    let (memory, copy) = (bed.copy(), bed.copy());
    for (memory, source) in [(&memory, &bed.sources[0]), (&copy, &bed.sources[1])] {
        take_with(memory.clone(), source.path(), LOOSE).unwrap();
        put_labels(memory, 4, &labelled("kept"));
    }
    harm(&memory, "snapshots/4.labels.json", Harm::Halved);
    let whole = memory.contents("snapshots/4.json").unwrap();
    memory.set_contents("snapshots/4.json", newer(&whole)).unwrap();
    let plan = repair_plan(memory, Repairing { copies: &[copy], ..Repairing::default() }, USUAL).unwrap();
    assert!(plan.is_nothing(), "{plan:?}");
}

#[test]
fn whole_and_newer_labels_stay_though_all_refs_are_lost() {
    let bed = Bed::new();
    let memory = bed.copy();
    put_labels(&memory, 1, &labelled("of this one"));
    let newer = newer(&memory.contents("snapshots/2.labels.json").unwrap());
    memory.set_contents("snapshots/2.labels.json", newer.clone()).unwrap();
    lose_refs(&memory);
    let copy = bed.copy();
    put_labels(&copy, 1, &labelled("of the copy"));
    put_labels(&copy, 3, &labelled("lost"));
    let copies = [copy];
    let from = Repairing { copies: &copies, ..Repairing::default() };
    assert_eq!(repair_plan(memory.clone(), from, USUAL).unwrap().labels.len(), 1);
    assert!(!repair("all lost", &memory, from, USUAL));
    assert_eq!(memory.contents("snapshots/2.labels.json").unwrap(), newer);
    let labels = |number| open(memory.clone()).unwrap().labels(number).unwrap();
    assert_eq!([1, 3].map(labels), [labelled("of this one"), labelled("lost")]);
}

#[test]
fn labels_that_are_mended_between_plan_and_repair_stay() {
    // By other ones, and by taking them away.
    for mended in [labelled("mended"), Labels::default()] {
        let bed = Bed::new();
        let (memory, copies) = (bed.copy(), [bed.copy()]);
        harm(&memory, "snapshots/2.labels.json", Harm::Emptied);
        let (other, labels) = (memory.clone(), mended.clone());
        let hooked = FaultBackend::hooked(memory.clone(), move |operation, path| {
            // The repair is about to keep others from changing labels.
            if operation == "create_dir" && path == "tmp/labels" {
                put_labels(&other, 2, &labels);
            }
            Ok(())
        });
        repair_with(hooked, Repairing { copies: &copies, ..Repairing::default() }, USUAL).unwrap();
        assert_eq!(open(memory).unwrap().labels(2).unwrap(), mended);
    }
}

#[test]
fn a_lost_configuration_comes_back_where_a_ref_shows_that_it_is_the_same_repository() {
    let bed = Bed::new();
    let memory = bed.copy();
    memory.remove(layout::CONFIG).unwrap();
    for copies in [vec![], vec![bed.other()]] {
        let error = repair_plan(memory.clone(), Repairing { copies: &copies, ..Repairing::default() }, USUAL);
        assert!(matches!(error.unwrap_err(), Error::Refused { .. }));
    }
    assert!(repair("lost", &memory, Repairing { copies: &[bed.copy()], ..Repairing::default() }, USUAL));
    bed.assert_all_restore("lost", &memory);
    // Where there is nothing, there is no repository.
    let empty = MemoryBackend::new();
    let error = repair_plan(empty.clone(), Repairing { copies: &[bed.copy()], ..Repairing::default() }, USUAL);
    assert!(matches!(error.unwrap_err(), Error::NoRepository { .. }));
    assert!(empty.paths().is_empty());
}

#[test]
fn lost_snapshots_come_back_from_a_copy_and_what_may_have_been_removed_does_not() {
    let bed = Bed::new();
    let memory = bed.copy();
    lose_refs(&memory);
    memory.remove("snapshots/2.labels.json").unwrap();
    let copies = [bed.copy()];
    let from = Repairing { copies: &copies, ..Repairing::default() };
    assert!(repair("all lost", &memory, from, USUAL));
    bed.assert_all_restore("all lost", &memory);
    assert_eq!(open(memory.clone()).unwrap().labels(2).unwrap(), labelled("kept"));

    prune_with(memory.clone(), &[1, 2], USUAL).unwrap();
    let plan = repair_plan(memory.clone(), from, USUAL).unwrap();
    assert!(plan.is_nothing() && plan.remaining.is_clean(), "{plan:?}");
    assert_eq!(plan.not_here, [1]);
}

#[test]
fn a_copy_that_went_its_own_way_gives_objects_and_no_refs() {
    let bed = Bed::new();
    let [first, second, _] = &bed.sources;
    let (memory, copy) = (bed.copy(), bed.copy());
    for (memory, sources) in [(&memory, [first, second]), (&copy, [second, first])] {
        for source in sources {
            take_with(memory.clone(), source.path(), LOOSE).unwrap();
        }
    }
    let is_object = |path: &String| path.starts_with("objects/");
    let object = memory.paths().into_iter().find(is_object).unwrap();
    harm(&memory, &object, Harm::Emptied);
    harm(&memory, "snapshots/5.json", Harm::Emptied);
    let from = Repairing { copies: &[copy], ..Repairing::default() };
    assert!(!repair("diverged", &memory, from, USUAL));
    let report = check(memory).unwrap();
    assert_eq!((report.whole, report.unreadable[0].0), (vec![1, 2, 3, 4], 5));
}

#[test]
fn copies_that_disagree_with_each_other_give_refs_of_one_history() {
    let bed = Bed::new();
    let (memory, one, other) = (bed.copy(), bed.copy(), bed.copy());
    take_with(one.clone(), bed.sources[0].path(), LOOSE).unwrap();
    for _ in 4..=5 {
        take_with(other.clone(), bed.sources[1].path(), LOOSE).unwrap();
    }
    lose_refs(&memory);
    let plan = repair_plan(memory, Repairing { copies: &[one, other], ..Repairing::default() }, USUAL).unwrap();
    let numbers: Vec<_> = plan.refs.iter().map(|brought| brought.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4], "5 is of a copy that has another 4");
}

#[test]
fn a_ref_that_is_newer_shows_as_well_that_a_copy_went_its_own_way() {
    for newer_one in 0..2 {
        let bed = Bed::new();
        let both = [bed.copy(), bed.copy()];
        for (memory, source) in both.iter().zip(&bed.sources) {
            for _ in 4..=5 {
                take_with(memory.clone(), source.path(), LOOSE).unwrap();
            }
        }
        let whole = both[newer_one].contents("snapshots/4.json").unwrap();
        both[newer_one].set_contents("snapshots/4.json", newer(&whole)).unwrap();
        let [memory, copy] = both;
        harm(&memory, "snapshots/5.json", Harm::Halved);
        let plan = repair_plan(memory, Repairing { copies: &[copy], ..Repairing::default() }, USUAL).unwrap();
        assert_eq!(plan.refs, []);
    }
}

#[test]
fn a_pin_in_any_copy_keeps_its_snapshot() {
    let bed = Bed::new();
    let [memory, old, new] = [bed.copy(), bed.copy(), bed.copy()];
    put_labels(&old, 2, &labelled("not yet kept"));
    put_labels(&new, 2, &Labels { pinned: true, ..labelled("kept") });
    [&memory, &old, &new].into_iter().for_each(ruin_objects);
    harm(&memory, "snapshots/2.labels.json", Harm::Halved);
    let copies = [old, new];
    let removing = Repairing { copies: &copies, remove: true, ..Repairing::default() };
    let assert_refused = || {
        let error = repair_plan(memory.clone(), removing, USUAL).unwrap_err();
        assert!(error.to_string().contains("snapshot 2: it is pinned"), "{error}");
    };
    assert_refused();
    // What the error says to do brings the pin back.
    assert!(!repair("kept", &memory, Repairing { remove: false, ..removing }, USUAL));
    assert!(open(memory.clone()).unwrap().labels(2).unwrap().pinned);
    assert_refused();
}

#[test]
fn lost_refs_come_back_where_there_are_only_packs_and_not_where_there_is_nothing() {
    let source = &sources()[0];
    let memory = MemoryBackend::new();
    init(memory.clone()).unwrap();
    let empty = memory.crash(Crash::KeepAll);
    take_with(memory.clone(), source.path(), PACKED).unwrap();
    put_labels(&memory, 1, &labelled("kept"));
    let copies = [memory.crash(Crash::KeepAll)];
    let from = Repairing { copies: &copies, ..Repairing::default() };
    memory.remove("snapshots/1.json").unwrap();
    memory.remove("snapshots/1.labels.json").unwrap();
    let brought = |memory| repair_plan(memory, from, USUAL).unwrap().refs.len();
    assert_eq!(brought(memory.crash(Crash::KeepAll)), 1);
    assert_eq!(brought(empty), 0, "it never had a snapshot");
    let mended = memory.crash(Crash::KeepAll);
    repair_with(mended.clone(), from, USUAL).unwrap();
    assert_eq!(open(mended).unwrap().labels(1).unwrap(), labelled("kept"));
    ruin_objects(&memory);
    assert_eq!(brought(memory), 1, "packs that cannot be used were used");
}

#[test]
fn a_snapshot_that_takes_the_number_of_a_lost_one_stays_and_gets_none_of_its_labels() {
    // Between the plan and what it does, while the first ref is written, and when there are higher ones by now: by who had
    // looked for a number before.
    let apart = Bed::new();
    let of_other = apart.copy();
    lose_refs(&of_other);
    of_other.remove("snapshots/2.labels.json").unwrap();
    forget_snapshots(&of_other);
    take_with(of_other.clone(), apart.sources[1].path(), LOOSE).unwrap();
    let other_ref = of_other.contents("snapshots/1.json").unwrap();
    for at in [("create_dir", "tmp/"), ("create", "/ref-3"), ("create", "/ref-1")] {
        let bed = Bed::new();
        let (memory, copy) = (bed.copy(), bed.copy());
        put_labels(&copy, 1, &Labels { pinned: true, ..labelled("of the lost one") });
        lose_refs(&memory);
        memory.remove("snapshots/2.labels.json").unwrap();
        forget_snapshots(&memory);
        let (other, source, is_taken) = (memory.clone(), bed.sources[1].path().to_path_buf(), AtomicBool::new(false));
        let other_ref = other_ref.clone();
        let hooked = FaultBackend::hooked(memory.clone(), move |operation, path| {
            if operation == at.0 && path.contains(at.1) && !is_taken.swap(true, Ordering::Relaxed) {
                if at.1 == "/ref-1" {
                    assert!(other.contents("snapshots/1.labels.json").is_some(), "labels come first");
                    other.set_contents("snapshots/1.json", other_ref.clone()).unwrap();
                } else {
                    take_with(other.clone(), &source, LOOSE).unwrap();
                }
            }
            Ok(())
        });
        let report = repair_with(hooked, Repairing { copies: &[copy], ..Repairing::default() }, USUAL).unwrap();
        assert!(report.not_done.len() == 1 && report.not_done[0].contains("number 1"), "{report:?}");
        let repo = open(memory).unwrap();
        assert_eq!(repo.snapshots().unwrap().snapshots.len(), 3);
        assert_eq!(read_back(&repo, 1).unwrap(), bed.world.taken[&2], "what was taken of the second source");
        assert_eq!(repo.labels(1).unwrap(), Labels::default());
        assert_eq!(repo.labels(2).unwrap(), labelled("kept"));
    }
}

#[test]
fn what_a_copy_knows_to_be_removed_does_not_come_back_and_its_number_is_not_used_again() {
    let bed = Bed::new();
    let (memory, old, new) = (bed.copy(), bed.copy(), bed.copy());
    prune_with(new.clone(), &[3], USUAL).unwrap();
    lose_refs(&memory);
    let copies = [old, new];
    assert!(repair("pruned", &memory, Repairing { copies: &copies, ..Repairing::default() }, USUAL));
    let refs = open(memory.clone()).unwrap().refs().unwrap();
    assert_eq!((refs.snapshots, refs.pruned), (vec![1, 2], vec![3]));
    assert_eq!(take_with(memory, bed.sources[0].path(), LOOSE).unwrap().snapshot.number, 4);
}

#[test]
fn labels_that_are_damaged_count_as_a_pin_and_newer_ones_are_not_judged() {
    let bed = Bed::new();
    let memory = bed.copy();
    put_labels(&memory, 1, &labelled("of this one"));
    let newer = newer(&memory.contents("snapshots/1.labels.json").unwrap());
    ruin_objects(&memory);
    let remove = |memory| repair_plan(memory, Repairing { remove: true, ..Repairing::default() }, USUAL);
    harm(&memory, "snapshots/1.labels.json", Harm::Halved);
    let error = remove(memory.clone()).unwrap_err();
    assert!(error.to_string().contains("prune --snapshot=1"), "{error}");
    memory.set_contents("snapshots/1.labels.json", newer).unwrap();
    assert!(matches!(remove(memory), Err(Error::TooNew { .. })));
}

#[test]
fn a_repository_with_another_hash_is_refused() {
    let bed = Bed::new();
    let options = InitOptions { hash: HashAlgorithm::Sha256, ..InitOptions::default() };
    let other = World::with_init(MemoryBackend::new(), &options).memory;
    let error = repair_plan(bed.copy(), Repairing { copies: &[other], ..Repairing::default() }, USUAL).unwrap_err();
    assert!(error.to_string().contains("sha256"), "{error}");
}

#[test]
fn nothing_comes_in_that_does_not_verify() {
    let bed = Bed::new();
    for path in bed.files() {
        for kind in HARMS {
            // What the copy has is damaged in the same or another way.
            for of_copy in [Harm::Flipped(300), Harm::FlippedEnd(60), Harm::Replaced] {
                let (memory, copy) = (bed.copy(), bed.copy());
                harm(&memory, &path, kind);
                harm(&copy, &path, of_copy);
                let case = format!("{path} {kind:?}, from one with {of_copy:?}");
                repair(&case, &memory, Repairing { copies: &[copy], ..Repairing::default() }, USUAL);
                let repo = open(memory.clone()).unwrap();
                for number in check(memory.clone()).unwrap().whole {
                    assert_eq!(read_back(&repo, number).unwrap(), bed.world.taken[&number], "{case}");
                }
            }
        }
    }
}

/// A pack whose bytes give its name, and whose index says of an object that it has other content.
#[test]
fn a_pack_that_lies_about_what_is_in_it_is_not_taken() {
    let bed = Bed::new();
    let wanted = HashAlgorithm::Blake3.hash(b"new");
    let memory = bed.copy();
    for path in bed.files().iter().filter(|path| path.contains("blobs")) {
        harm(&memory, path, Harm::Deleted);
    }
    let copy = bed.copy();
    for path in bed.files() {
        copy.remove(&path).unwrap();
    }
    let mut tar = member_header(wanted, 3).to_vec();
    tar.extend_from_slice(b"bad");
    tar.resize(1024, 0);
    let frames = [codec::compress(&tar).unwrap(), codec::compress(&[0; 1024]).unwrap()];
    let entries = frames.iter().zip([1, 0]);
    let entry = |(frame, objects): (&Vec<u8>, u32)| FrameEntry { length: u32::try_from(frame.len()).unwrap(), objects };
    let index = PackIndex { members: vec![Member { id: wanted, length: 3 }], frames: entries.map(entry).collect() };
    let bytes = [frames.concat(), index.encode(HashAlgorithm::Blake3)].concat();
    let name = PackName { hash: HashAlgorithm::Blake3.hash(&bytes), kind: PackKind::Blobs };
    copy.set_contents(&name.path(), bytes).unwrap();
    assert!(!repair("a lie", &memory, Repairing { copies: &[copy], ..Repairing::default() }, USUAL));
    assert!(memory.contents(&name.path()).is_none());
    assert!(check(memory).unwrap().damaged.contains_key(&wanted));
}

#[test]
fn an_index_that_misleads_is_written_anew() {
    let bed = Bed::new();
    let memory = bed.copy();
    pack_with(memory.clone(), PACKED).unwrap();
    let good = memory.contents(layout::INDEX).unwrap();
    for at in (0..good.len()).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 16;
        memory.set_contents(layout::INDEX, bad).unwrap();
        let case = format!("byte {at}");
        assert!(repair(&case, &memory, Repairing::default(), USUAL), "{case}");
        assert_eq!(memory.contents(layout::INDEX).as_ref(), Some(&good), "{case}");
    }
}

#[test]
fn what_check_has_recorded_is_taken_back_when_it_is_mended() {
    let bed = Bed::new();
    let memory = bed.copy();
    for path in bed.files().iter().filter(|path| path.contains("blobs")) {
        harm(&memory, path, Harm::Flipped(300));
    }
    assert!(!check(memory.clone()).unwrap().is_clean());
    assert!(memory.contents(layout::DAMAGED).is_some());
    assert!(repair("recorded", &memory, Repairing { copies: &[bed.copy()], ..Repairing::default() }, USUAL));
    assert!(memory.contents(layout::DAMAGED).is_none());
}

/// Much that is damaged, of which each step of a repair has something to do: a pack to salvage, one to replace by a
/// copy's, lost and damaged loose objects, a ref, labels, an index, a record.
fn ruin(bed: &Bed) -> MemoryBackend {
    let memory = bed.copy();
    let files = bed.files();
    let [blobs, trees] = ["blobs", "trees"].map(|kind| files.iter().filter(move |path| path.contains(kind)));
    let blobs: Vec<_> = blobs.collect();
    harm(&memory, blobs[0], Harm::Flipped(300));
    harm(&memory, blobs[1], Harm::FlippedEnd(3));
    for (path, kind) in trees.zip([Harm::Deleted, Harm::Halved]) {
        harm(&memory, path, kind);
    }
    let loose = files.iter().filter(|path| path.starts_with("objects/"));
    for (path, kind) in loose.zip([Harm::Emptied, Harm::Deleted, Harm::Flipped(500)]) {
        harm(&memory, path, kind);
    }
    assert!(!check(memory.clone()).unwrap().is_clean());
    harm(&memory, "snapshots/1.json", Harm::Halved);
    harm(&memory, "snapshots/2.labels.json", Harm::Flipped(500));
    memory
}

/// After whatever stopped a repair: what was whole is whole, and the next repair does the rest.
fn verify_after(case: &str, bed: &Bed, before: &CheckReport, memory: &MemoryBackend, copies: &[MemoryBackend]) {
    // A snapshot that is taken before any check relies on nothing that is damaged.
    let apart = memory.crash(Crash::KeepAll);
    let next =
        take_with(apart.clone(), bed.sources[2].path(), PACKED).unwrap_or_else(|error| panic!("{case}: {error}"));
    let found =
        read_back(&open(apart).unwrap(), next.snapshot.number).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(found.differences(&bed.sources[2].model), [] as [String; 0], "{case}");
    let report = check(memory.clone()).unwrap_or_else(|error| panic!("{case}: {error}"));
    for number in &before.whole {
        assert!(report.whole.contains(number), "{case}: snapshot {number} was whole");
    }
    let from = Repairing { copies, ..Repairing::default() };
    repair_with(memory.clone(), from, PACKED).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(check(memory.clone()).unwrap().is_clean(), "{case}");
    assert!(repair_plan(memory.clone(), from, PACKED).unwrap().is_nothing(), "{case}");
    bed.assert_all_restore(case, memory);
}

#[test]
fn a_repair_can_stop_anywhere() {
    let bed = Bed::new();
    let (mut run, mut verified) = (0, 0);
    for (name, copies, writing) in [
        ("from a copy", vec![bed.copy()], PACKED),
        ("from another repository, to packs", vec![bed.other(), bed.copy()], PACKED),
        ("from another repository, loose", vec![bed.other(), bed.copy()], LOOSE),
    ] {
        let base = ruin(&bed);
        let before = check(base.clone()).unwrap();
        let from = Repairing { copies: &copies, ..Repairing::default() };
        let counted = FaultBackend::new(Arc::new(base.crash(Crash::KeepAll)), Plan::None);
        repair_with(counted.clone(), from, writing).unwrap();
        let sweep = Sweep::new(&bed.sources[0], 1);
        for (n, step) in (1..).zip(counted.log()) {
            for plan in [Plan::FailOnce(n), Plan::FailFrom(n), Plan::TornFrom(n)] {
                if matches!(plan, Plan::TornFrom(_)) && !step.contains(" append ") {
                    continue;
                }
                for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
                    let memory = base.crash(Crash::KeepAll);
                    let faults = FaultBackend::failing_with(Arc::new(memory.clone()), plan, kind);
                    let done = repair_with(faults.clone(), from, writing).is_ok();
                    assert!(faults.fired(), "{name}: {plan:?} of {step} never came");
                    for crash in sweep.crashes(n, kind) {
                        let after = memory.crash(crash);
                        run += 1;
                        if sweep.is_new(&after, done) {
                            verified += 1;
                            let case = format!("{name}: {plan:?} ({kind}) of {step}, {crash:?}, done: {done}");
                            verify_after(&case, &bed, &before, &after, &copies);
                        }
                    }
                }
            }
        }
    }
    println!("{run} cases, {verified} of them verified");
    assert!(run >= 5000 && verified >= 100, "{run}, {verified}");
}

#[test]
fn a_repair_can_be_interrupted_anywhere() {
    let bed = Bed::new();
    let base = ruin(&bed);
    let before = check(base.clone()).unwrap();
    let copies = [bed.other(), bed.copy()];
    let from = Repairing { copies: &copies, directory: Some(bed.sources[0].path()), ..Repairing::default() };
    let counted = FaultBackend::new(Arc::new(base.crash(Crash::KeepAll)), Plan::None);
    repair_with(counted.clone(), from, PACKED).unwrap();
    let sweep = Sweep::new(&bed.sources[0], 0);
    let mut interrupted = 0;
    for n in 1..=counted.operations() {
        let (memory, session) = (base.crash(Crash::KeepAll), session());
        let (interruption, steps) = (session.interruption.clone(), AtomicU64::new(0));
        let hooked = FaultBackend::hooked(memory.clone(), move |_, _| {
            if steps.fetch_add(1, Ordering::Relaxed) + 1 == n {
                interruption.request();
            }
            Ok(())
        });
        let case = format!("interrupted at {n}");
        let done = match repair_in(&session, hooked, from, PACKED) {
            Ok(report) => {
                assert!(report.not_done.is_empty(), "{case}: {report:?}");
                assert!(check(memory.clone()).unwrap().is_clean(), "{case}");
                true
            }
            Err(error) => {
                assert!(error.is_interrupted(), "{case}: {error}");
                interrupted += 1;
                false
            }
        };
        assert!(!memory.paths().iter().any(|path| path.starts_with("tmp/")), "{case}");
        if sweep.is_new(&memory, done) {
            verify_after(&case, &bed, &before, &memory, &copies);
        }
    }
    assert!(interrupted > 100, "{interrupted}");
}

#[test]
fn a_repair_on_a_full_disk_leaves_what_was_there_and_goes_on_later() {
    let bed = Bed::new();
    let base = ruin(&bed);
    let before = check(base.clone()).unwrap();
    let copies = [bed.other(), bed.copy()];
    let from = Repairing { copies: &copies, ..Repairing::default() };
    for writing in [PACKED, LOOSE] {
        for first in 1.. {
            let memory = base.crash(Crash::KeepAll);
            let case = format!("full from write {first} on");
            let result = repair_with(full_from(&memory, first), from, writing);
            assert!(!memory.paths().iter().any(|path| path.starts_with("tmp/")), "{case}");
            match result {
                Ok(report) => {
                    // The disk became full after all that needs space.
                    assert!(first > 8 && report.not_done.is_empty(), "{case}: {report:?}");
                    assert!(check(memory.clone()).unwrap().is_clean(), "{case}");
                    bed.assert_all_restore(&case, &memory);
                    break;
                }
                Err(error) => {
                    assert!(error.is_full(), "{case}: {error}");
                    verify_after(&case, &bed, &before, &memory, &copies);
                }
            }
        }
    }
}

/// Another process that does all of its work before the Nth step of a repair.
#[test]
fn others_may_work_beside_a_repair() {
    let bed = Bed::new();
    let base = ruin(&bed);
    let copies = [bed.copy()];
    let again = Source::new(bed.sources[1].model.clone().file("more", noise(200, 700)));
    let counted = FaultBackend::new(Arc::new(base.crash(Crash::KeepAll)), Plan::None);
    repair_with(counted.clone(), Repairing { copies: &copies, ..Repairing::default() }, PACKED).unwrap();
    // Also when the one lock is given back and the other not yet there: then what was relied on may go.
    let is_tried = |n: u64, step: &str| slow() || n % 7 == 1 || step.contains(" lock, Exclusive");
    let steps: Vec<u64> = (1..).zip(counted.log()).filter(|(n, step)| is_tried(*n, step)).map(|(n, _)| n).collect();
    let mut done = [0; 4];
    for (other, done) in done.iter_mut().enumerate() {
        for n in steps.iter().copied() {
            let case = format!("{other} before step {n}");
            let memory = base.crash(Crash::KeepAll);
            let steps = AtomicU64::new(0);
            let of_other: Arc<Mutex<Option<Result<()>>>> = Arc::default();
            let (below, source, result) = (memory.clone(), again.path().to_path_buf(), Arc::clone(&of_other));
            let hooked = FaultBackend::hooked(memory.clone(), move |_, _| {
                if steps.fetch_add(1, Ordering::Relaxed) + 1 == n {
                    let work = || match other {
                        0 => take_with(below.clone(), &source, PACKED).map(|_| ()),
                        1 => pack_with(below.clone(), PACKED).map(|_| ()),
                        2 => check(below.clone()).map(|_| ()),
                        _ => prune_with(below.clone(), &[2], PACKED).map(|_| ()),
                    };
                    // By a thread of its own: one of the pool that waits would do the repair's other work meanwhile,
                    // with the locks that it holds here.
                    let work = thread::scope(|scope| scope.spawn(work).join().unwrap());
                    *result.lock().unwrap() = Some(work);
                }
                Ok(())
            });
            let from = Repairing { copies: &copies, ..Repairing::default() };
            let report = repair_with(hooked, from, PACKED);
            let worked = of_other.lock().unwrap().take().is_some_and(|work| work.is_ok());
            *done += u32::from(worked);
            // It need not have got everything, but the next one does.
            drop(report);
            repair_with(memory.clone(), from, PACKED).unwrap_or_else(|error| panic!("{case}: {error}"));
            let found = check(memory.clone()).unwrap();
            assert!(found.is_clean(), "{case}: {found:?}");
            let repo = open(memory.clone()).unwrap();
            for number in &found.whole {
                let model = bed.world.taken.get(number).unwrap_or(&again.model);
                assert_eq!(read_back(&repo, *number).unwrap().differences(model), [] as [String; 0], "{case}");
            }
            let expected = [1, 2, 3, 4].into_iter().filter(|number| match number {
                2 => other != 3 || !worked,
                4 => other == 0 && worked,
                _ => true,
            });
            assert_eq!(found.whole, expected.collect::<Vec<_>>(), "{case}");
        }
    }
    println!("{done:?} of {} steps", counted.operations());
    // A prune finds the lock held at any other moment.
    assert!(done[..3].iter().all(|done| *done > 5) && done[3] > 0, "{done:?}");
}

/// Between the shared lock and the exclusive one another process removes a copy that the repair relied on, since a damaged
/// pack has one that is whole: then that pack stays.
#[test]
fn a_damaged_pack_stays_if_the_other_copies_went_while_nothing_was_locked() {
    let bed = Bed::new();
    let blobs: Vec<String> = bed.files().into_iter().filter(|path| path.contains("blobs")).collect();
    let copies = [World::new(MemoryBackend::new()).with_written(&bed.sources.each_ref(), LOOSE).memory];
    let mut stayed = 0;
    for (from, to) in [(0, 1), (1, 0)] {
        let base = bed.copy();
        // The bytes of one pack under the name of another: wrong there, and all of its objects are whole.
        base.set_contents(&blobs[to], base.contents(&blobs[from]).unwrap()).unwrap();
        let repairing = Repairing { copies: &copies, ..Repairing::default() };
        let plan = repair_plan(base.clone(), repairing, LOOSE).unwrap();
        assert!(plan.remaining.is_clean() && plan.superseded_packs.len() == 1, "{plan:?}");
        drop(plan);
        let (below, came) = (base.clone(), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&came);
        let hooked = FaultBackend::hooked(base.clone(), move |operation, path| {
            let before = operation == "try_lock" && path == layout::LOCK && count.fetch_add(1, Ordering::Relaxed) == 1;
            if before {
                let work = || prune_with(below.clone(), &[], LOOSE).unwrap();
                thread::scope(|scope| scope.spawn(work).join().unwrap());
            }
            Ok(())
        });
        let report = repair_with(hooked, repairing, LOOSE).unwrap();
        assert_eq!(came.load(Ordering::Relaxed), 2);
        bed.assert_all_restore("after the prune", &base);
        stayed += report.not_done.len();
        repair_with(base.clone(), repairing, LOOSE).unwrap();
        assert!(check(base.clone()).unwrap().is_clean());
        bed.assert_all_restore("after the next repair", &base);
    }
    assert!(stayed > 0, "no copy went");
}

/// The same for a pack that says nothing of what was in it, when anything that came in its place goes.
#[test]
fn a_pack_of_which_nothing_is_known_stays_if_what_came_went_while_nothing_was_locked() {
    let bed = Bed::new();
    let copies = [World::new(MemoryBackend::new()).with_written(&bed.sources.each_ref(), LOOSE).memory];
    let repairing = Repairing { copies: &copies, ..Repairing::default() };
    for path in bed.files().into_iter().filter(|path| path.contains("blobs")) {
        let base = bed.copy();
        base.set_contents(&path, b"nothing".to_vec()).unwrap();
        let before: BTreeSet<String> = base.paths().into_iter().collect();
        let (below, came) = (base.clone(), Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&came);
        let hooked = FaultBackend::hooked(base.clone(), move |operation, path| {
            if operation == "try_lock" && path == layout::LOCK && count.fetch_add(1, Ordering::Relaxed) == 1 {
                let brought = object_files(&below).into_iter().find(|path| !before.contains(path)).unwrap();
                below.remove(&brought).unwrap();
            }
            Ok(())
        });
        let report = repair_with(hooked, repairing, LOOSE).unwrap();
        assert_eq!(came.load(Ordering::Relaxed), 2);
        assert!(report.not_done.iter().any(|what| what.contains(&path)), "{report:?}");
        assert_eq!(base.contents(&path).unwrap(), b"nothing");
        repair_with(base.clone(), repairing, LOOSE).unwrap();
        assert!(check(base.clone()).unwrap().is_clean());
        bed.assert_all_restore(&path, &base);
    }
}

/// The steps of a snapshot before each of which a repair does all of its work, or as much as the lock lets it.
#[test]
fn a_repair_may_come_in_the_middle_of_a_snapshot() {
    let bed = Bed::new();
    let base = bed.copy();
    for path in bed.files().iter().filter(|path| path.contains("blobs")) {
        harm(&base, path, Harm::Flipped(300));
    }
    check(base.clone()).unwrap();
    let again = Source::new(bed.sources[1].model.clone().file("more", noise(200, 700)));
    let counted = FaultBackend::new(Arc::new(base.crash(Crash::KeepAll)), Plan::None);
    take_with(counted.clone(), again.path(), PACKED).unwrap();
    for n in 1..=counted.operations() {
        let memory = base.crash(Crash::KeepAll);
        let steps = AtomicU64::new(0);
        let (below, copy) = (memory.clone(), bed.copy());
        let hooked = FaultBackend::hooked(memory.clone(), move |_, _| {
            if steps.fetch_add(1, Ordering::Relaxed) + 1 == n {
                let copies = [copy.clone()];
                let from = Repairing { copies: &copies, ..Repairing::default() };
                let work = || repair_with(below.clone(), from, PACKED);
                match thread::scope(|scope| scope.spawn(work).join().unwrap()) {
                    Ok(_) | Err(Error::Locked { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Ok(())
        });
        let number = take_with(hooked, again.path(), PACKED).unwrap().snapshot.number;
        let case = format!("before step {n}");
        repair_with(memory.clone(), Repairing { copies: &[bed.copy()], ..Repairing::default() }, PACKED).unwrap();
        assert!(check(memory.clone()).unwrap().is_clean(), "{case}");
        bed.assert_all_restore(&case, &memory);
        assert_eq!(read_back(&open(memory).unwrap(), number).unwrap(), again.model, "{case}");
    }
}

#[test]
fn what_snapshots_have_stored_again_lets_damaged_packs_go() {
    let bed = Bed::new();
    let mut healed = 0;
    for path in bed.files() {
        for kind in HARMS {
            let case = format!("{path} {kind:?}");
            let memory = bed.copy();
            harm(&memory, &path, kind);
            if check(memory.clone()).unwrap().is_clean() {
                continue;
            }
            // Contents and trees that are met again are stored again.
            for source in &bed.sources {
                take_with(memory.clone(), source.path(), PACKED).unwrap();
            }
            let report = check(memory.clone()).unwrap();
            assert!(report.damaged.is_empty(), "{case}: {report:?}");
            assert_eq!(report.whole, [1, 2, 3, 4, 5, 6], "{case}");
            assert!(repair(&case, &memory, Repairing::default(), USUAL), "{case}");
            bed.assert_all_restore(&case, &memory);
            assert!(memory.contents(layout::DAMAGED).is_none(), "{case}");
            healed += 1;
        }
    }
    assert!(healed > 80, "{healed}");
}

#[test]
fn an_index_that_check_has_removed_is_not_written_back_by_who_had_opened_it() {
    let bed = Bed::new();
    let memory = bed.copy();
    pack_with(memory.clone(), PACKED).unwrap();
    assert!(memory.contents(layout::INDEX).is_some());
    let running = open(memory.clone()).unwrap();
    running.packs().unwrap();
    let pack = memory.paths().into_iter().find(|path| path.contains("blobs")).unwrap();
    // A name in its index.
    harm(&memory, &pack, Harm::FlippedEnd(200));
    assert_eq!(check(memory.clone()).unwrap().damaged_packs.len(), 1);
    assert!(memory.contents(layout::INDEX).is_none());
    // As a snapshot does that has added much.
    running.packs().unwrap().save(&staging(&memory)).unwrap();
    assert!(memory.contents(layout::INDEX).is_some());
    assert!(open(memory).unwrap().packs().unwrap().list().iter().all(|(name, _)| name.path() != pack));
}

#[test]
fn the_command_line_says_what_it_does_and_what_is_left() {
    let world = cli::World::new();
    world.init(&[]);
    let text: String = (0..3000).map(|number| format!("line {number}\n")).collect();
    std::fs::create_dir(world.path("source")).unwrap();
    std::fs::write(world.path("source/a"), &text).unwrap();
    std::fs::write(world.path("source/b"), "b").unwrap();
    world.snapshot("source");
    let run = |args: &[&str]| world.run(["repair", "-r", "repo"].iter().chain(args));
    assert_eq!(run(&[]).exits(0).stdout, "nothing to repair\nno damage is left\n");
    run(&["--from-directory", "nowhere"]).exits(1).says(&["nowhere", "No such file"]);

    cli::run({
        let mut copy = std::process::Command::new("cp");
        copy.args(["-r", "repo", "copy"]).current_dir(world.path(""));
        copy
    })
    .exits(0);
    let b = HashAlgorithm::Blake3.hash(b"b").to_string();
    let object = world.path(format!("repo/objects/{}/{}", &b[..2], &b[2..]));
    std::fs::remove_file(&object).unwrap();
    let ran = run(&[]).exits(4);
    assert!(ran.stdout.contains(&format!("missing: object {b}\n  b (snapshot 1)\n")), "{ran:?}");
    assert!(ran.stdout.contains("what cannot be restored completely: snapshot 1\n"), "{ran:?}");
    // Now that the damage is noted there is nothing to do at all.
    let ran = run(&[]).exits(4);
    assert!(ran.stdout.starts_with("nothing that is damaged can be brought back\n"), "{ran:?}");
    assert!(ran.stdout.contains("next: `backuptool repair --from COPY`"), "{ran:?}");
    let ran = world.run(["check", "-r", "repo"]).exits(4);
    assert!(ran.stdout.contains("next: `backuptool repair --from COPY`"), "{ran:?}");

    let ran = run(&["--from", "nothing"]).exits(10);
    assert!(ran.stderr.contains("name a copy with --from") && !ran.stderr.contains("init"), "{ran:?}");

    let ran = run(&["--from", "copy", "-n"]).exits(0);
    let expected = format!("would store object {b} again, from the repository copy\nno damage is left\n");
    assert_eq!(ran.stdout, expected);
    assert!(!object.exists());
    let json = run(&["--from", "copy", "--json", "-n"]).exits(0).json().remove(0);
    assert_eq!(
        (&json["dry_run"], &json["whole"], &json["objects"][0]["object"]),
        (&true.into(), &true.into(), &b.clone().into())
    );
    let json = run(&["--from-directory", "source", "--json"]).exits(0).json().remove(0);
    assert_eq!((&json["dry_run"], &json["whole"], &json["type"]), (&false.into(), &true.into(), &"repair".into()));
    assert!(object.exists());
    world.clean();

    std::fs::remove_file(&object).unwrap();
    let ran = run(&["--remove-damaged-snapshots", "-n"]).exits(0);
    assert!(ran.stdout.contains("would remove snapshot 1\n"), "{ran:?}");
    assert_eq!(world.numbers(), [1]);
    run(&["--remove-damaged-snapshots"]).exits(0).says(&["removing what cannot be made whole: snapshot 1"]);
    assert!(world.numbers().is_empty());
    world.clean();

    run(&["--from", "repo"]).exits(1).says(&["from itself"]);
    run(&["--from", "nowhere"]).exits(10);
    world.ok(["init", "-r", "sha", "--hash", "sha256"]);
    run(&["--from", "sha"]).exits(1).says(&["names objects by another hash (sha256, not blake3)"]);
}

/// What is only to be removed is damage until it is removed: a snapshot that is taken in between must know of it.
#[test]
fn damage_that_is_not_removed_in_the_end_stays_recorded() {
    let world = cli::World::new();
    world.init(&[]);
    std::fs::create_dir(world.path("source")).unwrap();
    std::fs::write(world.path("source/b"), "b").unwrap();
    world.snapshot("source");
    let b = HashAlgorithm::Blake3.hash(b"b").to_string();
    std::fs::remove_file(world.path(format!("repo/objects/{}/{}", &b[..2], &b[2..]))).unwrap();
    world.run(["check", "-r", "repo"]).exits(4);
    let recorded = || std::fs::read_to_string(world.path("repo/cache/damaged")).unwrap_or_default();
    assert!(recorded().contains(&b));
    let repair = |wait: &str| world.run(["repair", "-r", "repo", "--remove-damaged-snapshots", wait]);

    let reader = std::fs::File::open(world.path("repo/lock")).unwrap();
    fs2::FileExt::lock_shared(&reader).unwrap();
    repair("--lock-wait=0s").exits(11);
    assert!(recorded().contains(&b));
    drop(reader);
    repair("--lock-wait=1m").exits(0);
    assert_eq!(recorded(), "");
    assert!(world.numbers().is_empty());
    world.clean();
}
