//! Labels (tags, messages, pins), and prunes by rule: on the command line, beside other processes, with damaged labels, and
//! with every way to stop half-way.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backuptool::object::{Labels, Tag};
use backuptool::ops::labels::{self, LabelChanges};
use backuptool::ops::prune::{self, PruneOptions, PrunePlan, PruneReport, Rules};
use backuptool::ops::retention::{GroupBy, Policy, Reason};
use backuptool::repo::WriterOptions;
use backuptool::store::batch::SyncMethod;
use backuptool::store::{Backend, Crash, MemoryBackend, layout};
use backuptool::{Error, Result};
use fs2::FileExt;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use crate::support::cli::{self, overwrite, write};
use crate::support::fault::{FaultBackend, Plan};
use crate::support::model::{Model, Source, noise};
use crate::support::repos::{
    PACKED, check, newer, open, pack_with, prune, put_object, read_back, sealed, session, take, take_labelled,
    take_with,
};
use crate::support::sweep::{Expect, Sweep, World};

// ---- on the command line

/// A world with a repository, and `snapshots` snapshots of `src`; number N is dated that many days after the year began.
fn dated(snapshots: u64) -> cli::World {
    let world = cli::World::new();
    world.init(&[]);
    for number in 1..=snapshots {
        write(world.path("src/n"), number.to_string());
        world.snapshot("src");
        redate(&world, number, &format!("2024-01-{number:02}T12:00:00Z"));
    }
    world
}

/// Gives a snapshot another date.
fn redate(world: &cli::World, number: u64, start: &str) {
    let path = world.path(format!("repo/snapshots/{number}.json"));
    let text = fs::read_to_string(&path).unwrap();
    let old = text.lines().find(|line| line.contains("\"start\"")).unwrap().to_string();
    overwrite(&path, &sealed(&text.replace(&old, &format!("  \"start\": \"{start}\","))));
}

fn run(world: &cli::World, args: &[&str]) -> cli::Ran {
    world.run(["-r", "repo"].iter().chain(args))
}

/// For each snapshot, what becomes of it, and why.
fn decisions(ran: &cli::Ran) -> Vec<(u64, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    let decisions = ran.json()[0]["decisions"].as_array().unwrap().clone();
    let reasons = |one: &serde_json::Value| one["reasons"].as_array().unwrap().iter().map(text).collect::<Vec<_>>();
    decisions
        .iter()
        .map(|one| (one["snapshot"].as_u64().unwrap(), text(&one["action"]), reasons(one).join(", ")))
        .collect()
}

#[test]
fn nothing_is_pruned_unless_it_is_said_what() {
    let world = dated(3);
    let ways = ["--snapshot", "--unreferenced", "--keep-last", "--keep-within", "--keep-tag", "--older-than"];
    run(&world, &["prune"]).exits(2).says(&ways);
    run(&world, &["prune", "-n"]).exits(2).says(&ways);
    for args in [
        &["--snapshot=1", "--keep-last=1"][..],
        &["--snapshot=1", "--older-than=1d"],
        &["--snapshot=1", "--unreferenced"],
        &["--unreferenced", "--keep-daily=1"],
        &["--snapshot=1", "--allow-empty"],
        &["--snapshot=1", "--source=src"],
        &["--snapshot=1", "--group-by=none"],
        &["--max-dead=20"],
        &["--allow-empty"],
        &["--source=src"],
        &["--keep-last=0"],
        &["--keep-last=-1"],
        &["--keep-within=30"],
        &["--older-than=0d"],
        &["--keep-tag=a,b"],
        &["--keep-last=1", "--max-dead=101"],
        &["--keep-last=1", "--group-by=host"],
        &["--snapshot=3-1"],
    ] {
        let ran = world.run(["-r", "repo", "prune"].iter().chain(args)).exits(2);
        assert!(ran.stdout.is_empty(), "{ran:?}");
    }
    assert_eq!(world.numbers(), [1, 2, 3]);
    let ran = run(&world, &["prune", "--unreferenced"]).exits(0);
    assert!(ran.stdout.starts_with("removed no snapshot\n"), "{ran:?}");
    assert_eq!(world.numbers(), [1, 2, 3]);
}

#[test]
fn a_prune_takes_ranges() {
    let world = dated(9);
    run(&world, &["prune", "--snapshot=4"]).exits(0);
    run(&world, &["prune", "-n", "--snapshot=10-12"]).exits(1).says(&["no snapshot 10-12", "1-3, 5-9"]);
    let ran = run(&world, &["prune", "--snapshot=3-5, 7-8,latest"]).exits(0);
    assert!(ran.stdout.starts_with("removed snapshots 3, 5, 7-9\n"), "{ran:?}");
    assert_eq!(world.numbers(), [1, 2, 6]);
    world.clean();
}

#[test]
fn a_dry_run_says_of_each_snapshot_why_and_needs_nobody_to_leave() {
    let world = dated(5);
    run(&world, &["pin", "2"]).exits(0);
    let before = cli::read_tree(&world.path("repo"));
    // Others are at work: the lock is not to be had alone.
    let lock = File::open(world.path("repo/lock")).unwrap();
    FileExt::lock_shared(&lock).unwrap();
    let rules = ["prune", "-n", "--lock-wait=0s", "--keep-last=1", "--keep-monthly=1", "--keep-within=24h"];
    let ran = run(&world, &rules).exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>().join(" ");
    assert_eq!(words(lines[0]), "SNAPSHOT TIMESTAMP ACTION REASON SOURCE");
    let source = format!("{}:{}", world.read_ref(1)["host"].as_str().unwrap(), world.path("src").display());
    assert_eq!(words(lines[1]), format!("1 2024-01-01 12:00:00 remove no rule keeps it {source}"));
    assert_eq!(words(lines[2]), format!("2 2024-01-02 12:00:00 keep pinned {source}"));
    assert_eq!(words(lines[4]), format!("4 2024-01-04 12:00:00 keep within 24h of snapshot 5 {source}"));
    let all = "5 2024-01-05 12:00:00 keep last, month 2024-01, within 24h of snapshot 5";
    assert_eq!(words(lines[5]), format!("{all} {source}"));
    assert_eq!(lines[6..8], ["would remove snapshots 1, 3", "would keep: 2, 4-5"]);
    assert!(lines[8].starts_with("would free ") && !lines[8].contains(" 0 B "), "{ran:?}");
    let json = world.ok(["-r", "repo", "--json"].iter().chain(&rules));
    assert_eq!(
        decisions(&json),
        [
            (1, "remove", "no rule keeps it"),
            (2, "keep", "pinned"),
            (3, "remove", "no rule keeps it"),
            (4, "keep", "within 24h of snapshot 5"),
            (5, "keep", "last, month 2024-01, within 24h of snapshot 5"),
        ]
        .map(|(number, action, why)| (number, action.to_string(), why.to_string()))
    );
    let bytes = json.json()[0]["bytes"].as_u64().unwrap();
    assert!(bytes > 0);
    assert_eq!(cli::read_tree(&world.path("repo")), before);
    // By number, too.
    let ran = run(&world, &["prune", "-n", "--lock-wait=0s", "--json", "--snapshot=1"]).exits(0);
    let named = decisions(&ran);
    assert_eq!((&named[0].2[..], &named[1].2[..]), ("named", "not named"));

    // What is then done is what was said.
    let real = ["prune", "--lock-wait=0s", "--keep-last=1", "--keep-monthly=1", "--keep-within=24h"];
    run(&world, &real).exits(11);
    FileExt::unlock(&lock).unwrap();
    let ran = run(&world, &real).exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(words(lines[2]), format!("3 2024-01-03 12:00:00 remove no rule keeps it {source}"));
    assert_eq!(lines[3], "removed snapshots 1, 3");
    assert!(lines[4].starts_with(&format!("freed {bytes} B in ")), "{ran:?}");
    assert_eq!(world.numbers(), [2, 4, 5]);
    world.clean();
    let ran = run(&world, &["prune", "-q", "--keep-last=1"]).exits(0);
    assert!(ran.stdout.is_empty() && ran.stderr.is_empty(), "{ran:?}");
    assert_eq!(world.numbers(), [2, 5]);
}

#[test]
fn a_pinned_snapshot_is_not_removed_by_number_either() {
    let world = dated(3);
    let ran = run(&world, &["pin", "1,3"]).exits(0);
    assert_eq!(ran.stdout, "snapshot 1: pinned; no tags\nsnapshot 3: pinned; no tags\n");
    for number in ["3", "1-3", "latest", "1,2"] {
        let pinned = if number.starts_with('1') { "1" } else { "3" };
        let says = [&format!("snapshot {pinned}")[..], "is pinned", &format!("backuptool unpin {pinned}")];
        run(&world, &["prune", &format!("--snapshot={number}")]).exits(1).says(&says);
        run(&world, &["prune", "-n", &format!("--snapshot={number}")]).exits(1).says(&says);
    }
    run(&world, &["prune", "--older-than=1d"]).exits(0);
    assert_eq!(world.numbers(), [1, 3]);
    let ran = run(&world, &["unpin", "--json", "1-3"]).exits(0);
    assert_eq!(
        ran.json()[0],
        serde_json::json!({"type": "labels", "snapshot": 1, "tags": [], "message": null, "pinned": false})
    );
    // Where nothing is left to say there is no file.
    assert!(!world.path("repo/snapshots/1.labels.json").exists());
    run(&world, &["prune", "--snapshot=1-3"]).exits(0);
    assert_eq!(world.numbers(), [0_u64; 0]);
    run(&world, &["pin", "1"]).exits(1).says(&["there is no snapshot 1"]);
}

#[test]
fn rules_do_not_remove_the_last_snapshot_of_a_source_unless_that_is_allowed() {
    let world = dated(2);
    write(world.path("other/file"), "x");
    world.snapshot("other");
    let says = ["every snapshot of", "/src (1-2)", "--allow-empty", "nothing was removed"];
    run(&world, &["prune", "--older-than=90d"]).exits(1).says(&says);
    run(&world, &["prune", "-n", "--older-than=90d"]).exits(1).says(&says);
    run(&world, &["prune", "--keep-tag=x", "--source=src"]).exits(1).says(&says);
    assert_eq!(world.numbers(), [1, 2, 3]);
    // All together, one is left.
    run(&world, &["prune", "-n", "--older-than=90d", "--group-by=none"]).exits(0);
    run(&world, &["prune", "--keep-tag=x", "--group-by=none"]).exits(1).says(&["every snapshot (1-3)"]);
    run(&world, &["prune", "--older-than=90d", "--source=src", "--allow-empty"]).exits(0);
    assert_eq!(world.numbers(), [3]);
    world.clean();
}

#[test]
fn sources_are_chosen_by_path_and_host() {
    let world = dated(3);
    write(world.path("other/file"), "x");
    for _ in 0..2 {
        world.snapshot("other");
    }
    let host = world.read_ref(1)["host"].as_str().unwrap().to_string();
    let src = world.path("src").display().to_string();
    for wrong in ["nowhere", "elsewhere:/src", &format!("elsewhere:{src}")] {
        let ran = run(&world, &["prune", "--keep-last=1", "--source", wrong]).exits(1);
        ran.says(&["there is none", wrong, &format!("{host}:{src}"), "/other"]);
    }
    let kept = |args: &[&str]| {
        let ran = world.ok(["-r", "repo", "prune", "-n", "--json", "--keep-last=1"].iter().chain(args));
        ran.json()[0]["keep"].as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(kept(&[]), [3, 5]);
    assert_eq!(kept(&["--group-by=none"]), [5]);
    assert_eq!(kept(&["--group-by=source"]), [3, 5]);
    assert_eq!(kept(&["--source=src"]), [3, 4, 5]);
    assert_eq!(kept(&["--source=./src/"]), [3, 4, 5]);
    assert_eq!(kept(&["--source", &format!("{host}:{src}")]), [3, 4, 5]);
    assert_eq!(kept(&["--source=src", "--source=other"]), [3, 5]);
    assert_eq!(kept(&["--source=src", "--source=other", "--group-by=none"]), [5]);
}

#[test]
fn what_is_dated_in_the_future_stays_and_keeps_nothing() {
    let world = dated(3);
    redate(&world, 3, "2999-01-01T00:00:00Z");
    let ran = run(&world, &["prune", "--json", "--keep-last=1"]).exits(0);
    let expected = [(1, "remove", "no rule keeps it"), (2, "keep", "last"), (3, "keep", "dated in the future")];
    assert_eq!(decisions(&ran), expected.map(|(number, action, why)| (number, action.into(), why.into())));
    assert_eq!(world.numbers(), [2, 3]);
}

#[test]
fn periods_are_those_of_the_time_zone() {
    let world = dated(2);
    redate(&world, 1, "2024-01-01T22:00:00Z");
    redate(&world, 2, "2024-01-01T23:30:00Z");
    let days = |zone: &str| {
        let mut command = world.command();
        command.args(["-r", "repo", "prune", "-n", "--json", "--keep-daily=9"]).env("TZ", zone);
        decisions(&cli::run(command).exits(0)).into_iter().map(|(_, _, why)| why).collect::<Vec<_>>()
    };
    assert_eq!(days("UTC"), ["no rule keeps it", "day 2024-01-01"]);
    assert_eq!(days("CET-1"), ["day 2024-01-01", "day 2024-01-02"]);
}

#[test]
fn labels_are_given_changed_and_listed() {
    let world = cli::World::new();
    world.init(&[]);
    write(world.path("src/file"), "x");
    world.snapshot("src");
    let plain = run(&world, &["list"]).exits(0).stdout;
    assert!(plain.starts_with("SNAPSHOT  TIMESTAMP                 SIZE      FILES  SOURCE\n"), "{plain}");
    let message = "before\x1b[31m the upgrade\nand more";
    run(&world, &["snapshot", "src", "--tag=b", "--tag=a a", "--message", message]).exits(0);
    let ran = run(&world, &["list"]).exits(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("SNAPSHOT  TIMESTAMP ") && lines[0].ends_with("PIN  TAGS    MESSAGE"), "{ran:?}");
    assert!(
        lines[1].ends_with("/src") && lines[2].ends_with("       a a, b  before\\u{1b}[31m the upgrade"),
        "{ran:?}"
    );
    let listed = run(&world, &["list", "--json"]).exits(0).json();
    let labels = |line: &serde_json::Value| (line["tags"].clone(), line["message"].clone(), line["pinned"].clone());
    let json = |tags: &[&str], message: Option<&str>, pinned: bool| (tags.into(), message.into(), pinned.into());
    assert_eq!(labels(&listed[0]), json(&[], None, false));
    assert_eq!(labels(&listed[1]), json(&["a a", "b"], Some(message), false));

    let change = |args: &[&str]| {
        let ran = world.ok(["-r", "repo", "--json", "tag", "2"].iter().chain(args));
        labels(&ran.json()[0])
    };
    assert_eq!(
        change(&["--add=c", "--add=d", "--remove=b", "--remove=x"]),
        json(&["a a", "c", "d"], Some(message), false)
    );
    run(&world, &["pin", "latest"]).exits(0);
    assert_eq!(change(&["--set=e", "--message=new"]), json(&["e"], Some("new"), true));
    assert_eq!(change(&["--message="]), json(&["e"], None, true));
    assert_eq!(change(&["--remove=e"]), json(&[], None, true));
    assert!(run(&world, &["list"]).exits(0).stdout.lines().nth(2).unwrap().ends_with("  pinned"));
    assert_eq!(labels(&run(&world, &["list", "--json"]).exits(0).json()[1]), json(&[], None, true));
    for wrong in [
        &["tag", "1"][..],
        &["tag", "--add=x"],
        &["tag", "1", "--set=x", "--add=y"],
        &["tag", "1", "--add=a,b"],
        &["pin"],
        &["tag", "x", "--add=y"],
        &["snapshot", "src", "--tag="],
    ] {
        run(&world, wrong).exits(2);
    }
    run(&world, &["tag", "1,7", "--add=x"]).exits(1).says(&["no snapshot 7"]);
    assert!(!world.path("repo/snapshots/1.labels.json").exists());
    assert_eq!(world.read_ref(2)["snapshot"], 2);
    world.clean();
    // Labels go with their snapshot.
    run(&world, &["unpin", "2"]).exits(0);
    run(&world, &["tag", "2", "--add=x"]).exits(0);
    run(&world, &["prune", "--snapshot=2"]).exits(0);
    assert!(!world.path("repo/snapshots/2.labels.json").exists());
    assert!(fs::read_dir(world.path("repo/tmp")).unwrap().next().is_none());
}

#[test]
fn damaged_labels_are_named_and_hinder_only_what_would_rely_on_them() {
    let world = dated(3);
    run(&world, &["tag", "1", "--add=x", "--message=m"]).exits(0);
    let path = world.path("repo/snapshots/1.labels.json");
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let cases = [
        ("flipped", flipped, "is damaged"),
        ("empty", Vec::new(), "is damaged"),
        ("cut", good[..good.len() / 2].to_vec(), "is damaged"),
        ("another file", fs::read(world.path("repo/snapshots/2.json")).unwrap(), "1.labels.json"),
        ("newer", newer(&good), "newer version"),
    ];
    for (what, content, says) in cases {
        overwrite(&path, &content);
        let says = ["1.labels.json", says];
        let listed = run(&world, &["list"]).exits(3).says(&says);
        assert_eq!(listed.stdout.lines().filter(|line| line.contains("unknown")).count(), 1, "{what}: {listed:?}");
        let json = run(&world, &["list", "--json"]).exits(3).json();
        assert!(json[0]["labels_error"].as_str().unwrap().contains(says[1]) && json.len() == 3, "{what}: {json:?}");
        let checked = run(&world, &["check"]).exits(4);
        assert!(checked.stdout.contains("1.labels.json"), "{what}: {checked:?}");
        assert!(checked.stdout.contains("can be restored completely: 1-3\n"), "{what}: {checked:?}");
        let checked = run(&world, &["check", "--json"]).exits(4).json().remove(0);
        assert_eq!(
            (&checked["damaged_labels"][0]["snapshot"], &checked["clean"]),
            (&1.into(), &false.into()),
            "{what}"
        );
        world.restored(1);
        for change in [&["pin", "1"][..], &["unpin", "1"], &["tag", "2,1", "--add=y"]] {
            run(&world, change).exits(1).says(&says);
        }
        assert_eq!(fs::read(&path).unwrap(), content, "{what}");
        assert!(!world.path("repo/snapshots/2.labels.json").exists(), "{what}");
        // It may be pinned.
        let ran = run(&world, &["prune", "-n", "--json", "--keep-last=1"]).exits(0).says(&says);
        let why = "may be pinned: its labels cannot be read".to_string();
        assert_eq!(decisions(&ran)[0], (1, "keep".to_string(), why), "{what}");
    }
    // What is newer may say that it is pinned; what is damaged says nothing, and the snapshot was named.
    run(&world, &["prune", "--snapshot=1"]).exits(1).says(&["newer version"]);
    overwrite(&path, b"damaged");
    run(&world, &["prune", "--keep-last=1"]).exits(3).says(&["1.labels.json is damaged"]);
    let left = run(&world, &["list", "--json"]).exits(3).json();
    assert_eq!(left.iter().map(|line| line["snapshot"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    run(&world, &["prune", "--snapshot=1"]).exits(0);
    assert!(!path.exists());
    world.clean();
}

#[test]
fn how_much_may_be_dead_in_a_pack_is_said() {
    let world = cli::World::new();
    world.init(&[]);
    let file = |number: u64| write(world.path(format!("src/{number}")), cli::noise(number, 10_000));
    (1..10).for_each(file);
    world.ok(["-r", "repo", "snapshot", "--loose-limit=0", "src"]);
    fs::remove_file(world.path("src/1")).unwrap();
    fs::remove_file(world.path("src/2")).unwrap();
    world.ok(["-r", "repo", "snapshot", "--loose-limit=0", "src"]);
    // Two of nine.
    let rewritten = |args: &[&str]| {
        let ran = world.ok(["-r", "repo", "prune", "-n", "--json", "--snapshot=1"].iter().chain(args));
        ran.json()[0]["packs_rewritten"].as_u64().unwrap()
    };
    assert_eq!([rewritten(&[]), rewritten(&["--max-dead=30"]), rewritten(&["--max-dead=20"])], [1, 0, 1]);
    world.ok(["-r", "repo", "prune", "--snapshot=1", "--max-dead=100"]);
    let rewritten = || {
        let ran = world.ok(["-r", "repo", "prune", "--json", "--unreferenced", "--max-dead=0"]);
        ran.json()[0]["packs_rewritten"].as_u64().unwrap()
    };
    // What has nothing dead in it is left alone, however little may be.
    assert_eq!([rewritten(), rewritten()], [1, 0]);
    world.clean();
}

// ---- beside others

fn tag(text: &str) -> Tag {
    Tag::new(text).unwrap()
}

fn later() -> Zoned {
    Timestamp::UNIX_EPOCH.checked_add(24.hours()).unwrap().to_zoned(TimeZone::UTC)
}

/// Rules for all snapshots together: each of these tests' snapshots is of a directory of its own.
fn rules(policy: Policy) -> PruneOptions {
    let policy = Policy { group_by: GroupBy::None, ..policy };
    PruneOptions::rules(Rules { policy, now: later(), allow_empty: false })
}

fn keep_last(last: u64) -> PruneOptions {
    rules(Policy { last: Some(last), ..Policy::default() })
}

fn change(backend: impl Backend + 'static, number: u64, changes: &LabelChanges) -> Result<()> {
    labels::change(&open(backend)?, &[number], changes, &session()).map(|_| ())
}

fn pin() -> LabelChanges {
    LabelChanges { pinned: Some(true), ..LabelChanges::default() }
}

fn add(text: &str) -> LabelChanges {
    LabelChanges { add: [tag(text)].into(), ..LabelChanges::default() }
}

fn prune_by(backend: impl Backend + 'static, options: &PruneOptions) -> Result<PruneReport> {
    let repo = open(backend)?;
    let plan = prune::plan(&repo, options)?;
    prune::execute(repo, plan, WriterOptions::default(), &session())
}

/// A world with so many snapshots, each of something of its own.
fn world(snapshots: u64) -> World {
    let source = |number| Source::new(Model::default().file("all", *b"all").file("own", noise(number, 300)));
    let sources: Vec<Source> = (1..=snapshots).map(source).collect();
    World::new(MemoryBackend::new()).with(&sources.iter().collect::<Vec<_>>())
}

fn labels_of(memory: &MemoryBackend, number: u64) -> Labels {
    open(memory.clone()).unwrap().labels(number).unwrap()
}

/// What is done between the plan and the exclusive lock, and what then stays.
fn between(
    world: &World,
    options: &PruneOptions,
    planned: &[u64],
    meanwhile: impl FnOnce(&MemoryBackend),
) -> Result<PruneReport> {
    let repo = open(world.memory.clone()).unwrap();
    let plan: PrunePlan = prune::plan(&repo, options).unwrap();
    assert_eq!(plan.remove, planned);
    // As when the shared lock is given up for the exclusive one.
    drop(repo);
    meanwhile(&world.memory);
    let repo = open(world.memory.clone()).unwrap();
    prune::execute(repo, plan, WriterOptions::default(), &session())
}

fn verify(world: &World, left: &[u64]) {
    let must: BTreeMap<u64, Model> =
        world.taken.iter().filter(|(number, _)| left.contains(number)).map(|(n, model)| (*n, model.clone())).collect();
    assert_eq!(must.len(), left.len());
    Sweep::verify_written(&world.memory, &Expect { must, may: BTreeMap::new(), highest: world.highest });
    assert!(check(world.memory.clone()).unwrap().is_clean());
}

#[test]
fn a_snapshot_that_is_pinned_after_the_plan_stays() {
    let world = world(4);
    let report =
        between(&world, &keep_last(1), &[1, 2, 3], |memory| change(memory.clone(), 2, &pin()).unwrap()).unwrap();
    assert_eq!(report.removed, [1, 3]);
    assert_eq!(report.considered[1].decision.reasons, [Reason::Pinned]);
    verify(&world, &[2, 4]);
    assert!(labels_of(&world.memory, 2).pinned);
}

#[test]
fn a_snapshot_that_was_named_and_is_pinned_after_the_plan_stops_the_prune() {
    let world = world(3);
    let options = PruneOptions::numbers(&[1, 2]);
    let error = between(&world, &options, &[1, 2], |memory| change(memory.clone(), 2, &pin()).unwrap()).unwrap_err();
    assert!(error.to_string().contains("snapshot 2: it is pinned"), "{error}");
    verify(&world, &[1, 2, 3]);
}

#[test]
fn a_snapshot_that_is_tagged_after_the_plan_stays() {
    let world = world(3);
    let options = rules(Policy { last: Some(1), tags: [tag("x")].into(), ..Policy::default() });
    let report = between(&world, &options, &[1, 2], |memory| change(memory.clone(), 1, &add("x")).unwrap()).unwrap();
    assert_eq!(report.removed, [2]);
    verify(&world, &[1, 3]);
}

#[test]
fn what_another_prune_removes_after_the_plan_is_no_longer_what_a_rule_keeps() {
    let world = world(4);
    let report =
        between(&world, &keep_last(1), &[1, 2, 3], |memory| drop(prune(memory.clone(), &[4]).unwrap())).unwrap();
    // Now 3 is the last, with all that the plan called dead.
    assert_eq!(report.removed, [1, 2]);
    verify(&world, &[3]);
}

#[test]
fn what_comes_after_the_plan_takes_nothing_else_with_it() {
    let world = world(3);
    let new = Source::new(Model::default().file("new", *b"new"));
    let report = between(&world, &keep_last(2), &[1], |memory| {
        assert_eq!(take(memory.clone(), new.path(), SyncMethod::Auto).unwrap().snapshot.number, 4);
    })
    .unwrap();
    // No rule keeps 2 now, but that it would go was not said.
    assert_eq!(report.removed, [1]);
    assert_eq!(report.considered[1].decision.reasons, [Reason::NotPlanned]);
    assert_eq!(open(world.memory.clone()).unwrap().refs().unwrap().snapshots, [2, 3, 4]);
    assert!(check(world.memory).unwrap().is_clean());
}

/// Then no place means what it meant: packs are gone, others stand where they were listed, and something is marked anew.
#[test]
fn packs_that_are_folded_after_the_plan_are_marked_as_they_stand_then() {
    // Many snapshots with trees in packs of their own, all of them needed but one.
    let source = |number: u64| {
        let file = |model: Model, file: u64| model.file(&format!("{file:02}/own"), noise(100 * number + file, 300));
        Source::new((0..20).fold(Model::default(), file))
    };
    let sources: Vec<Source> = (1..=12).map(source).collect();
    for seen in 1..=12 {
        let world = World::new(MemoryBackend::new()).with_written(&sources.iter().collect::<Vec<_>>(), PACKED);
        // It needs what one of the others needs, and so looks for it again.
        let new = Source::new(sources[seen - 1].model.clone().file("new", *b"new"));
        let report = between(&world, &PruneOptions::numbers(&[1]), &[1], |memory| {
            assert_eq!(take_with(memory.clone(), new.path(), PACKED).unwrap().snapshot.number, 13);
            assert!(pack_with(memory.clone(), PACKED).unwrap().folded > 0);
        });
        assert_eq!(report.unwrap().removed, [1]);
        for (number, model) in world.taken.iter().skip(1).chain([(&13, &new.model)]) {
            let found = read_back(&open(world.memory.clone()).unwrap(), *number).unwrap();
            assert_eq!(found.differences(model), [] as [String; 0], "{seen}: {number}");
        }
        assert!(check(world.memory).unwrap().is_clean());
    }
}

/// What is loose is needed by its name, wherever the copies stand by then that the plan has marked.
#[test]
fn a_loose_copy_stays_if_the_packed_one_was_folded_after_the_plan_and_is_damaged() {
    let content = |number| noise(number, 3000);
    let source = |number| Source::new(Model::default().file("shared", content(0)).file("own", content(number)));
    let sources: Vec<Source> = (1..=12).map(source).collect();
    let world = World::new(MemoryBackend::new()).with_written(&sources.iter().collect::<Vec<_>>(), PACKED);
    let shared = put_object(&world.memory, &content(0));
    // No pack is written anew.
    let options = PruneOptions { max_dead: 100, ..PruneOptions::numbers(&[1]) };
    let report = between(&world, &options, &[1], |memory| {
        assert!(pack_with(memory.clone(), PACKED).unwrap().folded > 0);
        let needle = &content(0)[1000..1064];
        let damaged = memory.paths().into_iter().filter(|path| path.starts_with(layout::PACKS)).find_map(|path| {
            let mut bytes = memory.contents(&path).unwrap();
            let at = bytes.windows(needle.len()).position(|window| window == needle)?;
            bytes[at] ^= 1;
            Some((path, bytes))
        });
        let (path, bytes) = damaged.unwrap();
        memory.set_contents(&path, bytes).unwrap();
        // Folding has removed it, and somebody has stored it again since.
        put_object(memory, &content(0));
    });
    assert_eq!(report.unwrap().removed, [1]);
    assert!(world.memory.contents(&layout::object_path(shared)).is_some());
    assert!(!check(world.memory).unwrap().damaged.contains_key(&shared));
}

#[test]
fn rules_that_would_leave_nothing_after_the_plan_are_refused() {
    let world = world(2);
    let options = rules(Policy { tags: [tag("x")].into(), ..Policy::default() });
    change(world.memory.clone(), 2, &add("x")).unwrap();
    let untag = LabelChanges { remove: [tag("x")].into(), ..LabelChanges::default() };
    // It is not removed, since it was not planned; but without it there is only what was.
    let report = between(&world, &options, &[1], |memory| change(memory.clone(), 2, &untag).unwrap()).unwrap();
    assert_eq!(report.removed, [1]);
    change(world.memory.clone(), 2, &add("x")).unwrap();
    let other = Source::new(Model::default().file("own", *b"3"));
    let world = world.with(&[&other, &other]);
    let error = between(&world, &options, &[3, 4], |memory| drop(prune(memory.clone(), &[2]).unwrap())).unwrap_err();
    assert!(error.to_string().contains("every snapshot (3-4)"), "{error}");
    verify(&world, &[3, 4]);
}

#[test]
fn two_that_change_labels_at_the_same_time_lose_nothing() {
    let world = world(1);
    change(world.memory.clone(), 1, &add("old")).unwrap();
    let counted = FaultBackend::new(Arc::new(world.copy()), Plan::None);
    change(counted.clone(), 1, &add("one")).unwrap();
    let (mut met, mut locked) = (0, 0);
    for n in 1..=counted.operations() {
        let memory = world.copy();
        let steps = AtomicU64::new(0);
        let below = memory.clone();
        let other: Arc<std::sync::Mutex<Option<Result<()>>>> = Arc::default();
        let done = Arc::clone(&other);
        let one = FaultBackend::hooked(memory.clone(), move |_, _| {
            if steps.fetch_add(1, Ordering::Relaxed) + 1 == n {
                *done.lock().unwrap() = Some(change(below.clone(), 1, &pin()));
            }
            Ok(())
        });
        change(one, 1, &add("one")).unwrap();
        let pinned = match other.lock().unwrap().take().unwrap() {
            Ok(()) => true,
            Err(Error::Locked { .. }) => {
                locked += 1;
                false
            }
            Err(error) => panic!("step {n}: {error}"),
        };
        let expected = Labels { tags: [tag("old"), tag("one")].into(), message: None, pinned };
        assert_eq!(labels_of(&memory, 1), expected, "step {n}: {}", counted.log()[usize::try_from(n).unwrap() - 1]);
        assert_eq!(memory.list(layout::TMP).unwrap(), [], "step {n}");
        met += 1;
    }
    assert!(met >= 15 && locked >= 3 && met - locked >= 5, "{met} {locked}");
}

// ---- half-way

/// Every fault in the operation, with every crash after it. `verify` is told the case, what is left, and whether the
/// operation succeeded.
fn faults(
    name: &str,
    base: &MemoryBackend,
    sweep: &Sweep,
    operation: impl Fn(FaultBackend) -> Result<()>,
    verify: impl Fn(&str, &MemoryBackend, bool),
) -> u64 {
    let counted = FaultBackend::new(Arc::new(base.crash(Crash::KeepAll)), Plan::None);
    operation(counted.clone()).unwrap();
    let mut cases = 0;
    for (n, step) in (1..).zip(counted.log()) {
        for plan in [Plan::FailOnce(n), Plan::FailFrom(n), Plan::TornFrom(n)] {
            for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
                let memory = base.crash(Crash::KeepAll);
                let faults = FaultBackend::failing_with(Arc::new(memory.clone()), plan, kind);
                let done = operation(faults.clone()).is_ok();
                assert!(faults.fired(), "{name}: {plan:?} of {step} never came");
                for crash in sweep.crashes(n, kind) {
                    let case = format!("{name}: {plan:?} ({kind}) of {step}, {crash:?}, done: {done}");
                    let after = memory.crash(crash);
                    cases += 1;
                    if sweep.is_new(&after, done) {
                        verify(&case, &after, done);
                    }
                }
            }
        }
    }
    println!("{name}: {cases} cases");
    cases
}

#[test]
fn a_change_of_labels_can_stop_anywhere() {
    let next = Source::new(Model::default().file("next", *b"next"));
    let old = Labels { tags: [tag("old")].into(), message: Some("kept".into()), pinned: true };
    let cleared = LabelChanges {
        set: Some([].into()),
        message: Some(String::new()),
        pinned: Some(false),
        ..LabelChanges::default()
    };
    let added = Labels { tags: [tag("new"), tag("old")].into(), ..old.clone() };
    for (name, changes, new) in [("add a tag", add("new"), added), ("clear", cleared, Labels::default())] {
        let world = world(2);
        let first = LabelChanges { message: Some("kept".into()), pinned: Some(true), ..add("old") };
        change(world.memory.clone(), 1, &first).unwrap();
        change(world.memory.clone(), 2, &first).unwrap();
        // What follows each case is a prune of the first snapshot, which must not be pinned: the second one is changed.
        change(world.memory.clone(), 1, &LabelChanges { pinned: Some(false), ..LabelChanges::default() }).unwrap();
        let sweep = Sweep::new(&next, 8);
        let cases = faults(
            name,
            &world.copy(),
            &sweep,
            |backend| change(backend, 2, &changes),
            |case, memory, done| {
                let found = labels_of(memory, 2);
                assert!(found == new || (!done && found == old), "{case}: {found:?}");
                assert_eq!(labels_of(memory, 1), Labels { pinned: false, ..old.clone() }, "{case}");
                sweep.verify(case, memory, &world.expect());
                // Labels can be changed again, whatever was left.
                change(memory.clone(), 2, &add("again")).unwrap_or_else(|error| panic!("{case}: {error}"));
                assert!(labels_of(memory, 2).tags.contains(&tag("again")), "{case}");
                assert_eq!(memory.list(layout::TMP).unwrap(), [], "{case}");
            },
        );
        assert!(cases >= 800, "{cases}");
    }
}

#[test]
fn a_snapshot_with_labels_can_stop_anywhere() {
    let [source, next] = [*b"labelled", *b"next one"].map(|text| Source::new(Model::default().file("file", text)));
    let world = world(1);
    let given = Labels { tags: [tag("x")].into(), message: Some("m".into()), pinned: false };
    let sweep = Sweep::new(&next, 4);
    let operation =
        |backend| take_labelled(&session(), backend, source.path(), WriterOptions::default(), &given).map(|_| ());
    let cases = faults("labelled snapshot", &world.copy(), &sweep, operation, |case, memory, done| {
        let found = labels_of(memory, 2);
        let listed = open(memory.clone()).unwrap().refs().unwrap().snapshots.contains(&2);
        // Never labels without their snapshot: the next one would get them.
        assert!(found == given || (!done && found == Labels::default()), "{case}: {found:?}");
        assert!(listed || found == Labels::default(), "{case}: {found:?}");
        assert!(listed || !done, "{case}");
        // An operation that failed may have come as far as its ref.
        sweep.verify(case, memory, &world.expect_next(&source, done));
    });
    assert!(cases >= 1500, "{cases}");
}

#[test]
fn a_prune_by_rule_can_stop_anywhere() {
    let next = Source::new(Model::default().file("next", *b"next"));
    let world = world(4);
    for number in 1..=3 {
        change(world.memory.clone(), number, &add("x")).unwrap();
    }
    change(world.memory.clone(), 2, &pin()).unwrap();
    let options = keep_last(1);
    // What cannot be read stays, which is not what was asked for.
    let operation = |backend: FaultBackend| match prune_by(backend, &options)?.removed[..] {
        [1, 3] => Ok(()),
        ref other => Err(Error::refused("remove 1 and 3", format!("{other:?} were"), "")),
    };
    let cases = faults("by rule", &world.copy(), &Sweep::new(&next, 4), operation, |case, memory, done| {
        let expect = world.expect_without(&[1, 3], done);
        let listed = Sweep::verify_snapshots(case, memory, &expect);
        assert!(labels_of(memory, 2).pinned, "{case}");
        for number in listed.iter().filter(|number| **number < 4) {
            assert!(labels_of(memory, *number).tags.contains(&tag("x")), "{case}: {number}");
        }
        // The same once more does the rest.
        let report = prune_by(memory.clone(), &options).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(!done || report.removed.is_empty(), "{case}");
        assert_eq!(open(memory.clone()).unwrap().refs().unwrap().labels, [2], "{case}");
        Sweep::verify_snapshots(case, memory, &world.expect_without(&[1, 3], true));
    });
    assert!(cases >= 1500, "{cases}");
}
