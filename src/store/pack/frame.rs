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
        Ok(Frame { members: Vec::new(), bytes: codec::compress_as(&[0; 2 * BLOCK], Density::Usual)? })
    }
}
