//! Repositories that were made once and are never changed: what was stored then must come back for ever.
//!
//! Each directory of `fixtures` holds a repository and `EXPECTED.json`, which says what its snapshots hold. A new format or
//! hash needs new ones, without packs and with: `BACKUPTOOL_MAKE_FIXTURES=1 cargo test make_missing_fixtures` makes what
//! is missing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use backuptool::object::{FORMAT, HashAlgorithm, Snapshot};
use serde_json::{Value, json};

use crate::support::cli::{Node, Tree, World, nasty_tree, noise, overwrite, read_tree, run, write, write_tree};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures")
}

/// What stands before the hash in the name of a fixture: nothing, or that its first snapshot is in packs.
const KINDS: [&str; 2] = ["", "packs-"];

fn name(format: u64, kind: &str, hash: HashAlgorithm) -> String {
    format!("format{format}-{kind}{hash}")
}

/// The fixtures that this version must be able to read.
fn names() -> BTreeSet<String> {
    let kinds = (1..=FORMAT).flat_map(|format| KINDS.map(|kind| (format, kind)));
    kinds.flat_map(|(format, kind)| HashAlgorithm::ALL.map(|hash| name(format, kind, hash))).collect()
}

fn copy(from: &Path, to: &Path) {
    write_tree(to, &read_tree(from));
}

/// What a tree holds, as it stands in `EXPECTED.json`: paths and targets in hex digits, since they are bytes; of files the
/// length and BLAKE3.
fn manifest(tree: &Tree) -> Value {
    let entries = tree.iter().map(|(path, node)| {
        let value = match node {
            Node::Dir => "dir".to_string(),
            Node::File(content) => format!("file {} {}", content.len(), blake3::hash(content)),
            Node::Link(target) => format!("symlink {}", hex::encode(target)),
        };
        (hex::encode(path.as_os_str().as_bytes()), Value::from(value))
    });
    Value::Object(entries.collect())
}

#[test]
fn every_format_and_hash_has_a_fixture_and_every_fixture_is_read() {
    let found = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(found.collect::<BTreeSet<_>>(), names());
    for name in names() {
        let world = World::new();
        let fixture = fixtures().join(&name);
        // A copy, without the empty directories, which git does not keep.
        copy(&fixture.join("repository"), &world.path("repo"));
        let expected: Value = serde_json::from_slice(&fs::read(fixture.join("EXPECTED.json")).unwrap()).unwrap();
        let snapshots = expected["snapshots"].as_object().unwrap();
        let numbers: BTreeSet<u64> = snapshots.keys().map(|number| number.parse().unwrap()).collect();
        assert_eq!(world.numbers().into_iter().collect::<BTreeSet<_>>(), numbers, "{name}");
        let report = world.ok(["check", "-r", "repo", "--json"]).json().remove(0);
        assert_eq!(report["clean"], true, "{name}: {report}");
        assert_eq!((&report["unneeded_objects"], &report["objects"]), (&0.into(), &expected["objects"]), "{name}");
        for listed in world.ok(["list", "-r", "repo", "--json"]).json() {
            let number = listed["snapshot"].as_u64().unwrap();
            let snapshot = &snapshots[&number.to_string()];
            for key in ["tree", "timestamp", "incomplete", "files", "bytes"] {
                assert_eq!(listed[key], snapshot[key], "{name}, snapshot {number}, {key}");
            }
            assert_eq!(manifest(&world.restored(number)), snapshot["entries"], "{name}, snapshot {number}");
        }
        // What is stored today has the names that it had then: nothing is stored again.
        let newest = numbers.last().unwrap();
        world.ok(["restore", "-r", "repo", &format!("--snapshot-number={newest}"), "--output-directory=again"]);
        let report = world.snapshot("again");
        assert_eq!((&report["added_objects"], &report["snapshot"]), (&0.into(), &expected["next"]), "{name}");
        assert_eq!(report["tree"], snapshots[&newest.to_string()]["tree"], "{name}");
        world.clean();
    }
}

/// Existing fixtures are not touched.
#[test]
fn make_missing_fixtures() {
    if std::env::var_os("BACKUPTOOL_MAKE_FIXTURES").is_none() {
        return;
    }
    for kind in KINDS {
        for hash in HashAlgorithm::ALL {
            let fixture = fixtures().join(name(FORMAT, kind, hash));
            if !fixture.exists() {
                make(&fixture, hash, !kind.is_empty());
            }
        }
    }
}

fn make(fixture: &Path, hash: HashAlgorithm, packed: bool) {
    let world = World::unprivileged();
    world.init(&["--chunk-size=16K", "--hash", hash.name()]);
    let run = |args: &[&OsStr], code: i32| {
        let mut command = world.command();
        command.args(args).args(["-r", "repo"]).env("USER", "anna");
        run(command).exits(code)
    };
    let snapshot = |code: i32| run(&["snapshot".as_ref(), "src".as_ref()], code);
    let packs = || fs::read_dir(world.path("repo/packs")).unwrap().count();
    let mut tree = nasty_tree();
    tree.insert("chunked".into(), Node::File(noise(1, 90_000)));
    tree.insert("zeros".into(), Node::File(vec![0; 300_000]));
    write_tree(&world.path("src"), &tree);
    world.give_away();
    if packed {
        run(&["snapshot".as_ref(), "--loose-limit=0".as_ref(), "src".as_ref()], 0);
    } else {
        snapshot(0);
    }
    assert_eq!(packs() > 0, packed);
    write(world.path("src/only-in-2"), "two");
    snapshot(0);
    write(world.path("src/only-in-2"), "three");
    for i in 0..900 {
        write(world.path(format!("src/many/{i}")), "");
    }
    write(world.path("src/secret"), "secret");
    fs::set_permissions(world.path("src/secret"), fs::Permissions::from_mode(0o000)).unwrap();
    world.give_away();
    snapshot(3);
    snapshot(3);
    run(&["prune".as_ref(), "--snapshot=2,4".as_ref()], 0);
    // Where it was made is nobody's business.
    for number in world.numbers() {
        let path = world.path(format!("repo/snapshots/{number}.json"));
        let made = Snapshot::decode(hash, &fs::read(&path).unwrap()).unwrap();
        let made = Snapshot { host: b"host".to_vec(), source: b"/home/anna/\xff".to_vec(), ..made };
        overwrite(&path, &made.encode(hash));
    }
    world.clean();
    // Both have loose objects, of the later snapshots.
    let cut = |object: PathBuf| {
        zstd::stream::decode_all(fs::File::open(object).unwrap()).unwrap().starts_with(b"{\"tree\":1,\"level\"")
    };
    assert!(world.objects("repo").into_values().any(cut), "no directory was cut");
    assert_eq!(packs() > 0, packed);
    let mut snapshots = serde_json::Map::new();
    for listed in world.ok(["list", "-r", "repo", "--json"]).json() {
        let number = listed["snapshot"].as_u64().unwrap();
        let mut snapshot = json!({"entries": manifest(&world.restored(number))});
        for key in ["tree", "timestamp", "incomplete", "files", "bytes"] {
            snapshot[key] = listed[key].clone();
        }
        snapshots.insert(number.to_string(), snapshot);
    }
    let objects = world.ok(["check", "-r", "repo", "--json"]).json().remove(0)["objects"].clone();
    let expected = json!({"snapshots": snapshots, "objects": objects, "next": 5});
    copy(&world.path("repo"), &fixture.join("repository"));
    overwrite(&fixture.join("EXPECTED.json"), format!("{expected:#}\n").as_bytes());
}
