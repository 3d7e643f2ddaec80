//! `cache/damaged`: the objects that the last `check` found damaged or missing, one name a line.
//!
//! A snapshot that meets one of them stores it again (what is in a pack is otherwise not read before it is reused, nor a
//! file that is as it was), and then takes it from the list.
//! Like everything in `cache` it can be deleted: what it says is found again by the next check. Lines that are no names are
//! passed over; while there are some, snapshots rely on nothing that one before them has seen.

use std::collections::HashSet;

use super::lines::{self, Lines};
use super::staging::Staging;
use super::{Backend, layout};
use crate::error::Result;
use crate::object::ObjectId;

/// What it says.
#[derive(Debug, Default)]
pub struct Damaged {
    /// The objects that it names; none where it is missing or lies on a bad sector.
    pub objects: HashSet<ObjectId>,
    /// Whether there is one that cannot be read, or not as a whole: then it is not known what is damaged.
    pub is_doubtful: bool,
}

impl Damaged {
    /// Whether it is sure that nothing is known to be damaged.
    pub fn is_nothing(&self) -> bool {
        self.objects.is_empty() && !self.is_doubtful
    }
}

/// Reads it.
pub fn read(backend: &dyn Backend) -> Result<Damaged> {
    let Lines { said, is_doubtful } = lines::read(backend, layout::DAMAGED, |line| line.parse().ok())?;
    Ok(Damaged { objects: said, is_doubtful })
}

/// Replaces it, durably. It is removed where there is nothing to name.
pub fn write(backend: &dyn Backend, staging: &Staging<'_>, objects: &[ObjectId]) -> Result<()> {
    let text: String = objects.iter().map(|id| format!("{id}\n")).collect();
    lines::replace(backend, staging, layout::DAMAGED, &text)?;
    backend.sync_dir(layout::CACHE)
}
