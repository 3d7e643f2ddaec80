//! The members of a pack's tar archive: one object each.
//!
//! A member is a header of 512 bytes (POSIX ustar), the object's content, and zeros up to a multiple of 512. Everything
//! in the header but name, size and checksum is the same for all, so that it costs next to nothing when compressed.

use crate::object::ObjectId;

/// tar counts in blocks of so many bytes.
pub(super) const BLOCK: usize = 512;

/// The header of the member for an object of `length` bytes.
pub fn member_header(id: ObjectId, length: u32) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, &id.hex_digits());
    put(100, b"0000400");
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{length:011o}").as_bytes());
    put(136, b"00000000000");
    // The checksum is computed with spaces in its place.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// The object and its length that a header is for; nothing if it is not exactly the header of one.
pub(super) fn parse_header(header: &[u8]) -> Option<(ObjectId, u32)> {
    let id = str::from_utf8(header.get(..64)?).ok()?.parse().ok()?;
    let length = u32::from_str_radix(str::from_utf8(header.get(124..135)?).ok()?, 8).ok()?;
    (header == member_header(id, length)).then_some((id, length))
}

/// The bytes that the member for an object of `length` bytes takes in the archive.
pub const fn member_length(length: u32) -> usize {
    BLOCK + (length as usize).next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::HashAlgorithm;

    #[test]
    fn golden_header() {
        let id = HashAlgorithm::Blake3.hash(b"hello\n");
        let header = member_header(id, 6);
        assert_eq!(&header[..64], b"8e4c7c1b99dbfd50e7a95185fead5ee1448fa904a2fdd778eaf5f2dbfd629a99");
        assert_eq!(&header[64..100], [0; 36]);
        assert_eq!(&header[100..157], b"0000400\x000000000\x000000000\x0000000000006\x0000000000000\x00017322\x00 0",);
        assert_eq!(&header[157..257], [0; 100]);
        assert_eq!(&header[257..265], b"ustar\x0000");
        assert_eq!(&header[265..], [0; 247]);
    }

    #[test]
    fn a_header_is_read_back_and_nothing_else_is_one() {
        for (content, length) in [(b"hello\n".as_slice(), 6), (b"", 0), (b"x", u32::MAX)] {
            let id = HashAlgorithm::Blake3.hash(content);
            let mut header = member_header(id, length);
            assert_eq!(parse_header(&header), Some((id, length)));
            assert_eq!(parse_header(&header[..511]), None);
            for at in 0..BLOCK {
                header[at] ^= 1;
                assert_eq!(parse_header(&header), None, "byte {at}");
                header[at] ^= 1;
            }
        }
    }

    #[test]
    fn members_are_whole_blocks() {
        for (length, expected) in [(0, 512), (1, 1024), (512, 1024), (513, 1536), (u32::MAX, 4_294_967_808)] {
            assert_eq!(member_length(length), expected);
        }
    }
}
