//! A first snapshot that is killed in the middle, and run again: what was complete is not stored again, and what was not
//! is nowhere in the way.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use backuptool::store::LocalBackend;
use serde_json::Value;

use crate::support::cli::{Tree, World, noise, read_tree, write};
use crate::support::repos::open;

/// The size of a pack here: a frame of blobs makes one.
const PACK: u64 = 1 << 20;
const FILES: u64 = 300;

/// Files of 1 to 400 KiB that do not compress, 60 MB of them, in directories; the larger ones have several chunks.
fn bed() -> (World, Tree) {
    let world = World::new();
    for n in 0..FILES {
        let length = usize::try_from(1024 + n * 7919 % (400 << 10)).unwrap();
        write(world.path(format!("src/d{}/{n}", n % 7)), noise(n, length));
    }
    let state = read_tree(&world.path("src"));
    (world, state)
}

fn packs(repo: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(repo.join("packs")) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// How many objects the packs of a repository have together.
fn packed_objects(repo: &Path) -> u64 {
    let repo = open(LocalBackend::open(repo).unwrap()).unwrap();
    repo.packs().unwrap().list().iter().map(|(_, objects)| u64::from(*objects)).sum()
}

/// The bytes that are staged.
fn staged(repo: &Path) -> u64 {
    let files = walkdir::WalkDir::new(repo.join("tmp")).into_iter().flatten();
    // A file may go while it is looked at.
    files.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|meta| meta.len()).sum()
}

/// Makes a repository, begins a snapshot and kills it as soon as the repository looks so. Where it has ended before it was
/// killed it is tried again.
fn kill_in_new(world: &World, repo: &str, options: &[&str], when: impl Fn(&Path) -> bool) {
    for _ in 0..20 {
        world.ok(["init", "-r", repo]);
        kill_when(world, repo, options, &when);
        if world.ok(["list", "--json", "-r", repo]).json().is_empty() {
            return;
        }
        fs::remove_dir_all(world.path(repo)).unwrap();
    }
    panic!("{repo}: each time the snapshot was done before it was killed");
}

/// Begins a snapshot and kills it as soon as the repository looks so, or it has ended.
fn kill_when(world: &World, repo: &str, options: &[&str], when: impl Fn(&Path) -> bool) {
    let mut command = world.command();
    command.args(["snapshot", "--quiet", "--threads=1", "-r", repo, "src"]).args(options);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !when(&world.path(repo)) && child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn take(world: &World, repo: &str, options: &[&str]) -> Value {
    world.ok(["snapshot", "--json", "--threads=1", "-r", repo, "src"].iter().chain(options)).json().remove(0)
}

fn count(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap()
}

#[test]
fn what_a_killed_snapshot_had_complete_is_not_stored_again() {
    let (world, state) = bed();
    let options = [&format!("--pack-size={PACK}")[..], "--loose-limit=0"];
    world.ok(["init", "-r", "whole"]);
    let whole = take(&world, "whole", &options);
    let all = packs(&world.path("whole")).len();
    assert!(all > 13, "{all} packs");
    let mut reused = 0;
    for kill_at in [0, 1, 7, all - 2] {
        let repo = format!("repo{kill_at}");
        let path = world.path(&repo);
        kill_in_new(&world, &repo, &options, |repo| packs(repo).len() >= kill_at && staged(repo) > PACK / 4);
        let (before, objects) = (packs(&path), packed_objects(&path));
        assert!(before.len() >= kill_at);

        let again = take(&world, &repo, &options);
        let case = format!("killed with {} packs: {again}", before.len());
        assert_eq!(count(&again, "snapshot"), 1, "{case}");
        assert_eq!(again["tree"], whole["tree"], "{case}");
        assert_eq!(count(&again, "unchanged"), 0, "what was seen is written at the end: {case}");
        // Each object of the packs that were complete is used, and only those.
        assert_eq!(count(&again, "added_objects") + objects, count(&whole, "added_objects"), "{case}");
        assert!(packs(&path).is_superset(&before), "{case}");
        assert_eq!(packed_objects(&path), count(&whole, "added_objects"), "{case}");
        assert_eq!(staged(&path), 0, "{case}");
        assert!(world.restored_from(&repo, 1) == state, "{case}");
        world.ok(["check", "-r", &repo]);
        reused += objects;
    }
    assert!(reused > FILES, "{reused}");
}

#[test]
fn a_snapshot_that_is_killed_again_and_again_comes_to_its_end() {
    let (world, state) = bed();
    world.init(&[]);
    let options = [&format!("--pack-size={PACK}")[..], "--loose-limit=0"];
    let repo = world.path("repo");
    let mut killed = 0;
    while world.numbers().is_empty() {
        let before = packs(&repo).len();
        kill_when(&world, "repo", &options, |repo| packs(repo).len() >= before + 2);
        killed += 1;
        let after = packs(&repo).len();
        assert!(after >= before + 2 || !world.numbers().is_empty(), "no run is in vain: {before}, then {after}");
    }
    assert!(killed > 3, "{killed}");
    assert!(world.restored(1) == state);
    world.clean();
    assert_eq!(count(&take(&world, "repo", &options), "added_objects"), 0);
}

#[test]
fn what_a_killed_snapshot_left_can_be_pruned() {
    let (world, _) = bed();
    let repo = world.path("repo");
    let options = [&format!("--pack-size={PACK}")[..], "--loose-limit=0"];
    kill_in_new(&world, "repo", &options, |repo| packs(repo).len() >= 4 && staged(repo) > 0);
    assert!(packs(&repo).len() >= 4);
    world.clean();
    let planned = world.ok(["prune", "-r", "repo", "--unreferenced", "--allow-empty", "--dry-run", "--json"]);
    assert!(!planned.json().is_empty());
    world.ok(["prune", "-r", "repo", "--unreferenced", "--allow-empty"]);
    assert_eq!(packs(&repo), BTreeSet::new());
    assert_eq!(staged(&repo), 0);
    assert_eq!(count(&take(&world, "repo", &options), "snapshot"), 1);
    world.clean();
}

#[test]
fn before_the_first_pack_is_complete_nothing_is_left_of_a_killed_snapshot() {
    // As it is for whoever uses the program: packs are larger than all there is.
    let (world, state) = bed();
    let repo = world.path("repo");
    for at in [0, 4 << 20, 20 << 20] {
        if repo.exists() {
            fs::remove_dir_all(&repo).unwrap();
        }
        kill_in_new(&world, "repo", &[], |repo| staged(repo) > at);
        assert_eq!(packs(&repo), BTreeSet::new());
        assert_eq!(world.objects("repo").len(), 0);
    }
    let taken = take(&world, "repo", &[]);
    assert!(count(&taken, "added_objects") >= FILES);
    assert_eq!(staged(&repo), 0, "what was staged is gone");
    assert!(world.restored(1) == state);
    world.clean();
}
