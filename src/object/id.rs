//! Object names: the hash of an object's uncompressed content, and the two hashes a repository can choose from.
//!
//! [`ObjectId`] is the bare hash, used where the kind does not matter (storage, liveness). [`BlobId`], [`TreeId`] and
//! [`ListId`] say what the object is expected to be, so that one cannot be read as another by mistake.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// Bytes in an object name; both hashes have the same length.
pub const ID_LEN: usize = 32;

/// The name of an object: the hash of its content with nothing prepended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId([u8; ID_LEN]);

impl ObjectId {
    /// A name from the bytes of a hash.
    pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes of the hash.
    pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
        &self.0
    }

    /// The name as 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        self.hex_digits().iter().map(|digit| char::from(*digit)).collect()
    }

    /// The same as bytes, without a detour over text.
    pub fn hex_digits(&self) -> [u8; 2 * ID_LEN] {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut digits = [0; 2 * ID_LEN];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        digits
    }
}

/// A text that is not an object name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an object name (64 lower-case hex digits)")
    }
}

impl FromStr for ObjectId {
    type Err = NotAnId;

    /// Accepts exactly 64 lower-case hex digits: one object has one spelling.
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(NotAnId);
        }
        let mut bytes = [0; ID_LEN];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAnId)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub ObjectId);

        impl $name {
            /// The bare name, for storage.
            pub const fn object(self) -> ObjectId {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

typed_id! {
    /// Names a blob: a whole small file, or one chunk of a larger one.
    BlobId
}
typed_id! {
    /// Names a tree: the entries of a directory, or a node above its pieces.
    TreeId
}
typed_id! {
    /// Names a chunk list.
    ListId
}

/// The hash that names the objects of one repository, chosen when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashAlgorithm {
    /// BLAKE3, checked with `b3sum`.
    #[default]
    Blake3,
    /// SHA-256, checked with `sha256sum`.
    Sha256,
}

impl HashAlgorithm {
    /// Every algorithm there is.
    pub const ALL: [Self; 2] = [Self::Blake3, Self::Sha256];

    /// The name of `content`.
    pub fn hash(self, content: &[u8]) -> ObjectId {
        match self {
            Self::Blake3 => ObjectId(*blake3::hash(content).as_bytes()),
            Self::Sha256 => ObjectId(sha2::Sha256::digest(content).into()),
        }
    }

    /// A hash of bytes that come piece by piece.
    pub fn hasher(self) -> Hasher {
        match self {
            Self::Blake3 => Hasher(Inner::Blake3(Box::new(blake3::Hasher::new()))),
            Self::Sha256 => Hasher(Inner::Sha256(sha2::Sha256::new())),
        }
    }

    /// The name used in the configuration and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }

    /// The standard tool that prints this hash of a file.
    pub const fn tool(self) -> &'static str {
        match self {
            Self::Blake3 => "b3sum",
            Self::Sha256 => "sha256sum",
        }
    }
}

/// A hash that is being computed.
#[derive(Clone, Debug)]
pub struct Hasher(Inner);

#[derive(Clone, Debug)]
enum Inner {
    Blake3(Box<blake3::Hasher>),
    Sha256(sha2::Sha256),
}

impl Hasher {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Inner::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Inner::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// The hash of all bytes that were taken.
    pub fn finish(self) -> ObjectId {
        match self.0 {
            Inner::Blake3(hasher) => ObjectId(*hasher.finalize().as_bytes()),
            Inner::Sha256(hasher) => ObjectId(hasher.finalize().into()),
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_standard_ones() {
        // `printf abc | b3sum` and `printf abc | sha256sum`.
        assert_eq!(
            HashAlgorithm::Blake3.hash(b"abc").to_hex(),
            "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
        );
        assert_eq!(
            HashAlgorithm::Sha256.hash(b"abc").to_hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_hash_does_not_depend_on_how_the_bytes_come() {
        for hash in HashAlgorithm::ALL {
            let mut hasher = hash.hasher();
            for piece in [&b"a"[..], b"", b"bc"] {
                hasher.update(piece);
            }
            assert_eq!(hasher.finish(), hash.hash(b"abc"));
        }
    }

    #[test]
    fn only_one_spelling_of_a_name_is_accepted() {
        let id = HashAlgorithm::Blake3.hash(b"abc");
        assert_eq!(id.to_hex().parse(), Ok(id));
        for bad in [id.to_hex().to_uppercase(), id.to_hex()[1..].to_string(), format!("{id}0"), "zz".repeat(32)] {
            assert_eq!(bad.parse::<ObjectId>(), Err(NotAnId), "{bad}");
        }
    }
}
