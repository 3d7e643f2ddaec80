//! backuptool: numbered, deduplicated, compressed, incremental snapshots of a directory, in a repository that is a
//! plain directory of immutable files named by the hash of their content.
//!
//! The library is built in layers and data flows one way through them:
//!
//! ```text
//! cli → ops → repo → store → fs          object, error, progress: for all
//! ```
//!
//! - [`object`]: names, hashes and encodings; pure, no I/O.
//! - [`fs`]: the only place that touches the file system.
//! - [`store`]: the storage seam ([`store::Backend`]), objects, refs and staging on top of it.
//! - [`repo`]: a repository opened shared or exclusive, with typed reads and writes.
//! - [`ops`]: one module an operation.
//!
//! The command line (`src/main.rs`, `src/cli/`) is a thin program on top. The library never prints, never reads the
//! environment, and is handed the clock. `docs/architecture.md` is the map; `docs/format.md` describes every byte of a
//! repository.

pub mod error;
pub mod fs;
pub mod object;
pub mod ops;
pub mod progress;
pub mod repo;
pub mod store;

pub use error::{Error, Result};
