//! Reading objects, loose or packed.
//!
//! An object may be in several places: in two packs, or in a pack and loose. Each copy is tried until one has the content
//! that the name says; what is wrong with the others does not matter then.

use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;

use super::Repository;
use crate::error::{Error, ObjectProblem, Result};
use crate::object::{BlobId, Chunk, ListId, Malformed, ObjectId, Tree, TreeId, decode_list};
use crate::store::loose;
use crate::store::pack::DecodedFrame;
use crate::store::packs::{Location, Packs};

/// The content of an object. To clone it copies nothing.
#[derive(Debug, Clone)]
pub struct ObjectBytes(Held);

#[derive(Debug, Clone)]
enum Held {
    Alone(Arc<Vec<u8>>),
    /// As a part of a frame that others may need as well: it is not copied.
    InFrame(Arc<DecodedFrame>, usize),
}

impl ObjectBytes {
    fn alone(bytes: Vec<u8>) -> Self {
        Self(Held::Alone(Arc::new(bytes)))
    }

    /// Whether both are held as parts of one frame: then the second takes no memory of its own.
    pub fn shares_frame_with(&self, other: &Self) -> bool {
        matches!((&self.0, &other.0), (Held::InFrame(one, _), Held::InFrame(other, _)) if Arc::ptr_eq(one, other))
    }
}

impl Deref for ObjectBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Alone(bytes) => bytes,
            Held::InFrame(frame, position) => frame.content(*position),
        }
    }
}

/// Another place that objects can be had from: what a repair has found.
pub trait Elsewhere: Debug + Send + Sync {
    /// The content of an object. It is verified by who asks.
    fn content(&self, id: ObjectId) -> Option<Vec<u8>>;
}

impl Repository {
    /// Reads an object and verifies it.
    pub fn read_object(&self, id: ObjectId) -> Result<ObjectBytes> {
        match self.read_own(id) {
            Err(error) => self.find_elsewhere(id).ok_or(error),
            own => own,
        }
    }

    fn find_elsewhere(&self, id: ObjectId) -> Option<ObjectBytes> {
        let content = self.elsewhere.as_ref()?.content(id)?;
        (self.hash().hash(&content) == id).then(|| ObjectBytes::alone(content))
    }

    fn read_own(&self, id: ObjectId) -> Result<ObjectBytes> {
        loop {
            let edition = self.packs()?.edition();
            let error = match self.read_any_copy(id) {
                // Its pack may be gone as well: who reads without a lock must expect that.
                Err(error) if error.is_unreadable() => error,
                other => return other,
            };
            // It may have been packed since the packs were listed; or the index of all packs may be wrong, and not say where
            // another copy of it stands.
            if !self.packs()?.look_again(edition)? {
                let is_missing = matches!(error, Error::Object { problem: ObjectProblem::Missing, .. });
                return Err(if is_missing || error.is_not_found() { self.missing(id, error) } else { error });
            }
        }
    }

    /// Says of a missing object in which pack it may have been.
    fn missing(&self, id: ObjectId, error: Error) -> Error {
        let unusable = self.packs().map_or_else(|_| Vec::new(), Packs::unusable);
        if unusable.is_empty() {
            return error;
        }
        let reasons: Vec<String> = unusable.into_iter().map(|(_, reason)| reason).collect();
        Error::damaged_object(id, format!("it may have been in a pack that cannot be used ({})", reasons.join("; ")))
    }

    fn read_any_copy(&self, id: ObjectId) -> Result<ObjectBytes> {
        let mut failure = None;
        for location in self.packs()?.find(id)? {
            match self.read_packed(location, id) {
                Ok(Some(bytes)) => return Ok(bytes),
                // The beginning of another name is the same.
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let loose = loose::read(self.backend(), self.rules(), id).map(ObjectBytes::alone);
        match (loose, failure) {
            (Err(Error::Object { problem: ObjectProblem::Missing, .. }), Some(failure)) => Err(failure),
            (loose, _) => loose,
        }
    }

    /// Reads the copy of an object at a place in a pack, and verifies it. Nothing is returned if another object stands
    /// there.
    pub fn read_packed(&self, location: Location, id: ObjectId) -> Result<Option<ObjectBytes>> {
        let frame = self.packs()?.frame(location, id).map_err(|error| match error {
            Error::Damaged { .. } => Error::damaged_object(id, error.reason()),
            other => other,
        })?;
        let Some((frame, position)) = frame else { return Ok(None) };
        if frame.verify(position, self.hash()) {
            return Ok(Some(ObjectBytes(Held::InFrame(frame, position))));
        }
        let pack = self.packs()?.file(location.slot)?.name();
        Err(Error::damaged_object(id, format!("{pack}: its content there has another hash")))
    }

    /// Reads a blob, verifies it, and sees that it has the length that the entry or list that refers to it says.
    pub fn read_blob(&self, id: BlobId, length: u64) -> Result<ObjectBytes> {
        self.blobs().read(id, length)
    }

    /// Where a blob stands in the packs, so that many can be read in the order of their places; nothing if it is loose or
    /// missing. The first of several places is given, and of several names with the same beginning it may be the place of
    /// another.
    pub fn stored_at(&self, id: BlobId) -> Result<Option<Location>> {
        Ok(self.packs()?.find(id.object())?.first().copied())
    }

    /// For reading blobs one after the other.
    pub fn blobs(&self) -> BlobReader<'_> {
        BlobReader { repo: self, last: Default::default() }
    }

    /// Reads one tree object; [`Repository::entries`] reads a directory whatever its size.
    pub fn read_tree(&self, id: TreeId) -> Result<Tree> {
        Tree::decode(&self.read_object(id.object())?).map_err(|error| malformed(id.object(), &error))
    }

    /// Reads one piece of a chunk list; [`Repository::chunks`] reads a list whatever its size.
    pub fn read_list(&self, id: ListId) -> Result<Vec<Chunk>> {
        decode_list(&self.read_object(id.object())?).map_err(|error| malformed(id.object(), &error))
    }
}

/// Reads blobs one after the other. A snapshot mostly puts blobs into a pack in the order in which a restore needs them: who
/// has read some looks beside these first, before the index is asked.
pub struct BlobReader<'r> {
    repo: &'r Repository,
    /// Frames that blobs were read from, and the position of the last one there; the latest frame first.
    last: [Option<(Arc<DecodedFrame>, usize)>; FRAMES_AT_HAND],
}

/// Neighbours are in different frames if some of them hardly compress, or some are older than others.
const FRAMES_AT_HAND: usize = 2;

impl<'r> BlobReader<'r> {
    /// The repository that they are read from.
    pub fn repo(&self) -> &'r Repository {
        self.repo
    }

    /// Reads a blob as [`Repository::read_blob`] does.
    pub fn read(&mut self, id: BlobId, length: u64) -> Result<ObjectBytes> {
        self.repo.go_on()?;
        let content = match self.next_if(id.object()) {
            Some(content) => content,
            None => self.repo.read_object(id.object())?,
        };
        self.note(&content);
        if content.len() as u64 == length {
            return Ok(content);
        }
        let reason = format!("it has {} bytes where {length} are referred to", content.len());
        Err(Error::damaged_object(id.object(), reason))
    }

    /// What stands behind a last blob, if it is this object and whole.
    fn next_if(&self, id: ObjectId) -> Option<ObjectBytes> {
        self.last.iter().flatten().find_map(|(frame, last)| {
            let next = last + 1;
            let is_it = frame.members().get(next)?.id == id && frame.verify(next, self.repo.hash());
            is_it.then(|| ObjectBytes(Held::InFrame(Arc::clone(frame), next)))
        })
    }

    fn note(&mut self, content: &ObjectBytes) {
        let Held::InFrame(frame, position) = &content.0 else { return };
        let known = self.last.iter().position(|last| last.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, frame)));
        self.last[..=known.unwrap_or(FRAMES_AT_HAND - 1)].rotate_right(1);
        match &mut self.last[0] {
            Some((_, last)) if known.is_some() => *last = *position,
            slot => *slot = Some((Arc::clone(frame), *position)),
        }
    }
}

fn malformed(id: ObjectId, error: &Malformed) -> Error {
    Error::Object { id, problem: ObjectProblem::Damaged(error.to_string()) }
}
