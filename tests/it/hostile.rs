//! Repositories that somebody made to do harm: what they hold is never written outside the output directory, never
//! takes much memory, and never hinders the restore of the rest.
//!
//! Every case stands as the entry `d` between two good files. It must be an error that names the object or the file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use backuptool::Error;
use backuptool::object::{HashAlgorithm, ObjectId};
use backuptool::store::batch::SyncMethod;
use backuptool::store::{Backend, MemoryBackend, codec, layout};

use crate::support::model::{Model, Source};
use crate::support::repos::{
    check, init, plain_snapshot, prune, put_object, put_snapshot, restore, restored, sealed, take,
};

const HEADER: &str = "{\"tree\":1}\n";

/// A repository into which anything can be put.
struct Forge {
    memory: MemoryBackend,
}

impl Forge {
    fn new() -> Self {
        let memory = MemoryBackend::new();
        init(memory.clone()).unwrap();
        Self { memory }
    }

    /// Stores an object under its true name, whatever it holds.
    fn object(&self, content: impl AsRef<[u8]>) -> ObjectId {
        put_object(&self.memory, content.as_ref())
    }

    fn frame(&self, id: ObjectId, frame: Vec<u8>) {
        self.memory.set_contents(&layout::object_path(id), frame).unwrap();
    }

    fn tree(&self, lines: &str) -> ObjectId {
        self.object(format!("{HEADER}{lines}"))
    }

    /// A line for a good file.
    fn good(&self, name: &str) -> String {
        let content = format!("the content of {name}");
        file(&format!("\"{name}\""), content.len() as u64, self.object(&content))
    }

    /// A list over `lines` of an object and its length.
    fn list(&self, lines: &[(ObjectId, u64)]) -> ObjectId {
        let text: String = lines.iter().map(|(id, length)| format!("{id} {length}\n")).collect();
        self.object(text)
    }

    fn snapshot(&self, number: u64, tree: ObjectId, bytes: u64) {
        put_snapshot(&self.memory, &plain_snapshot(number, tree, bytes));
    }

    /// The repository as a directory.
    fn write(&self, dir: &Path) {
        for name in layout::DIRS {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        for path in self.memory.paths() {
            let to = dir.join(&path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, self.memory.contents(&path).unwrap()).unwrap();
        }
    }
}

fn name_of(content: &[u8]) -> ObjectId {
    HashAlgorithm::Blake3.hash(content)
}

/// Lines of a tree. Names are given as JSON.
fn file(name: &str, size: u64, blob: ObjectId) -> String {
    format!("{{\"name\":{name},\"type\":\"file\",\"size\":{size},\"blob\":\"{blob}\"}}\n")
}

fn chunks(name: &str, size: u64, list: ObjectId, depth: u64) -> String {
    format!("{{\"name\":{name},\"type\":\"file\",\"size\":{size},\"chunks\":\"{list}\",\"depth\":{depth}}}\n")
}

fn dir(name: &str, size: u64, tree: ObjectId) -> String {
    format!("{{\"name\":{name},\"type\":\"dir\",\"size\":{size},\"tree\":\"{tree}\"}}\n")
}

fn link(name: &str, target: &str) -> String {
    format!("{{\"name\":{name},\"type\":\"symlink\",\"target\":\"{target}\"}}\n")
}

fn piece(last: &str, entries: u64, size: u64, tree: ObjectId) -> String {
    format!("{{\"last\":\"{last}\",\"entries\":{entries},\"size\":{size},\"tree\":\"{tree}\"}}\n")
}

/// What is wrong, and what must be said of it.
struct Case {
    what: String,
    /// The line of the entry `d`.
    entry: String,
    /// The object that every message of `check`, and of `restore` unless there is `says`, must name.
    blamed: ObjectId,
    /// What the messages of `restore` must say.
    says: Option<String>,
    /// Whether a prune of another snapshot must refuse, because it cannot know what is needed.
    hinders_prune: bool,
}

impl Case {
    fn tree(what: impl Into<String>, tree: ObjectId, blamed: ObjectId) -> Self {
        let entry = dir("\"d\"", 0, tree);
        Self { what: what.into(), entry, blamed, says: None, hinders_prune: true }
    }

    fn file(what: impl Into<String>, entry: String, blamed: ObjectId) -> Self {
        Self { what: what.into(), entry, blamed, says: None, hinders_prune: false }
    }

    fn list(what: impl Into<String>, entry: String, blamed: ObjectId) -> Self {
        Self { hinders_prune: true, ..Self::file(what, entry, blamed) }
    }
}

/// Runs all operations on a repository with this one case in it.
fn contained(forge: &Forge, case: &Case) {
    let Case { what, entry, blamed, says, hinders_prune } = case;
    println!("{what}");
    let root = forge.tree(&format!("{}{entry}{}", forge.good("a"), forge.good("z")));
    forge.snapshot(1, root, 0);
    let good = forge.tree(&forge.good("a"));
    forge.snapshot(2, good, "the content of a".len() as u64);

    let outside = Model::default().file("secret", *b"s").file("outside/secret", *b"s").dir("outside/empty");
    let jail = Source::new(outside.clone());
    let output = jail.path().join("out");
    let report = restore(forge.memory.clone(), 1, &output).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(!report.failures.is_empty(), "{what}: {report:?}");
    for (path, error) in &report.failures {
        let text = error.to_string();
        assert!(path.starts_with(output.join("d")), "{what}: {}", path.display());
        assert!(text.contains(says.as_ref().unwrap_or(&blamed.to_hex())), "{what}: {text}");
    }
    assert_rest_is_restored(what, &output);
    assert_eq!(Model::read(jail.path()).without("out"), outside, "{what}");
    assert!(!Path::new("/etc/x").exists(), "{what}");

    let report = check(forge.memory.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(report.damaged.contains_key(blamed), "{what}: {report:?}");
    assert_eq!(report.whole, [2], "{what}");

    with_little_memory(what, forge, case);

    let pruned = prune(forge.memory.clone(), &[2]);
    if *hinders_prune {
        let text = pruned.unwrap_err().to_string();
        assert!(text.contains(&blamed.to_hex()), "{what}: {text}");
        assert_eq!(prune(forge.memory.clone(), &[1]).unwrap().removed, [1], "{what}");
        assert!(check(forge.memory.clone()).unwrap().is_clean(), "{what}");
        assert_eq!(restored(forge.memory.clone(), 2).unwrap(), Model::default().file("a", "the content of a"));
    } else {
        pruned.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

fn assert_rest_is_restored(what: &str, output: &Path) {
    for name in ["a", "z"] {
        let content = fs::read_to_string(output.join(name)).unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
        assert_eq!(content, format!("the content of {name}"), "{what}");
    }
    assert!(!output.join("d").is_file(), "{what}: half a file is left");
}

/// The same from the command line, which may not have more memory than a good repository needs.
fn with_little_memory(what: &str, forge: &Forge, case: &Case) {
    let scratch = tempfile::tempdir().unwrap();
    let (repo, output) = (scratch.path().join("repo"), scratch.path().join("out"));
    forge.write(&repo);
    let output_argument = format!("--output-directory={}", output.display());
    let ran = run(&repo, &["restore", "--snapshot-number=1", &output_argument]);
    let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(3), "{what}: {stderr}");
    assert!(stderr.contains(case.says.as_ref().unwrap_or(&case.blamed.to_hex())), "{what}: {stderr}");
    assert_rest_is_restored(what, &output);
    let ran = run(&repo, &["check"]);
    let stdout = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(ran.status.code(), Some(4), "{what}: {stdout}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(stdout.contains(&case.blamed.to_hex()), "{what}: {stdout}");
    assert!(stdout.contains("can be restored completely: 2"), "{what}: {stdout}");
}

/// In kilobytes, of address space: a few times what a thread needs to begin.
const LITTLE: &str = "400000";

fn run(repo: &Path, arguments: &[&str]) -> Output {
    Command::new("sh")
        .args(["-c", "ulimit -v $0; exec \"$@\"", LITTLE, env!("CARGO_BIN_EXE_backuptool"), "--threads=1", "--repo"])
        .arg(repo)
        .args(arguments)
        .env_remove("BACKUPTOOL_REPO")
        .output()
        .unwrap()
}

#[test]
fn entries_with_bad_names_are_refused() {
    for (name, says) in [
        ("\"..\"", "`..`"),
        ("\".\"", "`.`"),
        ("\"\"", "empty"),
        ("\"/etc/x\"", "`/`"),
        ("\"../pwned\"", "`/`"),
        ("\"a/b\"", "`/`"),
        ("\"a\\u0000b\"", "NUL"),
    ] {
        let kinds: [fn(&Forge, &str) -> String; 3] = [
            |forge, name| file(name, 5, forge.object(b"pwned")),
            |forge, name| {
                let below = forge.tree(&forge.good("pwned"));
                dir(name, "the content of pwned".len() as u64, below)
            },
            |_, name| link(name, "outside"),
        ];
        for line in kinds {
            let forge = Forge::new();
            let line = line(&forge, name);
            let tree = forge.tree(&line);
            assert!(refusal(&forge, tree).contains(says), "{name}");
            contained(&forge, &Case::tree(line, tree, tree));
        }
    }
    // The same as hex digits.
    for hex in ["2e2e", "2e", "", "2f6574632f78", "61ff2f62", "61ff0062", "zz", "6"] {
        let forge = Forge::new();
        let line =
            file("\"x\"", 5, forge.object(b"pwned")).replace("\"name\":\"x\"", &format!("\"name_hex\":\"{hex}\""));
        let tree = forge.tree(&line);
        contained(&forge, &Case::tree(format!("name_hex {hex}"), tree, tree));
    }
}

/// The message of a restore of this tree.
fn refusal(forge: &Forge, tree: ObjectId) -> String {
    let root = forge.tree(&dir("\"d\"", 0, tree));
    forge.snapshot(3, root, 0);
    let scratch = tempfile::tempdir().unwrap();
    let report = restore(forge.memory.clone(), 3, &scratch.path().join("out")).unwrap();
    forge.memory.remove("snapshots/3.json").unwrap();
    report.failures.iter().fold(String::new(), |mut text, (_, error)| {
        write!(text, "{error}; ").unwrap();
        text
    })
}

type Lines = fn(&Forge) -> String;

#[test]
fn trees_that_are_not_trees_are_refused() {
    let deep = "[".repeat(100_000);
    let cases: [(&str, Lines); 9] = [
        ("a name twice", |forge| forge.good("x") + &forge.good("x")),
        ("a link and then a directory of its name", |forge| {
            let below = forge.tree(&forge.good("pwned"));
            link("\"x\"", "../../outside") + &dir("\"x\"", 0, below)
        }),
        ("names out of order", |forge| forge.good("y") + &forge.good("x")),
        ("an unknown key", |forge| forge.good("x").replace(",\"size\"", ",\"mode\":0,\"size\"")),
        ("an unknown type", |forge| forge.good("x").replace("file", "fifo")),
        ("spaces", |forge| forge.good("x").replace(",", ", ")),
        ("an escape that is not needed", |forge| forge.good("x").replace("\"x\"", "\"\\u0078\"")),
        ("a depth of 9", |forge| {
            let blob = forge.object(b"hello");
            let list = forge.list(&[(blob, 5)]);
            chunks("\"x\"", 5, list, 9)
        }),
        ("too many entries", |_| {
            let blob = name_of(b"");
            (0..4097).fold(String::new(), |text, n| text + &file(&format!("\"{n:04}\""), 0, blob))
        }),
    ];
    for (what, lines) in cases {
        let forge = Forge::new();
        let tree = forge.tree(&lines(&forge));
        contained(&forge, &Case::tree(what, tree, tree));
    }
    for (what, content) in [
        ("nothing", String::new()),
        ("a blob", "just text\n".into()),
        ("no end of line", "{\"tree\":1}".into()),
        ("version 2", "{\"tree\":2}\n".into()),
        ("a level too high", format!("{{\"tree\":1,\"level\":8}}\n{}", piece("x", 1, 0, name_of(b"")))),
        ("a header 100,000 deep", format!("{deep}\n")),
        ("a field of the header 100,000 deep", format!("{{\"tree\":{deep}\n")),
        ("an entry 100,000 deep", format!("{HEADER}{deep}\n")),
        ("a name 100,000 deep", format!("{HEADER}{{\"name\":{deep}\n")),
        ("an unknown field 100,000 deep", format!("{HEADER}{{\"x\":{}\n", "{\"x\":".repeat(80_000))),
    ] {
        let forge = Forge::new();
        let tree = forge.object(content);
        contained(&forge, &Case::tree(what, tree, tree));
    }
    let forge = Forge::new();
    let tree = forge.object(vec![b'\n'; 600 * 1024]);
    contained(&forge, &Case::tree("a tree of 600 KiB", tree, tree));
}

/// The line for a piece, given the size of one file in it.
type PieceLine = fn(ObjectId, u64) -> String;

#[test]
fn large_directories_that_do_not_fit_together_are_refused() {
    let node =
        |forge: &Forge, level: u64, lines: &str| forge.object(format!("{{\"tree\":1,\"level\":{level}}}\n{lines}"));
    let size = "the content of x".len() as u64;
    let cases: [(&str, u64, PieceLine); 5] = [
        ("another last name", 1, |tree, size| piece("g", 2, 2 * size, tree)),
        ("another number of entries", 1, |tree, size| piece("f", 3, 2 * size, tree)),
        ("a huge number of entries", 1, |tree, size| piece("f", u64::MAX, 2 * size, tree)),
        ("another size", 1, |tree, _| piece("f", 2, u64::MAX, tree)),
        ("another level", 2, |tree, size| piece("f", 2, 2 * size, tree)),
    ];
    for (what, level, line) in cases {
        let forge = Forge::new();
        let bad = forge.tree(&(forge.good("e") + &forge.good("f")));
        let other = forge.tree(&(forge.good("u") + &forge.good("v")));
        // The other piece is good, unless the level is wrong for both.
        let top = node(&forge, level, &(line(bad, size) + &piece("v", 2, 2 * size, other)));
        let case = Case { hinders_prune: false, ..Case::tree(what, top, bad) };
        if level == 1 {
            contained(&forge, &case);
        } else {
            let says = Some("is not what the node above it says".into());
            contained(&forge, &Case { says, ..case });
        }
    }

    // A link at the end of a piece, and a directory of its name, with an entry, at the beginning of the next.
    for between in ["", "deep"] {
        let forge = Forge::new();
        let below = forge.tree(&forge.good("pwned"));
        let first = forge.tree(&(forge.good("e") + &link("\"x\"", "../../outside")));
        let second = forge.tree(&(dir("\"x\"", size, below) + &forge.good("y")));
        let pieces = piece("x", 2, size, first) + &piece("y", 2, 2 * size, second);
        let case = if between.is_empty() {
            let top = node(&forge, 1, &pieces);
            Case::tree("a name twice across two pieces", top, second)
        } else {
            let third = forge.tree(&forge.good("zz"));
            let left = node(
                &forge,
                1,
                &(piece("e", 1, size, forge.tree(&forge.good("e")))
                    + &piece("x", 1, 0, forge.tree(&link("\"x\"", "../../outside")))),
            );
            let right = node(&forge, 1, &(piece("y", 2, 2 * size, second) + &piece("zz", 1, size + 1, third)));
            let top = node(&forge, 2, &(piece("x", 2, size, left) + &piece("zz", 3, 3 * size + 1, right)));
            Case::tree("a name twice across two nodes", top, second)
        };
        contained(&forge, &Case { hinders_prune: false, ..case });
    }

    // A node without pieces, and one that holds itself: only a false name can do that.
    let forge = Forge::new();
    let top = node(&forge, 1, "");
    contained(&forge, &Case::tree("a node of no pieces", top, top));
    let forge = Forge::new();
    let own = name_of(b"a false name");
    let text = format!("{{\"tree\":1,\"level\":1}}\n{}{}", piece("x", 1, 0, own), piece("y", 1, 0, own));
    forge.frame(own, codec::compress(text.as_bytes()).unwrap());
    contained(&forge, &Case::tree("a node that holds itself", own, own));
}

/// A zstd frame by hand: a header that claims `claim` bytes, and blocks that each repeat one byte `run` times.
fn frame(claim: Option<u64>, run: u32, blocks: u32) -> Vec<u8> {
    let mut frame = b"\x28\xb5\x2f\xfd".to_vec();
    match claim {
        // One segment, eight bytes of length.
        Some(claim) => {
            frame.push(0xe0);
            frame.extend_from_slice(&claim.to_le_bytes());
        }
        // A window of 128 KiB and no length.
        None => frame.extend_from_slice(&[0, 7 << 3]),
    }
    for block in 1..=blocks {
        let header = (run << 3) | 0b010 | u32::from(block == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(b'\n');
    }
    frame
}

#[test]
fn frames_that_claim_or_hold_too_much_are_refused() {
    const RUN: u32 = 128 * 1024;
    // The frames by hand are frames.
    assert_eq!(codec::decompress(&frame(Some(6), 3, 2), 6).unwrap(), b"\n\n\n\n\n\n");
    for (what, frame) in [
        ("claims 100 GiB", frame(Some(100 << 30), 5, 1)),
        ("claims and holds 1 GiB", frame(Some(1 << 30), RUN, 8192)),
        ("claims the most there can be", frame(Some(u64::MAX - 2), 5, 1)),
        ("claims 5 bytes and holds 1 GiB", frame(Some(5), RUN, 8192)),
        ("claims 512 KiB and holds 1 GiB", frame(Some(512 * 1024), RUN, 8192)),
        ("claims 512 KiB and holds 5 bytes", frame(Some(512 * 1024), 5, 1)),
        ("claims nothing and holds 1 GiB", frame(None, RUN, 8192)),
        ("holds 100 GiB", frame(Some(5), RUN, 819_200)),
    ] {
        let id = name_of(b"hello");
        let forge = Forge::new();
        forge.frame(id, frame.clone());
        contained(&forge, &Case::file(format!("a blob that {what}"), file("\"d\"", 5, id), id));
        let forge = Forge::new();
        forge.frame(id, frame.clone());
        contained(&forge, &Case::tree(format!("a tree that {what}"), id, id));
        let forge = Forge::new();
        forge.frame(id, frame);
        contained(&forge, &Case::list(format!("a list that {what}"), chunks("\"d\"", 5, id, 8), id));
    }
}

#[test]
fn chunk_lists_that_lie_are_refused() {
    let new = || {
        let forge = Forge::new();
        let blob = forge.object(b"hello");
        (forge, blob)
    };
    for (what, size, lengths) in [
        ("more than the file has", 9, [5, 5]),
        ("less than the file has", 11, [5, 5]),
        ("so much that it overflows", 9, [u64::MAX, 10]),
        ("so much that it overflows to the size of the file", 8, [u64::MAX, 9]),
    ] {
        let (forge, blob) = new();
        let list = forge.list(&lengths.map(|length| (blob, length)));
        let case = Case::list(format!("a list of {what}"), chunks("\"d\"", size, list, 1), list);
        contained(&forge, &Case { hinders_prune: false, ..case });
    }
    for (what, length) in [("shorter", 6), ("longer", 4), ("much shorter", 1 << 40)] {
        let (forge, blob) = new();
        let list = forge.list(&[(blob, length)]);
        contained(&forge, &Case::file(format!("a blob {what} than its line"), chunks("\"d\"", length, list, 1), blob));
        let (forge, blob) = new();
        contained(&forge, &Case::file(format!("a blob {what} than its file"), file("\"d\"", length, blob), blob));
    }
    // No file can have this length. The sizes of the files before it must not be added to it unguarded.
    let (forge, blob) = new();
    contained(&forge, &Case::file("the longest blob", file("\"d\"", u64::MAX, blob), blob));
    let (forge, blob) = new();
    let list = forge.list(&[(blob, u64::MAX)]);
    let says = Some("out/d".to_string());
    contained(&forge, &Case { says, ..Case::file("the longest list", chunks("\"d\"", u64::MAX, list, 1), blob) });

    let (forge, blob) = new();
    let inner = forge.list(&[(blob, 5)]);
    let outer = forge.list(&[(inner, 5)]);
    contained(&forge, &Case::file("a depth too small", chunks("\"d\"", 5, outer, 1), inner));
    let (forge, blob) = new();
    let list = forge.list(&[(blob, 5)]);
    contained(&forge, &Case::list("a depth too great", chunks("\"d\"", 5, list, 2), blob));
    contained(&new().0, &Case::list("a missing list", chunks("\"d\"", 5, list, 8), list));
    for (what, content) in [
        ("no list", "hello".to_string()),
        ("an empty list", String::new()),
        ("an empty line", "\n".into()),
        ("a length of 0", format!("{blob} 0\n")),
        ("a length that is too long", format!("{blob} 99999999999999999999\n")),
        ("JSON 100,000 deep", "[".repeat(100_000) + "\n"),
    ] {
        let (forge, _) = new();
        let list = forge.object(content);
        contained(&forge, &Case::list(what, chunks("\"d\"", 5, list, 1), list));
    }
    // A list of lists, one of which covers something else than its line says.
    for (what, said) in [("less", 9), ("more", 4)] {
        let (forge, blob) = new();
        let inner = forge.list(&[(blob, 5)]);
        let outer = forge.list(&[(inner, said)]);
        let case = Case::list(format!("an inner list of {what}"), chunks("\"d\"", said, outer, 2), inner);
        contained(&forge, &Case { hinders_prune: false, ..case });
    }
    // A list that holds itself: only a false name can do that.
    let (forge, _) = new();
    let own = name_of(b"a false name");
    forge.frame(own, codec::compress(format!("{own} 5\n").as_bytes()).unwrap());
    contained(&forge, &Case::list("a list that holds itself", chunks("\"d\"", 5, own, 8), own));
}

/// A few objects can stand for any number of paths: so many are named, and it is said that there are more.
#[test]
fn of_very_many_paths_that_damage_concerns_some_are_named() {
    for (dirs, more) in [(100, false), (101, true)] {
        let forge = Forge::new();
        let lost = name_of(b"lost");
        let files: String = (0..1000).map(|number| file(&format!("\"{number:03}\""), 4, lost)).collect();
        let below = forge.tree(&files);
        let root: String = (0..dirs).map(|number| dir(&format!("\"{number:03}\""), 4000, below)).collect();
        forge.snapshot(1, forge.tree(&root), 4000 * dirs);
        let report = check(forge.memory.clone()).unwrap();
        assert_eq!((report.more_files, report.damaged[&lost].files.len()), (more, 100_000), "{dirs}");
        assert_eq!(report.whole, [0; 0]);
    }
}

/// A few small objects that stand for a file of 64 billion chunks of one byte, the first of which is missing.
#[test]
fn a_list_of_very_many_chunks_takes_no_more_memory_and_time_than_its_objects() {
    let forge = Forge::new();
    let blob = name_of(b"x");
    let mut list = (blob, 1);
    for _ in 0..3 {
        let lines = vec![list; 4000];
        list = (forge.list(&lines), list.1 * 4000);
    }
    contained(&forge, &Case::file("very many chunks", chunks("\"d\"", list.1, list.0, 3), blob));
}

#[test]
fn a_list_of_the_greatest_depth_is_restored() {
    let forge = Forge::new();
    let mut list = (forge.object(b"hello"), 5);
    for _ in 0..8 {
        list = (forge.list(&[list, list]), list.1 * 2);
    }
    let root = forge.tree(&chunks("\"d\"", list.1, list.0, 8));
    forge.snapshot(1, root, list.1);
    // A prune knows what it needs, whatever the depth.
    let other = forge.tree(&forge.good("x"));
    forge.snapshot(2, other, "the content of x".len() as u64);
    assert!(!prune(forge.memory.clone(), &[2]).unwrap().removed.is_empty());
    assert_eq!(restored(forge.memory.clone(), 1).unwrap(), Model::default().file("d", b"hello".repeat(256)));
    assert!(check(forge.memory).unwrap().is_clean());
}

#[test]
fn a_link_is_never_followed() {
    let forge = Forge::new();
    let root = forge.tree(&(link("\"d\"", "../outside") + &link("\"e\"", "../secret") + &link("\"f\"", "/")));
    forge.snapshot(1, root, 0);
    let jail = Source::new(Model::default().file("secret", *b"s").file("outside/secret", *b"s"));
    let output = jail.path().join("out");
    // Links are restored as links, and what is restored below one of them later is refused.
    assert!(restore(forge.memory.clone(), 1, &output).unwrap().failures.is_empty());
    let error = restore(forge.memory.clone(), 1, &output).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(restore(forge.memory.clone(), 1, &output.join("d")).is_err());
    assert_eq!(Model::read(jail.path()).without("out"), jail.model);
}

#[test]
fn a_ref_that_lies_about_the_size_is_found_and_restores() {
    let source = Source::new(Model::default().file("a", *b"hello"));
    let forge = Forge::new();
    let tree = take(forge.memory.clone(), source.path(), SyncMethod::Auto).unwrap().snapshot.tree;
    for bytes in [0, 4, u64::MAX] {
        forge.snapshot(2, tree.object(), bytes);
        assert_eq!(restored(forge.memory.clone(), 2).unwrap(), source.model);
        let report = check(forge.memory.clone()).unwrap();
        assert!(report.damaged.is_empty(), "the tree is not to blame: {report:?}");
        assert!(matches!(report.unreadable[..], [(2, Error::Damaged { .. })]), "{report:?}");
    }
    assert!(!prune(forge.memory.clone(), &[2]).unwrap().removed.is_empty());
    assert!(check(forge.memory).unwrap().is_clean());
}

/// Who says something of a size that is not so is to blame, not what it is said of: others may refer to it rightly.
#[test]
fn an_entry_that_lies_about_the_size_of_a_directory_is_blamed_and_the_directory_is_not() {
    let size = "the content of x".len() as u64;
    for said in [0, size - 1, size + 1, u64::MAX] {
        for liar_first in [true, false] {
            let forge = Forge::new();
            let shared = forge.tree(&forge.good("x"));
            let (liar, honest) = if liar_first { (1, 2) } else { (2, 1) };
            let lying = forge.tree(&(dir("\"d\"", said, shared) + &forge.good("e")));
            forge.snapshot(liar, lying, said.wrapping_add(size));
            let honest_tree = forge.tree(&(dir("\"d\"", size, shared) + &forge.good("e")));
            forge.snapshot(honest, honest_tree, 2 * size);
            let report = check(forge.memory.clone()).unwrap();
            assert!(report.damaged.contains_key(&lying), "{said}: {report:?}");
            assert!(!report.damaged.contains_key(&shared), "{said}: {report:?}");
            assert!(!report.damaged.contains_key(&honest_tree), "{said}: {report:?}");
            assert_eq!(report.whole, [honest], "{said}: {report:?}");
        }
    }
}

/// Nothing but lines: whatever a repository holds, the terminal is not its to command.
fn assert_printable(what: &str, ran: &Output) {
    // What is JSON is for programs, in one line.
    let json = ran.stdout.starts_with(b"{");
    assert!(!json || ran.stdout.iter().filter(|byte| byte.is_ascii_control()).count() == 1, "{what}: {ran:?}");
    for bytes in [&ran.stdout, &ran.stderr].into_iter().skip(usize::from(json)) {
        let text = str::from_utf8(bytes).unwrap();
        let bad = |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
        assert!(!text.contains(bad), "{what}: {text:?}");
        // Each line begins as the program begins its lines; none of them was forged.
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{what}: {text:?}");
    }
}

#[test]
fn foreign_words_are_printed_safely() {
    // As a tree writes it.
    let evil = serde_json::Value::from("\u{1b}[31m\u{202e}\nforged\r\u{7}\u{9b}").to_string();
    let evil = evil.trim_matches('"');
    let run_all = |what: &str, forge: &Forge, lock_wait: &str| {
        let scratch = tempfile::tempdir().unwrap();
        let (repo, output) = (scratch.path().join("repo"), scratch.path().join("out"));
        forge.write(&repo);
        let held = fs::File::open(repo.join("tmp/0123/info.json"));
        if let Ok(held) = &held {
            fs2::FileExt::lock_exclusive(held).unwrap();
        }
        let lock = fs::File::open(repo.join("lock")).unwrap();
        if held.is_ok() {
            fs2::FileExt::lock_shared(&lock).unwrap();
        }
        let output = format!("--output-directory={}", output.display());
        let mut said = String::new();
        for arguments in [
            &["list"][..],
            &["check"],
            &["check", "--json"],
            &["restore", "--snapshot-number=1", &output],
            &["restore", "--snapshot-number=2", &format!("{output}2")],
            &["prune", "--snapshot=2", lock_wait],
        ] {
            let ran = run(&repo, arguments);
            assert_printable(&format!("{what}: {arguments:?}"), &ran);
            said += &String::from_utf8_lossy(&ran.stderr);
            said += &String::from_utf8_lossy(&ran.stdout);
        }
        let shown = ["\\u{1b}[31m", "\\u001b[31m", "snapshots/2.json"];
        assert!(shown.iter().any(|text| said.contains(text)), "{what} is not spoken of at all: {said}");
    };

    // A tree: an unknown key, an unknown type, a field of another type, a name.
    let lines: [fn(&Forge, &str) -> String; 5] = [
        |forge, evil| forge.good("x").replace(",\"size\"", &format!(",\"{evil}\":0,\"size\"")),
        |forge, evil| forge.good("x").replace("\"file\"", &format!("\"{evil}\"")),
        |forge, evil| forge.good("x").replace("\"size\":16", &format!("\"size\":\"{evil}\"")),
        |forge, evil| link(&format!("\"{evil}\""), "x") + &forge.good(evil),
        |forge, evil| {
            forge.good(evil) + &dir("\"x\"", 0, name_of(b"missing")).replace("\"x\"", &format!("\"{evil}x\""))
        },
    ];
    for (n, line) in lines.into_iter().enumerate() {
        let forge = Forge::new();
        let tree = forge.tree(&line(&forge, evil));
        let root = forge.tree(&dir("\"d\"", 0, tree));
        forge.snapshot(1, root, 0);
        forge.snapshot(2, tree, 0);
        run_all(&format!("tree {n}"), &forge, "--lock-wait=0s");
    }

    // A ref with a true checksum.
    let forge = Forge::new();
    forge.snapshot(1, forge.tree(&forge.good("x")), 16);
    let text = String::from_utf8(forge.memory.contents("snapshots/1.json").unwrap()).unwrap();
    let field = |name: &str| text.lines().find(|line| line.starts_with(&format!("  \"{name}\""))).unwrap();
    for (name, value) in [
        ("requires", format!("[\"{evil}\"],")),
        ("start", format!("\"{evil}\",")),
        ("tree", format!("\"{evil}\",")),
        ("source", format!("\"{evil}\",")),
        ("host", format!("[\"{evil}\"],")),
    ] {
        let forged = sealed(&text.replace(field(name), &format!("  \"{name}\": {value}")));
        forge.memory.set_contents("snapshots/2.json", forged).unwrap();
        run_all(&format!("ref: {name}"), &forge, "--lock-wait=0s");
    }

    // Who holds the lock, by its own word.
    let info = format!("{{\"host\":\"{evil}\",\"pid\":1,\"command\":\"{evil}\",\"start\":\"2024-09-01T12:35:22Z\"}}");
    forge.memory.remove("snapshots/2.json").unwrap();
    forge.snapshot(2, forge.tree(""), 0);
    forge.memory.set_contents("tmp/0123/info.json", info.into_bytes()).unwrap();
    run_all("info.json", &forge, "--lock-wait=2s");
}

#[test]
fn documents_that_are_nested_deeply_or_not_text_are_refused() {
    let deep = |open: &str, close: &str| {
        sealed(&format!("{{\n  \"x\": {}0{},\n}}\n", open.repeat(100_000), close.repeat(100_000)))
    };
    let documents =
        [deep("[", "]"), deep("{\"x\":", "}"), "[".repeat(100_000).into_bytes(), vec![0xff; 1000], vec![0; 1000]];
    for document in documents {
        for path in [layout::CONFIG, "snapshots/1.json"] {
            let forge = Forge::new();
            let root = forge.tree("");
            forge.snapshot(1, root, 0);
            forge.snapshot(2, root, 0);
            forge.memory.set_contents(path, document.clone()).unwrap();
            let scratch = tempfile::tempdir().unwrap();
            let output = scratch.path().join("out");
            let mut errors = BTreeMap::new();
            errors.insert("restore", restore(forge.memory.clone(), 1, &output).unwrap_err());
            errors.insert("prune", prune(forge.memory.clone(), &[2]).unwrap_err());
            if path == layout::CONFIG {
                errors.insert("check", check(forge.memory.clone()).unwrap_err());
            } else {
                let report = check(forge.memory.clone()).unwrap();
                errors.insert("check", report.unreadable.into_iter().next().unwrap().1);
                assert_eq!(restored(forge.memory.clone(), 2).unwrap(), Model::default());
                prune(forge.memory.clone(), &[1]).unwrap();
            }
            for (operation, error) in errors {
                assert!(
                    error.to_string().contains(path.trim_start_matches("snapshots/").trim_end_matches(".json")),
                    "{operation}: {error}"
                );
            }
            assert!(!output.exists());
        }
    }
}
