//! The walk over a source: one event after the other, in the order in which trees are built.
//!
//! The walk keeps its own stack of open directories, so the depth of the source is bounded by the open files that the
//! process may have, not by its stack. What cannot be read is an event like the others.

use std::path::Path;
use std::sync::Arc;
use std::vec;

use crate::error::{Error, Result};
use crate::fs::{Identity, SourceDir, SourceEntry, SourceKind, Stat};
use crate::object::Name;

/// What the walk met. Entries of a directory come in the order of their names, those below a directory between its
/// `Enter` and its `Leave`.
pub(super) enum Event {
    /// A directory begins.
    Enter(Name),
    /// The directory that was entered last, and not left, ends.
    Leave,
    /// A regular file.
    File(FileToRead),
    /// A symbolic link and its target.
    Symlink(Name, Vec<u8>),
    /// A socket, FIFO or device: not stored.
    Special,
    /// A directory that is the repository itself: not stored.
    Repository,
    /// Something that could not be read.
    Failed(Error),
}

/// A regular file, as the walk saw it.
#[derive(Debug, Clone)]
pub(super) struct FileToRead {
    pub(super) dir: Arc<SourceDir>,
    pub(super) name: Name,
    pub(super) stat: Stat,
}

struct OpenDir {
    dir: Arc<SourceDir>,
    entries: vec::IntoIter<SourceEntry>,
}

/// A walk in progress.
pub(super) struct Walk {
    stack: Vec<OpenDir>,
    repository: Option<Identity>,
}

impl Walk {
    /// Begins at `source`, which must be readable. `repository` is kept out wherever it is met.
    pub(super) fn begin(source: &Path, repository: Option<Identity>) -> Result<Self> {
        let dir = SourceDir::open(source)?;
        let entries = dir.list()?.entries.into_iter();
        Ok(Self { stack: vec![OpenDir { dir: Arc::new(dir), entries }], repository })
    }

    fn enter(&mut self, parent: &SourceDir, name: Name) -> Event {
        let opened = parent.open_dir(&name).and_then(|dir| {
            if self.repository.is_some() && Some(dir.identity()?) == self.repository {
                return Ok(None);
            }
            let entries = dir.list()?.entries.into_iter();
            Ok(Some(OpenDir { dir: Arc::new(dir), entries }))
        });
        match opened {
            Ok(Some(open)) => {
                self.stack.push(open);
                Event::Enter(name)
            }
            Ok(None) => Event::Repository,
            Err(error) => Event::Failed(error),
        }
    }
}

impl Iterator for Walk {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let open = self.stack.last_mut()?;
        let Some(SourceEntry { name, kind }) = open.entries.next() else {
            self.stack.pop();
            // The top ends with the walk.
            return (!self.stack.is_empty()).then_some(Event::Leave);
        };
        let dir = Arc::clone(&open.dir);
        let event = match kind {
            SourceKind::Dir => self.enter(&dir, name),
            SourceKind::Symlink => match dir.read_link(&name) {
                Ok(target) => Event::Symlink(name, target),
                Err(error) => Event::Failed(error),
            },
            SourceKind::Special => Event::Special,
            SourceKind::File => match dir.stat(&name) {
                Ok(stat) => Event::File(FileToRead { dir, name, stat }),
                Err(error) => Event::Failed(error),
            },
        };
        Some(event)
    }
}

impl Event {
    /// The file, if it is one.
    pub(super) fn file(&self) -> Option<&FileToRead> {
        match self {
            Self::File(file) => Some(file),
            _ => None,
        }
    }
}
