//! Adding objects and a snapshot.
//!
//! # Loose or packed
//!
//! What is new is held in memory as long as it is little ([`WriterOptions::loose_limit`]); if it stays so, each object
//! becomes a loose one when the snapshot is committed. At the first excess everything goes to packs, and so does all that
//! follows. Each thread stores through an [`Appender`], which gathers objects for a frame, compresses the frame when it is
//! full, and appends it to the pack that is open. So neighbours stand together, and threads meet only once a frame.
//!
//! # Why a ref never leads to what is not there
//!
//! [`ObjectWriter::commit`] publishes the ref last, after
//!
//! 1. every object that this run stored is durable under its name ([`Batch::publish`]) or in a pack that is
//!    ([`PackWriter`]), and
//! 2. the names of all loose objects and packs that it found and reused are durable as well ([`Batch::secure_reused`]):
//!    one may have been renamed into place a moment ago by another run that has not synced the directory yet.
//!
//! What is reused cannot vanish for another reason: the shared lock is held, and what removes needs the exclusive one.
//!
//! What is found is not taken on trust. The first time a run would reuse a loose object that it did not write, the stored
//! content is read and compared with the content at hand; if they differ, the object is stored again. An object in a pack
//! is reused if the pack's footer, length and table of frames agree, and if it is not among those that the last `check`
//! found damaged ([`damaged`]); its content is not read. (Once that is stored again it is not named there any more.)
//!
//! Which objects are loose is looked up directory by directory, when the first object is met that would be there. A
//! directory that cannot be listed ends the run then; where nothing is met that belongs there, it does not matter.
//!
//! # Memory
//!
//! What this run has stored is remembered by name until its pack is complete; from then on it is found through the index
//! of all packs, which goes to a file when it becomes large ([`Packs::save_if_much`]).

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;

use super::labels::LabelsWriter;
use super::seen::{SeenReader, SeenWriter, SourceId};
use super::{Repository, Session, begin_writing, lock};
use crate::error::{Error, Result};
use crate::object::{Added, Labels, ObjectId, Snapshot, Tree, is_zeros};
use crate::store::batch::{Batch, SyncMethod};
use crate::store::codec::Density;
use crate::store::damaged::{self, Damaged};
use crate::store::pack::{FinishedPack, FrameBuilder, PACK_SIZE, PackKind, PackWriter};
use crate::store::packs::{Near, Packs};
use crate::store::staging::Staging;
use crate::store::{Backend, Lock, codec, layout, loose, refs};

/// With the default limit on the number of loose objects, they have at most 8 MiB together.
const LOOSE_BYTES: usize = 32 << 10;
/// So much is held in memory at most, whatever the limit.
const MOST_LOOSE_BYTES: usize = 64 << 20;
/// If `cache/index` lacks so many objects after a run, it is written anew.
const UNSAVED: usize = 4096;

/// How objects are written.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// How loose objects are made durable.
    pub sync: SyncMethod,
    /// A run that adds more objects than this (or more than 32 KiB for each of so many) leaves packs.
    pub loose_limit: usize,
    /// A pack is complete when it has so many bytes.
    pub pack_size: u64,
}

impl WriterOptions {
    /// The limit that is used unless another one is asked for.
    pub const LOOSE_LIMIT: usize = 256;

    /// Whether so many new objects of so many bytes together stay loose.
    pub fn stay_loose(&self, objects: usize, bytes: u64) -> bool {
        let most_bytes = self.loose_limit.saturating_mul(LOOSE_BYTES).min(MOST_LOOSE_BYTES);
        objects <= self.loose_limit && bytes <= most_bytes as u64
    }
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { sync: SyncMethod::Auto, loose_limit: Self::LOOSE_LIMIT, pack_size: PACK_SIZE }
    }
}

/// Stores objects, each once, and at last the snapshot that needs them.
pub struct ObjectWriter<'r> {
    repo: &'r Repository,
    lock: Option<&'r dyn Lock>,
    packs: &'r Packs,
    staging: Arc<Staging<'r>>,
    batch: Batch<'r>,
    known: Known,
    /// What the last check found damaged or missing and this run has not met: it has to be stored again.
    damaged: Mutex<HashSet<ObjectId>>,
    /// What the last check had recorded when the run began.
    recorded: Damaged,
    /// What is new and may stay loose; nothing once packs are written.
    few: Mutex<Option<Few>>,
    is_packing: AtomicBool,
    options: WriterOptions,
    blobs: Lane<'r>,
    trees: Lane<'r>,
    reused_packs: AtomicBool,
    /// Whether something could not be stored: it counts as stored all the same, and others rely on that.
    has_failed: AtomicBool,
    /// The name of the longest chunk of zeros.
    zeros: OnceLock<ObjectId>,
    added: AddedCounters,
    replaced: AtomicU64,
}

/// The packs of one kind, and the frames that are being filled and that no thread holds, by density.
struct Lane<'r> {
    packs: PackWriter<'r>,
    idle: [Mutex<Vec<FrameBuilder>>; Density::ALL.len()],
}

impl Lane<'_> {
    fn idle(&self, density: Density) -> MutexGuard<'_, Vec<FrameBuilder>> {
        self.idle[density as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Few {
    objects: Vec<(PackKind, ObjectId, Vec<u8>)>,
    bytes: usize,
}

/// The objects that need not be written, by their first byte, so that threads seldom meet, and so that of the shard
/// directories only those are listed of which an object is asked for. (Those in packs that were complete are known to
/// [`Packs`].)
struct Known([Mutex<Shard>; 256]);

#[derive(Default)]
struct Shard {
    /// There is a directory that has not been listed.
    is_unlisted: bool,
    objects: HashMap<ObjectId, Presence>,
}

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
    fn new(shards: &[u8]) -> Self {
        let mut known: [Shard; 256] = std::array::from_fn(|_| Shard::default());
        for shard in shards {
            known[usize::from(*shard)].is_unlisted = true;
        }
        Self(known.map(Mutex::new))
    }

    fn shard(&self, id: ObjectId) -> MutexGuard<'_, Shard> {
        self.0[usize::from(id.as_bytes()[0])].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard of an object, with all that is loose there.
    fn listed(&self, backend: &dyn Backend, id: ObjectId) -> Result<MutexGuard<'_, Shard>> {
        let mut shard = self.shard(id);
        if shard.is_unlisted {
            for object in loose::list_shard(backend, id.as_bytes()[0])? {
                shard.objects.entry(object).or_insert(Presence::Listed);
            }
            shard.is_unlisted = false;
        }
        Ok(shard)
    }
}

impl<'r> ObjectWriter<'r> {
    pub(super) fn begin(
        repo: &'r Repository,
        lock: Option<&'r dyn Lock>,
        session: &Session<'_>,
        options: WriterOptions,
    ) -> Result<Self> {
        let backend = repo.backend();
        let staging = begin_writing(backend, session)?;
        let shards = loose::list_shards(backend)?;
        let known = Known::new(&shards);
        let batch = Batch::new(backend, Arc::clone(&staging), options.sync, shards);
        let lane = |kind| Lane {
            packs: PackWriter::new(backend, Arc::clone(&staging), kind, repo.hash(), options.pack_size),
            idle: Default::default(),
        };
        let (blobs, trees) = (lane(PackKind::Blobs), lane(PackKind::Trees));
        let recorded = damaged::read(backend)?;
        Ok(Self {
            repo,
            lock,
            packs: repo.packs()?,
            staging,
            batch,
            known,
            damaged: Mutex::new(recorded.objects.clone()),
            recorded,
            few: Mutex::new(Some(Few::default())),
            is_packing: AtomicBool::new(false),
            options,
            blobs,
            trees,
            reused_packs: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            zeros: OnceLock::new(),
            added: AddedCounters::default(),
            replaced: AtomicU64::new(0),
        })
    }

    /// The repository that is written to.
    pub fn repo(&self) -> &'r Repository {
        self.repo
    }

    /// Stores blobs, one after the other. Each thread uses its own.
    pub fn blobs(&self) -> Appender<'_, 'r> {
        self.appender(PackKind::Blobs)
    }

    /// Stores trees and chunk lists, one after the other. Each thread uses its own.
    pub fn trees(&self) -> Appender<'_, 'r> {
        self.appender(PackKind::Trees)
    }

    fn appender(&self, kind: PackKind) -> Appender<'_, 'r> {
        Appender { writer: self, kind, frames: Default::default(), near: self.packs.near() }
    }

    fn lane(&self, kind: PackKind) -> &Lane<'r> {
        match kind {
            PackKind::Blobs => &self.blobs,
            PackKind::Trees => &self.trees,
        }
    }

    /// The name of a content.
    pub fn name(&self, content: &[u8]) -> ObjectId {
        if content.len() == self.repo.config().chunks.maximum() && is_zeros(content) {
            return self.name_of_zeros();
        }
        self.repo.hash().hash(content)
    }

    /// The name of the longest chunk of zeros. Disk images have it thousands of times: it is hashed once.
    pub fn name_of_zeros(&self) -> ObjectId {
        *self.zeros.get_or_init(|| self.repo.hash().hash(&vec![0; self.repo.config().chunks.maximum()]))
    }

    /// Whether the object has to be stored by who asks, for whom the last one was found at `near`.
    fn is_wanted(&self, id: ObjectId, content: &[u8], near: &mut Near<'_>) -> Result<bool> {
        let mut shard = self.known.listed(self.repo.backend(), id)?;
        let presence = shard.objects.get(&id).copied();
        if presence == Some(Presence::Settled) {
            return Ok(false);
        }
        let is_damaged = self.is_damaged(id)?;
        if !is_damaged && near.holds(id)? {
            self.reused_packs.store(true, Ordering::Relaxed);
            if self.recorded.is_doubtful {
                // It was read, and need not be again.
                shard.objects.insert(id, Presence::Settled);
            }
            return Ok(false);
        }
        shard.objects.insert(id, Presence::Settled);
        drop(shard);
        if presence == Some(Presence::Listed) && loose::holds(self.repo.backend(), self.repo.rules(), id, content)? {
            self.batch.note_reused(id);
            return Ok(false);
        }
        if is_damaged || presence == Some(Presence::Listed) {
            self.replaced.fetch_add(1, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Whether the last check found the object damaged or missing, and no pack holds a whole copy of it now: it may have been
    /// stored again since. Where it is not known what the check found, what is in packs is read as well.
    fn is_damaged(&self, id: ObjectId) -> Result<bool> {
        let is_named = self.damaged.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if !is_named && !self.recorded.is_doubtful {
            return Ok(false);
        }
        Ok(self.repo.is_damaged_in_packs(id)? || is_named && self.repo.packed_copies(id)?.is_empty())
    }

    /// Takes an object that is new, unless packs are written.
    fn keep_few(&self, kind: PackKind, id: ObjectId, content: &[u8]) -> Result<bool> {
        if self.is_packing.load(Ordering::Acquire) {
            return Ok(false);
        }
        let mut slot = self.few.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(few) = &mut *slot else { return Ok(false) };
        few.objects.push((kind, id, content.to_vec()));
        few.bytes += content.len();
        if !self.options.stay_loose(few.objects.len(), few.bytes as u64) {
            // Too many, after all.
            let few = slot.take().unwrap_or_default();
            self.is_packing.store(true, Ordering::Release);
            drop(slot);
            let (mut blobs, mut trees) = (self.blobs(), self.trees());
            for (kind, id, content) in few.objects {
                match kind {
                    PackKind::Blobs => blobs.push(id, &content)?,
                    PackKind::Trees => trees.push(id, &content)?,
                }
            }
        }
        Ok(true)
    }

    fn compressed<T>(&self, result: Result<T, String>) -> Result<T> {
        result.map_err(|reason| {
            Error::io("compress an object for", self.repo.backend().describe(""), std::io::Error::other(reason))
        })
    }

    /// Compresses a frame and appends it to the open pack.
    fn append(&self, kind: PackKind, frame: &mut FrameBuilder) -> Result<()> {
        let frame = self.compressed(frame.encode())?;
        if let Some(finished) = self.lane(kind).packs.append(frame)? {
            self.take_in(&finished);
        }
        Ok(())
    }

    /// Finds the objects of a complete pack through the index from now on.
    fn take_in(&self, pack: &FinishedPack) {
        self.added.stored.fetch_add(pack.length, Ordering::Relaxed);
        self.packs.add(pack);
        for member in &pack.members {
            self.known.shard(member.id).objects.remove(&member.id);
        }
        if self.packs.save_if_much(&self.staging).is_err() {
            // It is derived, and what is to be found stays in memory.
        }
    }

    /// Publishes everything that was stored.
    fn publish(&self) -> Result<()> {
        let few = self.few.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        for (_, id, content) in &few.objects {
            let frame = self.compressed(codec::compress(content))?;
            self.added.stored.fetch_add(frame.len() as u64, Ordering::Relaxed);
            self.batch.stage(*id, &frame)?;
        }
        self.batch.publish()?;
        for kind in PackKind::ALL {
            let lane = self.lane(kind);
            for density in Density::ALL {
                let mut rest = FrameBuilder::new(kind, density);
                for mut frame in mem::take(&mut *lane.idle(density)) {
                    rest.append(&mut frame);
                    if rest.is_full() {
                        self.append(kind, &mut rest)?;
                    }
                }
                if !rest.is_empty() {
                    self.append(kind, &mut rest)?;
                }
            }
            if let Some(finished) = lane.packs.finish()? {
                self.take_in(&finished);
            }
        }
        Ok(())
    }

    fn added(&self) -> Added {
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

    /// Whether what checks have found is not known for sure.
    pub fn record_is_doubtful(&self) -> bool {
        self.recorded.is_doubtful
    }

    /// Forgets the damage that this run has met and mended; not what a check has found meanwhile.
    fn heal(&self, session: &Session<'_>) -> Result<()> {
        let left = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        let mended: HashSet<ObjectId> = self.recorded.objects.difference(&left).copied().collect();
        drop(left);
        if mended.is_empty() {
            return Ok(());
        }
        let forget = |noted: &mut Damaged| noted.objects.retain(|id| !mended.contains(id));
        self.repo.change_damaged(session, forget).map(|_| ())
    }

    /// What the last snapshot of a source saw, if that is known and can be relied on. While objects are known to be damaged,
    /// or it is known that packs are gone, it is not: everything has to be met, so that what is damaged is stored again.
    pub fn last_seen(&self, source: &SourceId) -> Result<Option<SeenReader>> {
        if self.recorded.is_nothing() && !self.packs.lack_some() { self.repo.seen(source) } else { Ok(None) }
    }

    /// Begins to write down what a snapshot of `source` sees that begins at `start`, for the next one. `last` is what the
    /// last one saw: if this one has nothing to add, that stays.
    pub fn seen(
        &self,
        source: &SourceId,
        start: Timestamp,
        ignores_changed: bool,
        last: Option<&SeenReader>,
    ) -> SeenWriter<'r> {
        SeenWriter::begin(Arc::clone(&self.staging), self.repo, source, start, ignores_changed, last)
    }

    /// Makes everything durable and then the snapshot visible, under the next free number and with what was added
    /// (whatever `snapshot` says of both), and with these labels. When this returns, the snapshot and its labels are safe.
    /// What it saw is for the next one.
    ///
    /// The labels follow the ref, since they must not be there before it. But they are written before it, so that it is
    /// not for want of space if they do not come; and nobody else changes labels in between.
    pub fn commit(
        self,
        mut snapshot: Snapshot,
        labels: &Labels,
        seen: Option<SeenWriter<'r>>,
        session: &Session<'_>,
    ) -> Result<Snapshot> {
        if self.has_failed.load(Ordering::Relaxed) {
            return Err(Error::refused(
                "finish the snapshot",
                "something of it could not be stored",
                "see what was said before, and take it again; what was stored is used then",
            ));
        }
        self.publish()?;
        self.batch.secure_reused()?;
        if self.reused_packs.load(Ordering::Relaxed) {
            self.repo.backend().sync_dir(layout::PACKS)?;
        }
        let labelled = if labels.is_empty() {
            None
        } else {
            let writer = LabelsWriter::begin(self.repo, self.lock, session)?;
            let expected = self.repo.refs()?.next_number();
            Some((expected, writer.stage(expected, labels)?, writer))
        };
        lock::confirm(self.repo.backend(), self.lock)?;
        snapshot.added = self.added();
        let hash = self.repo.hash();
        let mut encode = |number| {
            snapshot.number = number;
            snapshot.encode(hash)
        };
        let number = refs::publish(self.repo.backend(), &self.staging, self.repo.next_number(), &mut encode)?;
        if let Some((expected, staged, writer)) = labelled {
            let staged = if number == expected { Ok(staged) } else { writer.stage(number, labels) };
            staged.and_then(|staged| writer.publish(&staged)).map_err(|error| {
                if error.is_interrupted() {
                    return error.interrupted_after(format!("snapshot {number} is complete, without its labels"));
                }
                Error::refused(
                    format!("write the labels of snapshot {number}"),
                    error.to_string(),
                    format!("the snapshot is complete and listed; give it its labels with `backuptool tag {number}`"),
                )
            })?;
        }
        if self.heal(session).is_err() {
            // What is named as damaged and is not any more costs time, until the next check.
        }
        if seen.is_some_and(|seen| seen.publish(self.repo.backend(), snapshot.tree, snapshot.end).is_err()) {
            // The next snapshot reads every file.
        }
        if (self.packs.has_unsaved(UNSAVED) || self.packs.lack_some()) && self.packs.save(&self.staging).is_err() {
            // The snapshot is safe, and the next run finds what it needs in the packs themselves.
        }
        Ok(snapshot)
    }
}

/// Stores objects one after the other, as neighbours. It belongs to one thread; what it has not passed on when it is
/// dropped goes to who asks for the next one.
pub struct Appender<'w, 'r> {
    writer: &'w ObjectWriter<'r>,
    kind: PackKind,
    /// By density; nothing while there is nothing in it.
    frames: [Option<FrameBuilder>; Density::ALL.len()],
    /// Where the last object stands that was there already.
    near: Near<'r>,
}

impl<'w, 'r> Appender<'w, 'r> {
    /// The writer that it belongs to.
    pub fn writer(&self) -> &'w ObjectWriter<'r> {
        self.writer
    }

    /// Stores an object unless it is there, and returns its name.
    pub fn store(&mut self, content: &[u8]) -> Result<ObjectId> {
        self.store_named(self.writer.name(content), content)
    }

    /// The same for an object whose name is known, from [`ObjectWriter::name`].
    pub fn store_named(&mut self, id: ObjectId, content: &[u8]) -> Result<ObjectId> {
        self.store_checked(id, content, |_| Ok(()))
    }

    /// The same, but what is not stored yet must pass a check first.
    fn store_checked(
        &mut self,
        id: ObjectId,
        content: &[u8],
        check: impl FnOnce(&[u8]) -> Result<()>,
    ) -> Result<ObjectId> {
        let stored = self.try_store(id, content, check);
        if stored.is_err() {
            self.writer.has_failed.store(true, Ordering::Relaxed);
        }
        stored
    }

    fn try_store(&mut self, id: ObjectId, content: &[u8], check: impl FnOnce(&[u8]) -> Result<()>) -> Result<ObjectId> {
        let writer = self.writer;
        writer.repo.go_on()?;
        if !writer.is_wanted(id, content, &mut self.near)? {
            return Ok(id);
        }
        check(content)?;
        if content.len() > writer.repo.max_object() {
            return Err(Error::refused(
                format!("store an object of {} bytes", content.len()),
                format!("no object has more than {}", writer.repo.max_object()),
                "this is an error in the program; please report it",
            ));
        }
        writer.added.objects.fetch_add(1, Ordering::Relaxed);
        writer.added.bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
        if !writer.keep_few(self.kind, id, content)? {
            self.push(id, content)?;
        }
        Ok(id)
    }

    /// Stores a tree object. It is decoded first: what could not be read back must not be written.
    pub fn store_tree(&mut self, piece: &[u8]) -> Result<ObjectId> {
        self.store_checked(self.writer.name(piece), piece, |piece| match Tree::decode(piece) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::refused(
                "store a directory",
                format!("its tree would not be valid ({error})"),
                "this is an error in the program; please report it",
            )),
        })
    }

    fn push(&mut self, id: ObjectId, content: &[u8]) -> Result<()> {
        let density = Density::of(content);
        let frame = self.frames[density as usize].get_or_insert_with(|| {
            let idle = self.writer.lane(self.kind).idle(density).pop();
            idle.unwrap_or_else(|| FrameBuilder::new(self.kind, density))
        });
        frame.push(id, content);
        if frame.is_full() { self.writer.append(self.kind, frame) } else { Ok(()) }
    }

    /// Lets who asks next go on with what was not passed on yet. To be called before other work is waited for.
    pub fn release(&mut self) {
        for density in Density::ALL {
            if let Some(frame) = self.frames[density as usize].take() {
                self.writer.lane(self.kind).idle(density).push(frame);
            }
        }
    }
}

impl Drop for Appender<'_, '_> {
    fn drop(&mut self) {
        self.release();
    }
}
