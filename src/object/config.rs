//! `config.json`: what is fixed for the life of a repository.

use serde::{Deserialize, Serialize};

use super::document::{self, DocumentError, Requires};
use super::{ChunkSizes, HashAlgorithm};

/// The version of the repository format that this code writes, and the newest that it reads.
pub const FORMAT: u64 = 1;

/// The configuration of a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// A random name for the repository: 32 hex digits. Copies share it.
    pub id: String,
    /// The hash that names objects.
    pub hash: HashAlgorithm,
    /// Where files are cut.
    pub chunks: ChunkSizes,
}

#[derive(Serialize, Deserialize)]
struct Fields {
    format: u64,
    id: String,
    hash: HashAlgorithm,
    chunker: ChunkerFields,
    requires: Requires,
}

#[derive(Serialize, Deserialize)]
struct ChunkerFields {
    algorithm: String,
    version: u64,
    normalization: u64,
    minimum: u32,
    average: u32,
    maximum: u32,
}

const ALGORITHM: &str = "fastcdc";
const ALGORITHM_VERSION: u64 = 2020;
const NORMALIZATION: u64 = 1;

impl Config {
    /// The content of `config.json`.
    pub fn encode(&self) -> Vec<u8> {
        let (minimum, average, maximum) = self.chunks.parts();
        let fields = Fields {
            format: FORMAT,
            id: self.id.clone(),
            hash: self.hash,
            chunker: ChunkerFields {
                algorithm: ALGORITHM.into(),
                version: ALGORITHM_VERSION,
                normalization: NORMALIZATION,
                minimum,
                average,
                maximum,
            },
            requires: Requires,
        };
        document::seal(self.hash, &fields)
    }

    /// Reads `config.json`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        let value = document::peek(bytes)?;
        let name = value.get("hash").and_then(|hash| hash.as_str());
        let name = name.ok_or_else(|| DocumentError::damaged("it names no hash"))?;
        let hash = HashAlgorithm::ALL.into_iter().find(|hash| hash.name() == name);
        let hash =
            hash.ok_or_else(|| DocumentError::TooNew(format!("its hash {name:?} is not known, or is damaged")))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        let fields: Fields = document::open(hash, bytes).map_err(|error| match format {
            // A newer format explains everything else, even a checksum that does not match by the rules of this one.
            Some(format) if format > FORMAT => unknown_format(format),
            _ => error,
        })?;
        if fields.format != FORMAT {
            return Err(unknown_format(fields.format));
        }
        let ChunkerFields { algorithm, version, normalization, .. } = &fields.chunker;
        if (algorithm.as_str(), *version, *normalization) != (ALGORITHM, ALGORITHM_VERSION, NORMALIZATION) {
            let what =
                format!("its chunker {algorithm:?}, version {version}, normalization {normalization}, is not known");
            return Err(DocumentError::TooNew(what));
        }
        let ChunkerFields { minimum, average, maximum, .. } = fields.chunker;
        let chunks = ChunkSizes::from_parts(minimum, average, maximum)
            .map_err(|error| DocumentError::TooNew(error.to_string()))?;
        Ok(Self { id: fields.id, hash, chunks })
    }
}

fn unknown_format(format: u64) -> DocumentError {
    DocumentError::TooNew(format!("the repository has format {format}, and this version knows format {FORMAT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(text: &str) -> Vec<u8> {
        let checksum = HashAlgorithm::Blake3.hash(text.as_bytes());
        text.replace("],\n}", &format!("],\n  \"checksum\": \"{checksum}\"\n}}")).into_bytes()
    }

    const GOLDEN: &str = r#"{
  "format": 1,
  "id": "00112233445566778899aabbccddeeff",
  "hash": "blake3",
  "chunker": {
    "algorithm": "fastcdc",
    "version": 2020,
    "normalization": 1,
    "minimum": 16384,
    "average": 65536,
    "maximum": 262144
  },
  "requires": [],
}
"#;

    fn config() -> Config {
        let id = "00112233445566778899aabbccddeeff".to_string();
        Config { id, hash: HashAlgorithm::Blake3, chunks: ChunkSizes::default() }
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(String::from_utf8(config().encode()), String::from_utf8(sealed(GOLDEN)));
        assert_eq!(Config::decode(&sealed(GOLDEN)), Ok(config()));
        let sha = Config { hash: HashAlgorithm::Sha256, ..config() };
        assert_eq!(Config::decode(&sha.encode()), Ok(sha));
    }

    #[test]
    fn what_is_newer_is_refused_as_newer() {
        for (from, to) in [
            ("\"format\": 1", "\"format\": 2"),
            ("\"requires\": []", "\"requires\": [\"encryption\"]"),
            ("fastcdc", "rabin"),
            ("2020", "2030"),
            ("\"normalization\": 1", "\"normalization\": 2"),
            ("16384", "16385"),
        ] {
            let text = GOLDEN.replace(from, to);
            assert_ne!(text, GOLDEN);
            assert!(matches!(Config::decode(&sealed(&text)), Err(DocumentError::TooNew(_))), "{to}");
        }
        let other_hash = String::from_utf8(sealed(GOLDEN)).unwrap().replace("blake3", "blake4");
        assert!(matches!(Config::decode(other_hash.as_bytes()), Err(DocumentError::TooNew(_))));
    }

    #[test]
    fn fields_that_are_not_known_are_ignored() {
        let text = GOLDEN.replace("\"requires\": []", "\"colour\": { \"r\": 1 },\n  \"requires\": []");
        assert_eq!(Config::decode(&sealed(&text)), Ok(config()));
    }

    #[test]
    fn a_changed_byte_is_damage() {
        let good = config().encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Config::decode(&bad).is_err(), "byte {at}");
        }
        for length in 0..good.len() {
            assert!(matches!(Config::decode(&good[..length]), Err(DocumentError::Damaged(_))), "length {length}");
        }
    }
}
