//! Packs and the index of all packs, damaged in every way: what each operation says and does then. Never a wrong
//! content, never a panic, never a good copy lost; what is not damaged restores.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backuptool::object::{ChunkSizes, Content, EntryKind, HashAlgorithm, ObjectId, Tree, TreeId};
use backuptool::repo::{self, InitOptions, Repository, WriterOptions};
use backuptool::store::index::{self, IndexEntry};
use backuptool::store::loose::ReadRules;
use backuptool::store::pack::{
    DecodedFrame, FrameEntry, Member, PackFile, PackIndex, PackKind, PackName, member_header,
};
use backuptool::store::{Backend, Crash, MemoryBackend, codec, layout, loose};
use backuptool::{Error, Result};

use crate::support::cli::have;
use crate::support::fault::FaultBackend;
use crate::support::model::{Model, Source, noise};
use crate::support::repos::{
    LOOSE, PACKED, check, open, pack_with, packs, prune_with, restored, save_index, session, staging, take_with,
};

/// A file of a snapshot and all that it takes to restore it.
struct Want {
    content: Vec<u8>,
    needs: BTreeSet<ObjectId>,
}

/// A repository with packs and loose objects, and what its snapshots hold.
struct Bed {
    memory: MemoryBackend,
    hash: HashAlgorithm,
    sources: Vec<Source>,
    /// By snapshot and path.
    wants: BTreeMap<u64, BTreeMap<String, Want>>,
    trees: BTreeSet<ObjectId>,
}

impl Bed {
    fn new(hash: HashAlgorithm, snapshots: Vec<(Model, WriterOptions)>) -> Self {
        let memory = MemoryBackend::new();
        let options = InitOptions { hash, ..InitOptions::default() };
        repo::init(Arc::new(memory.clone()), &options, &session()).unwrap();
        let mut bed = Self { memory, hash, sources: Vec::new(), wants: BTreeMap::new(), trees: BTreeSet::new() };
        for (model, writing) in snapshots {
            let source = Source::new(model);
            let number = take_with(bed.memory.clone(), source.path(), writing).unwrap().snapshot.number;
            bed.sources.push(source);
            let repo = open(bed.memory.clone()).unwrap();
            let mut wants = BTreeMap::new();
            bed.note(&repo, repo.snapshot(number).unwrap().tree, "", &BTreeSet::new(), &mut wants);
            bed.wants.insert(number, wants);
        }
        bed
    }

    /// A pack of blobs with two frames, three packs besides, and loose objects. The frames are smaller than this
    /// program makes them, which no reader may mind.
    fn framed(hash: HashAlgorithm) -> Self {
        let first = (0..20).fold(Model::default(), |model, number| {
            model.file(&format!("file{number:02}"), noise(number, 64).repeat(20))
        });
        let first = first.file("chunked", noise(70, 150_000)).file("dir/small", *b"small").file("dir/empty", *b"");
        let second = first.clone().file("dir/new", noise(80, 500)).file("other/new", *b"new");
        let third = second.clone().file("loose", noise(90, 200)).file("dir/loose", *b"loose");
        let bed = Self::new(hash, vec![(first, PACKED), (second, PACKED), (third, LOOSE)]);
        let blobs = bed.packs().into_iter().filter(|name| name.kind == PackKind::Blobs);
        let name = blobs.max_by_key(|name| bed.objects_of(*name).len()).unwrap();
        let pack = bed.pack(name).0;
        let mut objects: Vec<_> = (0..pack.frames()).flat_map(|frame| contents(&decoded(&pack, frame))).collect();
        // A lie of one byte about the first one is to stay within its padding.
        objects.sort_by_key(|(_, content)| content.len() % 512 == 0);
        let (one, another) = objects.split_at(objects.len() / 2);
        bed.memory.remove(&name.path()).unwrap();
        put_pack(&bed.memory, &bed, name, pack_of(&bed, &[one, another]));
        bed
    }

    /// As few bytes as possible.
    fn tiny(hash: HashAlgorithm) -> Self {
        let first = Model::default().file("a", *b"one").file("b", noise(1, 30)).file("x", *b"ten");
        let second = first.clone().without("b").file("c", *b"three");
        let third = second.clone().file("l", *b"loose");
        Self::new(hash, vec![(first, PACKED), (second, PACKED), (third, LOOSE)])
    }

    fn note(
        &mut self,
        repo: &Repository,
        tree: TreeId,
        at: &str,
        above: &BTreeSet<ObjectId>,
        wants: &mut BTreeMap<String, Want>,
    ) {
        self.trees.insert(tree.object());
        let above: BTreeSet<ObjectId> = above.iter().copied().chain([tree.object()]).collect();
        let Tree::Entries(entries) = repo.read_tree(tree).unwrap() else { panic!("{tree:?} is in pieces") };
        for entry in entries {
            let path = format!("{at}{}", String::from_utf8_lossy(entry.name.as_bytes()));
            match entry.kind {
                EntryKind::Dir { tree, .. } => self.note(repo, tree, &(path + "/"), &above, wants),
                EntryKind::File { size, content } => {
                    let mut needs = above.clone();
                    match content {
                        Content::Blob(blob) => {
                            needs.insert(blob.object());
                        }
                        Content::Chunks { list, depth } => {
                            assert_eq!(depth, 1);
                            self.trees.insert(list.object());
                            needs.insert(list.object());
                            needs.extend(repo.read_list(list).unwrap().into_iter().map(|chunk| chunk.id));
                        }
                    }
                    wants.insert(path, Want { content: read_file(repo, content, size).unwrap(), needs });
                }
                EntryKind::Symlink { .. } => {}
            }
        }
    }

    /// The same, apart.
    fn copy(&self) -> MemoryBackend {
        self.memory.crash(Crash::KeepAll)
    }

    fn rules(&self) -> ReadRules {
        open(self.memory.clone()).unwrap().rules()
    }

    fn packs(&self) -> BTreeSet<PackName> {
        packs(&self.memory)
    }

    fn bytes(&self, pack: PackName) -> Vec<u8> {
        self.memory.contents(&pack.path()).unwrap()
    }

    fn pack(&self, pack: PackName) -> (PackFile, PackIndex) {
        let file = PackFile::open(&self.memory, self.rules(), pack).unwrap();
        let index = file.index().unwrap();
        (file, index)
    }

    fn objects_of(&self, pack: PackName) -> BTreeSet<ObjectId> {
        self.pack(pack).1.members.into_iter().map(|member| member.id).collect()
    }

    /// What an index of all packs says: the packs by name, and all entries in order.
    fn entries(&self) -> (Vec<(PackName, u32)>, Vec<IndexEntry>) {
        let mut packs = open(self.memory.clone()).unwrap().packs().unwrap().list();
        packs.sort_unstable();
        let mut entries = Vec::new();
        for (number, (name, _)) in (0..).zip(&packs) {
            let entry = |(position, member): (u32, &Member)| IndexEntry {
                prefix: index::prefix(member.id),
                pack: number,
                position,
            };
            entries.extend((0..).zip(&self.pack(*name).1.members).map(entry));
        }
        entries.sort_unstable();
        (packs, entries)
    }

    /// With `cache/index`.
    fn indexed(memory: MemoryBackend) -> MemoryBackend {
        save_index(&memory);
        assert!(memory.contents(layout::INDEX).is_some());
        memory
    }

    /// Every file restores but those that need what is lost; and nothing restores wrongly. The errors say `says`.
    fn assert_restores(&self, case: &str, memory: &MemoryBackend, lost: &BTreeSet<ObjectId>, says: Option<&str>) {
        self.assert_some_restore(case, memory, self.wants.keys().copied(), lost, says);
    }

    fn assert_some_restore(
        &self,
        case: &str,
        memory: &MemoryBackend,
        numbers: impl Iterator<Item = u64>,
        lost: &BTreeSet<ObjectId>,
        says: Option<&str>,
    ) {
        let repo = open(memory.clone()).unwrap();
        for number in numbers {
            let found = read(&repo, number);
            for (path, want) in &self.wants[&number] {
                let is_lost = !want.needs.is_disjoint(lost);
                match found.get(path) {
                    Some(Ok(content)) => {
                        assert!(*content == want.content, "{case}: {path} of {number} is wrong");
                        assert!(!is_lost, "{case}: {path} of {number} cannot be whole");
                    }
                    Some(Err(error)) => assert!(is_lost, "{case}: {path} of {number}: {error}"),
                    // Below a directory that cannot be read.
                    None => assert!(is_lost, "{case}: {path} of {number} is not there"),
                }
            }
            for (path, result) in found {
                let Err(error) = result else { continue };
                let text = error.to_string();
                assert!(lost.iter().any(|id| text.contains(&id.to_hex())), "{case}: {path}: {text}");
                assert!(says.is_none_or(|says| text.contains(says)), "{case}: {path}: {text} does not say {says:?}");
            }
        }
    }

    /// Whatever restores is right.
    fn assert_honest(&self, case: &str, memory: &MemoryBackend) {
        let repo = open(memory.clone()).unwrap();
        for (number, wants) in &self.wants {
            for (path, result) in read(&repo, *number) {
                if let Ok(content) = result {
                    assert!(content == wants[&path].content, "{case}: {path} of {number} is wrong");
                }
            }
        }
    }

    /// Whether one of these snapshots needs anything in the pack.
    fn is_needed(&self, pack: PackName, mut numbers: impl Iterator<Item = u64>) -> bool {
        let objects = self.objects_of(pack);
        numbers.any(|number| self.wants[&number].values().any(|want| !want.needs.is_disjoint(&objects)))
    }

    /// The snapshots that can be restored wholly without these objects.
    fn whole_without(&self, lost: &BTreeSet<ObjectId>) -> Vec<u64> {
        let is_whole = |wants: &BTreeMap<String, Want>| wants.values().all(|want| want.needs.is_disjoint(lost));
        self.wants.iter().filter(|(_, wants)| is_whole(wants)).map(|(number, _)| *number).collect()
    }
}

fn decoded(file: &PackFile, frame: usize) -> DecodedFrame {
    let (bytes, members) = (file.frame_bytes(frame).unwrap(), file.frame_members(frame).unwrap());
    file.decode_bytes(frame, &bytes, members).unwrap()
}

/// The objects of a frame.
fn contents(frame: &DecodedFrame) -> Vec<(ObjectId, Vec<u8>)> {
    (0..).zip(frame.members()).map(|(at, member)| (member.id, frame.content(at).to_vec())).collect()
}

fn read_file(repo: &Repository, content: Content, size: u64) -> Result<Vec<u8>> {
    match content {
        Content::Blob(blob) => Ok(repo.read_blob(blob, size)?.to_vec()),
        Content::Chunks { list, depth } => {
            let mut bytes = Vec::new();
            for chunk in repo.chunks(list, depth, size) {
                let chunk = chunk?;
                bytes.extend_from_slice(&repo.read_blob(chunk.blob, chunk.length)?);
            }
            Ok(bytes)
        }
    }
}

/// What each file of a snapshot holds, or why it cannot be read; for a directory that cannot be read, that.
fn read(repo: &Repository, number: u64) -> BTreeMap<String, Result<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![(repo.snapshot(number).unwrap().tree, String::new())];
    while let Some((tree, at)) = pending.pop() {
        for entry in repo.entries(tree) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    found.insert(at, Err(error));
                    break;
                }
            };
            let path = format!("{at}{}", String::from_utf8_lossy(entry.name.as_bytes()));
            match entry.kind {
                EntryKind::Dir { tree, .. } => pending.push((tree, path + "/")),
                EntryKind::File { size, content } => {
                    found.insert(path, read_file(repo, content, size));
                }
                EntryKind::Symlink { .. } => {}
            }
        }
    }
    found
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bad = bytes.to_vec();
    bad[bit / 8] ^= 1 << (bit % 8);
    bad
}

/// What damage to a pack does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hits {
    /// A frame: the objects in it are lost.
    Frame(usize),
    /// What says where everything stands: all objects are lost, at the latest without `cache/index`.
    Everything,
    /// The same, and nothing says what was there.
    Name,
    /// Nothing that an object needs.
    Nothing,
}

impl Hits {
    fn all(self) -> bool {
        matches!(self, Self::Everything | Self::Name)
    }
}

/// Every kind of damage to the bytes of a pack.
fn damages(bed: &Bed, name: PackName) -> Vec<(String, Vec<u8>, Hits)> {
    let good = bed.bytes(name);
    let (file, index) = bed.pack(name);
    let mut damages = Vec::new();
    let mut start = 0;
    for (number, frame) in index.frames.iter().enumerate() {
        let length = frame.length as usize;
        // The last frame ends the archive and has no object.
        let hits = if frame.objects == 0 { Hits::Nothing } else { Hits::Frame(number) };
        for (at, bit) in [(0, 0), (length / 3, 3), (length / 2, 6), (length - 1, 7)] {
            let bad = flipped(&good, (start + at) * 8 + bit);
            let decoded = codec::decompress(&bad[start..start + length], 16 << 20);
            let is_harmless = decoded == codec::decompress(&good[start..start + length], 16 << 20);
            let hits = if is_harmless { Hits::Nothing } else { hits };
            damages.push((format!("byte {at} of frame {number}"), bad, hits));
        }
        damages.push((format!("cut in frame {number}"), good[..start + length / 2].to_vec(), Hits::Everything));
        damages.push((format!("cut after frame {number}"), good[..start + length].to_vec(), Hits::Everything));
        start += length;
    }
    assert_eq!(file.frames(), index.frames.len());
    let (members, frames) = (start + 8, start + 8 + index.members.len() * 36);
    let footer = good.len() - 48;
    for (what, at) in [
        ("the magic number of the index", start + 1),
        ("the length of the index", start + 4),
        ("the first object's name", members + 3),
        ("the last object's name", frames - 10),
        ("an object's length", members + 32),
        ("an object's length, high", members + 35),
        ("a frame's length", frames),
        ("a frame's length, high", frames + 3),
        ("a frame's objects", frames + 4),
        ("the checksum", footer + 9),
        ("how many frames", footer + 32),
        ("how many frames, high", footer + 35),
        ("how many objects", footer + 36),
        ("how many objects, high", footer + 39),
        ("the end", footer + 40),
        ("the last byte", good.len() - 1),
    ] {
        damages.push((what.into(), flipped(&good, at * 8 + 2), Hits::Everything));
    }
    for length in
        [0, 1, 7, 40, 47, 48, 49, 56, members + 20, frames + 4, footer, footer + 1, good.len() - 8, good.len() - 1]
    {
        damages.push((format!("cut to {length}"), good[..length].to_vec(), Hits::Everything));
    }
    damages.push(("longer".into(), [&good, &b"x"[..]].concat(), Hits::Everything));
    damages.push(("zeros".into(), vec![0; good.len()], Hits::Everything));
    let other = bed.packs().into_iter().find(|other| other.kind == name.kind && *other != name).unwrap();
    damages.push(("another pack".into(), bed.bytes(other), Hits::Name));
    damages
}

fn lost_by(bed: &Bed, name: PackName, hits: Hits) -> BTreeSet<ObjectId> {
    match hits {
        Hits::Nothing => BTreeSet::new(),
        Hits::Everything | Hits::Name => bed.objects_of(name),
        Hits::Frame(number) => {
            let members = bed.pack(name).0.frame_members(number).unwrap();
            members.into_iter().map(|member| member.id).collect()
        }
    }
}

/// Every kind of damage to every pack, and every operation on it.
fn damage_everywhere(bed: &Bed, step: usize) -> usize {
    let names = bed.packs();
    assert_eq!(names.len(), 4);
    assert!(!loose::list(&bed.memory).unwrap().objects.is_empty());
    let mut cases = 0;
    for name in names {
        for (what, bad, hits) in damages(bed, name).into_iter().step_by(step) {
            let lost = lost_by(bed, name, hits);
            for cached in [false, true] {
                let case = format!("{what} of {name}, {hits:?}, index: {cached}");
                let memory = bed.copy();
                let memory = if cached { Bed::indexed(memory) } else { memory };
                memory.set_contents(&name.path(), bad.clone()).unwrap();
                assert_damage(bed, &case, &memory, name, &lost, hits, cached);
                cases += 1;
            }
        }
    }
    cases
}

fn assert_damage(
    bed: &Bed,
    case: &str,
    memory: &MemoryBackend,
    name: PackName,
    lost: &BTreeSet<ObjectId>,
    hits: Hits,
    cached: bool,
) {
    let apart = || memory.crash(Crash::KeepAll);
    let pack = name.hash.to_hex();
    let says = (hits != Hits::Name).then_some(&*pack);
    if cached && hits.all() {
        // How much of it can still be read is no one's concern.
        bed.assert_honest(case, memory);
    } else {
        bed.assert_restores(case, memory, lost, says);
    }

    let report = check(memory.clone()).unwrap();
    assert!(!report.is_clean(), "{case}");
    let named: Vec<_> = report.damaged_packs.iter().map(|(name, _)| *name).collect();
    assert_eq!(named, [name], "{case}: {:?}", report.damaged_packs);
    assert!(report.damaged_packs[0].1.contains(&pack), "{case}: {:?}", report.damaged_packs);
    let damaged: BTreeSet<_> = report.damaged.keys().copied().collect();
    if hits.all() {
        // Of what is below a tree that is gone nothing is known.
        assert!(damaged.is_subset(lost) && !damaged.is_empty(), "{case}: {damaged:?}");
    } else {
        assert_eq!(damaged, *lost, "{case}");
    }
    let named: BTreeSet<u64> =
        report.damaged.values().flat_map(|damage| damage.files.values()).flatten().copied().collect();
    assert!(named.iter().all(|number| !report.whole.contains(number)), "{case}: {:?}", report.damaged);
    assert_eq!(named.len() + report.whole.len(), bed.wants.len(), "{case}: {:?}", report.damaged);
    assert_eq!(report.whole, bed.whole_without(lost), "{case}");

    // Nothing is copied from it, nothing that restores is lost, and nothing of it is removed.
    let rotten = memory.contents(&name.path());
    for removed in [&[][..], &[3], &[1]] {
        let pruned = apart();
        let stay = || bed.wants.keys().copied().filter(|number| !removed.contains(number));
        let case = format!("{case}, prune {removed:?}");
        match prune_with(pruned.clone(), removed, PACKED) {
            Ok(report) => {
                let missing: BTreeSet<_> = report.missing.iter().copied().collect();
                assert!(missing.is_subset(lost), "{case}: {missing:?}");
            }
            Err(error) => {
                assert!(!lost.is_disjoint(&bed.trees), "{case}: {error}");
                assert!(error.to_string().contains("nothing was removed"), "{case}: {error}");
                assert_eq!(packs(&pruned), bed.packs(), "{case}");
            }
        }
        // A pack whose index can be read, and in which nothing is needed any more, goes however rotten it is.
        let may_go = hits == Hits::Name || (!hits.all() && !bed.is_needed(name, stay()));
        assert!(pruned.contents(&name.path()) == rotten || may_go, "{case}");
        if !hits.all() {
            bed.assert_some_restore(&case, &pruned, stay(), lost, says);
        }
        let _ = pruned.remove(layout::INDEX);
        bed.assert_some_restore(&case, &pruned, stay(), lost, says);
    }
    let packed = apart();
    let report = pack_with(packed.clone(), PACKED).unwrap();
    if !hits.all() {
        assert_eq!(report.damaged, [name.path()], "{case}: {report:?}");
    }
    assert!(packed.contents(&name.path()) == rotten || hits == Hits::Name, "{case}");
    bed.assert_restores(&format!("{case}, pack"), &packed, lost, says);

    // What the check has recorded is stored again, once.
    let again = apart();
    let mut replaced = 0;
    for source in &bed.sources {
        replaced += take_with(again.clone(), source.path(), PACKED).unwrap().replaced;
    }
    if !hits.all() {
        assert_eq!(replaced, lost.len() as u64, "{case}");
    }
    for source in &bed.sources {
        let report = take_with(again.clone(), source.path(), PACKED).unwrap();
        assert_eq!((report.replaced, report.snapshot.added.objects), (0, 0), "{case}, once more");
    }
    bed.assert_restores(&format!("{case}, stored again"), &again, &BTreeSet::new(), None);
    let _ = again.remove(layout::INDEX);
    bed.assert_restores(&format!("{case}, stored again, no index"), &again, &BTreeSet::new(), None);
    let report = check(again.clone()).unwrap();
    assert!(report.damaged.is_empty() && report.whole.len() == 9, "{case}: {report:?}");
    let report = prune_with(again.clone(), &[4], PACKED).unwrap();
    assert!(report.missing.is_empty(), "{case}: {report:?}");
    pack_with(again.clone(), PACKED).unwrap();
    bed.assert_restores(&format!("{case}, stored again and packed"), &again, &BTreeSet::new(), None);
    let report = check(again).unwrap();
    assert!(report.damaged.is_empty(), "{case}: {report:?}");
    // With one frame there is nothing left that is needed of it.
    if matches!(hits, Hits::Frame(_)) && bed.pack(name).0.frames() == 2 {
        assert!(report.is_clean(), "{case}: the rotten pack stays without need: {report:?}");
    }
}

#[test]
fn damage_of_any_pack_is_named_and_loses_no_more_than_it_must() {
    for hash in HashAlgorithm::ALL {
        let cases = damage_everywhere(&Bed::tiny(hash), 1);
        assert!(cases >= 300, "{cases}");
    }
}

#[test]
fn damage_of_one_frame_leaves_the_others() {
    let cases = damage_everywhere(&Bed::framed(HashAlgorithm::Blake3), 7);
    assert!(cases >= 40, "{cases}");
}

/// Of several things that are wrong with a pack the first is said, whichever thread has found it.
#[test]
fn what_is_said_of_a_pack_is_the_first_thing_that_is_wrong() {
    let bed = Bed::framed(HashAlgorithm::Blake3);
    let name = bed.packs().into_iter().find(|name| bed.pack(*name).1.frames.len() > 2).unwrap();
    let (good, frames) = (bed.bytes(name), bed.pack(name).1.frames);
    // In the first byte of a frame, without which it is none.
    let at = |frame: usize| 8 * frames[..frame].iter().map(|frame| frame.length as usize).sum::<usize>();
    let said = |bytes: Vec<u8>| {
        let memory = bed.copy();
        memory.set_contents(&name.path(), bytes).unwrap();
        let damaged = check(memory).unwrap().damaged_packs;
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        damaged[0].1.clone()
    };
    let first = said(flipped(&good, at(0)));
    let second = said(flipped(&good, at(1)));
    let both = said(flipped(&flipped(&good, at(0)), at(1)));
    assert!(first != second && both == first, "{first} / {second} / {both}");
}

#[test]
fn a_flipped_bit_in_a_pack_is_always_found_and_never_restored() {
    let bed = Bed::tiny(HashAlgorithm::Blake3);
    let mut cases = 0;
    for name in bed.packs() {
        let good = bed.bytes(name);
        for bit in (0..good.len() * 8).step_by(3) {
            let memory = bed.copy();
            memory.set_contents(&name.path(), flipped(&good, bit)).unwrap();
            let case = format!("bit {bit} of {name}");
            bed.assert_honest(&case, &memory);
            let report = check(memory.clone()).unwrap();
            assert_eq!(report.damaged_packs.len(), 1, "{case}: {report:?}");
            bed.assert_restores(&case, &memory, &report.damaged.into_keys().collect(), None);
            cases += 1;
        }
    }
    assert!(cases > 3500, "{cases}");
}

#[test]
fn a_pack_cut_at_any_length_is_found_and_never_restored() {
    let bed = Bed::tiny(HashAlgorithm::Blake3);
    for name in bed.packs() {
        let good = bed.bytes(name);
        let lost = bed.objects_of(name);
        for length in 0..good.len() {
            let memory = bed.copy();
            memory.set_contents(&name.path(), good[..length].to_vec()).unwrap();
            let case = format!("{name} cut to {length}");
            bed.assert_restores(&case, &memory, &lost, Some(&name.hash.to_hex()));
            assert_eq!(check(memory).unwrap().damaged_packs.len(), 1, "{case}");
        }
    }
}

/// Nothing is wrong with what is in it, but it is not what its name says.
#[test]
fn a_pack_with_another_name_is_read_and_never_copied_from() {
    let bed = Bed::framed(HashAlgorithm::Blake3);
    for name in bed.packs() {
        for cached in [false, true] {
            let memory = if cached { Bed::indexed(bed.copy()) } else { bed.copy() };
            let wrong = PackName { hash: bed.hash.hash(b"wrong"), ..name };
            memory.set_contents(&wrong.path(), bed.bytes(name)).unwrap();
            memory.remove(&name.path()).unwrap();
            let none = BTreeSet::new();
            bed.assert_restores("wrong name", &memory, &none, None);
            let report = check(memory.clone()).unwrap();
            assert_eq!(report.damaged_packs.iter().map(|(name, _)| *name).collect::<Vec<_>>(), [wrong]);
            assert!(report.damaged.is_empty() && report.whole == [1, 2, 3], "{report:?}");
            let report = pack_with(memory.clone(), PACKED).unwrap();
            assert_eq!(report.damaged, [wrong.path()]);
            prune_with(memory.clone(), &[], PACKED).unwrap();
            assert_eq!(memory.contents(&wrong.path()), Some(bed.bytes(name)));
            bed.assert_restores("wrong name, packed", &memory, &none, None);
        }
    }
}

/// Full frames are not compressed again; small ones are joined.
#[test]
fn packing_copies_a_full_frame_as_it_is() {
    let options = InitOptions { chunks: ChunkSizes::with_average(1 << 20).unwrap(), ..InitOptions::default() };
    let file = |number: u64| (format!("file{number}"), noise(number, 64).repeat(16 << 10));
    let model = |numbers: Range<u64>| {
        numbers.map(file).fold(Model::default(), |model, (name, content)| model.file(&name, content))
    };
    let memory = MemoryBackend::new();
    repo::init(Arc::new(memory.clone()), &options, &session()).unwrap();
    // Four of them fill a frame: in the first pack there are a full one and one of a single file.
    let sources = [model(0..5), model(0..6)].map(Source::new);
    let mut before = Vec::new();
    let frames = |memory: &MemoryBackend| {
        let rules = open(memory.clone()).unwrap().rules();
        let blobs = packs(memory).into_iter().filter(|name| name.kind == PackKind::Blobs);
        let read = |name| {
            let pack = PackFile::open(memory, rules, name).unwrap();
            (0..pack.frames() - 1).map(|frame| pack.frame_bytes(frame).unwrap()).collect::<Vec<_>>()
        };
        blobs.map(read).collect::<Vec<_>>()
    };
    for source in &sources {
        take_with(memory.clone(), source.path(), PACKED).unwrap();
        before.push(frames(&memory));
    }
    let full = before[0][0][0].clone();
    assert_eq!(before[0].iter().map(Vec::len).collect::<Vec<_>>(), [2]);
    assert_eq!(before[1].iter().map(Vec::len).sum::<usize>(), 3);
    let report = pack_with(memory.clone(), PACKED).unwrap();
    assert_eq!((report.folded, report.new), (4, 2));
    let after = frames(&memory);
    assert_eq!(after.iter().map(Vec::len).collect::<Vec<_>>(), [2]);
    assert!(after[0].contains(&full));
    for (number, source) in (1..).zip(&sources) {
        assert_eq!(restored(memory.clone(), number).unwrap().differences(&source.model), [""; 0]);
    }
    assert!(check(memory).unwrap().is_clean());
}

#[test]
fn a_pack_that_is_gone_is_missing() {
    let bed = Bed::framed(HashAlgorithm::Blake3);
    for name in bed.packs() {
        for cached in [false, true] {
            let memory = if cached { Bed::indexed(bed.copy()) } else { bed.copy() };
            memory.remove(&name.path()).unwrap();
            let lost = bed.objects_of(name);
            let case = format!("{name} is gone, index: {cached}");
            bed.assert_restores(&case, &memory, &lost, None);
            let report = check(memory.clone()).unwrap();
            let damaged: BTreeSet<_> = report.damaged.keys().copied().collect();
            assert!(damaged.is_subset(&lost) && !damaged.is_empty(), "{case}");
            assert!(report.damaged_packs.is_empty() && report.whole == bed.whole_without(&lost), "{case}");
            for source in &bed.sources {
                take_with(memory.clone(), source.path(), LOOSE).unwrap();
            }
            bed.assert_restores(&case, &memory, &BTreeSet::new(), None);
            assert!(check(memory).unwrap().is_clean(), "{case}");
        }
    }
}

// ---- several copies

/// The bytes of a pack with these frames and this index, whatever they are.
fn pack_bytes(hash: HashAlgorithm, frames: &[Vec<u8>], index: &PackIndex) -> Vec<u8> {
    [frames.concat(), index.encode(hash)].concat()
}

/// The frames of a pack as they stand in it.
fn frames_of(bed: &Bed, name: PackName) -> (Vec<Vec<u8>>, PackIndex) {
    let (file, index) = bed.pack(name);
    ((0..file.frames()).map(|frame| file.frame_bytes(frame).unwrap()).collect(), index)
}

/// Puts a pack under the name that its bytes give.
fn put_pack(memory: &MemoryBackend, bed: &Bed, like: PackName, bytes: Vec<u8>) -> PackName {
    let name = PackName { hash: bed.hash.hash(&bytes), kind: like.kind };
    memory.set_contents(&name.path(), bytes).unwrap();
    name
}

/// A pack with a frame for each of these groups of objects.
fn pack_of(bed: &Bed, groups: &[&[(ObjectId, Vec<u8>)]]) -> Vec<u8> {
    let (mut frames, mut index) = (Vec::new(), PackIndex::default());
    let mut add = |bytes: Vec<u8>, members: Vec<Member>| {
        let [length, objects] = [bytes.len(), members.len()].map(|count| u32::try_from(count).unwrap());
        index.frames.push(FrameEntry { length, objects });
        index.members.extend(members);
        frames.push(bytes);
    };
    for objects in groups {
        let (mut tar, mut members) = (Vec::new(), Vec::new());
        for (id, content) in *objects {
            let length = u32::try_from(content.len()).unwrap();
            tar.extend_from_slice(&member_header(*id, length));
            tar.extend_from_slice(content);
            tar.resize(tar.len().next_multiple_of(512), 0);
            members.push(Member { id: *id, length });
        }
        add(codec::compress(&tar).unwrap(), members);
    }
    add(codec::compress(&[0; 1024]).unwrap(), Vec::new());
    pack_bytes(bed.hash, &frames, &index)
}

#[test]
fn of_two_copies_the_good_one_is_read_and_stays_whichever_it_is() {
    let bed = Bed::framed(HashAlgorithm::Blake3);
    let none = BTreeSet::new();
    let strange: Vec<_> = (0..60).map(|n| noise(n + 7000, 20)).map(|bytes| (bed.hash.hash(&bytes), bytes)).collect();
    let mut cases = 0;
    for name in bed.packs() {
        let (file, index) = bed.pack(name);
        let mut start = 0;
        for (number, entry) in index.frames.iter().enumerate().filter(|(_, frame)| frame.objects > 0) {
            let frame = decoded(&file, number);
            let objects = contents(&frame);
            let middle = (start + entry.length as usize / 2) * 8;
            start += entry.length as usize;
            for other in ["loose", "a small pack", "a larger pack"] {
                for (rotten_is_other, cached) in [(false, false), (false, true), (true, false), (true, true)] {
                    let case = format!("frame {number} of {name} and {other}, {rotten_is_other}, index: {cached}");
                    let memory = bed.copy();
                    let second = if other == "loose" {
                        for (id, content) in &objects {
                            let frame = codec::compress(content).unwrap();
                            let frame = if rotten_is_other { flipped(&frame, frame.len() * 4) } else { frame };
                            memory.set_contents(&layout::object_path(*id), frame).unwrap();
                        }
                        None
                    } else {
                        let more = if other == "a small pack" { &strange[..1] } else { &strange };
                        let bytes = pack_of(&bed, &[&[&objects[..], more].concat()]);
                        Some(put_pack(&memory, &bed, name, bytes))
                    };
                    let memory = if cached { Bed::indexed(memory) } else { memory };
                    let rotten = match second {
                        Some(second) if rotten_is_other => {
                            let bytes = memory.contents(&second.path()).unwrap();
                            memory.set_contents(&second.path(), flipped(&bytes, 100 * 8)).unwrap();
                            Some(second)
                        }
                        None if rotten_is_other => None,
                        _ => {
                            memory.set_contents(&name.path(), flipped(&bed.bytes(name), middle)).unwrap();
                            Some(name)
                        }
                    };
                    bed.assert_restores(&case, &memory, &none, None);
                    let report = check(memory.clone()).unwrap();
                    // What nothing needs may be damaged.
                    assert!(report.damaged.values().all(|damage| damage.files.is_empty()), "{case}: {report:?}");
                    assert_eq!(report.whole, [1, 2, 3], "{case}: {report:?}");
                    let found: Vec<_> = report.damaged_packs.iter().map(|(name, _)| *name).collect();
                    assert_eq!(found, rotten.into_iter().collect::<Vec<_>>(), "{case}");
                    let added = take_with(memory.clone(), bed.sources[2].path(), PACKED).unwrap();
                    assert_eq!((added.replaced, added.snapshot.added.objects), (0, 0), "{case}");

                    let packed = memory.crash(Crash::KeepAll);
                    pack_with(packed.clone(), PACKED).unwrap();
                    bed.assert_restores(&format!("{case}, pack"), &packed, &none, None);
                    prune_with(packed.clone(), &[1], PACKED).unwrap();
                    bed.assert_some_restore(&format!("{case}, pack, prune"), &packed, [2, 3].into_iter(), &none, None);
                    prune_with(memory.clone(), &[], PACKED).unwrap();
                    bed.assert_restores(&format!("{case}, prune"), &memory, &none, None);
                    for memory in [&packed, &memory] {
                        let report = check(memory.clone()).unwrap();
                        assert!(report.damaged.is_empty(), "{case}: {report:?}");
                        // The rotten copy is gone, unless something is left that only its pack holds.
                        let holds_more = rotten == Some(name) && index.frames.len() > 2;
                        assert!(report.is_clean() || holds_more, "{case}: {report:?}");
                    }
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 5 * 3 * 4);
}

// ---- packs that lie

/// What a pack that was made to lie does, if it stands in place of an honest one.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Lie {
    /// These objects are lost, and the pack is named.
    Loses(BTreeSet<ObjectId>),
    /// These objects are not known to be in it.
    Hides(BTreeSet<ObjectId>),
    /// Nothing, but it is not what it should be.
    Careless,
    /// Nothing at all.
    Nothing,
}

/// What changes the frames and the index of a pack.
type Change = Box<dyn Fn(&mut Vec<Vec<u8>>, &mut PackIndex)>;

/// A name, the change, and what it does.
type Forgery = (&'static str, Change, Lie);

/// Lets the index say how long the frames are.
fn set_lengths(frames: &[Vec<u8>], index: &mut PackIndex) {
    for (frame, entry) in frames.iter().zip(&mut index.frames) {
        entry.length = u32::try_from(frame.len()).unwrap();
    }
}

/// Indexes that do not say what the frames hold. `in_first` is what the first frame holds.
fn lies_of_the_index(honest: &PackIndex, in_first: &BTreeSet<ObjectId>) -> Vec<Forgery> {
    let all: BTreeSet<ObjectId> = honest.members.iter().map(|member| member.id).collect();
    let [first, second] = [0, 1].map(|at| honest.members[at].id);
    let plain = |change: fn(&mut PackIndex)| -> Change { Box::new(move |_, index| change(index)) };
    vec![
        ("a frame longer than it is", plain(|index| index.frames[0].length += 1), Lie::Loses(all.clone())),
        ("a frame as long as can be", plain(|index| index.frames[0].length = u32::MAX), Lie::Loses(all.clone())),
        (
            "frames that end elsewhere",
            plain(|index| {
                index.frames[0].length -= 1;
                index.frames[1].length += 1;
            }),
            Lie::Loses(if honest.frames.len() > 2 { all.clone() } else { in_first.clone() }),
        ),
        ("more objects than there are", plain(|index| index.frames[0].objects += 1), Lie::Loses(all.clone())),
        ("as many objects as can be", plain(|index| index.frames[0].objects = u32::MAX), Lie::Loses(all.clone())),
        ("no frames", plain(|index| index.frames.clear()), Lie::Loses(all.clone())),
        (
            "no objects",
            plain(|index| {
                index.members.clear();
                index.frames.iter_mut().for_each(|frame| frame.objects = 0);
            }),
            Lie::Hides(all.clone()),
        ),
        (
            "an object as long as can be",
            plain(|index| index.members[0].length = u32::MAX),
            Lie::Loses(in_first.clone()),
        ),
        (
            "all objects as long as can be",
            plain(|index| {
                index.members.iter_mut().for_each(|member| member.length = u32::MAX);
            }),
            Lie::Loses(all.clone()),
        ),
        ("a longer object", plain(|index| index.members[0].length += 1), Lie::Loses([first].into())),
        ("a much longer object", plain(|index| index.members[0].length += 512), Lie::Loses(in_first.clone())),
        (
            "exchanged names",
            plain(|index| {
                let first = index.members[0].id;
                index.members[0].id = index.members[1].id;
                index.members[1].id = first;
            }),
            Lie::Loses([first, second].into()),
        ),
        (
            "another name",
            plain(|index| index.members[0].id = HashAlgorithm::Blake3.hash(b"another")),
            Lie::Hides([first].into()),
        ),
        ("no name", plain(|index| index.members[0].id = ObjectId::from_bytes([0; 32])), Lie::Loses(all.clone())),
        (
            "one name for all",
            plain(|index| {
                let first = index.members[0].id;
                index.members.iter_mut().for_each(|member| member.id = first);
            }),
            Lie::Hides(all.difference(&[first].into()).copied().collect()),
        ),
    ]
}

/// Frames that do not hold what the index says. `tar` is the content of the first one.
fn lies_of_the_frames(honest: &PackIndex, in_first: &BTreeSet<ObjectId>, tar: &[u8]) -> Vec<Forgery> {
    let all: BTreeSet<ObjectId> = honest.members.iter().map(|member| member.id).collect();
    let content = |change: fn(&mut Vec<u8>)| -> Change {
        let mut tar = tar.to_vec();
        change(&mut tar);
        Box::new(move |frames, index| {
            frames[0] = codec::compress(&tar).unwrap();
            set_lengths(frames, index);
        })
    };
    vec![
        ("wrong content", content(|tar| tar[512] ^= 1), Lie::Loses([honest.members[0].id].into())),
        ("a wrong header", content(|tar| tar[5] ^= 1), Lie::Careless),
        ("padding that is not zero", content(|tar| *tar.last_mut().unwrap() = 1), Lie::Careless),
        ("a longer frame", content(|tar| tar.extend_from_slice(&[0; 512])), Lie::Loses(in_first.clone())),
        ("a shorter frame", content(|tar| tar.truncate(tar.len() - 512)), Lie::Loses(in_first.clone())),
        (
            "a frame that inflates to far too much",
            content(|tar| *tar = vec![0; 50 << 20]),
            Lie::Loses(in_first.clone()),
        ),
        (
            "a frame that claims far too much",
            Box::new(|frames, index| {
                frames[0] = [&b"\x28\xb5\x2f\xfd\xe4"[..], &(100_u64 << 30).to_le_bytes(), &[1, 0, 0]].concat();
                set_lengths(frames, index);
            }),
            Lie::Loses(in_first.clone()),
        ),
        (
            "a skippable frame",
            Box::new(|frames, index| {
                frames[0] = b"\x50\x2a\x4d\x18\x02\x00\x00\x00zz".to_vec();
                set_lengths(frames, index);
            }),
            Lie::Loses(in_first.clone()),
        ),
        (
            "an empty frame",
            Box::new(|frames, index| {
                frames[0].clear();
                set_lengths(frames, index);
            }),
            Lie::Loses(all.clone()),
        ),
        (
            "a frame without objects before the others",
            Box::new(|frames, index| {
                frames.insert(0, codec::compress(&[0; 1024]).unwrap());
                index.frames.insert(0, FrameEntry { length: 0, objects: 0 });
                set_lengths(frames, index);
            }),
            Lie::Nothing,
        ),
        (
            "everything twice",
            Box::new(|frames, index| {
                *frames = [&frames[..], &frames[..]].concat();
                index.frames = index.frames.repeat(2);
                index.members = index.members.repeat(2);
            }),
            Lie::Nothing,
        ),
        (
            "no end of the archive",
            Box::new(|frames, index| {
                frames.pop();
                index.frames.pop();
            }),
            Lie::Nothing,
        ),
    ]
}

/// Packs with a good name and a good checksum, and an index or content that is not right.
fn lies(bed: &Bed, name: PackName) -> Vec<(&'static str, Vec<u8>, Lie)> {
    let (frames, index) = frames_of(bed, name);
    let in_first = lost_by(bed, name, Hits::Frame(0));
    let tar = zstd::stream::decode_all(&*frames[0]).unwrap();
    let mut forgeries = lies_of_the_index(&index, &in_first);
    forgeries.extend(lies_of_the_frames(&index, &in_first, &tar));
    let forge = |(what, change, lie): Forgery| {
        let (mut frames, mut index) = (frames.clone(), index.clone());
        change(&mut frames, &mut index);
        (what, pack_bytes(bed.hash, &frames, &index), lie)
    };
    forgeries.into_iter().map(forge).collect()
}

#[test]
fn a_pack_that_lies_harms_no_one() {
    for (bed, hash) in [
        (Bed::tiny(HashAlgorithm::Blake3), "blake3"),
        (Bed::tiny(HashAlgorithm::Sha256), "sha256"),
        (Bed::framed(HashAlgorithm::Blake3), "framed"),
    ] {
        for name in bed.packs().into_iter().filter(|name| bed.objects_of(*name).len() > 1) {
            for (what, bytes, lie) in lies(&bed, name) {
                for cached in [false, true] {
                    assert_lie(&bed, &format!("{what} in {name}, {hash}, index: {cached}"), name, &bytes, &lie, cached);
                }
            }
        }
    }
}

fn assert_lie(bed: &Bed, case: &str, name: PackName, bytes: &[u8], lie: &Lie, cached: bool) {
    let none = BTreeSet::new();
    let (lost, is_named) = match lie {
        Lie::Loses(lost) => (lost, true),
        Lie::Hides(lost) => (lost, false),
        Lie::Careless | Lie::Nothing => (&none, false),
    };
    // In place of the honest one.
    let memory = bed.copy();
    memory.remove(&name.path()).unwrap();
    let liar = put_pack(&memory, bed, name, bytes.to_vec());
    let memory = if cached { Bed::indexed(memory) } else { memory };
    let says = liar.hash.to_hex();
    let says = is_named.then_some(&*says);
    bed.assert_restores(case, &memory, lost, says);
    let report = check(memory.clone()).unwrap();
    let named: Vec<_> = report.damaged_packs.iter().map(|(name, _)| *name).collect();
    assert!(named == [liar] || *lie == Lie::Nothing || matches!(lie, Lie::Hides(_)), "{case}: {report:?}");
    assert_eq!(report.is_clean(), *lie == Lie::Nothing, "{case}: {report:?}");
    assert_eq!(report.whole, bed.whole_without(lost), "{case}");
    assert!(
        report.damaged.keys().all(|id| lost.contains(id) || !bed.objects_of(name).contains(id)),
        "{case}: {report:?}"
    );
    for removed in [&[][..], &[1]] {
        let pruned = memory.crash(Crash::KeepAll);
        let case = format!("{case}, prune {removed:?}");
        if let Err(error) = prune_with(pruned.clone(), removed, PACKED) {
            assert!(!lost.is_disjoint(&bed.trees), "{case}: {error}");
            assert!(matches!(error, Error::Refused { .. }), "{case}: {error}");
        }
        let stay = bed.wants.keys().copied().filter(|number| !removed.contains(number));
        bed.assert_some_restore(&case, &pruned, stay, lost, None);
    }
    let packed = memory.crash(Crash::KeepAll);
    pack_with(packed.clone(), PACKED).unwrap_or_else(|error| panic!("{case}, pack: {error}"));
    bed.assert_restores(&format!("{case}, pack"), &packed, lost, None);
    // After the check everything can be stored again.
    for source in &bed.sources {
        take_with(memory.clone(), source.path(), PACKED).unwrap();
    }
    bed.assert_restores(&format!("{case}, stored again"), &memory, &none, None);
    let _ = memory.remove(layout::INDEX);
    bed.assert_restores(&format!("{case}, stored again, no index"), &memory, &none, None);

    // Beside the honest one it does not matter.
    let memory = bed.copy();
    put_pack(&memory, bed, name, bytes.to_vec());
    let memory = if cached { Bed::indexed(memory) } else { memory };
    let case = format!("{case}, beside the honest one");
    bed.assert_restores(&case, &memory, &none, None);
    let report = check(memory.clone()).unwrap();
    assert_eq!(report.whole.len(), bed.wants.len(), "{case}: {report:?}");
    let packed = memory.crash(Crash::KeepAll);
    pack_with(packed.clone(), PACKED).unwrap_or_else(|error| panic!("{case}, pack: {error}"));
    bed.assert_restores(&format!("{case}, pack"), &packed, &none, None);
    for memory in [memory, packed] {
        prune_with(memory.clone(), &[], PACKED).unwrap_or_else(|error| panic!("{case}, prune: {error}"));
        bed.assert_restores(&format!("{case}, prune"), &memory, &none, None);
        let _ = memory.remove(layout::INDEX);
        bed.assert_restores(&format!("{case}, prune, no index"), &memory, &none, None);
    }
}

// ---- the index of all packs

/// Whatever is in the place of the index of all packs: nothing is lost, nothing is said to be missing, and the next
/// prune that changes a pack puts it right.
fn assert_index_does_no_harm(bed: &Bed, case: &str, index: &[u8]) {
    let none = BTreeSet::new();
    let memory = bed.copy();
    memory.set_contents(layout::INDEX, index.to_vec()).unwrap();
    bed.assert_restores(case, &memory, &none, None);
    assert!(check(memory.clone()).unwrap().is_clean(), "{case}");
    take_with(memory.clone(), bed.sources[0].path(), PACKED).unwrap();
    let pruned = memory.crash(Crash::KeepAll);
    let report = prune_with(pruned.clone(), &[1], PACKED).unwrap();
    assert!(report.missing.is_empty(), "{case}: {report:?}");
    pack_with(memory.clone(), PACKED).unwrap_or_else(|error| panic!("{case}, pack: {error}"));
    let stay = || bed.wants.keys().copied();
    for (memory, first) in [(pruned, 2), (memory, 1)] {
        bed.assert_some_restore(case, &memory, stay().filter(|number| *number >= first), &none, None);
        assert!(check(memory.clone()).unwrap().is_clean(), "{case}");
        let _ = memory.remove(layout::INDEX);
        bed.assert_some_restore(case, &memory, stay().filter(|number| *number >= first), &none, None);
    }
}

/// From an entry that is right, and the highest number of a pack, to one that is wrong.
type Wrong = fn(IndexEntry, u32) -> IndexEntry;

#[test]
fn no_index_of_all_packs_does_harm() {
    let bed = Bed::tiny(HashAlgorithm::Blake3);
    let none = BTreeSet::new();
    let memory = Bed::indexed(bed.copy());
    let good = memory.contents(layout::INDEX).unwrap();
    for length in 0..good.len() {
        memory.set_contents(layout::INDEX, good[..length].to_vec()).unwrap();
        bed.assert_restores(&format!("cut to {length}"), &memory, &none, None);
        if length % 37 == 0 {
            assert_index_does_no_harm(&bed, &format!("cut to {length}"), &good[..length]);
        }
    }
    for bit in 0..good.len() * 8 {
        memory.set_contents(layout::INDEX, flipped(&good, bit)).unwrap();
        bed.assert_restores(&format!("bit {bit}"), &memory, &none, None);
        if bit % 7 == 0 {
            assert_index_does_no_harm(&bed, &format!("bit {bit}"), &flipped(&good, bit));
        }
    }
    // Of another repository, and with entries that lead elsewhere but are in order.
    let other = Bed::indexed(Bed::framed(HashAlgorithm::Blake3).copy()).contents(layout::INDEX).unwrap();
    assert_index_does_no_harm(&bed, "of another repository", &other);
    let (packs, entries) = bed.entries();
    let last = u32::try_from(packs.len()).unwrap() - 1;
    let wrong: [(&str, Wrong); 5] = [
        ("the next position", |entry, _| IndexEntry { position: entry.position + 1, ..entry }),
        ("no such position", |entry, _| IndexEntry { position: u32::MAX, ..entry }),
        ("another pack", |entry, last| IndexEntry { pack: last - entry.pack, ..entry }),
        ("no such pack", |entry, last| IndexEntry { pack: last + 1 + entry.pack, ..entry }),
        ("another prefix", |entry, _| IndexEntry { prefix: entry.prefix.reverse_bits(), ..entry }),
    ];
    for (what, wrong) in wrong {
        let mut entries: Vec<_> = entries.iter().map(|entry| wrong(*entry, last)).collect();
        entries.sort_unstable();
        let memory = bed.copy();
        index::write(&memory, &staging(&memory), bed.hash, &packs, entries.into_iter().map(Ok)).unwrap();
        assert_index_does_no_harm(&bed, what, &memory.contents(layout::INDEX).unwrap());
    }
}

/// An index of all packs with a right checksum, whatever its tables say.
fn forged_index(hash: HashAlgorithm, entries: &[IndexEntry], packs: &[(PackName, u32)], fan_out: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&entry.prefix.to_le_bytes());
        bytes.extend_from_slice(&entry.pack.to_le_bytes());
        bytes.extend_from_slice(&entry.position.to_le_bytes());
    }
    let tables = bytes.len();
    for (name, objects) in packs {
        bytes.extend_from_slice(name.hash.as_bytes());
        bytes.extend_from_slice(&objects.to_le_bytes());
        bytes.extend_from_slice(&(name.kind as u32).to_le_bytes());
    }
    bytes.extend(fan_out.iter().flat_map(|end| end.to_le_bytes()));
    let counts = [entries.len(), packs.len(), fan_out.len().ilog2() as usize];
    let counts = counts.map(|count| u32::try_from(count).unwrap().to_le_bytes()).concat();
    let end = [&counts[..], b"packsidx"].concat();
    let mut hasher = hash.hasher();
    hasher.update(&bytes[tables..]);
    hasher.update(&end);
    let checksum = hasher.finish();
    [&bytes[..], checksum.as_bytes(), &end].concat()
}

#[test]
fn an_index_of_all_packs_that_was_made_to_harm_does_none() {
    let bed = Bed::tiny(HashAlgorithm::Blake3);
    let good = Bed::indexed(bed.copy()).contents(layout::INDEX).unwrap();
    let (packs, entries) = bed.entries();
    let all = u32::try_from(entries.len()).unwrap();
    let half = entries.iter().filter(|entry| entry.prefix >> 63 == 0).count();
    let half = u32::try_from(half).unwrap();
    let forge = |entries: &[IndexEntry], packs: &[(PackName, u32)], fan_out: &[u32]| {
        forged_index(bed.hash, entries, packs, fan_out)
    };
    // The forger can make an honest one.
    let bits = good.len() - 52 - packs.len() * 40 - entries.len() * 16;
    assert!(
        bits == 8 && forge(&entries, &packs, &[half, all]) == good
            || bits == 4 && forge(&entries, &packs, &[all]) == good
    );
    let number = |pack: u32| IndexEntry { pack, ..entries[0] };
    let twice: Vec<_> = packs.iter().flat_map(|pack| [*pack, *pack]).collect();
    let doubled: Vec<_> = entries.iter().map(|entry| IndexEntry { pack: entry.pack * 2, ..*entry }).collect();
    let both: Vec<_> =
        doubled.iter().flat_map(|entry| [*entry, IndexEntry { pack: entry.pack + 1, ..*entry }]).collect();
    let reversed: Vec<_> = packs.iter().rev().copied().collect();
    for (what, index) in [
        ("each pack twice", forge(&both, &twice, &[all * 2])),
        ("each pack twice, the second one empty", forge(&doubled, &twice, &[all])),
        ("packs in another order", forge(&entries, &reversed, &[all])),
        ("no packs", forge(&entries, &[], &[all])),
        ("no entries", forge(&[], &packs, &[0])),
        ("one entry for all", forge(&vec![number(0); entries.len()], &packs, &[all])),
        ("a table that ends far behind", forge(&entries, &packs, &[u32::MAX])),
        ("a table that ends before", forge(&entries, &packs, &[0])),
        ("a table that goes back", forge(&entries, &packs, &[u32::MAX, all])),
        ("a table that ends far behind, in two", forge(&entries, &packs, &[half, u32::MAX])),
    ] {
        assert_index_does_no_harm(&bed, what, &index);
        // Nor where there is nothing to be folded and everything stands once.
        let memory = bed.copy();
        pack_with(memory.clone(), PACKED).unwrap();
        let before = self::packs(&memory);
        memory.set_contents(layout::INDEX, index).unwrap();
        pack_with(memory.clone(), PACKED).unwrap();
        assert_eq!(self::packs(&memory), before, "{what}");
    }
}

#[test]
fn an_index_of_all_packs_on_a_bad_sector_does_no_harm() {
    let bed = Bed::tiny(HashAlgorithm::Blake3);
    let memory = Bed::indexed(bed.copy());
    // Its tables can be read each time, and its entries never.
    let reads = AtomicUsize::new(0);
    let broken = FaultBackend::hooked(memory.clone(), move |operation, path| {
        match operation {
            "open" if path == layout::INDEX => reads.store(0, Ordering::Relaxed),
            "read_at" if path == layout::INDEX && reads.fetch_add(1, Ordering::Relaxed) >= 3 => {
                return Err(std::io::Error::from_raw_os_error(5));
            }
            _ => {}
        }
        Ok(())
    });
    let repo = open(broken.clone()).unwrap();
    for (number, wants) in &bed.wants {
        let found = read(&repo, *number);
        assert!(wants.iter().all(|(path, want)| *found[path].as_ref().unwrap() == want.content), "{number}");
    }
    drop(repo);
    assert!(check(broken.clone()).unwrap().is_clean());
    take_with(broken.clone(), bed.sources[0].path(), PACKED).unwrap();
    assert!(prune_with(broken.clone(), &[1], PACKED).unwrap().missing.is_empty());
    pack_with(broken, PACKED).unwrap();
    bed.assert_some_restore("packed", &memory, 2..=3, &BTreeSet::new(), None);
}

#[test]
fn the_cache_can_be_deleted_and_comes_back_as_it_was() {
    for hash in HashAlgorithm::ALL {
        let bed = Bed::framed(hash);
        prune_with(bed.memory.clone(), &[1], PACKED).unwrap();
        pack_with(bed.memory.clone(), PACKED).unwrap();
        let before = bed.memory.contents(layout::INDEX).expect("pack writes it");
        for path in bed.memory.paths().iter().filter(|path| path.starts_with("cache/")) {
            bed.memory.remove(path).unwrap();
        }
        bed.assert_some_restore("no cache", &bed.memory, [2, 3].into_iter(), &BTreeSet::new(), None);
        assert_eq!(bed.memory.contents(layout::INDEX), None);
        save_index(&bed.memory);
        assert_eq!(bed.memory.contents(layout::INDEX).as_ref(), Some(&before));
        // Saved again on top of itself, too.
        save_index(&bed.memory);
        assert_eq!(bed.memory.contents(layout::INDEX), Some(before));
    }
}

/// zip drops empty directories, and whoever deletes the cache may delete its directory.
#[test]
fn directories_that_are_missing_are_made_again() {
    let file = |name: &str| Model::default().file("same", *b"same").file(name, noise(5, 3000));
    for (what, writing) in [("packed", PACKED), ("loose", LOOSE)] {
        let bed = Bed::new(HashAlgorithm::Blake3, vec![(file("a"), writing), (file("b"), writing)]);
        let bare = || {
            let memory = bed.copy();
            let cached = memory.paths().into_iter().filter(|path| path.starts_with("cache/"));
            cached.for_each(|path| memory.remove(&path).unwrap());
            for dir in layout::DIRS {
                // Those that hold something stay.
                let _ = memory.remove_dir(dir);
            }
            assert!(memory.list(layout::CACHE).is_err() && memory.list(layout::TMP).is_err());
            memory
        };
        let none = BTreeSet::new();
        let memory = bare();
        bed.assert_restores(what, &memory, &none, None);
        assert!(check(memory.clone()).unwrap().is_clean(), "{what}");
        let report = pack_with(memory.clone(), PACKED).unwrap();
        assert!(!report.old_files_remain && loose::list(&memory).unwrap().objects.is_empty(), "{what}: {report:?}");
        bed.assert_restores(what, &memory.crash(Crash::LoseAll), &none, None);

        let memory = bare();
        assert_eq!(prune_with(memory.clone(), &[1], PACKED).unwrap().removed, [1], "{what}");
        bed.assert_some_restore(what, &memory.crash(Crash::LoseAll), [2].into_iter(), &none, None);

        let memory = bare();
        for name in packs(&memory) {
            memory.set_contents(&name.path(), flipped(&bed.bytes(name), 100 * 8)).unwrap();
        }
        let report = check(memory.clone()).unwrap();
        assert!(report.not_recorded.is_none(), "{what}: {report:?}");
        for source in &bed.sources {
            take_with(memory.clone(), source.path(), writing).unwrap();
        }
        bed.assert_restores(what, &memory.crash(Crash::LoseAll), &none, None);
    }
}

// ---- the standard tools

/// What a shell command prints; it must succeed, if the pack is `good`.
fn sh(command: &str, dir: &Path, good: bool) -> String {
    let output = Command::new("sh").args(["-c", command]).current_dir(dir).output().unwrap();
    assert_eq!(output.status.success(), good, "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_standard_tools_list_verify_and_unpack_a_pack() {
    for hash in HashAlgorithm::ALL {
        if !have(&["zstd", "tar", hash.tool()]) {
            continue;
        }
        let bed = Bed::framed(hash);
        let dir = tempfile::tempdir().unwrap();
        for name in bed.packs() {
            let bytes = bed.bytes(name);
            fs::write(dir.path().join("pack.tar.zst"), &bytes).unwrap();
            sh("zstd -tq pack.tar.zst", dir.path(), true);
            assert_eq!(sh(&format!("{} < pack.tar.zst", hash.tool()), dir.path(), true), format!("{}  -\n", name.hash));
            let members = bed.pack(name).1.members;
            let listed: String = members.iter().map(|member| format!("{}\n", member.id)).collect();
            assert_eq!(sh("tar --zstd -tf pack.tar.zst", dir.path(), true), listed);
            // One of them, and all: each file has the name that its content gives.
            for member in [&members[0], &members[members.len() - 1]] {
                let print = format!("tar --zstd -xOf pack.tar.zst {} | {}", member.id, hash.tool());
                assert_eq!(sh(&print, dir.path(), true), format!("{}  -\n", member.id));
            }
            let unpack =
                format!("mkdir out; cd out; tar --zstd -xf ../pack.tar.zst; {} *; cd ..; rm -rf out", hash.tool());
            let mut sums: Vec<String> = members.iter().map(|member| format!("{0}  {0}", member.id)).collect();
            sums.sort_unstable();
            assert_eq!(sh(&unpack, dir.path(), true).lines().collect::<Vec<_>>(), sums);

            fs::write(dir.path().join("pack.tar.zst"), flipped(&bytes, 60 * 8)).unwrap();
            sh("zstd -tq pack.tar.zst", dir.path(), false);
        }
    }
}
