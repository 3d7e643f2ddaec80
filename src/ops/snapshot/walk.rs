//! The walk over a source: one event after the other, in the order in which trees are built.
//!
//! The walk keeps its own stack of open directories, so the depth of the source is bounded by the open files that the
//! process may have, not by its stack. What cannot be read is an event like the others.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::vec;

use super::compare::{KnownDir, KnownFile};
use crate::error::{Error, Result};
use crate::fs::{Identity, SourceDir, SourceEntry, SourceKind, Stat};
use crate::object::Name;
use crate::ops::parallel::too_deep;

/// What the walk met. Entries of a directory come in the order of their names, those below a directory between its
/// `Enter` and its `Leave`.
pub(in crate::ops) enum Event {
    /// A directory begins.
    Enter(Name),
    /// The directory that was entered last, and not left, ends; it may be known to be as it was.
    Leave(Option<KnownDir>),
    /// A regular file.
    File(FileToRead),
    /// A regular file that is as it was.
    Known(KnownFile),
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
pub(in crate::ops) struct FileToRead {
    pub(in crate::ops) dir: Arc<SourceDir>,
    pub(in crate::ops) name: Name,
    pub(in crate::ops) stat: Stat,
}

struct OpenDir {
    dir: Arc<SourceDir>,
    entries: vec::IntoIter<SourceEntry>,
}

/// A walk in progress.
pub(in crate::ops) struct Walk {
    stack: Vec<OpenDir>,
    top: Arc<SourceDir>,
    repository: Option<Identity>,
    /// Nothing where other file systems are walked too.
    only_device: Option<u64>,
    deepest: usize,
}

impl Walk {
    /// Begins at `source`, which must be readable. `repository` is kept out wherever it is met, and with `one_file_system`
    /// what is on another one is; no more than `deepest` directories are held open one below the other.
    pub(in crate::ops) fn begin(
        source: &Path,
        repository: Option<Identity>,
        one_file_system: bool,
        deepest: usize,
    ) -> Result<Self> {
        let dir = SourceDir::open(source)?;
        let entries = dir.list()?.entries.into_iter();
        let top = Arc::new(dir);
        let only_device = if one_file_system { Some(top.identity()?.device()) } else { None };
        Ok(Self { stack: vec![OpenDir { dir: Arc::clone(&top), entries }], top, repository, only_device, deepest })
    }

    /// What the top directory is, whatever its path.
    pub(super) fn top(&self) -> Result<Identity> {
        self.top.identity()
    }

    fn enter(&mut self, parent: &SourceDir, name: Name) -> Event {
        if self.stack.len() >= self.deepest {
            return Event::Failed(too_deep("open the directory", &parent.path_of(&name)));
        }
        let opened = parent.open_dir(&name).and_then(|dir| {
            let mut is_elsewhere = false;
            if self.repository.is_some() || self.only_device.is_some() {
                let identity = dir.identity()?;
                if Some(identity) == self.repository {
                    return Ok(None);
                }
                is_elsewhere = self.only_device.is_some_and(|device| device != identity.device());
            }
            // Where another file system is mounted there is a directory, and that is all.
            let entries = if is_elsewhere { Vec::new() } else { dir.list()?.entries }.into_iter();
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

impl Walk {
    /// The event for what is no regular file.
    fn other(&mut self, dir: &SourceDir, name: Name, kind: SourceKind) -> Event {
        match kind {
            SourceKind::Dir => self.enter(dir, name),
            SourceKind::Symlink => match dir.read_link(&name) {
                Ok(target) if target.is_empty() => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, "its target is empty");
                    Event::Failed(Error::io("read the symbolic link", dir.path_of(&name), error))
                }
                Ok(target) => Event::Symlink(name, target),
                Err(error) => Event::Failed(error),
            },
            SourceKind::Special | SourceKind::File => Event::Special,
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
            return (!self.stack.is_empty()).then_some(Event::Leave(None));
        };
        let dir = Arc::clone(&open.dir);
        if kind != SourceKind::File {
            return Some(self.other(&dir, name, kind));
        }
        Some(match dir.stat(&name) {
            Ok(stat) if stat.kind == SourceKind::File => Event::File(FileToRead { dir, name, stat }),
            // It was replaced since the directory was listed.
            Ok(stat) => self.other(&dir, name, stat.kind),
            Err(error) => Event::Failed(error),
        })
    }
}

impl Event {
    /// The file, if it is one.
    pub(in crate::ops) fn file(&self) -> Option<&FileToRead> {
        match self {
            Self::File(file) => Some(file),
            _ => None,
        }
    }
}
