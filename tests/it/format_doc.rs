//! `docs/format.md` says what a repository is made of. Its worked examples are checked here against the library: a
//! changed example, or a changed encoding, fails.
//!
//! The blocks about packs (those called `packed-…`) are made by this test, from the example repository with packs:
//! `BACKUPTOOL_BLESS=1 cargo test packed_examples` writes them into the document anew.

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
    BlobId, ChunkSizes, Chunker, Config, Content, Entry, EntryKind, Labels, ListBuilder, Name, ObjectId, Snapshot,
    Tree, TreeBuilder, decode_list, encode_list,
};
use backuptool::ops::check::CheckOptions;
use backuptool::ops::{check, snapshot};
use backuptool::progress::{Interruption, Silent};
use backuptool::repo::{self, InitOptions, Session, SharedRepository, WriterOptions};

use backuptool::store::pack::{PackFile, PackKind, member_header, member_length};
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
        // A process that another test has just begun holds a lock of this one until it runs its own program.
        lock_wait: Duration::from_secs(60),
        progress: &Silent,
        interruption: Interruption::default(),
    }
}

/// Makes the directory that the document's examples are from, and a repository with a snapshot of it.
fn take_example(dir: &Path, writing: WriterOptions) -> (Arc<LocalBackend>, Snapshot) {
    let source = dir.join("source");
    fs::create_dir_all(source.join("docs")).unwrap();
    fs::write(source.join("a.txt"), "hello\n").unwrap();
    fs::write(source.join(OsStr::from_bytes(b"caf\xe9")), "").unwrap();
    std::os::unix::fs::symlink("a.txt", source.join("latest")).unwrap();
    fs::write(source.join("zeros"), vec![0; 300_000]).unwrap();

    let backend = Arc::new(LocalBackend::make(&dir.join("repo")).unwrap());
    repo::init(Arc::clone(&backend) as _, &InitOptions::default(), &session()).unwrap();
    let shared = SharedRepository::open(Arc::clone(&backend) as _, &session()).unwrap();
    let options = snapshot::SnapshotOptions {
        source: &source,
        user: b"anna",
        clock: || "2024-09-01T12:35:22Z".parse().unwrap(),
        utc_offset: 7200,
        allow_empty: false,
        one_file_system: false,
        detection: snapshot::ChangeDetection::default(),
        labels: &Labels::default(),
        writing,
        threads: NonZero::<usize>::MIN,
    };
    let taken = snapshot::snapshot(&shared, &options, &session()).unwrap().snapshot;
    // It depends on where and when the source was made.
    fs::remove_dir_all(dir.join("repo/cache")).unwrap();
    fs::create_dir(dir.join("repo/cache")).unwrap();
    (backend, taken)
}

/// The repository of the examples, its configuration and ref replaced by those of the document, which differ from what a
/// run writes in the random id, the times and the names.
fn example_repository(dir: &Path, blocks: &[Block]) -> SharedRepository {
    let (backend, taken) = take_example(dir, WriterOptions::default());
    let path = dir.join("repo");
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
    let labels = example(&blocks, "json labels-example");
    let decoded = Labels::decode(Blake3, 1, labels.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(decoded.encode(Blake3, 1)).unwrap(), labels);
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
    assert!(seen >= 15, "{seen} rows");
}

/// The value of an expression of numbers, `KIB`, `MIB`, `u32::MAX`, `*` and `<<`.
fn evaluate(expression: &str) -> u64 {
    if let Some((left, right)) = expression.split_once(" << ") {
        return evaluate(left) << evaluate(right);
    }
    let expression = expression.trim_end_matches(" as u64");
    let factor = |factor: &str| match factor {
        "KIB" | "KiB" => 1024,
        "MIB" | "MiB" => 1024 * 1024,
        "u32::MAX" => u32::MAX.into(),
        number => number.replace('_', "").parse::<u64>().unwrap_or_else(|_| panic!("{expression}")),
    };
    expression.split([' ', '*']).filter(|part| !part.is_empty()).map(factor).product()
}

#[test]
fn the_example_repository_is_what_the_library_makes() {
    let blocks = document();
    let dir = tempfile::tempdir().unwrap();
    let repo = example_repository(dir.path(), &blocks);
    let report = check::check(&repo, &CheckOptions::everything(NonZero::<usize>::MIN), &session()).unwrap();
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
        ["xxd", "-p", path] => hex_lines(&fs::read(root.join(path)).unwrap(), 30),
        ["tail", "-c", count, path] => last_bytes(&fs::read(root.join(path)).unwrap(), count),
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
            stage => match stage.split(' ').collect::<Vec<_>>()[..] {
                ["head", "-c", count] => data[..count.parse().unwrap()].to_vec(),
                ["tail", "-c", count] => last_bytes(&data, count),
                ["zstd", "-dc"] => codec::decompress(&data, 1 << 20).unwrap(),
                ["xxd", "-p", "-c", columns] => hex_lines(&data, columns.parse().unwrap()),
                ["od", "-An", "-v", "-tu4", columns] => {
                    let columns: usize = columns.strip_prefix("-w").unwrap().parse().unwrap();
                    let lines = data.chunks(columns).map(|line| {
                        let numbers = line.as_chunks::<4>().0.iter();
                        let numbers = numbers.map(|number| format!(" {:>10}", u32::from_le_bytes(*number)));
                        numbers.collect::<String>() + "\n"
                    });
                    lines.collect::<String>().into_bytes()
                }
                _ => panic!("a command that this test does not know: {command}"),
            },
        };
    }
    String::from_utf8(data).unwrap()
}

/// What `tail -c` prints: so many bytes at the end, or, with a plus, all from the one of this number.
fn last_bytes(data: &[u8], count: &str) -> Vec<u8> {
    let number = |count: &str| count.parse::<usize>().unwrap();
    let from = count.strip_prefix('+').map_or_else(|| data.len() - number(count), |first| number(first) - 1);
    data[from..].to_vec()
}

/// What `xxd -p` prints.
fn hex_lines(data: &[u8], columns: usize) -> Vec<u8> {
    data.chunks(columns).map(|line| format!("{}\n", hex::encode(line))).collect::<String>().into_bytes()
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
fn the_packed_examples_are_what_the_library_makes() {
    let dir = tempfile::tempdir().unwrap();
    let (backend, _) = take_example(dir.path(), WriterOptions { loose_limit: 0, ..WriterOptions::default() });
    let repo = SharedRepository::open(backend, &session()).unwrap();
    let report = check::check(&repo, &CheckOptions::everything(NonZero::<usize>::MIN), &session()).unwrap();
    assert!(report.is_clean() && report.packs == 2, "{report:?}");
    let root = repo.backend().local_root().unwrap().to_path_buf();
    // What the check has left is no part of the example.
    fs::remove_file(root.join(layout::VERIFIED)).unwrap();
    let mut made = packed_examples(&repo);
    repo.into_exclusive(&session()).unwrap().rebuild_index(&session()).unwrap();
    made.push(("text packed-cache-example", cache_example(&fs::read(root.join(layout::INDEX)).unwrap())));
    fs::remove_file(root.join(layout::INDEX)).unwrap();
    let document = text("docs/format.md");
    let mut blessed = document.clone();
    for (name, body) in &made {
        let begin = blessed.find(&format!("```{name}\n")).unwrap_or_else(|| panic!("no block {name}"));
        let begin = begin + "```\n".len() + name.len();
        let end = begin + blessed[begin..].find("```\n").unwrap();
        blessed.replace_range(begin..end, body);
    }
    if std::env::var_os("BACKUPTOOL_BLESS").is_some() {
        fs::write(package("docs/format.md"), &blessed).unwrap();
    } else if blessed != document {
        let differing = made.iter().find(|(name, body)| example(&blocks(&document), name) != body);
        let (name, body) = differing.expect("a block differs");
        panic!(
            "docs/format.md: the block {name} is not what the library makes (`BACKUPTOOL_BLESS=1 cargo test packed_examples` \
             writes it), which is\n{body}"
        );
    }
    let packed = made.iter().filter(|(name, _)| name.starts_with("console"));
    let mut commands = 0;
    for (name, body) in packed {
        for (command, shown) in commands_of(&Block { info: (*name).into(), body: body.clone(), line: 0 }) {
            if let Some(real) = run(&root, &command) {
                assert_eq!(real, shown, "{name}, run by a shell: {command}");
            }
            commands += 1;
        }
    }
    assert!(commands >= 5, "{commands} commands");
}

/// The blocks of the document about packs, by name.
fn packed_examples(repo: &SharedRepository) -> Vec<(&'static str, String)> {
    let root = repo.backend().local_root().unwrap();
    let console = |commands: &[String]| {
        let shown = commands.iter().map(|command| format!("$ {command}\n{}", interpret(root, command)));
        shown.collect::<String>()
    };
    let packs = repo.packs().unwrap();
    let slot = packs.list().iter().position(|(name, _)| name.kind == PackKind::Trees).unwrap();
    let pack = packs.file(u32::try_from(slot).unwrap()).unwrap();
    let path = pack.name().path();
    let index = pack.index().unwrap();
    let (members, frames) = (index.members.len(), index.frames.len());
    assert_eq!(frames, 2, "one frame and the end of the archive");

    // The object that is read by hand: an empty directory.
    let wanted = Blake3.hash(b"{\"tree\":1}\n");
    let at = index.members.iter().position(|member| member.id == wanted).unwrap();
    let before: usize = index.members[..at].iter().map(|member| member_length(member.length)).sum();
    let read = [
        format!("tail -c 16 {path} | head -c 8 | od -An -v -tu4 -w8"),
        format!("tail -c {} {path} | head -c {} | od -An -v -tu4 -w8", 48 + 8 * frames, 8 * frames),
        format!("tail -c {} {path} | head -c {} | xxd -p -c 36", 48 + 8 * frames + 36 * members, 36 * members),
        format!(
            "tail -c +1 {path} | head -c {} | zstd -dc | tail -c +{} | head -c {}",
            index.frames[0].length,
            before + 512 + 1,
            index.members[at].length
        ),
    ];
    let end = pack.frame_bytes(1).unwrap();
    let blobs = packs.list().iter().position(|(name, _)| name.kind == PackKind::Blobs).unwrap();
    let blobs = packs.file(u32::try_from(blobs).unwrap()).unwrap();
    assert_eq!(blobs.frame_bytes(blobs.frames() - 1).unwrap(), end);
    let first = index.members[0];
    vec![
        ("console packed-files", console(&["find . -type f | sort".into()])),
        ("text packed-header-example", header_example(&member_header(first.id, first.length))),
        ("text packed-end-example", format!("{}\n", hex::encode(end))),
        ("text packed-index-example", index_example(&pack)),
        ("console packed-read", console(&read)),
    ]
}

/// The fields of a tar header.
fn header_example(header: &[u8]) -> String {
    let fields = [
        ("name", 100),
        ("mode", 8),
        ("uid", 8),
        ("gid", 8),
        ("size", 12),
        ("mtime", 12),
        ("chksum", 8),
        ("typeflag", 1),
        ("linkname", 100),
        ("magic", 6),
        ("version", 2),
        ("uname", 32),
        ("gname", 32),
        ("devmajor", 8),
        ("devminor", 8),
        ("prefix", 155),
        ("unused", 12),
    ];
    let mut shown = "offset  bytes  field     content\n".to_string();
    let mut offset = 0;
    for (field, length) in fields {
        let bytes = &header[offset..offset + length];
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let mut content = String::from_utf8(bytes[..used].to_vec()).unwrap().replace('\0', "\\0");
        match length - used {
            0 => {}
            nuls @ 1..=2 => content.push_str(&"\\0".repeat(nuls)),
            nuls => content = format!("{content} and {nuls} times \\0").trim_start_matches(" and ").into(),
        }
        // The spaces within are what is meant; one at the end is shown.
        let content = content.strip_suffix(' ').map_or(content.clone(), |start| format!("{start} and a space"));
        shown.push_str(&format!("{offset:>6}  {length:>5}  {field:<8}  {content}\n"));
        offset += length;
    }
    assert_eq!(offset, header.len());
    shown
}

/// Bytes, shown a line at a time.
struct Shown<'b> {
    rest: &'b [u8],
    text: String,
    width: usize,
}

impl Shown<'_> {
    /// Shows the next fields, of these lengths, and what they are.
    fn line(&mut self, lengths: &[usize], meaning: &str) {
        let mut parts = Vec::new();
        for length in lengths {
            let (part, after) = self.rest.split_at(*length);
            parts.push(hex::encode(part));
            self.rest = after;
        }
        self.text.push_str(&format!("{:<1$}{meaning}\n", parts.join(" "), self.width));
    }

    fn end(self) -> String {
        assert!(self.rest.is_empty());
        self.text
    }
}

/// The bytes of `cache/index` with what each is, by what the document says of it.
fn cache_example(bytes: &[u8]) -> String {
    let number = |from_end: usize| {
        let at = bytes.len() - from_end;
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    };
    let (entries, packs, bits) = (number(20), number(16), number(12));
    let checked = &bytes[16 * entries as usize..];
    let (tables, footer) = checked.split_at(checked.len() - 52);
    assert_eq!(Blake3.hash(&[tables, &footer[32..]].concat()).as_bytes()[..], footer[..32]);
    let mut shown = Shown { rest: bytes, text: String::new(), width: 84 };
    for entry in bytes.chunks(16).take(entries as usize) {
        let [pack, position] = [8, 12].map(|at| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap()));
        shown.line(&[8, 4, 4], &format!("pack {pack}, object {position}"));
    }
    for _ in 0..packs {
        let [objects, kind] = [32, 36].map(|at| u32::from_le_bytes(shown.rest[at..at + 4].try_into().unwrap()));
        let kind = PackKind::ALL[kind as usize].name();
        shown.line(&[32, 4, 4], &format!("{objects} objects, {kind}"));
    }
    for _ in 0..1 << bits {
        shown.line(&[4], "the fan-out table");
    }
    shown.line(&[32], "the checksum");
    shown.line(&[4], &format!("{entries} entries"));
    shown.line(&[4], &format!("{packs} packs"));
    shown.line(&[4], &format!("{bits} bits"));
    shown.line(&[8], "packsidx");
    shown.end()
}

/// The bytes of a pack's index with what each is.
fn index_example(pack: &PackFile) -> String {
    let index = pack.index().unwrap();
    let bytes = pack.index_bytes().unwrap();
    let mut shown = Shown { rest: &bytes, text: String::new(), width: 75 };
    shown.line(&[4], "the magic number");
    let follow = 36 * index.members.len() + 8 * index.frames.len() + 48;
    shown.line(&[4], &format!("{follow} bytes follow"));
    for member in &index.members {
        shown.line(&[32, 4], &format!("an object of {} bytes", member.length));
    }
    for frame in &index.frames {
        shown.line(&[4, 4], &format!("a frame: {} bytes, {} objects", frame.length, frame.objects));
    }
    shown.line(&[32], "the checksum");
    shown.line(&[4], &format!("{} frames", index.frames.len()));
    shown.line(&[4], &format!("{} objects", index.members.len()));
    shown.line(&[8], "packidx1");
    shown.end()
}

#[test]
fn every_file_of_a_repository_is_described() {
    let document = text("docs/format.md");
    let files = [
        layout::README,
        layout::CONFIG,
        layout::LOCK,
        layout::RUN_INFO,
        layout::INDEX,
        layout::DAMAGED,
        layout::VERIFIED,
    ];
    for name in layout::DIRS.into_iter().chain(files) {
        assert!(document.contains(&format!("`{name}")) || document.contains(&format!("/{name}`")), "{name}");
    }
    assert!(package("docs/format.md").is_file());
}
