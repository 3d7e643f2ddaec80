//! `list`: the snapshots of a repository.

use crate::error::Result;
use crate::repo::{Repository, SnapshotListing};

/// Every snapshot, by number, and those that cannot be read.
pub fn list(repo: &Repository) -> Result<SnapshotListing> {
    repo.snapshots()
}
