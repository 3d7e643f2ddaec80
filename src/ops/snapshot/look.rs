//! Looking at a source: what a directory has, and what its entries are.
//!
//! This is what a walk spends its time on, nearly all of it in the kernel. So it is cut into pieces that other threads
//! may do before the walk comes to them: a directory that is not large, and a block of the entries of one that is.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::fs::{DirListing, Identity, SourceDir, SourceEntry, SourceKind, Stat};
use crate::object::Name;

/// So many entries are looked at in one go.
pub(super) const BLOCK: usize = 1024;

/// What an entry is.
pub(super) enum Look {
    Dir,
    File(Stat),
    /// A symbolic link, with its target.
    Symlink(Vec<u8>),
    /// A socket, FIFO or device.
    Special,
    /// It could not be looked at.
    Failed(Error),
}

/// An open directory, and the names in it.
#[derive(Clone)]
pub(super) struct Listed {
    pub(super) dir: Arc<SourceDir>,
    pub(super) entries: Arc<DirListing>,
}

/// A directory that was opened.
pub(super) enum Opened {
    /// The directory, and what the first of its entries are.
    Dir(Listed, Vec<Look>),
    /// The repository itself.
    Repository,
    /// The directory, which has more entries than were asked for.
    Large(SourceDir),
}

/// Where a walk does not go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The repository, wherever it is met.
    pub(super) repository: Option<Identity>,
    /// Nothing where other file systems are walked too.
    pub(super) only_device: Option<u64>,
}

impl Bounds {
    /// Opens and lists a directory, if it has no more than `most` entries, and looks at the first of them.
    pub(super) fn open(self, parent: &SourceDir, name: &Name, most: usize) -> Result<Opened> {
        let dir = parent.open_dir(name)?;
        let mut is_elsewhere = false;
        if self.repository.is_some() || self.only_device.is_some() {
            let identity = dir.identity()?;
            if Some(identity) == self.repository {
                return Ok(Opened::Repository);
            }
            is_elsewhere = self.only_device.is_some_and(|device| device != identity.device());
        }
        // Where another file system is mounted there is a directory, and that is all.
        let entries = if is_elsewhere { Some(DirListing::default()) } else { dir.list_at_most(most)? };
        let Some(entries) = entries else { return Ok(Opened::Large(dir)) };
        let listed = Listed::new(dir, entries);
        let looks = listed.look(0..BLOCK);
        Ok(Opened::Dir(listed, looks))
    }
}

impl Listed {
    pub(super) fn new(dir: SourceDir, entries: DirListing) -> Self {
        Self { dir: Arc::new(dir), entries: Arc::new(entries) }
    }

    /// What the entries at these places are, as far as there are so many.
    pub(super) fn look(&self, places: Range<usize>) -> Vec<Look> {
        let places = places.start..places.end.min(self.entries.len());
        places.map_while(|place| self.entries.get(place)).map(|entry| look(&self.dir, &entry)).collect()
    }
}

fn look(dir: &SourceDir, entry: &SourceEntry) -> Look {
    let SourceEntry { name, kind } = entry;
    if *kind != SourceKind::File {
        return look_at_other(dir, name, *kind);
    }
    match dir.stat(name) {
        Ok(stat) if stat.kind == SourceKind::File => Look::File(stat),
        // It was replaced since the directory was listed.
        Ok(stat) => look_at_other(dir, name, stat.kind),
        Err(error) => Look::Failed(error),
    }
}

/// What is no regular file.
fn look_at_other(dir: &SourceDir, name: &Name, kind: SourceKind) -> Look {
    match kind {
        SourceKind::Dir => Look::Dir,
        SourceKind::Symlink => match dir.read_link(name) {
            Ok(target) if target.is_empty() => {
                let error = io::Error::new(io::ErrorKind::InvalidData, "its target is empty");
                Look::Failed(Error::io("read the symbolic link", dir.path_of(name), error))
            }
            Ok(target) => Look::Symlink(target),
            Err(error) => Look::Failed(error),
        },
        SourceKind::Special | SourceKind::File => Look::Special,
    }
}
