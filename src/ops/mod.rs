//! The operations, one module each.
//!
//! Each takes a repository and its options and returns a report; none knows of terminals. What an operation would
//! remove, it first plans; a dry run is a plan that is not executed.

pub mod address;
pub mod check;
pub mod list;
mod parallel;
pub mod prune;
pub mod restore;
pub mod snapshot;
