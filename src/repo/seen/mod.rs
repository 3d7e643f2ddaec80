//! The change cache: what a snapshot saw, so that the next one need not read again what is as it was.
//!
//! A file `cache/seen-SOURCE-TREE` holds one record for each directory, file and symbolic link of a snapshot, in the
//! order of the walk: of a file its size, times and inode beside where its content is stored, and at the end of each
//! directory the tree that it became. The next snapshot of the source reads it from beginning to end beside its walk,
//! in bounded memory. (The idea is that of git's index and of the files cache of borg; the walk order makes it a merge.)
//! The hashes in the records, which do not compress, stand beside the rest, which does.
//!
//! As long as a snapshot sees what the last one saw, it writes nothing down; and each block with the same records as the
//! one of the same number in the file before is taken over from there, without being compressed again.
//!
//! # Why it never makes a snapshot wrong
//!
//! - What it names is stored. A file is used only if a ref with its root tree is there
//!   ([`super::ObjectWriter::last_seen`]), the shared lock is held until the new ref is published, and everything that a ref
//!   needs is stored as long as the ref is. While objects are known to be damaged no such file is used: what is damaged
//!   would not be met and stored again. Nor is one where it is not sure what is damaged, where packs are gone or cannot be
//!   used, or in a copy of the repository: a copy that was made while others were at work may have the ref and lack objects.
//! - What it says is what was written: the records of each block are taken only if its hash is right, which covers the hash
//!   of the block before it, and so the beginning of the file, which says of which source it is. What is cut short, damaged
//!   or of another version is as good as not there from that point on.
//! - Everything that was stored has a record. So what is gone leaves one over, and its directory is another one. A file of
//!   which it is not known how it looked when it was read (it changed each time) has one that is never settled.
//! - A file that has changed is not taken for unchanged: its size, both times and its inode must be what they were, and
//!   the times must have been *settled* then, that is older by [`UNSETTLED_SECONDS`] than the clock when that snapshot
//!   began. A change after the file was read gives it a time that is not, as long as the clock that makes the times and
//!   the one that was read agree that well. As a guard where they do not (a server's clock is behind), what has the very
//!   newest time of all is not settled either, unless it was the newest one for the snapshot before too, and that had ended
//!   so long before: then the clock that makes the times has gone on since, wherever it stands. (It takes two faults to
//!   make that wrong: a clock that is behind, and the other one set forward, or that one back, between the two snapshots; or
//!   a clock that is far behind alone: see docs/design.md.
//!   That git's index is racy without such a rule is known: see `racy-git` in its documentation.)
//!
//! Like everything in `cache` it can be deleted. It is not synced: a crash may leave it cut short.

mod block;
mod read;
mod write;

use std::collections::HashSet;

pub use self::read::SeenReader;
pub use self::write::SeenWriter;
use super::Repository;
use crate::error::Result;
use crate::object::{Content, ID_LEN, Name, TreeId};
use crate::store::{Backend, EntryKind, layout, remove_if_there};

/// Times that are less than so much older than the beginning of a snapshot may be met again: some file systems count in
/// steps of two seconds.
pub const UNSETTLED_SECONDS: i64 = 2;

/// A source: the same directory of the same machine, as far as can be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceId {
    /// The machine.
    pub host: Vec<u8>,
    /// The path.
    pub path: Vec<u8>,
    /// The device and the inode of the top directory: a source that was moved is still the same.
    pub top: (u64, u64),
}

/// Seconds since 1970, and nanoseconds.
pub type Moment = (i64, i64);

/// What is compared to see whether a file is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMark {
    /// Its length in bytes.
    pub size: u64,
    /// When its content changed.
    pub modified: Moment,
    /// When anything of it changed, as the system says.
    pub changed: Moment,
    /// Its inode.
    pub inode: u64,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A directory begins: what follows is in it, up to its end.
    Dir(Name),
    /// A file.
    File {
        /// Its name.
        name: Name,
        /// What it looked like.
        mark: FileMark,
        /// Where its content is.
        content: Content,
    },
    /// A symbolic link.
    Symlink {
        /// Its name.
        name: Name,
        /// Where it leads.
        target: Vec<u8>,
    },
    /// The directory ends, or the whole source does.
    End {
        /// Its tree.
        tree: TreeId,
        /// The bytes of all files below it.
        size: u64,
    },
}

impl Seen {
    /// The name of what begins here.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Dir(name) | Self::File { name, .. } | Self::Symlink { name, .. } => Some(name),
            Self::End { .. } => None,
        }
    }
}

const MAGIC: [u8; 8] = *b"BTseen\0\x04";
/// The magic number, the root tree, the newest time and whether it was met before, the second of the end, and the hash of
/// that.
const FOOTER: usize = 8 + ID_LEN + 8 + 8 + 1 + 8 + ID_LEN;

/// Which times of a snapshot are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settled {
    /// In seconds: times before it are.
    before: i64,
    /// The newest time at which a file changed is not, whatever it is, but for the next case.
    newest: Moment,
    /// The time that was the newest one for the snapshot before, if that had ended long enough before this one began.
    met_before: Moment,
}

/// A time before all others.
const LONG_AGO: Moment = (i64::MIN, 0);
/// One that is never settled.
const NEVER: Moment = (i64::MAX, 0);

impl Settled {
    fn covers(self, mark: &FileMark, ignores_changed: bool) -> bool {
        let is_newest = mark.changed == self.newest && mark.changed != self.met_before;
        self.is_old(mark, ignores_changed) && (ignores_changed || !is_newest)
    }

    fn is_old(self, mark: &FileMark, ignores_changed: bool) -> bool {
        let is_old = |moment: Moment| moment.0 < self.before;
        is_old(mark.modified) && (ignores_changed || is_old(mark.changed))
    }
}

/// The first byte of a record.
struct Tag;

impl Tag {
    const DIR: u8 = 1;
    const FILE: u8 = 2;
    const SYMLINK: u8 = 3;
    const END: u8 = 4;
}

impl Repository {
    /// Whether something was written down here of a snapshot: then there has been one. What has come from another
    /// repository, or with a copy of this one, proves nothing.
    pub(in crate::repo) fn has_seen_some(&self) -> Result<bool> {
        Ok(seen_files(self.backend())?.into_iter().any(|(of, tree)| SeenReader::is_of(self, of, tree)))
    }

    /// Removes what was written down of snapshots that are gone: nobody will use it again. Not where all are lost, which
    /// nothing else would show.
    pub(in crate::repo) fn sweep_seen(&self) -> Result<()> {
        let files = seen_files(self.backend())?;
        if files.is_empty() || self.refs()?.has_no_trace() {
            return Ok(());
        }
        let trees: HashSet<TreeId> = self.snapshots()?.snapshots.into_iter().map(|snapshot| snapshot.tree).collect();
        let mut stale = files.into_iter().filter(|(_, tree)| !trees.contains(tree));
        stale.try_for_each(|(of, tree)| remove_if_there(self.backend(), &layout::seen_path(of, tree)))
    }
}

/// The sources and the trees of the files that are there.
fn seen_files(backend: &dyn Backend) -> Result<Vec<(layout::SourceKey, TreeId)>> {
    let entries = match backend.list(layout::CACHE) {
        Err(error) if error.is_unreadable() => Vec::new(),
        other => other?,
    };
    let files = entries.into_iter().filter(|entry| entry.kind == EntryKind::File);
    Ok(files.filter_map(|entry| layout::parse_seen(&entry.name)).collect())
}
