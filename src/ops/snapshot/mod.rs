//! `snapshot`: stores a directory as it is now.
//!
//! Errors of the source are per file: the rest is stored, and the snapshot says what is missing. Errors of the
//! repository end the run before the ref is written: there is no snapshot then, and what was stored is found again by
//! the next run.

mod assemble;
mod chunks;
mod compare;
mod look;
mod past;
mod read;
pub(super) mod walk;

use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use self::assemble::{Assembled, History, Notes};
pub use self::compare::ChangeDetection;
use self::compare::Compare;
use self::walk::{FileToRead, Walk};
use super::parallel;
use crate::error::{Error, Result};
use crate::fs::{Identity, SourceDir};
use crate::object::{
    Added, BlobId, Chunker, Content, Counts, Labels, ListBuilder, PathNote, PathNotes, Snapshot, display_path,
};
use crate::progress::{Progress, Warning, WarningReason};
pub use crate::repo::WriterOptions;
use crate::repo::{ObjectWriter, Repository, Session, SharedRepository, SourceId};
pub use crate::store::batch::SyncMethod;

/// What to take, and what is recorded with it.
#[derive(Debug, Clone)]
pub struct SnapshotOptions<'a> {
    /// The directory to take, as an absolute path.
    pub source: &'a Path,
    /// Who takes it.
    pub user: &'a [u8],
    /// The time now; asked again at the end.
    pub clock: fn() -> Timestamp,
    /// The local time's offset from UTC, in seconds.
    pub utc_offset: i32,
    /// Whether an empty source is taken although its last snapshot was not empty.
    pub allow_empty: bool,
    /// Whether what other file systems hold that are mounted below the source is left out.
    pub one_file_system: bool,
    /// What counts as a change since the last snapshot.
    pub detection: ChangeDetection,
    /// What is said about it from the beginning.
    pub labels: &'a Labels,
    /// How objects are written.
    pub writing: WriterOptions,
    /// How many threads read and compress.
    pub threads: NonZero<usize>,
}

/// What a snapshot run did.
#[derive(Debug)]
pub struct SnapshotReport {
    /// The snapshot as it was written.
    pub snapshot: Snapshot,
    /// Files that were not read, since they are as the last snapshot saw them.
    pub unchanged: u64,
    /// Sockets, FIFOs and devices that were met and not stored.
    pub special: u64,
    /// Damaged objects that were met again and stored anew.
    pub replaced: u64,
    /// Whether what checks have found is not known for sure: then everything was read.
    pub record_is_doubtful: bool,
    /// How long it took.
    pub elapsed: Duration,
}

/// Sees that a source is there and can be read at all, before anything is made for it.
pub fn check_source(source: &Path) -> Result<()> {
    SourceDir::open(source).map(|_| ()).map_err(|error| match error {
        Error::Io { source: reason, .. } => Error::refused(
            format!("take a snapshot of {}", display_path(source)),
            reason.to_string(),
            "name a directory that you may read, and see that its disk is mounted",
        ),
        other => other,
    })
}

/// Takes a snapshot of a directory.
pub fn snapshot(
    repo: &SharedRepository,
    options: &SnapshotOptions<'_>,
    session: &Session<'_>,
) -> Result<SnapshotReport> {
    let begun = Instant::now();
    let start = (options.clock)();
    let repository = repo.backend().local_root().map(Identity::of).transpose()?;
    refuse_repository_as_source(options.source, repository)?;
    let handles = parallel::Handles::for_threads(options.threads);
    let threads = parallel::pool(options.threads)?;
    let walk = Walk::begin(options.source, repository, options.one_file_system, handles, Some(&threads))?;
    repo.refuse_denied("store what is not stored yet")?;
    let writer = repo.writer(session, options.writing)?;
    let mut notes = PathCollector::new(options.source, session.progress);
    let top = walk.top()?;
    let host = session.host.clone().into_bytes();
    let path = options.source.as_os_str().as_bytes().to_vec();
    let source = SourceId { host: host.clone(), path: path.clone(), top: (top.device(), top.inode()) };
    let last = if options.detection.rescan { None } else { writer.last_seen(&source)? };
    if last.is_none() {
        refuse_where_all_are_lost(repo, options.source)?;
    }
    let seen = writer.seen(&source, start, options.detection.ignore_ctime, last.as_ref());
    let mut history = History { compare: Compare::begin(last, options.detection), seen };
    let Assembled { tree, counts, special, unchanged } =
        assemble::assemble(walk, &mut history, &writer, &threads, handles, &mut notes, session.progress)?;
    let (incomplete, changed) = (notes.incomplete.finish(&writer)?, notes.changed.finish(&writer)?);
    let snapshot = Snapshot {
        number: 0,
        start,
        end: (options.clock)(),
        utc_offset: options.utc_offset,
        host,
        user: options.user.to_vec(),
        source: path,
        options: if options.one_file_system { vec!["--one-file-system".into()] } else { Vec::new() },
        tool: concat!("backuptool ", env!("CARGO_PKG_VERSION")).to_string(),
        tree,
        counts,
        added: Added::default(),
        incomplete,
        changed,
    };
    refuse_nothing(repo, &snapshot, options)?;
    let (replaced, record_is_doubtful) = (writer.replaced(), writer.record_is_doubtful());
    let snapshot = writer.commit(snapshot, options.labels, Some(history.seen), session)?;
    Ok(SnapshotReport { snapshot, unchanged, special, replaced, record_is_doubtful, elapsed: begun.elapsed() })
}

fn refuse_repository_as_source(source: &Path, repository: Option<Identity>) -> Result<()> {
    let inside = repository.map_or(Ok(false), |repository| repository.is_at_or_above(source))?;
    if inside {
        return Err(Error::refused(
            format!("take a snapshot of {}", display_path(source)),
            "it is the repository itself, or in it",
            "name the directory to take, or another repository with --repo",
        ));
    }
    Ok(())
}

/// Refuses to begin anew with number 1 where all refs are lost: then nothing would show that any are missing, and the next
/// prune would remove what they need.
fn refuse_where_all_are_lost(repo: &Repository, source: &Path) -> Result<()> {
    match repo.all_lost()? {
        Some(Error::Damaged { path, reason, next }) => Err(Error::refused(
            format!("take a snapshot of {}", display_path(source)),
            format!("{} is damaged: {reason}", display_path(&path)),
            next,
        )),
        _ => Ok(()),
    }
}

/// Refuses a snapshot of nothing: of a source that could not be read at all, and of one that is empty where its last
/// snapshot was not, as when its disk is not mounted.
fn refuse_nothing(repo: &Repository, snapshot: &Snapshot, options: &SnapshotOptions<'_>) -> Result<()> {
    let Counts { files, dirs, symlinks, .. } = snapshot.counts;
    let attempted = || format!("take a snapshot of {}", display_path(options.source));
    if files + symlinks == 0 && snapshot.incomplete.count > 0 {
        let reasons = snapshot.incomplete.first.first().map_or("", |note| note.reason.as_str());
        return Err(Error::refused(
            attempted(),
            format!("none of its files could be read ({reasons})"),
            "see that you may read it; no snapshot was made",
        ));
    }
    if files + symlinks + dirs > 0 || options.allow_empty {
        return Ok(());
    }
    let last = repo.newest(|last| last.source == snapshot.source && last.host == snapshot.host)?;
    match last {
        Some(last) if last.counts != Counts::default() => Err(Error::refused(
            attempted(),
            format!("it is empty, and its last snapshot, {}, was not", last.number),
            "see that its disk is mounted, or say --allow-empty; no snapshot was made",
        )),
        _ => Ok(()),
    }
}

/// Gathers the paths that something has to be said about, in bounded memory up to the rare full list.
struct PathCollector<'a> {
    source: &'a Path,
    progress: &'a dyn Progress,
    incomplete: NoteList,
    changed: NoteList,
}

#[derive(Default)]
struct NoteList {
    notes: PathNotes,
    /// Every note as a line of JSON.
    lines: Vec<u8>,
}

impl<'a> PathCollector<'a> {
    fn new(source: &'a Path, progress: &'a dyn Progress) -> Self {
        Self { source, progress, incomplete: NoteList::default(), changed: NoteList::default() }
    }

    fn below_source(&self, path: &Path) -> Vec<u8> {
        path.strip_prefix(self.source).unwrap_or(path).as_os_str().as_bytes().to_vec()
    }
}

impl Notes for PathCollector<'_> {
    fn failed(&mut self, error: Error) {
        let (path, reason) = match &error {
            Error::Io { path, source, .. } if error.is_not_found() => {
                (Some(path), format!("it vanished while the snapshot was taken ({source})"))
            }
            Error::Io { path, source, .. } => (Some(path), source.to_string()),
            other => (None, other.to_string()),
        };
        self.progress.warning(&Warning { path: None, reason: WarningReason::Error(&error) });
        let path = path.map_or_else(Vec::new, |path| self.below_source(path));
        self.incomplete.push(PathNote { path, reason });
    }

    fn changed(&mut self, file: &FileToRead) {
        let path = file.dir.path_of(&file.name);
        let reason = "it changed each time it was read; the last reading is stored";
        self.progress.warning(&Warning { path: Some(&path), reason: WarningReason::Text(reason) });
        self.changed.push(PathNote { path: self.below_source(&path), reason: reason.into() });
    }
}

impl NoteList {
    fn push(&mut self, note: PathNote) {
        self.notes.count += 1;
        self.lines.extend_from_slice(&note.to_line());
        if self.notes.first.len() < PathNotes::FIRST {
            self.notes.first.push(note);
        }
    }

    /// Stores the full list, if it is longer than what the ref names itself.
    fn finish(self, writer: &ObjectWriter<'_>) -> Result<PathNotes> {
        let Self { mut notes, lines } = self;
        if notes.count > notes.first.len() as u64 {
            notes.all = Some((lines.len() as u64, store_bytes(writer, &lines)?));
        }
        Ok(notes)
    }
}

/// Stores bytes as the content of a file.
fn store_bytes(writer: &ObjectWriter<'_>, bytes: &[u8]) -> Result<Content> {
    let chunker = Chunker::new(writer.repo().config().chunks);
    if bytes.len() <= chunker.sizes().whole_file() {
        return Ok(Content::Blob(BlobId(writer.blobs().store(bytes)?)));
    }
    let mut list = ListBuilder::new();
    let (mut blobs, mut lists) = (writer.blobs(), writer.trees());
    let mut store = |piece: &[u8]| lists.store(piece);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(chunker.cut(rest));
        list.push(BlobId(blobs.store(chunk)?), chunk.len() as u64, &mut store)?;
        rest = after;
    }
    let (list, depth, _length) = list.finish(&mut store)?;
    Ok(Content::Chunks { list, depth })
}
