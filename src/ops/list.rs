//! `list`: the snapshots of a repository.

use std::num::NonZero;

use rayon::prelude::*;

use super::parallel;
use crate::error::{Error, Result};
use crate::object::{Labels, Snapshot};
use crate::repo::Repository;

/// The snapshots of a repository, as they are to be shown.
#[derive(Debug)]
pub struct ListReport<T> {
    /// Those that can be read, by number.
    pub snapshots: Vec<T>,
    /// The numbers of those that cannot, and why not.
    pub unreadable: Vec<(u64, Error)>,
    /// Those of them whose refs are lost, ascending.
    pub lost: Vec<u64>,
    /// What is wrong if all refs are lost, and it is sure that there were some.
    pub all_lost: Option<Error>,
}

/// A snapshot and its labels.
#[derive(Debug)]
pub struct Listed {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its labels, or why they cannot be read.
    pub labels: Result<Labels>,
}

/// So few refs are read by one thread.
const FEW: usize = 256;

/// What `show` makes of every snapshot, by number, and those that cannot be read. Many are read by so many threads; who
/// reads one also calls `show`, so that no more of it is held than is shown.
pub fn list<T: Send>(
    repo: &Repository,
    threads: NonZero<usize>,
    show: impl Fn(Listed) -> T + Sync,
) -> Result<ListReport<T>> {
    let refs = repo.refs()?;
    let numbers = refs.expected();
    // Most snapshots have no labels, and to find that out for each of thousands takes as long as to read them.
    let read = |number: &u64| {
        let is_labelled = refs.labels.binary_search(number).is_ok();
        let snapshot = repo.read_snapshot(*number)?;
        let labels = if is_labelled { repo.labels(*number) } else { Ok(Labels::default()) };
        Ok(show(Listed { snapshot, labels }))
    };
    let results: Vec<Result<T>> = if numbers.len() <= FEW {
        numbers.iter().map(read).collect()
    } else {
        parallel::pool(threads)?.install(|| numbers.par_iter().map(read).collect())
    };
    repo.go_on()?;
    let mut report = ListReport {
        snapshots: Vec::with_capacity(results.len()),
        unreadable: Vec::new(),
        lost: refs.lost,
        all_lost: if results.is_empty() { repo.all_lost()? } else { None },
    };
    for (number, result) in numbers.into_iter().zip(results) {
        match result {
            Ok(shown) => report.snapshots.push(shown),
            Err(error) => report.unreadable.push((number, error)),
        }
    }
    Ok(report)
}
