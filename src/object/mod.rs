//! What is stored: names, hashes, and the encodings of trees, chunk lists, snapshot refs, labels and the configuration.
//!
//! Everything here is pure: bytes in, values out. The encoding of objects is *canonical*: the same content is always cut
//! and written alike, so it has the same name wherever it is met. Decoding is strict: lines that the encoder would not
//! have written are refused. The configuration, refs and labels have a checksum instead, and may say more than a reader
//! knows. `docs/format.md` describes each encoding with worked examples.

mod chunker;
mod config;
mod document;
mod id;
mod labels;
mod list;
mod name;
mod snapshot;
mod split;
mod tree;

pub use chunker::{ChunkSizes, Chunker, is_zeros};
pub use config::{Config, FORMAT};
pub use document::DocumentError;
pub use id::{BlobId, HashAlgorithm, Hasher, ID_LEN, ListId, NotAnId, ObjectId, TreeId};
pub use labels::{Labels, NotATag, Tag};
pub use list::{Chunk, ListBuilder, MAX_DEPTH, decode_list, encode_list};
pub use name::{Name, UnsafeName, display_bytes, display_path, printable};
pub use snapshot::{Added, Counts, PathNote, PathNotes, Snapshot};
pub use tree::{Content, Entry, EntryKind, Piece, Tree, TreeBuilder};

/// No object is larger than this, in bytes of uncompressed content, unless the chunker's maximum is.
pub const MAX_OBJECT: usize = 512 * 1024;

/// Bytes that are not a valid encoding of what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

impl Malformed {
    /// The reason may quote what was read: it is made safe to print.
    fn new(reason: impl AsRef<str>) -> Self {
        Self(printable(reason.as_ref()))
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}
