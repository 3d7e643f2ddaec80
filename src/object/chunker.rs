//! Where large files are cut: `FastCDC`, so that an insertion moves the cuts around it and no others.
//!
//! Method: Wen Xia and others, "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage
//! Systems", IEEE TPDS 31(9), 2020, with normalized chunking of level 1, as implemented by the `fastcdc` crate
//! (`v2020`). The cut points are part of the repository format: they decide whether a chunk is met again. Golden cut
//! points in the tests hold the crate to them.

use super::Malformed;
use fastcdc::v2020::{Normalization, cut, select_masks};

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// The chunk sizes of a repository, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSizes {
    minimum: u32,
    average: u32,
    maximum: u32,
}

impl ChunkSizes {
    /// The smallest average that can be chosen.
    pub const SMALLEST: u32 = 16 * KIB;
    /// The largest average that can be chosen.
    pub const LARGEST: u32 = 4 * MIB;

    /// Sizes around an average: a quarter of it at least, four times at most. The average must be a power of two from
    /// 16 KiB to 4 MiB.
    pub fn with_average(average: u32) -> Result<Self, Malformed> {
        if !average.is_power_of_two() || !(Self::SMALLEST..=Self::LARGEST).contains(&average) {
            return Err(Malformed::new("the average chunk size must be a power of two from 16 KiB to 4 MiB"));
        }
        Ok(Self { minimum: average / 4, average, maximum: average * 4 })
    }

    /// The sizes with these three values; only what [`ChunkSizes::with_average`] makes is known.
    pub(super) fn from_parts(minimum: u32, average: u32, maximum: u32) -> Result<Self, Malformed> {
        let expected = Self::with_average(average)?;
        let given = Self { minimum, average, maximum };
        if given == expected { Ok(given) } else { Err(Malformed::new("the chunk sizes do not belong together")) }
    }

    /// The minimum, the average and the maximum.
    pub(super) fn parts(self) -> (u32, u32, u32) {
        (self.minimum, self.average, self.maximum)
    }

    /// The average size of a chunk. A file up to this length is one blob and not cut.
    pub fn average(self) -> usize {
        self.average as usize
    }

    /// The length of the shortest chunk, but for the last of a file.
    pub fn minimum(self) -> usize {
        self.minimum as usize
    }

    /// The length of the longest chunk.
    pub fn maximum(self) -> usize {
        self.maximum as usize
    }

    /// The length up to which a file is stored whole, as one blob.
    pub fn whole_file(self) -> usize {
        self.average()
    }
}

impl Default for ChunkSizes {
    /// 16, 64 and 256 KiB: the reasons and the measurements are in `docs/design.md`.
    fn default() -> Self {
        Self { minimum: 16 * KIB, average: 64 * KIB, maximum: 256 * KIB }
    }
}

/// Finds cut points.
#[derive(Clone, Copy, Debug)]
pub struct Chunker {
    sizes: ChunkSizes,
    small: u64,
    large: u64,
}

impl Chunker {
    /// A chunker with these sizes.
    pub fn new(sizes: ChunkSizes) -> Self {
        let (small, large) = select_masks(sizes.average(), Normalization::Level1);
        Self { sizes, small, large }
    }

    /// The sizes it cuts to.
    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }

    /// The length of the first chunk of `data`. The answer depends only on the first [`ChunkSizes::maximum`] bytes;
    /// `data` must hold that many unless the file ends with it. An empty `data` has an empty chunk.
    ///
    /// A chunk that does not end with `data` is as long whatever follows the one byte behind it.
    pub fn cut(&self, data: &[u8]) -> usize {
        self.zeros(data).map_or_else(|| self.gear(data), <[u8]>::len)
    }

    /// The first chunk of `data`, if it is nothing but zeros and as long as a chunk can be.
    ///
    /// Nothing in a run of zeros looks like a cut, whatever the sizes; seeing that they are zeros is much faster than
    /// looking for one, and disk images are full of them.
    pub fn zeros<'d>(&self, data: &'d [u8]) -> Option<&'d [u8]> {
        data.get(..self.sizes.maximum()).filter(|longest| is_zeros(longest))
    }

    /// The length of the first chunk, whatever it holds.
    fn gear(&self, data: &[u8]) -> usize {
        let ChunkSizes { minimum, average, maximum } = self.sizes;
        let (_, length) = cut(
            data,
            minimum as usize,
            average as usize,
            maximum as usize,
            self.small,
            self.large,
            self.small << 1,
            self.large << 1,
        );
        length
    }
}

/// Whether all bytes are zero.
pub fn is_zeros(bytes: &[u8]) -> bool {
    // The first byte is zero and each one is as the one before it: a comparison of memory, which stops at the first other.
    bytes.first().is_none_or(|first| *first == 0 && bytes[1..] == bytes[..bytes.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random and never change: splitmix64.
    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    fn cuts(sizes: ChunkSizes, mut data: &[u8]) -> Vec<usize> {
        let chunker = Chunker::new(sizes);
        let mut lengths = Vec::new();
        while !data.is_empty() {
            let length = chunker.cut(data);
            lengths.push(length);
            data = &data[length..];
        }
        lengths
    }

    #[test]
    fn golden_cut_points() {
        let data = noise(1 << 20, 1);
        let golden: &[usize] = &[
            28_128, 87_550, 64_925, 67_788, 30_364, 38_273, 50_371, 101_085, 100_168, 79_822, 94_750, 68_129, 37_731,
            77_250, 65_957, 56_285,
        ];
        assert_eq!(cuts(ChunkSizes::default(), &data), golden);
        let small: &[usize] =
            &[16_594, 4854, 6680, 16_852, 17_387, 7368, 18_027, 21_446, 6470, 9809, 26_573, 20_507, 8036, 12_200, 7197];
        assert_eq!(cuts(ChunkSizes::with_average(16 * KIB).unwrap(), &data[..200_000]), small);
        let large: &[usize] = &[6_454_839, 6_189_515, 3_163_779, 1_689_008, 3_474_379];
        assert_eq!(cuts(ChunkSizes::with_average(4 * MIB).unwrap(), &noise(20 << 20, 2)), large);
        assert_eq!(cuts(ChunkSizes::default(), &vec![0; 600_000]), [262_144, 262_144, 75_712]);
    }

    #[test]
    fn zeros_are_cut_at_the_maximum_as_the_gear_would() {
        let mut average = ChunkSizes::SMALLEST;
        while average <= ChunkSizes::LARGEST {
            let chunker = Chunker::new(ChunkSizes::with_average(average).unwrap());
            let maximum = chunker.sizes().maximum();
            let mut data = vec![0; maximum + 1];
            assert_eq!((chunker.cut(&data), chunker.gear(&data)), (maximum, maximum));
            for other in [0, 1, maximum / 2, maximum - 1, maximum] {
                data[other] = 1;
                assert_eq!(chunker.cut(&data), chunker.gear(&data), "{average}, {other}");
                data[other] = 0;
            }
            average *= 2;
        }
        assert!(is_zeros(&[]) && is_zeros(&[0]) && is_zeros(&[0; 100]));
        assert!(!is_zeros(&[1]) && !is_zeros(&[0, 1]) && !is_zeros(&[1, 0]));
    }

    #[test]
    fn a_cut_depends_only_on_the_bytes_up_to_the_maximum() {
        let data = noise(2 << 20, 3);
        let chunker = Chunker::new(ChunkSizes::default());
        let mut at = 0;
        while at + (256 << 10) < data.len() {
            let length = chunker.cut(&data[at..]);
            assert_eq!(chunker.cut(&data[at..at + (256 << 10)]), length);
            assert!(((16 << 10)..=(256 << 10)).contains(&length));
            at += length;
        }
    }

    #[test]
    fn a_cut_depends_only_on_the_bytes_up_to_the_one_behind_it() {
        let chunker = Chunker::new(ChunkSizes::with_average(16 * KIB).unwrap());
        let mut data = noise(2 << 20, 5);
        data[300_000..500_000].fill(0);
        let mut at = 0;
        while at + chunker.sizes().maximum() < data.len() {
            let length = chunker.cut(&data[at..]);
            for seed in 0..4 {
                let followed = [&data[at..=at + length], &noise(100_000, seed)].concat();
                assert_eq!(chunker.cut(&followed), length);
                assert_eq!(chunker.cut(&followed[..length + 2]), length);
            }
            at += length;
        }
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let data = noise(8 << 20, 4);
        let mut changed = data.clone();
        changed.splice(1000..1000, *b"inserted");
        let (before, after) = (cuts(ChunkSizes::default(), &data), cuts(ChunkSizes::default(), &changed));
        let same_tail = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
        assert!(same_tail + 4 > before.len(), "{} of {}", same_tail, before.len());
    }

    #[test]
    fn sizes_are_powers_of_two_in_range() {
        for bad in [0, 1, 8 * KIB, 48 * KIB, 8 * MIB, u32::MAX] {
            assert!(ChunkSizes::with_average(bad).is_err(), "{bad}");
        }
        assert_eq!(ChunkSizes::with_average(64 * KIB), Ok(ChunkSizes::default()));
        assert!(ChunkSizes::from_parts(1, 64 * KIB, 256 * KIB).is_err());
    }
}
