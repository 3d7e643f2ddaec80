//! From events to trees: batches of files go to the worker threads, trees are built in order as their results come.
//!
//! The main thread walks the source and gathers events into groups. A group is a stretch of the walk: the files in it
//! are read by one worker in one go (a large file's chunks by all of them), and its events are replayed, in the order
//! of the walk, when the results are there. Groups in flight are few, so memory does not grow with the source.

use std::collections::VecDeque;
use std::mem;

use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};
use rayon::Scope;

use super::read::{Outcome, Reader, store_file};
use super::walk::{Event, FileToRead, Walk};
use crate::error::{Error, Result};
use crate::object::{Chunker, Counts, Entry, EntryKind, HashAlgorithm, Name, TreeBuilder, TreeId};
use crate::ops::parallel::Handles;
use crate::progress::Progress;
use crate::repo::{Appender, FRAME_CONTENT, ObjectWriter};

/// A group ends when it has so many files,
const GROUP_FILES: usize = 1024;
/// or files of so many bytes together: what fills a frame of a pack, so that each frame holds neighbours,
const GROUP_BYTES: u64 = FRAME_CONTENT as u64;
/// or so many events, or when it enters so many directories as [`Handles`] allows: each is held open while the group is
/// in flight.
const GROUP_EVENTS: usize = 4096;

/// What a file takes in a frame besides its content, on average: a header, and padding.
const MEMBER_OVERHEAD: u64 = 768;

/// What the assembly found, besides the trees.
pub(super) trait Notes {
    /// A file or directory could not be read.
    fn failed(&mut self, error: Error);
    /// A file changed each time it was read.
    fn changed(&mut self, file: &FileToRead);
}

/// The finished trees.
pub(super) struct Assembled {
    pub(super) tree: TreeId,
    pub(super) counts: Counts,
    /// Sockets, FIFOs and devices that were met.
    pub(super) special: u64,
}

/// Walks the source, stores everything, and builds the trees.
pub(super) fn assemble(
    walk: Walk,
    writer: &ObjectWriter<'_>,
    threads: &rayon::ThreadPool,
    handles: Handles,
    notes: &mut dyn Notes,
    progress: &dyn Progress,
) -> Result<Assembled> {
    let workers = Workers {
        writer,
        reader: Reader::new(Chunker::new(writer.repo().config().chunks)),
        progress,
        stop: AtomicBool::new(false),
    };
    threads.in_place_scope(|scope| {
        let result = run(walk, &workers, scope, handles, notes);
        // What is still queued need not be done if the run has failed.
        workers.stop.store(true, Ordering::Relaxed);
        result
    })
}

struct Workers<'w> {
    writer: &'w ObjectWriter<'w>,
    reader: Reader,
    progress: &'w dyn Progress,
    stop: AtomicBool,
}

type Outcomes = Result<Vec<Outcome>>;

#[derive(Default)]
struct Group {
    events: Vec<Event>,
    files: usize,
    dirs: usize,
    bytes: u64,
}

impl Group {
    fn push(&mut self, event: Event) {
        match &event {
            Event::File(file) => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(file.stat.size).saturating_add(MEMBER_OVERHEAD);
            }
            Event::Enter(_) => self.dirs += 1,
            _ => {}
        }
        self.events.push(event);
    }

    fn is_full(&self, handles: Handles) -> bool {
        self.files >= GROUP_FILES
            || self.bytes >= GROUP_BYTES
            || self.dirs >= handles.dirs
            || self.events.len() >= GROUP_EVENTS
    }

    fn send<'s>(self, workers: &'s Workers<'_>, scope: &Scope<'s>) -> SentGroup {
        let files: Vec<FileToRead> = self.events.iter().filter_map(Event::file).cloned().collect();
        let (sender, outcomes) = bounded(1);
        if files.is_empty() {
            return SentGroup { events: self.events, outcomes: None };
        }
        scope.spawn(move |_| {
            // Nobody listens any more if the run has failed.
            sender.send(workers.store(&files)).unwrap_or_default();
        });
        SentGroup { events: self.events, outcomes: Some(outcomes) }
    }
}

struct SentGroup {
    events: Vec<Event>,
    /// Nothing if the group has no files.
    outcomes: Option<Receiver<Outcomes>>,
}

impl Workers<'_> {
    fn store(&self, files: &[FileToRead]) -> Outcomes {
        let mut outcomes = Vec::with_capacity(files.len());
        let mut blobs = self.writer.blobs();
        for file in files {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let outcome = store_file(&mut blobs, &self.reader, file)?;
            if let Outcome::Stored { size, .. } = &outcome {
                self.progress.advance(1, *size);
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}

fn run<'s>(
    walk: Walk,
    workers: &'s Workers<'_>,
    scope: &Scope<'s>,
    handles: Handles,
    notes: &mut dyn Notes,
) -> Result<Assembled> {
    let mut sent: VecDeque<SentGroup> = VecDeque::new();
    let mut group = Group::default();
    let mut trees = Trees::new(workers.writer, notes);
    for event in walk {
        workers.writer.repo().go_on()?;
        group.push(event);
        if group.is_full(handles) {
            sent.push_back(mem::take(&mut group).send(workers, scope));
            if sent.len() >= handles.groups
                && let Some(oldest) = sent.pop_front()
            {
                trees.replay(oldest)?;
            }
        }
    }
    sent.push_back(group.send(workers, scope));
    for group in sent {
        trees.replay(group)?;
    }
    trees.finish()
}

/// The trees of the directories that are open, the innermost last.
struct Trees<'a, 'r> {
    hash: HashAlgorithm,
    objects: Appender<'a, 'r>,
    notes: &'a mut dyn Notes,
    top: TreeBuilder,
    open: Vec<(Name, TreeBuilder)>,
    counts: Counts,
    special: u64,
}

impl<'a, 'r> Trees<'a, 'r> {
    fn new(writer: &'a ObjectWriter<'r>, notes: &'a mut dyn Notes) -> Self {
        let (hash, objects) = (writer.repo().hash(), writer.trees());
        let top = TreeBuilder::new(hash);
        Self { hash, objects, notes, top, open: Vec::new(), counts: Counts::default(), special: 0 }
    }

    fn replay(&mut self, group: SentGroup) -> Result<()> {
        let outcomes = match group.outcomes {
            Some(outcomes) => outcomes.recv().unwrap_or_else(|_| Ok(Vec::new()))?,
            None => Vec::new(),
        };
        let mut outcomes = outcomes.into_iter();
        for event in group.events {
            match event {
                Event::Enter(name) => self.open.push((name, TreeBuilder::new(self.hash))),
                Event::Leave => self.leave()?,
                Event::File(file) => {
                    let outcome = outcomes.next().ok_or_else(lost_worker)?;
                    self.add_file(file, outcome)?;
                }
                Event::Symlink(name, target) => {
                    self.counts.symlinks += 1;
                    self.add(Entry { name, kind: EntryKind::Symlink { target } })?;
                }
                Event::Special => self.special += 1,
                Event::Repository => {}
                Event::Failed(error) => self.notes.failed(error),
            }
        }
        Ok(())
    }

    fn add_file(&mut self, file: FileToRead, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Stored { size, content, changed } => {
                if changed {
                    self.notes.changed(&file);
                }
                self.counts.files += 1;
                self.counts.bytes += size;
                self.add(Entry { name: file.name, kind: EntryKind::File { size, content } })
            }
            Outcome::Failed(error) => {
                self.notes.failed(error);
                Ok(())
            }
        }
    }

    fn add(&mut self, entry: Entry) -> Result<()> {
        let builder = self.open.last_mut().map_or(&mut self.top, |(_, builder)| builder);
        builder.push(entry, &mut |piece| self.objects.store_tree(piece))
    }

    fn leave(&mut self) -> Result<()> {
        let Some((name, builder)) = self.open.pop() else { return Ok(()) };
        let (tree, size) = builder.finish(&mut |piece| self.objects.store_tree(piece))?;
        self.counts.dirs += 1;
        self.add(Entry { name, kind: EntryKind::Dir { size, tree } })
    }

    fn finish(mut self) -> Result<Assembled> {
        let (tree, _size) = self.top.finish(&mut |piece| self.objects.store_tree(piece))?;
        Ok(Assembled { tree, counts: self.counts, special: self.special })
    }
}

/// A worker thread ended without a result. Its panic, which is the reason, ends the scope as well.
fn lost_worker() -> Error {
    Error::io("read", "a file of the source", std::io::Error::other("a worker thread was lost"))
}
