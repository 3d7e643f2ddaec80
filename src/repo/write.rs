//! Adding objects and a snapshot.
//!
//! # Why a ref never leads to what is not there
//!
//! [`ObjectWriter::commit`] publishes the ref last, after
//!
//! 1. every object that this run stored is durable under its name ([`Batch::publish`]), and
//! 2. the names of all objects that it found and reused are durable as well ([`Batch::secure_reused`]): one may have been
//!    renamed into place a moment ago by another run that has not synced the directory yet.
//!
//! What is reused cannot vanish for another reason: the shared lock is held, and what removes needs the exclusive one.
//!
//! What is found is not taken on trust: the first time a run would reuse an object that it did not write, the stored
//! content is read and compared with the content at hand. If they differ, the object is stored again, in place of the
//! damaged file.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Repository, Session, lock};
use crate::error::{Error, Result};
use crate::object::{Added, ObjectId, Snapshot, Tree};
use crate::store::batch::{Batch, SyncMethod};
use crate::store::staging::{self, Staging};
use crate::store::{Lock, codec, layout, loose, refs};

/// When so many objects, or so many bytes of frames, are staged they are published, so that an interrupted run goes on
/// near where it stopped. (FAT takes about 10,000 names of this length in the staging directory.)
const PUBLISH_OBJECTS: usize = 8192;
const PUBLISH_BYTES: u64 = 4 << 30;

/// Stores objects, each once, and at last the snapshot that needs them.
pub struct ObjectWriter<'r> {
    repo: &'r Repository,
    lock: Option<&'r dyn Lock>,
    batch: Batch<'r>,
    known: Known,
    added: AddedCounters,
    replaced: AtomicU64,
}

/// The objects that need not be written, sharded by their first byte so that threads seldom meet.
struct Known([Mutex<HashMap<ObjectId, Presence>>; 64]);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// A file of its name is there; what is in it has not been looked at.
    Listed,
    /// It was compared or written by this run, or is being so by one of its threads. If that fails the run fails.
    Settled,
}

#[derive(Default)]
struct AddedCounters {
    objects: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
}

impl Known {
    fn new(listed: &[ObjectId]) -> Self {
        let known = Self(std::array::from_fn(|_| Mutex::default()));
        for id in listed {
            known.shard(*id).insert(*id, Presence::Listed);
        }
        known
    }

    fn shard(&self, id: ObjectId) -> std::sync::MutexGuard<'_, HashMap<ObjectId, Presence>> {
        self.0[usize::from(id.as_bytes()[0]) % 64].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles the object and returns what it was before: the caller who does not get `Settled` has to see to it.
    fn settle(&self, id: ObjectId) -> Option<Presence> {
        self.shard(id).insert(id, Presence::Settled)
    }
}

impl<'r> ObjectWriter<'r> {
    pub(super) fn begin(
        repo: &'r Repository,
        lock: Option<&'r dyn Lock>,
        session: &Session<'_>,
        method: SyncMethod,
    ) -> Result<Self> {
        let backend = repo.backend();
        // zip and some ways of copying drop empty directories.
        for dir in layout::DIRS {
            backend.create_dir(dir)?;
        }
        backend.sync_dir("")?;
        staging::remove_abandoned(backend)?;
        let staging = Staging::begin(backend, &session.info())?;
        let listing = loose::list(backend)?.complete()?;
        let known = Known::new(&listing.objects);
        let batch = Batch::new(backend, staging, method, listing.shards);
        Ok(Self { repo, lock, batch, known, added: AddedCounters::default(), replaced: AtomicU64::new(0) })
    }

    /// The repository that is written to.
    pub fn repo(&self) -> &'r Repository {
        self.repo
    }

    /// Stores an object unless it is there, and returns its name. May be called from several threads.
    pub fn store(&self, content: &[u8]) -> Result<ObjectId> {
        let id = self.repo.hash().hash(content);
        match self.known.settle(id) {
            Some(Presence::Settled) => return Ok(id),
            Some(Presence::Listed) => {
                if loose::holds(self.repo.backend(), self.repo.rules(), id, content)? {
                    self.batch.note_reused(id);
                    return Ok(id);
                }
                self.replaced.fetch_add(1, Ordering::Relaxed);
            }
            None => {}
        }
        if content.len() > self.repo.max_object() {
            return Err(Error::refused(
                format!("store an object of {} bytes", content.len()),
                format!("no object has more than {}", self.repo.max_object()),
                "this is an error in the program; please report it",
            ));
        }
        let frame = codec::compress(content).map_err(|reason| {
            Error::io("compress an object for", self.repo.backend().describe(""), std::io::Error::other(reason))
        })?;
        self.batch.stage(id, &frame)?;
        self.added.objects.fetch_add(1, Ordering::Relaxed);
        self.added.bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
        self.added.stored.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Ok(id)
    }

    /// Stores a tree object. It is decoded first: what could not be read back must not be written.
    pub fn store_tree(&self, piece: &[u8]) -> Result<ObjectId> {
        match Tree::decode(piece) {
            Ok(_) => self.store(piece),
            Err(error) => Err(Error::refused(
                "store a directory",
                format!("its tree would not be valid ({error})"),
                "this is an error in the program; please report it",
            )),
        }
    }

    /// Publishes what is staged if it has become much. Other threads may go on storing.
    pub fn publish_if_much(&self) -> Result<()> {
        let (objects, bytes) = self.batch.staged();
        if objects >= PUBLISH_OBJECTS || bytes >= PUBLISH_BYTES { self.batch.publish() } else { Ok(()) }
    }

    /// What was added so far.
    pub fn added(&self) -> Added {
        Added {
            objects: self.added.objects.load(Ordering::Relaxed),
            bytes: self.added.bytes.load(Ordering::Relaxed),
            stored: self.added.stored.load(Ordering::Relaxed),
        }
    }

    /// How many damaged objects were stored again.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Makes everything durable and then the snapshot visible, under the next free number (whatever number `snapshot`
    /// has). When this returns, the snapshot is safe.
    pub fn commit(self, mut snapshot: Snapshot) -> Result<Snapshot> {
        self.batch.publish()?;
        self.batch.secure_reused()?;
        lock::confirm(self.repo.backend(), self.lock)?;
        let hash = self.repo.hash();
        let mut encode = |number| {
            snapshot.number = number;
            snapshot.encode(hash)
        };
        refs::publish(self.repo.backend(), self.batch.staging(), &mut encode)?;
        Ok(snapshot)
    }
}
