//! Copying objects into new packs, so that what held them can go.
//!
//! # Why nothing is lost, and nothing rotten gets a good name
//!
//! - A pack is copied from only after all of its bytes were hashed and gave its name. The frames that are then copied are
//!   compared, by hash, with those that were hashed before; objects that are taken out of a frame are hashed one by one.
//! - New packs become durable and visible like any other ([`PackWriter`]). Nothing is removed here: that is the matter of
//!   who holds the repository exclusively, later, and looks again.

use std::sync::Arc;

use super::{Repository, Session, WriterOptions, begin_staging};
use crate::error::{Error, Result};
use crate::object::ObjectId;
use crate::store::codec::Density;
use crate::store::pack::{Frame, FrameBuilder, PackKind, PackName, PackWriter, member_length};

/// Copies objects into new packs.
pub struct Repacker<'r> {
    repo: &'r Repository,
    lanes: [Lane<'r>; 2],
    finished: Vec<PackName>,
}

struct Lane<'r> {
    kind: PackKind,
    packs: PackWriter<'r>,
    frame: FrameBuilder,
}

/// What became of a pack that was to be copied.
#[derive(Debug, PartialEq, Eq)]
pub enum Copied {
    /// What was wanted of it is copied.
    Wholly,
    /// It was not, or not all of it: its bytes do not give its name, or do and are not what its index says.
    Rotten,
}

impl<'r> Repacker<'r> {
    pub(super) fn begin(repo: &'r Repository, session: &Session<'_>, options: WriterOptions) -> Result<Self> {
        let staging = Arc::new(begin_staging(repo.backend(), session)?);
        let lanes = PackKind::ALL.map(|kind| Lane {
            kind,
            packs: PackWriter::new(repo.backend(), Arc::clone(&staging), kind, repo.hash(), options.pack_size),
            frame: FrameBuilder::new(kind, Density::Usual),
        });
        Ok(Self { repo, lanes, finished: Vec::new() })
    }

    /// Copies an object whose content was verified.
    pub fn add(&mut self, kind: PackKind, id: ObjectId, content: &[u8]) -> Result<()> {
        let lane = self.lane(kind);
        lane.frame.push(id, content);
        if lane.frame.is_full() { self.flush(kind) } else { Ok(()) }
    }

    /// Copies what is wanted of the pack in a slot. A frame that is wanted whole is copied as it is, unless it is so small
    /// that it is better joined with others.
    pub fn copy(&mut self, slot: u32, is_wanted: impl Fn(u32, &ObjectId) -> bool) -> Result<Copied> {
        let pack = match self.repo.packs()?.file(slot) {
            Err(error) if error.is_unreadable() => return Ok(Copied::Rotten),
            other => other?,
        };
        let hash = self.repo.hash();
        let mut sums = Vec::with_capacity(pack.frames());
        let verified = pack.verify(|_, bytes| {
            sums.push(hash.hash(bytes));
            Ok(())
        });
        match verified {
            Ok(true) => {}
            Ok(false) => return Ok(Copied::Rotten),
            Err(error) if error.is_unreadable() => return Ok(Copied::Rotten),
            Err(error) => return Err(error),
        }
        let kind = pack.name().kind;
        for (number, sum) in sums.into_iter().enumerate() {
            let members = pack.frame_members(number)?;
            let (first, _) = pack.objects_of(number);
            let wanted: Vec<bool> = (first..).zip(&members).map(|(at, member)| is_wanted(at, &member.id)).collect();
            if !wanted.contains(&true) {
                continue;
            }
            let bytes = pack.frame_bytes(number)?;
            if hash.hash(&bytes) != sum {
                return Err(pack.damaged("it changed while it was copied"));
            }
            let content: usize = members.iter().map(|member| member_length(member.length)).sum();
            if content >= kind.frame_content() / 2 && wanted.iter().all(|wanted| *wanted) {
                self.append(kind, Frame { members, bytes })?;
                continue;
            }
            // Whoever wrote the pack may have been mistaken.
            let Ok(frame) = pack.decode_bytes(number, &bytes, members) else { return Ok(Copied::Rotten) };
            for (position, member) in frame.members().iter().enumerate().filter(|(position, _)| wanted[*position]) {
                let content = frame.content(position);
                if hash.hash(content) != member.id {
                    return Ok(Copied::Rotten);
                }
                self.add(kind, member.id, content)?;
            }
        }
        Ok(Copied::Wholly)
    }

    /// Publishes what was copied and is not complete yet. After that [`Repacker::finished`] has all of it.
    pub fn finish(&mut self) -> Result<()> {
        for kind in PackKind::ALL {
            if !self.lane(kind).frame.is_empty() {
                self.flush(kind)?;
            }
            if let Some(finished) = self.lane(kind).packs.finish()? {
                self.finished.push(finished.name);
            }
        }
        Ok(())
    }

    /// The packs that are complete so far: durable and visible.
    pub fn finished(&self) -> &[PackName] {
        &self.finished
    }

    fn lane(&mut self, kind: PackKind) -> &mut Lane<'r> {
        let [blobs, trees] = &mut self.lanes;
        if blobs.kind == kind { blobs } else { trees }
    }

    fn flush(&mut self, kind: PackKind) -> Result<()> {
        let frame = self.lane(kind).frame.encode().map_err(|reason| {
            Error::io("compress objects for", self.repo.backend().describe(""), std::io::Error::other(reason))
        })?;
        self.append(kind, frame)
    }

    fn append(&mut self, kind: PackKind, frame: Frame) -> Result<()> {
        if let Some(finished) = self.lane(kind).packs.append(frame)? {
            self.finished.push(finished.name);
        }
        Ok(())
    }
}
