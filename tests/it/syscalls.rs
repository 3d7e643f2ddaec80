//! The program itself, killed on entry to its Nth system call of each kind that changes something, and with that call
//! failing: as on a full disk, and as on a broken one. For every N, until a run ends unharmed.
//!
//! What the sweeps do over the storage seam, this does from outside, below everything that the program is made of. It needs
//! `strace`. Usually a sample is run; with `BACKUPTOOL_SLOW` set, all.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use backuptool::repo::{Session, WriterOptions};
use backuptool::store::LocalBackend;

use crate::support::cli::{Node, Tree, World, have, noise, objects, overwrite, read_tree, scratch, write};
use crate::support::model::Model;
use crate::support::repos::{check_in, open_in, prune_in, read_back, session, take_in};
use crate::support::sweep::slow;

/// Every call that changes something, and those that open files, take locks and write.
const CALLS: [&str; 20] = [
    "openat",
    "write",
    "pwrite64",
    "pwritev",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "fsync",
    "fdatasync",
    "syncfs",
    "ftruncate",
    "copy_file_range",
    "flock",
];

/// What is done to a call.
const FAULTS: [&str; 3] = ["signal=KILL", "error=ENOSPC", "error=EIO"];

/// One command on a repository, and what must be found after it.
struct Subject {
    name: &'static str,
    args: Vec<String>,
    /// The repository before.
    repo: PathBuf,
    /// The snapshots that must be there after it, whatever happens.
    stay: BTreeMap<u64, Model>,
    /// The snapshot that is there if it succeeds, and may be if it does not.
    adds: Option<(u64, Model)>,
    /// The snapshot that is gone if it succeeds.
    removes: Option<(u64, Model)>,
    /// If it repairs: the snapshots that are whole before it. All are if it succeeds.
    repairs: Option<Vec<u64>>,
}

struct Bed {
    world: World,
    subjects: Vec<Subject>,
}

impl Bed {
    fn new() -> Self {
        let world = World::new();
        world.init(&["--chunk-size=16K"]);
        for n in 0..4 {
            write(world.path(format!("src/d{}/{n}", n % 2)), noise(n, 3000));
        }
        write(world.path("src/large"), noise(10, 100_000));
        let mut states = BTreeMap::new();
        let mut take = |number: u64, options: &[&str]| {
            world.ok(["snapshot", "-r", "repo", "src"].iter().chain(options));
            states.insert(number, Model::read(&world.path("src")));
        };
        take(1, &["--loose-limit=0"]);
        let first_packs = read_tree(&world.path("repo/packs"));
        // What is in the first pack is needed in part; some of it is loose as well as in packs.
        fs::remove_file(world.path("src/large")).unwrap();
        write(world.path("src/d0/new"), noise(11, 2000));
        take(2, &[]);
        write(world.path("src/second"), noise(12, 60_000));
        take(3, &["--loose-limit=0"]);
        write(world.path("src/third"), noise(13, 70_000));
        write(world.path("src/d1/other"), noise(14, 500));
        let next = Model::read(&world.path("src"));
        for n in 0..70 {
            write(world.path(format!("many/{n}")), noise(200 + n, 50));
        }
        let many = Model::read(&world.path("many"));

        let subject = |name, args: &[&str], adds: Option<&Model>, removes: Option<u64>| {
            let mut stay = states.clone();
            let removes = removes.map(|number| (number, stay.remove(&number).unwrap()));
            Subject {
                name,
                args: args.iter().map(ToString::to_string).collect(),
                repo: world.path("repo"),
                stay,
                adds: adds.map(|model| (4, model.clone())),
                removes,
                repairs: None,
            }
        };
        let repair = Subject {
            repo: damaged_copy(&world, &first_packs),
            repairs: Some(vec![1]),
            ..subject("repair", &["repair", "--from=repo"], None, None)
        };
        let subjects = vec![
            subject("snapshot", &["snapshot", "src"], Some(&next), None),
            subject("snapshot to packs", &["snapshot", "--loose-limit=0", "src"], Some(&next), None),
            subject("snapshot of many", &["snapshot", "--fsync=batch", "many"], Some(&many), None),
            subject("prune", &["prune", "--snapshot=1"], None, Some(1)),
            subject("pack", &["pack"], None, None),
            repair,
        ];
        Self { world, subjects }
    }

    /// Runs a command in a copy of its repository, with a fault at the Nth call. Returns whether the fault came, and the
    /// exit code.
    fn run(
        &self,
        subject: &Subject,
        repo: &Path,
        log: &Path,
        inject: Option<(&str, &str, usize)>,
    ) -> (bool, Option<i32>) {
        let copied = Command::new("cp").arg("-r").args([&subject.repo, repo]).status().unwrap();
        assert!(copied.success());
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o"]).arg(log).current_dir(self.world.path(""));
        match inject {
            Some((call, fault, n)) => {
                strace.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{fault}:when={n}")]);
            }
            None => {
                strace.args(["-e", &format!("trace=?{}", CALLS.join(",?"))]);
            }
        }
        strace
            .arg(env!("CARGO_BIN_EXE_backuptool"))
            .args(["--threads=1", "--quiet", "-r"])
            .arg(repo)
            .args(&subject.args);
        let status = strace.env_remove("BACKUPTOOL_REPO").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let log = fs::read_to_string(log).unwrap();
        (log.contains("(INJECTED)") || log.contains("killed by SIGKILL"), status.code())
    }

    /// How often a command makes each call.
    fn counts(&self, subject: &Subject) -> BTreeMap<&'static str, usize> {
        let scratch = scratch();
        let log = scratch.path().join("log");
        assert_eq!(self.run(subject, &scratch.path().join("repo"), &log, None), (false, Some(0)), "{}", subject.name);
        let log = fs::read_to_string(log).unwrap();
        let calls = log.lines().filter_map(|line| line.split_whitespace().nth(1)?.split_once('('));
        let mut counts = BTreeMap::new();
        for (name, _) in calls {
            if let Some(call) = CALLS.iter().find(|call| **call == name) {
                *counts.entry(*call).or_default() += 1;
            }
        }
        counts
    }

    /// One case. Returns whether the fault hit.
    fn case(&self, subject: &Subject, call: &str, fault: &str, n: usize) -> bool {
        let scratch = scratch();
        let (repo, log) = (scratch.path().join("repo"), scratch.path().join("log"));
        let (hit, exit) = self.run(subject, &repo, &log, Some((call, fault, n)));
        let case = format!("{}: {fault} at {call} {n}, exit code {exit:?}", subject.name);
        assert!(hit || exit == Some(0), "{case}");
        verify(&case, subject, &repo, exit, &self.world);
        hit
    }
}

/// A copy of the repository with an empty ref of snapshot 3, without one of the loose objects of snapshot 2, and with its
/// packs damaged but for those of snapshot 1, which are given.
fn damaged_copy(world: &World, whole: &Tree) -> PathBuf {
    let damaged = world.path("damaged");
    let copied = Command::new("cp").arg("-r").args([&world.path("repo"), &damaged]).status().unwrap();
    assert!(copied.success());
    overwrite(&damaged.join("snapshots/3.json"), b"");
    fs::remove_file(objects(&damaged).into_values().next().unwrap()).unwrap();
    let packs = read_tree(&damaged.join("packs"));
    assert!(packs.len() > whole.len());
    for (path, node) in packs.into_iter().filter(|(path, _)| !whole.contains_key(path)) {
        let Node::File(mut content) = node else { panic!("{}", path.display()) };
        let middle = content.len() / 2;
        content[middle] ^= 1;
        overwrite(&damaged.join("packs").join(path), &content);
    }
    damaged
}

/// What must hold after whatever happened.
fn verify(case: &str, subject: &Subject, path: &Path, code: Option<i32>, world: &World) {
    let done = code == Some(0);
    let next = &world.path("src");
    let session = patient();
    let backend = || LocalBackend::open(path).unwrap();
    let fail = |what: &str, error: &dyn std::fmt::Display| -> ! { panic!("{case}: {what}: {error}") };
    let mut must = subject.stay.clone();
    if let Some(whole) = &subject.repairs
        && !done
    {
        let mut before = must.clone();
        before.retain(|number, _| whole.contains(number));
        verify_restores(case, path, &before);
        // The same again, with nothing in its way, brings back the rest.
        world.ok(["repair".as_ref(), "--quiet".as_ref(), "--from=repo".as_ref(), "-r".as_ref(), path.as_os_str()]);
    }
    let mut listed = listed(path);
    if let Some((number, _)) = &subject.adds
        && code == Some(3)
    {
        // What could not be read of the source is said; the rest is there.
        assert!(listed.contains(number), "{case}");
        prune_in(&session, backend(), &[*number], WriterOptions::default())
            .unwrap_or_else(|error| fail("prune", &error));
        listed.retain(|listed| listed != number);
    }
    if let Some((number, model)) = &subject.adds
        && (done || listed.contains(number))
    {
        must.insert(*number, model.clone());
    }
    if let Some((number, model)) = &subject.removes
        && !done
        && listed.contains(number)
    {
        must.insert(*number, model.clone());
    }
    assert_eq!(listed, must.keys().copied().collect::<Vec<_>>(), "{case}");
    verify_restores(case, path, &must);
    let report = check_in(&session, backend()).unwrap_or_else(|error| fail("check", &error));
    assert!(report.is_clean(), "{case}: {report:?}");

    // The next snapshot and the next prune succeed, and leave no more than the others.
    let taken =
        take_in(&session, backend(), next, WriterOptions::default()).unwrap_or_else(|error| fail("snapshot", &error));
    assert!(listed.iter().all(|number| *number < taken.snapshot.number), "{case}");
    must.insert(taken.snapshot.number, Model::read(next));
    listed.push(taken.snapshot.number);
    let first = listed[0];
    must.remove(&first);
    prune_in(&session, backend(), &[first], WriterOptions::default()).unwrap_or_else(|error| fail("prune", &error));
    verify_restores(case, path, &must);
    let report = check_in(&session, backend()).unwrap_or_else(|error| fail("check", &error));
    assert!(report.is_clean() && report.leftovers.staging == 0, "{case}: {report:?}");
    assert_eq!(read_tree(&path.join("tmp")).len(), 0, "{case}");
}

/// Others that begin a program at the same moment may hold a lock of this process for as long as that takes.
fn patient() -> Session<'static> {
    Session { lock_wait: Duration::from_secs(60), ..session() }
}

fn listed(repo: &Path) -> Vec<u64> {
    open_in(&patient(), LocalBackend::open(repo).unwrap()).unwrap().refs().unwrap().snapshots
}

fn verify_restores(case: &str, path: &Path, must: &BTreeMap<u64, Model>) {
    let repo = open_in(&patient(), LocalBackend::open(path).unwrap()).unwrap();
    for (number, model) in must {
        let found = read_back(&repo, *number).unwrap_or_else(|error| panic!("{case}: snapshot {number}: {error}"));
        let differences = found.differences(model);
        assert!(differences.is_empty(), "{case}: snapshot {number}: {differences:?}");
    }
}

/// The calls of a run that are tried in a sample: the first, the last, and one between.
fn sample(count: usize, seed: usize) -> Vec<usize> {
    let mut sample = vec![1 + seed % count, count];
    sample.dedup();
    sample
}

#[test]
fn no_call_that_is_killed_or_fails_loses_anything() {
    // Where the tests are traced themselves, or the kernel does not allow it, strace cannot.
    if !have(&["strace"]) {
        return;
    }
    let mut probe = Command::new("strace");
    probe.args(["-o", "/dev/null", "-e", "inject=openat:signal=KILL:when=999", "true"]).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        return crate::support::cli::skip("strace cannot trace here");
    }
    let bed = Bed::new();
    // A row is what one thread does: all N of one kind of call and fault.
    let mut rows = Vec::new();
    for subject in &bed.subjects {
        for (call, count) in bed.counts(subject) {
            for (seed, fault) in FAULTS.iter().enumerate() {
                rows.push((subject, call, *fault, count, seed * 7 + call.len()));
            }
        }
    }
    let (next, cases, harmed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let done = Mutex::new(BTreeMap::<&str, usize>::new());
    let run = |row: &(&Subject, &str, &str, usize, usize)| {
        let (subject, call, fault, count, seed) = *row;
        let try_at = |n| {
            let came = bed.case(subject, call, fault, n);
            cases.fetch_add(1, Ordering::Relaxed);
            harmed.fetch_add(usize::from(came), Ordering::Relaxed);
            *done.lock().unwrap().entry(subject.name).or_default() += 1;
            came
        };
        if slow() {
            // One thread more or less makes a call or two; the last run is the one that ended unharmed.
            assert!((1..=2 * count + 10).any(|n| !try_at(n)), "{}: {call} has no end", subject.name);
        } else {
            for n in sample(count, seed) {
                try_at(n);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(2, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(row);
                }
            });
        }
    });
    let (cases, harmed) = (cases.into_inner(), harmed.into_inner());
    println!("{cases} cases, {harmed} with a fault: {:?}", done.into_inner().unwrap());
    assert!(harmed > if slow() { 1500 } else { 100 }, "{harmed} of {cases}");
    assert!(rows.iter().any(|(_, call, ..)| OsStr::new(call) == "syncfs"), "nothing is synced at once");
}
