//! Reading packs on all cores.
//!
//! Each thread takes the next frame when it is its turn: it reads the frame, continues the hash of the pack with it, and
//! leaves the turn to another before it decodes the frame and hashes the objects in it. So each pack is read once, from
//! its beginning to its end; no thread waits for the last frames of a pack; and no more is in memory than a frame for
//! each thread, compressed and decoded, and the index of the pack.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::object::{HashAlgorithm, Hasher, ObjectId};
use crate::repo::Repository;
use crate::store::pack::{Member, PackFile};

/// What is wrong with packs, by slot; the first thing in each.
pub(in crate::ops) type Problems = BTreeMap<u32, Problem>;

/// What is wrong with a pack.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::ops) enum Problem {
    /// It cannot be used at all.
    Unusable(String),
    /// The frame with this number is not what it must be.
    Frame(usize, String),
    /// Its frames are well, and the hash of all its bytes is not its name.
    Name(String),
}

impl Problem {
    /// What it is, for a person.
    pub(super) fn into_reason(self) -> String {
        match self {
            Self::Unusable(reason) | Self::Frame(_, reason) | Self::Name(reason) => reason,
        }
    }
}

/// The objects of a frame.
pub(in crate::ops) struct VerifiedFrame {
    /// The slot of the pack.
    pub(in crate::ops) slot: u32,
    /// The position of the first of them among all objects of the pack.
    pub(in crate::ops) first: u32,
    /// In the order in which they stand; of each how many bytes it has, or what is wrong with it.
    pub(in crate::ops) objects: Vec<(ObjectId, Result<u64, String>)>,
}

/// Reads the packs in `slots` and gives each frame to `each`, in no order. Call it in the pool of threads that shall read.
pub(in crate::ops) fn read_all(
    repo: &Repository,
    slots: &[u32],
    each: impl FnMut(VerifiedFrame) + Send,
) -> Result<Problems> {
    let turn = Mutex::new(Turn { repo, slots: slots.iter(), open: None });
    let found = Mutex::new((each, Problems::new()));
    let note = |slot: u32, problem: Problem| match lock(&found).1.entry(slot) {
        Entry::Vacant(entry) => drop(entry.insert(problem)),
        Entry::Occupied(mut entry) if problem < *entry.get() => drop(entry.insert(problem)),
        Entry::Occupied(_) => {}
    };
    let results = rayon::broadcast(|_| {
        loop {
            // A statement of its own, so that the turn ends with it.
            let step = lock(&turn).next()?;
            match step {
                None => return Ok(()),
                Some(Step::Problem(slot, problem)) => note(slot, problem),
                Some(Step::Frame(frame)) => {
                    let (verified, problem) = frame.verify(repo.hash());
                    (lock(&found).0)(verified);
                    if let Some(reason) = problem {
                        note(frame.slot, Problem::Frame(frame.number, reason));
                    }
                }
            }
        }
    });
    results.into_iter().collect::<Result<()>>()?;
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner).1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far everything is read.
struct Turn<'r> {
    repo: &'r Repository,
    /// The packs to come.
    slots: slice::Iter<'r, u32>,
    open: Option<OpenPack>,
}

/// The pack that is being read.
struct OpenPack {
    slot: u32,
    pack: Arc<PackFile>,
    members: Arc<[Member]>,
    hasher: Hasher,
    /// The frame to come.
    next: usize,
}

enum Step {
    Frame(ReadFrame),
    Problem(u32, Problem),
}

impl Turn<'_> {
    /// Reads the next frame, or finds out what is wrong with a pack. Nothing follows when all packs are read.
    fn next(&mut self) -> Result<Option<Step>> {
        loop {
            // What could not be read because of an interruption is not damaged.
            self.repo.go_on()?;
            if let Some(open) = &mut self.open
                && let Some(frame) = open.read_next()
            {
                return Ok(Some(Step::Frame(frame)));
            }
            if let Some(open) = self.open.take() {
                let slot = open.slot;
                if let Err(error) = open.finish() {
                    return Ok(Some(Step::Problem(slot, Problem::Name(error.reason()))));
                }
            }
            let Some(&slot) = self.slots.next() else { return Ok(None) };
            match self.repo.packs()?.file(slot).and_then(|pack| OpenPack::new(slot, pack, self.repo.hash())) {
                Ok(open) => self.open = Some(open),
                Err(error) => return Ok(Some(Step::Problem(slot, Problem::Unusable(error.reason())))),
            }
        }
    }
}

impl OpenPack {
    fn new(slot: u32, pack: Arc<PackFile>, hash: HashAlgorithm) -> Result<Self> {
        let members = pack.index()?.members.into();
        Ok(Self { slot, pack, members, hasher: hash.hasher(), next: 0 })
    }

    fn read_next(&mut self) -> Option<ReadFrame> {
        let number = self.next;
        if number == self.pack.frames() {
            return None;
        }
        self.next += 1;
        let bytes = self.pack.frame_bytes(number).map_err(|error| error.reason());
        // What cannot be read is damaged, and what follows may be readable.
        if let Ok(bytes) = &bytes {
            self.hasher.update(bytes);
        }
        let (pack, members) = (Arc::clone(&self.pack), Arc::clone(&self.members));
        Some(ReadFrame { slot: self.slot, pack, number, members, bytes })
    }

    /// Compares the hash of all bytes with the name.
    fn finish(mut self) -> Result<()> {
        self.hasher.update(&self.pack.index_bytes()?);
        if self.hasher.finish() == self.pack.name().hash {
            Ok(())
        } else {
            Err(self.pack.damaged("the hash of its bytes is not its name"))
        }
    }
}

/// A frame that was read and not looked at.
struct ReadFrame {
    slot: u32,
    pack: Arc<PackFile>,
    number: usize,
    /// Those of the whole pack.
    members: Arc<[Member]>,
    /// Or why it could not be read.
    bytes: Result<Vec<u8>, String>,
}

impl ReadFrame {
    /// Decodes the frame and hashes every object in it. Beside the objects it says what is wrong with the frame.
    fn verify(&self, hash: HashAlgorithm) -> (VerifiedFrame, Option<String>) {
        let (first, count) = self.pack.objects_of(self.number);
        let members = &self.members[first as usize..(first + count) as usize];
        let verified = |objects| VerifiedFrame { slot: self.slot, first, objects };
        let decoded = self.bytes.as_deref().map_err(Clone::clone).and_then(|bytes| {
            self.pack.decode_bytes(self.number, bytes, members.to_vec()).map_err(|error| error.reason())
        });
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(reason) => {
                let objects = members.iter().map(|member| (member.id, Err(reason.clone())));
                return (verified(objects.collect()), Some(reason));
            }
        };
        let verify = |(position, member): (usize, &Member)| {
            if hash.hash(decoded.content(position)) == member.id {
                return (member.id, Ok(u64::from(member.length)));
            }
            (member.id, Err(format!("{}: its content there has another hash", self.pack.name())))
        };
        let objects: Vec<_> = members.iter().enumerate().map(verify).collect();
        let problem = if decoded.is_well_formed() {
            let damaged = objects.iter().find(|(_, verified)| verified.is_err());
            damaged.map(|(id, _)| format!("object {id} in it has another hash"))
        } else {
            Some(format!("the archive in frame {} is not what its index says", self.number))
        };
        (verified(objects), problem.map(|reason| self.pack.damaged(reason).reason()))
    }
}
