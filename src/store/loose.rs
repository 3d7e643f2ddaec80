//! Loose objects: one file each, `objects/ab/cdef…`, a single zstd frame.

use crate::error::{Error, ObjectProblem, Result};
use crate::object::{HashAlgorithm, ObjectId};

use super::backend::{Backend, EntryKind};
use super::{codec, layout};

/// What a listing of the loose objects found.
#[derive(Debug, Default)]
pub struct LooseListing {
    /// The objects, ascending.
    pub objects: Vec<ObjectId>,
    /// Paths below `objects` that are not a repository's.
    pub strangers: Vec<String>,
    /// Shard directories that could not be listed: which objects are there is not known.
    pub unreadable: Vec<Error>,
}

impl LooseListing {
    /// The listing, if it is complete; else the error of the first shard that could not be listed.
    pub fn complete(mut self) -> Result<Self> {
        if self.unreadable.is_empty() { Ok(self) } else { Err(self.unreadable.remove(0)) }
    }
}

/// Lists the loose objects. Their content is not looked at.
pub fn list(backend: &dyn Backend) -> Result<LooseListing> {
    let mut listing = LooseListing::default();
    for shard in shards(backend, &mut listing.strangers)? {
        match objects(backend, shard, &mut listing.strangers) {
            Ok(objects) => listing.objects.extend(objects),
            Err(error) => listing.unreadable.push(error),
        }
    }
    Ok(listing)
}

/// The shard directories that exist, by first byte, ascending. What is in them is not looked at.
pub fn list_shards(backend: &dyn Backend) -> Result<Vec<u8>> {
    shards(backend, &mut Vec::new())
}

/// The objects in the shard directory of a first byte, ascending.
pub fn list_shard(backend: &dyn Backend, shard: u8) -> Result<Vec<ObjectId>> {
    objects(backend, shard, &mut Vec::new())
}

fn shards(backend: &dyn Backend, strangers: &mut Vec<String>) -> Result<Vec<u8>> {
    let mut shards = Vec::new();
    for entry in list_or_empty(backend, layout::OBJECTS)? {
        match layout::parse_shard(&entry.name) {
            Some(shard) if entry.kind == EntryKind::Dir => shards.push(shard),
            _ => strangers.push(format!("{}/{}", layout::OBJECTS, entry.name)),
        }
    }
    Ok(shards)
}

fn objects(backend: &dyn Backend, shard: u8, strangers: &mut Vec<String>) -> Result<Vec<ObjectId>> {
    let dir = layout::shard_path(shard);
    let mut objects = Vec::new();
    for entry in backend.list(&dir)? {
        match layout::parse_object(shard, &entry.name) {
            Some(id) if entry.kind == EntryKind::File => objects.push(id),
            _ => strangers.push(format!("{dir}/{}", entry.name)),
        }
    }
    Ok(objects)
}

/// The entries of a directory of the repository; a missing one is empty (zip and some copies drop empty directories).
pub fn list_or_empty(backend: &dyn Backend, dir: &str) -> Result<Vec<super::Entry>> {
    match backend.list(dir) {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

/// How to read objects: the hash they must have, and the most content they can have.
#[derive(Debug, Clone, Copy)]
pub struct ReadRules {
    /// The repository's hash.
    pub hash: HashAlgorithm,
    /// The longest object, in bytes.
    pub max_object: usize,
}

/// Reads a loose object and verifies that its content is what its name says.
pub fn read(backend: &dyn Backend, rules: ReadRules, id: ObjectId) -> Result<Vec<u8>> {
    let content = read_unverified(backend, rules, id)?;
    if rules.hash.hash(&content) == id {
        Ok(content)
    } else {
        Err(Error::damaged_object(id, "its content has another hash"))
    }
}

/// Whether the loose object `id` is there and holds exactly `content`.
pub fn holds(backend: &dyn Backend, rules: ReadRules, id: ObjectId, content: &[u8]) -> Result<bool> {
    match read_unverified(backend, rules, id) {
        Ok(stored) => Ok(stored == content),
        Err(Error::Object { .. }) => Ok(false),
        // A file on a bad sector is as good as none: stored again, it is whole again.
        Err(error) if error.is_broken_medium() => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_unverified(backend: &dyn Backend, rules: ReadRules, id: ObjectId) -> Result<Vec<u8>> {
    let longest = codec::max_frame(rules.max_object);
    let frame = match backend.read(&layout::object_path(id), 0, longest + 1) {
        Ok(frame) if frame.len() > longest => return Err(Error::damaged_object(id, "its file is too long")),
        Ok(frame) => frame,
        Err(error) if error.is_not_found() => return Err(Error::Object { id, problem: ObjectProblem::Missing }),
        Err(error) => return Err(error),
    };
    codec::decompress(&frame, rules.max_object).map_err(|reason| Error::damaged_object(id, reason))
}
