//! What a directory still has of what is missing: the contents of files, and trees.
//!
//! As little is read as can help. A missing blob of so many bytes can only be the content of a file of that length.
//! Chunks and their lists can only come from files that are long enough to be cut, which are cut as a snapshot would.
//! Only if a tree is missing, everything is read, since what was in it is not known: the trees are built as a snapshot
//! builds them, and the one that has the missing name is the missing one.
//!
//! What is found is remembered by where it is, and read again when it is wanted. If the file has changed since, the hash
//! tells.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::Result;
use crate::fs::{Identity, SourceDir, SourceFile};
use crate::object::{
    BlobId, Chunker, Config, Content, Entry, EntryKind, HashAlgorithm, ListBuilder, Name, ObjectId, TreeBuilder,
};
use crate::ops::check::graph::{Node, Wanted};
use crate::ops::parallel::Handles;
use crate::ops::snapshot::walk::{Event, FileToRead, Walk};
use crate::progress::Progress;
use crate::repo::Repository;

/// So many events of the walk are gathered before their files are read, by all threads.
const GROUP: usize = 1024;
/// A large file is read in parts of so many bytes.
const PART: usize = 4 << 20;

/// What of a directory is to be read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Interest {
    /// Files of these lengths.
    lengths: HashSet<u64>,
    /// All files that are cut into chunks.
    chunked: bool,
    /// Everything, and the trees that it makes.
    trees: bool,
}

impl Interest {
    /// Takes in what could bring what is wanted.
    pub(super) fn add(&mut self, wanted: Wanted) {
        match wanted {
            Wanted::Node(Node::Dir(_) | Node::Piece(_)) => self.trees = true,
            Wanted::Node(Node::List { .. }) | Wanted::Blob { is_chunk: true, .. } => self.chunked = true,
            Wanted::Blob { length, is_chunk: false, .. } => {
                self.lengths.insert(length);
            }
        }
    }

    fn wants(&self, file: &FileToRead, whole_file: usize) -> bool {
        let is_chunked = file.stat.size > whole_file as u64;
        self.trees || if is_chunked { self.chunked } else { self.lengths.contains(&file.stat.size) }
    }
}

/// What was found in a directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    places: HashMap<ObjectId, Place>,
    /// The file that was read last.
    last: Mutex<Option<(Arc<PathBuf>, Name, SourceFile)>>,
}

#[derive(Debug)]
enum Place {
    /// In the file of this name in this directory.
    File { dir: Arc<PathBuf>, name: Name, offset: u64, length: usize },
    /// A tree or a list.
    Built(Vec<u8>),
}

impl Directory {
    /// Reads a directory. What `is_here` says to be whole in the repository is not remembered. What cannot be read in it
    /// is passed over. Call it in the pool of threads that shall read.
    pub(super) fn read(
        path: &Path,
        interest: &Interest,
        repo: &Repository,
        handles: Handles,
        is_here: impl Fn(&ObjectId) -> bool + Sync,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let repository = repo.backend().local_root().map(Identity::of).transpose()?;
        let walk = Walk::begin(path, repository, false, handles, None)?;
        let reading = Reading { config: repo.config(), interest, is_here, progress };
        let mut directory = Self::default();
        let mut trees = Trees::new(repo.hash());
        let mut events = Vec::new();
        let most_dirs = handles.dirs;
        let mut dirs = 0;
        for event in walk {
            dirs += usize::from(matches!(event, Event::Enter(_)));
            events.push(event);
            if events.len() >= GROUP || dirs >= most_dirs {
                directory.take(std::mem::take(&mut events), &reading, &mut trees)?;
                dirs = 0;
            }
        }
        directory.take(events, &reading, &mut trees)?;
        if interest.trees {
            let mut store = directory.keep(&reading);
            trees.top.finish(&mut store)?;
        }
        Ok(directory)
    }

    fn take<F: Fn(&ObjectId) -> bool + Sync>(
        &mut self,
        events: Vec<Event>,
        reading: &Reading<'_, F>,
        trees: &mut Trees,
    ) -> Result<()> {
        let files: Vec<&FileToRead> = events.iter().filter_map(Event::file).collect();
        let contents: Vec<Option<FileContent>> = files.par_iter().map(|file| reading.file(file)).collect();
        let mut contents = contents.into_iter();
        for event in events {
            match event {
                Event::File(file) => {
                    // What cannot be read, or is not wanted, is passed over.
                    let Some(content) = contents.next().flatten() else { continue };
                    self.places.extend(content.found);
                    let kind = EntryKind::File { size: content.size, content: content.content };
                    self.add(reading, trees, Entry { name: file.name, kind })?;
                }
                Event::Enter(name) => trees.open.push((name, TreeBuilder::new(trees.hash))),
                Event::Leave(_) => {
                    let Some((name, builder)) = trees.open.pop() else { continue };
                    if reading.interest.trees {
                        let (tree, size) = builder.finish(&mut self.keep(reading))?;
                        self.add(reading, trees, Entry { name, kind: EntryKind::Dir { size, tree } })?;
                    }
                }
                Event::Symlink(name, target) => {
                    self.add(reading, trees, Entry { name, kind: EntryKind::Symlink { target } })?;
                }
                // Only what was compared with an earlier snapshot is known.
                Event::Known(_) | Event::Special | Event::Repository | Event::Failed(_) => {}
            }
        }
        Ok(())
    }

    fn add<F: Fn(&ObjectId) -> bool + Sync>(
        &mut self,
        reading: &Reading<'_, F>,
        trees: &mut Trees,
        entry: Entry,
    ) -> Result<()> {
        if !reading.interest.trees {
            return Ok(());
        }
        let builder = trees.open.last_mut().map_or(&mut trees.top, |(_, builder)| builder);
        builder.push(entry, &mut self.keep(reading))
    }

    /// Keeps pieces of trees that are not in the repository, and names all.
    fn keep<F: Fn(&ObjectId) -> bool + Sync>(
        &mut self,
        reading: &Reading<'_, F>,
    ) -> impl FnMut(&[u8]) -> Result<ObjectId> {
        |piece| {
            let id = reading.config.hash.hash(piece);
            if !(reading.is_here)(&id) {
                self.places.insert(id, Place::Built(piece.to_vec()));
            }
            Ok(id)
        }
    }

    /// The content of an object, as it is now.
    pub(super) fn content(&self, id: ObjectId) -> Option<Vec<u8>> {
        let (dir, name, offset, length) = match self.places.get(&id)? {
            Place::Built(piece) => return Some(piece.clone()),
            Place::File { dir, name, offset, length } => (dir, name, *offset, *length),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(last_dir, last_name, _)| last_dir != dir || last_name != name) {
            let file = SourceDir::open(dir).and_then(|dir| dir.open_file(name)).ok()?;
            *last = Some((Arc::clone(dir), name.clone(), file));
        }
        let mut content = vec![0; length];
        let (_, _, file) = last.as_ref()?;
        (file.fill_at(offset, &mut content).ok()? == length).then_some(content)
    }
}

/// How files are read.
struct Reading<'a, F> {
    config: &'a Config,
    interest: &'a Interest,
    is_here: F,
    progress: &'a dyn Progress,
}

struct FileContent {
    size: u64,
    content: Content,
    found: Vec<(ObjectId, Place)>,
}

impl<F: Fn(&ObjectId) -> bool + Sync> Reading<'_, F> {
    /// What is in a file, if it is wanted and can be read.
    fn file(&self, file: &FileToRead) -> Option<FileContent> {
        let chunker = Chunker::new(self.config.chunks);
        let whole_file = chunker.sizes().whole_file();
        if !self.interest.wants(file, whole_file) {
            return None;
        }
        let mut source = file.dir.open_file(&file.name).ok()?;
        let dir = Arc::new(file.dir.path().to_path_buf());
        let hash = self.config.hash;
        let mut found = Vec::new();
        let mut note = |id: ObjectId, offset: u64, length: usize| {
            if !(self.is_here)(&id) {
                found.push((id, Place::File { dir: Arc::clone(&dir), name: file.name.clone(), offset, length }));
            }
        };
        let longest = PART + chunker.sizes().maximum();
        let first = usize::try_from(file.stat.size).unwrap_or(longest).saturating_add(1).min(longest);
        let mut buffer = vec![0; first.max(whole_file + 1)];
        let mut filled = source.fill(&mut buffer).ok()?;
        if filled <= whole_file {
            let id = hash.hash(&buffer[..filled]);
            note(id, 0, filled);
            self.progress.advance(1, filled as u64);
            return Some(FileContent { size: filled as u64, content: Content::Blob(BlobId(id)), found });
        }
        let mut list = ListBuilder::new();
        let mut pieces = Vec::new();
        let mut store = |piece: &[u8]| -> Result<ObjectId> {
            let id = hash.hash(piece);
            if !(self.is_here)(&id) {
                pieces.push((id, Place::Built(piece.to_vec())));
            }
            Ok(id)
        };
        let mut offset = 0;
        loop {
            let ended = filled < buffer.len();
            let mut at = 0;
            while filled - at >= chunker.sizes().maximum() || (ended && at < filled) {
                let length = chunker.cut(&buffer[at..filled]);
                let id = hash.hash(&buffer[at..at + length]);
                note(id, offset + at as u64, length);
                list.push(BlobId(id), length as u64, &mut store).ok()?;
                at += length;
            }
            if ended {
                break;
            }
            buffer.copy_within(at..filled, 0);
            offset += at as u64;
            filled -= at;
            buffer.resize(longest, 0);
            filled += source.fill(&mut buffer[filled..]).ok()?;
        }
        let (list, depth, size) = list.finish(&mut store).ok()?;
        found.extend(pieces);
        self.progress.advance(1, size);
        Some(FileContent { size, content: Content::Chunks { list, depth }, found })
    }
}

/// The trees of the directories that are open, the innermost last.
struct Trees {
    hash: HashAlgorithm,
    top: TreeBuilder,
    open: Vec<(Name, TreeBuilder)>,
}

impl Trees {
    fn new(hash: HashAlgorithm) -> Self {
        Self { hash, top: TreeBuilder::new(hash), open: Vec::new() }
    }
}
