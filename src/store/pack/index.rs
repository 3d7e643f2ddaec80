//! The index at the end of a pack, in a zstd skippable frame.
//!
//! ```text
//! 5e 2a 4d 18               the magic number of a skippable frame
//! length: u32               of all that follows
//! objects: N x 36 bytes     hash (32 bytes), length of the content: u32; in the order in which they stand in the pack
//! frames: F x 8 bytes       length in the pack: u32, number of objects: u32; in order
//! checksum: 32 bytes        the repository's hash of all that is between the length and the checksum
//! F: u32, N: u32
//! "packidx1"
//! ```
//!
//! All numbers are little-endian. Where a frame begins is the sum of the lengths before it; where an object stands in
//! its frame follows from the lengths of the objects before it. So the index holds no offset that could point outside.
//! The last frame, the end of the archive, has no objects. The last 48 bytes of the file are the footer.

use super::super::codec;
use super::{MAX_FRAME_EXTRA, MAX_PACK, member_length};
use crate::object::{HashAlgorithm, Hasher, ID_LEN, ObjectId};

const SKIPPABLE: [u8; 4] = [0x5e, 0x2a, 0x4d, 0x18];
const SKIPPABLE_HEADER: u64 = 8;
const END: [u8; 8] = *b"packidx1";
/// Checksum, two counts, and the end.
pub(super) const FOOTER: usize = ID_LEN + 4 + 4 + END.len();
/// Bytes of an object's line.
pub(super) const MEMBER: usize = ID_LEN + 4;
/// Bytes of a frame's line.
pub(super) const FRAME: usize = 8;
/// The magic number, the shortest header and an empty block.
const SHORTEST_FRAME: u32 = 9;

/// An object in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub id: ObjectId,
    /// The length of its content in bytes.
    pub length: u32,
}

/// A frame of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEntry {
    /// Its length in the pack, in bytes.
    pub length: u32,
    /// How many objects it holds.
    pub objects: u32,
}

/// What is in a pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackIndex {
    /// The objects, in the order in which they stand.
    pub members: Vec<Member>,
    /// The frames, in order.
    pub frames: Vec<FrameEntry>,
}

impl Member {
    pub(super) fn decode(line: &[u8; MEMBER]) -> Self {
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&line[..ID_LEN]);
        Self { id: ObjectId::from_bytes(id), length: number(&line[ID_LEN..]) }
    }
}

impl PackIndex {
    /// The skippable frame.
    pub fn encode(&self, hash: HashAlgorithm) -> Vec<u8> {
        let tables = self.members.len() * MEMBER + self.frames.len() * FRAME;
        let mut bytes = Vec::with_capacity(tables + FOOTER + 8);
        bytes.extend_from_slice(&SKIPPABLE);
        // Both are far below what a u32 counts, as the pack itself is.
        bytes.extend_from_slice(&saturated(tables + FOOTER).to_le_bytes());
        for member in &self.members {
            bytes.extend_from_slice(member.id.as_bytes());
            bytes.extend_from_slice(&member.length.to_le_bytes());
        }
        for frame in &self.frames {
            bytes.extend_from_slice(&frame.length.to_le_bytes());
            bytes.extend_from_slice(&frame.objects.to_le_bytes());
        }
        let checksum = hash.hash(&bytes[8..]);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes.extend_from_slice(&saturated(self.frames.len()).to_le_bytes());
        bytes.extend_from_slice(&saturated(self.members.len()).to_le_bytes());
        bytes.extend_from_slice(&END);
        bytes
    }
}

/// Reads the tables of an index in parts, whole lines each, and no further than they make sense: a file with holes can
/// claim to be long where it takes no space, and memory must not be given for that.
pub(super) struct TableReader {
    hasher: Hasher,
    index: PackIndex,
}

impl TableReader {
    pub(super) fn new(hash: HashAlgorithm) -> Self {
        Self { hasher: hash.hasher(), index: PackIndex::default() }
    }

    /// Takes the next lines of objects.
    pub(super) fn objects(&mut self, part: &[u8]) -> Result<(), String> {
        self.hasher.update(part);
        let (lines, _) = part.as_chunks::<MEMBER>();
        for member in lines.iter().map(Member::decode) {
            if member.id.as_bytes() == &[0; ID_LEN] {
                return Err("its index has a hole".into());
            }
            self.index.members.push(member);
        }
        Ok(())
    }

    /// Takes the next lines of frames.
    pub(super) fn frames(&mut self, part: &[u8]) -> Result<(), String> {
        self.hasher.update(part);
        let (lines, _) = part.as_chunks::<FRAME>();
        for line in lines {
            let frame = FrameEntry { length: number(&line[..4]), objects: number(&line[4..]) };
            if frame.length < SHORTEST_FRAME {
                return Err("a frame is shorter than any frame can be".into());
            }
            self.index.frames.push(frame);
        }
        Ok(())
    }

    /// The frames, without their checksum.
    pub(super) fn into_frames(self) -> Vec<FrameEntry> {
        self.index.frames
    }

    /// What was read, if it has the checksum that the footer says.
    pub(super) fn finish(self, footer: &Footer) -> Result<PackIndex, String> {
        if self.hasher.finish() == footer.checksum {
            Ok(self.index)
        } else {
            Err("its index has another checksum".into())
        }
    }
}

/// The last bytes of a pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Footer {
    checksum: ObjectId,
    frames: u32,
    pub(super) objects: u32,
    /// The length of the file.
    file: u64,
}

impl Footer {
    /// Reads the footer of a pack of `file` bytes. Whether the rest agrees with it is seen by [`Footer::verify`].
    pub(super) fn decode(footer: &[u8], file: u64) -> Result<Self, String> {
        if footer.len() != FOOTER || footer[FOOTER - END.len()..] != END {
            return Err("it does not end as a pack ends; it was cut short, or is none".into());
        }
        let mut checksum = [0; ID_LEN];
        checksum.copy_from_slice(&footer[..ID_LEN]);
        let footer = Self {
            checksum: ObjectId::from_bytes(checksum),
            frames: number(&footer[ID_LEN..ID_LEN + 4]),
            objects: number(&footer[ID_LEN + 4..ID_LEN + 8]),
            file,
        };
        if file > MAX_PACK || footer.data().is_none() {
            return Err("its index would be longer than the file".into());
        }
        Ok(footer)
    }

    fn objects_length(&self) -> u64 {
        u64::from(self.objects) * MEMBER as u64
    }

    fn frames_length(&self) -> u64 {
        u64::from(self.frames) * FRAME as u64
    }

    /// The bytes before the skippable frame; nothing if the tables are longer than the file.
    fn data(&self) -> Option<u64> {
        self.file.checked_sub(SKIPPABLE_HEADER + self.objects_length() + self.frames_length() + FOOTER as u64)
    }

    /// Where the header of the skippable frame begins.
    pub(super) fn header_at(&self) -> u64 {
        self.data().unwrap_or(0)
    }

    /// Where the tables begin.
    pub(super) fn objects_at(&self) -> u64 {
        self.header_at() + SKIPPABLE_HEADER
    }

    /// Where the table of frames begins.
    pub(super) fn frames_at(&self) -> u64 {
        self.objects_at() + self.objects_length()
    }

    /// Where the tables end and the footer begins.
    pub(super) fn tables_end(&self) -> u64 {
        self.frames_at() + self.frames_length()
    }

    /// Whether the header of the skippable frame and the table of frames say the same as the footer.
    pub(super) fn verify(&self, header: &[u8], frames: &[FrameEntry], max_object: usize) -> Result<(), String> {
        let payload = self.file - self.objects_at();
        if header.len() != 8 || header[..4] != SKIPPABLE || u64::from(number(&header[4..])) != payload {
            return Err("its index does not begin where it must".into());
        }
        let data: u64 = frames.iter().map(|frame| u64::from(frame.length)).sum();
        let objects: u64 = frames.iter().map(|frame| u64::from(frame.objects)).sum();
        if data != self.header_at() || objects != u64::from(self.objects) {
            return Err("its frames are not as long as its index says".into());
        }
        let longest = codec::max_frame(longest_content(max_object)) as u64;
        if frames.iter().any(|frame| u64::from(frame.length) > longest) {
            return Err("a frame is longer than any frame can be".into());
        }
        Ok(())
    }
}

/// The most content that a frame can have.
pub(super) const fn longest_content(max_object: usize) -> usize {
    max_object + MAX_FRAME_EXTRA
}

/// The bytes of content of a frame with these objects.
pub(super) fn content_length(members: &[Member]) -> u64 {
    members.iter().map(|member| member_length(member.length) as u64).sum()
}

fn number(bytes: &[u8]) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(array)
}

fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_OBJECT: usize = 512 << 10;

    /// Reads the index at the end of a pack, as [`super::super::PackFile`] does.
    fn read(pack: &[u8], hash: HashAlgorithm) -> Result<PackIndex, String> {
        let length = pack.len() as u64;
        let footer = Footer::decode(&pack[pack.len().saturating_sub(FOOTER)..], length)?;
        let part = |start: u64, end: u64| &pack[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        let header = part(footer.header_at(), footer.objects_at());
        let mut tables = TableReader::new(hash);
        tables.objects(part(footer.objects_at(), footer.frames_at()))?;
        tables.frames(part(footer.frames_at(), footer.tables_end()))?;
        footer.verify(header, &tables.index.frames, MAX_OBJECT)?;
        tables.finish(&footer)
    }

    /// A pack whose frames are zeros, with the lengths that the index says.
    fn pack(index: &PackIndex, hash: HashAlgorithm) -> Vec<u8> {
        let data: usize = index.frames.iter().map(|frame| frame.length as usize).sum();
        [vec![0; data], index.encode(hash)].concat()
    }

    /// Frames of so many bytes with objects of these lengths.
    fn index(frames: &[(u32, Vec<u32>)]) -> PackIndex {
        let mut index = PackIndex::default();
        for (length, objects) in frames {
            for length in objects {
                let id = HashAlgorithm::Blake3.hash(&index.members.len().to_le_bytes());
                index.members.push(Member { id, length: *length });
            }
            index.frames.push(FrameEntry { length: *length, objects: u32::try_from(objects.len()).unwrap() });
        }
        index
    }

    fn any_index() -> impl Strategy<Value = PackIndex> {
        let frame = (SHORTEST_FRAME..60, proptest::collection::vec(any::<u32>(), 0..5));
        proptest::collection::vec(frame, 0..6).prop_map(|frames| index(&frames))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(index in any_index(), hash in proptest::sample::select(&HashAlgorithm::ALL[..])) {
            let pack = pack(&index, hash);
            let tail = 36 * index.members.len() + 8 * index.frames.len() + 48;
            prop_assert_eq!(index.encode(hash).len(), 8 + tail);
            prop_assert_eq!(read(&pack, hash), Ok(index));
        }

        #[test]
        fn what_is_cut_is_refused(index in any_index()) {
            let pack = pack(&index, HashAlgorithm::Blake3);
            for length in 0..pack.len() {
                prop_assert!(read(&pack[..length], HashAlgorithm::Blake3).is_err(), "cut to {} of {}", length, pack.len());
            }
        }
    }

    #[test]
    fn what_is_changed_is_refused() {
        let index = index(&[(50, vec![1, 0, 600]), (17, vec![9]), (23, vec![])]);
        let good = pack(&index, HashAlgorithm::Blake3);
        let begins = good.len() - index.encode(HashAlgorithm::Blake3).len();
        for bit in begins * 8..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, HashAlgorithm::Blake3).is_err(), "bit {bit}");
        }
        assert!(read(&good, HashAlgorithm::Sha256).is_err());
        for more in [&b"x"[..], &good] {
            assert!(read(&[more, &good].concat(), HashAlgorithm::Blake3).is_err(), "something before it");
        }
    }

    #[test]
    fn what_only_a_hole_can_claim_is_refused() {
        for bad in [index(&[(50, vec![1]), (SHORTEST_FRAME - 1, vec![]), (23, vec![])]), {
            let mut nameless = index(&[(50, vec![1, 2])]);
            nameless.members[1].id = ObjectId::from_bytes([0; ID_LEN]);
            nameless
        }] {
            assert!(read(&pack(&bad, HashAlgorithm::Blake3), HashAlgorithm::Blake3).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_frame_longer_than_any_can_be_is_refused() {
        let longest = u32::try_from(codec::max_frame(longest_content(MAX_OBJECT))).unwrap();
        for (length, is_good) in [(longest, true), (longest + 1, false)] {
            let index = index(&[(length, vec![5])]);
            assert_eq!(read(&pack(&index, HashAlgorithm::Blake3), HashAlgorithm::Blake3).is_ok(), is_good, "{length}");
        }
    }
}
