//! The threads of an operation, and what they may hold open.

use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, bounded};
use rayon::{Scope, ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};
use crate::fs::open_file_budget;

/// A pool of `threads` threads.
pub(super) fn pool(threads: NonZero<usize>) -> Result<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(|number| format!("worker-{number}"))
        .build()
        .map_err(|error| Error::io("start threads for", "this operation", std::io::Error::other(error.to_string())))
}

/// Work that is done by whoever comes first: a thread that has nothing better to do, or the one that needs the result.
/// So it is never waited for while nobody does it. What is dropped before anybody began is not done.
pub(super) struct Ahead<'a, T> {
    work: Shared<'a, T>,
    result: Receiver<T>,
}

type Work<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;
type Shared<'a, T> = Arc<Mutex<Option<Work<'a, T>>>>;

fn begin<'a, T>(work: &Shared<'a, T>) -> Option<Work<'a, T>> {
    work.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl<T: Send + 'static> Ahead<'static, T> {
    /// Offers work to the threads of a pool.
    pub(super) fn offer(threads: &ThreadPool, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (ahead, offered) = Self::new(work);
        threads.spawn(offered);
        ahead
    }
}

impl<'a, T: Send + 'a> Ahead<'a, T> {
    /// Offers work to the threads of the pool that a scope is in.
    pub(super) fn offer_in(scope: &Scope<'a>, work: impl FnOnce() -> T + Send + 'a) -> Self {
        let (ahead, offered) = Self::new(work);
        scope.spawn(|_| offered());
        ahead
    }

    /// The work, and what a thread does that has nothing better to do.
    fn new(work: impl FnOnce() -> T + Send + 'a) -> (Self, impl FnOnce() + Send + 'a) {
        let work: Shared<'a, T> = Arc::new(Mutex::new(Some(Box::new(work))));
        let (sender, result) = bounded(1);
        let offered = Arc::clone(&work);
        let begun = move || {
            if let Some(work) = begin(&offered) {
                // Nobody listens any more if the operation has failed.
                sender.send(work()).unwrap_or_default();
            }
        };
        (Self { work, result }, begun)
    }
}

impl<T> Ahead<'_, T> {
    /// The result. Nothing if the thread that began it is gone, which takes a panic; and that ends the program.
    pub(super) fn finish(self) -> Option<T> {
        match begin(&self.work) {
            Some(work) => Some(work()),
            None => self.result.recv().ok(),
        }
    }
}

impl<T> Drop for Ahead<'_, T> {
    fn drop(&mut self) {
        drop(begin(&self.work));
    }
}

/// So many directory handles may be held at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handles {
    /// Groups of files that wait for the threads, or are dealt with by them.
    pub(super) groups: usize,
    /// The directories that the files of one group may be in.
    pub(super) dirs: usize,
    /// The directories that are open one below the other.
    pub(super) depth: usize,
    /// The directories that may be open before the walk comes to them.
    pub(super) ahead: usize,
}

/// More directories in a group, and ahead of the walk, bring nothing.
const MOST_DIRS: usize = 128;
const MOST_AHEAD: usize = 256;

impl Handles {
    /// As many as keep so many threads busy, within what the process may have open.
    pub(super) fn for_threads(threads: NonZero<usize>) -> Self {
        let groups = 2 * threads.get() + 2;
        let budget = open_file_budget();
        // A quarter for the groups, a half for the depth, an eighth for what is ahead, the rest for the files themselves.
        let dirs = (budget / 4 / (groups + 1)).clamp(1, MOST_DIRS);
        Self { groups, dirs, depth: budget / 2, ahead: (budget / 8).min(MOST_AHEAD) }
    }
}

/// The error for a directory below which no more handles are to be had.
pub(super) fn too_deep(action: &'static str, path: &Path) -> Error {
    let reason = "it is nested deeper than this process may have directories open (see `ulimit -n`)";
    Error::io(action, path, std::io::Error::other(reason))
}

/// The error for a worker thread that ended without a result. Its panic, which is the reason, ends the operation as well.
pub(super) fn lost_worker() -> Error {
    Error::io("read", "a file of the source", std::io::Error::other("a worker thread was lost"))
}
