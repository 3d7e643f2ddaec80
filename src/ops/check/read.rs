//! Reading everything that is stored, loose and packed, on all cores.
//!
//! A pack is read once, a stretch of frames at a time: while one thread hashes the stretch for the pack's own name and
//! reads the next one, the frames are decoded and their objects hashed by all.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::error::{Error, ObjectProblem, Result};
use crate::object::{HashAlgorithm, Hasher, ObjectId};
use crate::progress::Progress;
use crate::repo::Repository;
use crate::store::loose;
use crate::store::pack::{Member, PackFile, PackName};

/// So many bytes of frames are read at a time for each thread, and one frame more.
const STRETCH: u64 = 2 << 20;

/// What is known of a stored object.
pub(super) enum Stored {
    /// It is whole and has so many bytes.
    Whole(u64),
    Damaged(String),
}

/// Everything that is stored.
#[derive(Default)]
pub(super) struct Contents {
    /// By name. Of several copies of an object a whole one counts.
    pub(super) objects: HashMap<ObjectId, Stored>,
    /// How many packs there are.
    pub(super) packs: u64,
    /// Packs that are not as they must be, and what is wrong with each.
    pub(super) damaged_packs: Vec<(PackName, String)>,
    /// Objects of which the copy in a pack is damaged and there is no whole one.
    pub(super) damaged_in_packs: Vec<ObjectId>,
    /// Whether the index of all packs covers a pack that cannot be used.
    pub(super) index_misleads: bool,
}

impl Contents {
    fn add(&mut self, id: ObjectId, stored: Stored) {
        match self.objects.get(&id) {
            Some(Stored::Whole(_)) => {}
            _ => {
                self.objects.insert(id, stored);
            }
        }
    }
}

/// Reads everything; `loose` are the loose objects.
pub(super) fn read_all(repo: &Repository, loose: &[ObjectId], progress: &dyn Progress) -> Result<Contents> {
    let mut contents = Contents::default();
    let read = |id: &ObjectId| {
        let stored = match loose::read(repo.backend(), repo.rules(), *id) {
            Ok(content) => Stored::Whole(content.len() as u64),
            Err(Error::Object { problem: ObjectProblem::Damaged(reason), .. }) => Stored::Damaged(reason),
            Err(Error::Object { problem: ObjectProblem::Missing, .. }) => {
                Stored::Damaged("its file vanished during the check".into())
            }
            // A file that cannot be read (a bad sector, a wrong owner) is damage as well; the others are still checked.
            Err(error) => Stored::Damaged(error.to_string()),
        };
        progress.advance(1, if let Stored::Whole(length) = &stored { *length } else { 0 });
        (*id, stored)
    };
    for (id, stored) in loose.par_iter().map(read).collect::<Vec<_>>() {
        contents.add(id, stored);
    }
    contents.damaged_packs = repo.packs()?.unusable();
    let list = repo.packs()?.list();
    contents.packs = (list.len() + contents.damaged_packs.len()) as u64;
    let mut damaged = Vec::new();
    for (slot, (name, _)) in (0..).zip(list) {
        let problem = match repo.packs()?.file(slot).and_then(|pack| Ok((pack.index()?, pack))) {
            Ok((index, pack)) => read_pack(repo.hash(), &pack, &index.members, progress, |id, stored| {
                if matches!(stored, Stored::Damaged(_)) {
                    damaged.push(id);
                }
                contents.add(id, stored);
            }),
            Err(error) => {
                contents.index_misleads = true;
                Err(error)
            }
        };
        if let Err(error) = problem {
            contents.damaged_packs.push((name, error.reason()));
        }
    }
    damaged.retain(|id| matches!(contents.objects.get(id), Some(Stored::Damaged(_))));
    contents.damaged_in_packs = damaged;
    Ok(contents)
}

/// Reads a pack, which holds `members`, and gives each of them to `each`. An error is what is wrong with the pack as a
/// whole.
fn read_pack(
    hash: HashAlgorithm,
    pack: &PackFile,
    members: &[Member],
    progress: &dyn Progress,
    mut each: impl FnMut(ObjectId, Stored),
) -> Result<()> {
    let mut hasher = hash.hasher();
    let mut problem = Ok(());
    let mut read = read_stretch(pack, 0);
    let mut first = 0;
    while first < pack.frames() {
        let next = stretch_end(pack, first);
        let bytes = std::mem::replace(&mut read, Ok(Vec::new()));
        let stretch = match &bytes {
            Ok(bytes) => bytes.as_slice(),
            Err(_) => &[],
        };
        let verify = |(at, bytes): (usize, &Vec<u8>)| verify_frame(hash, pack, first + at, bytes, members);
        let (following, verified) = rayon::join(
            || {
                for bytes in stretch {
                    hasher.update(bytes);
                }
                read_stretch(pack, next)
            },
            || stretch.par_iter().enumerate().map(verify).collect::<Vec<_>>(),
        );
        for (objects, frame) in verified {
            for (id, stored) in objects {
                progress.advance(1, if let Stored::Whole(length) = &stored { *length } else { 0 });
                each(id, stored);
            }
            problem = problem.and(frame);
        }
        if let Err(error) = bytes {
            // What cannot be read is damaged; what follows may be readable.
            for frame in first..next {
                for member in frame_members(pack, frame, members) {
                    each(member.id, Stored::Damaged(error.reason()));
                }
            }
            problem = problem.and(Err(error));
        }
        read = following;
        first = next;
    }
    problem?;
    finish(pack, hasher)
}

fn finish(pack: &PackFile, mut hasher: Hasher) -> Result<()> {
    hasher.update(&pack.index_bytes()?);
    if hasher.finish() == pack.name().hash {
        Ok(())
    } else {
        Err(pack.damaged("the hash of its bytes is not its name"))
    }
}

fn read_stretch(pack: &PackFile, first: usize) -> Result<Vec<Vec<u8>>> {
    (first..stretch_end(pack, first)).map(|frame| pack.frame_bytes(frame)).collect()
}

/// The frame after the last one of the stretch that begins with `first`.
fn stretch_end(pack: &PackFile, first: usize) -> usize {
    let most = STRETCH * rayon::current_num_threads() as u64;
    let mut bytes = 0;
    let end = (first..pack.frames()).find(|frame| {
        bytes += pack.frame_length(*frame);
        bytes >= most
    });
    end.map_or(pack.frames(), |last| last + 1)
}

fn frame_members<'m>(pack: &PackFile, frame: usize, members: &'m [Member]) -> &'m [Member] {
    let (first, count) = pack.objects_of(frame);
    &members[first as usize..(first + count) as usize]
}

type VerifiedFrame = (Vec<(ObjectId, Stored)>, Result<()>);

fn verify_frame(hash: HashAlgorithm, pack: &PackFile, frame: usize, bytes: &[u8], members: &[Member]) -> VerifiedFrame {
    let members = frame_members(pack, frame, members);
    let decoded = match pack.decode_bytes(frame, bytes, members.to_vec()) {
        Ok(decoded) => decoded,
        Err(error) => {
            let objects = members.iter().map(|member| (member.id, Stored::Damaged(error.reason()))).collect();
            return (objects, Err(error));
        }
    };
    let mut problem = Ok(());
    if !decoded.is_well_formed() {
        problem = Err(pack.damaged(format!("the archive in frame {frame} is not what its index says")));
    }
    let verify = |(position, member): (usize, &Member)| {
        if hash.hash(decoded.content(position)) == member.id {
            return (member.id, Stored::Whole(u64::from(member.length)));
        }
        (member.id, Stored::Damaged(format!("{}: its content there has another hash", pack.name())))
    };
    let objects: Vec<_> = members.iter().enumerate().map(verify).collect();
    if let Some((id, _)) = objects.iter().find(|(_, stored)| matches!(stored, Stored::Damaged(_))) {
        problem = problem.and(Err(pack.damaged(format!("object {id} in it has another hash"))));
    }
    (objects, problem)
}
