//! `cache/verified`: when checks have last read each pack and found it whole, a line for each: `TIME NAME`.
//!
//! Who checks every day need not read everything every day. Like everything in `cache` it can be deleted: what it says is
//! found out again by the next check. Lines that are not of this form are passed over, and so are moments that have not
//! come yet (the clock was wrong, now or then).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::pack::PackName;
use super::staging::{Staging, random_hex};
use super::{Backend, layout, remove_if_there};
use crate::error::Result;

/// No more than this is read, in bytes.
const LONGEST: usize = 64 << 20;

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

/// Reads it, at the moment `now`; it is empty where it is missing or lies on a bad sector.
pub fn read(backend: &dyn Backend, now: Timestamp) -> Result<Verified> {
    let text = match backend.read(layout::VERIFIED, 0, LONGEST) {
        Err(error) if error.is_unreadable() => Vec::new(),
        other => other?,
    };
    let line = |line: &[u8]| {
        let (time, name) = str::from_utf8(line).ok()?.split_once(' ')?;
        let time = time.parse().ok().filter(|time| *time <= now)?;
        Some((layout::parse_pack(name)?, time))
    };
    Ok(Verified(text.split(|byte| *byte == b'\n').filter_map(line).collect()))
}

/// Replaces it. It is removed where there is nothing to say.
pub fn write(backend: &dyn Backend, staging: &Staging<'_>, verified: &Verified) -> Result<()> {
    if verified.0.is_empty() {
        return remove_if_there(backend, layout::VERIFIED);
    }
    let staged = format!("verified-{}", random_hex(4)?);
    let mut file = staging.create(&staged)?;
    let text: String =
        verified.0.iter().map(|(pack, time)| format!("{time} {}\n", layout::pack_file_name(*pack))).collect();
    file.append(text.as_bytes())?;
    file.sync()?;
    drop(file);
    backend.replace(&staging.path(&staged), layout::VERIFIED)
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
        assert_eq!(read(&backend, moment(100)).unwrap(), Verified::default());
        let name = layout::pack_file_name;
        let text = format!(
            "1970-01-01T00:01:00Z {}\n\n1970-01-01T00:02:00Z {}\nyesterday {}\n\u{fffd}\n1970-01-01T00:01:00Z {}",
            name(a),
            name(b),
            name(c),
            &name(c)[..70],
        );
        backend.create_dir(layout::CACHE).unwrap();
        backend.create(layout::VERIFIED).unwrap().append(text.as_bytes()).unwrap();
        let mut verified = read(&backend, moment(100)).unwrap();
        assert_eq!([a, b, c].map(|pack| verified.last(pack)), [Some(moment(60)), None, None]);
        verified.note(&[b], moment(100));
        verified.retain(|pack| *pack != a);
        assert_eq!(verified, Verified(BTreeMap::from([(b, moment(100))])));
    }
}
