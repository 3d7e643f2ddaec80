//! Frames on their way into a pack.

use super::PackKind;
use super::index::Member;
use super::member::{BLOCK, member_header};
use crate::object::ObjectId;
use crate::store::codec::{self, Density};

/// Gathers objects for one frame, as members of a tar archive.
#[derive(Debug)]
pub struct FrameBuilder {
    kind: PackKind,
    density: Density,
    tar: Vec<u8>,
    members: Vec<Member>,
}

/// A compressed frame and what is in it.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The objects, in the order in which they stand.
    pub members: Vec<Member>,
    /// The bytes of the zstd frame.
    pub bytes: Vec<u8>,
}

impl FrameBuilder {
    /// Nothing, for a pack of this kind and objects of this density.
    pub fn new(kind: PackKind, density: Density) -> Self {
        Self { kind, density, tar: Vec::new(), members: Vec::new() }
    }

    /// Adds an object. No object is longer than what a `u32` counts.
    pub fn push(&mut self, id: ObjectId, content: &[u8]) {
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        self.tar.extend_from_slice(&member_header(id, length));
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(BLOCK), 0);
        self.members.push(Member { id, length });
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether enough is gathered for a frame.
    pub fn is_full(&self) -> bool {
        self.tar.len() >= self.kind.frame_content()
    }

    /// The bytes that are gathered.
    pub fn len(&self) -> usize {
        self.tar.len()
    }

    /// Takes over what another one has gathered.
    pub fn append(&mut self, other: &mut Self) {
        self.tar.append(&mut other.tar);
        self.members.append(&mut other.members);
    }

    /// Compresses what is gathered and begins anew. Fails only if zstd cannot have memory.
    pub fn encode(&mut self) -> Result<Frame, String> {
        let bytes = codec::compress_as(&self.tar, self.density)?;
        self.tar.clear();
        Ok(Frame { members: std::mem::take(&mut self.members), bytes })
    }

    /// The frame that ends the archive: two blocks of zeros, no object.
    pub(super) fn end_of_archive() -> Result<Frame, String> {
        Ok(Frame { members: Vec::new(), bytes: codec::compress(&[0; 2 * BLOCK])? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::member_length;
    use super::*;
    use crate::object::HashAlgorithm;

    /// An object of so many bytes.
    fn object(length: usize) -> (ObjectId, Vec<u8>) {
        let content: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
        (HashAlgorithm::Blake3.hash(&content), content)
    }

    fn builder(kind: PackKind) -> FrameBuilder {
        FrameBuilder::new(kind, Density::Usual)
    }

    #[test]
    fn a_frame_holds_members_in_the_order_in_which_they_came() {
        let mut one = builder(PackKind::Blobs);
        let mut another = builder(PackKind::Blobs);
        assert!(one.is_empty());
        let objects = [0, 1, 511, 512, 513, 4000].map(object);
        for (id, content) in &objects[..4] {
            one.push(*id, content);
        }
        for (id, content) in &objects[4..] {
            another.push(*id, content);
        }
        one.append(&mut another);
        assert_eq!((another.is_empty(), another.len()), (true, 0));
        let mut expected = Vec::new();
        for (id, content) in &objects {
            let length = u32::try_from(content.len()).unwrap();
            expected.extend_from_slice(&member_header(*id, length));
            expected.extend_from_slice(content);
            expected.resize(expected.len().next_multiple_of(512), 0);
        }
        assert_eq!(one.len(), expected.len());
        let frame = one.encode().unwrap();
        assert!(codec::decompress(&frame.bytes, expected.len()).unwrap() == expected);
        let members: Vec<_> = frame.members.iter().map(|member| (member.id, member.length as usize)).collect();
        assert_eq!(members, objects.each_ref().map(|(id, content)| (*id, content.len())));

        // It begins anew.
        assert_eq!((one.is_empty(), one.len()), (true, 0));
        one.push(objects[1].0, &objects[1].1);
        assert_eq!(one.encode().unwrap().members.len(), 1);
    }

    #[test]
    fn a_frame_is_full_with_its_last_byte() {
        for kind in PackKind::ALL {
            let (id, content) = object(10_000);
            let mut frame = builder(kind);
            while frame.len() + member_length(10_000) < kind.frame_content() {
                assert!(!frame.is_full());
                frame.push(id, &content);
            }
            // What is left is filled to the byte, but for one block.
            let left = kind.frame_content() - frame.len() - 512;
            let (id, content) = object(left - 512);
            frame.push(id, &content);
            assert!(!frame.is_full() && frame.len() + 512 == kind.frame_content(), "{kind:?}");
            frame.push(id, b"");
            assert!(frame.is_full(), "{kind:?}");
        }
    }

    /// As `docs/format.md` has it.
    #[test]
    fn golden_end_of_the_archive() {
        let end = FrameBuilder::end_of_archive().unwrap();
        assert_eq!(hex::encode(&end.bytes), "28b52ffd6400034d00001000000100fb2b8005cdac85f0");
        assert_eq!(codec::decompress(&end.bytes, 1024).unwrap(), [0; 1024]);
        assert!(end.members.is_empty());
    }
}
