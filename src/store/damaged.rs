//! `cache/damaged`: the objects that were found damaged or missing, mostly by the last `check`, one name a line.
//!
//! A snapshot that meets one of them stores it again (what is in a pack is otherwise not read before it is reused, nor a
//! file that is as it was), and then takes it from the list.
//! Like everything in `cache` it can be deleted: what it says is found again by the next check. Lines that are no names are
//! passed over; while there are some, it is not known what is damaged: then snapshots rely on nothing that one before them
//! has seen, and on no object in a pack that they have not read. That ends with a check, or a repair, that reads everything.

use std::collections::{BTreeSet, HashSet};

use super::lines::{self, Lines};
use super::staging::Staging;
use super::{Backend, layout};
use crate::error::Result;
use crate::object::ObjectId;

/// What it says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
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

    /// Puts what somebody who has read everything found in place of what was noted `before` that. What was noted meanwhile
    /// stays.
    pub fn replace(&mut self, before: &Self, found: &[ObjectId]) {
        self.objects.retain(|id| !before.objects.contains(id));
        self.objects.extend(found);
        self.is_doubtful &= !before.is_doubtful;
    }
}

/// Reads it.
pub fn read(backend: &dyn Backend) -> Result<Damaged> {
    let Lines { said, is_doubtful } = lines::read(backend, layout::DAMAGED, |line| line.parse().ok())?;
    Ok(Damaged { objects: said, is_doubtful })
}

/// What stands in a line that is no name, so that a doubt stays one.
const DOUBT: &str = "?";

/// Replaces it, durably. It is removed where there is nothing to say.
pub fn write(backend: &dyn Backend, staging: &Staging<'_>, damaged: &Damaged) -> Result<()> {
    let names: BTreeSet<&ObjectId> = damaged.objects.iter().collect();
    let mut text: String = names.into_iter().map(|id| format!("{id}\n")).collect();
    if damaged.is_doubtful {
        text.insert_str(0, &format!("{DOUBT}\n"));
    }
    lines::replace(backend, staging, layout::DAMAGED, &text)?;
    backend.sync_dir(layout::CACHE)
}
