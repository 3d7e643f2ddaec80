//! What is still whole in a pack that is damaged.
//!
//! A pack whose bytes do not give its name is never copied from as it is. But most objects in it are whole, and each can
//! prove it: its name is its hash. So the pack is read frame by frame and object by object, and what has its hash is
//! taken, wherever in the pack the damage is:
//!
//! - If the pack's index is whole, it says where each object stands. Of a frame that is broken, what comes before the
//!   break is still decoded.
//! - If not, the file is searched for the beginnings of zstd frames, and what they hold for the headers of the archive's
//!   members, as `zstd` and `tar` would read it.
//! - Where the medium does not give back a part of the file, zeros stand in its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::index::longest_content;
use super::member::{BLOCK, parse_header};
use super::{PackFile, PackName, member_length};
use crate::error::Result;
use crate::object::ObjectId;
use crate::store::loose::ReadRules;
use crate::store::{Backend, StoredFile, codec};

/// What the medium does not give back is passed over in pieces of so many bytes.
const SECTOR: usize = 4096;
/// A file is searched in parts of so many bytes.
const PART: usize = 1 << 20;

/// The whole objects of a damaged pack.
#[derive(Debug)]
pub struct Salvage {
    name: PackName,
    /// Nothing if the medium does not give back even the beginning.
    file: Option<Box<dyn StoredFile>>,
    rules: ReadRules,
    places: HashMap<ObjectId, Place>,
    /// The names in the pack's index, if that is whole.
    members: Option<Vec<ObjectId>>,
    /// What was decoded last, and where in the pack it begins.
    last: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

/// Where an object stands: the frame that begins at `frame` in the pack, and the bytes from `start` on of its content.
#[derive(Debug, Clone, Copy)]
struct Place {
    frame: u64,
    start: usize,
    length: u32,
}

impl Salvage {
    /// Reads all of the pack and verifies every object in it. It is an error if that fails for a reason that does not lie in
    /// the file, such as who may read it.
    pub fn read(backend: &dyn Backend, rules: ReadRules, name: PackName) -> Result<Self> {
        let file = match backend.open(&name.path()) {
            Ok(file) => Some(file),
            Err(error) if error.is_unreadable() => None,
            Err(error) => return Err(error),
        };
        let (places, last) = (HashMap::new(), Mutex::default());
        let mut salvage = Self { name, file, rules, places, members: None, last };
        match PackFile::open(backend, rules, name).and_then(|pack| Ok((pack.index()?, pack))) {
            Ok((index, pack)) => {
                salvage.members = Some(index.members.iter().map(|member| member.id).collect());
                salvage.read_by_index(&pack)?;
            }
            Err(error) if error.is_unreadable() => salvage.search(),
            Err(error) => return Err(error),
        }
        Ok(salvage)
    }

    /// The pack.
    pub fn name(&self) -> PackName {
        self.name
    }

    /// The objects that are whole, in no order.
    pub fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.places.keys().copied()
    }

    /// The names in the pack's index; nothing if that is damaged, so that what was in the pack is not known.
    pub fn members(&self) -> Option<&[ObjectId]> {
        self.members.as_deref()
    }

    /// Where an object stands, for reading many in the order of their places; nothing if it is not whole.
    pub fn place(&self, id: ObjectId) -> Option<(u64, usize)> {
        self.places.get(&id).map(|place| (place.frame, place.start))
    }

    /// The content of an object that is whole.
    pub fn content(&self, id: ObjectId) -> Option<Vec<u8>> {
        let place = self.places.get(&id)?;
        let content = self.frame(place.frame);
        let content = content.get(place.start..place.start + place.length as usize)?;
        // What lies on a failing disk may read otherwise the second time.
        (self.rules.hash.hash(content) == id).then(|| content.to_vec())
    }

    fn frame(&self, at: u64) -> Arc<Vec<u8>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((kept, content)) if *kept == at => Arc::clone(content),
            _ => {
                let content = Arc::new(self.decode(at).0);
                *last = Some((at, Arc::clone(&content)));
                content
            }
        }
    }

    fn decode(&self, at: u64) -> (Vec<u8>, Option<u64>) {
        codec::salvage(|offset, length| self.bytes(at + offset, length), longest_content(self.rules.max_object))
    }

    /// The bytes of the file from `offset` on, zeros for what cannot be read; fewer where the file ends.
    fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let Some(file) = &self.file else { return Vec::new() };
        let left = file.length().saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(length).min(length);
        let mut bytes = vec![0; length];
        if let Err(error) = file.read_at(offset, &mut bytes) {
            if error.is_interrupted() {
                return Vec::new();
            }
            for (sector, part) in (0..).zip(bytes.chunks_mut(SECTOR)) {
                if file.read_at(offset + sector * SECTOR as u64, part).is_err() {
                    part.fill(0);
                }
            }
        }
        bytes
    }

    fn read_by_index(&mut self, pack: &PackFile) -> Result<()> {
        let mut at = 0;
        for number in 0..pack.frames() {
            let content = self.decode(at).0;
            let mut start = BLOCK;
            for member in pack.frame_members(number)? {
                self.note(&content, member.id, Place { frame: at, start, length: member.length });
                start = start.saturating_add(member_length(member.length));
            }
            at += pack.frame_length(number);
        }
        Ok(())
    }

    /// Notes an object if it is whole.
    fn note(&mut self, content: &[u8], id: ObjectId, place: Place) -> bool {
        let end = place.start.saturating_add(place.length as usize);
        let is_whole = place.length as usize <= self.rules.max_object
            && content.get(place.start..end).is_some_and(|content| self.rules.hash.hash(content) == id);
        if is_whole {
            self.places.insert(id, place);
        }
        is_whole
    }

    fn search(&mut self) {
        let mut at = 0;
        while let Some(frame) = self.next_frame(at) {
            let (content, length) = self.decode(frame);
            let mut block = 0;
            while let Some(header) = content.get(block..block + BLOCK) {
                let start = block + BLOCK;
                block = match parse_header(header) {
                    Some((id, length)) if self.note(&content, id, Place { frame, start, length }) => {
                        block + member_length(length)
                    }
                    _ => start,
                };
            }
            at = frame + length.unwrap_or(1);
        }
    }

    /// Where the next frame begins, perhaps.
    fn next_frame(&self, mut at: u64) -> Option<u64> {
        loop {
            let part = self.bytes(at, PART);
            if part.is_empty() {
                return None;
            }
            if let Some(found) = codec::find_frame(&part, 0) {
                return Some(at + found as u64);
            }
            // The first bytes of a frame may be cut by the end of the part.
            at += part.len().saturating_sub(3).max(1) as u64;
        }
    }
}
