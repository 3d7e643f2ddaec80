//! How a snapshot becomes visible, and how it is removed.
//!
//! # Publishing
//!
//! The ref is written to the staging directory, synced, and renamed to `snapshots/N.json` without replacing anything;
//! then the directory is synced. Only then is the snapshot reported as done. If another run took the number in the
//! meantime, the next one is tried. The caller has made everything that the ref reaches durable before.
//!
//! # Removing
//!
//! `N.json` is renamed to `N.pruned`: one atomic step that needs no space on the disk. The numbers of removed snapshots
//! are thereby remembered, and the next snapshot gets the highest number of both kinds plus one, so that a number never
//! means two snapshots. Where `N.json` and `N.pruned` both exist, the snapshot is pruned. All `.pruned` files but the
//! highest can go.
//!
//! # What is lost shows
//!
//! Numbers are given out one after the other. So a number that is lower than one that was given out is that of a snapshot,
//! or of a removed one; and if no `.pruned` file has it or a higher one, nothing was removed there: its ref is lost
//! ([`RefListing::lost`]). What only it needs must stay until it is brought back or given up. (Lost refs above the highest
//! that is left cannot be seen. And where two were published at the same time the power may take away the lower one, before
//! it was reported: that looks the same, and is to be given up.)

use super::backend::Backend;
use super::layout::{MAX_NUMBER, RefFile, SNAPSHOTS};
use super::loose::list_or_empty;
use super::staging::Staging;
use crate::error::{Error, Result};

/// No ref is longer than this, in bytes.
pub const MAX_REF: usize = 16 * 1024 * 1024;

/// So many lost refs are named at a time: a stray file with a high number must not cost memory.
const MOST_LOST: usize = 1 << 16;

/// What a listing of `snapshots` found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RefListing {
    /// The snapshots that exist, ascending.
    pub snapshots: Vec<u64>,
    /// The numbers of the `.pruned` files, ascending.
    pub pruned: Vec<u64>,
    /// The numbers of snapshots that were never removed and have no ref, ascending. (If they are very many, the first.)
    pub lost: Vec<u64>,
    /// The numbers for which there is a ref as well as a `.pruned` file: a removal that was interrupted.
    pub half_removed: Vec<u64>,
    /// The numbers of the label files, ascending.
    pub labels: Vec<u64>,
    /// Names that are not a repository's.
    pub strangers: Vec<String>,
}

impl RefListing {
    /// Whether nothing shows that there has ever been a snapshot.
    pub fn has_no_trace(&self) -> bool {
        self.snapshots.is_empty() && self.pruned.is_empty()
    }

    /// The number after all that are, or were, in use.
    pub fn next_number(&self) -> u64 {
        self.given_out().max(self.pruned.last().copied()).map_or(1, |highest| highest + 1)
    }

    /// The snapshots that must be there, ascending: those that are, and the lost ones.
    pub fn expected(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.snapshots.iter().chain(&self.lost).copied().collect();
        all.sort_unstable();
        all
    }

    /// Whether the snapshot was removed, as far as this shows.
    pub fn is_removed(&self, number: u64) -> bool {
        self.snapshots.binary_search(&number).is_err() && self.pruned.last().is_some_and(|removed| number <= *removed)
    }

    /// The highest number of which a ref, or labels, show that it was given out.
    fn given_out(&self) -> Option<u64> {
        self.snapshots.last().max(self.labels.last()).copied()
    }

    /// What is not there though it must be, of the first so many.
    fn find_lost(&self) -> Vec<u64> {
        let first = self.pruned.last().map_or(1, |removed| removed + 1);
        let must_be = first..=self.given_out().unwrap_or(0);
        must_be.filter(|number| self.snapshots.binary_search(number).is_err()).take(MOST_LOST).collect()
    }
}

/// Lists the refs.
pub fn list(backend: &dyn Backend) -> Result<RefListing> {
    let mut listing = RefListing::default();
    for entry in list_or_empty(backend, SNAPSHOTS)? {
        match RefFile::parse(&entry.name) {
            // Whatever it is: a ref that is no file is one that cannot be read, not one that is not there.
            Some(RefFile::Ref(number)) => listing.snapshots.push(number),
            Some(RefFile::Pruned(number)) => listing.pruned.push(number),
            Some(RefFile::Labels(number)) => listing.labels.push(number),
            None => listing.strangers.push(entry.name),
        }
    }
    listing.snapshots.sort_unstable();
    listing.pruned.sort_unstable();
    listing.labels.sort_unstable();
    let is_pruned = |number: &u64| listing.pruned.binary_search(number).is_ok();
    listing.half_removed = listing.snapshots.iter().copied().filter(is_pruned).collect();
    let half_removed = &listing.half_removed;
    listing.snapshots.retain(|number| !half_removed.contains(number));
    listing.lost = listing.find_lost();
    Ok(listing)
}

/// Reads the file of a ref, unverified.
pub fn read(backend: &dyn Backend, number: u64) -> Result<Vec<u8>> {
    backend.read(&RefFile::Ref(number).path(), 0, MAX_REF)
}

/// Publishes a ref under the next free number. `encode` makes the file's content for a number. When this returns, the
/// snapshot is visible and durable.
///
/// `next` is what [`RefListing::next_number`] of a listing said that was made since the repository is held shared; nothing
/// if there was none. It may be out of date: a number that was taken since is passed over. So is one whose snapshot was
/// removed since, though the lock keeps a prune away: where it does not hold, the new snapshot would count as removed. And so
/// is one that has labels: they are of a lost snapshot.
pub fn publish(
    backend: &dyn Backend,
    staging: &Staging<'_>,
    next: Option<u64>,
    encode: &mut dyn FnMut(u64) -> Vec<u8>,
) -> Result<u64> {
    let mut number = next.map_or_else(|| Ok(list(backend)?.next_number()), Ok)?;
    loop {
        if number > MAX_NUMBER {
            return Err(Error::refused(
                format!("take snapshot {number}"),
                "no snapshot has so high a number",
                "see which file in `snapshots` has the highest number, and whether it belongs there",
            ));
        }
        if is_there(backend, RefFile::Pruned(number))? || is_there(backend, RefFile::Labels(number))? {
            number += 1;
            continue;
        }
        let content = encode(number);
        if content.len() > MAX_REF {
            return Err(Error::refused(
                format!("write the ref of snapshot {number}"),
                format!("it has {} bytes, and the most a ref can have is {MAX_REF}", content.len()),
                "use shorter options and paths",
            ));
        }
        let staged = staging.write(&format!("ref-{number}"), &content)?;
        if publish_staged(backend, &staged, RefFile::Ref(number))? {
            backend.sync_dir(SNAPSHOTS).map_err(|error| {
                Error::refused(
                    format!("make snapshot {number} safe against a power failure"),
                    error.to_string(),
                    "the snapshot is complete and listed; see to the disk, then take another one",
                )
            })?;
            return Ok(number);
        }
        number += 1;
    }
}

fn is_there(backend: &dyn Backend, file: RefFile) -> Result<bool> {
    match backend.length(&file.path()) {
        Err(error) if error.is_not_found() => Ok(false),
        other => other.map(|_| true),
    }
}

/// Gives a staged file its name among the refs, unless something has that name: then the staged one goes. Returns whether
/// it has the name now, which is durable when the directory is synced.
pub fn publish_staged(backend: &dyn Backend, staged: &str, file: RefFile) -> Result<bool> {
    let is_new = backend.publish_new(staged, &file.path())?;
    if !is_new {
        backend.remove(staged)?;
    }
    Ok(is_new)
}

/// Removes snapshots and makes that durable; only then may the objects go that nothing else needs. Also completes
/// removals that were interrupted. Only for who holds the repository exclusively.
pub fn remove(backend: &dyn Backend, numbers: &[u64]) -> Result<()> {
    for number in list(backend)?.half_removed {
        backend.remove(&RefFile::Ref(number).path())?;
    }
    for number in numbers {
        backend.replace(&RefFile::Ref(*number).path(), &RefFile::Pruned(*number).path())?;
    }
    backend.sync_dir(SNAPSHOTS)
}

/// Removes what removed snapshots left: their labels, and all `.pruned` files but the highest. Only for who holds the
/// repository exclusively.
pub fn sweep(backend: &dyn Backend) -> Result<()> {
    let listing = list(backend)?;
    for number in &listing.labels {
        if listing.snapshots.binary_search(number).is_err() {
            backend.remove(&RefFile::Labels(*number).path())?;
        }
    }
    if let Some((_highest, lower)) = listing.pruned.split_last() {
        for number in lower {
            backend.remove(&RefFile::Pruned(*number).path())?;
        }
    }
    Ok(())
}
