//! A short run of what `fuzz/` does at length: the same targets, with valid inputs, inputs that were changed a little, and
//! noise. In little memory, so that whoever believes a length that it reads is found out.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[path = "../../fuzz/harness.rs"]
#[allow(unreachable_pub)] // Its other users are the programs of `fuzz/`.
mod harness;

use crate::support::cli::{World, noise, write};
use crate::support::docs::package;
use crate::support::repos::sealed;

/// The inputs that are known to be valid, by target.
fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let of_target = |target: &str| {
        let dir = package("fuzz/seeds").join(target);
        let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
    };
    harness::TARGETS.iter().map(|(target, _)| (*target, of_target(target))).collect()
}

/// With `BACKUPTOOL_MAKE_SEEDS` set: writes the seeds, from a small repository.
#[test]
fn every_target_has_seeds_and_accepts_them() {
    if std::env::var_os("BACKUPTOOL_MAKE_SEEDS").is_some() {
        make_seeds();
    }
    let seeds = seeds();
    for (target, run) in harness::TARGETS {
        let seeds = &seeds[target];
        assert!(!seeds.is_empty() && seeds.iter().map(Vec::len).sum::<usize>() < 40_000, "{target}");
        assert!(seeds.iter().all(|seed| run(seed)), "{target}");
        // Each is built by `cargo fuzz`.
        assert!(package(&format!("fuzz/fuzz_targets/{target}.rs")).exists(), "{target}");
    }
}

fn make_seeds() {
    let world = World::new();
    world.init(&["--chunk-size=16K"]);
    write(world.path("src/a"), "a");
    write(world.path("src/dir/text"), "words ".repeat(300));
    write(world.path("src/large"), "0123456789 ".repeat(6000));
    write(world.path("src/noise"), noise(1, 700));
    std::os::unix::fs::symlink("target", world.path("src/link")).unwrap();
    for n in 0..70 {
        write(world.path(format!("src/wide/{n:02}-{}", "x".repeat(10))), "same");
    }
    world.ok(["snapshot", "-r", "repo", "--loose-limit=0", "src"]);
    write(world.path("src/b"), "b");
    world.ok(["snapshot", "-r", "repo", "--loose-limit=0", "src"]);
    world.ok(["pack", "-r", "repo"]);
    write(world.path("src/large"), "another 0123456789 ".repeat(6000));
    world.snapshot("src");
    let put =
        |target: &str, name: &str, content: Vec<u8>| write(package("fuzz/seeds").join(target).join(name), content);
    for (id, path) in world.objects("repo") {
        let content = zstd::decode_all(&fs::read(path).unwrap()[..]).unwrap();
        for (target, run) in &harness::TARGETS[..2] {
            if run(&content) {
                put(target, &id[..8], content.clone());
            }
        }
    }
    for (target, file) in [("config", "config.json"), ("pack_index", "cache/index")] {
        put(target, "one", fs::read(world.path("repo").join(file)).unwrap());
    }
    // Without what is known of this machine.
    let mut text = fs::read_to_string(world.path("repo/snapshots/3.json")).unwrap();
    for key in ["host", "user", "source"] {
        let line = text.lines().find(|line| line.starts_with(&format!("  \"{key}\": "))).unwrap();
        text = text.replace(line, &format!("  \"{key}\": \"/{key}\","));
    }
    put("snapshot_ref", "one", sealed(&text));
    for entry in fs::read_dir(world.path("repo/packs")).unwrap() {
        let path = entry.unwrap().path();
        put("pack", &path.file_name().unwrap().to_str().unwrap()[..8], fs::read(&path).unwrap());
    }
}

/// A change of an input.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Set(Index, Vec<u8>),
    Insert(Index, Vec<u8>),
    Remove(Index, Index),
    Cut(Index),
    Repeat(Index, Index),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index| index.index(bytes.len() + 1);
        match self {
            Self::Flip(index, bit) if !bytes.is_empty() => {
                let at = index.index(bytes.len());
                bytes[at] ^= 1 << (bit % 8);
            }
            Self::Flip(..) => {}
            Self::Set(index, new) => {
                let at = at(index);
                let end = (at + new.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&new[..end - at]);
            }
            Self::Insert(index, new) => drop(bytes.splice(at(index)..at(index), new.iter().copied())),
            Self::Remove(first, second) | Self::Repeat(first, second) => {
                let range = at(first).min(at(second))..at(first).max(at(second));
                if matches!(self, Self::Remove(..)) {
                    bytes.drain(range);
                } else if range.len() < 4096 {
                    let part = bytes[range.clone()].to_vec();
                    bytes.splice(range.end..range.end, part);
                }
            }
            Self::Cut(index) => bytes.truncate(at(index)),
        }
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    // Lengths and counts that someone might believe.
    let large =
        prop_oneof![Just(vec![0xff; 4]), Just(vec![0xff, 0xff, 0xff, 0x7f]), Just(vec![0; 8]), Just(b"9999".to_vec())];
    let bytes = prop_oneof![large, vec(any::<u8>(), 1..12)];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, bit)| Change::Flip(at, bit)),
        4 => (any::<Index>(), bytes.clone()).prop_map(|(at, bytes)| Change::Set(at, bytes)),
        1 => (any::<Index>(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Remove(from, to)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Repeat(from, to)),
    ]
}

/// Set in the process that has little memory.
const INSIDE: &str = "BACKUPTOOL_FUZZ_INSIDE";
/// In kilobytes, of address space.
const LITTLE: &str = "600000";

#[test]
fn whatever_is_read_no_target_panics_or_takes_much_memory() {
    if std::env::var_os(INSIDE).is_none() {
        let test = "fuzz::whatever_is_read_no_target_panics_or_takes_much_memory";
        let mut inside = Command::new("sh");
        inside.args(["-c", "ulimit -v $0; exec \"$@\"", LITTLE]).arg(std::env::current_exe().unwrap());
        let output = inside.args(["--exact", test, "--test-threads=1"]).env(INSIDE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
        return;
    }
    let seeds = seeds();
    for (target, run) in harness::TARGETS {
        let seeds = seeds[target].clone();
        let input = prop_oneof![
            9 => (any::<Index>(), vec(any_change(), 0..5)).prop_map(move |(seed, changes)| {
                let mut bytes = seeds[seed.index(seeds.len())].clone();
                for change in &changes {
                    change.apply(&mut bytes);
                }
                bytes
            }),
            1 => vec(any::<u8>(), 0..300),
        ];
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
        let config = ProptestConfig { cases: config.cases.max(256) * 2, ..config };
        proptest!(config, |(input in input)| {
            run(&input);
        });
    }
}
