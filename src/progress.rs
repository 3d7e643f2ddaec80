//! How long operations report what they are doing, without knowing who listens, and how they are told to stop.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};

/// Receives reports from a running operation. Called from several threads, and often: implementations must be cheap.
pub trait Progress: Sync {
    /// `files` more files with `bytes` more bytes of content were dealt with.
    fn advance(&self, files: u64, bytes: u64);

    /// Something went wrong with one file or object; the operation goes on.
    fn warning(&self, warning: &Warning<'_>);

    /// The repository is locked by others and the operation has waited this long; it goes on waiting.
    fn waiting_for_lock(&self, waited: Duration, holders: &[String]);
}

/// Something that went wrong without stopping the operation.
#[derive(Debug)]
pub struct Warning<'a> {
    /// The file it is about: below the source, below the output directory, or in the repository.
    pub path: Option<&'a Path>,
    /// What went wrong.
    pub reason: WarningReason<'a>,
}

/// The cause of a [`Warning`].
#[derive(Debug)]
pub enum WarningReason<'a> {
    /// An error, which names its own paths.
    Error(&'a Error),
    /// A plain sentence.
    Text(&'a str),
}

/// The wish that an operation stop before it is done. All clones are the same wish; it is never taken back.
#[derive(Debug, Clone, Default)]
pub struct Interruption(Arc<AtomicBool>);

impl Interruption {
    /// It is wished once `flag` is true.
    pub fn from_flag(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Wishes it.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails with [`Error::Interrupted`] if it is wished. Costs next to nothing.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted { so_far: None }) } else { Ok(()) }
    }
}

/// Ignores every report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn advance(&self, _files: u64, _bytes: u64) {}
    fn warning(&self, _warning: &Warning<'_>) {}
    fn waiting_for_lock(&self, _waited: Duration, _holders: &[String]) {}
}
