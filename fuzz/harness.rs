//! What is fuzzed: everything that reads bytes which may have been changed on the disk, or made to do harm. Used by the
//! targets beside this file, under libFuzzer, and by `tests/it/fuzz.rs`, under proptest.
//!
//! A target takes any bytes. It must not panic, nor take more memory than it may. What it accepts can be encoded again:
//! to the same bytes where the encoding is canonical, else to bytes that mean the same.

use std::sync::Arc;

use backuptool::object::{Config, HashAlgorithm, Snapshot, Tree, decode_list, encode_list};
use backuptool::store::index::IndexFile;
use backuptool::store::loose::ReadRules;
use backuptool::store::pack::{PackFile, PackKind, PackName};
use backuptool::store::packs::Packs;
use backuptool::store::{Backend, MemoryBackend, layout};

/// A target: its name, and what it does with any bytes. Returns whether they were accepted.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All targets.
pub const TARGETS: [Target; 6] = [
    ("tree", tree),
    ("chunk_list", chunk_list),
    ("config", config),
    ("snapshot_ref", snapshot_ref),
    ("pack_index", pack_index),
    ("pack", pack),
];

const HASH: HashAlgorithm = HashAlgorithm::Blake3;
const RULES: ReadRules = ReadRules { hash: HASH, max_object: 512 << 10 };

/// A directory.
pub fn tree(bytes: &[u8]) -> bool {
    Tree::decode(bytes).is_ok()
}

/// A piece of a chunk list.
pub fn chunk_list(bytes: &[u8]) -> bool {
    let Ok(list) = decode_list(bytes) else { return false };
    assert_eq!(encode_list(&list), bytes);
    true
}

/// A configuration; what would have the right checksum as well.
pub fn config(bytes: &[u8]) -> bool {
    let accepted = |bytes: &[u8]| {
        let Ok(config) = Config::decode(bytes) else { return false };
        let encoded = config.encode();
        assert!(Config::decode(&encoded).is_ok_and(|again| again.encode() == encoded));
        true
    };
    accepted(bytes) | accepted(&sealed(bytes))
}

/// The ref of a snapshot; what would have the right checksum as well.
pub fn snapshot_ref(bytes: &[u8]) -> bool {
    let accepted = |bytes: &[u8]| {
        let Ok(snapshot) = Snapshot::decode(HASH, bytes) else { return false };
        let encoded = snapshot.encode(HASH);
        assert!(Snapshot::decode(HASH, &encoded).is_ok_and(|again| again.encode(HASH) == encoded));
        true
    };
    accepted(bytes) | accepted(&sealed(bytes))
}

/// Documents end with their checksum, which no fuzzer finds: this puts in the right one.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let is_sum = |line: &&[u8]| line.windows(10).any(|part| part == b"\"checksum\"");
    let covered = lines.filter(|line| !is_sum(line)).collect::<Vec<_>>().concat();
    let sum = format!("  \"checksum\": \"{}\"\n}}\n", HASH.hash(&covered));
    [covered.strip_suffix(b"}\n").unwrap_or(&covered), sum.as_bytes()].concat()
}

/// A repository with one file.
fn stored(path: &str, bytes: &[u8]) -> Arc<MemoryBackend> {
    let memory = MemoryBackend::new();
    for dir in layout::DIRS {
        memory.create_dir(dir).unwrap();
    }
    memory.set_contents(path, bytes.to_vec()).unwrap();
    Arc::new(memory)
}

/// The index of all packs.
pub fn pack_index(bytes: &[u8]) -> bool {
    let memory = stored(layout::INDEX, bytes);
    let Some(index) = IndexFile::open(&*memory, HASH) else { return false };
    for entry in index.entries().take(10_000).flatten() {
        // What it lists, it finds; or it is found to be wrong.
        let mut found = false;
        let asked = index.find(entry.prefix, |candidate| found |= candidate == entry);
        assert!(found || asked.is_err() || index.entries().any(|entry| entry.is_err()) || !is_sorted(&index));
    }
    true
}

fn is_sorted(index: &IndexFile) -> bool {
    index.entries().map_while(Result::ok).map(|entry| entry.prefix).is_sorted()
}

/// A pack: opened, verified, and every object that its index names asked for.
pub fn pack(bytes: &[u8]) -> bool {
    let name = PackName { hash: HASH.hash(bytes), kind: PackKind::Blobs };
    let memory = stored(&name.path(), bytes);
    let Ok(pack) = PackFile::open(&*memory, RULES, name) else { return false };
    assert!(pack.verify(|_, _| Ok(())).is_ok_and(|verified| verified));
    let mut all_read = true;
    for frame in 0..pack.frames() {
        match pack.decode(frame, Vec::new()) {
            Ok(decoded) => {
                decoded.is_well_formed();
                all_read &= (0..decoded.members().len()).all(|at| decoded.verify(at, HASH));
            }
            Err(_) => all_read = false,
        }
    }
    let packs = Packs::open(memory, RULES).unwrap();
    if let Ok(index) = pack.index() {
        for member in index.members.iter().take(1000) {
            for location in packs.find(member.id).unwrap() {
                let found = packs.frame(location, member.id);
                assert!(!all_read || found.is_ok_and(|found| found.is_some()));
            }
        }
    }
    all_read
}
