//! Chunk lists: the chunks of a large file, in order.
//!
//! One line a chunk: its name, a space, its length in bytes. A long list is cut between lines after a name that ends in
//! `00` (see [`split`](super::split) for the bounds); a node has one line a piece: the piece's name and the bytes of the
//! file below it. So any offset of any file is reached through a few small objects.

use super::split::{Line, MAX_LEVELS, MAX_LINES, Splitter};
use super::{BlobId, ListId, Malformed, ObjectId};

/// Lists are nested at most this deep.
pub const MAX_DEPTH: u8 = MAX_LEVELS;

/// One line of a chunk list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// A blob in a list of depth 1, else a list one less deep.
    pub id: ObjectId,
    /// The bytes of the file below this line; never 0.
    pub length: u64,
}

impl Line for Chunk {
    type Summary = u64;

    fn header(_level: u8, _out: &mut Vec<u8>) {}

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.to_hex().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.length.to_string().as_bytes());
        out.push(b'\n');
    }

    fn ends_piece(&self, _level: u8) -> bool {
        self.id.as_bytes().last() == Some(&0)
    }

    fn summary(self) -> u64 {
        self.length
    }

    fn merge(summary: &mut u64, next: u64) {
        *summary += next;
    }

    fn for_piece(length: u64, id: ObjectId) -> Self {
        Self { id, length }
    }
}

/// Builds the list of a file's chunks while they are cut, in bounded memory.
pub struct ListBuilder(Splitter<Chunk>);

impl ListBuilder {
    /// An empty list. At least one chunk must be pushed before it is finished.
    #[expect(clippy::new_without_default, reason = "an empty list is not a valid value")]
    pub fn new() -> Self {
        Self(Splitter::new())
    }

    /// Adds the file's next chunk. `store` stores a finished piece and returns its name.
    pub fn push<E>(
        &mut self,
        blob: BlobId,
        length: u64,
        store: &mut impl FnMut(&[u8]) -> Result<ObjectId, E>,
    ) -> Result<(), E> {
        self.0.push(Chunk { id: blob.object(), length }, store)
    }

    /// The list's name and depth, and the length of the file.
    pub fn finish<E>(self, store: &mut impl FnMut(&[u8]) -> Result<ObjectId, E>) -> Result<(ListId, u8, u64), E> {
        let top = self.0.finish(store)?;
        Ok((ListId(top.id), top.level + 1, top.summary.unwrap_or(0)))
    }
}

/// The encoding of one piece of a list.
pub fn encode_list(chunks: &[Chunk]) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in chunks {
        chunk.write(&mut text);
    }
    text
}

/// The lines of one piece of a list.
pub fn decode_list(bytes: &[u8]) -> Result<Vec<Chunk>, Malformed> {
    let text = str::from_utf8(bytes).map_err(|_| Malformed::new("a chunk list is not text"))?;
    let body = text.strip_suffix('\n').ok_or_else(|| Malformed::new("a chunk list does not end with a line"))?;
    if body.bytes().filter(|byte| *byte == b'\n').count() >= MAX_LINES {
        return Err(Malformed::new("a chunk list has too many lines"));
    }
    body.split('\n').map(decode_line).collect()
}

fn decode_line(line: &str) -> Result<Chunk, Malformed> {
    let parsed = line.split_once(' ').and_then(|(id, length)| {
        let canonical = length.bytes().all(|b| b.is_ascii_digit()) && !length.starts_with('0');
        let chunk = Chunk { id: id.parse().ok()?, length: length.parse().ok()? };
        canonical.then_some(chunk)
    });
    parsed.ok_or_else(|| Malformed::new("a line of a chunk list is not `HASH LENGTH`"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::convert::Infallible;

    use super::super::HashAlgorithm::Blake3;
    use super::*;

    #[test]
    fn golden_bytes() {
        let chunks = [Chunk { id: Blake3.hash(b"a"), length: 65_536 }, Chunk { id: Blake3.hash(b"b"), length: 1 }];
        let text = "17762fddd969a453925d65717ac3eea21320b66b54342fde15128d6caf21215f 65536\n\
                    10e5cf3d3c8a4f9f3468c8cc58eea84892a22fdadbc1acb22410190044c1d553 1\n";
        assert_eq!(encode_list(&chunks), text.as_bytes());
        assert_eq!(decode_list(text.as_bytes()), Ok(chunks.to_vec()));
    }

    #[test]
    fn what_the_encoder_would_not_write_is_refused() {
        let id = Blake3.hash(b"a");
        for bad in [
            String::new(),
            "\n".into(),
            format!("{id} 5"),
            format!("{id} 0\n"),
            format!("{id} 05\n"),
            format!("{id} +5\n"),
            format!("{id}  5\n"),
            format!("{id} 5 \n"),
            format!("{id} 5\n\n"),
            format!("{id} 99999999999999999999\n"),
            format!("{} 5\n", id.to_hex().to_uppercase()),
            format!("{id} 5\r\n"),
            format!("{id} 5\n").repeat(4097),
        ] {
            assert!(decode_list(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_change_in_a_long_list_rewrites_one_piece_a_level() {
        let build = |lengths: &[u64]| {
            let mut pieces: HashMap<ObjectId, usize> = HashMap::new();
            let mut store = |text: &[u8]| -> Result<ObjectId, Infallible> {
                let id = Blake3.hash(text);
                pieces.insert(id, text.iter().filter(|b| **b == b'\n').count());
                Ok(id)
            };
            let mut list = ListBuilder::new();
            for length in lengths {
                list.push(BlobId(Blake3.hash(&length.to_le_bytes())), *length, &mut store).unwrap();
            }
            let top = list.finish(&mut store).unwrap();
            (top, pieces)
        };
        let mut lengths: Vec<u64> = (1..=200_000).collect();
        let ((id, depth, length), before) = build(&lengths);
        assert_eq!((depth, length), (3, (1..=200_000).sum()));
        assert!(before.values().all(|lines| (2..=4096).contains(lines)));
        lengths[100_000] = 1_000_000_007;
        let ((changed, ..), after) = build(&lengths);
        assert_ne!(id, changed);
        let new = after.keys().filter(|piece| !before.contains_key(piece)).count();
        assert!(new <= 6, "{new} new pieces of {}", after.len());
    }

    #[test]
    fn a_list_of_equal_chunks_is_bounded_whatever_their_hash() {
        let id = ObjectId::from_bytes([0; 32]);
        let mut pieces = 0_u64;
        let mut store = |text: &[u8]| -> Result<ObjectId, Infallible> {
            pieces += 1;
            assert!(text.iter().filter(|b| **b == b'\n').count() <= 64);
            Ok(id)
        };
        let mut list = ListBuilder::new();
        for _ in 0..100_000 {
            list.push(BlobId(id), 7, &mut store).unwrap();
        }
        let (_, depth, length) = list.finish(&mut store).unwrap();
        assert_eq!((depth, length), (3, 700_000));
        assert!(pieces < 100_000 / 60);
    }
}
