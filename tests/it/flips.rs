//! Damage to the files of a real repository, with packs and loose objects: single bits anywhere, and every kind of damage
//! to every kind of file. What `check` says is compared with what restores find, file by file.
//!
//! `BACKUPTOOL_FLIPS` says how many bits; usually it is few.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use backuptool::object::Tree as TreeObject;
use backuptool::object::decode_list;

use crate::support::cli::{Tree, World, noise, overwrite, read_tree, write};

/// A repository and what its snapshots hold.
struct Bed {
    world: World,
    states: BTreeMap<u64, Tree>,
    /// Every file of the repository, with its content.
    files: Vec<(PathBuf, Vec<u8>)>,
}

/// A kind of damage, and what does it to a file.
type Damage<'d> = (&'static str, Box<dyn Fn(&Path) + 'd>);

/// What the damage of a file did.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Found {
    /// `check` finds nothing, and everything is restored.
    Harmless,
    /// `check` names it, and everything is restored: another copy, or a part of a pack that only `tar` needs.
    Named,
    /// `check` names exactly what cannot be restored.
    Lost,
    /// The repository cannot be opened, and says why.
    Closed,
}

impl Bed {
    /// In packs and loose: small files, files of several chunks, a directory of several pieces.
    fn new(world: World) -> Self {
        world.init(&["--chunk-size=16K"]);
        for n in 0..12 {
            write(world.path(format!("src/d{}/{n}", n % 3)), noise(n, 1500 * usize::try_from(n).unwrap()));
        }
        for n in 0..90 {
            write(world.path(format!("src/wide/{n:04}-{}", "x".repeat(20))), "all the same");
        }
        write(world.path("src/large"), noise(50, 300_000));
        let mut states = BTreeMap::new();
        for (number, limit) in [(1, 0), (2, 0), (3, 256), (4, 0)] {
            write(world.path(format!("src/new{number}/file")), noise(60 + number, 5000));
            write(world.path("src/large-too"), [noise(70 + number, 4000), noise(80, 150_000)].concat());
            write(world.path("src/text"), format!("{number} ").repeat(8000));
            world.give_away();
            world.ok(["snapshot", "-r", "repo", &format!("--loose-limit={limit}"), "src"]);
            states.insert(number, read_tree(&world.path("src")));
            if number == 2 {
                // This leaves an index of all packs.
                world.ok(["pack", "-r", "repo"]);
            }
        }
        // A snapshot that was removed.
        world.ok(["snapshot", "-r", "repo", "src"]);
        world.ok(["prune", "-r", "repo", "--snapshot=5"]);
        world.ok(["check", "-r", "repo"]);
        let walk =
            walkdir::WalkDir::new(world.path("repo")).sort_by_file_name().into_iter().map(|entry| entry.unwrap());
        let paths = walk.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path);
        let files = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        world.give_away();
        Self { world, states, files }
    }

    fn inside(&self, path: &Path) -> String {
        path.strip_prefix(self.world.path("repo")).unwrap().to_str().unwrap().to_string()
    }

    /// What kind of file it is.
    fn kind(&self, (path, content): &(PathBuf, Vec<u8>)) -> &'static str {
        let inside = self.inside(path);
        match inside.split('/').next().unwrap() {
            "packs" if inside.ends_with(".trees.tar.zst") => "pack of trees",
            "packs" => "pack of blobs",
            "snapshots" if path.extension().is_some_and(|end| end == "json") => "ref",
            "snapshots" => "removed ref",
            "cache" => "cache",
            "objects" => {
                let content = zstd::decode_all(&content[..]).unwrap();
                if TreeObject::decode(&content).is_ok() {
                    "tree"
                } else if decode_list(&content).is_ok() {
                    "chunk list"
                } else {
                    "blob"
                }
            }
            "config.json" => "config.json",
            "lock" => "lock",
            "README" => "README",
            other => panic!("{other}"),
        }
    }

    /// Damages a file by `damage`, and says what that did. Whatever it is: nothing crashes, nothing wrong is restored, what
    /// cannot be restored is named, and what is named is not restored.
    fn try_damage(&self, case: &str, (path, content): &(PathBuf, Vec<u8>), damage: impl FnOnce(&Path)) -> Found {
        damage(path);
        self.world.give_away();
        let found = self.found(case);
        // As it was before; what `check` has recorded as well.
        overwrite(path, content);
        for (path, content) in self.files.iter().filter(|(path, _)| self.inside(path).starts_with("cache/")) {
            overwrite(path, content);
        }
        let _ = fs::remove_file(self.world.path("repo/cache/damaged"));
        found
    }

    fn found(&self, case: &str) -> Found {
        let world = &self.world;
        let listed = world.run(["list", "-r", "repo", "--json"]);
        let checked = world.run(["check", "-r", "repo", "--json"]);
        if checked.code == Some(1) || checked.code == Some(10) {
            let named = ["config.json", "the lock repo/lock"].iter().any(|file| checked.stderr.contains(file));
            assert!(listed.code == checked.code && named, "{case}: {checked:?}");
            assert_ne!(self.restore(1).0, Some(0), "{case}");
            return Found::Closed;
        }
        let report = checked.json().remove(0);
        assert_eq!(checked.code, Some(if report["clean"] == true { 0 } else { 4 }), "{case}: {report}");
        assert!(matches!(listed.code, Some(0 | 3)), "{case}: {listed:?}");
        let numbers = |key: &str| -> BTreeSet<u64> {
            report[key].as_array().unwrap().iter().map(|n| n["snapshot"].as_u64().or(n.as_u64()).unwrap()).collect()
        };
        let (whole, unreadable) = (numbers("whole"), numbers("unreadable"));
        assert_eq!(listed.code == Some(3), !unreadable.is_empty(), "{case}: {report}");
        let lines = listed.json();
        let lines = lines.iter().filter(|line| line["type"] == "snapshot");
        let readable: BTreeSet<u64> = lines.map(|line| line["snapshot"].as_u64().unwrap()).collect();
        let mut lost = false;
        for (number, state) in &self.states {
            let (code, restored, stderr) = self.restore(*number);
            let case = format!("{case}, snapshot {number}, {code:?}, {stderr}, {report}");
            assert!(restored.iter().all(|(path, node)| state.get(path) == Some(node)), "something else: {case}");
            if !readable.contains(number) {
                assert!(code == Some(1) && restored.is_empty(), "{case}");
                lost = true;
                continue;
            }
            assert_eq!(code, Some(if whole.contains(number) { 0 } else { 3 }), "{case}");
            let named = named_paths(&report, *number);
            for path in state.keys() {
                let is_named = named.iter().any(|named| path.starts_with(named));
                let is_dir = state.keys().any(|other| other != path && other.starts_with(path));
                let is_there = restored.contains_key(path);
                assert!(is_there || is_named, "{} was not named: {case}", path.display());
                // A directory can be there, and what is in it not.
                assert!(!is_there || !is_named || is_dir, "{} is there: {case}", path.display());
            }
            lost |= restored.len() < state.len();
        }
        match (report["clean"] == true, lost) {
            (true, false) => Found::Harmless,
            (false, false) => Found::Named,
            (_, true) => Found::Lost,
        }
    }

    /// Restores a snapshot: the exit code, and what is there then.
    fn restore(&self, number: u64) -> (Option<i32>, Tree, String) {
        let out = self.world.path("out");
        let ran =
            self.world.run(["restore", "-r", "repo", &format!("--snapshot-number={number}"), "--output-directory=out"]);
        let tree = if out.exists() { read_tree(&out) } else { Tree::new() };
        if out.exists() {
            fs::remove_dir_all(out).unwrap();
        }
        (ran.code, tree, ran.stderr)
    }
}

/// The paths that `check` says to be concerned in a snapshot. The empty one is all of it.
fn named_paths(report: &serde_json::Value, number: u64) -> Vec<PathBuf> {
    let objects = report["damaged"].as_array().unwrap().iter();
    let files = objects.flat_map(|object| object["files"].as_array().unwrap());
    let files = files.filter(|file| file["snapshots"].as_array().unwrap().iter().any(|n| n.as_u64() == Some(number)));
    files.map(|file| PathBuf::from(OsStr::from_bytes(file["path"].as_str().unwrap().as_bytes()))).collect()
}

#[test]
fn every_flipped_bit_that_touches_stored_data_is_found_and_what_it_concerns_is_named() {
    let flips = std::env::var("BACKUPTOOL_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let bed = Bed::new(World::new());
    let total: u64 = bed.files.iter().map(|(_, content)| content.len() as u64).sum();
    let mut counts = BTreeMap::<(&str, String), u32>::new();
    for flip in 0..flips {
        let random = |n: u64| u64::from_le_bytes(noise(flip * 8 + n, 8).try_into().unwrap());
        // Half of them anywhere, so that large files get most; half in any file, so that small ones get some.
        let mut at = random(1) % total;
        let file = if flip % 2 == 0 {
            let holds = |file: &&(PathBuf, Vec<u8>)| {
                let length = file.1.len() as u64;
                let is_it = at < length;
                at = if is_it { at } else { at - length };
                is_it
            };
            bed.files.iter().find(holds).unwrap()
        } else {
            let filled: Vec<_> = bed.files.iter().filter(|(_, content)| !content.is_empty()).collect();
            let file = filled[usize::try_from(random(2)).unwrap_or(0) % filled.len()];
            at = random(1) % file.1.len() as u64;
            file
        };
        let kind = bed.kind(file);
        let bit = random(3) % 8;
        let case = format!("bit {bit} of byte {at} of {} ({kind})", bed.inside(&file.0));
        let found = bed.try_damage(&case, file, |path| {
            let mut content = file.1.clone();
            content[usize::try_from(at).unwrap()] ^= 1 << bit;
            overwrite(path, &content);
        });
        let fits = match kind {
            "README" | "lock" | "cache" | "removed ref" => found == Found::Harmless,
            "config.json" => found == Found::Closed,
            "ref" => found == Found::Lost,
            "pack of trees" | "pack of blobs" => matches!(found, Found::Named | Found::Lost),
            // A few bits of the header of a frame mean nothing: the content is the same, and so is its hash.
            _ => found == Found::Lost || (found == Found::Harmless && at < 8),
        };
        assert!(fits, "{case}: {found:?}");
        *counts.entry((kind, format!("{found:?}"))).or_default() += 1;
    }
    assert_eq!(bed.found("at the end"), Found::Harmless);
    println!("{flips} flips: {counts:?}");
}

#[test]
fn every_damage_to_every_kind_of_file_is_contained() {
    let bed = Bed::new(World::unprivileged());
    let mut first_of_kind = BTreeMap::new();
    for file in &bed.files {
        first_of_kind.entry(bed.kind(file)).or_insert(file);
    }
    let kinds: Vec<_> = first_of_kind.keys().copied().collect();
    let expected = [
        "README",
        "blob",
        "cache",
        "chunk list",
        "config.json",
        "lock",
        "pack of blobs",
        "pack of trees",
        "ref",
        "removed ref",
        "tree",
    ];
    assert_eq!(kinds, expected);
    let mut cases = 0;
    for (kind, file) in first_of_kind {
        let (_, content) = file;
        let another = bed.files.iter().rev().find(|other| bed.kind(other) == kind && other.0 != file.0);
        let mut flipped = content.clone();
        if let Some(middle) = flipped.get_mut(content.len() / 2) {
            *middle ^= 16;
        }
        let mut tail = content.clone();
        if let Some(last) = tail.last_mut() {
            *last ^= 1;
        }
        let mut damages: Vec<Damage<'_>> = vec![
            ("deleted", Box::new(|path| fs::remove_file(path).unwrap())),
            ("empty", Box::new(|path| overwrite(path, b""))),
            ("cut in half", Box::new(|path| overwrite(path, &content[..content.len() / 2]))),
            ("flipped in the middle", Box::new(|path| overwrite(path, &flipped))),
            ("flipped at the end", Box::new(|path| overwrite(path, &tail))),
            ("unreadable", Box::new(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap())),
        ];
        if let Some((_, other)) = another {
            damages.push(("replaced by another", Box::new(|path| overwrite(path, other))));
        }
        for (what, damage) in damages {
            let case = format!("{kind} {what}");
            let found = bed.try_damage(&case, file, damage);
            let fits = match (kind, what) {
                ("config.json", _) | ("lock", "unreadable") => found == Found::Closed,
                ("README" | "cache" | "removed ref" | "lock", _) => found == Found::Harmless,
                // One that is gone is not listed, which is no damage: see `Found::Lost`.
                ("ref", _) => found == Found::Lost,
                (_, "flipped at the end") => matches!(found, Found::Named | Found::Lost),
                _ => found == Found::Lost,
            };
            assert!(fits, "{case}: {found:?}");
            cases += 1;
        }
    }
    assert_eq!(bed.found("at the end"), Found::Harmless);
    println!("{cases} cases");
    assert!(cases > 60, "{cases}");
}
