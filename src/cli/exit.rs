//! The one table from outcome to exit code. `docs/cli.md` prints it.

use std::process::ExitCode;

use backuptool::Error;
use signal_hook::consts::{SIGHUP, SIGTERM};

/// Done.
pub(super) const DONE: ExitCode = ExitCode::SUCCESS;
/// Failed; nothing was changed that counts, or the message says what was.
const FAILED: u8 = 1;
/// Wrong usage.
const WRONG_USAGE: u8 = 2;
/// Done, but not wholly: something could not be read or restored, is damaged or missing, or the disk was full; it is named
const PARTLY: u8 = 3;
/// `check` found damage, or `repair` left some.
const DAMAGED: u8 = 4;
/// There is no repository there.
const NO_REPOSITORY: u8 = 10;
/// The repository is locked.
const LOCKED: u8 = 11;

/// Interrupted because the terminal was closed (SIGHUP)
const HUNG_UP: u8 = 129;
/// Interrupted from the keyboard (Ctrl-C, SIGINT)
const INTERRUPTED: u8 = 130;
/// Interrupted by a request to end (SIGTERM)
const TERMINATED: u8 = 143;

/// The exit code for wrong usage.
pub(super) fn wrong_usage() -> ExitCode {
    WRONG_USAGE.into()
}

/// The exit code for an operation that was done wholly or partly.
pub(super) fn done(wholly: bool) -> ExitCode {
    if wholly { DONE } else { PARTLY.into() }
}

/// The exit code for a check or a repair: whether no damage is left.
pub(super) fn checked(clean: bool) -> ExitCode {
    if clean { DONE } else { DAMAGED.into() }
}

/// The exit code for an operation that failed, or that was interrupted by a signal of this number.
pub(super) fn failed(error: &Error, signal: i32) -> ExitCode {
    match error {
        Error::NoRepository { .. } => NO_REPOSITORY,
        Error::Locked { .. } => LOCKED,
        Error::Interrupted { .. } => match signal {
            SIGHUP => HUNG_UP,
            SIGTERM => TERMINATED,
            _ => INTERRUPTED,
        },
        Error::Io { .. }
        | Error::TooNew { .. }
        | Error::Damaged { .. }
        | Error::Object { .. }
        | Error::NoSnapshot { .. }
        | Error::Refused { .. } => FAILED,
    }
    .into()
}
