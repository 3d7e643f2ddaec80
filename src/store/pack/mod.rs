//! Packs: files that hold many objects each.
//!
//! A pack is a plain tar archive, compressed as a series of independent zstd frames. Each frame holds whole members,
//! about [`FRAME_CONTENT`] bytes of blobs or [`TREE_FRAME_CONTENT`] of trees, each named by its object's hash. The end
//! of the archive is a frame of its own. Then follows the pack's own index, in a zstd *skippable* frame, which tar and
//! zstd pass over: which objects there are, in the order in which they stand, and how long each frame is.
//! `docs/format.md` has it byte by byte.
//!
//! Blobs and what refers to objects (trees, chunk lists) go to packs of their own ([`PackKind`]), so that walking
//! snapshots never reads file data. A pack is named by the hash of its own bytes.
//!
//! - [`member_header`]: the tar headers;
//! - [`FrameBuilder`]: gathers objects and compresses them;
//! - [`PackIndex`]: the index at the end;
//! - [`PackWriter`]: writes packs and makes each durable and visible when it is complete;
//! - [`PackFile`]: reads one;
//! - [`Salvage`]: what is whole in one that is damaged.

mod frame;
mod index;
mod member;
mod read;
mod salvage;
mod write;

use std::fmt;

pub use frame::{Frame, FrameBuilder};
pub use index::{FrameEntry, Member, PackIndex};
pub use member::{member_header, member_length};
pub use read::{DecodedFrame, PackFile};
pub use salvage::Salvage;
pub use write::{FinishedPack, PackWriter};

use super::layout;
use crate::object::ObjectId;

/// A frame of blobs is complete when it has so many bytes of content, tar headers and padding included. Measured in
/// `docs/performance.md`.
pub const FRAME_CONTENT: usize = 4 << 20;

/// The same for a frame of trees: they are mostly hashes, which larger frames do not make smaller, and are read one by
/// one.
pub const TREE_FRAME_CONTENT: usize = 512 << 10;

/// No frame has more bytes of content than this and the largest object together. (Room for writers that make larger
/// frames.)
pub const MAX_FRAME_EXTRA: usize = 16 << 20;

/// A pack is complete when it has so many bytes.
pub const PACK_SIZE: u64 = 256 << 20;

/// Or so many objects: who reads a pack holds its index, 36 bytes an object, and so does who writes one.
pub const PACK_OBJECTS: usize = 1 << 17;

/// No pack has more bytes than this: FAT takes no larger files.
pub const MAX_PACK: u64 = u32::MAX as u64;

/// What a pack holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PackKind {
    /// File content.
    Blobs,
    /// Trees, their pieces and chunk lists.
    Trees,
}

impl PackKind {
    /// Every kind there is.
    pub const ALL: [Self; 2] = [Self::Blobs, Self::Trees];

    /// A frame is complete when it has so many bytes of content.
    pub const fn frame_content(self) -> usize {
        match self {
            Self::Blobs => FRAME_CONTENT,
            Self::Trees => TREE_FRAME_CONTENT,
        }
    }

    /// As it stands in the name of the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Trees => "trees",
        }
    }
}

/// The name of a pack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// The hash of the file's bytes.
    pub hash: ObjectId,
    /// What it holds.
    pub kind: PackKind,
}

impl PackName {
    /// Its path in the repository.
    pub fn path(self) -> String {
        layout::pack_path(self)
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}
