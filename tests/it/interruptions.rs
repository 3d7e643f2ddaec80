//! Interruptions: at every operation on the storage, and by real signals at random moments. Whenever it comes, the
//! repository needs nothing.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use backuptool::Error;
use backuptool::Result;
use backuptool::ops::ignores_signal;
use backuptool::repo::{Session, WriterOptions};
use backuptool::store::batch::SyncMethod;
use backuptool::store::{Backend, Crash, MemoryBackend, layout};
use fs2::FileExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::cli::{self, Tree, noise, read_tree, write};
use crate::support::fault::{FaultBackend, Plan};
use crate::support::model::{Model, Source};
use crate::support::repos::{check_in, pack_in, prune_in, restore_in, session, take_in};
use crate::support::sweep::{Expect, Sweep, World};

// ---- at every operation on the storage

/// Everything goes to packs, which are small.
const PACKED: WriterOptions = WriterOptions { sync: SyncMethod::Auto, loose_limit: 0, pack_size: 64 << 10 };
/// Everything stays loose.
const LOOSE: WriterOptions = WriterOptions { loose_limit: usize::MAX, ..PACKED };

/// Some files, of which one has several chunks, that have `number` in common with none of another number.
fn files(number: u64) -> Model {
    let small =
        (0..8).fold(Model::default(), |model, n| model.file(&format!("d{n}/{n}"), noise(100 * number + n, 400)));
    small.file("large", noise(number + 50, 300_000)).file("common", *b"common").link("link", "common")
}

/// A backend that interrupts the session when it comes to operation `n`, which is still performed.
fn interrupting(memory: MemoryBackend, session: &Session<'_>, n: u64) -> FaultBackend {
    let (interruption, count) = (session.interruption.clone(), AtomicU64::new(0));
    FaultBackend::hooked(memory, move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) + 1 == n {
            interruption.request();
        }
        Ok(())
    })
}

/// Interrupts an operation at each of its steps in turn. `expect` says what must be found if it was done, or if not.
/// Returns how many cases there were, and how many of them were interrupted.
fn interrupt_everywhere(
    name: &str,
    sweep: &Sweep<'_>,
    base: &MemoryBackend,
    operation: impl Fn(&Session<'_>, FaultBackend) -> Result<()>,
    expect: impl Fn(bool) -> Expect,
) -> (u64, u64) {
    let counted = FaultBackend::new(Arc::new(base.crash(Crash::KeepAll)), Plan::None);
    operation(&session(), counted.clone()).unwrap();
    let mut interrupted = 0;
    for n in 1..=counted.operations() {
        let memory = base.crash(Crash::KeepAll);
        let session = session();
        let done = match operation(&session, interrupting(memory.clone(), &session, n)) {
            Ok(()) => true,
            Err(Error::Interrupted { .. }) => false,
            Err(other) => panic!("{name}, interrupted at {n}: {other}"),
        };
        interrupted += u64::from(!done);
        let case = format!("{name}, interrupted at {n}, done: {done}");
        // Nothing is left over, except what is complete.
        assert_eq!(memory.list(layout::TMP).unwrap(), [], "{case}");
        for crash in [Crash::KeepAll, Crash::LoseAll] {
            let after = memory.crash(crash);
            if sweep.is_new(&after, done) {
                sweep.verify(&case, &after, &expect(done));
            }
        }
    }
    println!("{name}: {interrupted} of {} interrupted", counted.operations());
    (counted.operations(), interrupted)
}

#[test]
fn whatever_is_interrupted_at_any_step_leaves_nothing_that_needs_care() {
    let sources = [1, 2, 3].map(|number| Source::new(files(number)));
    let [first, second, third] = &sources;
    let mut cases = (0, 0);
    let mut count = |(all, interrupted): (u64, u64)| {
        cases.0 += all;
        cases.1 += interrupted;
    };
    for writing in [PACKED, LOOSE] {
        let world = World::new(MemoryBackend::new()).with_written(&[first, second], writing);
        let sweep = Sweep::new(third, 0).packing(writing);
        let take = |session: &Session<'_>, faults| take_in(session, faults, third.path(), writing).map(|_| ());
        count(interrupt_everywhere("snapshot", &sweep, &world.copy(), take, |done| world.expect_next(third, done)));
        let prune = |session: &Session<'_>, faults| prune_in(session, faults, &[1], writing).map(|_| ());
        count(interrupt_everywhere("prune", &sweep, &world.copy(), prune, |done| world.expect_without(&[1], done)));
        let pack = |session: &Session<'_>, faults| pack_in(session, faults, PACKED).map(|_| ());
        count(interrupt_everywhere("pack", &sweep, &world.copy(), pack, |_| world.expect()));
        let check = |session: &Session<'_>, faults| {
            let report = check_in(session, faults)?;
            assert!(report.is_clean(), "an interruption is no damage: {report:?}");
            Ok(())
        };
        count(interrupt_everywhere("check", &sweep, &world.copy(), check, |_| world.expect()));
    }
    assert!(cases.0 > 400 && cases.1 > 300, "{cases:?}");
}

#[test]
fn a_prune_that_is_interrupted_in_a_rewrite_keeps_what_is_complete() {
    // A pack of which a part is needed by the second snapshot as well.
    let kept = (0..40).fold(Model::default(), |model, n| model.file(&format!("kept{n:02}"), noise(n, 20_000)));
    let both = (0..10).fold(kept.clone(), |model, n| model.file(&format!("gone{n:02}"), noise(100 + n, 20_000)));
    let [first, second, next] = [both, kept, files(9)].map(Source::new);
    let world = World::new(MemoryBackend::new()).with_written(&[&first, &second], PACKED);
    let sweep = Sweep::new(&next, 0).packing(PACKED);
    let prune = |session: &Session<'_>, faults| {
        prune_in(session, faults, &[1], PACKED).map(|report| assert!(report.packs_rewritten > 0, "{report:?}"))
    };
    let (all, interrupted) =
        interrupt_everywhere("rewriting", &sweep, &world.copy(), prune, |done| world.expect_without(&[1], done));
    assert!(all > 40 && interrupted > 30, "{interrupted} of {all}");
}

#[test]
fn an_interrupted_restore_leaves_no_file_that_is_not_whole() {
    let source = Source::new(files(1));
    for writing in [PACKED, LOOSE] {
        let world = World::new(MemoryBackend::new()).with_written(&[&source], writing);
        let counted = FaultBackend::new(Arc::new(world.copy()), Plan::None);
        restore_in(&session(), counted.clone(), 1, &tempfile::tempdir().unwrap().path().join("out")).unwrap();
        let mut with_files = 0;
        for n in 1..=counted.operations() {
            let session = session();
            let scratch = tempfile::tempdir().unwrap();
            let out = scratch.path().join("out");
            let result = restore_in(&session, interrupting(world.copy(), &session, n), 1, &out);
            assert!(matches!(result, Err(Error::Interrupted { .. })), "{n}: {result:?}");
            if out.exists() {
                with_files += usize::from(are_whole(&read_tree(&out), &read_tree(source.path())) > 0);
            }
        }
        assert!(with_files > 0, "nothing was ever restored");
    }
}

/// Asserts that everything in `found` is as in `all`, and returns how much it is.
fn are_whole(found: &Tree, all: &Tree) -> usize {
    for (path, node) in found {
        assert!(all.get(path) == Some(node), "{} is not whole", path.display());
    }
    found.len()
}

// ---- by signals

/// The signals that end a command, again and again, with its exit code. Those aside that this process ignores, as it does
/// below `nohup` or in the background of a shell: the commands would ignore them as well.
fn signals() -> impl Iterator<Item = (Signal, i32)> {
    let all = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)];
    all.into_iter().cycle().filter(|(signal, _)| !ignores_signal(signal.as_raw()))
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Waits until the process has the lock open, or has ended: then it listens to signals.
fn until_it_has_the_lock(child: &mut Child, repo: &Path) {
    let lock = fs::canonicalize(repo.join("lock")).unwrap();
    while child.try_wait().unwrap().is_none() {
        let open = fs::read_dir(format!("/proc/{}/fd", child.id())).into_iter().flatten().flatten();
        if open.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == lock)) {
            return;
        }
        thread::yield_now();
    }
}

#[test]
fn a_signal_at_a_random_moment_leaves_a_repository_that_needs_nothing() {
    if !cfg!(target_os = "linux") {
        return cli::skip("there is no /proc");
    }
    let world = cli::World::new();
    world.init(&[]);
    for n in 0..60 {
        write(world.path(format!("src/d{}/{n}", n % 6)), noise(n, 150_000));
    }
    write(world.path("src/large"), noise(1000, 20_000_000));
    world.snapshot("src");
    let source = read_tree(&world.path("src"));
    let commands: [&[&str]; 5] = [
        &["snapshot", "src"],
        &["restore", "--snapshot-number=1", "--output-directory=out"],
        &["check"],
        &["prune", "--snapshot=latest"],
        &["pack"],
    ];
    for (command, args) in commands.into_iter().enumerate() {
        let mut interrupted = 0;
        for (attempt, (signal, code)) in (0..60).zip(signals()) {
            let seed = noise(100 * command as u64 + attempt, 2);
            match args[0] {
                "snapshot" => write(world.path("src/large"), noise(2000 + attempt, 20_000_000)),
                "prune" | "pack" => {
                    write(world.path("src/new"), noise(3000 + attempt, 9_000_000));
                    world.snapshot("src");
                    fs::remove_file(world.path("src/new")).unwrap();
                }
                _ => {}
            }
            let before = world.numbers();
            let mut run = world.command();
            run.args(["-r", "repo", "--quiet", "--threads=1"]).args(args).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = run.spawn().unwrap();
            until_it_has_the_lock(&mut child, &world.path("repo"));
            thread::sleep(Duration::from_micros(u64::from(seed[0]) * 300));
            if child.try_wait().unwrap().is_none() {
                kill_process(pid(&child), signal).unwrap();
            }
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let case = format!("{args:?}, {signal:?}: {:?}, {said}", output.status);
            let done = output.status.code() == Some(0);
            assert!(done || output.status.code() == Some(code), "{case}");
            assert!(done || said.contains("backuptool: interrupted; "), "{case}");
            assert_eq!(read_tree(&world.path("repo/tmp")), Tree::new(), "{case}");
            let numbers = world.numbers();
            match args[0] {
                "snapshot" => assert_eq!(numbers.len(), before.len() + usize::from(done), "{case}"),
                "prune" => assert!(numbers == before || numbers == before[..before.len() - 1], "{case}"),
                _ => assert_eq!(numbers, before, "{case}"),
            }
            if args[0] == "restore" && world.path("out").exists() {
                let whole = are_whole(&read_tree(&world.path("out")), &source);
                assert!(!done || whole == source.len(), "{case}");
                fs::remove_dir_all(world.path("out")).unwrap();
            }
            interrupted += u32::from(!done);
            if interrupted == 4 {
                break;
            }
        }
        assert!(interrupted > 0, "{args:?} was faster than every signal");
        world.clean();
        // The next run of the same goes on by itself.
        world.ok(["-r", "repo"].iter().chain(args));
        if args[0] == "snapshot" {
            let last = *world.numbers().last().unwrap();
            assert!(world.restored(last) == read_tree(&world.path("src")));
        }
        if args[0] == "restore" {
            fs::remove_dir_all(world.path("out")).unwrap();
        }
    }
    assert!(world.restored(1) == source);
}

/// A command that waits for the lock, and says so.
fn waiting(mut command: Command) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("the repository is locked; waited 1 s"), "{line}");
    (child, stderr)
}

#[test]
fn who_waits_for_the_lock_can_be_interrupted() {
    let world = cli::World::new();
    world.init(&[]);
    write(world.path("src/a"), "a");
    world.snapshot("src");
    let lock = File::open(world.path("repo/lock")).unwrap();
    FileExt::lock_exclusive(&lock).unwrap();
    for ((signal, code), args) in signals().zip([&["snapshot", "src"][..], &["prune", "--unreferenced"], &["list"]]) {
        let mut command = world.command();
        command.args(["-r", "repo", "--lock-wait=24h"]).args(args);
        let (mut child, mut stderr) = waiting(command);
        kill_process(pid(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{args:?}");
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("backuptool: interrupted; "), "{line}");
    }
    // With JSON as well.
    let mut command = world.command();
    command.args(["-r", "repo", "--lock-wait=24h", "--json", "list"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    kill_process(pid(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["type"] == "error" && json["message"].as_str().unwrap().starts_with("interrupted"), "{json}");
}

#[test]
fn a_signal_that_was_ignored_at_the_beginning_stays_so() {
    let world = cli::World::new();
    world.init(&[]);
    let lock = File::open(world.path("repo/lock")).unwrap();
    FileExt::lock_exclusive(&lock).unwrap();
    // As `nohup` does, and as a shell does for what it begins in the background.
    let mut command = Command::new("sh");
    let tool = env!("CARGO_BIN_EXE_backuptool");
    command.args(["-c", "trap '' HUP INT; exec \"$0\" -r repo --lock-wait=24h list", tool]).current_dir(world.path(""));
    let (mut child, _stderr) = waiting(command);
    kill_process(pid(&child), Signal::HUP).unwrap();
    kill_process(pid(&child), Signal::INT).unwrap();
    kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    if !cfg!(target_os = "linux") {
        return cli::skip("there is no /proc");
    }
    let world = cli::World::new();
    world.init(&[]);
    for n in 0..1500 {
        write(world.path(format!("src/{n}{}", "x".repeat(200))), "the same");
    }
    world.snapshot("src");
    let blob = blake3::hash(b"the same").to_hex().to_string();
    fs::remove_file(&world.objects("repo")[&blob]).unwrap();
    // It says of each file that it cannot be restored, and nobody listens: it waits until somebody does.
    let mut command = world.command();
    command.args(["restore", "-r", "repo", "--snapshot-number=1", "--output-directory=out"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = |child: &Child, key: &str| {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    };
    // When it has said the first of it, it has more to say than a pipe takes.
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    kill_process(pid(&child), Signal::TERM).unwrap();
    while u64::from_str_radix(&status(&child, "ShdPnd:"), 16).unwrap() != 0 {
        thread::yield_now();
    }
    assert_eq!(child.try_wait().unwrap(), None);
    kill_process(pid(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}
