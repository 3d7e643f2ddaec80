//! Files in `cache` that are lines: what a check has found, for those that come later.
//!
//! They are notes and no part of the data. One that is missing, or lies on a bad sector, has no lines, and a reader passes
//! over lines that it does not understand.

use super::staging::{Staging, random_hex};
use super::{Backend, remove_if_there};
use crate::error::Result;

/// No more than this is read, in bytes.
const LONGEST: usize = 64 << 20;

/// Reads what the lines say, as far as `parse` understands them.
pub(super) fn read<T, C: FromIterator<T>>(
    backend: &dyn Backend,
    path: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<C> {
    let text = match backend.read(path, 0, LONGEST) {
        Err(error) if error.is_unreadable() => Vec::new(),
        other => other?,
    };
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| parse(str::from_utf8(line).ok()?)).collect())
}

/// Whether a file is there and cannot be read, or is longer than what is read, or has a line of which `is_one` is not true.
pub(super) fn are_doubtful(backend: &dyn Backend, path: &str, is_one: impl Fn(&str) -> bool) -> Result<bool> {
    let text = match backend.read(path, 0, LONGEST) {
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) if error.is_unreadable() => return Ok(true),
        other => other?,
    };
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(text.len() == LONGEST || !lines.all(|line| str::from_utf8(line).is_ok_and(&is_one)))
}

/// Replaces the file. It is removed where there is nothing to say.
pub(super) fn replace(backend: &dyn Backend, staging: &Staging<'_>, path: &str, text: &str) -> Result<()> {
    if text.is_empty() {
        return remove_if_there(backend, path);
    }
    let staged = staging.write(&format!("lines-{}", random_hex(4)?), text.as_bytes())?;
    backend.replace(&staged, path)
}
