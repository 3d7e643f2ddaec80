//! What a repository holds, seen from outside: every object and document verifies with standard tools, what is pruned
//! is gone, and any damage is found, named, and never restored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backuptool::object::{HashAlgorithm, MAX_OBJECT, display_bytes};
use backuptool::store::loose::ReadRules;
use backuptool::store::pack::PackFile;
use backuptool::store::{LocalBackend, codec, layout};
use serde_json::Value;

use crate::support::cli::{
    Node, Ran, Tree, World, have, nasty_tree, noise, overwrite, read_tree, run, write, write_tree,
};

fn content(object: &Path) -> Vec<u8> {
    zstd::stream::decode_all(File::open(object).unwrap()).unwrap()
}

/// Runs a script of the shell with arguments and returns what it prints.
fn sh(script: &str, args: &[&Path]) -> String {
    let output = Command::new("sh").args(["-c", script, "sh"]).args(args).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A tree with every kind of object: small and empty files, chunks, a list with nodes above it, a directory in pieces.
fn varied_tree() -> Tree {
    let mut tree = nasty_tree();
    tree.insert("chunked".into(), Node::File(noise(3, 400_000)));
    tree.insert("zeros".into(), Node::File(vec![0; 3_000_000]));
    tree.insert("many".into(), Node::Dir);
    for i in 0..1500 {
        tree.insert(format!("many/file-{i}").into(), Node::File(vec![b'x'; i % 3]));
    }
    tree
}

#[test]
fn objects_and_documents_verify_with_standard_tools() {
    for hash in HashAlgorithm::ALL {
        let world = World::new();
        world.init(&["--chunk-size=16K", "--hash", hash.name()]);
        write_tree(&world.path("src"), &varied_tree());
        world.snapshot("src");
        write(world.path("src/checksum\n\"checksum\""), "checksum");
        world.snapshot("src");
        let objects = world.objects("repo");
        assert!(objects.len() > 50);
        let mut pieces = 0;
        for (name, path) in &objects {
            let content = content(path);
            assert_eq!(&hash.hash(&content).to_hex(), name);
            pieces += usize::from(content.starts_with(b"{\"tree\":1,\"level\""));
        }
        assert!(pieces > 0, "no directory was cut");
        let documents =
            [world.path("repo/config.json"), world.path("repo/snapshots/1.json"), world.path("repo/snapshots/2.json")];
        for document in &documents {
            let text = fs::read_to_string(document).unwrap();
            let covered: String = text.split_inclusive('\n').filter(|line| !line.contains("\"checksum\"")).collect();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["checksum"], hash.hash(covered.as_bytes()).to_hex());
            assert_eq!(
                text.lines().rev().nth(1).map(|line| line.starts_with("  \"checksum\": ")),
                Some(true),
                "{text}"
            );
        }
        if !have(&["zstd", hash.tool(), "sed"]) {
            continue;
        }
        let paths: Vec<&Path> = objects.values().map(PathBuf::as_path).collect();
        sh("zstd -tq \"$@\"", &paths);
        let script = format!("for object; do zstd -dcq \"$object\" | {}; done", hash.tool());
        let sums = sh(&script, &paths);
        let sums: Vec<&str> = sums.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(sums, objects.keys().collect::<Vec<_>>());
        for document in &documents {
            let sum = sh(&format!("sed '/\"checksum\"/d' \"$1\" | {}", hash.tool()), &[document]);
            let value: Value = serde_json::from_slice(&fs::read(document).unwrap()).unwrap();
            assert_eq!(sum.split(' ').next(), value["checksum"].as_str());
        }
    }
}

#[test]
fn a_pruned_snapshot_leaves_what_never_having_taken_it_would() {
    let (with, without) = (World::new(), World::new());
    for world in [&with, &without] {
        world.init(&["--chunk-size=16K"]);
    }
    let mut states = Vec::new();
    for step in 1..=3_u64 {
        let mut tree = varied_tree();
        tree.retain(|path, _| step != 2 || !path.starts_with("empty-dirs"));
        tree.insert(format!("only-in-{step}").into(), Node::File(noise(step, 70_000)));
        tree.insert("changes".into(), Node::File(noise(step, 300)));
        tree.insert(format!("many/new-{step}").into(), Node::File(noise(step + 10, 10)));
        let mut large = noise(4, 1_500_000);
        large[usize::try_from(step).unwrap() * 400_000] ^= 1;
        tree.insert("edited".into(), Node::File(large));
        for world in [&with, &without] {
            if world.path("src").exists() {
                fs::remove_dir_all(world.path("src")).unwrap();
            }
            write_tree(&world.path("src"), &tree);
        }
        with.snapshot("src");
        if step != 2 {
            without.snapshot("src");
        }
        states.push(tree);
    }
    let before = with.objects("repo").len();
    with.ok(["prune", "-r", "repo", "--snapshot=2"]);
    assert!(with.objects("repo").len() < before);
    assert!(with.restored(1) == states[0] && with.restored(3) == states[2]);
    with.clean();
    let read = |world: &World| -> BTreeMap<String, Vec<u8>> {
        world.objects("repo").into_iter().map(|(name, path)| (name, fs::read(path).unwrap())).collect()
    };
    assert!(read(&with) == read(&without));
}

/// The commands of the README that a repository carries, run as they stand there.
#[test]
fn the_readme_of_a_repository_is_true() {
    for hash in HashAlgorithm::ALL {
        if !have(&["zstd", "tar", "jq", "od", "xxd", hash.tool()]) {
            return;
        }
        let world = World::new();
        world.init(&["--chunk-size=16K", "--hash", hash.name()]);
        let chunked = noise(1, 90_000);
        write(world.path("src/dir/chunked"), &chunked);
        write(world.path("src/small"), "small");
        world.ok(["snapshot", "-r", "repo", "--loose-limit=0", "src"]);
        write(world.path("src/loose"), "loose");
        world.snapshot("src");
        assert!(packs(&world).len() == 2 && !world.objects("repo").is_empty());
        fs::create_dir(world.path("scratch")).unwrap();

        let readme = fs::read_to_string(world.path("repo/README")).unwrap();
        assert!(readme.lines().all(|line| line.chars().count() <= 120));
        // What it says after two spaces, up to where the columns of explanations begin.
        let line = |start: &str| {
            let line = readme.lines().find(|line| line.starts_with(&format!("  {start}")));
            let line = line.unwrap_or_else(|| panic!("no line {start}")).trim();
            line.split("   ").next().unwrap().to_string()
        };
        let unpack = line("for pack");
        let object = line("object()");
        let top = line("object \"$(jq").replace('N', "2");
        let shell = |script: &str| {
            let script = format!("cd \"$1\" && SCRATCH=../scratch && {script}");
            sh(&script, &[&world.path("repo")])
        };
        shell(&unpack);
        let top = shell(&format!("{object}; {top} 2>/dev/null"));
        let lines: Vec<Value> = top.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let entry = |lines: &[Value], name: &str| lines.iter().find(|line| line["name"] == name).unwrap().clone();
        for name in ["small", "loose"] {
            let blob = entry(&lines, name)["blob"].as_str().unwrap().to_string();
            assert_eq!(shell(&format!("{object}; object {blob} 2>/dev/null")), name);
        }
        let tree = entry(&lines, "dir")["tree"].as_str().unwrap().to_string();
        let dir = shell(&format!("{object}; object {tree}"));
        let dir: Vec<Value> = dir.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let list = entry(&dir, "chunked")["chunks"].as_str().unwrap().to_string();
        let restore = line("object HASH | while").replace("HASH", &list).replace("> b", "> ../scratch/b");
        shell(&format!("{object}; {restore}"));
        assert!(fs::read(world.path("scratch/b")).unwrap() == chunked);

        for pack in packs(&world) {
            let path = pack.file_name().unwrap().to_str().unwrap();
            let sum = shell(&line(&format!("{} packs/", hash.tool())).replace("HASH", path.split('.').next().unwrap()));
            assert!(path.starts_with(sum.split(' ').next().unwrap()), "{sum}");
            let with_pack = |script: &str| shell(&format!("PACK=packs/{path}; {script}"));
            let listed = with_pack(&line("zstd -dc $PACK | tar -t"));
            let counts = with_pack(&line("tail -c 16 "));
            let counts: Vec<usize> = counts.split_whitespace().map(|count| count.parse().unwrap()).collect();
            let [frames, objects] = counts[..] else { panic!("{counts:?}") };
            assert_eq!(listed.lines().count(), objects);
            let numbers = format!("F={frames}; N={objects}");
            let table = with_pack(&format!("{numbers}; {}", line("tail -c $((48 + 8 * F)) ")));
            let table: Vec<Vec<usize>> = table
                .lines()
                .map(|line| line.split_whitespace().map(|number| number.parse().unwrap()).collect())
                .collect();
            let names = with_pack(&format!("{numbers}; {}", line("tail -c $((48 + 8 * F + 36 * N)) ")));
            let mut names = names.lines();
            let mut start = 0;
            for frame in table {
                let mut at = 0;
                for line_of_object in names.by_ref().take(frame[1]) {
                    let (name, size) = line_of_object.split_at(64);
                    let size = u32::from_str_radix(size, 16).unwrap().swap_bytes() as usize;
                    let shown = with_pack(&format!(
                        "START={start}; LENGTH={}; AT={at}; SIZE={size}; {} | {}",
                        frame[0],
                        line("tail -c +$((START + 1)) "),
                        hash.tool()
                    ));
                    assert_eq!(shown.split(' ').next(), Some(name));
                    let whole = line("zstd -dc $PACK | tar -x").replace("HASH", name);
                    assert_eq!(with_pack(&format!("{whole} | {}", hash.tool())), shown);
                    at += 512 + size.next_multiple_of(512);
                }
                start += frame[0];
            }
            assert_eq!(names.next(), None);
        }
    }
}

// ---- damage

/// What a snapshot needs, found by reading the repository without the program.
#[derive(Default)]
struct Needs {
    /// Where `check` must say that an object belongs.
    named: BTreeMap<String, BTreeSet<String>>,
    /// The entries that cannot be restored without an object.
    lost: BTreeMap<String, BTreeSet<PathBuf>>,
}

struct Reader {
    objects: BTreeMap<String, PathBuf>,
    needs: Needs,
}

impl Reader {
    fn needs_of(world: &World, number: u64) -> Needs {
        let mut reader = Self { objects: world.objects("repo"), needs: Needs::default() };
        reader.tree(world.read_ref(number)["tree"].as_str().unwrap(), Path::new(""), &mut Vec::new());
        reader.needs
    }

    fn name(&mut self, id: &str, path: &Path) {
        let path = display_bytes(path.as_os_str().as_encoded_bytes());
        self.needs.named.entry(id.into()).or_default().insert(path);
    }

    fn lose(&mut self, ids: &[String], path: &Path) {
        for id in ids {
            self.needs.lost.entry(id.clone()).or_default().insert(path.to_path_buf());
        }
    }

    fn tree(&mut self, id: &str, at: &Path, above: &mut Vec<String>) {
        self.name(id, at);
        above.push(id.into());
        let text = String::from_utf8(content(&self.objects[id])).unwrap();
        for line in text.lines().skip(1) {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| line[key].as_str().unwrap().to_string();
            if line.get("last").is_some() {
                self.tree(&text("tree"), at, above);
                continue;
            }
            let path = at.join(text("name"));
            self.lose(above, &path);
            match &*text("type") {
                "dir" => self.tree(&text("tree"), &path, above),
                "file" if line.get("blob").is_some() => {
                    self.name(&text("blob"), &path);
                    self.lose(&[text("blob")], &path);
                }
                "file" => self.list(&text("chunks"), line["depth"].as_u64().unwrap(), &path),
                _ => {}
            }
        }
        above.pop();
    }

    fn list(&mut self, id: &str, depth: u64, path: &Path) {
        self.name(id, path);
        self.lose(&[id.into()], path);
        if depth > 0 {
            let text = String::from_utf8(content(&self.objects[id])).unwrap();
            for line in text.lines() {
                self.list(line.split(' ').next().unwrap(), depth - 1, path);
            }
        }
    }
}

/// Two snapshots of a small tree with every kind of object, and what they restore to. Restoring a directory that is large
/// enough to be cut takes time, so it is there only if it is wanted.
fn small_repository(hash: HashAlgorithm, large_directory: bool) -> (World, Vec<Tree>) {
    let world = World::new();
    world.init(&["--chunk-size=16K", "--hash", hash.name()]);
    write(world.path("src/dir/chunked"), noise(1, 80_000));
    write(world.path("src/dir/deeper/a"), "the same");
    write(world.path("src/dir/deeper/empty"), "");
    write(world.path("src/b"), "the same");
    write(world.path("src/changes"), "one");
    std::os::unix::fs::symlink("dir", world.path("src/link")).unwrap();
    for i in 0..if large_directory { 900 } else { 3 } {
        write(world.path(format!("src/many/{i}")), "");
    }
    let mut states = Vec::new();
    for text in ["one", "two"] {
        write(world.path("src/changes"), text);
        world.snapshot("src");
        states.push(read_tree(&world.path("src")));
    }
    world.clean();
    (world, states)
}

/// Asserts that `check` names exactly this object with exactly its files, and that a restore of each snapshot leaves
/// out exactly what needs it.
fn assert_found(world: &World, id: &str, states: &[Tree], needs: &[Needs], what: &str) {
    let report = world.run(["check", "-r", "repo", "--json"]).exits(4).json().remove(0);
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (needs, number) in needs.iter().zip(1..) {
        for path in needs.named.get(id).into_iter().flatten() {
            expected.entry(path.clone()).or_default().push(number);
        }
    }
    let damaged = report["damaged"].as_array().unwrap();
    assert_eq!(damaged.len(), 1, "{what}: {report}");
    assert_eq!(damaged[0]["object"], id, "{what}");
    let files = damaged[0]["files"].as_array().unwrap();
    let files = files.iter().map(|file| {
        let numbers = file["snapshots"].as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect();
        (file["path"].as_str().unwrap().to_string(), numbers)
    });
    assert_eq!(files.collect::<BTreeMap<_, Vec<u64>>>(), expected, "{what}: object {id}");
    let whole: Vec<u64> =
        needs.iter().zip(1..).filter(|(needs, _)| !needs.named.contains_key(id)).map(|(_, n)| n).collect();
    assert_eq!(report["whole"], Value::from(whole), "{what}");

    for ((state, needs), number) in states.iter().zip(needs).zip(1..) {
        let out = world.path("out");
        let number = format!("--snapshot-number={number}");
        let ran = world.run(["restore", "-r", "repo", &number, "--output-directory=out"]);
        let mut expected = state.clone();
        if let Some(named) = needs.named.get(id) {
            for path in needs.lost.get(id).into_iter().flatten() {
                expected.remove(path);
            }
            let ran = ran.exits(3).says(&[id]);
            for path in named {
                assert!(
                    ran.stderr.contains(out.join(path).to_str().unwrap().trim_end_matches('/')),
                    "{what}: {path}: {ran:?}"
                );
            }
        } else {
            ran.exits(0);
        }
        let restored = read_tree(&out);
        assert!(restored == expected, "{what}: object {id}, {number}: {:?}", restored.keys().collect::<Vec<_>>());
        fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn damage_of_any_object_is_named_and_never_restored() {
    // All kinds of damage to all kinds of object; one kind to each with the other hash; some to the pieces of a directory.
    for (hash, large_directory) in
        [(HashAlgorithm::ALL[0], false), (HashAlgorithm::ALL[1], false), (HashAlgorithm::ALL[0], true)]
    {
        let (world, states) = small_repository(hash, large_directory);
        let needs = [Reader::needs_of(&world, 1), Reader::needs_of(&world, 2)];
        let mut all = world.objects("repo");
        assert!(all.len() >= 12, "{}", all.len());
        if large_directory {
            all.retain(|id, _| needs[0].named.get(id).is_some_and(|paths| paths.contains("many")));
            assert!(all.len() > 2, "the directory was not cut");
        }
        let frames: BTreeMap<&String, Vec<u8>> = all.iter().map(|(id, path)| (id, fs::read(path).unwrap())).collect();
        for (at, (id, path)) in all.iter().enumerate() {
            let good = &frames[id];
            let other = frames.iter().find(|(name, _)| **name != id).map(|(_, frame)| frame).unwrap();
            let flipped = |bit: usize| {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                bad
            };
            // Few bits make no difference to what is decoded; then it is the next one's turn.
            let whole = content(path);
            let matters =
                |bit: &usize| zstd::stream::decode_all(&*flipped(*bit)).map_or(true, |decoded| decoded != whole);
            let first = usize::from(noise(at as u64, 1)[0]) * good.len() * 8 / 256;
            let bit = (first..good.len() * 8).chain(0..first).find(matters).unwrap();
            let kinds = [
                ("a flipped bit", Some(flipped(bit))),
                ("a flipped bit of the checksum", Some(flipped(good.len() * 8 - 1))),
                ("deleted", None),
                ("empty", Some(Vec::new())),
                ("cut in half", Some(good[..good.len() / 2].to_vec())),
                ("longer", Some([good, &b"x"[..]].concat())),
                ("another object", Some(other.clone())),
            ];
            for (kind, (what, bad)) in kinds.into_iter().enumerate() {
                if (hash != HashAlgorithm::ALL[0] && kind != at % 7) || (large_directory && ![0, 2].contains(&kind)) {
                    continue;
                }
                match bad {
                    Some(bad) => overwrite(path, &bad),
                    None => fs::remove_file(path).unwrap(),
                }
                assert_found(&world, id, &states, &needs, what);
                overwrite(path, good);
            }
        }
        world.clean();
    }
}

#[test]
fn a_flipped_bit_is_seen_or_changes_nothing() {
    let world = World::new();
    world.init(&[]);
    // One whose frame is compressed, and one that is stored as it is.
    write(world.path("src/text"), "all work and no play makes jack a dull boy\n".repeat(20));
    write(world.path("src/noise"), noise(1, 40));
    world.snapshot("src");
    let (mut bits, mut harmless) = (0, 0);
    for (id, path) in world.objects("repo") {
        let good = fs::read(&path).unwrap();
        let content = content(&path);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bits += 1;
            // A decoder has a few bits to spare: what it decodes to is the same, so the object is whole.
            if let Ok(decoded) = codec::decompress(&bad, MAX_OBJECT) {
                if decoded == content {
                    assert!(content != noise(1, 40), "bit {bit} of a frame that is not compressed is not missed");
                    harmless += 1;
                } else {
                    assert_ne!(HashAlgorithm::Blake3.hash(&decoded).to_hex(), id);
                }
            }
        }
    }
    assert!(harmless * 200 < bits, "{harmless} of {bits} bits are not missed");
}

#[test]
fn a_damaged_object_is_stored_again_by_the_next_snapshot() {
    let (world, states) = small_repository(HashAlgorithm::Blake3, false);
    for (id, path) in world.objects("repo") {
        let good = fs::read(&path).unwrap();
        overwrite(&path, &good[..good.len() - 1]);
        let ran = world.run(["check", "-r", "repo"]).exits(4);
        assert!(ran.stdout.contains(&id));
    }
    // All that the source still holds is whole again: everything but what only the first snapshot had.
    let report = world.snapshot("src");
    assert!(report["replaced"].as_u64().unwrap() > 5, "{report}");
    assert!(world.restored(3) == states[1] && world.restored(2) == states[1]);
    let report = world.run(["check", "-r", "repo", "--json"]).exits(4).json().remove(0);
    assert_eq!(report["whole"], serde_json::json!([2, 3]));
    // What is damaged and must stay hinders a prune of others; without it, all is well.
    let ran = world.run(["prune", "-r", "repo", "--snapshot=2"]).exits(1);
    ran.says(&["what snapshot 1 needs, which is to stay", "--snapshot=1-2`", "nothing was removed"]);
    assert_eq!(world.numbers(), [1, 2, 3]);
    world.ok(["prune", "-r", "repo", "--snapshot=1"]);
    world.clean();
}

#[test]
fn a_damaged_ref_is_named_and_hides_no_other() {
    let (world, states) = small_repository(HashAlgorithm::Blake3, false);
    let path = world.path("repo/snapshots/1.json");
    let good = fs::read(&path).unwrap();
    let other = fs::read(world.path("repo/snapshots/2.json")).unwrap();
    let mut bad = vec![
        ("empty".to_string(), Vec::new()),
        ("cut in half".into(), good[..good.len() / 2].to_vec()),
        ("without its last byte".into(), good[..good.len() - 1].to_vec()),
        ("another ref".into(), other),
        ("an object".into(), fs::read(world.objects("repo").values().next().unwrap()).unwrap()),
    ];
    for at in (0..good.len()).step_by(good.len() / 12) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        bad.push((format!("bit {} of byte {at} flipped", at % 8), flipped));
    }
    for (what, bad) in bad {
        overwrite(&path, &bad);
        let ran = world.run(["list", "-r", "repo"]).exits(3).says(&["snapshots/1.json is damaged"]);
        assert_eq!(ran.stdout.lines().count(), 2, "{what}");
        let ran = world.run(["check", "-r", "repo"]).exits(4);
        assert!(
            ran.stdout.contains("damaged: repo/snapshots/1.json") && ran.stdout.contains("completely: 2\n"),
            "{what}: {ran:?}"
        );
        let restore = ["restore", "-r", "repo", "--snapshot-number=1", "--output-directory=out"];
        world.run(restore).exits(1).says(&["snapshots/1.json is damaged"]);
        assert!(!world.path("out").exists());
        assert!(world.restored(2) == states[1], "{what}");
        // What it needs is not known, so nothing is removed.
        world.run(["prune", "-r", "repo", "--snapshot=2"]).exits(1).says(&[
            "what snapshot 1 needs, which is to stay",
            "--snapshot=1-2`",
            "nothing was removed",
        ]);
    }
    overwrite(&path, &good);
    world.clean();
    // One that is not there is no less damaged.
    fs::remove_file(&path).unwrap();
    let ran = world.run(["list", "-r", "repo"]).exits(3).says(&["snapshots/1.json is damaged: its ref is lost"]);
    assert_eq!(ran.stdout.lines().count(), 2);
    world.run(["check", "-r", "repo"]).exits(4).says(&[]);
    world.run(["prune", "-r", "repo", "--snapshot=2"]).exits(1).says(&["of snapshot 1 is lost", "nothing was removed"]);
    world.ok(["prune", "-r", "repo", "--snapshot=1"]);
    assert_eq!(world.numbers(), [2]);
    world.clean();
    assert!(world.restored(2) == states[1]);
    // A damaged one can be pruned.
    overwrite(&path, b"");
    world.ok(["prune", "-r", "repo", "--snapshot=1"]);
    assert_eq!(world.numbers(), [2]);
    world.clean();
    // The newest one does not hinder the next.
    overwrite(&world.path("repo/snapshots/2.json"), b"");
    world.ok(["snapshot", "-r", "repo", "src"]);
    assert!(world.restored(3) == read_tree(&world.path("src")));
}

#[test]
fn a_damaged_configuration_is_named_and_nothing_is_changed() {
    let (world, states) = small_repository(HashAlgorithm::Blake3, false);
    let path = world.path("repo/config.json");
    let good = fs::read(&path).unwrap();
    let mut bad = vec![Vec::new(), good[..good.len() / 2].to_vec(), good[..good.len() - 1].to_vec(), b"{}\n".to_vec()];
    for at in (0..good.len()).step_by(good.len() / 12) {
        let mut flipped = good.clone();
        flipped[at] ^= 1 << (at % 8);
        bad.push(flipped);
    }
    for bad in bad {
        overwrite(&path, &bad);
        let before = read_tree(&world.path("repo"));
        for args in [&["list"][..], &["check"], &["snapshot", "src"], &["prune", "--snapshot=1"], &["init"]] {
            let ran = world.run(["-r", "repo"].iter().chain(args)).exits(1);
            assert!(args == ["init"] || ran.stderr.contains("repo/config.json"), "{ran:?}");
        }
        assert!(read_tree(&world.path("repo")) == before);
    }
    fs::remove_file(&path).unwrap();
    for args in [&["list"][..], &["check"], &["snapshot", "src"], &["prune", "--snapshot=1"]] {
        world.run(["-r", "repo"].iter().chain(args)).exits(10).says(&["its config.json is gone", "repair --from COPY"]);
    }
    // It is not taken for an interrupted one and made anew, which would forget the hash.
    world.run(["init", "-r", "repo"]).exits(1).says(&["holds other files"]);
    // That of another repository with another hash does not fit: nothing is believed.
    world.ok(["init", "-r", "other", "--hash=sha256"]);
    overwrite(&path, &fs::read(world.path("other/config.json")).unwrap());
    world.run(["check", "-r", "repo"]).exits(4);
    world.run(["list", "-r", "repo"]).exits(3);
    world.run(["restore", "-r", "repo", "--snapshot-number=1", "--output-directory=out"]).exits(1);
    assert!(!world.path("out").exists());
    overwrite(&path, &good);
    world.clean();
    assert!(world.restored(1) == states[0]);
}

#[test]
fn the_script_restores_what_the_program_stored() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/restore-without-backuptool.sh");
    std::thread::scope(|scope| {
        for hash in HashAlgorithm::ALL {
            for packed in [false, true] {
                let script = &script;
                scope.spawn(move || restore_by_script(script, hash, packed));
            }
        }
    });
}

fn restore_by_script(script: &Path, hash: HashAlgorithm, packed: bool) {
    if !have(&["zstd", "tar", "jq", hash.tool(), "diff"]) {
        return;
    }
    let world = World::new();
    world.init(&["--chunk-size=16K", "--hash", hash.name()]);
    write(world.path("small/a\nb"), "first");
    std::os::unix::fs::symlink("-x", world.path("small/-l")).unwrap();
    world.snapshot("small");
    let mut tree = nasty_tree();
    // Packs are to have several frames; the heights of trees and lists make no difference there.
    let (large, many) = if packed { (9_000_000, 1200) } else { (20_500_000, 4200) };
    tree.insert("large".into(), Node::File(noise(1, large)));
    tree.insert("many".into(), Node::Dir);
    for i in 0..many {
        tree.insert(
            format!("many/{i}").into(),
            Node::File(if i % 20 == 0 { i.to_string() } else { String::new() }.into()),
        );
    }
    write_tree(&world.path("src"), &tree);
    let limit = |packed| if packed { "--loose-limit=16" } else { "--loose-limit=100000" };
    world.ok(["snapshot", "-r", "repo", limit(packed), "src"]);
    assert_eq!(packs(&world).len(), if packed { 2 } else { 0 });
    if !packed {
        // Both kinds of height are there.
        let trees: Vec<Vec<u8>> = world.objects("repo").values().map(|path| content(path)).collect();
        assert!(trees.iter().any(|text| text.starts_with(b"{\"tree\":1,\"level\":1}")));
        assert!(trees.iter().any(|text| text.windows(10).any(|window| window == b"\"depth\":2}")));
    }
    // One that was removed does not count as the newest.
    write(world.path("small/new"), "x");
    world.snapshot("small");
    world.ok(["prune", "-r", "repo", "--snapshot=3"]);

    let restore = |args: &[&str]| {
        let mut command = Command::new("sh");
        command.arg(script).args(args).current_dir(world.path("")).stdin(Stdio::null());
        run(command)
    };
    restore(&["repo", "out"]).exits(0);
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference", "src", "out"]).current_dir(world.path(""));
    let ran = run(diff).exits(0);
    assert!(ran.stdout.is_empty(), "{ran:?}");
    assert!(read_tree(&world.path("out")) == tree);
    fs::remove_file(world.path("small/new")).unwrap();
    restore(&["repo", "-out", "1"]).exits(0);
    assert!(read_tree(&world.path("-out")) == read_tree(&world.path("small")));

    // It refuses and says why.
    restore(&["repo"]).exits(2);
    restore(&["repo", "out"]).exits(1).says(&["out exists"]);
    restore(&["missing", "x"]).exits(1).says(&["config.json"]);
    restore(&["repo", "x", "3"]).exits(1).says(&["no snapshot 3"]);
    restore(&["repo", "x", "../1"]).exits(1).says(&["not the number"]);
    let needs = Reader::needs_of(&world, 1);
    for id in needs.named.keys() {
        let path = &world.objects("repo")[id];
        let good = fs::read(path).unwrap();
        let other = zstd::bulk::compress(b"other", 3).unwrap();
        for bad in [Some(other), Some(good[..good.len() - 1].to_vec()), None] {
            match &bad {
                Some(bad) => overwrite(path, bad),
                None => fs::remove_file(path).unwrap(),
            }
            restore(&["repo", "damaged", "1"]).exits(1).says(&[id]);
            fs::remove_dir_all(world.path("damaged")).unwrap();
        }
        overwrite(path, &good);
    }
    if packed {
        // A snapshot of which everything is loose as well, for second copies.
        world.ok(["init", "-r", "loose", "--chunk-size=16K", "--hash", hash.name()]);
        world.ok(["snapshot", "-r", "loose", limit(false), "src"]);
        restore_damaged_packs(&world, hash, &restore, &tree);
    }
    let path = world.path("repo/snapshots/1.json");
    let text = fs::read_to_string(&path).unwrap();
    overwrite(&path, text.replace("\"dirs\": 0", "\"dirs\": 1").as_bytes());
    restore(&["repo", "x", "1"]).exits(1).says(&["1.json is damaged"]);
}

/// The packs of `repo`, those of blobs first.
fn packs(world: &World) -> Vec<PathBuf> {
    let files = fs::read_dir(world.path("repo/packs")).unwrap().map(|entry| entry.unwrap().path());
    let mut packs: Vec<_> = files.collect();
    packs.sort_by_key(|path| !path.to_str().unwrap().ends_with(".blobs.tar.zst"));
    packs
}

/// What the script makes of damaged packs, without and with other copies of what is in them. Snapshot 2 holds `tree`.
fn restore_damaged_packs(world: &World, hash: HashAlgorithm, restore: &dyn Fn(&[&str]) -> Ran, tree: &Tree) {
    let restores = |said: &[&str]| {
        restore(&["repo", "again", "2"]).exits(0).says(said);
        assert!(read_tree(&world.path("again")) == *tree);
        fs::remove_dir_all(world.path("again")).unwrap();
    };
    let packs = packs(world);
    let good: Vec<Vec<u8>> = packs.iter().map(|pack| fs::read(pack).unwrap()).collect();
    let damage = |number: usize, at: usize| {
        let mut bad = good[number].clone();
        bad[at] ^= 1;
        overwrite(&packs[number], &bad);
    };
    // In a frame: what is in it is lost.
    for (number, bytes) in good.iter().enumerate() {
        damage(number, bytes.len() / 3);
        restore(&["repo", "damaged", "2"]).exits(1).says(&["could not be unpacked as it should be", "cannot be read"]);
        fs::remove_dir_all(world.path("damaged")).unwrap();
        // What does not need the pack is restored.
        restore(&["repo", "other", "1"]).exits(0);
        fs::remove_dir_all(world.path("other")).unwrap();
    }
    for (pack, good) in packs.iter().zip(&good) {
        overwrite(pack, good);
    }
    // What is in the frame that is damaged has another copy, and what is behind it is read all the same.
    let own = world.objects("repo");
    let loose = world.objects("loose");
    let backend = LocalBackend::open(&world.path("repo")).unwrap();
    let name = layout::parse_pack(packs[0].file_name().unwrap().to_str().unwrap()).unwrap();
    let pack = PackFile::open(&backend, ReadRules { hash, max_object: MAX_OBJECT }, name).unwrap();
    assert!(pack.frames() > 2);
    for member in pack.frame_members(0).unwrap() {
        let id = member.id.to_hex();
        write(world.path("repo").join(layout::object_path(member.id)), fs::read(&loose[&id]).unwrap());
    }
    damage(0, pack.frame_bytes(0).unwrap().len() / 2);
    restores(&["could not be unpacked as it should be"]);
    overwrite(&packs[0], &good[0]);
    // Now the copies in packs are the good ones.
    let other = zstd::bulk::compress(b"other", 3).unwrap();
    for (at, (id, path)) in world.objects("repo").iter().enumerate().filter(|(_, (id, _))| !own.contains_key(*id)) {
        match at % 3 {
            0 => overwrite(path, &other),
            1 => overwrite(path, id.as_bytes()),
            _ => fs::remove_file(path).unwrap(),
        }
    }
    restores(&[]);
    // An index that is damaged, and a pack that ends too early.
    damage(0, good[0].len() - 100);
    restores(&["is damaged; what is in it is looked at"]);
    overwrite(&packs[0], &good[0][..good[0].len() / 2]);
    restore(&["repo", "damaged", "2"]).exits(1).says(&["is damaged; what is in it is looked at", "cannot be read"]);
    overwrite(&packs[0], &good[0]);
}
