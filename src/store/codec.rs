//! The compression of objects: zstd frames, with the content's length and zstd's own checksum in each. A loose object is a
//! frame; in packs many objects share one.
//!
//! A frame is decoded only into a buffer of the length that it declares, and only if that length is within the bound
//! that the caller gives. So a frame that claims, or holds, more than it can have is damage that is seen before anything
//! is allocated.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};
use zstd_safe::{CParameter, DCtx, InBuffer, OutBuffer};

/// The zstd level for objects. Measured in `docs/design.md`: the knee of size against time.
pub const LEVEL: i32 = 3;

/// The table in which zstd looks for short matches has 2 to this many entries: half of what the level says for long content.
/// It stays in the processor's cache then, which makes 8 % of speed for 0.2 % of size.
const CHAIN_LOG: u32 = 15;

/// The zstd level for what hardly compresses: three to five times as fast there.
pub const LEVEL_FOR_DENSE: i32 = -3;

/// The zstd level for what is only kept to save time.
pub const LEVEL_FOR_CACHE: i32 = 1;

/// How well content seems to compress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Density {
    /// As content mostly does, or it is not known.
    Usual,
    /// Hardly: pictures, archives, what is encrypted. Its bytes are all about equally frequent.
    Dense,
}

impl Density {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Usual, Self::Dense];

    /// What a sample of the content says: 16 pieces of 64 bytes, evenly spread, and how often each byte is in them. The sum
    /// of the squares of these counts is the smaller the more evenly the bytes are spread (the index of coincidence of
    /// W. F. Friedman). Content of less than 16 KiB is not looked at. It takes 1 ms for 20 MiB of content.
    pub fn of(content: &[u8]) -> Self {
        const PIECES: usize = 16;
        const PIECE: usize = 64;
        const SAMPLE: usize = PIECES * PIECE;
        const SHORTEST: usize = 16 << 10;
        /// What the sum is on average if each byte of the sample is drawn at random.
        const RANDOM: usize = SAMPLE + SAMPLE * (SAMPLE - 1) / 256;
        if content.len() < SHORTEST {
            return Self::Usual;
        }
        let mut counts = [0_usize; 256];
        for piece in content.chunks_exact(content.len() / PIECES).take(PIECES) {
            piece[..PIECE].iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        }
        let sum: usize = counts.iter().map(|count| count * count).sum();
        // Up to 18 % more than random: no text, program or table of numbers in the Linux sources comes near it.
        if sum * 85 <= RANDOM * 100 { Self::Dense } else { Self::Usual }
    }

    /// The zstd level for it.
    pub fn level(self) -> i32 {
        match self {
            Self::Usual => LEVEL,
            Self::Dense => LEVEL_FOR_DENSE,
        }
    }
}

/// The first bytes of a frame that holds something; a skippable frame begins otherwise.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

struct Contexts {
    compressor: Compressor<'static>,
    /// The level that the compressor is set to.
    level: i32,
    decompressor: Decompressor<'static>,
}

impl Contexts {
    fn new() -> std::io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        compressor.include_contentsize(true)?;
        compressor.set_parameter(CParameter::ChainLog(CHAIN_LOG))?;
        Ok(Self { compressor, level: LEVEL, decompressor: Decompressor::new()? })
    }

    fn compress(&mut self, content: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
        if self.level != level {
            self.compressor.set_compression_level(level)?;
            self.level = level;
        }
        self.compressor.compress(content)
    }
}

thread_local! {
    /// Contexts are costly to make (a small object costs three times as much without) and are kept by each thread.
    static CONTEXTS: RefCell<Option<Contexts>> = const { RefCell::new(None) };
}

fn with_contexts<T>(work: impl FnOnce(&mut Contexts) -> std::io::Result<T>) -> Result<T, String> {
    CONTEXTS.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Contexts::new().map_err(|error| error.to_string())?);
        }
        match slot {
            Some(contexts) => work(contexts).map_err(|error| error.to_string()),
            None => Err("zstd gave no context".into()),
        }
    })
}

/// Compresses an object into a frame. Fails only if zstd cannot have memory.
pub fn compress(content: &[u8]) -> Result<Vec<u8>, String> {
    compress_as(content, Density::of(content))
}

/// Compresses content of a known density into a frame. Fails only if zstd cannot have memory.
pub fn compress_as(content: &[u8], density: Density) -> Result<Vec<u8>, String> {
    compress_at(content, density.level())
}

/// Compresses content at a level of zstd into a frame. Fails only if zstd cannot have memory.
pub fn compress_at(content: &[u8], level: i32) -> Result<Vec<u8>, String> {
    with_contexts(|contexts| contexts.compress(content, level))
}

/// The longest frame that can hold `max_content` bytes.
pub fn max_frame(max_content: usize) -> usize {
    // Content that does not compress costs a few bytes for each block of 128 KiB, and the frame its header and checksum;
    // zstd's own bound is above all of it.
    zstd_safe::compress_bound(max_content) + 64
}

/// Decodes a file that must be exactly one frame of at most `max_content` bytes of content.
pub fn decompress(frame: &[u8], max_content: usize) -> Result<Vec<u8>, String> {
    decompress_into(frame, max_content, Vec::new())
}

/// The same, into a buffer that is not needed any more.
pub fn decompress_into(frame: &[u8], max_content: usize, mut buffer: Vec<u8>) -> Result<Vec<u8>, String> {
    if frame.is_empty() {
        return Err("the file is empty".into());
    }
    // The one bit of a frame's header that a decoder must ignore and an encoder leaves clear: here, too, a flip is seen.
    if frame.get(4).is_some_and(|descriptor| descriptor & 0x10 != 0) {
        return Err("the zstd frame has a bit set that is always clear".into());
    }
    if !frame.starts_with(&MAGIC) {
        return Err("it is not a zstd frame".into());
    }
    let declared = match zstd_safe::get_frame_content_size(frame) {
        Ok(Some(declared)) => declared,
        Ok(None) => return Err("the zstd frame does not say how long its content is".into()),
        Err(_) => return Err("it is not a zstd frame".into()),
    };
    let length = usize::try_from(declared).ok().filter(|length| *length <= max_content).ok_or_else(|| {
        format!("the zstd frame claims {declared} bytes of content, and no object has more than {max_content}")
    })?;
    match zstd_safe::find_frame_compressed_size(frame) {
        Ok(size) if size == frame.len() => {}
        Ok(_) => return Err("something follows the zstd frame".into()),
        Err(_) => return Err("the zstd frame is cut short or broken".into()),
    }
    buffer.clear();
    buffer.reserve_exact(length);
    with_contexts(|contexts| contexts.decompressor.decompress_to_buffer(frame, &mut buffer))
        .map_err(|reason| format!("its zstd frame cannot be decoded ({reason})"))?;
    if buffer.len() == length { Ok(buffer) } else { Err("the zstd frame holds less than it claims".into()) }
}

/// The length of the longest header of a frame.
const LONGEST_HEADER: usize = 18;

/// Decodes what can be decoded of a frame that may be broken, and of which at most `max_content` bytes of content are
/// wanted: all that comes before the first break, and all of it where only its checksum does not fit. `read` gives the
/// bytes at a position of the frame, fewer only where the file ends. What is returned is not to be believed before it is
/// hashed. Beside it stands the length of the frame, if it is whole.
pub fn salvage(mut read: impl FnMut(u64, usize) -> Vec<u8>, max_content: usize) -> (Vec<u8>, Option<u64>) {
    let header = read(0, LONGEST_HEADER);
    let declared = if header.starts_with(&MAGIC) { zstd_safe::get_frame_content_size(&header) } else { Ok(None) };
    let length = declared.ok().flatten().and_then(|length| usize::try_from(length).ok());
    let Some(length) = length.filter(|length| *length <= max_content) else { return (Vec::new(), None) };
    let mut content = Vec::with_capacity(length);
    let Some(mut decoder) = DCtx::try_create() else { return (content, None) };
    let mut at = 0;
    // What zstd asks for next is a header, or a block at most. So what was decoded before a break is not lost with it.
    let mut wanted = 5;
    while wanted > 0 {
        let bytes = read(at, wanted);
        let mut input = InBuffer::around(&bytes);
        let filled = content.len();
        let mut output = OutBuffer::around_pos(&mut content, filled);
        match decoder.decompress_stream(&mut output, &mut input) {
            Ok(next) if input.pos() == wanted => (at, wanted) = (at + wanted as u64, next),
            _ => return (content, None),
        }
    }
    (content, Some(at))
}

/// Where a frame begins at or after `from`, perhaps: where its first bytes stand.
pub fn find_frame(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(MAGIC.len()).position(|window| window == MAGIC).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 512 * 1024;

    #[test]
    fn frames_decode_to_what_went_in() {
        for content in [vec![], b"a".to_vec(), vec![0; MAX], (0..=255).cycle().take(70_000).collect()] {
            let frame = compress(&content).unwrap();
            assert!(frame.len() <= max_frame(content.len()));
            assert_eq!(decompress(&frame, MAX), Ok(content));
        }
    }

    #[test]
    fn what_is_dense_is_told_from_what_is_not() {
        // xorshift64*, by S. Vigna.
        let mut state = 1_u64;
        let mut random = |_| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            u8::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56).unwrap()
        };
        let noise: Vec<u8> = (0..1 << 20).map(&mut random).collect();
        for at in 0..100 {
            let content = &noise[at * 1000..][..17_000 + at * 3000];
            assert_eq!(Density::of(content), Density::Dense, "{at}");
        }
        assert_eq!(Density::of(&noise[..16_383]), Density::Usual, "too short to say");
        for content in [
            vec![0; 1 << 20],
            include_bytes!("codec.rs").repeat(4),
            noise.iter().map(|byte| byte & 0x7f).collect(),
            noise.iter().map(|byte| byte % 64 + 32).collect(),
            // Numbers of four bytes that grow slowly.
            (0..100_000_u32).flat_map(|number| (number * 37).to_le_bytes()).collect(),
        ] {
            assert_eq!(Density::of(&content), Density::Usual);
        }
    }

    #[test]
    fn either_level_gives_the_same_content_back() {
        for content in [vec![7; 100_000], include_bytes!("codec.rs").repeat(3)] {
            let frames = Density::ALL.map(|density| compress_as(&content, density).unwrap());
            assert!(frames.iter().all(|frame| decompress(frame, MAX).as_ref() == Ok(&content)));
            assert_eq!(compress_as(&content, Density::Usual).unwrap(), frames[0], "the level was set back");
        }
    }

    #[test]
    fn golden_frame() {
        // The magic number, one segment with a checksum, length 5, one raw block "hello", the low bytes of XXH64.
        let frame = b"\x28\xb5\x2f\xfd\x24\x05\x29\x00\x00hello\xa3\x6d\x9f\x88";
        assert_eq!(decompress(frame, MAX), Ok(b"hello".to_vec()));
        assert_eq!(compress(b"hello").unwrap(), frame);
    }

    #[test]
    fn what_claims_or_holds_too_much_is_refused_before_it_is_allocated() {
        // A header that claims 100 GiB.
        let mut frame = b"\x28\xb5\x2f\xfd\xe4".to_vec();
        frame.extend_from_slice(&(100_u64 << 30).to_le_bytes());
        frame.extend_from_slice(&[1, 0, 0]);
        assert!(decompress(&frame, MAX).unwrap_err().contains("claims 107374182400"));
        // A frame that claims 4 bytes and holds a run of 100,000 zeros.
        let bomb = b"\x28\xb5\x2f\xfd\x20\x04\x03\x35\x0c\x00";
        assert!(decompress(bomb, MAX).is_err());
        assert!(decompress(&compress(&vec![0; MAX + 1]).unwrap(), MAX).is_err());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused_or_harmless() {
        let content: Vec<u8> = (0..2000_u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        let frame = compress(&content).unwrap();
        for length in 0..frame.len() {
            assert!(decompress(&frame[..length], MAX).is_err(), "cut to {length}");
        }
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // Some bits of the header mean nothing to the decoder; the object's hash guards the content itself.
            if let Ok(decoded) = decompress(&bad, MAX) {
                assert_eq!(decoded, content, "bit {bit}");
            }
        }
        assert!(decompress(b"\x50\x2a\x4d\x18\x02\x00\x00\x00zz", MAX).is_err(), "a skippable frame holds nothing");
        let mut longer = frame;
        longer.push(0);
        assert!(decompress(&longer, MAX).is_err());
        // The bit that a decoder has to ignore, even where nothing is compressed.
        let mut unused = compress(b"hello").unwrap();
        unused[4] ^= 0x10;
        assert!(decompress(&unused, MAX).is_err());
    }

    #[test]
    fn what_comes_before_a_break_is_salvaged() {
        // Blocks of 128 KiB, of which each compresses alone.
        let content: Vec<u8> =
            (0..100_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761) >> 12).to_le_bytes()).collect();
        let frame = compress(&content).unwrap();
        let from = |bytes: &[u8]| {
            let bytes = bytes.to_vec();
            salvage(
                move |at, length| {
                    let rest = bytes.get(usize::try_from(at).unwrap()..).unwrap_or_default();
                    rest[..length.min(rest.len())].to_vec()
                },
                MAX,
            )
        };
        assert_eq!(from(&frame), (content.clone(), Some(frame.len() as u64)));
        // What follows it does not matter.
        assert_eq!(from(&[&frame[..], b"more"].concat()), (content.clone(), Some(frame.len() as u64)));
        let mut partly = 0;
        for cut in (0..frame.len()).step_by(997) {
            let (found, length) = from(&frame[..cut]);
            assert!(length.is_none() && content.starts_with(&found), "{cut}");
            partly += usize::from(!found.is_empty());
        }
        assert!(partly > 10, "{partly}");
        // Only the checksum is wrong.
        let mut bad = frame.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(from(&bad), (content, None));
        // It claims more than there can be, and it is no frame.
        assert_eq!(from(&compress(&vec![0; MAX + 1]).unwrap()), (Vec::new(), None));
        assert_eq!(from(b"no frame"), (Vec::new(), None));
        assert_eq!(from(b""), (Vec::new(), None));
        assert_eq!(find_frame(&[b"x", &frame[..], &frame[..]].concat(), 2), Some(1 + frame.len()));
        assert_eq!(find_frame(&frame[1..50], 0), None);
    }
}
