//! Every command from the command line: exit codes, what is said where, and what becomes of strange sources, places
//! and moments.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use backuptool::fs::TargetDir;
use backuptool::object::Name;
use fs2::FileExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::cli::{
    NASTY_NAMES, Node, Tree, World, have, name, nasty_tree, noise, overwrite, read_tree, run, skip, write, write_tree,
};
use crate::support::repos::{newer, sealed};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A world with a repository and `snapshots` snapshots of `src`; number N has the file `n` with the content N.
fn world_with(snapshots: u64) -> World {
    let world = World::new();
    world.init(&[]);
    write(world.path("src/dir/file"), "content");
    write(world.path("src/other"), "more");
    for number in 1..=snapshots {
        write(world.path("src/n"), number.to_string());
        world.snapshot("src");
    }
    world
}

// ---- usage, places, options

#[test]
fn wrong_usage_exits_with_2() {
    let world = World::new();
    for args in [
        &[][..],
        &["nonsense"],
        &["snapshot"],
        &["snapshot", "a", "--target-directory=b"],
        &["restore", "--snapshot-number=1"],
        &["restore", "--output-directory=x"],
        &["prune", "--snapshot=x"],
        &["prune", "--snapshot="],
        &["prune", "--snapshot=1:path"],
        &["init", "--chunk-size=8K"],
        &["init", "--hash=md5"],
        &["list", "--lock-wait=soon"],
        &["list", "--threads=0"],
        &["list", "--repo="],
    ] {
        let ran = world.run(args).exits(2);
        assert!(
            ran.stdout.is_empty() && ran.stderr.to_lowercase().contains("usage") | ran.stderr.contains("error"),
            "{ran:?}"
        );
    }
    assert_eq!(read_tree(&world.path("")), Tree::new());
    for args in [&["--help"][..], &["--version"], &["restore", "--help"]] {
        let ran = world.ok(args);
        assert!(ran.stderr.is_empty() && !ran.stdout.is_empty(), "{ran:?}");
    }
}

#[test]
fn a_wrong_repository_exits_with_10_and_says_what_to_do() {
    let world = World::new();
    write(world.path("src/file"), "x");
    fs::create_dir(world.path("empty")).unwrap();
    write(world.path("foreign/notes"), "x");
    write(world.path("file"), "x");
    let before = read_tree(&world.path(""));
    for place in ["missing", "empty", "foreign", "file", "missing/deeper"] {
        for args in [
            &["list"][..],
            &["check"],
            &["snapshot", "src"],
            &["prune", "--snapshot=1"],
            &["restore", "--snapshot-number=1", "--output-directory=out"],
        ] {
            let says = [place, "backuptool init --repo", "see that its disk is mounted"];
            world.run(["-r", place].iter().chain(args)).exits(10).says(&says);
            let mut command = world.command();
            command.args(args).env("BACKUPTOOL_REPO", place);
            run(command).exits(10).says(&says);
        }
    }
    // At the default place only a snapshot makes one.
    world.run(["list"]).exits(10).says(&["./backup-repo"]);
    world.run(["restore", "--snapshot-number=1", "--output-directory=out"]).exits(10);
    assert_eq!(read_tree(&world.path("")), before);
}

#[test]
fn a_snapshot_makes_a_repository_at_the_default_place_only_and_says_so() {
    let world = World::new();
    write(world.path("src/file"), "x");
    let ran = world.ok(["snapshot", "--target-directory=src"]).says(&["made a new repository in ./backup-repo"]);
    assert!(ran.stdout.contains("snapshot 1"), "{ran:?}");
    let ran = world.ok(["snapshot", "src"]);
    assert!(!ran.stderr.contains("made"), "{ran:?}");
    assert_eq!(world.restored_from("backup-repo", 2), read_tree(&world.path("src")));
    // Naming the default place is naming a place.
    let world = World::new();
    write(world.path("src/file"), "x");
    world.run(["snapshot", "--repo=./backup-repo", "src"]).exits(10);
    // A mistyped source leaves no repository behind.
    world.run(["snapshot", "scr"]).exits(1).says(&["scr"]);
    assert!(!world.path("backup-repo").exists());
}

#[test]
fn options_stand_before_and_after_the_command_and_the_environment_names_the_repository() {
    let world = world_with(1);
    let listed = world.ok(["list", "-r", "repo"]).stdout;
    for args in [
        &["-r", "repo", "list"][..],
        &["--repo=repo", "list"],
        &["list", "--repo", "repo"],
        &["--quiet", "list", "--threads", "1", "-r", "repo", "--lock-wait=5s"],
        // The option is stronger than the environment.
        &["-rrepo", "list"],
    ] {
        let mut command = world.command();
        command.args(args).env("BACKUPTOOL_REPO", "elsewhere");
        assert_eq!(run(command).exits(0).stdout, listed, "{args:?}");
    }
    let mut command = world.command();
    command.arg("list").env("BACKUPTOOL_REPO", "repo");
    assert_eq!(run(command).exits(0).stdout, listed);
    let mut command = world.command();
    command.args(["snapshot", "src"]).env("BACKUPTOOL_REPO", world.path("repo"));
    run(command).exits(0);
    let mut command = world.command();
    command.arg("list").env("BACKUPTOOL_REPO", "");
    let said = run(command).exits(2).stderr;
    assert!(said.contains("it is empty; name a directory with --repo or in $BACKUPTOOL_REPO"), "{said}");
}

#[test]
fn a_leading_tilde_is_the_home_directory() {
    let world = world_with(0);
    world.ok(["snapshot", "--repo=~/repo", "--target-directory=~/src"]);
    world.ok(["restore", "-r~/repo", "--snapshot-number=latest", "--output-directory=~/out"]);
    assert_eq!(read_tree(&world.path("out")), read_tree(&world.path("src")));
    assert!(!world.path("~").exists());
    assert_eq!(world.read_ref(1)["source"], world.path("src").to_str().unwrap());
    // Only at the beginning, and not another user's.
    world.run(["list", "-r", "~other/repo"]).exits(10).says(&["~other"]);
    world.run(["list", "-r", "./~/repo"]).exits(10);
}

// ---- list, addresses, JSON

#[test]
fn list_shows_the_number_and_the_local_time_first() {
    let world = world_with(2);
    for (zone, hours) in [("UTC", 0), ("ABC-2", 2), ("ABC+9", -9)] {
        let mut command = world.command();
        command.args(["list", "-r", "repo"]).env("TZ", zone);
        let ran = run(command).exits(0);
        let lines: Vec<&str> = ran.stdout.lines().collect();
        let header: Vec<&str> = lines[0].split_whitespace().collect();
        assert_eq!(header, ["SNAPSHOT", "TIMESTAMP", "SIZE", "FILES", "SOURCE"]);
        assert_eq!(lines.len(), 3);
        for (line, number) in lines[1..].iter().zip(1_u64..) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let start: Timestamp = world.read_ref(number)["start"].as_str().unwrap().parse().unwrap();
            let local =
                start.to_zoned(TimeZone::fixed(jiff::tz::offset(hours))).strftime("%Y-%m-%d %H:%M:%S").to_string();
            assert_eq!((words[0], &line[10..29]), (&*number.to_string(), &*local), "{zone}");
            // The columns stand below their headings.
            assert_eq!(lines[0].find("TIMESTAMP"), Some(10));
            assert_eq!(words[words.len() - 1], world.path("src").to_str().unwrap());
        }
    }
}

#[test]
fn snapshots_are_addressed_by_number_or_from_the_latest_with_a_path() {
    let world = world_with(3);
    let restore = |number: &str, paths: &[&str]| {
        let out = world.path("out");
        let number = format!("--snapshot-number={number}");
        world.ok(["restore", "-r", "repo", &number, "--output-directory=out"].iter().chain(paths));
        let tree = read_tree(&out);
        fs::remove_dir_all(out).unwrap();
        tree
    };
    let n = |tree: &Tree| tree.get(Path::new("n")).cloned();
    let file = |text: &str| Some(Node::File(text.into()));
    assert_eq!(n(&restore("2", &[])), file("2"));
    assert_eq!(n(&restore("latest", &[])), file("3"));
    assert_eq!(n(&restore("latest~", &[])), file("2"));
    assert_eq!(n(&restore("latest~2", &[])), file("1"));
    // What a path leads to becomes the top; a file is restored under its own name.
    let keys = |tree: Tree| tree.into_keys().map(|path| path.to_str().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(keys(restore("1:dir", &[])), ["file"]);
    assert_eq!(keys(restore("latest:dir/file", &[])), ["file"]);
    assert_eq!(keys(restore("latest~1:/dir//./", &[])), ["file"]);
    // PATHs select, and keep their place.
    assert_eq!(keys(restore("1", &["dir"])), ["dir", "dir/file"]);
    assert_eq!(keys(restore("1", &["dir/file", "other"])), ["dir", "dir/file", "other"]);
    assert_eq!(keys(restore("1:dir", &["file"])), ["file"]);
    for (number, path, code) in [
        ("1:nothing", None, 1),
        ("1", Some("dir/nothing"), 1),
        ("1", Some("n/x"), 1),
        ("1", Some("../x"), 2),
        ("1:../x", None, 2),
    ] {
        let number = format!("--snapshot-number={number}");
        let args = ["restore", "-r", "repo", &number, "--output-directory=out"].into_iter().chain(path);
        world.run(args).exits(code);
        assert!(!world.path("out").exists(), "{number} {path:?}");
    }
}

#[test]
fn the_path_of_the_top_selects_everything_in_any_order() {
    let world = world_with(1);
    let all = read_tree(&world.path("src"));
    for (number, paths) in [
        ("1", &["."][..]),
        ("1", &["/"]),
        ("1", &[""]),
        ("1", &["./"]),
        ("1", &[".", "dir/file"]),
        ("1", &["dir/file", "."]),
        ("1", &["dir", "other", "/", "dir/file"]),
        ("1:.", &["/", "dir"]),
        ("1:/", &["dir", "//./"]),
    ] {
        let number = format!("--snapshot-number={number}");
        world.ok(["restore", "-r", "repo", &number, "--output-directory=out"].iter().chain(paths));
        assert_eq!(read_tree(&world.path("out")), all, "{number} {paths:?}");
        fs::remove_dir_all(world.path("out")).unwrap();
    }
    // Every path must be there, even where another one selects everything.
    world.run(["restore", "-r", "repo", "--snapshot-number=1", "--output-directory=out", ".", "no"]).exits(1);
    // Below a file there is nothing to select from.
    for (number, path) in [("1:other", "other"), ("1:other", "."), ("1:dir/file", "/"), ("1:dir/file", "dir/file")] {
        let number = format!("--snapshot-number={number}");
        let ran = world.run(["restore", "-r", "repo", &number, "--output-directory=out", path]).exits(1);
        ran.says(&["the address leads to a file or a link", "leave the paths out"]);
    }
    assert!(!world.path("out").exists());
}

#[test]
fn paths_in_json_are_as_they_are() {
    let world = World::new();
    let text = "a\\b\nc\t\"d\"";
    let source = world.path("s\\\n");
    for file in [text.as_ref(), name(b"\xff\n").as_os_str()] {
        write(source.join("in\\side").join(file), file.as_encoded_bytes());
    }
    world.init(&[]);
    for (number, source) in [(1, source.clone()), (2, world.path(name(b"s\xff")))] {
        write(source.join("x"), "x");
        world.ok(["snapshot".as_ref(), "-r".as_ref(), OsStr::new("repo"), source.as_os_str()]);
        let line = &world.ok(["list", "-r", "repo", "--json"]).json()[number - 1];
        assert_eq!(line["snapshot"], number);
        match source.to_str() {
            Some(source) => assert!(line["source"] == source && line.get("source_hex").is_none(), "{line}"),
            None => assert!(line["source_hex"] == hex::encode(source.as_os_str().as_encoded_bytes()), "{line}"),
        }
    }
    // Both files are damaged: check and restore name them.
    for file in [text.as_bytes(), b"\xff\n"] {
        let object = blake3::hash(file).to_hex().to_string();
        overwrite(&world.objects("repo")[&object], b"damaged");
    }
    let named = |value: &serde_json::Value| {
        let text = value.get("path").map(|path| path.as_str().unwrap().as_bytes().to_vec());
        let hex = value.get("path_hex").map(|path| hex::decode(path.as_str().unwrap()).unwrap());
        assert!(text.is_some() != hex.is_some(), "{value}");
        text.or(hex).unwrap()
    };
    let below = |top: &[u8]| {
        BTreeSet::from([[top, b"in\\side/", text.as_bytes()].concat(), [top, b"in\\side/\xff\n"].concat()])
    };
    let report = world.run(["check", "-r", "repo", "--json"]).exits(4).json().remove(0);
    let files = report["damaged"].as_array().unwrap().iter().flat_map(|object| object["files"].as_array().unwrap());
    assert_eq!(files.map(named).collect::<BTreeSet<_>>(), below(b""), "{report}");
    let out = world.path("o\\\n");
    let args = ["restore", "-r", "repo", "--json", "--snapshot-number=1", "--output-directory", out.to_str().unwrap()];
    let report = world.run(args).exits(3).json().remove(0);
    let failures = report["failures"].as_array().unwrap().iter().map(named).collect::<BTreeSet<_>>();
    assert_eq!(failures, below(&[out.as_os_str().as_encoded_bytes(), b"/"].concat()), "{report}");

    // A ref that cannot be read has a line as well.
    overwrite(&world.path("repo/snapshots/1.json"), b"damaged");
    let ran = world.run(["list", "-r", "repo", "--json"]).exits(3).says(&["1.json"]);
    let lines = ran.json();
    let line = |kind: &str| lines.iter().find(|line| line["type"] == kind).unwrap();
    assert_eq!((lines.len(), &line("snapshot")["snapshot"]), (2, &2.into()));
    assert_eq!(line("unreadable")["snapshot"], 1);
    assert!(line("unreadable")["error"].as_str().unwrap().contains("1.json is damaged"), "{lines:?}");
}

#[test]
fn a_snapshot_that_is_not_there_is_an_error_that_names_those_there_are() {
    let world = world_with(3);
    world.ok(["prune", "-r", "repo", "--snapshot=2"]);
    for number in ["2", "7", "0", "latest~2", "7:dir"] {
        let number = format!("--snapshot-number={number}");
        let ran = world.run(["restore", "-r", "repo", &number, "--output-directory=out"]).exits(1);
        ran.says(&["there is no snapshot", "the repository holds: 1, 3"]);
    }
    for number in ["x", "-1", "", "latest1", "99999999999999999999"] {
        let number = format!("--snapshot-number={number}");
        let ran = world.run(["restore", "-r", "repo", &number, "--output-directory=out"]).exits(2);
        ran.says(&["give the number of a snapshot, `latest`"]);
    }
    assert!(!world.path("out").exists());
    // One that does not exist spares the others as well.
    world.run(["prune", "-r", "repo", "--snapshot=1,7"]).exits(1).says(&["no snapshot 7", "1, 3"]);
    assert_eq!(world.numbers(), [1, 3]);
    let empty = World::new();
    empty.init(&[]);
    empty
        .run(["restore", "-r", "repo", "--snapshot-number=latest", "--output-directory=out"])
        .exits(1)
        .says(&["holds no snapshot yet"]);
}

#[test]
fn json_is_all_that_stands_on_standard_output() {
    let world = World::unprivileged();
    write(world.path("src/a"), "a");
    write(world.path("src/secret"), "s");
    chmod(&world.path("src/secret"), 0);
    world.give_away();
    let kinds = |ran: &crate::support::cli::Ran| {
        ran.json().iter().map(|line| line["type"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&world.ok(["init", "--json", "-r", "repo"])), ["init"]);
    let ran = world.run(["snapshot", "--json", "-r", "repo", "src"]).exits(3).says(&["secret"]);
    assert_eq!(kinds(&ran), ["snapshot"]);
    assert_eq!((&ran.json()[0]["incomplete"], &ran.json()[0]["snapshot"]), (&1.into(), &1.into()));
    let ran = world.run(["--json", "snapshot", "src"]).exits(3).says(&["made a new repository", "secret"]);
    assert_eq!(kinds(&ran), ["snapshot"]);
    assert_eq!(kinds(&world.ok(["list", "-r", "repo", "--json"])), ["snapshot"]);
    assert_eq!(kinds(&world.ok(["check", "-r", "repo", "--json"])), ["check"]);
    let restore = ["restore", "-r", "repo", "--json", "--snapshot-number=1", "--output-directory=out"];
    assert_eq!(kinds(&world.ok(restore)), ["restore"]);
    // The second time it is not empty.
    let ran = world.run(restore).exits(1).says(&["not empty"]);
    assert_eq!(kinds(&ran), ["error"]);
    assert!(ran.json()[0]["message"].as_str().unwrap().contains("not empty"));
    assert_eq!(kinds(&world.run(["prune", "-r", "repo", "--json", "--snapshot=9"]).exits(1)), ["error"]);
    assert_eq!(kinds(&world.ok(["prune", "-r", "repo", "--json", "-n", "--snapshot=1"])), ["prune"]);
    assert_eq!(kinds(&world.ok(["prune", "-r", "repo", "--json", "--snapshot=1"])), ["prune"]);
    assert_eq!(kinds(&world.run(["list", "-r", "nowhere", "--json"]).exits(10)), ["error"]);
}

#[test]
fn results_go_to_standard_output_and_quiet_says_nothing() {
    let world = world_with(1);
    let ran = world.ok(["snapshot", "-r", "repo", "src"]);
    assert!(ran.stdout.starts_with("snapshot 2: 3 files, 1 directory, 0 symbolic links, 12 B\n"), "{ran:?}");
    assert!(ran.stdout.contains("new: 0 objects, 0 B, 0 B compressed\n") && ran.stderr.is_empty(), "{ran:?}");
    let ran = world.ok(["prune", "-r", "repo", "--snapshot=1,1"]);
    assert!(ran.stdout.starts_with("removed snapshot 1\n") && ran.stderr.is_empty(), "{ran:?}");
    let ran = world.ok(["check", "-r", "repo"]);
    assert!(ran.stdout.ends_with("no damage found\n") && ran.stderr.is_empty(), "{ran:?}");
    for args in [
        &["snapshot", "src"][..],
        &["check"],
        &["restore", "--snapshot-number=2", "--output-directory=out"],
        &["prune", "--snapshot=2"],
    ] {
        let ran = world.ok(["-q", "-r", "repo"].iter().chain(args));
        assert!(ran.stdout.is_empty() && ran.stderr.is_empty(), "{ran:?}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let world = world_with(3);
    for args in [&["list"][..], &["list", "--json"], &["check"], &["check", "--json"], &["snapshot", "src"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = world.command();
        command.args(["-r", "repo"]).args(args).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(0) && stderr.is_empty(), "{args:?}: {} {stderr}", output.status);
    }
    for args in [&["--help"][..], &["snapshot", "--help"], &["--version"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = world.command();
        command.args(args).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert!(output.status.code() == Some(0) && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
    let script = format!("{} -r repo list | head -1", env!("CARGO_BIN_EXE_backuptool"));
    let output = Command::new("sh").arg("-c").arg(script).current_dir(world.path("")).output().unwrap();
    assert!(output.stdout.starts_with(b"SNAPSHOT") && output.stderr.is_empty(), "{output:?}");
}

// ---- the lock

#[test]
fn who_is_locked_out_waits_and_then_exits_with_11() {
    let world = world_with(2);
    let lock = File::open(world.path("repo/lock")).unwrap();
    // Held alone: nobody else comes in.
    FileExt::lock_exclusive(&lock).unwrap();
    for args in [
        &["list"][..],
        &["check"],
        &["snapshot", "src"],
        &["prune", "--snapshot=1"],
        &["restore", "--snapshot-number=1", "--output-directory=out"],
    ] {
        let ran = world.run(["-r", "repo", "--lock-wait=0s"].iter().chain(args)).exits(11);
        ran.says(&["repo", "lock", "--lock-wait"]);
    }
    assert!(!world.path("out").exists());
    // A word after a second.
    let begun = Instant::now();
    let ran = world.run(["list", "-r", "repo", "--lock-wait=2s"]).exits(11);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    ran.says(&["the repository is locked; waited 1 s", "waited 2 s"]);

    // Held together: only what removes has to wait. A dry run removes nothing.
    FileExt::unlock(&lock).unwrap();
    FileExt::lock_shared(&lock).unwrap();
    world
        .run(["prune", "-r", "repo", "--lock-wait=0s", "--snapshot=1"])
        .exits(11)
        .says(&["a process that is not recorded"]);
    for args in [&["list"][..], &["check"], &["snapshot", "src"], &["prune", "-n", "--snapshot=1"]] {
        world.ok(["-r", "repo", "--lock-wait=0s"].iter().chain(args));
    }
    // Who holds it is named by what it locks beside it.
    let info = world.path("repo/tmp/0123/info.json");
    write(&info, r#"{"host":"elsewhere","pid":4711,"command":"backuptool snapshot","start":"2024-09-01T12:35:22Z"}"#);
    let held = File::open(&info).unwrap();
    FileExt::lock_exclusive(&held).unwrap();
    let ran = world.run(["prune", "-r", "repo", "--lock-wait=0s", "--snapshot=1"]).exits(11);
    ran.says(&["backuptool snapshot", "process 4711 on elsewhere", "2024-09-01T12:35:22Z"]);
    assert!(info.exists());
    assert_eq!(world.numbers(), [1, 2, 3]);

    // Who waits goes on when the lock is free; staging whose owner is gone is removed.
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| world.run(["prune", "-r", "repo", "--snapshot=1"]));
        thread::sleep(Duration::from_millis(1300));
        drop(held);
        FileExt::unlock(&lock).unwrap();
        waiting.join().unwrap()
    });
    waiting.exits(0).says(&["waited 1 s for backuptool snapshot (process 4711"]);
    assert!(!info.exists());
    assert_eq!(world.numbers(), [2, 3]);
}

// ---- init

#[test]
fn init_makes_private_files_and_refuses_what_is_not_its_own() {
    let world = World::new();
    world.init(&["--hash=sha256", "--chunk-size=1M"]);
    write(world.path("src/file"), noise(1, 100_000));
    world.snapshot("src");
    for entry in walkdir::WalkDir::new(world.path("repo")) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().mode() & 0o7777;
        let allowed: &[u32] = if entry.file_type().is_dir() { &[0o700] } else { &[0o600, 0o400] };
        assert!(allowed.contains(&mode), "{}: {mode:o}", entry.path().display());
    }
    let config: serde_json::Value = serde_json::from_slice(&fs::read(world.path("repo/config.json")).unwrap()).unwrap();
    assert_eq!((&config["hash"], &config["chunker"]["average"]), (&"sha256".into(), &(1 << 20).into()));
    let before = read_tree(&world.path("repo"));
    world.run(["init", "-r", "repo"]).exits(1).says(&["there is one already"]);
    assert_eq!(read_tree(&world.path("repo")), before);

    for (path, content) in [
        ("a/notes", "mine"),
        ("b/README", "My own words.\n"),
        ("c/README", ""),
        ("d/lock", "not empty"),
        ("e/tmp/mine", "x"),
        ("f/objects/x", "x"),
        ("g/tmp/0123/mine", "x"),
        ("h/README/x", "x"),
    ] {
        write(world.path(path), content);
        let place = &path[..1];
        let before = read_tree(&world.path(place));
        world.run(["init", "-r", place]).exits(1).says(&["holds other files", "nothing was changed"]);
        assert_eq!(read_tree(&world.path(place)), before);
    }
    write(world.path("file"), "x");
    world.run(["init", "-r", "file"]).exits(1).says(&["file"]);
    // An empty directory is as good as none; directories above it are made.
    fs::create_dir(world.path("empty")).unwrap();
    world.ok(["init", "-r", "empty"]);
    world.ok(["init", "-r", "x/y/z"]);
    assert_eq!(fs::metadata(world.path("x/y")).unwrap().mode() & 0o777, 0o700);
    // Without a name, at the default place.
    let ran = world.ok(["init"]);
    assert!(ran.stdout.contains("./backup-repo"), "{ran:?}");
    world.ok(["list"]);
}

#[test]
fn init_completes_what_an_interrupted_one_left() {
    let world = World::new();
    world.init(&[]);
    let readme = fs::read(world.path("repo/README")).unwrap();
    for step in 0..5 {
        let place = format!("place-{step}");
        let dir = world.path(&place);
        fs::create_dir(&dir).unwrap();
        if step > 0 {
            write(dir.join("lock"), "");
        }
        if step > 1 {
            fs::create_dir(dir.join("objects")).unwrap();
            fs::create_dir(dir.join("snapshots")).unwrap();
        }
        if step > 2 {
            write(dir.join("tmp/0123/info.json"), "{");
            write(dir.join("tmp/0123/config.json"), "{}");
            write(dir.join("tmp/0123/readme"), "x");
        }
        if step > 3 {
            write(dir.join("README"), &readme);
        }
        world.run(["list", "-r", &place]).exits(10).says(&["backuptool init --repo"]);
        world.ok(["init", "-r", &place]);
        world.ok(["check", "-r", &place]);
        assert_eq!(read_tree(&dir.join("tmp")), Tree::new());
        assert_eq!(fs::read(dir.join("README")).unwrap(), readme);
    }
}

// ---- sources that cannot be read

#[test]
fn what_cannot_be_read_is_listed_and_the_rest_is_stored() {
    let world = World::unprivileged();
    write(world.path("src/good"), "good");
    write(world.path("src/sub/good"), "good");
    write(world.path("src/sub/secret\n"), "secret");
    write(world.path("src/closed/file"), "x");
    chmod(&world.path("src/sub/secret\n"), 0);
    chmod(&world.path("src/closed"), 0);
    world.give_away();
    world.init(&[]);
    let ran = world.run(["snapshot", "-r", "repo", "src"]).exits(3);
    assert!(
        ran.stdout.contains("2 paths: could not be read and is not in the snapshot") || ran.stdout.contains("2 paths"),
        "{ran:?}"
    );
    ran.says(&["src/closed", "src/sub/secret", "ermission denied"]);
    let incomplete = &world.read_ref(1)["incomplete"];
    assert_eq!(incomplete["count"], 2);
    let paths: Vec<&str> =
        incomplete["first"].as_array().unwrap().iter().map(|n| n["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["closed", "sub/secret\n"]);
    assert!(incomplete.get("all").is_none());
    assert!(world.ok(["list", "-r", "repo"]).stdout.contains("(incomplete)"));
    let mut expected = Tree::new();
    expected.insert("good".into(), Node::File("good".into()));
    expected.insert("sub".into(), Node::Dir);
    expected.insert("sub/good".into(), Node::File("good".into()));
    assert_eq!(world.restored(1), expected);
    world.clean();
    // When all can be read again, the next one is complete.
    chmod(&world.path("src/sub/secret\n"), 0o600);
    chmod(&world.path("src/closed"), 0o700);
    world.snapshot("src");
    assert_eq!(world.restored(2), read_tree(&world.path("src")));
    chmod(&world.path("src"), 0);
    world.run(["snapshot", "-r", "repo", "src"]).exits(1).says(&["src"]);
    chmod(&world.path("src"), 0o700);
    assert_eq!(world.numbers(), [1, 2]);
}

#[test]
fn a_long_list_of_unreadable_files_is_stored_whole() {
    let world = World::unprivileged();
    write(world.path("src/good"), "good");
    for i in 0..150 {
        let path = world.path("src").join(name(format!("secret-{i:03}-\u{e4}").as_bytes()));
        write(&path, "x");
        chmod(&path, 0);
    }
    world.give_away();
    world.init(&[]);
    let ran = world.run(["snapshot", "-r", "repo", "src"]).exits(3);
    assert_eq!(ran.stderr.matches("secret-").count(), 150);
    let incomplete = &world.read_ref(1)["incomplete"];
    assert_eq!((&incomplete["count"], incomplete["first"].as_array().unwrap().len()), (&150.into(), 100));
    let object = &world.objects("repo")[incomplete["all"]["blob"].as_str().unwrap()];
    let all = zstd::stream::decode_all(File::open(object).unwrap()).unwrap();
    assert_eq!(incomplete["all"]["size"], all.len());
    let all = String::from_utf8(all).unwrap();
    let paths = all.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let paths: Vec<String> = paths.map(|note| note["path"].as_str().unwrap().to_string()).collect();
    let expected: Vec<String> = (0..150).map(|i| format!("secret-{i:03}-\u{e4}")).collect();
    assert_eq!(paths, expected);
    world.clean();
    // A prune of another snapshot leaves the list alone; without it, it is missed.
    world.run(["snapshot", "-r", "repo", "src"]).exits(3);
    world.ok(["prune", "-r", "repo", "--snapshot=2"]);
    assert!(object.exists());
    world.clean();
    let id = incomplete["all"]["blob"].as_str().unwrap();
    fs::remove_file(object).unwrap();
    let ran = world.run(["check", "-r", "repo"]).exits(4);
    assert!(ran.stdout.contains(id), "{ran:?}");
}

#[test]
fn a_source_of_which_nothing_can_be_read_is_no_snapshot() {
    let world = World::unprivileged();
    write(world.path("src/secret"), "x");
    write(world.path("src/dir/secret"), "x");
    write(world.path("file"), "x");
    chmod(&world.path("src/secret"), 0);
    chmod(&world.path("src/dir/secret"), 0);
    world.give_away();
    world.init(&[]);
    world
        .run(["snapshot", "-r", "repo", "src"])
        .exits(1)
        .says(&["none of its files could be read", "no snapshot was made"]);
    world.run(["snapshot", "-r", "repo", "missing"]).exits(1).says(&[
        "cannot take a snapshot of",
        "missing",
        "No such file",
        "is mounted",
    ]);
    world.run(["snapshot", "-r", "repo", "file"]).exits(1).says(&["file", "Not a directory"]);
    assert_eq!(world.numbers(), [0_u64; 0]);
    assert_eq!(read_tree(&world.path("repo/tmp")), Tree::new());
}

#[test]
fn an_empty_source_that_was_not_empty_is_no_snapshot_unless_allowed() {
    let world = World::new();
    world.init(&[]);
    fs::create_dir_all(world.path("src")).unwrap();
    // The first one of an empty directory is what it is.
    world.snapshot("src");
    world.snapshot("src");
    write(world.path("src/dir/file"), "x");
    world.snapshot("src");
    fs::remove_dir_all(world.path("src/dir")).unwrap();
    for _ in 0..2 {
        let ran = world.run(["snapshot", "-r", "repo", "src"]).exits(1);
        ran.says(&["it is empty", "3", "--allow-empty", "no snapshot was made"]);
    }
    assert_eq!(world.numbers(), [1, 2, 3]);
    world.ok(["snapshot", "-r", "repo", "src", "--allow-empty"]);
    world.snapshot("src");
    // Another source is another matter.
    fs::create_dir(world.path("other")).unwrap();
    world.snapshot("other");
    assert_eq!(world.restored(6), Tree::new());
    world.clean();
}

#[test]
fn every_spelling_of_a_source_is_the_same_source() {
    let world = World::new();
    world.init(&[]);
    fs::create_dir_all(world.path("data/dir")).unwrap();
    symlink(".", world.path("self")).unwrap();
    let spellings = ["data", "data/", "./data", "data/.", "data//", ".//data/./", "data/././"];
    let whole = world.path("data");
    let absolute = [whole.to_str().unwrap().to_string(), format!("{}//.", whole.display())];
    let spellings = || spellings.into_iter().map(String::from).chain(absolute.clone());
    let mut last = 0;
    for full in spellings() {
        write(world.path("data/dir/file"), last.to_string());
        last = world.snapshot(&full)["snapshot"].as_u64().unwrap();
        assert_eq!(world.read_ref(last)["source"], whole.to_str().unwrap(), "{full}");
        fs::remove_dir_all(world.path("data/dir")).unwrap();
        for empty in spellings() {
            let ran = world.run(["snapshot", "-r", "repo", &empty]).exits(1);
            ran.says(&["it is empty", &format!("its last snapshot, {last},"), "--allow-empty"]);
        }
        let option = format!("--target-directory={full}");
        world.run(["snapshot", "-r", "repo", &option]).exits(1).says(&["it is empty"]);
    }
    assert_eq!(world.numbers(), (1..=last).collect::<Vec<_>>());
    // A link in the path may lead elsewhere tomorrow: that is another source.
    world.snapshot("self/data");
    assert_eq!(world.read_ref(last + 1)["source"], world.path("self/data").to_str().unwrap());
}

#[test]
fn files_that_claim_to_be_empty_are_stored_whole() {
    let source = Path::new("/proc/sys/kernel/random");
    let Ok(boot) = fs::read(source.join("boot_id")) else { return skip("there is no /proc/sys/kernel/random") };
    let pool = fs::read(source.join("poolsize")).unwrap();
    assert!(fs::metadata(source.join("boot_id")).unwrap().len() == 0 && !boot.is_empty());
    let world = World::new();
    world.init(&[]);
    let ran = world.run(["snapshot", "-r", "repo", "--json", "--strict", source.to_str().unwrap()]).exits(0);
    assert_eq!((&ran.json()[0]["changed"], &ran.json()[0]["incomplete"]), (&0.into(), &0.into()), "{ran:?}");
    assert!(ran.stderr.is_empty(), "{ran:?}");
    let restored = world.restored(1);
    assert_eq!(restored[Path::new("boot_id")], Node::File(boot));
    assert_eq!(restored[Path::new("poolsize")], Node::File(pool));
    world.clean();
}

#[test]
fn sockets_and_fifos_are_counted_and_do_not_hang() {
    let world = World::new();
    world.init(&[]);
    write(world.path("src/file"), "x");
    for fifo in ["src/fifo", "src/dir-fifo"] {
        mknodat(CWD, world.path(fifo), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    // A socket's path must be short.
    let short = tempfile::TempDir::new_in("/tmp").unwrap();
    let _listener = UnixListener::bind(short.path().join("s")).unwrap();
    fs::rename(short.path().join("s"), world.path("src/socket"))
        .or_else(|_| {
            let _again = UnixListener::bind(world.path("src/socket"))?;
            Ok::<_, std::io::Error>(())
        })
        .unwrap();
    let report = world.snapshot("src");
    assert_eq!((&report["special"], &report["files"], &report["incomplete"]), (&3.into(), &1.into(), &0.into()));
    let ran = world.ok(["snapshot", "-r", "repo", "src"]);
    assert!(ran.stdout.contains("3 socket, FIFO or device files: not stored"), "{ran:?}");
    assert_eq!(world.restored(1).into_keys().collect::<Vec<_>>(), [PathBuf::from("file")]);
    world.run(["snapshot", "-r", "repo", "src/fifo"]).exits(1);
    // A FIFO where a file of the repository should be is refused, too.
    fs::remove_file(world.path("repo/snapshots/1.json")).unwrap();
    mknodat(CWD, world.path("repo/snapshots/1.json"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    world.run(["list", "-r", "repo"]).exits(3).says(&["1.json", "not a regular file"]);
    world.run(["check", "-r", "repo"]).exits(4);
    world.run(["prune", "-r", "repo", "--snapshot=2"]).exits(1);
}

// ---- sources that change

#[test]
fn a_file_that_changes_while_it_is_read_is_reported_as_changed() {
    let world = World::new();
    world.init(&[]);
    write(world.path("src/quiet"), "quiet");
    write(world.path("src/busy"), noise(1, 8_000_000));
    let stop = AtomicBool::new(false);
    let (mut plain, mut strict) = (None, None);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new().append(true).open(world.path("src/busy")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"x").unwrap();
                thread::yield_now();
            }
        });
        // The writer may not get a turn in each of the three readings.
        for _ in 0..20 {
            let ran = world.run(["snapshot", "-r", "repo", "--json", "src"]).exits(0);
            if ran.json()[0]["changed"] == 1 {
                plain = Some(ran);
                break;
            }
        }
        for _ in 0..20 {
            let ran = world.run(["snapshot", "-r", "repo", "--json", "--strict", "src"]);
            if ran.json()[0]["changed"] == 1 {
                strict = Some(ran.exits(3));
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let plain = plain.expect("a file that changes all the time was never seen to change");
    plain.says(&["src/busy", "changed each time it was read"]);
    strict.expect("a file that changes all the time was never seen to change");
    let last = *world.numbers().last().unwrap();
    let changed = &world.read_ref(last)["changed"];
    assert_eq!((&changed["count"], &changed["first"][0]["path"]), (&1.into(), &"busy".into()));
    // What was stored is a state that the file had: a prefix of what it is now.
    let restored = world.restored(last);
    let now = fs::read(world.path("src/busy")).unwrap();
    let Node::File(then) = &restored[Path::new("busy")] else { panic!() };
    assert!(then.len() >= 8_000_000 && now.starts_with(then));
    world.clean();
    // When it is quiet again, nothing is reported, and --strict is content.
    let report = world.ok(["snapshot", "-r", "repo", "--json", "--strict", "src"]).json().remove(0);
    assert_eq!(report["changed"], 0);
    assert_eq!(world.restored(last + 1), read_tree(&world.path("src")));
}

#[test]
fn a_file_that_vanishes_is_reported_and_the_rest_is_stored() {
    let world = World::new();
    world.init(&[]);
    for i in 0..100 {
        write(world.path(format!("src/stays-{i}")), i.to_string());
    }
    let stop = AtomicBool::new(false);
    let mut seen = None;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for i in 0..40 {
                    fs::write(world.path(format!("src/comes-and-goes-{i}")), "x").unwrap();
                }
                for i in 0..40 {
                    fs::remove_file(world.path(format!("src/comes-and-goes-{i}"))).unwrap();
                }
            }
        });
        for _ in 0..100 {
            let ran = world.run(["snapshot", "-r", "repo", "--json", "src"]);
            if ran.code == Some(3) {
                seen = Some(ran);
                break;
            }
            ran.exits(0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let ran = seen.expect("no file vanished in 100 snapshots");
    let number = ran.json()[0]["snapshot"].as_u64().unwrap();
    ran.says(&["comes-and-goes-"]);
    let note = &world.read_ref(number)["incomplete"]["first"][0];
    assert!(note["reason"].as_str().unwrap().contains("it vanished while the snapshot was taken"), "{note}");
    let restored = world.restored(number);
    assert_eq!(restored.keys().filter(|path| path.to_str().unwrap().starts_with("stays")).count(), 100);
    world.clean();
}

// ---- the repository in its own way

#[test]
fn the_repository_is_no_part_of_its_own_snapshot() {
    let world = World::new();
    write(world.path("src/deep/file"), "x");
    world.ok(["init", "-r", "src/deep/repo"]);
    symlink("src/deep/repo", world.path("link")).unwrap();
    symlink("deep/repo", world.path("src/link")).unwrap();
    symlink("src", world.path("link-to-src")).unwrap();
    let mut expected = Tree::new();
    expected.insert("deep".into(), Node::Dir);
    expected.insert("deep/file".into(), Node::File("x".into()));
    expected.insert("link".into(), Node::Link("deep/repo".into()));
    for (number, (repo, source)) in [
        ("src/deep/repo", "src"),
        ("./src//deep/../deep/repo/", "src/"),
        ("link", "src"),
        ("src/link", "./src/."),
        ("link-to-src/deep/repo", "src"),
        ("src/deep/repo", "link-to-src"),
    ]
    .into_iter()
    .enumerate()
    {
        world.ok(["snapshot", "-r", repo, source]);
        assert_eq!(world.restored_from("link", number as u64 + 1), expected, "{repo} {source}");
    }
    let before = read_tree(&world.path("link/snapshots"));
    for (repo, source) in [
        ("link", "src/deep/repo"),
        ("src/deep/repo", "link"),
        ("link", "src/link/"),
        // In it is no better: each run would store what the one before it stored.
        ("link", "src/deep/repo/objects"),
        ("src/deep/repo", "link/snapshots/."),
        ("link", "src/link/objects/../tmp"),
    ] {
        world.run(["snapshot", "-r", repo, source]).exits(1).says(&["it is the repository itself"]);
    }
    assert_eq!(read_tree(&world.path("link/snapshots")), before);
    // At the default place, in the directory that is taken.
    let mut command = world.command();
    fs::create_dir(world.path("home")).unwrap();
    write(world.path("home/file"), "x");
    command.args(["snapshot", "."]).current_dir(world.path("home"));
    run(command).exits(0);
    assert_eq!(world.restored_from("home/backup-repo", 1).into_keys().collect::<Vec<_>>(), [PathBuf::from("file")]);
    // Another repository is data like any other.
    world.init(&[]);
    world.snapshot("src");
    assert!(world.restored(1).contains_key(Path::new("deep/repo/config.json")));
}

#[test]
fn an_output_directory_that_is_not_empty_is_refused_and_untouched() {
    let world = world_with(1);
    write(world.path("full/mine"), "mine");
    write(world.path("file"), "mine");
    fs::create_dir_all(world.path("hidden/.d")).unwrap();
    symlink("nowhere", world.path("dangling")).unwrap();
    symlink("full", world.path("link-to-full")).unwrap();
    let state = || {
        let mut tree = read_tree(&world.path(""));
        tree.retain(|path, _| !path.starts_with("repo"));
        tree
    };
    let before = state();
    for (place, reason) in [
        ("full", "not empty"),
        ("hidden", "not empty"),
        ("file", "not a directory"),
        ("dangling", "leads nowhere"),
        ("link-to-full", "not empty"),
        ("repo", "it is in the repository"),
        ("repo/new", "it is in the repository"),
        ("repo/objects/../cache", "it is in the repository"),
        ("repo/objects/a/b", "it is in the repository"),
    ] {
        let output = format!("--output-directory={place}");
        world.run(["restore", "-r", "repo", "--snapshot-number=1", &output]).exits(1).says(&[place, reason]);
        assert_eq!(state(), before, "{place}");
    }
    fs::create_dir(world.path("empty")).unwrap();
    for place in ["empty", "new", "a/b/c"] {
        let output = format!("--output-directory={place}");
        world.ok(["restore", "-r", "repo", "--snapshot-number=1", &output]);
        assert_eq!(read_tree(&world.path(place)), read_tree(&world.path("src")));
    }
    assert_eq!(fs::metadata(world.path("new")).unwrap().mode() & 0o777, 0o700);
}

// ---- what a tree can hold

#[test]
fn strange_names_links_and_empty_things_come_back_exactly() {
    let world = World::new();
    world.init(&[]);
    let tree = nasty_tree();
    write_tree(&world.path("src"), &tree);
    assert_eq!(read_tree(&world.path("src")), tree);
    let report = world.snapshot("src");
    let count = |is: fn(&Node) -> bool| tree.values().filter(|node| is(node)).count();
    assert_eq!(report["files"], count(|node| matches!(node, Node::File(_))));
    assert_eq!(report["dirs"], count(|node| matches!(node, Node::Dir)));
    assert_eq!(report["symlinks"], count(|node| matches!(node, Node::Link(_))));
    assert_eq!(world.restored(1), tree);
    world.clean();
    // Each can be addressed, and a source can have such a name itself.
    for (at, bytes) in NASTY_NAMES.into_iter().enumerate() {
        let out = format!("out-{at}");
        let mut number = name(b"--snapshot-number=1:");
        number.push(name(bytes));
        let args = [
            "restore".as_ref(),
            "-r".as_ref(),
            "repo".as_ref(),
            "--output-directory".as_ref(),
            OsStr::new(&out),
            &number,
        ];
        world.ok(args);
        assert_eq!(read_tree(&world.path(&out)).into_values().collect::<Vec<_>>(), [Node::File(bytes.to_vec())]);
        let source = world.path("sources").join(name(bytes));
        write(source.join("x"), "x");
        world.ok([
            "snapshot".as_ref(),
            "-r".as_ref(),
            OsStr::new("repo"),
            "--target-directory".as_ref(),
            source.as_os_str(),
        ]);
    }
    let listed = world.ok(["list", "-r", "repo"]).stdout;
    assert_eq!(listed.lines().count(), 2 + NASTY_NAMES.len(), "a name breaks its line: {listed:?}");
    assert!(!listed.contains('\x1b'));
}

#[test]
fn deep_trees_come_back() {
    let world = World::new();
    world.init(&[]);
    let mut tree = Tree::new();
    let mut path = PathBuf::new();
    for level in 0..500 {
        path.push(if level % 2 == 0 { "d" } else { "e" });
        tree.insert(path.clone(), Node::Dir);
    }
    tree.insert(path.join("file"), Node::File(noise(5, 100)));
    write_tree(&world.path("src"), &tree);
    world.snapshot("src");
    assert_eq!(world.restored(1), tree);
    world.clean();
    world.ok(["prune", "-r", "repo", "--snapshot=1"]);
    assert!(world.objects("repo").is_empty());
    // With few open files, what is too deep is reported, and the rest is there.
    let script = "ulimit -n 128; exec \"$0\" snapshot -r repo src";
    let ran = Command::new("sh")
        .args(["-c", script])
        .arg(env!("CARGO_BIN_EXE_backuptool"))
        .current_dir(world.path(""))
        .output();
    let ran = ran.unwrap();
    assert!(matches!(ran.status.code(), Some(1 | 3)), "{ran:?}");
    assert!(
        String::from_utf8_lossy(&ran.stderr).contains("nested deeper than this process may have directories open"),
        "{ran:?}"
    );
    world.clean();
}

#[test]
fn many_directories_take_few_open_files() {
    let world = World::new();
    world.init(&[]);
    let mut tree = Tree::new();
    for i in 0..3000 {
        tree.insert(format!("{i:04}").into(), Node::Dir);
        tree.insert(format!("{i:04}/file").into(), Node::File(i.to_string().into()));
    }
    write_tree(&world.path("src"), &tree);
    for args in [&["snapshot", "src"][..], &["restore", "--snapshot-number=1", "--output-directory=out"]] {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 256; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_backuptool")]);
        command.args(["-r", "repo", "--threads=8"]).args(args).current_dir(world.path(""));
        let ran = run(command).exits(0);
        assert!(ran.stderr.is_empty(), "{ran:?}");
    }
    assert_eq!(read_tree(&world.path("out")), tree);
}

#[test]
fn large_and_sparse_files_come_back_and_hard_links_become_files() {
    const MIB: u64 = 1 << 20;
    let world = World::new();
    world.init(&[]);
    let large = noise(7, 20_000_000);
    write(world.path("src/large"), &large);
    fs::hard_link(world.path("src/large"), world.path("src/same")).unwrap();
    let mut sparse = File::create(world.path("src/sparse")).unwrap();
    sparse.write_all(&noise(8, 5000)).unwrap();
    sparse.set_len(40 * MIB).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 21 * MIB + 17).unwrap();
    File::create(world.path("src/only-a-hole")).unwrap().set_len(3 * MIB + 1).unwrap();
    File::create(world.path("src/small-hole")).unwrap().set_len(60_000).unwrap();
    let report = world.snapshot("src");
    assert!(report["added_stored"].as_u64().unwrap() < 20_500_000, "{report}");
    world.ok(["restore", "-r", "repo", "--snapshot-number=1", "--output-directory=out"]);
    assert!(read_tree(&world.path("out")) == read_tree(&world.path("src")));
    let stat = |path: &str| fs::metadata(world.path(path)).unwrap();
    assert_ne!(stat("out/large").ino(), stat("out/same").ino());
    assert_eq!((stat("out/large").nlink(), stat("out/same").nlink()), (1, 1));
    if stat("src/sparse").blocks() * 512 > MIB {
        return skip("the file system of the temporary directory has no holes");
    }
    for file in ["sparse", "only-a-hole", "small-hole"] {
        let bytes = stat(&format!("out/{file}")).blocks() * 512;
        assert!(bytes <= 128 << 10, "{file} takes {bytes} bytes");
    }
    world.clean();
}

// ---- places that cannot be written to, or fold names

#[test]
fn a_read_only_repository_is_listed_restored_and_checked() {
    let world = World::unprivileged();
    write_tree(&world.path("src"), &nasty_tree());
    world.give_away();
    world.init(&[]);
    world.snapshot("src");
    let set = |dir: u32, file: u32| {
        for entry in walkdir::WalkDir::new(world.path("repo")).contents_first(true) {
            let entry = entry.unwrap();
            chmod(entry.path(), if entry.file_type().is_dir() { dir } else { file });
        }
    };
    set(0o555, 0o400);
    assert_eq!(world.numbers(), [1]);
    assert_eq!(world.restored(1), nasty_tree());
    world.clean();
    world.run(["snapshot", "-r", "repo", "src"]).exits(1).says(&["repo", "ermission denied"]);
    world.run(["prune", "-r", "repo", "--snapshot=1"]).exits(1).says(&["repo", "ermission denied"]);
    // Without a lock file as well: a copy on a disc may lack it.
    chmod(&world.path("repo"), 0o700);
    fs::remove_file(world.path("repo/lock")).unwrap();
    chmod(&world.path("repo"), 0o555);
    assert_eq!(world.numbers(), [1]);
    world.clean();
    set(0o700, 0o600);
    world.snapshot("src");
}

/// A mount that ends with the test.
struct Mounted(PathBuf);

impl Mounted {
    /// Tries to mount; says why not.
    fn mount(args: &[&OsStr], at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let output = Command::new("mount").args(args).arg(at).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(at.to_path_buf())),
            Ok(output) => {
                skip(&format!("cannot mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
                None
            }
            Err(error) => {
                skip(&format!("cannot run mount: {error}"));
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.0.display());
        }
    }
}

#[test]
fn a_read_only_mount_is_listed_restored_and_checked() {
    let world = world_with(2);
    if !rustix::process::geteuid().is_root() {
        return skip("only root can mount");
    }
    let (repo, at) = (world.path("repo"), world.path("mounted"));
    let Some(mounted) = Mounted::mount(&["--bind".as_ref(), repo.as_os_str()], &at) else { return };
    let remount = Command::new("mount").args(["-o", "remount,ro,bind"]).arg(&at).output().unwrap();
    if !remount.status.success() {
        return skip("cannot make a mount read-only");
    }
    world.ok(["list", "-r", "mounted"]);
    world.ok(["check", "-r", "mounted"]);
    assert_eq!(world.restored_from("mounted", 2), read_tree(&world.path("src")));
    world.run(["snapshot", "-r", "mounted", "src"]).exits(1).says(&["mounted", "can be listed, restored and checked"]);
    world.run(["prune", "-r", "mounted", "--snapshot=1"]).exits(1).says(&["can be listed, restored and checked"]);
    drop(mounted);
    fs::remove_file(repo.join("lock")).unwrap();
    world.clean();
}

#[test]
fn names_that_are_one_to_the_file_system_are_told_apart() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can mount");
    }
    if !have(&["mkfs.vfat", "mount"]) {
        return;
    }
    let world = World::new();
    world.init(&[]);
    for (path, content) in [("A", "upper"), ("a", "lower"), ("D/x", "x"), ("d/y", "y"), ("other", "other")] {
        write(world.path("src").join(path), content);
    }
    world.snapshot("src");
    let image = world.path("image");
    File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let made = Command::new("mkfs.vfat").arg(&image).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let Some(mounted) = Mounted::mount(&["-o".as_ref(), "loop".as_ref(), image.as_os_str()], &world.path("fat")) else {
        return;
    };
    let ran = world.run(["restore", "-r", "repo", "--snapshot-number=1", "--output-directory=fat/out"]).exits(3);
    ran.says(&["fat/out/a", "fat/out/d", "ignores case"]);
    let tree = read_tree(&world.path("fat/out"));
    // Which of the two came first is not said; neither replaced the other, and nothing is mixed.
    let files: BTreeSet<Vec<u8>> =
        tree.values().filter_map(|node| if let Node::File(c) = node { Some(c.clone()) } else { None }).collect();
    assert!(files.contains(&b"other"[..]) && files.contains(&b"x"[..]) && !files.contains(&b"y"[..]), "{tree:?}");
    assert!(files.contains(&b"upper"[..]) != files.contains(&b"lower"[..]), "{tree:?}");
    // A repository can lie there, too.
    world.ok(["init", "-r", "fat/repo"]);
    world.ok(["snapshot", "-r", "fat/repo", "src"]);
    assert_eq!(world.restored_from("fat/repo", 1), read_tree(&world.path("src")));
    world.ok(["prune", "-r", "fat/repo", "--snapshot=1"]);
    world.ok(["check", "-r", "fat/repo"]);
    drop(mounted);
}

#[test]
fn a_restore_never_replaces_what_is_there() {
    let dir = tempfile::TempDir::new().unwrap();
    let at = dir.path().join("out");
    let root = TargetDir::open_root(&at).unwrap();
    let name = |text: &str| Name::new(text.as_bytes()).unwrap();
    root.create_file(&name("file")).unwrap().write_whole(b"first").unwrap();
    root.make_dir(&name("dir")).unwrap().create_file(&name("below")).unwrap();
    root.make_symlink(&name("link"), b"file").unwrap();
    let before = read_tree(&at);
    for taken in ["file", "dir", "link"] {
        let name = name(taken);
        for error in [
            root.create_file(&name).map(drop).unwrap_err(),
            root.make_dir(&name).map(drop).unwrap_err(),
            root.make_symlink(&name, b"x").unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains(at.join(taken).to_str().unwrap()) && text.contains("ignores case"), "{text}");
        }
    }
    assert_eq!(read_tree(&at), before);
    // A directory that is swapped for a link is not followed: the handle stays where it was.
    let inside = root.make_dir(&name("swapped")).unwrap();
    fs::rename(at.join("swapped"), at.join("moved")).unwrap();
    symlink(dir.path(), at.join("swapped")).unwrap();
    inside.create_file(&name("x")).unwrap();
    assert!(at.join("moved/x").exists() && !dir.path().join("x").exists());
}

#[test]
fn missing_directories_of_a_repository_are_made_again() {
    for missing in [
        &["tmp"][..],
        &["cache"],
        &["packs"],
        &["objects"],
        &["snapshots"],
        &["tmp", "cache", "packs", "objects", "snapshots"],
    ] {
        let world = World::new();
        world.init(&[]);
        write(world.path("src/file"), "x");
        for dir in missing {
            fs::remove_dir(world.path("repo").join(dir)).unwrap();
        }
        world.ok(["list", "-r", "repo"]);
        world.clean();
        world.snapshot("src");
        for dir in missing {
            assert!(world.path("repo").join(dir).is_dir(), "{dir}");
        }
        for dir in ["tmp", "packs"] {
            fs::remove_dir(world.path("repo").join(dir)).unwrap();
        }
        fs::remove_dir_all(world.path("repo/cache")).unwrap();
        assert_eq!(world.restored(1), read_tree(&world.path("src")));
        world.clean();
        world.ok(["prune", "-r", "repo", "--snapshot=1"]);
        assert_eq!(world.snapshot("src")["snapshot"], 2);
    }
}

#[test]
fn what_cannot_be_printed_is_done_all_the_same() {
    let world = world_with(2);
    let to_full = |args: &[&str]| {
        let mut command = world.command();
        command.args(args).stdout(File::options().write(true).open("/dev/full").unwrap());
        command.output().unwrap()
    };
    for args in [
        &["-r", "repo", "prune", "--snapshot=1"][..],
        &["--json", "-r", "repo", "snapshot", "src"],
        &["-r", "repo", "list"],
    ] {
        let output = to_full(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("cannot print to standard output") && said.contains("is done, only its report"),
            "{said}"
        );
    }
    assert_eq!(world.numbers(), [2, 3]);
    for args in [&["--help"][..], &["help", "prune"], &["--version"]] {
        let output = to_full(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("cannot print to standard output"), "{said}");
    }
}

/// Often they are the chunks of one file.
#[test]
fn damaged_objects_that_are_alike_are_counted() {
    let world = World::new();
    world.init(&["--chunk-size=16K"]);
    write(world.path("src/large"), noise(1, 1 << 20));
    world.ok(["snapshot", "-r", "repo", "--loose-limit=0", "src"]);
    let packs = fs::read_dir(world.path("repo/packs")).unwrap().map(|entry| entry.unwrap().path());
    let pack = packs.filter(|path| path.to_str().unwrap().contains(".blobs.")).last().unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[100_000] ^= 1;
    overwrite(&pack, &bytes);
    let named = world.run(["-r", "repo", "check", "--json"]).exits(4).json()[0]["damaged"].as_array().unwrap().len();
    let said = world.run(["-r", "repo", "check"]).exits(4).stdout;
    assert!(named > 10 && said.contains(&format!("and {} others like it: ", named - 1)), "{named} {said}");
    assert_eq!(said.matches("large (snapshot 1)").count(), 1, "{said}");
}

#[test]
fn of_a_snapshot_without_its_top_directory_nothing_can_be_restored() {
    let world = World::new();
    world.init(&[]);
    write(world.path("src/file"), "text");
    let tree = world.snapshot("src")["tree"].as_str().unwrap().to_string();
    write(world.path("src/file"), "other");
    world.snapshot("src");
    fs::remove_file(&world.objects("repo")[&tree]).unwrap();
    let said = world.run(["-r", "repo", "check"]).exits(4).stdout;
    assert!(said.contains("nothing of snapshot 1 can be restored: the top directory cannot be read"), "{said}");
    assert!(!said.contains("writes the rest"), "{said}");
}

/// What the last snapshot saw is still there, so there was one.
#[test]
fn where_it_is_sure_that_all_snapshots_are_lost_that_is_damage_and_nothing_begins_anew() {
    let world = world_with(2);
    let copied = Command::new("cp").args(["-r", "repo", "copy"]).current_dir(world.path("")).status();
    assert!(copied.unwrap().success());
    fs::remove_dir_all(world.path("repo/snapshots")).unwrap();
    let stored = world.objects("repo");
    for (code, args) in [
        (3, &["list"][..]),
        (4, &["check", "--quiet"]),
        (4, &["repair"]),
        (1, &["restore", "--snapshot-number=latest", "--output-directory=out"]),
        (1, &["restore", "--snapshot-number=1", "--output-directory=out"]),
        (1, &["snapshot", "src"]),
        (1, &["snapshot", "src", "--rescan"]),
    ] {
        let ran = world.run(["-r", "repo"].iter().chain(args)).exits(code);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("there were snapshots, and there is no trace of any"), "{ran:?}");
        assert!(said.contains("repair --from COPY") && said.contains("delete the directory `cache`"), "{ran:?}");
    }
    assert_eq!(world.run(["-r", "repo", "check", "--json"]).exits(4).json()[0]["clean"], false);
    assert_eq!(world.objects("repo"), stored);
    world.ok(["-r", "repo", "repair", "--from", "copy"]);
    world.ok(["-r", "repo", "check"]);
    assert_eq!(world.numbers(), [1, 2]);
    // What nothing shows any more is given up.
    fs::remove_dir_all(world.path("repo/snapshots")).unwrap();
    fs::remove_dir_all(world.path("repo/cache")).unwrap();
    assert_eq!(world.snapshot("src")["snapshot"], 1);
    // From now on the copy is another one, and that is not passed over in silence.
    let ran = world.ok(["-r", "repo", "repair", "--from", "copy"]);
    assert!(ran.stdout.contains("copy was a copy of this repository and has another snapshot under"), "{ran:?}");
}

#[test]
fn lost_snapshots_are_noted() {
    let world = world_with(2);
    // As where the repository was copied without it.
    fs::remove_dir_all(world.path("repo/cache")).unwrap();
    let lost = |world: &World| {
        let ran = world.run(["check", "-r", "repo"]).exits(0);
        let report = world.run(["check", "-r", "repo", "--json"]).exits(0).json().remove(0);
        assert_eq!((&report["clean"], &report["damaged"]), (&true.into(), &serde_json::json!([])), "{report}");
        let noted = ran.stdout.contains("no trace of any snapshot; was the directory `snapshots` lost?");
        assert_eq!(report["lost_snapshots"], noted, "{ran:?} {report}");
        noted
    };
    assert!(!lost(&world));
    fs::rename(world.path("repo/snapshots"), world.path("elsewhere")).unwrap();
    assert!(lost(&world));
    let said = world.run(["check", "-r", "repo", "--quiet"]).exits(0).stdout;
    assert!(said.contains("no trace of any snapshot") && !said.contains("a prune removes"), "{said}");
    // Nothing is removed then, as nothing would be left.
    let stored = world.objects("repo");
    for what in ["--unreferenced", "--keep-last=1"] {
        for dry in [&["--dry-run"][..], &[]] {
            let ran = world.run(["prune", "-r", "repo", what].iter().chain(dry)).exits(1);
            ran.says(&["no trace of any snapshot", "repair --from COPY", "--allow-empty", "nothing was removed"]);
        }
    }
    assert_eq!(world.objects("repo"), stored);
    fs::create_dir(world.path("repo/snapshots")).unwrap();
    assert!(lost(&world));
    // All that were are pruned: that leaves a trace, and objects only for a moment.
    fs::remove_dir(world.path("repo/snapshots")).unwrap();
    fs::rename(world.path("elsewhere"), world.path("repo/snapshots")).unwrap();
    for number in [1, 2] {
        let path = |kind: &str| world.path(format!("repo/snapshots/{number}.{kind}"));
        fs::rename(path("json"), path("pruned")).unwrap();
    }
    assert!(!lost(&world));
    // Nor is a new repository one that lost anything.
    let world = World::new();
    world.init(&[]);
    assert!(!lost(&world));
}

#[test]
fn staging_that_is_not_ours_stops_nothing() {
    let world = World::unprivileged();
    write(world.path("src/file"), "x");
    world.give_away();
    world.init(&[]);
    world.snapshot("src");
    // Another user's, which cannot even be looked into; one in which a file cannot be locked.
    fs::create_dir(world.path("repo/tmp/0123")).unwrap();
    write(world.path("repo/tmp/4567/info.json"), "{}");
    chmod(&world.path("repo/tmp/4567/info.json"), 0);
    chmod(&world.path("repo/tmp/0123"), 0);
    assert_eq!(world.snapshot("src")["snapshot"], 2);
    world.clean();
    assert_eq!(world.restored(2), read_tree(&world.path("src")));
    assert!(world.path("repo/tmp/0123").exists() && world.path("repo/tmp/4567/info.json").exists());
    chmod(&world.path("repo/tmp/0123"), 0o700);
    world.give_away();

    // What no writer makes is left where it is.
    for stray in ["0123/stray/file", "89ab/stray/file", "89ab/info.json", "file", "cdef/stray/deeper/file"] {
        write(world.path("repo/tmp").join(stray), "{}");
    }
    world.give_away();
    assert_eq!(world.snapshot("src")["snapshot"], 3);
    let ran = world.ok(["prune", "-r", "repo", "--snapshot=1"]);
    assert!(ran.stderr.is_empty(), "{ran:?}");
    world.ok(["prune", "-r", "repo", "--snapshot=2"]);
    for stray in ["0123/stray/file", "89ab/stray/file", "file", "cdef/stray/deeper/file"] {
        assert!(world.path("repo/tmp").join(stray).exists(), "{stray}");
    }
    assert_eq!(world.numbers(), [3]);
    world.clean();
}

#[test]
fn a_repository_that_fails_is_not_forgotten_over_a_source_that_does() {
    if !have(&["strace"]) {
        return;
    }
    let world = world_with(1);
    write(world.path("src/a"), noise(1, 12 << 20));
    write(world.path("src/b"), noise(2, 30 << 20));
    let mut failed = 0;
    for threads in ["--threads=1", "--threads=2"] {
        for when in 24..54 {
            let mut command = Command::new("strace");
            let read = format!("inject=read:error=EIO:when={when}");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=read,write", "-e", &read]);
            command.args(["-e", "inject=write:error=ENOSPC:when=5+"]).arg(env!("CARGO_BIN_EXE_backuptool"));
            command.args(["-r", "repo", "snapshot", threads, "src"]).current_dir(world.path(""));
            let ran = run(command);
            failed += usize::from(ran.code == Some(1));
            assert_eq!(world.numbers(), [1], "{threads} {when}: {ran:?}");
        }
    }
    if failed == 0 {
        return skip("strace does not work here");
    }
    world.clean();
}

#[test]
fn directories_that_cannot_be_synced_are_no_failure() {
    if !have(&["strace"]) {
        return;
    }
    let world = world_with(1);
    let output = world.path("log");
    let with_strace = |what: &str, args: &[&str]| {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=fsync", "-e", what, "-o"]).arg(&output);
        // All directories of the repository, and nothing else.
        for dir in walkdir::WalkDir::new(world.path("repo")) {
            let dir = dir.unwrap();
            if dir.file_type().is_dir() {
                command.arg("-P").arg(dir.path());
            }
        }
        command.arg(env!("CARGO_BIN_EXE_backuptool")).args(["-r", "repo"]).args(args).current_dir(world.path(""));
        let ran = run(command);
        (ran, fs::read_to_string(&output).unwrap_or_default())
    };
    let (ran, log) = with_strace("inject=fsync:error=EINVAL", &["list"]);
    if ran.code != Some(0) {
        return skip(&format!("strace does not work here: {} {log}", ran.stderr));
    }
    write(world.path("src/n"), "another");
    for args in [&["snapshot", "src"][..], &["prune", "--snapshot=1"]] {
        let (ran, log) = with_strace("inject=fsync:error=EINVAL", args);
        let ran = ran.exits(0);
        assert!(ran.stderr.is_empty() && log.contains("EINVAL (Invalid argument) (INJECTED)"), "{ran:?} {log}");
    }
    assert_eq!(world.restored(2), read_tree(&world.path("src")));
    world.clean();
    // What a disk says when it fails is one.
    write(world.path("src/n"), "and another");
    let (ran, _) = with_strace("inject=fsync:error=EIO", &["snapshot", "src"]);
    ran.exits(1).says(&["sync the directory"]);
    world.clean();
}

#[test]
fn numbers_do_not_overflow() {
    let world = world_with(1);
    let highest = world.path("repo/snapshots/999999999999999.pruned");
    write(&highest, "");
    for _ in 0..2 {
        let ran = world.run(["snapshot", "-r", "repo", "src"]).exits(1);
        ran.says(&["snapshot 1000000000000000", "no snapshot has so high a number", "snapshots", "whether it belongs"]);
    }
    assert_eq!(world.numbers(), [1]);
    world.clean();
    assert_eq!(read_tree(&world.path("repo/tmp")), Tree::new());
    // A name that no snapshot can have is no ref.
    fs::rename(&highest, world.path("repo/snapshots/18446744073709551615.pruned")).unwrap();
    assert_eq!(world.snapshot("src")["snapshot"], 2);
}

// ---- prune

#[test]
fn a_prune_takes_any_address_of_a_whole_snapshot() {
    let world = world_with(5);
    assert_eq!(world.ok(["prune", "-r", "repo", "--json", "-n", "--snapshot=latest"]).json()[0]["snapshots"][0], 5);
    world.ok(["prune", "-r", "repo", "--snapshot=latest~1"]);
    assert_eq!(world.numbers(), [1, 2, 3, 5]);
    // Both are counted from what is there before.
    world.ok(["prune", "-r", "repo", "--snapshot=latest~2,latest,2"]);
    assert_eq!(world.numbers(), [1, 3]);
    for wrong in ["1:path", "latest:path", "latest~1:dir/file", "1:dir", "1:../x", "latest~x", "1,x"] {
        world.run(["prune", "-r", "repo", &format!("--snapshot={wrong}")]).exits(2).says(&["--snapshot"]);
    }
    world.run(["prune", "-r", "repo", "--snapshot=latest~2"]).exits(1).says(&["no snapshot latest~2", "1, 3"]);
    assert_eq!(world.numbers(), [1, 3]);
    world.clean();
}

#[test]
fn a_dry_run_changes_nothing_and_numbers_are_not_used_again() {
    let world = world_with(3);
    let before = read_tree(&world.path("repo"));
    let ran = world.ok(["prune", "-r", "repo", "-n", "--snapshot=3,1"]);
    assert!(ran.stdout.contains("\nwould remove snapshots 1, 3\nwould keep: 2\nwould free "), "{ran:?}");
    assert_eq!(read_tree(&world.path("repo")), before);
    let ran = world.ok(["prune", "-r", "repo", "--snapshot=3,1"]);
    assert!(ran.stdout.starts_with("removed snapshots 1, 3\n"), "{ran:?}");
    assert_eq!(world.numbers(), [2]);
    assert_eq!(world.snapshot("src")["snapshot"], 4);
    world.ok(["prune", "-r", "repo", "--snapshot=2", "--snapshot=4"]);
    assert_eq!(world.numbers(), [0_u64; 0]);
    assert!(world.objects("repo").is_empty());
    assert_eq!(world.snapshot("src")["snapshot"], 5);
    world.clean();
}

// ---- at the same time, and cut short

#[test]
fn two_snapshots_at_the_same_time_both_complete() {
    let world = World::new();
    world.init(&["--chunk-size=16K"]);
    for side in ["left", "right"] {
        // Half of it is common to both.
        for i in 0..150 {
            let seed = if i % 2 == 0 { i } else { i + u64::from(side == "left") * 1000 };
            write(world.path(format!("{side}/{}/{i}", i % 7)), noise(seed, 500 + 40 * usize::try_from(i).unwrap()));
        }
        write(world.path(format!("{side}/large")), noise(9, 1_000_000));
    }
    for round in 0..4 {
        let spawn = |side: &str| {
            let mut command = world.command();
            command.args(["snapshot", "-r", "repo", "--json", side]).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        let children = [("left", spawn("left")), ("right", spawn("right"))];
        let mut numbers = BTreeSet::new();
        for (side, child) in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let number = report["snapshot"].as_u64().unwrap();
            numbers.insert(number);
            assert!(world.restored(number) == read_tree(&world.path(side)));
        }
        assert_eq!(numbers, BTreeSet::from([2 * round + 1, 2 * round + 2]));
        world.clean();
        if round == 1 {
            // The next round stores everything again, both at once.
            world.ok(["prune", "-r", "repo", "--snapshot=1,2,3,4"]);
            assert!(world.objects("repo").is_empty());
        }
    }
    assert_eq!(read_tree(&world.path("repo/tmp")), Tree::new());
}

#[test]
fn two_first_snapshots_at_the_same_time_both_complete() {
    for round in 0..6 {
        let world = World::new();
        let mut children = Vec::new();
        // In the first round both find no repository, and wait to make one.
        let lock = (round == 0).then(|| {
            write(world.path("backup-repo/lock"), "");
            let lock = File::open(world.path("backup-repo/lock")).unwrap();
            FileExt::lock_exclusive(&lock).unwrap();
            lock
        });
        for side in ["left", "right"] {
            write(world.path(side).join("file"), side);
            let mut command = world.command();
            command.args(["snapshot", "--json", side]).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let stderr = BufReader::new(child.stderr.take().unwrap());
            children.push((side, child, stderr));
        }
        if let Some(lock) = lock {
            for (_, _, stderr) in &mut children {
                let mut line = String::new();
                stderr.read_line(&mut line).unwrap();
                assert!(line.contains("the repository is locked; waited 1 s"), "{line}");
            }
            FileExt::unlock(&lock).unwrap();
        }
        let (mut numbers, mut makers) = (BTreeSet::new(), 0);
        for (side, child, mut stderr) in children {
            let output = child.wait_with_output().unwrap();
            let mut said = String::new();
            stderr.read_to_string(&mut said).unwrap();
            assert!(output.status.success(), "round {round}, {side}: {said}");
            makers += usize::from(said.contains("made a new repository"));
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let number = report["snapshot"].as_u64().unwrap();
            numbers.insert(number);
            assert_eq!(world.restored_from("backup-repo", number), read_tree(&world.path(side)));
        }
        assert_eq!((numbers, makers), (BTreeSet::from([1, 2]), 1), "round {round}");
        world.ok(["check"]);
    }
}

#[test]
fn after_a_kill_the_next_run_needs_no_manual_step() {
    let world = World::new();
    world.init(&["--chunk-size=16K"]);
    let mut states = Vec::new();
    let mut killed = 0;
    for round in 0..20_u64 {
        for i in 0..60 {
            write(world.path(format!("src/{}/{i}", i % 5)), noise(round * 100 + i, 4000));
        }
        write(world.path("src/large"), noise(round, 600_000));
        let mut command = world.command();
        command.args(["snapshot", "-r", "repo", "src"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // From the very beginning to around the end.
        thread::sleep(Duration::from_millis(u64::from(noise(round, 1)[0]) / 4));
        child.kill().unwrap();
        if child.wait().unwrap().code().is_none() {
            killed += 1;
        }
        if world.numbers().len() > states.len() {
            states.push(read_tree(&world.path("src")));
        }
        assert_eq!(world.numbers().len(), states.len());
        if round % 5 == 0 {
            // A killed prune is no different.
            let mut command = world.command();
            world.snapshot("src");
            states.push(read_tree(&world.path("src")));
            world.clean();
            assert_eq!(read_tree(&world.path("repo/tmp")), Tree::new());
            let number = *world.numbers().last().unwrap();
            command
                .args(["prune", "-r", "repo", &format!("--snapshot={number}")])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            thread::sleep(Duration::from_millis(u64::from(noise(round, 2)[1]) / 8));
            child.kill().unwrap();
            child.wait().unwrap();
            if world.numbers().len() < states.len() {
                states.pop();
            }
        }
    }
    assert!(killed > 0, "every run was faster than the signal");
    world.snapshot("src");
    states.push(read_tree(&world.path("src")));
    world.clean();
    assert_eq!(read_tree(&world.path("repo/tmp")), Tree::new());
    for (number, state) in world.numbers().into_iter().zip(states) {
        assert!(world.restored(number) == state, "snapshot {number}");
    }
    // What the killed ones left goes with the next prune.
    let number = world.numbers()[0];
    world.ok(["prune", "-r", "repo", &format!("--snapshot={number}")]);
    let report = world.ok(["check", "-r", "repo", "--json"]).json().remove(0);
    assert_eq!(report["unneeded_objects"], 0, "{report}");
}

#[test]
fn a_repository_that_is_newer_is_refused() {
    let world = world_with(1);
    let config_path = world.path("repo/config.json");
    let text = fs::read_to_string(&config_path).unwrap();
    assert_eq!(sealed(&text), text.as_bytes());
    for config in [sealed(&text.replace("\"format\": 1", "\"format\": 2")), newer(text.as_bytes())] {
        overwrite(&config_path, &config);
        world.run(["list", "-r", "repo"]).exits(1).says(&["config.json", "newer version"]);
        world.run(["snapshot", "-r", "repo", "src"]).exits(1).says(&["newer version"]);
    }
}

/// `/dev` has other file systems mounted below it on nearly every machine, and little in it that is stored.
#[test]
fn other_file_systems_are_left_out_on_request() {
    let device = |path: &str| fs::metadata(path).map(|meta| meta.dev()).ok();
    let world = World::new();
    if device("/dev/shm").is_none() || device("/dev/shm") == device("/dev") || !world.path("").starts_with("/dev/shm") {
        return skip("nothing is mounted on /dev/shm");
    }
    world.init(&[]);
    let ran = world.run(["snapshot", "-r", "repo", "--json", "-x", "/dev"]);
    assert!(matches!(ran.code, Some(0 | 3)), "{ran:?}");
    assert_eq!(world.read_ref(1)["options"], serde_json::json!([{"option": "--one-file-system"}]));
    let restored = world.restored(1);
    assert_eq!(restored[Path::new("shm")], Node::Dir);
    assert!(!restored.keys().any(|path| path.parent() == Some(Path::new("shm"))), "what is mounted there is stored");
    world.clean();
}
