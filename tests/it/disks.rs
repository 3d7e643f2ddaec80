//! Real file systems: one that becomes full at every step, and one that loses power.
//!
//! Each is an ext4 with a journal in a file, mounted through a loop device. That takes root and loop devices; where they
//! are missing the tests say so and pass. Usually a sample is run; with `BACKUPTOOL_SLOW` set, all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::cli::{Ran, Tree, World, have, noise, read_tree, run, write};
use crate::support::disk::{Disk, can_mount};
use crate::support::sweep::slow;

/// An image with a repository of three snapshots, and what they hold. What the first one has is in packs of its own; the
/// packs of the second are needed in part by the third, which has loose objects besides.
struct Bed {
    world: World,
    states: BTreeMap<u64, Tree>,
}

impl Bed {
    /// Nothing where no file system can be mounted.
    fn new(bytes: u64) -> Option<Self> {
        if !can_mount() || !have(&["mkfs.ext4"]) {
            return None;
        }
        let world = World::new();
        Disk::make(&world.path("template"), bytes, &["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "2048"]);
        let disk = Disk::mount(&world.path("template"), &world.path("disk"))?;
        world.ok(["init", "-r", "disk/repo"]);
        let mut states = BTreeMap::new();
        for number in 1..=2 {
            write(world.path("src/once"), noise(100 + number, 400_000));
            if number == 2 {
                for n in 0..30 {
                    write(world.path(format!("src/d{}/{n}", n % 3)), noise(n, 12_000));
                }
            }
            world.ok(["snapshot", "-r", "disk/repo", "--loose-limit=0", "src"]);
            states.insert(number, read_tree(&world.path("src")));
        }
        fs::remove_file(world.path("src/once")).unwrap();
        for n in 0..20 {
            write(world.path(format!("src/new{}/{n}", n % 2)), noise(200 + n, 20_000));
        }
        world.ok(["snapshot", "-r", "disk/repo", "src"]);
        states.insert(3, read_tree(&world.path("src")));
        write(world.path("src/next"), noise(300, 500_000));
        drop(disk);
        Some(Self { world, states })
    }

    /// A fresh copy of the disk. The directory is another each time: a loop device may keep the image for a moment.
    fn disk(&self, name: &str) -> (Disk, PathBuf) {
        let image = self.world.path(format!("{name}.image"));
        let copied = Command::new("cp").args([&self.world.path("template"), &image]).status().unwrap();
        assert!(copied.success());
        let disk = Disk::mount(&image, &self.world.path(name)).unwrap();
        (disk, image)
    }

    fn command(&self, repo: &Path, args: &[&str]) -> Command {
        let mut command = self.world.command();
        command.args(["--quiet", "-r"]).arg(repo).args(args);
        command
    }

    fn run(&self, repo: &Path, args: &[&str]) -> Ran {
        run(self.command(repo, args))
    }

    fn listed(&self, case: &str, repo: &Path) -> Vec<u64> {
        let ran = self.run(repo, &["list", "--json"]);
        assert_eq!(ran.code, Some(0), "{case}: {ran:?}");
        ran.json().iter().map(|line| line["snapshot"].as_u64().unwrap()).collect()
    }

    /// Each listed snapshot restores to what it was taken of, and those that must be there are.
    fn verify(&self, case: &str, repo: &Path, must: &[u64], new: &Tree) -> Vec<u64> {
        let listed = self.listed(case, repo);
        assert!(must.iter().all(|number| listed.contains(number)), "{case}: {listed:?} without one of {must:?}");
        for number in &listed {
            let state = self.states.get(number).unwrap_or(new);
            assert!(&self.world.restored_from(repo.to_str().unwrap(), *number) == state, "{case}: snapshot {number}");
        }
        let ran = self.run(repo, &["check"]);
        assert_eq!(ran.code, Some(0), "{case}: {ran:?}");
        listed
    }
}

/// What runs while the disk becomes full, or loses its power.
const COMMANDS: [(&str, &[&str]); 4] = [
    ("snapshot", &["snapshot", "--loose-limit=0", "src"]),
    ("loose", &["snapshot", "src"]),
    ("pack", &["pack"]),
    ("prune", &["prune", "--snapshot=1,2"]),
];

#[test]
fn a_disk_that_becomes_full_at_any_step_loses_nothing_and_can_be_pruned() {
    const STEP: u64 = 64 << 10;
    let Some(bed) = Bed::new(8 << 20) else { return };
    let new = read_tree(&bed.world.path("src"));
    let (mut cases, mut full) = (0, 0);
    for (name, args) in COMMANDS {
        let mut enough = 0;
        for step in 0.. {
            if !slow() && ![0, 1, 5, 9, 14].contains(&step) {
                if step > 14 {
                    break;
                }
                continue;
            }
            let (disk, image) = bed.disk(&format!("{name}{step}"));
            let repo = disk.at.join("repo");
            disk.fill(step * STEP);
            let before = disk.free();
            let ran = bed.run(&repo, args);
            let case = format!("{name} with {step} times 64 KiB: {:?} {}", ran.code, ran.stderr);
            let mut must = vec![1, 2, 3];
            match (name, ran.code) {
                ("snapshot" | "loose", Some(0)) => must.push(4),
                // It need not be whole where the disk is full: what it could do is done.
                ("prune", Some(0 | 3)) => must = vec![3],
                (_, code) => assert!(matches!(code, Some(0 | 1 | 3)), "{case}"),
            }
            assert!(ran.code == Some(0) || ran.stderr.contains("No space left"), "{case}");
            assert!(ran.code == Some(0) || name != "prune" || ran.code == Some(3), "a full disk can be pruned: {case}");
            let listed = bed.verify(&case, &repo, &must, &new);
            assert!(!listed.contains(&4) || must.contains(&4), "{case}: a failed snapshot is listed");
            let done = ran.code == Some(0);
            cases += 1;
            full += u32::from(!done);
            // A prune frees space, however full it is.
            let free = if name == "prune" { before } else { disk.free() };
            let ran = bed.run(&repo, &["prune", &format!("--snapshot={}", listed[0])]);
            assert!(matches!(ran.code, Some(0 | 3)), "{case}, then {ran:?}");
            must.retain(|number| *number != listed[0]);
            bed.verify(&case, &repo, &must, &new);
            if listed[0] == 1 || name == "prune" {
                assert!(disk.free() >= free + (300 << 10), "{case}: {free} bytes were free, then {}", disk.free());
            }
            drop(disk);
            fs::remove_file(image).unwrap();
            // Three in a row that had enough: so have all after them.
            enough = if done { enough + 1 } else { 0 };
            if enough == 3 {
                break;
            }
        }
    }
    println!("{cases} cases, in {full} of them the disk became full");
    assert!(full >= 6, "{full} of {cases}");
}

/// Runs a python script that cuts the power of the file system that `at` is on when it reads a line. The request is
/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`; 2 does not write the journal first.
fn cutter(at: &Path) -> Option<(Child, BufReader<std::process::ChildStdout>)> {
    const SCRIPT: &str = "import fcntl, os, struct, sys\n\
        directory = os.open(sys.argv[1], os.O_RDONLY)\n\
        print('ready', flush=True)\n\
        sys.stdin.readline()\n\
        fcntl.ioctl(directory, 0x8004587D, struct.pack('I', 2))\n";
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(at).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    (line == "ready\n").then_some((child, stdout))
}

#[test]
fn a_power_cut_on_a_real_file_system_loses_nothing_that_was_reported() {
    if !have(&["python3"]) {
        return;
    }
    let Some(bed) = Bed::new(16 << 20) else { return };
    let new = read_tree(&bed.world.path("src"));
    let rounds = if slow() { 60 } else { 2 };
    let (mut cases, mut cut) = (0, 0);
    for (name, args) in COMMANDS {
        for round in 0..rounds {
            let (disk, image) = bed.disk(&format!("{name}-{round}"));
            let repo = disk.at.join("repo");
            // What was written by the copy is not to be lost.
            rustix::fs::syncfs(File::open(&disk.at).unwrap()).unwrap();
            let (mut python, _stdout) = cutter(&disk.at).unwrap();
            let mut command = bed.command(&repo, args);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            // The last rounds cut it right after the end, when what was reported must stay.
            if round + 1 < rounds * 3 / 4 || round == 0 {
                thread::sleep(Duration::from_micros(u64::from(noise(round, 1)[0]) * 400));
            } else {
                child.wait().unwrap();
            }
            python.stdin.take().unwrap().write_all(b"\n").unwrap();
            assert!(python.wait().unwrap().success(), "the power cannot be cut");
            let output = child.wait_with_output().unwrap();
            let done = output.status.code() == Some(0);
            let case =
                format!("{name}, round {round}: {:?} {}", output.status, String::from_utf8_lossy(&output.stderr));
            drop(disk);
            let disk = Disk::mount(&image, &bed.world.path(format!("{name}-{round}-after"))).unwrap();
            let repo = disk.at.join("repo");
            let mut must = if name == "prune" { vec![3] } else { vec![1, 2, 3] };
            if done && args[0] == "snapshot" {
                must.push(4);
            }
            let listed = bed.verify(&case, &repo, &must, &new);
            assert!(!(done && name == "prune" && listed[0] < 3), "{case}: what was removed is back");
            // The next snapshot and the next prune succeed.
            let next = bed.run(&repo, &["snapshot", "src"]);
            assert_eq!(next.code, Some(0), "{case}, then {next:?}");
            let next = bed.run(&repo, &["prune", "--snapshot=latest~1"]);
            assert_eq!(next.code, Some(0), "{case}, then {next:?}");
            bed.verify(&case, &repo, &[], &new);
            cases += 1;
            cut += u32::from(!done);
            drop(disk);
            fs::remove_file(image).unwrap();
        }
    }
    println!("{cases} cases, {cut} of them cut short");
    // Of a few, chance may have let all of them come to their end before.
    assert!(cases == rounds * 4 && (cut > 0 || !slow()), "{cut} of {cases}");
}
