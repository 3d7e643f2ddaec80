//! `docs/format.md` says what a repository is made of. Its worked examples are checked here against the library: a
//! changed example, or a changed encoding, fails.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use backuptool::object::HashAlgorithm::{self, Blake3};
use backuptool::object::{
    BlobId, ChunkSizes, Chunker, Config, Content, Entry, EntryKind, ListBuilder, Name, ObjectId, Snapshot, Tree,
    TreeBuilder, decode_list, encode_list,
};
use backuptool::ops::{check, snapshot};
use backuptool::progress::Silent;
use backuptool::repo::{self, InitOptions, Session, SharedRepository, WriterOptions};

use backuptool::store::staging::RunInfo;
use backuptool::store::{LocalBackend, codec, layout};

use crate::support::docs::{Block, blocks, package, text};

fn document() -> Vec<Block> {
    blocks(&text("docs/format.md"))
}

/// The block called so, of which there must be one.
fn example<'b>(blocks: &'b [Block], info: &str) -> &'b str {
    let found: Vec<_> = blocks.iter().filter(|block| block.info == info).collect();
    assert_eq!(found.len(), 1, "docs/format.md must have one block `{info}`");
    &found[0].body
}

/// Collects what is stored, as a repository would.
#[derive(Default)]
struct Pieces(BTreeMap<ObjectId, Vec<u8>>);

impl Pieces {
    fn store(&mut self) -> impl FnMut(&[u8]) -> Result<ObjectId, Infallible> {
        |piece| {
            let id = Blake3.hash(piece);
            self.0.insert(id, piece.to_vec());
            Ok(id)
        }
    }

    fn text(&self, id: ObjectId) -> &str {
        str::from_utf8(&self.0[&id]).unwrap()
    }
}

fn build_tree(entries: impl IntoIterator<Item = Entry>) -> (ObjectId, Pieces) {
    let mut pieces = Pieces::default();
    let mut builder = TreeBuilder::new(Blake3);
    for entry in entries {
        builder.push(entry, &mut pieces.store()).unwrap();
    }
    let (tree, _size) = builder.finish(&mut pieces.store()).unwrap();
    (tree.object(), pieces)
}

fn session() -> Session<'static> {
    Session {
        host: "host".into(),
        pid: 1,
        command: "test".into(),
        start: "2024-09-01T12:35:22Z".parse().unwrap(),
        lock_wait: Duration::ZERO,
        progress: &Silent,
    }
}

/// The repository that the document's examples are from: its source taken, and its configuration and ref replaced by
/// those of the document, which differ from what a run writes in the random id, the times and the names.
fn example_repository(dir: &Path, blocks: &[Block]) -> SharedRepository {
    let source = dir.join("source");
    fs::create_dir_all(source.join("docs")).unwrap();
    fs::write(source.join("a.txt"), "hello\n").unwrap();
    fs::write(source.join(OsStr::from_bytes(b"caf\xe9")), "").unwrap();
    std::os::unix::fs::symlink("a.txt", source.join("latest")).unwrap();
    fs::write(source.join("zeros"), vec![0; 300_000]).unwrap();

    let path = dir.join("repo");
    let backend = Arc::new(LocalBackend::make(&path).unwrap());
    repo::init(Arc::clone(&backend) as _, &InitOptions::default(), &session()).unwrap();
    let shared = SharedRepository::open(Arc::clone(&backend) as _, &session()).unwrap();
    let options = snapshot::SnapshotOptions {
        source: &source,
        user: b"anna",
        clock: || "2024-09-01T12:35:22Z".parse().unwrap(),
        utc_offset: 7200,
        allow_empty: false,
        writing: WriterOptions::default(),
        threads: NonZero::<usize>::MIN,
    };
    let taken = snapshot::snapshot(&shared, &options, &session()).unwrap().snapshot;
    drop(shared);

    let documented = Snapshot::decode(Blake3, example(blocks, "json ref-example").as_bytes()).unwrap();
    assert_eq!((documented.tree, documented.counts, documented.added), (taken.tree, taken.counts, taken.added));
    for (name, info) in [("config.json", "json config-example"), ("snapshots/1.json", "json ref-example")] {
        fs::remove_file(path.join(name)).unwrap();
        fs::write(path.join(name), example(blocks, info)).unwrap();
    }
    SharedRepository::open(backend, &session()).unwrap()
}

#[test]
fn documents_decode_and_encode_identically() {
    let blocks = document();
    let config = example(&blocks, "json config-example");
    assert_eq!(String::from_utf8(Config::decode(config.as_bytes()).unwrap().encode()).unwrap(), config);
    let snapshot = example(&blocks, "json ref-example");
    let decoded = Snapshot::decode(Blake3, snapshot.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(decoded.encode(Blake3)).unwrap(), snapshot);
    let info = example(&blocks, "json run-info-example");
    let decoded: RunInfo = serde_json::from_str(info).unwrap();
    assert_eq!(serde_json::to_string_pretty(&decoded).unwrap() + "\n", info);
}

#[test]
fn trees_and_lists_decode_and_encode_identically() {
    let blocks = document();
    let mut seen = 0;
    for block in &blocks {
        match block.info.as_str() {
            "json tree-example" => {
                let Tree::Entries(entries) = Tree::decode(block.body.as_bytes()).unwrap() else { panic!() };
                let (id, pieces) = build_tree(entries);
                assert_eq!(pieces.text(id), block.body, "line {}", block.line);
                seen += 1;
            }
            "text list-example" => {
                let list = decode_list(block.body.as_bytes()).unwrap();
                assert_eq!(str::from_utf8(&encode_list(&list)).unwrap(), block.body, "line {}", block.line);
                seen += 1;
            }
            _ => {}
        }
    }
    assert_eq!(seen, 3, "the tree, the entry of every kind, and the list");
}

#[test]
fn a_large_directory_has_the_node_that_is_shown() {
    let blocks = document();
    let entries = (0..1000).map(|number| {
        let content = Content::Blob(BlobId(Blake3.hash(b"")));
        let name = Name::new(format!("{number:04}").into_bytes()).unwrap();
        Entry { name, kind: EntryKind::File { size: 0, content } }
    });
    let (id, pieces) = build_tree(entries);
    assert_eq!(pieces.text(id), example(&blocks, "json node-example"));
}

#[test]
fn a_long_list_has_the_node_that_is_shown() {
    let blocks = document();
    let mut pieces = Pieces::default();
    let mut list = ListBuilder::new();
    for number in 0..1000 {
        let text = format!("{number}\n");
        list.push(BlobId(Blake3.hash(text.as_bytes())), text.len() as u64, &mut pieces.store()).unwrap();
    }
    let (id, depth, _length) = list.finish(&mut pieces.store()).unwrap();
    assert_eq!(depth, 2);
    assert_eq!(pieces.text(id.object()), example(&blocks, "text list-node-example"));
}

#[test]
fn files_are_cut_where_it_is_shown() {
    let data: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    let chunker = Chunker::new(ChunkSizes::default());
    let (mut shown, mut rest) = (String::new(), data.as_bytes());
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(chunker.cut(rest));
        shown.push_str(&format!("{} {}\n", Blake3.hash(chunk), chunk.len()));
        rest = after;
    }
    assert_eq!(shown, example(&document(), "text cuts-example"));
}

#[test]
fn what_is_said_to_be_refused_is_refused() {
    let blocks = document();
    for (info, good, header) in [
        ("text refused-tree-lines", "json tree-example", "{\"tree\":1}\n"),
        ("text refused-list-lines", "text list-example", ""),
    ] {
        assert!(blocks.iter().any(|block| block.info == good));
        let id = Blake3.hash(b"").to_hex();
        let lines = example(&blocks, info);
        assert!(lines.lines().count() > 5, "{info}");
        for line in lines.lines() {
            let bytes = format!("{header}{}\n", line.replace("HASH", &id));
            let decoded = if header.is_empty() {
                decode_list(bytes.as_bytes()).map(|_| ())
            } else {
                Tree::decode(bytes.as_bytes()).map(|_| ())
            };
            assert!(decoded.is_err(), "{info}: {line}");
        }
    }
}

/// The limits that the document names, next to the constants that hold them.
#[test]
fn limits_are_those_of_the_code() {
    let document = text("docs/format.md");
    let rows = document.lines().filter(|line| line.starts_with("| ") && line.contains("`src/"));
    let mut seen = 0;
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_what, value, name, file] = cells[..] else { panic!("{row}") };
        let (name, file) = (name.trim_matches('`'), file.trim_matches('`'));
        let source = text(file);
        let line =
            source.lines().find(|line| line.contains(&format!("const {name}:"))).unwrap_or_else(|| panic!("{row}"));
        let expression = line.split_once(" = ").unwrap().1.trim_end_matches(';');
        assert_eq!(evaluate(expression), evaluate(&value.replace(',', "")), "{row}");
        seen += 1;
    }
    assert!(seen >= 10, "{seen} rows");
}

/// The value of an expression of numbers, `KIB`, `MIB`, `*` and `<<`.
fn evaluate(expression: &str) -> u64 {
    if let Some((left, right)) = expression.split_once(" << ") {
        return evaluate(left) << evaluate(right);
    }
    let factor = |factor: &str| match factor {
        "KIB" | "KiB" => 1024,
        "MIB" | "MiB" => 1024 * 1024,
        number => number.replace('_', "").parse::<u64>().unwrap_or_else(|_| panic!("{expression}")),
    };
    expression.split([' ', '*']).filter(|part| !part.is_empty()).map(factor).product()
}

#[test]
fn the_example_repository_is_what_the_library_makes() {
    let blocks = document();
    let dir = tempfile::tempdir().unwrap();
    let repo = example_repository(dir.path(), &blocks);
    let report = check::check(&repo, NonZero::<usize>::MIN, &session()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.snapshots, report.leftovers.unneeded), (1, 0));

    let root = repo.backend().local_root().unwrap();
    let mut commands = 0;
    for block in blocks.iter().filter(|block| block.info == "console") {
        for (command, shown) in commands_of(block) {
            assert_eq!(interpret(root, &command), shown, "line {}: {command}", block.line);
            if let Some(real) = run(root, &command) {
                assert_eq!(real, shown, "line {}, run by a shell: {command}", block.line);
            }
            commands += 1;
        }
    }
    assert!(commands >= 8, "{commands} commands");
}

/// The commands of a console block with what they print.
fn commands_of(block: &Block) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block.body.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command.into(), String::new()));
        } else {
            let (_, output) = commands.last_mut().expect("a console block begins with a command");
            output.push_str(line);
            output.push('\n');
        }
    }
    commands
}

/// What a command of the document prints, worked out with the library alone: so that the document is checked where the
/// tools are not installed as well.
fn interpret(root: &Path, command: &str) -> String {
    let mut stages = command.split(" | ");
    let mut data = match stages.next().unwrap().split(' ').collect::<Vec<_>>()[..] {
        ["zstd", "-dc", path] => codec::decompress(&fs::read(root.join(path)).unwrap(), 1 << 20).unwrap(),
        ["sed", "'/\"checksum\"/d'", path] => {
            let text = fs::read_to_string(root.join(path)).unwrap();
            text.split_inclusive('\n').filter(|line| !line.contains("\"checksum\"")).collect::<String>().into_bytes()
        }
        ["jq", "-r", key, path] => {
            let value: serde_json::Value = serde_json::from_slice(&fs::read(root.join(path)).unwrap()).unwrap();
            format!("{}\n", value[key.trim_start_matches('.')].as_str().unwrap()).into_bytes()
        }
        ["xxd", "-p", path] => {
            let hex = hex::encode(fs::read(root.join(path)).unwrap());
            assert!(hex.len() <= 60, "one line");
            format!("{hex}\n").into_bytes()
        }
        ["find", ".", "-type", "f"] => {
            let files = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.unwrap());
            let files = files.filter(|entry| entry.file_type().is_file());
            files
                .map(|entry| format!("./{}\n", entry.path().strip_prefix(root).unwrap().display()))
                .collect::<String>()
                .into()
        }
        _ => panic!("a command that this test does not know: {command}"),
    };
    for stage in stages {
        data = match stage {
            "b3sum" => format!("{}  -\n", Blake3.hash(&data)).into_bytes(),
            "sha256sum" => format!("{}  -\n", HashAlgorithm::Sha256.hash(&data)).into_bytes(),
            "sort" => {
                let text = String::from_utf8(data).unwrap();
                let mut lines: Vec<_> = text.split_inclusive('\n').collect();
                lines.sort_unstable();
                lines.concat().into_bytes()
            }
            _ => panic!("a command that this test does not know: {command}"),
        };
    }
    String::from_utf8(data).unwrap()
}

/// What a shell prints for the command, if all its tools are installed.
fn run(root: &Path, command: &str) -> Option<String> {
    let tools = command.split(" | ").map(|stage| stage.split(' ').next().unwrap());
    let search: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    for tool in tools {
        search.iter().find(|dir| dir.join(tool).is_file())?;
    }
    let output = Command::new("sh").arg("-c").arg(command).current_dir(root).env("LC_ALL", "C").output().ok()?;
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn every_file_of_a_repository_is_described() {
    let document = text("docs/format.md");
    for name in layout::DIRS.into_iter().chain([layout::README, layout::CONFIG, layout::LOCK, layout::RUN_INFO]) {
        assert!(document.contains(&format!("`{name}")) || document.contains(&format!("/{name}`")), "{name}");
    }
    assert!(package("docs/format.md").is_file());
}
