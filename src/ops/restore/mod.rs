//! `restore`: writes a snapshot, or paths of it, into a new or empty directory.
//!
//! Every object is verified as it is read. What cannot be read or written stops only the file it belongs to: the rest is
//! restored, and the report names each. A file that is not whole is not left behind under its name. Nothing is replaced
//! and nothing is written outside the output directory, whatever the repository holds: see [`crate::fs::TargetDir`].
//!
//! An interruption ends it between chunks: the files that are being written are removed, and what is complete stays.

mod file;
mod selection;

use std::collections::VecDeque;
use std::mem;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rayon::Scope;

use self::file::FileToWrite;
use self::selection::Selection;
use super::address::{self, Address};
use super::parallel::{self, Handles};
use crate::error::{Error, Result};
use crate::fs::{Identity, TargetDir};
use crate::object::{Counts, Entry, EntryKind, Name, TreeId, display_path};
use crate::progress::{Progress, Warning, WarningReason};
use crate::repo::{Entries, FRAME_CONTENT, Repository};

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct RestoreOptions<'a> {
    /// The snapshot; with a path, what is at that path becomes the top.
    pub address: &'a Address,
    /// The directory to write; it must not exist or be empty.
    pub output: &'a Path,
    /// Paths below the top; only these (and the directories above them) are restored. None means everything.
    pub paths: &'a [Vec<Name>],
    /// How many threads read and write.
    pub threads: NonZero<usize>,
}

/// What a restore did.
#[derive(Debug)]
pub struct RestoreReport {
    /// The snapshot's number.
    pub number: u64,
    /// What was restored.
    pub restored: Counts,
    /// What was not, with the path in the output directory.
    pub failures: Vec<(PathBuf, Error)>,
    /// How long it took.
    pub elapsed: Duration,
}

/// A group of files goes to a worker when it has so many files,
const GROUP_FILES: usize = 1024;
/// or so many bytes: about a frame of a pack, so that threads seldom wait for the same one.
const GROUP_BYTES: u64 = FRAME_CONTENT as u64;

/// Restores a snapshot.
pub fn restore(repo: &Repository, options: &RestoreOptions<'_>, progress: &dyn Progress) -> Result<RestoreReport> {
    let begun = Instant::now();
    let snapshot = options.address.find(repo)?;
    let found = address::descend(repo, snapshot.tree, &options.address.path)?;
    let top = match found {
        None => Top::Dir(snapshot.tree),
        Some(EntryKind::Dir { tree, .. }) => Top::Dir(tree),
        Some(kind) => Top::Other(kind),
    };
    let selection = select(repo, &top, options)?;
    refuse_repository_as_output(repo, options.output)?;
    repo.packs()?.expect_threads(options.threads.get());
    let threads = parallel::pool(options.threads)?;
    let root = Arc::new(TargetDir::open_root(options.output)?);
    let handles = Handles::for_threads(options.threads);
    let (restored, failures) = threads.in_place_scope(|scope| {
        let mut restoring = Restoring {
            repo,
            progress,
            scope,
            handles,
            group: Vec::new(),
            group_bytes: 0,
            group_dirs: 0,
            sent: VecDeque::new(),
            restored: Counts::default(),
            failures: Vec::new(),
        };
        match top {
            Top::Dir(tree) => restoring.directory(repo.entries(tree), root, &selection),
            Top::Other(kind) => {
                // It is restored under its own name.
                if let Some(name) = options.address.path.last() {
                    restoring.entry(Entry { name: name.clone(), kind: kind.clone() }, &root);
                }
            }
        }
        restoring.finish()
    });
    repo.go_on().map_err(|error| {
        let output = display_path(options.output);
        error.interrupted_after(format!(
            "what is in {output} is whole as far as it has come; to restore everything, remove it or name another directory"
        ))
    })?;
    Ok(RestoreReport { number: snapshot.number, restored, failures, elapsed: begun.elapsed() })
}

/// The selection for the options' paths; it is an error if the snapshot does not have one of them.
fn select(repo: &Repository, top: &Top, options: &RestoreOptions<'_>) -> Result<Selection> {
    if options.paths.is_empty() {
        return Ok(Selection::All);
    }
    let Top::Dir(tree) = top else {
        return Err(Error::refused(
            "restore paths below the address",
            "the address leads to a file or a link",
            "leave the paths out, or address the directory that holds the file",
        ));
    };
    let mut selection = Selection::nothing();
    for path in options.paths {
        match address::descend(repo, *tree, path) {
            // What is damaged on the way is reported when the restore comes to it; the other paths do not suffer.
            Err(error) if !error.is_unreadable() => return Err(error),
            _ => selection.add(path),
        }
    }
    Ok(selection)
}

fn refuse_repository_as_output(repo: &Repository, output: &Path) -> Result<()> {
    let Some(root) = repo.backend().local_root() else { return Ok(()) };
    if Identity::of(root)?.is_at_or_above(output)? {
        return Err(Error::refused(
            format!("restore into {}", display_path(output)),
            "it is in the repository",
            "name a directory elsewhere; nothing was changed",
        ));
    }
    Ok(())
}

/// What the address leads to.
enum Top {
    Dir(TreeId),
    /// A file or a link.
    Other(EntryKind),
}

type Written = Vec<Result<u64, (PathBuf, Error)>>;

/// A restore in progress: the main thread walks the trees and makes directories and links, the workers write files.
struct Restoring<'x, 's> {
    repo: &'s Repository,
    progress: &'s dyn Progress,
    scope: &'x Scope<'s>,
    handles: Handles,
    group: Vec<FileToWrite>,
    group_bytes: u64,
    /// How many directories the files of the group are in.
    group_dirs: usize,
    sent: VecDeque<Receiver<Written>>,
    restored: Counts,
    failures: Vec<(PathBuf, Error)>,
}

struct OpenDir<'r, 'x> {
    entries: Entries<'r>,
    dir: Arc<TargetDir>,
    selection: &'x Selection,
}

impl<'s> Restoring<'_, 's> {
    /// Restores a directory and all below it, over a stack of its own: the depth of the trees does not matter to it.
    fn directory(&mut self, entries: Entries<'s>, dir: Arc<TargetDir>, selection: &Selection) {
        let mut stack = vec![OpenDir { entries, dir, selection }];
        while let Some(open) = stack.last_mut()
            && self.repo.go_on().is_ok()
        {
            let dir = Arc::clone(&open.dir);
            match open.entries.next() {
                None => {
                    stack.pop();
                }
                Some(Err(error)) => self.failed(dir.path().to_path_buf(), error),
                Some(Ok(entry)) => {
                    let Some(selected) = open.selection.below(&entry.name) else { continue };
                    if let Some((tree, dir)) = self.entry(entry, &dir) {
                        if stack.len() >= self.handles.depth {
                            let error = parallel::too_deep("fill the directory", dir.path());
                            self.failed(dir.path().to_path_buf(), error);
                            continue;
                        }
                        stack.push(OpenDir { entries: self.repo.entries(tree), dir, selection: selected });
                    }
                }
            }
        }
    }

    /// Restores an entry. A directory is made and returned, with the tree it is to be filled from.
    fn entry(&mut self, entry: Entry, dir: &Arc<TargetDir>) -> Option<(TreeId, Arc<TargetDir>)> {
        let Entry { name, kind } = entry;
        match kind {
            EntryKind::Dir { tree, .. } => match dir.make_dir(&name) {
                Ok(made) => {
                    self.restored.dirs += 1;
                    return Some((tree, Arc::new(made)));
                }
                Err(error) => self.failed(dir.path_of(&name), error),
            },
            EntryKind::Symlink { target } => match dir.make_symlink(&name, &target) {
                Ok(()) => self.restored.symlinks += 1,
                Err(error) => self.failed(dir.path_of(&name), error),
            },
            EntryKind::File { size, content } => {
                if self.group.last().is_none_or(|last| !Arc::ptr_eq(&last.dir, dir)) {
                    self.group_dirs += 1;
                }
                self.group.push(FileToWrite { dir: Arc::clone(dir), name, size, content });
                // What an entry says of its size is not to be trusted yet.
                self.group_bytes = self.group_bytes.saturating_add(size);
                let full = self.group.len() >= GROUP_FILES
                    || self.group_bytes >= GROUP_BYTES
                    || self.group_dirs >= self.handles.dirs;
                if full {
                    self.send();
                }
            }
        }
        None
    }

    fn send(&mut self) {
        let (sender, written) = bounded(1);
        let (repo, progress) = (self.repo, self.progress);
        let files = mem::take(&mut self.group);
        self.group_bytes = 0;
        self.group_dirs = 0;
        self.scope.spawn(move |_| {
            let mut blobs = repo.blobs();
            let write = |file: FileToWrite| {
                let result = file.write(&mut blobs);
                if result.is_ok() {
                    progress.advance(1, file.size);
                }
                result.map(|()| file.size).map_err(|error| (file.dir.path_of(&file.name), error))
            };
            // The main thread listens until all groups are done.
            sender.send(files.into_iter().map(write).collect()).unwrap_or_default();
        });
        self.sent.push_back(written);
        while self.sent.len() >= self.handles.groups {
            self.receive();
        }
    }

    fn receive(&mut self) {
        let Some(written) = self.sent.pop_front() else { return };
        for result in written.recv().into_iter().flatten() {
            match result {
                Ok(size) => {
                    self.restored.files += 1;
                    self.restored.bytes += size;
                }
                Err((path, error)) => self.failed(path, error),
            }
        }
    }

    fn failed(&mut self, path: PathBuf, error: Error) {
        if error.is_interrupted() {
            // It is no failure of this path; the whole restore ends.
            return;
        }
        self.progress.warning(&Warning { path: Some(&path), reason: WarningReason::Error(&error) });
        self.failures.push((path, error));
    }

    fn finish(mut self) -> (Counts, Vec<(PathBuf, Error)>) {
        self.send();
        while !self.sent.is_empty() {
            self.receive();
        }
        (self.restored, self.failures)
    }
}
