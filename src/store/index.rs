//! `cache/index`: one index over all packs, so that finding an object does not mean looking into each.
//!
//! It is derived from the packs' own indexes and can be deleted at any time. An entry holds the first eight bytes of an
//! object's name, so a hit is a hint that has to be confirmed in the pack. An entry that is wrong therefore never leads
//! to a wrong object; an entry that is missing costs a second copy of an object, or, when reading, a look into the packs
//! themselves ([`super::packs`]). That is why the entries need no checksum; what comes after them has one.
//!
//! ```text
//! entries: N x 16 bytes     prefix: u64 (of the first eight bytes, read as a big-endian number), pack: u32, position: u32
//! packs: P x 40 bytes       hash (32 bytes), number of objects: u32, kind: 0 blobs, 1 trees: u32
//! fan-out: 2^B x u32        for each value of a prefix's highest B bits, how many entries have it or a lower one
//! checksum: 32 bytes        the repository's hash of packs, fan-out, and the three numbers that follow
//! N: u32, P: u32, B: u32
//! "packsidx"
//! ```
//!
//! All numbers are little-endian. Packs are sorted by name, entries by prefix, pack and position: the same packs give
//! the same bytes.
//!
//! A look-up reads one stretch of about [`BUCKET`] entries at a place that the fan-out table, which is held in memory,
//! gives. The memory that the operating system spends on it is its page cache, which it takes back when it has better use
//! for it.

use super::pack::{PackKind, PackName};
use super::staging::Staging;
use super::{Backend, StoredFile, layout};
use crate::error::{Error, Result};
use crate::object::{HashAlgorithm, ID_LEN, ObjectId};

const END: [u8; 8] = *b"packsidx";
const FOOTER: usize = ID_LEN + 12 + END.len();
const ENTRY: usize = 16;
const PACK: usize = ID_LEN + 8;
/// So many entries share a place in the fan-out table, or up to twice as many.
pub const BUCKET: u64 = 8;
const MOST_BITS: u32 = 24;
/// The tables are read in parts of so many bytes, a multiple of both lines.
const PART_OF_TABLE: usize = PACK << 12;

/// Where an object may stand. Ordered as in the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IndexEntry {
    /// The beginning of its name.
    pub prefix: u64,
    /// The number of the pack.
    pub pack: u32,
    /// The position among all objects of the pack.
    pub position: u32,
}

/// The beginning of a name, as entries have it.
pub fn prefix(id: ObjectId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.as_bytes()[..8]);
    u64::from_be_bytes(first)
}

impl IndexEntry {
    fn encode(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.prefix.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.pack.to_le_bytes());
        bytes[12..].copy_from_slice(&self.position.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ENTRY]) -> Self {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&bytes[..8]);
        Self { prefix: u64::from_le_bytes(prefix), pack: number(&bytes[8..]), position: number(&bytes[12..]) }
    }
}

fn number(bytes: &[u8]) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[..4]);
    u32::from_le_bytes(array)
}

/// The index file, open.
#[derive(Debug)]
pub struct IndexFile {
    file: Box<dyn StoredFile>,
    packs: Vec<(PackName, u32)>,
    fan_out: Vec<u32>,
    bits: u32,
}

impl IndexFile {
    /// Opens the index. Nothing is returned where there is none, or none that can be used.
    pub fn open(backend: &dyn Backend, hash: HashAlgorithm) -> Option<Self> {
        // Whatever is wrong with it, the packs say the same.
        let file = backend.open(layout::INDEX).ok()?;
        let length = file.length();
        let mut footer = [0; FOOTER];
        let at = length.checked_sub(FOOTER as u64)?;
        let footer = (file.read_at(at, &mut footer).ok()? == FOOTER && footer.ends_with(&END)).then_some(footer)?;
        let [entries, packs, bits] = [0, 4, 8].map(|at| number(&footer[ID_LEN + at..]));
        if bits > MOST_BITS {
            return None;
        }
        let packs_at = u64::from(entries) * ENTRY as u64;
        let packs_length = usize::try_from(packs).ok()?.checked_mul(PACK)?;
        let fan_out_length = 4_usize << bits;
        if packs_at + (packs_length + fan_out_length) as u64 != at {
            return None;
        }
        let mut hasher = hash.hasher();
        // In parts, and no further than they make sense: a length costs a liar nothing.
        let mut read = |from: u64, length: usize, each: &mut dyn FnMut(&[u8]) -> Option<()>| {
            let mut part = vec![0; length.min(PART_OF_TABLE)];
            for start in (0..length).step_by(PART_OF_TABLE) {
                let part = &mut part[..(length - start).min(PART_OF_TABLE)];
                (file.read_at(from + start as u64, part).ok()? == part.len()).then_some(())?;
                hasher.update(part);
                each(part)?;
            }
            Some(())
        };
        let (mut packs, mut fan_out) = (Vec::new(), Vec::new());
        read(packs_at, packs_length, &mut |part| {
            for line in part.as_chunks::<PACK>().0 {
                let pack = decode_pack(line)?;
                // Each once, in order.
                packs.last().is_none_or(|(last, _)| *last < pack.0).then(|| packs.push(pack))?;
            }
            Some(())
        })?;
        read(packs_at + packs_length as u64, fan_out_length, &mut |part| {
            for end in part.as_chunks::<4>().0 {
                let end = u32::from_le_bytes(*end);
                (fan_out.last().copied().unwrap_or(0) <= end).then(|| fan_out.push(end))?;
            }
            Some(())
        })?;
        if fan_out.last() != Some(&entries) {
            return None;
        }
        hasher.update(&footer[ID_LEN..]);
        if hasher.finish().as_bytes()[..] != footer[..ID_LEN] {
            return None;
        }
        Some(Self { file, packs, fan_out, bits })
    }

    /// The packs that it covers, by number, and how many objects each has.
    pub fn packs(&self) -> &[(PackName, u32)] {
        &self.packs
    }

    /// How many entries it has.
    pub fn entry_count(&self) -> u32 {
        self.fan_out.last().copied().unwrap_or(0)
    }

    /// Gives the entries with this prefix to `each`. The error, if the file cannot be read, is [`Error::Refused`].
    pub fn find(&self, prefix: u64, mut each: impl FnMut(IndexEntry)) -> Result<()> {
        let bucket = bucket(prefix, self.bits);
        let start = bucket.checked_sub(1).map_or(0, |before| self.fan_out[before]);
        let mut left = self.fan_out[bucket].saturating_sub(start) as usize;
        let mut at = u64::from(start) * ENTRY as u64;
        let mut buffer = [0; 128 * ENTRY];
        while left > 0 {
            let count = left.min(128);
            let read = self.file.read_at(at, &mut buffer[..count * ENTRY]).map_err(|error| unreadable(&error))?;
            if read < count * ENTRY {
                return Err(unreadable(&"it was cut short while it was open"));
            }
            let (entries, _) = buffer[..read].as_chunks::<ENTRY>();
            let wanted = entries.iter().filter(|entry| entry[..8] == prefix.to_le_bytes());
            wanted.map(IndexEntry::decode).for_each(&mut each);
            left -= count;
            at += (count * ENTRY) as u64;
        }
        Ok(())
    }

    /// All entries, in order. The error, if the file cannot be read, is [`Error::Refused`].
    pub fn entries(&self) -> impl Iterator<Item = Result<IndexEntry>> {
        const PART: u32 = 4096;
        let parts = (0..self.entry_count()).step_by(PART as usize);
        parts.flat_map(move |first| {
            let count = (self.entry_count() - first).min(PART) as usize;
            let mut buffer = vec![0; count * ENTRY];
            let read = self.file.read_at(u64::from(first) * ENTRY as u64, &mut buffer);
            let (entries, error) = match read {
                Ok(read) => {
                    let (entries, _) = buffer[..read].as_chunks::<ENTRY>();
                    (entries.iter().map(IndexEntry::decode).collect(), None)
                }
                Err(error) => (Vec::new(), Some(Err(unreadable(&error)))),
            };
            entries.into_iter().map(Ok).chain(error)
        })
    }
}

fn unreadable(reason: &dyn std::fmt::Display) -> Error {
    let next = "delete `cache/index`; nothing depends on it";
    Error::refused("read the index of all packs", reason.to_string(), next)
}

fn decode_pack(line: &[u8; PACK]) -> Option<(PackName, u32)> {
    let mut hash = [0; ID_LEN];
    hash.copy_from_slice(&line[..ID_LEN]);
    let kind = PackKind::ALL.get(number(&line[ID_LEN + 4..]) as usize)?;
    Some((PackName { hash: ObjectId::from_bytes(hash), kind: *kind }, number(&line[ID_LEN..])))
}

fn bucket(prefix: u64, bits: u32) -> usize {
    // Of at most 24 bits.
    usize::try_from(prefix.checked_shr(64 - bits).unwrap_or(0)).unwrap_or(0)
}

/// Writes the index, in place of the one that is there. `packs` are sorted by name; `entries` come in order, as many as
/// the packs have objects: if not, it is refused.
pub fn write(
    backend: &dyn Backend,
    staging: &Staging<'_>,
    hash: HashAlgorithm,
    packs: &[(PackName, u32)],
    entries: impl Iterator<Item = Result<IndexEntry>>,
) -> Result<()> {
    let too_many = || {
        Error::refused(
            "write the index of all packs",
            "they hold more objects than it can have",
            "nothing depends on it",
        )
    };
    let wrong = || {
        let reason = "the one that is there does not say what the packs say";
        Error::refused("write the index of all packs", reason, "delete it; nothing depends on it")
    };
    let total: u64 = packs.iter().map(|(_, objects)| u64::from(*objects)).sum();
    let total = u32::try_from(total).map_err(|_| too_many())?;
    let bits = (u64::from(total) / BUCKET).max(1).ilog2().min(MOST_BITS);
    let mut fan_out = vec![0_u32; 1 << bits];
    let staged = format!("index-{}", super::staging::random_hex(4)?);
    let mut file = staging.create(&staged)?;
    let mut buffer = Vec::with_capacity(1 << 20);
    let mut written = 0;
    let mut previous = None;
    for entry in entries {
        let entry = entry?;
        if previous > Some(entry) {
            return Err(wrong());
        }
        previous = Some(entry);
        fan_out[bucket(entry.prefix, bits)] += 1;
        buffer.extend_from_slice(&entry.encode());
        written += 1;
        if buffer.len() >= 1 << 20 {
            file.append(&buffer)?;
            buffer.clear();
        }
    }
    if written != total {
        return Err(wrong());
    }
    let tables = buffer.len();
    for (pack, objects) in packs {
        buffer.extend_from_slice(pack.hash.as_bytes());
        buffer.extend_from_slice(&objects.to_le_bytes());
        let kind: u32 = match pack.kind {
            PackKind::Blobs => 0,
            PackKind::Trees => 1,
        };
        buffer.extend_from_slice(&kind.to_le_bytes());
    }
    let mut sum = 0;
    for count in fan_out {
        sum += count;
        buffer.extend_from_slice(&sum.to_le_bytes());
    }
    let mut numbers = Vec::with_capacity(20);
    let pack_count = u32::try_from(packs.len()).map_err(|_| too_many())?;
    for number in [total, pack_count, bits] {
        numbers.extend_from_slice(&number.to_le_bytes());
    }
    numbers.extend_from_slice(&END);
    let mut hasher = hash.hasher();
    hasher.update(&buffer[tables..]);
    hasher.update(&numbers);
    buffer.extend_from_slice(hasher.finish().as_bytes());
    buffer.extend_from_slice(&numbers);
    file.append(&buffer)?;
    file.sync()?;
    drop(file);
    backend.replace(&staging.path(&staged), layout::INDEX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::store::MemoryBackend;
    use crate::store::staging::RunInfo;

    const HASH: HashAlgorithm = HashAlgorithm::Blake3;

    fn place() -> MemoryBackend {
        let memory = MemoryBackend::new();
        for dir in layout::DIRS {
            memory.create_dir(dir).unwrap();
        }
        memory
    }

    /// Entries in order, and the packs that have as many objects.
    fn sorted(mut entries: Vec<IndexEntry>) -> (Vec<(PackName, u32)>, Vec<IndexEntry>) {
        entries.sort_unstable();
        let last = entries.iter().map(|entry| entry.pack).max().map_or(0, |last| last + 1);
        let mut packs: Vec<_> = (0..last)
            .map(|number| {
                let kind = PackKind::ALL[number as usize % 2];
                let objects = entries.iter().filter(|entry| entry.pack == number).count();
                (PackName { hash: HASH.hash(&number.to_le_bytes()), kind }, u32::try_from(objects).unwrap())
            })
            .collect();
        packs.sort_unstable();
        (packs, entries)
    }

    fn save(memory: &MemoryBackend, packs: &[(PackName, u32)], entries: &[IndexEntry]) -> Result<()> {
        let info = RunInfo { host: "host".into(), pid: 1, command: "test".into(), start: Timestamp::UNIX_EPOCH };
        let staging = Staging::begin(memory, &info).unwrap();
        write(memory, &staging, HASH, packs, entries.iter().copied().map(Ok))
    }

    fn found(file: &IndexFile, prefix: u64) -> Vec<IndexEntry> {
        let mut found = Vec::new();
        file.find(prefix, |entry| found.push(entry)).unwrap();
        found
    }

    fn assert_found(memory: &MemoryBackend, packs: &[(PackName, u32)], entries: &[IndexEntry]) {
        let file = IndexFile::open(memory, HASH).unwrap();
        assert_eq!(file.packs(), packs);
        assert_eq!(file.entry_count() as usize, entries.len());
        assert_eq!(file.entries().collect::<Result<Vec<_>>>().unwrap(), entries);
        let mut by_prefix: BTreeMap<u64, Vec<IndexEntry>> = BTreeMap::new();
        for entry in entries {
            by_prefix.entry(entry.prefix).or_default().push(*entry);
        }
        for (prefix, expected) in &by_prefix {
            assert_eq!(found(&file, *prefix), *expected);
            for near in [prefix.wrapping_sub(1), prefix.wrapping_add(1)] {
                assert_eq!(found(&file, near), by_prefix.get(&near).cloned().unwrap_or_default());
            }
        }
        for prefix in [0, 1, u64::MAX / 2, u64::MAX] {
            assert_eq!(found(&file, prefix), by_prefix.get(&prefix).cloned().unwrap_or_default());
        }
    }

    fn any_entry() -> impl Strategy<Value = IndexEntry> {
        // Names spread evenly, and some that begin the same or at an end.
        let prefix = prop_oneof![
            4 => any::<u64>(),
            2 => (0..3_u64).prop_map(|low| 0x1234 << 48 | low),
            1 => Just(0),
            1 => Just(u64::MAX),
        ];
        (prefix, 0..4_u32, any::<u32>()).prop_map(|(prefix, pack, position)| IndexEntry { prefix, pack, position })
    }

    proptest! {
        #[test]
        fn what_is_written_is_found(entries in proptest::collection::vec(any_entry(), 0..400)) {
            let memory = place();
            let (packs, entries) = sorted(entries);
            save(&memory, &packs, &entries).unwrap();
            assert_found(&memory, &packs, &entries);
        }
    }

    /// At each number at which the fan-out table grows; and more entries in a place of it than are read at once.
    #[test]
    fn any_number_of_entries_is_found() {
        let spread =
            |number: u32| u64::from_be_bytes(HASH.hash(&number.to_le_bytes()).as_bytes()[..8].try_into().unwrap());
        for count in [0, 1, 31, 32, 63, 64, 65, 127, 128, 129, 5000] {
            for (what, prefix) in
                [("spread", Box::new(spread) as Box<dyn Fn(u32) -> u64>), ("one for all", Box::new(|_| 7 << 60))]
            {
                let memory = place();
                let entry = |position| IndexEntry { prefix: prefix(position), pack: position % 3, position };
                let (packs, entries) = sorted((0..count).map(entry).collect());
                save(&memory, &packs, &entries).unwrap();
                let file = IndexFile::open(&memory, HASH).unwrap();
                assert_eq!(u64::from(file.bits), u64::from((u64::from(count) / BUCKET).max(1).ilog2()), "{what}");
                assert_found(&memory, &packs, &entries);
            }
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_refused() {
        let memory = place();
        let entry = |position: u32| IndexEntry { prefix: u64::from(position) << 56, pack: position % 2, position };
        let (packs, entries) = sorted((0..70).map(entry).collect());
        save(&memory, &packs, &entries).unwrap();
        let good = memory.contents(layout::INDEX).unwrap();
        for length in 0..good.len() {
            memory.set_contents(layout::INDEX, good[..length].to_vec()).unwrap();
            assert!(IndexFile::open(&memory, HASH).is_none(), "cut to {length}");
        }
        memory.set_contents(layout::INDEX, [&good[..], b"x"].concat()).unwrap();
        assert!(IndexFile::open(&memory, HASH).is_none(), "longer");
        let tables = entries.len() * ENTRY;
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            memory.set_contents(layout::INDEX, bad).unwrap();
            // Entries are hints and have no checksum.
            let is_hint = bit / 8 < tables;
            assert_eq!(IndexFile::open(&memory, HASH).is_some(), is_hint, "bit {bit}");
        }
        memory.set_contents(layout::INDEX, good).unwrap();
        assert!(IndexFile::open(&memory, HashAlgorithm::Sha256).is_none(), "of another hash");
        memory.remove(layout::INDEX).unwrap();
        assert!(IndexFile::open(&memory, HASH).is_none(), "none");
    }

    #[test]
    fn entries_that_do_not_belong_to_the_packs_are_not_written() {
        let memory = place();
        let entry = |position: u32| IndexEntry { prefix: u64::from(position) << 60, pack: 0, position };
        let (packs, entries) = sorted((0..9).map(entry).collect());
        save(&memory, &packs, &entries).unwrap();
        let before = memory.contents(layout::INDEX);
        let exchanged = [&entries[..3], &[entries[4], entries[3]], &entries[5..]].concat();
        let more = [&entries[..], &[entry(15)]].concat();
        for (what, wrong) in [("out of order", &exchanged[..]), ("too few", &entries[1..]), ("too many", &more)] {
            assert!(matches!(save(&memory, &packs, wrong), Err(Error::Refused { .. })), "{what}");
            assert_eq!(memory.contents(layout::INDEX), before, "{what}");
            assert_eq!(memory.list(layout::TMP).unwrap(), [], "{what}");
        }
    }
}
