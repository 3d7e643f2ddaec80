//! The one error type of the library.
//!
//! No I/O error exists here without the action that was attempted and the path it was attempted on, so there is no
//! conversion from [`std::io::Error`]. Every message says what was attempted, where, why it failed and, where
//! something can be done, what to do next. The table from error to exit code lives in the command line.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::object::{ObjectId, display_path, printable};

/// A result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
#[derive(Debug)]
pub enum Error {
    /// A file system operation failed.
    Io {
        /// What was attempted, as a verb with its object: "create the file".
        action: Cow<'static, str>,
        /// The path it was attempted on.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no (complete) repository at the path.
    NoRepository {
        /// Where a repository was looked for.
        path: PathBuf,
        /// What was found instead.
        reason: String,
        /// What to do next.
        next: String,
    },
    /// Another process holds the repository's lock.
    Locked {
        /// The repository.
        path: PathBuf,
        /// How long this process waited.
        waited: Duration,
        /// The writers that hold it, one line each; readers are not recorded.
        holders: Vec<String>,
    },
    /// The repository, or one file of it, was written by a version that knows more than this one.
    TooNew {
        /// The file that says so.
        path: PathBuf,
        /// What is not known here.
        what: String,
    },
    /// A file of the repository other than an object (the configuration, a ref) does not hold what it must.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do next.
        next: String,
    },
    /// An object cannot be had.
    Object {
        /// The object's name.
        id: ObjectId,
        /// Why not.
        problem: ObjectProblem,
    },
    /// A snapshot was asked for that does not exist.
    NoSnapshot {
        /// What was asked for.
        wanted: String,
        /// The numbers that exist, ascending.
        existing: Vec<u64>,
    },
    /// The request was understood and could not be done. Nothing was changed, unless the texts say what was.
    Refused {
        /// What was attempted, with its path.
        attempted: String,
        /// Why it was refused.
        reason: String,
        /// What to do next.
        next: String,
    },
    /// The operation was told to stop before it was done. The repository needs nothing; see
    /// [`Interruption`](crate::progress::Interruption).
    Interrupted {
        /// What was done by then, where the same command run again does not simply go on.
        so_far: Option<String>,
    },
}

/// Why an object cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectProblem {
    /// No copy of it is in the repository.
    Missing,
    /// What is stored under its name is not its content, or not a valid object of the kind that refers to it.
    Damaged(String),
}

impl fmt::Display for ObjectProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Damaged(reason) => write!(f, "damaged: {reason}"),
        }
    }
}

impl Error {
    /// An I/O error with its context: "cannot `action` `path`".
    pub fn io(action: impl Into<Cow<'static, str>>, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io { action: action.into(), path: path.into(), source: source.into() }
    }

    /// An object whose stored bytes are wrong.
    pub fn damaged_object(id: ObjectId, reason: impl Into<String>) -> Self {
        Self::Object { id, problem: ObjectProblem::Damaged(reason.into()) }
    }

    /// A refusal: "cannot `attempted`: `reason`; `next`".
    pub fn refused(attempted: impl Into<String>, reason: impl Into<String>, next: impl Into<String>) -> Self {
        Self::Refused { attempted: attempted.into(), reason: reason.into(), next: next.into() }
    }

    /// What is wrong, without what to do next.
    pub fn reason(&self) -> String {
        match self {
            Self::Damaged { path, reason, .. } => format!("{}: {}", display_path(path), printable(reason)),
            other => other.to_string(),
        }
    }

    /// Whether the error is one of the thing that was read (it is damaged, gone, or on a bad sector), and not of everything.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Object { .. } | Self::Damaged { .. }) || self.is_not_found() || self.is_broken_medium()
    }

    /// Whether this is no failure: the operation was told to stop.
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Interrupted { .. })
    }

    /// Says of an interruption what was done by then; other errors stay as they are.
    #[must_use]
    pub fn interrupted_after(self, so_far: impl Into<String>) -> Self {
        if self.is_interrupted() { Self::Interrupted { so_far: Some(so_far.into()) } } else { self }
    }

    /// Whether there was no space for what was to be written.
    pub fn is_full(&self) -> bool {
        matches!(self.io_kind(), Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// The kind of the I/O error below, if this is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    /// Whether the medium, or the file system on it, could not give back what was stored.
    pub fn is_broken_medium(&self) -> bool {
        use rustix::io::Errno;
        match self {
            Self::Io { source, .. } => {
                let broken = [Errno::IO, Errno::BADMSG].map(|errno| Some(errno.raw_os_error()));
                source.kind() == io::ErrorKind::InvalidData || broken.contains(&source.raw_os_error())
            }
            _ => false,
        }
    }

    /// Whether the file or directory that was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        self.io_kind() == Some(io::ErrorKind::NotFound)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}", display_path(path))?;
                match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        f.write_str("; free some space and run the command again")
                    }
                    io::ErrorKind::ReadOnlyFilesystem => f.write_str(
                        "; on read-only media a repository can be listed, restored and checked, not changed",
                    ),
                    _ => Ok(()),
                }
            }
            Self::NoRepository { path, reason, next } => {
                write!(f, "cannot open the repository {}: {reason}; {next}", display_path(path))
            }
            Self::Locked { path, waited, holders } => {
                write!(f, "cannot lock the repository {}: waited {} s for ", display_path(path), waited.as_secs())?;
                if holders.is_empty() {
                    f.write_str("a process that is not recorded (one that reads it, or is just beginning or ending)")?;
                } else {
                    f.write_str(&holders.join("; "))?;
                }
                f.write_str("; run the command again later, or wait longer with --lock-wait")
            }
            Self::TooNew { path, what } => {
                // It may quote what was read.
                let what = printable(what);
                write!(f, "cannot read {}: {what}; use a newer version of backuptool", display_path(path))
            }
            Self::Damaged { path, reason, next } => {
                write!(f, "{} is damaged: {}; {next}", display_path(path), printable(reason))
            }
            Self::Object { id, problem } => write!(f, "object {id} is {problem}"),
            Self::NoSnapshot { wanted, existing } if existing.is_empty() => {
                write!(f, "there is no snapshot {wanted}: the repository holds no snapshot yet")
            }
            Self::NoSnapshot { wanted, existing } => {
                write!(f, "there is no snapshot {wanted}; the repository holds: {}", number_ranges(existing))
            }
            Self::Refused { attempted, reason, next } => write!(f, "cannot {attempted}: {reason}; {next}"),
            Self::Interrupted { so_far: None } => {
                f.write_str("interrupted; the repository needs no care, and the same command run again goes on")
            }
            Self::Interrupted { so_far: Some(so_far) } => write!(f, "interrupted; {so_far}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Ascending numbers with runs folded: `1-4, 7, 9-10`.
pub fn number_ranges(numbers: &[u64]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let texts = runs.map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_folded_into_ranges() {
        assert_eq!(number_ranges(&[1, 2, 3, 4, 7, 9, 10]), "1-4, 7, 9-10");
        assert_eq!(number_ranges(&[5]), "5");
    }
}
