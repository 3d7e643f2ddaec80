//! The threads of an operation, and what they may hold open.

use std::num::NonZero;
use std::path::Path;

use rayon::{ThreadPool, ThreadPoolBuilder};

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

/// So many directory handles may be held at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handles {
    /// Groups of files that wait for the threads, or are dealt with by them.
    pub(super) groups: usize,
    /// The directories that the files of one group may be in.
    pub(super) dirs: usize,
    /// The directories that are open one below the other.
    pub(super) depth: usize,
}

/// More directories in a group bring nothing.
const MOST_DIRS: usize = 128;

impl Handles {
    /// As many as keep so many threads busy, within what the process may have open.
    pub(super) fn for_threads(threads: NonZero<usize>) -> Self {
        let groups = 2 * threads.get() + 2;
        let budget = open_file_budget();
        // A quarter for the groups, a half for the depth, the rest for the files themselves.
        let dirs = (budget / 4 / (groups + 1)).clamp(1, MOST_DIRS);
        Self { groups, dirs, depth: budget / 2 }
    }
}

/// The error for a directory below which no more handles are to be had.
pub(super) fn too_deep(action: &'static str, path: &Path) -> Error {
    let reason = "it is nested deeper than this process may have directories open (see `ulimit -n`)";
    Error::io(action, path, std::io::Error::other(reason))
}
