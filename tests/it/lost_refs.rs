//! Refs that are lost: they show, nothing is removed while they do, and they come back, however often that is stopped.

use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;

use backuptool::Error;
use backuptool::object::{HashAlgorithm, Labels};
use backuptool::ops::prune::{self, PruneOptions, What};
use backuptool::repo::WriterOptions;
use backuptool::store::{Backend, Crash, MemoryBackend, layout, refs};
use proptest::prelude::*;

use crate::support::cli;
use crate::support::fault::{FaultBackend, Plan};
use crate::support::model::{Model, Source, noise};
use crate::support::repos::{
    LOOSE, PACKED, Repairing, check, open, prune_with, put_labels, read_back, repair_plan, repair_with,
};
use crate::support::sweep::{Sweep, World};

/// Five snapshots, or six if the last one is `removed` as well, with labels; each has something that no other needs.
fn world(removed: &[u64]) -> (World, Source) {
    let sources: Vec<Source> = (0..7)
        .map(|number| Source::new(Model::default().file("own", noise(number, 300)).file("shared", *b"shared")))
        .collect();
    let mut world = World::new(MemoryBackend::new());
    let count = if removed.contains(&6) { 6 } else { 5 };
    for (source, writing) in sources.iter().zip([PACKED, LOOSE, LOOSE, LOOSE, PACKED, LOOSE]).take(count) {
        world = world.with_written(&[source], writing);
    }
    for number in world.taken.keys().filter(|number| **number != 2) {
        put_labels(&world.memory, *number, &labels_of(*number));
    }
    prune_with(world.memory.clone(), removed, WriterOptions::default()).unwrap();
    world.taken.retain(|number, _| !removed.contains(number));
    (world, sources.into_iter().next_back().unwrap())
}

fn labels_of(number: u64) -> Labels {
    if number == 2 {
        return Labels::default();
    }
    Labels { pinned: number == 1, message: Some(format!("snapshot {number}")), ..Labels::default() }
}

/// Of each number whether it has a ref, or was removed.
fn list(memory: &MemoryBackend) -> refs::RefListing {
    refs::list(memory).unwrap()
}

/// A prune that removes only what nothing needs, by somebody who did not say that this may be everything.
fn careful_prune(memory: &MemoryBackend) -> backuptool::Result<()> {
    let options = PruneOptions { what: What::Unreferenced { allow_empty: false }, max_dead: prune::MOST_DEAD_PERCENT };
    prune::plan(&*open(memory.clone())?, &options).map(|_| ())
}

/// After whatever stopped a repair: nothing that is lost is removed, and the next one brings all of it back.
fn verify(case: &str, world: &World, after: &MemoryBackend, copies: &[MemoryBackend]) {
    let listing = list(after);
    let comes = |number: &&u64| !listing.snapshots.contains(*number);
    let is_lost = world.taken.keys().any(|number| comes(&number));
    match careful_prune(after) {
        Err(Error::Refused { .. }) => assert!(is_lost || !listing.lost.is_empty(), "{case}: {listing:?}"),
        other => assert!(other.is_ok() && !is_lost, "{case}: {other:?}, {listing:?}"),
    }
    let shown = check(after.clone()).unwrap();
    assert!(!is_lost || !shown.is_clean() || shown.leftovers.lost_snapshots, "{case}: {shown:?}");
    let from = Repairing { copies, ..Repairing::default() };
    let report = repair_with(after.clone(), from, PACKED).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(report.not_done.is_empty(), "{case}: {report:?}");
    let listing = list(after);
    let expected: Vec<u64> = world.taken.keys().copied().collect();
    assert_eq!((&listing.snapshots, listing.lost), (&expected, vec![]), "{case}");
    let repo = open(after.clone()).unwrap();
    for (number, model) in &world.taken {
        assert_eq!(repo.labels(*number).unwrap(), labels_of(*number), "{case}: labels of {number}");
        assert_eq!(read_back(&repo, *number).unwrap().differences(model), [] as [String; 0], "{case}: {number}");
    }
    drop(repo);
    assert!(check(after.clone()).unwrap().is_clean(), "{case}");
    assert!(repair_plan(after.clone(), from, PACKED).unwrap().is_nothing(), "{case}");
    careful_prune(after).unwrap_or_else(|error| panic!("{case}: {error}"));
}

/// Whether the file of this name in `snapshots` is lost.
type IsLost = fn(&str) -> bool;

/// All of it is lost, or a part, with the labels or without. What says that snapshots were removed goes in any case: else
/// lower ones may be among them.
const LOSSES: [(&str, IsLost); 4] = [
    ("everything", |_| true),
    ("the refs", |name| !name.contains("labels")),
    ("all but a high one", |name| !name.starts_with('5')),
    ("two of them", |name| name.starts_with(['1', '2']) || name.contains("pruned")),
];

#[test]
fn bringing_back_lost_refs_can_stop_anywhere() {
    let (mut run, mut verified) = (0, 0);
    for (removed, (what, is_lost)) in [&[3][..], &[3, 6]].into_iter().flat_map(|one| LOSSES.map(|loss| (one, loss))) {
        let (world, next) = world(removed);
        let copies = [world.copy()];
        let from = Repairing { copies: &copies, ..Repairing::default() };
        let base = world.copy();
        for entry in base.list("snapshots").unwrap().iter().filter(|entry| is_lost(&entry.name)) {
            base.remove(&format!("snapshots/{}", entry.name)).unwrap();
        }
        base.sync_all().unwrap();
        let counted = FaultBackend::new(Arc::new(base.crash(Crash::KeepAll)), Plan::None);
        repair_with(counted.clone(), from, PACKED).unwrap();
        let sweep = Sweep::new(&next, 0);
        for (n, step) in (1..).zip(counted.log()) {
            for plan in [Plan::FailOnce(n), Plan::FailFrom(n)] {
                let memory = base.crash(Crash::KeepAll);
                let faults = FaultBackend::failing_with(Arc::new(memory.clone()), plan, ErrorKind::Other);
                let done = repair_with(faults, from, PACKED).is_ok();
                for crash in sweep.crashes(n, ErrorKind::Other) {
                    let after = memory.crash(crash);
                    run += 1;
                    if sweep.is_new(&after, done) {
                        verified += 1;
                        let case = format!("{what} lost, {removed:?} removed: {plan:?} of {step}, {crash:?}");
                        verify(&case, &world, &after, &copies);
                    }
                }
            }
        }
    }
    println!("{run} cases, {verified} of them verified");
    assert!(run > 1000 && verified > 100, "{run}, {verified}");
}

fn repaired(memory: &MemoryBackend, copies: &[MemoryBackend], remove: bool) -> refs::RefListing {
    let from = Repairing { copies, remove, ..Repairing::default() };
    let report = repair_with(memory.clone(), from, PACKED).unwrap();
    assert!(report.not_done.is_empty(), "{report:?}");
    assert!(check(memory.clone()).unwrap().is_clean());
    assert!(repair_plan(memory.clone(), from, PACKED).unwrap().is_nothing());
    careful_prune(memory).unwrap();
    list(memory)
}

/// A copy in which more was removed since, or in which somebody removes by rules of their own.
#[test]
fn what_was_removed_in_a_copy_alone_is_not_given_up_here() {
    let (world, _) = world(&[3]);
    let pruned = |numbers: &[u64]| {
        let copy = world.copy();
        prune_with(copy.clone(), numbers, WriterOptions::default()).unwrap();
        copy
    };
    // What says that 3 was removed is lost as well; of the copy only 5 says so, which is here.
    let memory = world.copy();
    for name in ["2.json", "3.pruned"] {
        memory.remove(&format!("snapshots/{name}")).unwrap();
    }
    let listing = repaired(&memory.crash(Crash::KeepAll), &[pruned(&[5])], false);
    assert_eq!((listing.snapshots, listing.pruned), (vec![1, 2, 4, 5], vec![3]));
    // One copy still has what another one has removed.
    let memory = world.copy();
    memory.remove("snapshots/4.json").unwrap();
    let listing = repaired(&memory, &[pruned(&[4]), world.copy()], false);
    assert_eq!((listing.snapshots, listing.pruned), (vec![1, 2, 4, 5], vec![3]));
}

#[test]
fn what_cannot_be_made_whole_can_be_removed_where_a_copy_knows_of_removed_snapshots() {
    let (world, _) = world(&[3]);
    let own = HashAlgorithm::Blake3.hash(&noise(3, 300));
    let [memory, copy] = [world.copy(), world.copy()];
    for memory in [&memory, &copy] {
        memory.remove(&layout::object_path(own)).unwrap();
    }
    for entry in memory.list("snapshots").unwrap() {
        memory.remove(&format!("snapshots/{}", entry.name)).unwrap();
    }
    let listing = repaired(&memory, &[copy], true);
    assert_eq!(listing.snapshots, [1, 2, 5]);
}

/// What numbers are given out, and which of them are removed.
#[derive(Clone, Debug)]
enum Step {
    Take,
    Label(usize),
    Remove(usize),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Take),
        1 => any::<usize>().prop_map(Step::Label),
        2 => any::<usize>().prop_map(Step::Remove),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 0..30)
}

proptest! {
    /// Whatever is taken and removed: nothing shows as lost but what is, and all of that which no removal can explain.
    #[test]
    fn what_is_lost_shows_and_nothing_else(steps in steps(), losing in any::<usize>()) {
        let memory = MemoryBackend::new();
        memory.create_dir("snapshots").unwrap();
        let (mut there, mut removed) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Take => {
                    let number = list(&memory).next_number();
                    memory.set_contents(&format!("snapshots/{number}.json"), b"{}".to_vec()).unwrap();
                    there.push(number);
                }
                Step::Label(at) if !there.is_empty() => {
                    let number = there[at % there.len()];
                    memory.set_contents(&format!("snapshots/{number}.labels.json"), b"{}".to_vec()).unwrap();
                }
                Step::Remove(at) if !there.is_empty() => {
                    let number = there.remove(at % there.len());
                    refs::remove(&memory, &[number]).unwrap();
                    removed = removed.max(number);
                }
                Step::Sweep => refs::sweep(&memory).unwrap(),
                Step::Label(_) | Step::Remove(_) => {}
            }
            let listing = list(&memory);
            prop_assert_eq!((&listing.snapshots, listing.lost), (&there, vec![]));
        }
        if !there.is_empty() {
            let lost = there.remove(losing % there.len());
            memory.remove(&format!("snapshots/{lost}.json")).unwrap();
            let listing = list(&memory);
            let is_labelled = listing.labels.contains(&lost);
            let shows = lost > removed && (is_labelled || there.last().is_some_and(|highest| lost < *highest));
            prop_assert_eq!(listing.lost, if shows { vec![lost] } else { vec![] });
        }
    }
}

#[test]
fn a_stray_file_with_a_high_number_costs_nothing() {
    let memory = MemoryBackend::new();
    memory.create_dir("snapshots").unwrap();
    memory.set_contents("snapshots/1.json", b"{}".to_vec()).unwrap();
    memory.set_contents("snapshots/999999999999.json", b"{}".to_vec()).unwrap();
    let lost = list(&memory).lost;
    assert_eq!((lost.first(), lost.len()), (Some(&2), 1 << 16));
}

#[test]
fn a_lost_ref_is_damage_until_it_comes_back_or_is_given_up() {
    let world = cli::World::new();
    world.init(&[]);
    fs::create_dir(world.path("source")).unwrap();
    for number in 1..=4 {
        fs::write(world.path("source/own"), format!("of {number}")).unwrap();
        world.snapshot("source");
    }
    world.ok(["tag", "-r", "repo", "2", "--add", "kept"]);
    let copy = || {
        let _ = fs::remove_dir_all(world.path("copy"));
        let status = std::process::Command::new("cp").args(["-r", "repo", "copy"]).current_dir(world.path("")).status();
        assert!(status.unwrap().success());
    };
    copy();
    for name in ["2.json", "2.labels.json", "3.json"] {
        fs::remove_file(world.path("repo/snapshots").join(name)).unwrap();
    }
    let checked = world.run(["check", "-r", "repo"]).exits(4).stdout;
    assert!(checked.contains("damaged: the refs of snapshots 2-3 are lost"), "{checked}");
    assert!(checked.contains("prune --snapshot=2-3` gives up snapshots 2-3"), "{checked}");
    let listed = world.run(["list", "-r", "repo"]).exits(3);
    assert!(listed.stderr.contains("the refs of snapshots 2-3 are lost"), "{listed:?}");
    // Of what was said of them nothing is known, so nothing new is said; but who gives one up may have to unpin it.
    for change in [&["tag", "3", "--add=x"][..], &["pin", "3"]] {
        world.run(["-r", "repo"].iter().chain(change)).exits(1).says(&["its ref is lost", "repair --from COPY"]);
    }
    world.ok(["unpin", "-r", "repo", "3"]);
    world
        .run(["restore", "-r", "repo", "--snapshot-number=2", "--output-directory", "out"])
        .exits(1)
        .says(&["its ref is lost"]);
    world
        .run(["restore", "-r", "repo", "--snapshot-number=latest~1", "--output-directory", "out"])
        .exits(1)
        .says(&["3.json", "its ref is lost"]);
    // Nobody knows what it needs.
    for what in [&["--unreferenced"][..], &["--keep-last=1"], &["--snapshot=1"], &["--snapshot=3"]] {
        let ran = world.run(["prune", "-r", "repo"].iter().chain(what)).exits(1);
        let named = if what == ["--snapshot=3"] { "--snapshot=2`" } else { "--snapshot=2-3`" };
        assert!(ran.stderr.contains("is lost") && ran.stderr.contains(named), "{ran:?}");
    }
    let json = world.run(["repair", "-r", "repo", "--from", "copy", "--json"]).exits(0).json().remove(0);
    assert_eq!((&json["refs"], &json["labels"]), (&serde_json::json!([2, 3]), &serde_json::json!([2])));
    world.ok(["check", "-r", "repo"]);
    for number in 1..=4 {
        let output = format!("out{number}");
        world.ok(["restore", "-r", "repo", "--snapshot-number", &number.to_string(), "--output-directory", &output]);
        assert_eq!(fs::read_to_string(world.path(output).join("own")).unwrap(), format!("of {number}"));
    }

    for name in ["2.json", "3.json"] {
        fs::remove_file(world.path("repo/snapshots").join(name)).unwrap();
    }
    world.ok(["prune", "-r", "repo", "--snapshot=2-3"]);
    world.ok(["check", "-r", "repo"]);
    assert_eq!(world.numbers(), [1, 4]);
    // What the copy has does not come back by itself then.
    world.ok(["repair", "-r", "repo", "--from", "copy"]);
    assert_eq!(world.numbers(), [1, 4]);
    world.snapshot("source");
    assert_eq!(world.numbers(), [1, 4, 5]);

    // One that is pinned: its labels alone show that it was there.
    world.snapshot("source");
    world.ok(["pin", "-r", "repo", "6"]);
    fs::remove_file(world.path("repo/snapshots/6.json")).unwrap();
    world.run(["check", "-r", "repo"]).exits(4);
    world.run(["prune", "-r", "repo", "--snapshot=6"]).exits(1).says(&["it is pinned", "unpin 6"]);
    world.ok(["unpin", "-r", "repo", "6"]);
    // Now nothing shows it any more.
    world.ok(["check", "-r", "repo"]);

    // The same by a repair that gives up what it cannot bring back.
    fs::remove_file(world.path("repo/snapshots/4.json")).unwrap();
    world.ok(["repair", "-r", "repo", "--remove-damaged-snapshots"]);
    world.ok(["check", "-r", "repo"]);
    assert_eq!(world.numbers(), [1, 5]);
    world.clean();
}
