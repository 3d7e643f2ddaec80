//! How staged loose objects become durable and visible: the one path by which they enter a repository. (The others enter in
//! packs: [`super::pack::PackWriter`].)
//!
//! # The order, and why it is safe
//!
//! 1. Each object is written whole to a file in the staging directory ([`Batch::stage`]).
//! 2. [`Batch::publish`] makes the content of all of them durable,
//! 3. then renames each to its name under `objects`,
//! 4. then makes these names durable.
//!
//! An object is visible under its name only after step 2, so at no moment, crash or not, does a name lead to content
//! that is incomplete. (ext4 with delayed allocation leaves an *empty file* behind a rename to a new name without step
//! 2. A later run would take it for stored; the loss would be silent and lasting.) Between 3 and 4 a crash may lose some
//! of the names, and nothing refers to them yet: the ref of a snapshot is written only after its last `publish` has
//! returned. A failed sync ends the run: what it covered is unknown, and a second try would report a false success.
//!
//! The rename replaces what may be there. Only two things can be: the same object, published by another run in the
//! meantime, or a damaged file under the object's name. What replaces it is complete and durable in both cases.
//!
//! # The syncs
//!
//! Up to [`FEW`] staged files are synced one by one, and then each directory they went to. Above that, one sync of the
//! whole file system before the renames and one after them cost less by an order of magnitude (about 20 µs an object
//! against 400 µs each; see `docs/design.md`). It also flushes what other programs wrote, so it is not done for a few
//! objects, and never when nothing is staged. Where there is no such call, or it cannot be trusted, every file is
//! synced by itself as it is written, by the thread that wrote it.

use std::sync::{Arc, Mutex, PoisonError};

use super::backend::{Backend, StagedFile};
use super::layout;
use super::staging::Staging;
use crate::error::Result;
use crate::object::ObjectId;

/// Up to so many staged files are synced one by one.
pub const FEW: usize = 64;

/// How written data is made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SyncMethod {
    /// The whole file system at once where that can be relied on, else each file.
    #[default]
    Auto,
    /// The whole file system at once, whatever it says of itself.
    Batch,
    /// Each file and directory by itself.
    Each,
}

/// A set of 256 shards.
#[derive(Debug, Default, Clone, Copy)]
struct Shards([u64; 4]);

impl Shards {
    fn insert(&mut self, first_byte: u8) {
        self.0[usize::from(first_byte) / 64] |= 1 << (first_byte % 64);
    }

    fn contains(&self, first_byte: u8) -> bool {
        self.0[usize::from(first_byte) / 64] & (1 << (first_byte % 64)) != 0
    }

    fn iter(&self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(|first_byte| self.contains(*first_byte))
    }
}

/// Objects on their way into the repository.
pub struct Batch<'b> {
    backend: &'b dyn Backend,
    staging: Arc<Staging<'b>>,
    sync_each: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    staged: Vec<ObjectId>,
    /// The handles of the staged files, while they are few: a sync through the handle that wrote is sure to see its
    /// errors.
    open: Vec<Box<dyn StagedFile>>,
    /// The shard directories that are known to exist.
    shards: Shards,
    /// The shards in which an object was found that another run may just have put there.
    reused: Shards,
}

impl<'b> Batch<'b> {
    /// An empty batch. `shards` are the shard directories that exist.
    pub fn new(
        backend: &'b dyn Backend,
        staging: Arc<Staging<'b>>,
        method: SyncMethod,
        shards: impl IntoIterator<Item = u8>,
    ) -> Self {
        let sync_each = match method {
            SyncMethod::Auto => !backend.can_sync_all(),
            SyncMethod::Batch => false,
            SyncMethod::Each => true,
        };
        let mut state = State::default();
        for shard in shards {
            state.shards.insert(shard);
        }
        Self { backend, staging, sync_each, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stages an object: `frame` is its file's content. May be called from several threads, once for each object.
    pub fn stage(&self, id: ObjectId, frame: &[u8]) -> Result<()> {
        let mut file = self.staging.create(&id.to_hex())?;
        file.append(frame)?;
        if self.sync_each {
            file.sync()?;
        }
        let mut state = self.state();
        state.staged.push(id);
        if !self.sync_each && state.staged.len() <= FEW {
            state.open.push(file);
        } else {
            // The handles are not needed for one sync of everything. They are closed outside the lock.
            let closed = std::mem::take(&mut state.open);
            drop(state);
            drop(closed);
        }
        Ok(())
    }

    /// Notes that an object that was not staged here is relied on; see [`Batch::secure_reused`].
    pub fn note_reused(&self, id: ObjectId) {
        self.state().reused.insert(id.as_bytes()[0]);
    }

    /// Makes what is staged so far durable and visible. Other threads may go on staging; what they stage is published
    /// by the next call.
    pub fn publish(&self) -> Result<()> {
        let (staged, mut open, existing) = {
            let mut state = self.state();
            (std::mem::take(&mut state.staged), std::mem::take(&mut state.open), state.shards)
        };
        if staged.is_empty() {
            return Ok(());
        }
        let at_once = !self.sync_each && staged.len() > FEW;
        if at_once {
            self.backend.sync_all()?;
        } else if !self.sync_each {
            for file in &mut open {
                file.sync()?;
            }
        }
        drop(open);

        let mut touched = Shards::default();
        for id in &staged {
            touched.insert(id.as_bytes()[0]);
        }
        for shard in touched.iter().filter(|shard| !existing.contains(*shard)) {
            self.backend.create_dir(&layout::shard_path(shard))?;
            self.state().shards.insert(shard);
        }
        for id in &staged {
            self.backend.replace(&self.staging.path(&id.to_hex()), &layout::object_path(*id))?;
        }
        if at_once { self.backend.sync_all() } else { self.sync_shards(touched) }
    }

    /// Makes the names of reused objects durable. An object that was found in the repository may have been renamed
    /// there a moment ago by a run that has not synced the name yet (its content is durable before it has the name). Call
    /// it after the last object was looked up and before a ref relies on them.
    pub fn secure_reused(&self) -> Result<()> {
        let reused = self.state().reused;
        self.sync_shards(reused)
    }

    fn sync_shards(&self, shards: Shards) -> Result<()> {
        let mut any = false;
        for shard in shards.iter() {
            self.backend.sync_dir(&layout::shard_path(shard))?;
            any = true;
        }
        // The shard directories themselves, which this run or another may have made.
        if any { self.backend.sync_dir(layout::OBJECTS) } else { Ok(()) }
    }
}
