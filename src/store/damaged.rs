//! `cache/damaged`: the objects that the last `check` found damaged or missing, one name a line.
//!
//! A snapshot that meets one of them stores it again (what is in a pack is otherwise not read before it is reused, nor a
//! file that is as it was), and then takes it from the list.
//! Like everything in `cache` it can be deleted: what it says is found again by the next check. Lines that are no names are
//! passed over.

use super::staging::{Staging, random_hex};
use super::{Backend, layout, remove_if_there};
use crate::error::Result;
use crate::object::ObjectId;

use std::collections::HashSet;

/// No more than this is read, in bytes.
const LONGEST: usize = 64 << 20;

/// The objects that it names; none where it is missing or lies on a bad sector.
pub fn read(backend: &dyn Backend) -> Result<HashSet<ObjectId>> {
    let text = match backend.read(layout::DAMAGED, 0, LONGEST) {
        Err(error) if error.is_unreadable() => Vec::new(),
        other => other?,
    };
    let names = text.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok()?.parse().ok());
    Ok(names.collect())
}

/// Replaces it. It is removed where there is nothing to name.
pub fn write(backend: &dyn Backend, staging: &Staging<'_>, objects: &[ObjectId]) -> Result<()> {
    if objects.is_empty() {
        return remove_if_there(backend, layout::DAMAGED);
    }
    let staged = format!("damaged-{}", random_hex(4)?);
    let mut file = staging.create(&staged)?;
    let text: String = objects.iter().map(|id| format!("{id}\n")).collect();
    file.append(text.as_bytes())?;
    file.sync()?;
    drop(file);
    backend.replace(&staging.path(&staged), layout::DAMAGED)
}
