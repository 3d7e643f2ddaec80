//! `list`: the snapshots of a repository.

use crate::error::{Error, Result};
use crate::object::{Labels, Snapshot};
use crate::repo::{Repository, SnapshotListing};

/// The snapshots of a repository, with what was said about them.
#[derive(Debug)]
pub struct ListReport {
    /// Those that can be read, by number.
    pub snapshots: Vec<Listed>,
    /// The numbers of those that cannot, and why not.
    pub unreadable: Vec<(u64, Error)>,
}

/// A snapshot and its labels.
#[derive(Debug)]
pub struct Listed {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its labels, or why they cannot be read.
    pub labels: Result<Labels>,
}

/// Every snapshot, by number, and those that cannot be read.
pub fn list(repo: &Repository) -> Result<ListReport> {
    let SnapshotListing { snapshots, unreadable } = repo.snapshots()?;
    let mut listed = Vec::with_capacity(snapshots.len());
    for snapshot in snapshots {
        let labels = repo.labels(snapshot.number);
        if labels.is_err() {
            repo.go_on()?;
        }
        listed.push(Listed { snapshot, labels });
    }
    Ok(ListReport { snapshots: listed, unreadable })
}
