//! The threads of an operation.

use std::num::NonZero;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// A pool of `threads` threads.
pub(super) fn pool(threads: NonZero<usize>) -> Result<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(|number| format!("worker-{number}"))
        .build()
        .map_err(|error| Error::io("start threads for", "this operation", std::io::Error::other(error.to_string())))
}
