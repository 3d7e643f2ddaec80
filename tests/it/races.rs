//! Many processes at once on one repository, killed at random; and copies that are taken of a repository at work with the
//! tools that everybody has.
//!
//! `BACKUPTOOL_RACE_SECONDS` says for how long; usually it is little.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::cli::{Node, Ran, Tree, World, have, noise, read_tree, write};

fn seconds(usual: u64) -> Duration {
    let asked = std::env::var("BACKUPTOOL_RACE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(usual))
}

/// Numbers that look random, the same for the same seed.
struct Dice(u64, u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.1 += 1;
        let bytes = noise(self.0 << 32 | self.1, 8);
        u64::from_le_bytes(bytes.try_into().unwrap()) % bound
    }
}

/// The file in each source that says which state of which source it is.
const MARK: &str = "mark";

/// What every source held each time it was taken, by its mark.
#[derive(Default)]
struct States(Mutex<BTreeMap<Vec<u8>, Tree>>);

impl States {
    fn note(&self, mark: &str, tree: Tree) {
        self.0.lock().unwrap().insert(mark.as_bytes().to_vec(), tree);
    }

    /// Whether a restore gave exactly what was there when it was taken.
    fn is_one_of_them(&self, tree: &Tree) -> bool {
        let Some(Node::File(mark)) = tree.get(Path::new(MARK)) else { return false };
        self.0.lock().unwrap().get(mark) == Some(tree)
    }
}

/// Changes a source a little.
fn change(dir: &Path, mark: &str, dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let path = dir.join(format!("d{}/{}", dice.below(3), dice.below(12)));
        if dice.below(4) == 0 {
            fs::remove_file(path).unwrap_or_default();
        } else {
            // Few seeds: the sources share much, and what was removed comes back.
            write(path, noise(dice.below(30), 200 + usize::try_from(dice.below(40_000)).unwrap()));
        }
    }
    write(dir.join(MARK), mark);
}

/// Runs a command; perhaps it is killed in the midst. Nothing is returned then.
fn run(mut command: Command, dice: &mut Dice, kills: &AtomicU64) -> Option<Ran> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if dice.below(3) == 0 {
        thread::sleep(Duration::from_micros(dice.below(60_000)));
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    if output.status.code().is_none() {
        kills.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let ran = Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    Some(ran)
}

#[test]
#[allow(clippy::too_many_lines, reason = "one scene; its parts share everything")]
fn processes_that_meet_and_are_killed_lose_nothing() {
    const SNAPSHOTS: u64 = 4;
    let world = World::new();
    world.init(&["--chunk-size=16K"]);
    let (states, kills, pause) = (States::default(), AtomicU64::new(0), AtomicBool::new(false));
    // The snapshots that were reported, and those that somebody tried to remove.
    let (reported, removed) = (Mutex::new(BTreeSet::new()), Mutex::new(BTreeSet::new()));
    let (restores, prunes) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + seconds(5);
    // Until each has happened: on a machine that is busy, who removes may have to wait long for its turn.
    let goes_on = || {
        let is_missing = [&restores, &prunes, &kills].iter().any(|count| count.load(Ordering::Relaxed) == 0);
        Instant::now() < end || (is_missing && Instant::now() < end + Duration::from_secs(60))
    };
    let command = |args: &[&str]| {
        let mut command = world.command();
        command.args(["-r", "repo", "--json", "--threads=2"]).args(args);
        command
    };
    let numbers = || {
        let ran = crate::support::cli::run(command(&["list"])).exits(0);
        ran.json().iter().map(|line| line["snapshot"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        for number in 0..SNAPSHOTS {
            let (world, command) = (&world, &command);
            let (states, kills, pause, reported) = (&states, &kills, &pause, &reported);
            scope.spawn(move || {
                let mut dice = Dice(number + 1, 0);
                let source = format!("src{number}");
                for round in 0.. {
                    if !goes_on() {
                        break;
                    }
                    let mark = format!("{number}.{round}");
                    change(&world.path(&source), &mark, &mut dice);
                    states.note(&mark, read_tree(&world.path(&source)));
                    // So few objects stay loose that there is something to pack.
                    let limit = format!("--loose-limit={}", dice.below(8));
                    if let Some(ran) = run(command(&["snapshot", &limit, &source]), &mut dice, kills) {
                        let report = ran.exits(0).json().remove(0);
                        reported.lock().unwrap().insert(report["snapshot"].as_u64().unwrap());
                    }
                    while pause.load(Ordering::Relaxed) && goes_on() {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut dice = Dice(100, 0);
            while goes_on() {
                let numbers = numbers();
                assert!(numbers.is_sorted());
                let Some(number) = numbers.get(usize::try_from(dice.below(numbers.len() as u64 + 1)).unwrap()) else {
                    continue;
                };
                let out = tempfile::tempdir_in(world.path("")).unwrap();
                let (number, output) = (number.to_string(), out.path().to_str().unwrap());
                let args = ["restore", "--snapshot-number", &number, "--output-directory", output];
                if let Some(ran) = run(command(&args), &mut dice, &kills) {
                    // It may have been removed since it was listed.
                    assert!(ran.code == Some(0) || ran.stderr.contains("there is no snapshot"), "{ran:?}");
                    assert!(ran.code != Some(0) || states.is_one_of_them(&read_tree(out.path())), "snapshot {number}");
                    restores.fetch_add(u64::from(ran.code == Some(0)), Ordering::Relaxed);
                }
            }
        });
        scope.spawn(|| {
            let mut dice = Dice(200, 0);
            while goes_on() {
                let numbers = numbers();
                let picked: Vec<u64> = numbers.iter().copied().filter(|_| dice.below(3) == 0).collect();
                let texts: Vec<String> = picked.iter().map(ToString::to_string).collect();
                let option = format!("--snapshot={}", texts.join(","));
                let args = match dice.below(4) {
                    0 => vec!["pack"],
                    1 => vec!["prune", "--unreferenced"],
                    _ if picked.is_empty() || numbers.len() < 8 => continue,
                    _ => {
                        removed.lock().unwrap().extend(picked);
                        vec!["prune", &option]
                    }
                };
                // Mostly nobody begins anything new, so that it is its turn when those at work are done.
                pause.store(dice.below(4) > 0, Ordering::Relaxed);
                let wait = ["--lock-wait=2s"];
                if let Some(ran) = run(command(&[&wait[..], &args].concat()), &mut dice, &kills) {
                    assert!(matches!(ran.code, Some(0 | 11)), "{args:?}: {ran:?}");
                    prunes.fetch_add(u64::from(ran.code == Some(0)), Ordering::Relaxed);
                }
                pause.store(false, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(dice.below(200)));
            }
        });
    });

    let (reported, removed) = (reported.into_inner().unwrap(), removed.into_inner().unwrap());
    let listed: BTreeSet<u64> = numbers().into_iter().collect();
    let lost: Vec<_> = reported.difference(&removed).filter(|number| !listed.contains(number)).collect();
    assert!(lost.is_empty(), "snapshots {lost:?} are gone");
    for number in &listed {
        assert!(states.is_one_of_them(&world.restored(*number)), "snapshot {number} is not what was taken");
    }
    world.clean();
    // What the killed ones left goes, and nothing that is needed.
    world.ok(["prune", "-r", "repo", "--unreferenced"]);
    assert_eq!(read_tree(&world.path("repo/tmp")), Tree::new());
    world.clean();
    for number in &listed {
        assert!(states.is_one_of_them(&world.restored(*number)), "snapshot {number} after a prune");
    }
    let counts = [reported.len() as u64, restores.into_inner(), prunes.into_inner(), kills.into_inner()];
    println!("{counts:?} snapshots, restores, prunes or packs, and kills; {} snapshots at the end", listed.len());
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

// ---- copies of a repository at work

/// A repository with what its snapshots must restore to.
struct Origin {
    world: World,
    states: BTreeMap<u64, Tree>,
}

impl Origin {
    fn new() -> Self {
        let world = World::new();
        world.init(&["--chunk-size=16K"]);
        Self { world, states: BTreeMap::new() }
    }

    fn take(&mut self, seed: u64, limit: u64) -> u64 {
        write(self.world.path(format!("src/{}/{}", seed % 3, seed % 7)), noise(seed, 20_000));
        write(self.world.path("src/large"), noise(seed / 2, 60_000));
        let limit = format!("--loose-limit={limit}");
        let ran = self.world.ok(["snapshot", "-r", "repo", "--json", &limit, "src"]);
        let number = ran.json()[0]["snapshot"].as_u64().unwrap();
        self.states.insert(number, read_tree(&self.world.path("src")));
        number
    }

    fn copy(&self, dir: &str) {
        let parent = self.world.path("copy").join(dir);
        fs::create_dir_all(parent.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-r").args([self.world.path("repo").join(dir), parent]).status();
        assert!(copied.unwrap().success(), "{dir}");
    }

    /// Copies it directory by directory in this order, and between them lets something happen.
    fn copy_in_order(&mut self, order: [&str; 6], between: impl Fn(&mut Self, usize)) {
        fs::remove_dir_all(self.world.path("copy")).unwrap_or_default();
        for (number, dir) in order.into_iter().enumerate() {
            self.copy(dir);
            between(self, number);
        }
        self.copy("README");
        self.copy("lock");
    }

    /// Asserts that `check` says of a copy exactly what is missing, and returns which snapshots are whole.
    fn verify_copy(&self, case: &str) -> Vec<u64> {
        let ran = self.world.run(["check", "-r", "copy", "--json"]);
        let report = ran.json().remove(0);
        let whole: Vec<u64> = report["whole"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let ran_list = self.world.run(["list", "-r", "copy", "--json"]);
        let (lost, listed): (Vec<_>, Vec<_>) =
            ran_list.json().into_iter().partition(|line| line["type"] == "unreadable");
        let numbers = |lines: Vec<serde_json::Value>| -> Vec<u64> {
            lines.iter().map(|line| line["snapshot"].as_u64().unwrap()).collect()
        };
        let (lost, listed) = (numbers(lost), numbers(listed));
        // A ref that went while the copying was on its way, and what says that it was removed came too late for it.
        assert_eq!(ran_list.code, Some(if lost.is_empty() { 0 } else { 3 }), "{case}: {ran_list:?}");
        let is_there = |number: &u64| self.world.path(format!("copy/snapshots/{number}.json")).exists();
        assert!(!lost.iter().any(is_there), "{case}: {ran_list:?}");
        assert_eq!(numbers(report["unreadable"].as_array().unwrap().clone()), lost, "{case}: {report}");
        let is_whole = listed == whole && lost.is_empty();
        assert_eq!(ran.code, Some(if is_whole { 0 } else { 4 }), "{case}: {report}");
        for number in &listed {
            let named = |lost: &serde_json::Value| {
                let snapshots = lost["snapshots"].as_array().unwrap();
                snapshots.iter().any(|snapshot| snapshot.as_u64() == Some(*number))
            };
            let damaged = report["damaged"].as_array().unwrap();
            assert!(damaged.iter().all(|object| object["problem"] == "missing"), "{case}: {report}");
            let lost: Vec<_> = damaged.iter().flat_map(|object| object["files"].as_array().unwrap()).collect();
            let lost: Vec<_> = lost.into_iter().filter(|file| named(file)).map(|file| file["path"].as_str()).collect();
            assert_eq!(lost.is_empty(), whole.contains(number), "{case}: {report}");
            let out = tempfile::tempdir_in(self.world.path("")).unwrap();
            let (snapshot, output) = (number.to_string(), out.path().to_str().unwrap());
            let args = ["restore", "-r", "copy", "--snapshot-number", &snapshot, "--output-directory", output];
            let ran = self.world.run(args);
            let found = read_tree(out.path());
            let state = &self.states[number];
            // What is restored is right, and what is not was named, or is below what was named.
            assert!(found.iter().all(|(path, node)| state.get(path) == Some(node)), "{case}: snapshot {number}");
            for path in state.keys().filter(|path| !found.contains_key(*path)) {
                let is_named = lost.iter().flatten().any(|lost| path.starts_with(lost));
                assert!(is_named, "{case}: snapshot {number}: {} was not named", path.display());
            }
            assert_eq!(ran.code, Some(if whole.contains(number) { 0 } else { 3 }), "{case}: {ran:?}");
        }
        whole
    }

    /// A second rsync, while nothing is at work, makes it the same. It compares contents: a test that took a snapshot
    /// in the copy wrote a ref there that can have the size and, to the second, the time of the origin's.
    fn complete(&self, case: &str) {
        let mut rsync = Command::new("rsync");
        rsync.args(["-a", "--checksum", "--delete", "repo/", "copy/"]).current_dir(self.world.path(""));
        assert!(rsync.status().unwrap().success(), "{case}");
        let listed: Vec<u64> = self.world.numbers();
        assert_eq!(self.verify_copy(case), listed, "{case}");
        assert!(self.world.restored_from("copy", listed[0]) == self.states[&listed[0]], "{case}");
    }
}

/// The order in which a tool comes to the directories is nowhere said.
const ORDERS: [[&str; 6]; 4] = [
    ["cache", "config.json", "objects", "packs", "snapshots", "tmp"],
    ["snapshots", "cache", "tmp", "packs", "objects", "config.json"],
    ["packs", "objects", "snapshots", "cache", "config.json", "tmp"],
    ["objects", "snapshots", "tmp", "config.json", "packs", "cache"],
];

#[test]
fn a_copy_that_was_taken_beside_snapshots_has_all_that_were_done_before() {
    let rsync = have(&["rsync"]);
    for (case, order) in ORDERS.into_iter().enumerate() {
        let mut origin = Origin::new();
        let before: Vec<u64> = (0..4).map(|seed| origin.take(seed, 4 * (seed % 2))).collect();
        // Something is being written when the copy begins.
        write(origin.world.path("repo/tmp/0123456789abcdef/info.json"), "{}");
        write(origin.world.path("repo/tmp/0123456789abcdef/blobs-0"), noise(9, 5000));
        origin.copy_in_order(order, |origin, number| {
            origin.take(10 + number as u64, 4 * (number as u64 % 2));
        });
        let case = format!("order {case}");
        let whole = origin.verify_copy(&case);
        assert!(before.iter().all(|number| whole.contains(number)), "{case}: only {whole:?} are whole");
        // What was in the midst of being written is in nobody's way, and goes.
        origin.world.ok(["snapshot", "-r", "copy", "src"]);
        assert_eq!(read_tree(&origin.world.path("copy/tmp")), Tree::new(), "{case}");
        if rsync {
            origin.complete(&case);
        }
    }
}

#[test]
fn a_copy_that_was_taken_beside_a_prune_says_what_is_missing_and_is_completed_by_another() {
    let rsync = have(&["rsync"]);
    let mut incomplete = 0;
    for (case, order) in ORDERS.into_iter().enumerate() {
        for (what, args) in [("prune", &["prune", "--snapshot=1,2"][..]), ("pack", &["pack"])] {
            for moment in 0..order.len() {
                let mut origin = Origin::new();
                for seed in 0..5 {
                    origin.take(seed, 4 * (seed % 2));
                }
                origin.copy_in_order(order, |origin, number| {
                    if number == moment {
                        origin.world.ok(["-r", "repo"].iter().chain(args));
                    }
                });
                let case = format!("order {case}, {what} after {}", order[moment]);
                let whole = origin.verify_copy(&case);
                incomplete += u32::from(whole.len() < origin.world.numbers().len());
                if rsync {
                    origin.complete(&case);
                }
            }
        }
    }
    assert!(incomplete > 0, "the order never mattered");
}

#[test]
fn a_copy_of_a_repository_at_work_is_valid_or_says_what_is_missing() {
    if !have(&["rsync"]) {
        return;
    }
    let mut origin = Origin::new();
    for seed in 0..3 {
        origin.take(seed, 4 * (seed % 2));
    }
    let end = Instant::now() + seconds(3);
    let mut copies = 0;
    let mut whole = 0;
    let mut seed = 100;
    while Instant::now() < end {
        fs::remove_dir_all(origin.world.path("copy")).unwrap_or_default();
        // Slowly, so that much happens beside it.
        let (program, args) = match copies % 2 {
            0 => ("cp", &["-r", "repo", "copy"][..]),
            _ => ("rsync", &["-a", "--bwlimit=3000", "repo/", "copy/"][..]),
        };
        let mut copying = Command::new(program);
        copying.args(args).current_dir(origin.world.path("")).stderr(Stdio::null());
        let mut copying = copying.spawn().unwrap();
        while copying.try_wait().unwrap().is_none() {
            seed += 1;
            origin.take(seed, 4 * (seed % 2));
            match seed % 4 {
                0 => drop(origin.world.ok(["prune", "-r", "repo", "--snapshot=latest~2"])),
                2 => drop(origin.world.ok(["pack", "-r", "repo"])),
                _ => {}
            }
        }
        copies += 1;
        let case = format!("copy {copies} with {program}");
        if origin.world.path("copy/config.json").exists() {
            whole += origin.verify_copy(&case).len();
        }
        origin.complete(&case);
    }
    println!("{copies} copies with {whole} whole snapshots");
    assert!(copies > 0 && whole > 0, "{copies} copies, {whole} whole snapshots");
}
