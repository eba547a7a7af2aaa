//! Digests as the OCI writes them: `sha256:` or `sha512:` and lower-case hex (image-spec, `descriptor.md`, "Digests").

use std::fmt;
use std::str::FromStr;

use crate::model::Sha256Digest;

/// A hash function that names content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, 32 bytes: what everyone uses.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The word before the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// The name of some content: which function, and what it comes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// By SHA-256.
    Sha256(Sha256Digest),
    /// By SHA-512.
    Sha512([u8; 64]),
}

/// Why a text is not a digest that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No colon, a strange character, or not as many digits as the function has.
    #[error("{0:?} is no digest: write sha256: and 64 lower-case hex digits, or sha512: and 128")]
    Malformed(String),
    /// Well-formed, by a function that is not one of ours.
    #[error("the digest {0:?} is of a function that is not known here: use sha256 or sha512")]
    UnknownAlgorithm(String),
}

impl Digest {
    /// What some bytes are called by a function.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = DigestHasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Whether it is what these bytes are called.
    #[must_use]
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        Self::of(self.algorithm(), bytes) == *self
    }

    /// Its hash function.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The bytes of the hash: 32 or 64.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(digest) => digest.as_bytes(),
            Self::Sha512(bytes) => bytes,
        }
    }

    /// The hex digits after the colon.
    #[must_use]
    pub fn hex(&self) -> String {
        data_encoding::HEXLOWER.encode(self.as_bytes())
    }

    /// The digest by SHA-256, if it is one.
    #[must_use]
    pub const fn sha256(&self) -> Option<Sha256Digest> {
        match self {
            Self::Sha256(digest) => Some(*digest),
            Self::Sha512(_) => None,
        }
    }
}

/// Makes a digest of bytes that come piece by piece.
#[derive(Debug, Clone)]
pub enum DigestHasher {
    /// By SHA-256.
    Sha256(sha2::Sha256),
    /// By SHA-512.
    Sha512(sha2::Sha512),
}

impl DigestHasher {
    /// Of nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Digest::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Digest::new()),
        }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => sha2::Digest::update(hasher, bytes),
            Self::Sha512(hasher) => sha2::Digest::update(hasher, bytes),
        }
    }

    /// The digest of all that were added.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(Sha256Digest::from_bytes(sha2::Digest::finalize(hasher).into())),
            Self::Sha512(hasher) => Digest::Sha512(sha2::Digest::finalize(hasher).into()),
        }
    }
}

impl From<Sha256Digest> for Digest {
    fn from(digest: Sha256Digest) -> Self {
        Self::Sha256(digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(text.chars().take(160).collect());
        let (algorithm, encoded) = text.split_once(':').ok_or_else(malformed)?;
        // Upper-case digits would give one content two names.
        let bytes = || data_encoding::HEXLOWER.decode(encoded.as_bytes()).map_err(|_| malformed());
        match algorithm {
            "sha256" => Ok(Self::Sha256(Sha256Digest::from_bytes(bytes()?.try_into().map_err(|_| malformed())?))),
            "sha512" => Ok(Self::Sha512(bytes()?.try_into().map_err(|_| malformed())?)),
            _ if is_algorithm(algorithm) && is_encoded(encoded) => {
                Err(DigestError::UnknownAlgorithm(text.chars().take(160).collect()))
            }
            _ => Err(malformed()),
        }
    }
}

/// `algorithm-component [algorithm-separator algorithm-component]*`, components `[a-z0-9]+`, separators one of `+._-`.
fn is_algorithm(text: &str) -> bool {
    text.split(['+', '.', '_', '-'])
        .all(|part| !part.is_empty() && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()))
}

/// `[a-zA-Z0-9=_-]+`.
fn is_encoded(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"=_-".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_read_as_they_are_written_and_nothing_else_does() {
        let (short, long) = ("0123456789abcdef".repeat(4), "0123456789abcdef".repeat(8));
        for text in [format!("sha256:{short}"), format!("sha512:{long}")] {
            assert_eq!(text.parse::<Digest>().expect("a digest").to_string(), text);
        }
        let upper = format!("sha256:{}", short.to_uppercase());
        let bad = ["", "sha256", "sha256:", "sha256:zz", &short, &upper, &format!("sha512:{short}"), &format!("sha256:{long}")];
        for text in bad.into_iter().chain(["md5:", "Md5:ab", "a..b:ab", "md5:a/b"]) {
            assert!(matches!(text.parse::<Digest>(), Err(DigestError::Malformed(_))), "{text}");
        }
        for text in ["md5:d41d8cd98f00b204e9800998ecf8427e", "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8"] {
            assert!(matches!(text.parse::<Digest>(), Err(DigestError::UnknownAlgorithm(_))), "{text}");
        }
    }
}
