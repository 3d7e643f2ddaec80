//! Getting the repository's lock.
//!
//! The lock is the kernel's (flock on the file `lock`), so a dead process holds nothing and there is nothing to unlock
//! by hand. Shared for everything that reads or adds, exclusive for what removes. Where the lock file cannot be written
//! (read-only media, another user's repository) a reader opens it for reading; if there is none, it goes on without: what
//! it reads is verified in any case.

use std::io::ErrorKind;
use std::thread;
use std::time::{Duration, Instant};

use super::Session;
use crate::error::{Error, Result};
use crate::object::display_path;
use crate::store::{Backend, Lock, LockMode, layout, staging};

/// How often the lock is tried.
const POLL: Duration = Duration::from_millis(50);
/// After so long, and again each time so much has passed, the user is told what is waited for.
const FIRST_WORD: Duration = Duration::from_secs(1);
const NEXT_WORD: Duration = Duration::from_secs(10);

/// Waits for the lock. Nothing is returned where a lock is not needed: see the module.
pub(super) fn acquire(backend: &dyn Backend, mode: LockMode, session: &Session<'_>) -> Result<Option<Box<dyn Lock>>> {
    wait(backend, session, &mut || {
        Ok(match try_once(backend, mode)? {
            Attempt::Locked(lock) => Some(Some(lock)),
            Attempt::NotNeeded => Some(None),
            Attempt::Held => None,
        })
    })
}

/// Tries again and again, as long as the session is patient, to get what others hold.
pub(super) fn wait<T>(
    backend: &dyn Backend,
    session: &Session<'_>,
    attempt: &mut dyn FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    let mut next_word = FIRST_WORD;
    loop {
        session.interruption.check()?;
        if let Some(got) = attempt()? {
            return Ok(got);
        }
        let waited = begun.elapsed();
        if waited >= session.lock_wait {
            return Err(Error::Locked {
                path: backend.describe(""),
                waited,
                holders: staging::holders(backend).unwrap_or_default(),
            });
        }
        if waited >= next_word {
            let holders = staging::holders(backend).unwrap_or_default();
            session.progress.waiting_for_lock(waited, &holders);
            next_word = waited + NEXT_WORD;
        }
        thread::sleep(POLL.min(session.lock_wait.saturating_sub(waited)));
    }
}

/// Fails if the lock protects nothing any more. Asked right before the steps that rely on it most: publishing a ref, and
/// removing.
pub(super) fn confirm(backend: &dyn Backend, lock: Option<&dyn Lock>) -> Result<()> {
    match lock {
        Some(lock) if !lock.is_current()? => Err(Error::refused(
            format!("rely on the lock {}", display_path(&backend.describe(layout::LOCK))),
            "the file was replaced while it was locked (was another copy of the repository copied over this one?)",
            "run the command again when nothing else writes to the repository",
        )),
        _ => Ok(()),
    }
}

enum Attempt {
    Locked(Box<dyn Lock>),
    Held,
    NotNeeded,
}

fn try_once(backend: &dyn Backend, mode: LockMode) -> Result<Attempt> {
    let attempt = |locked: Option<Box<dyn Lock>>| locked.map_or(Attempt::Held, Attempt::Locked);
    let error = match backend.try_lock(layout::LOCK, mode, true) {
        Ok(locked) => return Ok(attempt(locked)),
        Err(error) => error,
    };
    if mode == LockMode::Exclusive {
        return Err(error);
    }
    match error.io_kind() {
        Some(ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) => {}
        _ => return Err(error),
    }
    match backend.try_lock(layout::LOCK, mode, false) {
        Ok(locked) => Ok(attempt(locked)),
        Err(error) if error.is_not_found() => Ok(Attempt::NotNeeded),
        Err(error) => Err(error),
    }
}
