//! The walk over a source: one event after the other, in the order in which trees are built.
//!
//! The walk keeps its own stack of open directories, so the depth of the source is bounded by the open files that the
//! process may have, not by its stack. What cannot be read is an event like the others. Other threads may look ahead:
//! what they find is taken up in the order of the walk, so that nothing of it shows but the time.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::vec;

use rayon::ThreadPool;

use super::compare::{KnownDir, KnownFile};
use super::look::{BESIDE, BLOCK, Bounds, Listed, Look, Opened, OpenedAhead, OpenedDir, PIECE_DIRS, Permit};
use super::past::Past;
use crate::error::{Error, Result};
use crate::fs::{Identity, SourceDir, SourceEntry, SourceKind, Stat};
use crate::object::Name;
use crate::ops::parallel::{Ahead, Handles, lost_worker, too_deep};

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
    /// What it held in the last snapshot, if it has changed since and that is known.
    pub(in crate::ops) past: Option<Past>,
}

/// A directory that the walk is in.
struct OpenDir {
    listed: Listed,
    /// The entry that comes next.
    at: usize,
    /// What it is, and what those behind it are.
    looks: vec::IntoIter<Look>,
    /// What is found of the entries behind these, block by block.
    blocks: VecDeque<Ahead<'static, Vec<Look>>>,
    /// Where that ends.
    looked_to: usize,
    /// The directories that come next, as far as they are open.
    dirs: Peekable<vec::IntoIter<OpenedAhead>>,
    /// Those behind these, piece by piece.
    pieces: VecDeque<Ahead<'static, Vec<OpenedAhead>>>,
    /// Where those end.
    opened_to: usize,
}

impl OpenDir {
    fn new(OpenedDir { listed, looks, dirs }: OpenedDir) -> Self {
        let looked_to = looks.len();
        let opened_to = dirs.last().map_or(0, |last| last.place + 1);
        let (blocks, pieces) = (VecDeque::new(), VecDeque::new());
        let (looks, dirs) = (looks.into_iter(), dirs.into_iter().peekable());
        Self { listed, at: 0, looks, blocks, looked_to, dirs, pieces, opened_to }
    }

    /// What the entry at a place is. To be asked for each place in turn.
    fn look(&mut self, place: usize) -> Look {
        if self.looks.as_slice().is_empty() {
            let block = self.block(place);
            let ahead = self.blocks.pop_front().and_then(Ahead::finish).filter(|looks| looks.len() == block.len());
            self.looked_to = self.looked_to.max(block.end);
            self.looks = ahead.unwrap_or_else(|| self.listed.look(block)).into_iter();
        }
        self.looks.next().unwrap_or_else(|| Look::Failed(lost_worker()))
    }

    fn block(&self, from: usize) -> Range<usize> {
        from..self.listed.entries.len().min(from + BLOCK)
    }

    /// The directory at a place, if somebody has opened it.
    fn opened(&mut self, place: usize) -> Option<Opened> {
        if self.dirs.peek().is_none() && place < self.opened_to {
            let piece = self.pieces.pop_front()?;
            self.dirs = piece.finish().unwrap_or_default().into_iter().peekable();
        }
        self.dirs.next_if(|ahead| ahead.place == place).map(|ahead| ahead.opened)
    }

    /// The places of the next directories that nobody opens yet.
    fn next_piece(&mut self) -> Option<Range<usize>> {
        let entries = &self.listed.entries;
        let first = entries.next_dir(self.opened_to.max(self.at));
        let mut end = first.map_or(entries.len(), |first| first + 1);
        for _ in 1..BESIDE {
            end = entries.next_dir(end).map_or(end, |next| next + 1);
        }
        self.opened_to = end;
        first.map(|first| first..end)
    }
}

/// So many blocks of the entries of a large directory are looked at ahead of the walk,
const BLOCKS_AHEAD: usize = 4;
/// and so many pieces of the directories of each that it is in.
const PIECES_AHEAD: usize = 2;

/// A walk in progress.
pub(in crate::ops) struct Walk<'t> {
    stack: Vec<OpenDir>,
    top: Arc<SourceDir>,
    bounds: Bounds,
    handles: Handles,
    /// Who may look ahead.
    threads: Option<&'t ThreadPool>,
    /// Of which there is one more for each directory that is held open ahead.
    permit: Permit,
}

impl<'t> Walk<'t> {
    /// Begins at `source`, which must be readable. `repository` is kept out wherever it is met, and with `one_file_system`
    /// what is on another one is. If there are `threads`, they look at what comes next while it is waited for.
    pub(in crate::ops) fn begin(
        source: &Path,
        repository: Option<Identity>,
        one_file_system: bool,
        handles: Handles,
        threads: Option<&'t ThreadPool>,
    ) -> Result<Self> {
        let top = Arc::new(SourceDir::open(source)?);
        let only_device = if one_file_system { Some(top.identity()?.device()) } else { None };
        let stack = vec![OpenDir::new(OpenedDir::new(Arc::clone(&top), top.list()?))];
        let bounds = Bounds { repository, only_device };
        let mut walk = Self { stack, top, bounds, handles, threads, permit: Permit::default() };
        walk.look_ahead();
        Ok(walk)
    }

    /// What the top directory is, whatever its path.
    pub(super) fn top(&self) -> Result<Identity> {
        self.top.identity()
    }

    /// Lets the threads look at what comes next in the innermost directory.
    fn look_ahead(&mut self) {
        let (Some(threads), Some(open)) = (self.threads, self.stack.last_mut()) else { return };
        while open.blocks.len() < BLOCKS_AHEAD && open.looked_to < open.listed.entries.len() {
            let (listed, block) = (open.listed.clone(), open.block(open.looked_to));
            open.looked_to = block.end;
            open.blocks.push_back(Ahead::offer(threads, move || listed.look(block)));
        }
        while open.pieces.len() < PIECES_AHEAD && Arc::strong_count(&self.permit) + PIECE_DIRS <= self.handles.ahead + 1
        {
            let Some(places) = open.next_piece() else { return };
            let (bounds, listed, permits) =
                (self.bounds, open.listed.clone(), vec![Arc::clone(&self.permit); PIECE_DIRS]);
            open.pieces.push_back(Ahead::offer(threads, move || bounds.open_piece(&listed, places, permits)));
        }
    }

    /// Enters a directory, which may be open.
    fn enter(&mut self, parent: &SourceDir, name: Name, opened: Option<Opened>) -> Event {
        if self.stack.len() >= self.handles.depth {
            return Event::Failed(too_deep("open the directory", &parent.path_of(&name)));
        }
        match opened.map_or_else(|| self.bounds.open(parent, &name), Ok) {
            Ok(Opened::Dir(dir)) => {
                self.stack.push(OpenDir::new(dir));
                self.look_ahead();
                Event::Enter(name)
            }
            Ok(Opened::Repository) => Event::Repository,
            Err(error) => Event::Failed(error),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let open = self.stack.last_mut()?;
        let place = open.at;
        let Some(SourceEntry { name, kind }) = open.listed.entries.get(place) else {
            self.stack.pop();
            self.look_ahead();
            // The top ends with the walk.
            return (!self.stack.is_empty()).then_some(Event::Leave(None));
        };
        open.at += 1;
        let dir = Arc::clone(&open.listed.dir);
        let look = open.look(place);
        let opened = if kind == SourceKind::Dir { open.opened(place) } else { None };
        if open.at % BLOCK == 0 {
            self.look_ahead();
        }
        Some(match look {
            Look::Dir => self.enter(&dir, name, opened),
            Look::File(stat) => Event::File(FileToRead { dir, name, stat, past: None }),
            Look::Symlink(target) => Event::Symlink(name, target),
            Look::Special => Event::Special,
            Look::Failed(error) => Event::Failed(error),
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

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::fs;
    use std::num::NonZero;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::ops::parallel::pool;

    fn all(source: &Path, ahead: usize, threads: Option<&ThreadPool>) -> String {
        let handles = Handles { groups: 1, dirs: 1, depth: 6, ahead };
        let mut told = String::new();
        for event in Walk::begin(source, None, false, handles, threads).unwrap() {
            match event {
                Event::Enter(name) => writeln!(told, "enter {name:?}"),
                Event::Leave(_) => writeln!(told, "leave"),
                Event::File(file) => writeln!(told, "file {:?} of {}", file.dir.path_of(&file.name), file.stat.size),
                Event::Symlink(name, target) => writeln!(told, "link {name:?} to {target:?}"),
                Event::Failed(error) => writeln!(told, "failed: {error}"),
                Event::Special | Event::Repository | Event::Known(_) => writeln!(told, "something else"),
            }
            .unwrap();
        }
        told
    }

    #[test]
    fn who_looks_ahead_does_not_show() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        // Directories of every size that is dealt with apart, one below and beside the other.
        let sizes = [0, 1, 9, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 4 * BLOCK + 1, 6 * BLOCK + 7];
        for (number, size) in sizes.into_iter().enumerate() {
            let dir = top.join(format!("{number}/{size}"));
            fs::create_dir_all(&dir).unwrap();
            (0..size).for_each(|file| fs::write(dir.join(format!("{file:x}")), "").unwrap());
        }
        for number in 0..300 {
            let dir = top.join(format!("a/{}/{}", number % 30, number % 7));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("file"), "x".repeat(number)).unwrap();
            fs::write(top.join(format!("{number}-between")), "").unwrap();
            symlink("..", dir.join(format!("link{number}"))).unwrap();
        }
        fs::create_dir_all(top.join("deep/1/2/3/4/5/6/7")).unwrap();

        let expected = all(&top, 0, None);
        assert_eq!(expected.matches("file ").count(), sizes.iter().sum::<usize>() + 300 + 210);
        assert_eq!(expected.matches("nested deeper").count(), 1);
        for threads in [1, 3] {
            let threads = pool(NonZero::new(threads).unwrap()).unwrap();
            for ahead in [0, PIECE_DIRS, 3 * PIECE_DIRS, 256] {
                assert!(all(&top, ahead, Some(&threads)) == expected, "{ahead} ahead");
            }
        }
    }
}
