//! Files in `cache` that are lines: what a check has found, for those that come later.
//!
//! They are notes and no part of the data. One that is missing, or lies on a bad sector, has no lines, and a reader passes
//! over lines that it does not understand.

use super::staging::{Staging, random_hex};
use super::{Backend, remove_if_there};
use crate::error::Result;

/// No more than this is read, in bytes.
const LONGEST: usize = 64 << 20;

/// What the lines of a file say.
pub(super) struct Lines<C> {
    /// Of those that are understood.
    pub(super) said: C,
    /// Whether there is more: the file cannot be read, is longer than what is read, or has lines that are not understood.
    pub(super) is_doubtful: bool,
}

/// Reads what the lines say, as far as `parse` understands them.
pub(super) fn read<T, C: FromIterator<T>>(
    backend: &dyn Backend,
    path: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Lines<C>> {
    let (text, mut is_doubtful) = match backend.read(path, 0, LONGEST) {
        Err(error) if error.is_unreadable() => (Vec::new(), !error.is_not_found()),
        other => other.map(|text| (text, false))?,
    };
    is_doubtful |= text.len() == LONGEST;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let parsed = lines.map(|line| parse(str::from_utf8(line).ok()?));
    let said = parsed.inspect(|line| is_doubtful |= line.is_none()).flatten().collect();
    Ok(Lines { said, is_doubtful })
}

/// Replaces the file. It is removed where there is nothing to say.
pub(super) fn replace(backend: &dyn Backend, staging: &Staging<'_>, path: &str, text: &str) -> Result<()> {
    if text.is_empty() {
        return remove_if_there(backend, path);
    }
    let staged = staging.write(&format!("lines-{}", random_hex(4)?), text.as_bytes())?;
    backend.replace(&staged, path)
}
