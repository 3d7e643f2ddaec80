//! Reading a pack.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::index::{
    FOOTER, FRAME, Footer, FrameEntry, MEMBER, Member, PackIndex, TableReader, content_length, longest_content,
};
use super::member::BLOCK;
use super::{PackName, member_header, member_length};
use crate::error::{Error, Result};
use crate::object::{HashAlgorithm, Hasher};
use crate::store::codec;
use crate::store::loose::ReadRules;
use crate::store::{Backend, StoredFile};

/// Tables are read in parts of so many bytes: whole lines of either.
const PART_OF_TABLE: u64 = (MEMBER * FRAME) as u64 * 1024;

/// So many members are read at once where several are wanted.
const SOME_MEMBERS: usize = 32;

/// An open pack. That its footer, its length and its table of frames agree has been seen.
#[derive(Debug)]
pub struct PackFile {
    name: PackName,
    path: PathBuf,
    file: Box<dyn StoredFile>,
    rules: ReadRules,
    footer: Footer,
    frames: Vec<FrameAt>,
    /// Set when the whole index was found to be right.
    verified_index: OnceLock<()>,
}

#[derive(Debug, Clone, Copy)]
struct FrameAt {
    offset: u32,
    length: u32,
    first: u32,
    objects: u32,
}

/// The content of a frame.
#[derive(Debug)]
pub struct DecodedFrame {
    tar: Vec<u8>,
    members: Vec<Member>,
    /// Where the content of each member begins in `tar`.
    starts: Vec<u32>,
    /// Which members were found to be what their names say. They stay so: the frame is not changed.
    verified: Vec<AtomicBool>,
}

impl DecodedFrame {
    /// The objects of the frame, in order.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The content of the object at `position` in the frame.
    pub fn content(&self, position: usize) -> &[u8] {
        let start = self.starts[position] as usize;
        &self.tar[start..start + self.members[position].length as usize]
    }

    /// Whether the object at `position` is what its name says. It is hashed once.
    pub fn verify(&self, position: usize, hash: HashAlgorithm) -> bool {
        let verified = &self.verified[position];
        if !verified.load(Ordering::Relaxed) && hash.hash(self.content(position)) == self.members[position].id {
            verified.store(true, Ordering::Relaxed);
        }
        verified.load(Ordering::Relaxed)
    }

    /// The bytes that it takes in memory.
    pub fn size(&self) -> usize {
        self.tar.len()
    }

    /// The buffer of its content, for another frame.
    pub fn into_buffer(self) -> Vec<u8> {
        self.tar
    }

    /// Whether everything around the objects' content (headers and padding) is as it must be; only that `tar` reads the
    /// archive depends on it.
    pub fn is_well_formed(&self) -> bool {
        let mut at = 0;
        for member in &self.members {
            let end = at + member_length(member.length);
            let content_end = at + BLOCK + member.length as usize;
            if self.tar[at..at + BLOCK] != member_header(member.id, member.length)
                || self.tar[content_end..end].iter().any(|byte| *byte != 0)
            {
                return false;
            }
            at = end;
        }
        // The end of the archive is zeros.
        self.tar[at..].iter().all(|byte| *byte == 0)
    }
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::Damaged {
        path: path.to_path_buf(),
        reason,
        next: "run `backuptool check` to see which files need it, and `backuptool repair --from COPY` with another copy of \
               the repository"
            .into(),
    }
}

impl PackFile {
    /// Opens a pack. Damage is [`Error::Damaged`].
    pub fn open(backend: &dyn Backend, rules: ReadRules, name: PackName) -> Result<Self> {
        let file = backend.open(&name.path())?;
        let path = backend.describe(&name.path());
        let length = file.length();
        let mut footer = [0; FOOTER];
        let read = file.read_at(length.saturating_sub(FOOTER as u64), &mut footer)?;
        let footer = Footer::decode(&footer[..read], length).map_err(|reason| damaged(&path, reason))?;
        let mut pack = Self { name, path, file, rules, footer, frames: Vec::new(), verified_index: OnceLock::new() };
        let header = pack.read(footer.header_at(), 8)?;
        let mut tables = TableReader::new(rules.hash);
        pack.read_parts(footer.frames_at(), footer.tables_end(), |part| tables.frames(part))?;
        let frames = tables.into_frames();
        footer.verify(&header, &frames, rules.max_object).map_err(|reason| pack.damaged(reason))?;
        let (mut offset, mut first) = (0, 0);
        for FrameEntry { length, objects } in frames {
            pack.frames.push(FrameAt { offset, length, first, objects });
            // Neither overflows: their sums were compared with what is in the file.
            offset += length;
            first += objects;
        }
        Ok(pack)
    }

    /// Its name.
    pub fn name(&self) -> PackName {
        self.name
    }

    /// The length of the file.
    pub fn length(&self) -> u64 {
        self.file.length()
    }

    /// How many frames it has.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// How many objects it holds.
    pub fn objects(&self) -> u32 {
        self.footer.objects
    }

    /// The error for damage in this pack.
    pub fn damaged(&self, reason: impl Into<String>) -> Error {
        damaged(&self.path, reason.into())
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        if self.file.read_at(offset, &mut bytes)? == length {
            Ok(bytes)
        } else {
            Err(self.damaged("it was cut short while it was open"))
        }
    }

    fn read_range(&self, start: u64, end: u64) -> Result<Vec<u8>> {
        self.read(start, usize::try_from(end - start).unwrap_or(usize::MAX))
    }

    /// Reads lines of a table in parts. What `each` finds wrong is damage.
    fn read_parts(&self, start: u64, end: u64, mut each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<()> {
        let mut at = start;
        while at < end {
            let next = end.min(at + PART_OF_TABLE);
            each(&self.read_range(at, next)?).map_err(|reason| self.damaged(reason))?;
            at = next;
        }
        Ok(())
    }

    /// The whole index; its checksum is verified.
    pub fn index(&self) -> Result<PackIndex> {
        let mut tables = TableReader::new(self.rules.hash);
        self.read_parts(self.footer.objects_at(), self.footer.frames_at(), |part| tables.objects(part))?;
        self.read_parts(self.footer.frames_at(), self.footer.tables_end(), |part| tables.frames(part))?;
        tables.finish(&self.footer).map_err(|reason| self.damaged(reason))
    }

    /// Sees that the whole index can be read and is right; once it was, it is not read again.
    pub fn verify_index(&self) -> Result<()> {
        if self.verified_index.get().is_none() {
            self.index()?;
            self.verified_index.get_or_init(|| ());
        }
        Ok(())
    }

    /// What stands at `position` among all objects of the pack, if there are so many.
    pub fn member(&self, position: u32) -> Result<Option<Member>> {
        let mut line = [0; MEMBER];
        Ok(self.read_members(position, &mut line)?.first().map(Member::decode))
    }

    /// What stands at `position` and behind it, as far as there is so much, in one go: a few dozen members at most.
    pub fn some_members(&self, position: u32) -> Result<Vec<Member>> {
        let mut lines = [0; SOME_MEMBERS * MEMBER];
        Ok(self.read_members(position, &mut lines)?.iter().map(Member::decode).collect())
    }

    fn read_members<'b>(&self, position: u32, lines: &'b mut [u8]) -> Result<&'b [[u8; MEMBER]]> {
        let there = self.footer.objects.saturating_sub(position) as usize;
        let wanted = there.saturating_mul(MEMBER).min(lines.len());
        let at = self.footer.objects_at() + u64::from(position) * MEMBER as u64;
        if wanted > 0 && self.file.read_at(at, &mut lines[..wanted])? < wanted {
            return Err(self.damaged("it was cut short while it was open"));
        }
        Ok(lines[..wanted].as_chunks().0)
    }

    /// The frame that holds the object at `position` among all objects of the pack, and the object's position in it.
    pub fn frame_of(&self, position: u32) -> Option<(usize, usize)> {
        if position >= self.footer.objects {
            return None;
        }
        let frame = self.frames.partition_point(|frame| frame.first <= position) - 1;
        Some((frame, (position - self.frames[frame].first) as usize))
    }

    /// The position of a frame's first object among all objects of the pack, and how many objects it has.
    pub fn objects_of(&self, frame: usize) -> (u32, u32) {
        (self.frames[frame].first, self.frames[frame].objects)
    }

    /// The length of a frame in the pack.
    pub fn frame_length(&self, frame: usize) -> u64 {
        u64::from(self.frames[frame].length)
    }

    /// The bytes of a frame as they stand in the pack.
    pub fn frame_bytes(&self, frame: usize) -> Result<Vec<u8>> {
        let FrameAt { offset, length, .. } = self.frames[frame];
        self.read(u64::from(offset), length as usize)
    }

    /// The objects of a frame, as the index has them.
    pub fn frame_members(&self, frame: usize) -> Result<Vec<Member>> {
        let FrameAt { first, objects, .. } = self.frames[frame];
        let start = self.footer.objects_at() + u64::from(first) * MEMBER as u64;
        let lines = self.read_range(start, start + u64::from(objects) * MEMBER as u64)?;
        let (lines, _) = lines.as_chunks::<MEMBER>();
        Ok(lines.iter().map(Member::decode).collect())
    }

    /// Reads and decodes a frame, into a buffer that may be empty. The objects in it are not verified.
    pub fn decode(&self, frame: usize, buffer: Vec<u8>) -> Result<DecodedFrame> {
        let members = self.frame_members(frame)?;
        self.decode_into(frame, &self.frame_bytes(frame)?, members, buffer)
    }

    /// Decodes the bytes of a frame.
    pub fn decode_bytes(&self, frame: usize, bytes: &[u8], members: Vec<Member>) -> Result<DecodedFrame> {
        self.decode_into(frame, bytes, members, Vec::new())
    }

    fn decode_into(&self, frame: usize, bytes: &[u8], members: Vec<Member>, buffer: Vec<u8>) -> Result<DecodedFrame> {
        let offset = self.frames[frame].offset;
        let damaged = |reason: String| self.damaged(format!("its frame at byte {offset}: {reason}"));
        let expected = content_length(&members);
        let longest = longest_content(self.rules.max_object);
        if expected > longest as u64 {
            return Err(damaged(format!(
                "its objects would have {expected} bytes, and no frame has more than {longest}"
            )));
        }
        // The end of the archive has no objects.
        let most = if members.is_empty() { 2 * BLOCK } else { usize::try_from(expected).unwrap_or(longest) };
        let tar = codec::decompress_into(bytes, most, buffer).map_err(damaged)?;
        if tar.len() != most {
            return Err(damaged(format!("it has {} bytes of content where its index says {most}", tar.len())));
        }
        let mut at = 0;
        let mut starts = Vec::with_capacity(members.len());
        for member in &members {
            starts.push(u32::try_from(at + BLOCK).unwrap_or(u32::MAX));
            at += member_length(member.length);
        }
        let verified = members.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(DecodedFrame { tar, members, starts, verified })
    }

    /// The bytes of the index and all around it: what follows the last frame.
    pub fn index_bytes(&self) -> Result<Vec<u8>> {
        self.read_range(self.footer.header_at(), self.file.length())
    }

    /// Reads the whole file and says whether its hash is its name. Each frame's bytes are given to `each` on the way.
    pub fn verify(&self, mut each: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<bool> {
        let mut hasher: Hasher = self.rules.hash.hasher();
        for frame in 0..self.frames.len() {
            let bytes = self.frame_bytes(frame)?;
            hasher.update(&bytes);
            each(frame, &bytes)?;
        }
        hasher.update(&self.index_bytes()?);
        Ok(hasher.finish() == self.name.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FrameEntry, PackIndex, PackKind};
    use super::*;
    use crate::object::ObjectId;
    use crate::store::{MemoryBackend, layout};

    const RULES: ReadRules = ReadRules { hash: HashAlgorithm::Blake3, max_object: 512 << 10 };

    /// Frames with objects of these lengths, a frame without any at the end.
    const FRAMES: [&[usize]; 4] = [&[0, 1, 600], &[512], &[7, 7000], &[]];

    fn object(frame: usize, length: usize) -> (ObjectId, Vec<u8>) {
        let content = vec![u8::try_from(frame + 1).unwrap(); length];
        (RULES.hash.hash(&content), content)
    }

    /// The pack, with what `change` makes of its index.
    fn pack(change: impl FnOnce(&mut PackIndex)) -> PackFile {
        let (mut bytes, mut index) = (Vec::new(), PackIndex::default());
        for (number, lengths) in FRAMES.iter().enumerate() {
            let mut tar = Vec::new();
            for length in *lengths {
                let (id, content) = object(number, *length);
                let length = u32::try_from(*length).unwrap();
                tar.extend_from_slice(&member_header(id, length));
                tar.extend_from_slice(&content);
                tar.resize(tar.len().next_multiple_of(BLOCK), 0);
                index.members.push(Member { id, length });
            }
            let frame = codec::compress(if tar.is_empty() { &[0; 2 * BLOCK] } else { &tar }).unwrap();
            let [length, objects] = [frame.len(), lengths.len()].map(|count| u32::try_from(count).unwrap());
            index.frames.push(FrameEntry { length, objects });
            bytes.extend(frame);
        }
        change(&mut index);
        bytes.extend(index.encode(RULES.hash));
        let memory = MemoryBackend::new();
        memory.create_dir(layout::PACKS).unwrap();
        let name = PackName { hash: RULES.hash.hash(&bytes), kind: PackKind::Blobs };
        memory.set_contents(&name.path(), bytes).unwrap();
        PackFile::open(&memory, RULES, name).unwrap()
    }

    fn decode(pack: &PackFile, frame: usize) -> Result<DecodedFrame> {
        pack.decode(frame, Vec::new())
    }

    #[test]
    fn every_object_is_found_by_its_position() {
        let pack = pack(|_| ());
        assert_eq!((pack.frames(), pack.objects()), (4, 6));
        let mut position = 0;
        for (number, lengths) in FRAMES.iter().enumerate() {
            let frame = decode(&pack, number).unwrap();
            assert!(frame.is_well_formed());
            assert_eq!(pack.objects_of(number), (position, u32::try_from(lengths.len()).unwrap()));
            assert_eq!(frame.members(), pack.frame_members(number).unwrap());
            for (at, length) in lengths.iter().enumerate() {
                let (id, content) = object(number, *length);
                let member = Member { id, length: u32::try_from(*length).unwrap() };
                assert_eq!(pack.frame_of(position), Some((number, at)));
                assert_eq!(pack.member(position).unwrap(), Some(member));
                assert_eq!(frame.content(at), content);
                assert!(
                    frame.verify(at, RULES.hash) && !decode(&pack, number).unwrap().verify(at, HashAlgorithm::Sha256)
                );
                position += 1;
            }
        }
        for beyond in [6, 7, u32::MAX] {
            assert_eq!((pack.frame_of(beyond), pack.member(beyond).unwrap()), (None, None));
        }
        let mut frames = Vec::new();
        let each = |number, bytes: &[u8]| {
            frames.push((number, bytes.to_vec()));
            Ok(())
        };
        assert!(pack.verify(each).unwrap());
        assert_eq!(frames, (0..4).map(|number| (number, pack.frame_bytes(number).unwrap())).collect::<Vec<_>>());
        let renamed = PackFile { name: PackName { hash: RULES.hash.hash(b"other"), ..pack.name }, ..pack };
        assert!(!renamed.verify(|_, _| Ok(())).unwrap());
    }

    #[test]
    fn a_frame_that_is_not_what_the_index_says_is_refused_and_the_others_are_read() {
        let most = u32::try_from(longest_content(RULES.max_object)).unwrap();
        for (what, length) in [("a block more", 7000 + 512), ("too much", most), ("as much as can be", u32::MAX)] {
            let pack = pack(|index| index.members[5].length = length);
            assert!(matches!(decode(&pack, 2), Err(Error::Damaged { .. })), "{what}");
            for frame in [0, 1, 3] {
                assert!(decode(&pack, frame).is_ok(), "{what}");
            }
        }
    }

    #[test]
    fn what_tar_needs_around_the_content_is_looked_at() {
        let pack = pack(|_| ());
        let good = decode(&pack, 2).unwrap();
        let content = [
            good.starts[0] as usize..good.starts[0] as usize + 7,
            good.starts[1] as usize..good.starts[1] as usize + 7000,
        ];
        for at in 0..good.tar.len() {
            let mut frame = decode(&pack, 2).unwrap();
            frame.tar[at] ^= 1;
            let is_content = content.iter().any(|content| content.contains(&at));
            assert_eq!(frame.is_well_formed(), is_content, "byte {at}");
            let is_whole = (0..2).all(|position| frame.verify(position, RULES.hash));
            assert_eq!(is_whole, !is_content, "byte {at}");
        }
        let mut end = decode(&pack, 3).unwrap();
        end.tar[1023] = 1;
        assert!(!end.is_well_formed());
    }
}
