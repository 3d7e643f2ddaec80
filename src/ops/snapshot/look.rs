//! Looking at a source: what a directory has, and what its entries are.
//!
//! This is what a walk spends its time on, nearly all of it in the kernel. So it is cut into pieces that other threads
//! may do before the walk comes to them: some directories that stand side by side, with some of what is below them, and
//! a block of the entries of a directory that is large. A piece takes about as long as a few hundred looks: much less is
//! not worth handing over.

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
    /// The directory itself.
    Dir(OpenedDir),
    /// The repository itself.
    Repository,
}

/// An open directory, and what was found in it.
pub(super) struct OpenedDir {
    pub(super) listed: Listed,
    /// What the first of its entries are.
    pub(super) looks: Vec<Look>,
    /// The first of its directories, as far as they were opened as well.
    pub(super) dirs: Vec<OpenedAhead>,
}

/// A directory that was opened before the walk came to it.
pub(super) struct OpenedAhead {
    /// Its place among the entries of the one that it is in.
    pub(super) place: usize,
    pub(super) opened: Opened,
    /// Held as long as it is open and the walk is not there yet.
    _permit: Permit,
}

/// That one more directory may be held open.
pub(super) type Permit = Arc<()>;

/// A piece has so many directories side by side,
pub(super) const BESIDE: usize = 8;
/// so many in all, which have no more entries than this each,
pub(super) const PIECE_DIRS: usize = 16;
const MOST_ENTRIES: usize = 4 * BLOCK;
/// and goes on as long as they have no more than this together,
const PIECE_ENTRIES: usize = BLOCK;
/// and no deeper than this.
const PIECE_DEPTH: usize = 8;

/// What is left of a piece.
struct Allowance {
    permits: Vec<Permit>,
    entries: usize,
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
    /// Opens and lists a directory, and looks at the first of its entries.
    pub(super) fn open(self, parent: &SourceDir, name: &Name) -> Result<Opened> {
        let Some((dir, is_elsewhere)) = self.open_dir(parent, name)? else { return Ok(Opened::Repository) };
        let entries = if is_elsewhere { DirListing::default() } else { dir.list()? };
        Ok(Opened::Dir(OpenedDir::new(Arc::new(dir), entries)))
    }

    /// The same, ahead of the walk. One that is large is left to the walk, and one that could not be opened: it may be that
    /// too many are open now.
    fn open_ahead(self, parent: &SourceDir, name: &Name) -> Option<Opened> {
        let Some((dir, is_elsewhere)) = self.open_dir(parent, name).ok()? else { return Some(Opened::Repository) };
        let entries = if is_elsewhere { DirListing::default() } else { dir.list_at_most(MOST_ENTRIES).ok()?? };
        Some(Opened::Dir(OpenedDir::new(Arc::new(dir), entries)))
    }

    /// Opens a directory, unless it is the repository. Where another file system is mounted that the walk does not go to
    /// there is a directory, and that is all.
    fn open_dir(self, parent: &SourceDir, name: &Name) -> Result<Option<(SourceDir, bool)>> {
        let dir = parent.open_dir(name)?;
        if self.repository.is_none() && self.only_device.is_none() {
            return Ok(Some((dir, false)));
        }
        let identity = dir.identity()?;
        let is_elsewhere = self.only_device.is_some_and(|device| device != identity.device());
        Ok((Some(identity) != self.repository).then_some((dir, is_elsewhere)))
    }

    /// Opens a piece: the directories at these places of one, and what is below them as long as there are permits. There
    /// must be one for each place.
    pub(super) fn open_piece(self, parent: &Listed, places: Range<usize>, permits: Vec<Permit>) -> Vec<OpenedAhead> {
        let mut allowance = Allowance { permits, entries: PIECE_ENTRIES };
        let mut piece = self.open_some(parent, places, &mut allowance, true);
        self.open_below(&mut piece, &mut allowance, PIECE_DEPTH);
        piece
    }

    /// Opens the directories at these places, as far as there are permits; if they must not be `all`, as long as they have
    /// not too many entries.
    fn open_some(
        self,
        parent: &Listed,
        places: Range<usize>,
        allowance: &mut Allowance,
        all: bool,
    ) -> Vec<OpenedAhead> {
        let mut opened = Vec::new();
        let mut from = places.start;
        while let Some(place) = parent.entries.next_dir(from).filter(|place| *place < places.end)
            && (all || allowance.entries > 0)
            && let Some(entry) = parent.entries.get(place)
            && let Some(permit) = allowance.permits.pop()
        {
            from = place + 1;
            let Some(dir) = self.open_ahead(&parent.dir, &entry.name) else { continue };
            if let Opened::Dir(dir) = &dir {
                allowance.entries = allowance.entries.saturating_sub(dir.listed.entries.len());
            }
            opened.push(OpenedAhead { place, opened: dir, _permit: permit });
        }
        opened
    }

    /// Opens what is below, in the order of the walk.
    fn open_below(self, piece: &mut [OpenedAhead], allowance: &mut Allowance, deeper: usize) {
        for ahead in piece {
            if let Opened::Dir(dir) = &mut ahead.opened
                && deeper > 0
            {
                dir.dirs = self.open_some(&dir.listed, 0..dir.listed.entries.len(), allowance, false);
                self.open_below(&mut dir.dirs, allowance, deeper - 1);
            }
        }
    }
}

impl OpenedDir {
    /// Looks at the first of the entries of a directory.
    pub(super) fn new(dir: Arc<SourceDir>, entries: DirListing) -> Self {
        let listed = Listed { dir, entries: Arc::new(entries) };
        Self { looks: listed.look(0..BLOCK), listed, dirs: Vec::new() }
    }
}

impl Listed {
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
