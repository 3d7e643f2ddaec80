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

use super::compare::{Compare, KnownDir, KnownFile, mark_of};
use super::read::{Outcome, Reader, store_file};
use super::walk::{Event, FileToRead, Walk};
use crate::error::{Error, Result};
use crate::object::{Chunker, Content, Counts, Entry, EntryKind, HashAlgorithm, Name, TreeBuilder, TreeId};
use crate::ops::parallel::{Handles, lost_worker};
use crate::progress::Progress;
use crate::repo::{Appender, FRAME_CONTENT, ObjectWriter, SeenWriter};

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

/// What the last snapshot of the source saw, and what this one sees.
pub(super) struct History<'r> {
    pub(super) compare: Compare,
    pub(super) seen: SeenWriter<'r>,
}

/// The finished trees.
pub(super) struct Assembled {
    pub(super) tree: TreeId,
    pub(super) counts: Counts,
    /// Sockets, FIFOs and devices that were met.
    pub(super) special: u64,
    /// Files that are as they were, and were not read.
    pub(super) unchanged: u64,
}

/// Walks the source, stores everything that is not as it was, builds the trees, and writes down what is seen.
pub(super) fn assemble<'r>(
    walk: Walk<'_>,
    history: &mut History<'r>,
    writer: &ObjectWriter<'r>,
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
        let trees = Trees::new(writer, &mut history.seen, notes);
        let result = run(walk, &mut history.compare, &workers, scope, handles, trees);
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
    walk: Walk<'_>,
    compare: &mut Compare,
    workers: &'s Workers<'_>,
    scope: &Scope<'s>,
    handles: Handles,
    mut trees: Trees<'_, '_>,
) -> Result<Assembled> {
    let mut sent: VecDeque<SentGroup> = VecDeque::new();
    let mut group = Group::default();
    for event in walk {
        workers.writer.repo().go_on()?;
        let event = compare.event(event);
        if let Event::Known(file) = &event {
            workers.progress.advance(1, file.mark.size);
        }
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
    trees.finish(compare.end())
}

/// The trees of the directories that are open, the innermost last.
struct Trees<'a, 'r> {
    objects: Appender<'a, 'r>,
    seen: &'a mut SeenWriter<'r>,
    notes: &'a mut dyn Notes,
    top: OpenTree,
    open: Vec<(Name, OpenTree)>,
    counts: Counts,
    special: u64,
    unchanged: u64,
}

/// So many entries wait until it is known whether their directory is as it was.
const MOST_WAITING: usize = 4096;

/// The tree of an open directory. As long as everything in the directory may be as it was, its entries wait: if it is, they
/// need not be encoded.
struct OpenTree {
    builder: TreeBuilder,
    waiting: Vec<Entry>,
    /// Whether entries went to the builder.
    is_begun: bool,
}

impl OpenTree {
    fn new(hash: HashAlgorithm) -> Self {
        Self { builder: TreeBuilder::new(hash), waiting: Vec::new(), is_begun: false }
    }

    fn add(&mut self, entry: Entry, objects: &mut Appender<'_, '_>) -> Result<()> {
        self.waiting.push(entry);
        if self.waiting.len() >= MOST_WAITING { self.encode(objects) } else { Ok(()) }
    }

    fn encode(&mut self, objects: &mut Appender<'_, '_>) -> Result<()> {
        self.is_begun = true;
        let builder = &mut self.builder;
        self.waiting.drain(..).try_for_each(|entry| builder.push(entry, &mut |piece| objects.store_tree(piece)))
    }

    /// The tree and its size. What is known is taken, unless that would be no less work.
    fn finish(mut self, known: Option<KnownDir>, objects: &mut Appender<'_, '_>) -> Result<(TreeId, u64)> {
        match known {
            Some(KnownDir { tree, size }) if !self.is_begun => Ok((tree, size)),
            _ => {
                self.encode(objects)?;
                self.builder.finish(&mut |piece| objects.store_tree(piece))
            }
        }
    }
}

impl<'a, 'r> Trees<'a, 'r> {
    fn new(writer: &'a ObjectWriter<'r>, seen: &'a mut SeenWriter<'r>, notes: &'a mut dyn Notes) -> Self {
        let (hash, objects) = (writer.repo().hash(), writer.trees());
        let top = OpenTree::new(hash);
        Self { objects, seen, notes, top, open: Vec::new(), counts: Counts::default(), special: 0, unchanged: 0 }
    }

    fn replay(&mut self, group: SentGroup) -> Result<()> {
        let outcomes = match group.outcomes {
            Some(outcomes) => outcomes.recv().unwrap_or_else(|_| Ok(Vec::new()))?,
            None => Vec::new(),
        };
        let mut outcomes = outcomes.into_iter();
        for event in group.events {
            match event {
                Event::Enter(name) => {
                    self.seen.dir(&name);
                    self.open.push((name, OpenTree::new(self.objects.writer().repo().hash())));
                }
                Event::Leave(known) => self.leave(known)?,
                Event::Known(KnownFile { name, mark, content }) => {
                    self.seen.known_file(&name, &mark, content);
                    self.unchanged += 1;
                    self.add_content(name, mark.size, content)?;
                }
                Event::File(file) => {
                    let outcome = outcomes.next().ok_or_else(lost_worker)?;
                    self.add_file(file, outcome)?;
                }
                Event::Symlink(name, target) => {
                    self.seen.symlink(&name, &target);
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
            Outcome::Stored { size, content, stat, changed } => {
                if changed {
                    self.notes.changed(&file);
                }
                // A pseudo-file, which claims to be empty, is read each time too.
                if changed || stat.size != size {
                    self.seen.unsettled_file(&file.name, size, content);
                } else {
                    self.seen.read_file(&file.name, &mark_of(&stat), content);
                }
                self.add_content(file.name, size, content)
            }
            Outcome::Failed(error) => {
                self.notes.failed(error);
                Ok(())
            }
        }
    }

    fn add_content(&mut self, name: Name, size: u64, content: Content) -> Result<()> {
        self.counts.files += 1;
        self.counts.bytes += size;
        self.add(Entry { name, kind: EntryKind::File { size, content } })
    }

    fn add(&mut self, entry: Entry) -> Result<()> {
        self.open.last_mut().map_or(&mut self.top, |(_, open)| open).add(entry, &mut self.objects)
    }

    fn leave(&mut self, known: Option<KnownDir>) -> Result<()> {
        let Some((name, open)) = self.open.pop() else { return Ok(()) };
        let (tree, size) = open.finish(known, &mut self.objects)?;
        self.seen.end(tree, size);
        self.counts.dirs += 1;
        self.add(Entry { name, kind: EntryKind::Dir { size, tree } })
    }

    fn finish(mut self, known: Option<KnownDir>) -> Result<Assembled> {
        let (tree, size) = self.top.finish(known, &mut self.objects)?;
        self.seen.end(tree, size);
        Ok(Assembled { tree, counts: self.counts, special: self.special, unchanged: self.unchanged })
    }
}
