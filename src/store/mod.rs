//! A place that holds a repository, and the durable protocols on it.
//!
//! [`Backend`] is the seam: a local directory ([`LocalBackend`]), a model of a disk in memory ([`MemoryBackend`]), later
//! others. On top of it, and knowing nothing of what is stored or why:
//!
//! - [`layout`]: the names of a repository's files;
//! - [`damaged`], [`verified`]: what checks have found damaged, and what whole;
//! - [`codec`]: the compression of objects;
//! - [`loose`]: finding and reading objects;
//! - [`pack`]: files that hold many objects each;
//! - [`index`], [`packs`]: where an object stands in all of them;
//! - [`staging`]: where a writer prepares files;
//! - [`batch`]: how staged objects become durable and visible;
//! - [`refs`]: how a snapshot becomes visible, and how it is removed;
//! - [`labels`]: how what can be changed about a snapshot is changed.

mod backend;
pub mod batch;
pub mod codec;
pub mod damaged;
pub mod index;
pub mod labels;
pub mod layout;
mod lines;
mod local;
pub mod loose;
mod memory;
pub mod pack;
pub mod packs;
pub mod refs;
pub mod staging;
pub mod verified;

pub use backend::{Backend, Entry, EntryKind, Lock, LockMode, StagedFile, StoredFile, remove_if_there};
pub use local::LocalBackend;
pub use memory::{Crash, MemoryBackend};
