//! How much a check reads: what `--quick`, `--subset` and `--max-age` see and what they pass over, and what one check
//! leaves for the next.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::cli::{Node, Tree, World, noise, overwrite, write_tree};

/// A packed snapshot of a few directories, and one more that is loose.
fn world() -> World {
    let world = World::new();
    world.init(&[]);
    let file = |seed| Node::File(noise(seed, 3000));
    let mut tree = Tree::new();
    for dir in ["a", "b", "c"] {
        tree.insert(dir.into(), Node::Dir);
        for number in 0..10_u64 {
            tree.insert(format!("{dir}/{number}").into(), file(u64::from(dir.as_bytes()[0]) * 100 + number));
        }
    }
    write_tree(&world.path("src"), &tree);
    world.ok(["snapshot", "-r", "repo", "--loose-limit=0", "src"]);
    fs::write(world.path("src/new"), noise(7, 2000)).unwrap();
    world.snapshot("src");
    world
}

fn packs(world: &World, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(world.path("repo/packs")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.to_str().unwrap().contains(kind)).collect()
}

fn damage_byte(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    overwrite(path, &bytes);
}

fn check(world: &World, options: &[&str], code: i32) -> Value {
    world.run(["check", "-r", "repo", "--json"].iter().chain(options)).exits(code).json().remove(0)
}

fn names(report: &Value) -> Vec<&str> {
    report["damaged"].as_array().unwrap().iter().map(|damage| damage["object"].as_str().unwrap()).collect()
}

#[test]
fn a_quick_check_sees_what_is_missing_and_reads_no_content() {
    let world = world();
    let report = check(&world, &["--quick"], 0);
    assert_eq!((&report["objects"], &report["unread_objects"], &report["bytes"]), (&36.into(), &36.into(), &0.into()));
    let said = world.ok(["check", "-r", "repo", "--quick"]).stdout;
    assert!(said.contains("not read: 36 objects\nno damage found in what was read\n"), "{said}");
    let all = check(&world, &[], 0);
    assert_eq!((&all["objects"], &all["unread_objects"]), (&36.into(), &0.into()));

    // Content is not looked at.
    let pack = packs(&world, "blobs").remove(0);
    let whole = fs::read(&pack).unwrap();
    damage_byte(&pack, 1000);
    check(&world, &["--quick"], 0);
    let full = check(&world, &[], 4);
    assert!(!names(&full).is_empty());

    // A pack that is cut short, or gone.
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, &whole[..whole.len() / 2]).unwrap();
    let report = check(&world, &["--quick"], 4);
    assert_eq!((report["damaged_packs"].as_array().unwrap().len(), names(&report).len()), (1, 30), "{report}");
    fs::remove_file(&pack).unwrap();
    assert_eq!(names(&check(&world, &["--quick"], 4)).len(), 30);
    fs::write(&pack, &whole).unwrap();
    // What was found is remembered until it is read again.
    assert_eq!(check(&world, &["--quick"], 4)["unread_damaged_objects"], 30);
    assert_eq!(fs::read_to_string(world.path("repo/cache/damaged")).unwrap().lines().count(), 30);
    check(&world, &[], 0);
    assert!(!world.path("repo/cache/damaged").exists());

    // A loose blob that is gone, and a tree that is damaged: trees are read.
    let loose = world.objects("repo");
    let blob = loose.iter().find(|(id, _)| **id == blake3::hash(&noise(7, 2000)).to_hex().to_string()).unwrap();
    let kept = fs::read(blob.1).unwrap();
    fs::remove_file(blob.1).unwrap();
    assert_eq!(names(&check(&world, &["--quick"], 4)), [blob.0]);
    fs::write(blob.1, kept).unwrap();
    check(&world, &[], 0);
    let trees = packs(&world, "trees").remove(0);
    damage_byte(&trees, 100);
    let report = check(&world, &["--quick"], 4);
    assert!(!names(&report).is_empty(), "{report}");
    // The next snapshot stores the trees again, though no other check has seen it.
    assert_eq!(
        fs::read_to_string(world.path("repo/cache/damaged")).unwrap().lines().collect::<Vec<_>>(),
        names(&report)
    );
    fs::remove_file(world.path("src/new")).unwrap();
    world.snapshot("src");
    check(&world, &["--quick"], 0);
}

#[test]
fn that_it_is_not_sure_what_was_found_is_said_until_everything_is_read() {
    let world = world();
    let in_check = |options: &[&str]| {
        let said = world.ok(["check", "-r", "repo"].iter().chain(options)).stdout;
        let is_said = said.contains("note: what earlier checks have found cannot be read for sure");
        assert_eq!(is_said, check(&world, options, 0)["record_is_doubtful"] == true, "{said}");
        is_said
    };
    let in_snapshot = || {
        let said = world.ok(["snapshot", "-r", "repo", "src"]).stdout;
        said.contains("what checks have found cannot be read for sure, so everything was read")
    };
    assert!(!in_snapshot() && !in_check(&["--quick"]));
    fs::write(world.path("repo/cache/damaged"), "garbage").unwrap();
    assert!(in_snapshot() && in_check(&["--quick"]) && in_check(&["--subset", "1/2"]) && in_snapshot());
    assert!(!in_check(&[]) && !in_snapshot());
}

#[test]
fn the_parts_are_everything() {
    let world = world();
    for (kind, at) in [("blobs", 1000), ("trees", 100)] {
        let pack = packs(&world, kind).remove(0);
        let whole = fs::read(&pack).unwrap();
        damage_byte(&pack, at);
        let everything = check(&world, &[], 4);
        let mut found = 0;
        for part in ["1/3", "2/3", "3/3"] {
            let report = world.run(["check", "-r", "repo", "--json", "--subset", part]).json().remove(0);
            let by_pack = !report["damaged_packs"].as_array().unwrap().is_empty();
            if by_pack {
                found += 1;
                assert_eq!(names(&report), names(&everything));
            } else if kind == "blobs" {
                assert_eq!((names(&report).len(), &report["clean"]), (0, &false.into()), "{report}");
            }
            // What is known already is not forgotten.
            let known = fs::read_to_string(world.path("repo/cache/damaged")).unwrap();
            assert_eq!(known.lines().collect::<Vec<_>>(), names(&everything), "{kind} {part}");
        }
        assert_eq!(found, 1, "{kind}");
        overwrite(&pack, &whole);
        check(&world, &[], 0);
        assert!(!world.path("repo/cache/damaged").exists());
    }
    let unread = |part| check(&world, &["--subset", part], 0)["unread_objects"].as_u64().unwrap();
    assert_eq!((unread("1/1"), unread("1/2") + unread("2/2")), (0, 36));
}

#[test]
fn what_was_found_whole_is_not_read_again_for_a_while() {
    let world = world();
    let unread = |options: &[&str]| check(&world, options, 0)["unread_objects"].as_u64().unwrap();
    // Nothing was checked yet. Of what is packed all is known then; what is loose is always read.
    assert_eq!(unread(&["--max-age=30d"]), 0);
    assert_eq!(unread(&["--max-age=30d"]), 34);
    assert_eq!(unread(&[]), 0);
    assert_eq!(unread(&["--max-age=1y6m"]), 34);
    // So long ago that there was no calendar.
    assert_eq!(unread(&["--max-age=19000y"]), 34);

    let pack = packs(&world, "blobs").remove(0);
    let whole = fs::read(&pack).unwrap();
    damage_byte(&pack, 1000);
    assert_eq!(unread(&["--max-age=30d"]), 34);
    let found = check(&world, &[], 4);
    // It is not taken for whole any more.
    let again = check(&world, &["--max-age=30d"], 4);
    assert_eq!(names(&again), names(&found));
    overwrite(&pack, &whole);
    assert!(unread(&["--max-age=30d"]) > 0);
    assert_eq!(unread(&["--max-age=30d"]), 34);

    // A copy has what was noted of the original, and another disk.
    let copied = Command::new("cp").args(["-a", "repo", "copy"]).current_dir(world.path("")).status().unwrap();
    assert!(copied.success());
    let of_copy = || world.run(["check", "-r", "copy", "--json", "--max-age=30d"]).exits(0).json().remove(0);
    assert_eq!(of_copy()["unread_objects"], 0);
    assert!(of_copy()["unread_objects"].as_u64().unwrap() > 0);

    // A tree that is found damaged on the way.
    let trees = packs(&world, "trees").remove(0);
    let whole = fs::read(&trees).unwrap();
    damage_byte(&trees, 100);
    check(&world, &["--max-age=30d"], 4);
    overwrite(&trees, &whole);
    assert_eq!(unread(&["--max-age=30d"]), 30);

    // A clock that was wrong, and what is no such line.
    let verified = world.path("repo/cache/verified");
    let lines = fs::read_to_string(&verified).unwrap();
    let (place, times) = lines.split_once('\n').unwrap();
    assert!(place.starts_with("place ") && times.lines().count() == 2, "{lines}");
    let later: String =
        times.lines().map(|line| format!("2999-01-01T00:00:00Z {}\n", &line[line.find(' ').unwrap() + 1..])).collect();
    overwrite(&verified, format!("{place}\n{later}").as_bytes());
    assert_eq!(unread(&["--max-age=30d"]), 0);
    fs::remove_dir_all(world.path("repo/cache")).unwrap();
    assert_eq!(unread(&["--max-age=30d"]), 0);
    // Packs that are gone are forgotten.
    world.ok(["prune", "-r", "repo", "--snapshot=1,2"]);
    check(&world, &[], 0);
    assert!(!verified.exists());
}

#[test]
fn it_says_what_a_restore_would_do() {
    let world = world();
    let id = blake3::hash(&noise(7, 2000)).to_hex().to_string();
    fs::remove_file(&world.objects("repo")[&id]).unwrap();
    world.run(["snapshot", "-r", "repo", "src/a"]).exits(0);
    let report = check(&world, &[], 4);
    assert_eq!(report["affected"], serde_json::json!([{"snapshot": 2, "paths": 1}]));
    assert_eq!(report["whole"], serde_json::json!([1, 3]));
    let said = world.run(["check", "-r", "repo"]).exits(4).stdout;
    for text in [
        &format!("missing: object {id}\n  new (snapshot 2)\n"),
        "snapshots that can be restored completely: 1, 3\n",
        "a restore of snapshot 2 leaves out 1 path that is named above, and writes the rest\n",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let restored = world.run(["restore", "-r", "repo", "--snapshot-number=2", "--output-directory=out"]).exits(3);
    assert!(restored.stderr.contains("out/new"), "{restored:?}");
    assert!(world.path("out/c/9").exists() && !world.path("out/new").exists());
}

#[test]
fn what_excludes_each_other_is_wrong_usage() {
    let world = world();
    for options in [["--quick", "--subset=1/2"], ["--quick", "--max-age=1d"], ["--subset=1/2", "--max-age=1d"]] {
        world.run(["check", "-r", "repo"].iter().chain(&options)).exits(2).says(&["cannot be used with"]);
    }
    world.run(["check", "-r", "repo", "--subset=4/3"]).exits(2).says(&["a part is a number"]);
}

#[test]
fn what_an_earlier_check_found_is_not_passed_over_in_silence_and_then_cleared_away() {
    let world = world();
    let pack = packs(&world, "blobs").remove(0);
    let middle = fs::metadata(&pack).unwrap().len() / 3;
    damage_byte(&pack, usize::try_from(middle).unwrap());
    let said = world.run(["check", "-r", "repo"]).exits(4).stdout;
    assert!(said.contains("next: `backuptool repair --from COPY`") && said.contains("without either"), "{said}");
    let lost = names(&check(&world, &[], 4)).len();

    let quick = check(&world, &["--quick"], 4);
    assert_eq!(quick["unread_damaged_objects"], lost, "{quick}");
    let said = world.run(["check", "-r", "repo", "--quick"]).exits(4).stdout;
    assert!(said.contains(&format!("an earlier check found {lost} objects damaged or missing")), "{said}");

    let said = world.ok(["snapshot", "-r", "repo", "src"]).stdout;
    assert!(said.contains(&format!("{lost} damaged objects: stored again; `backuptool repair` clears")), "{said}");
    let said = world.run(["check", "-r", "repo"]).exits(4).stdout;
    assert!(
        said.contains("next: `backuptool repair`, which stores elsewhere what is needed of the damaged packs"),
        "{said}"
    );
    world.ok(["repair", "-r", "repo"]);
    let report = check(&world, &[], 0);
    assert_eq!((&report["unread_damaged_objects"], &report["whole"]), (&0.into(), &vec![1, 2, 3].into()), "{report}");
}
