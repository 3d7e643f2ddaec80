//! `cache/verified`: when checks have last read each pack and found it whole, a line for each: `TIME NAME`. A line `place
//! SECONDS NANOSECONDS` says where.
//!
//! Who checks every day need not read everything every day. Like everything in `cache` it can be deleted: what it says is
//! found out again by the next check. Lines that are not of this form are passed over, and so are moments that have not
//! come yet (the clock was wrong, now or then).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::pack::PackName;
use super::staging::Staging;
use super::{Backend, layout, lines};
use crate::error::Result;

/// The packs that checks have found whole, and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified(BTreeMap<PackName, Timestamp>);

impl Verified {
    /// When the pack was last found whole.
    pub fn last(&self, pack: PackName) -> Option<Timestamp> {
        self.0.get(&pack).copied()
    }

    /// Notes that packs were found whole by a check that began at `start`.
    pub fn note(&mut self, packs: &[PackName], start: Timestamp) {
        self.0.extend(packs.iter().map(|pack| (*pack, start)));
    }

    /// Keeps what is said of these packs only.
    pub fn retain(&mut self, packs: impl Fn(&PackName) -> bool) {
        self.0.retain(|pack, _| packs(pack));
    }
}

/// Where a repository is: a moment that no copy of it has ([`crate::repo::Repository::place`]).
type Place = (i64, i64);

fn place_line(place: Place) -> String {
    format!("place {} {}", place.0, place.1)
}

/// Reads it, at the moment `now`; it is empty where it is missing or lies on a bad sector, and where it was written in
/// another place: of a copy other disks were read.
pub fn read(backend: &dyn Backend, place: Place, now: Timestamp) -> Result<Verified> {
    let here = place_line(place);
    let parse = |line: &str| {
        if line == here {
            return Some(None);
        }
        let (time, name) = line.split_once(' ')?;
        let time = time.parse().ok().filter(|time| *time <= now)?;
        Some(Some((layout::parse_pack(name)?, time)))
    };
    let lines: Vec<_> = lines::read(backend, layout::VERIFIED, parse)?.said;
    if !lines.contains(&None) {
        return Ok(Verified::default());
    }
    Ok(Verified(lines.into_iter().flatten().collect()))
}

/// Replaces it. It is removed where there is nothing to say.
pub fn write(backend: &dyn Backend, staging: &Staging<'_>, place: Place, verified: &Verified) -> Result<()> {
    let line = |(pack, time): (&PackName, &Timestamp)| format!("{time} {}\n", layout::pack_file_name(*pack));
    let mut text: String = verified.0.iter().map(line).collect();
    if !text.is_empty() {
        text.insert_str(0, &format!("{}\n", place_line(place)));
    }
    lines::replace(backend, staging, layout::VERIFIED, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::HashAlgorithm;
    use crate::store::MemoryBackend;
    use crate::store::pack::PackKind;

    fn moment(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn only_whole_lines_of_the_past_count() {
        let backend = MemoryBackend::new();
        let pack = |content: &[u8]| PackName { hash: HashAlgorithm::Blake3.hash(content), kind: PackKind::Blobs };
        let [a, b, c] = [pack(b"a"), pack(b"b"), pack(b"c")];
        let here = (12, 345);
        assert_eq!(read(&backend, here, moment(100)).unwrap(), Verified::default());
        let name = layout::pack_file_name;
        let text = format!(
            "place 12 345\n1970-01-01T00:01:00Z {}\n\n1970-01-01T00:02:00Z {}\nyesterday {}\n\u{fffd}\n1970-01-01T00:01:00Z {}",
            name(a),
            name(b),
            name(c),
            &name(c)[..70],
        );
        backend.create_dir(layout::CACHE).unwrap();
        backend.create(layout::VERIFIED).unwrap().append(text.as_bytes()).unwrap();
        assert_eq!(read(&backend, (12, 346), moment(100)).unwrap(), Verified::default());
        let mut verified = read(&backend, here, moment(100)).unwrap();
        assert_eq!([a, b, c].map(|pack| verified.last(pack)), [Some(moment(60)), None, None]);
        verified.note(&[b], moment(100));
        verified.retain(|pack| *pack != a);
        assert_eq!(verified, Verified(BTreeMap::from([(b, moment(100))])));
    }
}
