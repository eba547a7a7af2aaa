//! Fixed-size identifiers. All print as lower-case hex and travel as CBOR byte strings.

use std::fmt;
use std::str::FromStr;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}: expected {expected} hex digits, got {got:?}")]
pub struct ParseIdError {
    what: &'static str,
    expected: usize,
    got: String,
}

/// Parses exactly `N` bytes of hex, either case.
fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).expect("two hex digits are one byte");
    }
    Some(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// The identifier that consists of `bytes`.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The bytes of the identifier.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The first ten hex digits: enough for a person, never for a program.
            #[must_use]
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(10);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self).ok_or_else(|| ParseIdError {
                    what: $what,
                    expected: 2 * $bytes,
                    got: text.chars().take(80).collect(),
                })
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let bytes = d.bytes()?;
                bytes.try_into().map(Self).map_err(|_| minicbor::decode::Error::message(concat!("wrong length of ", $what)))
            }
        }
    };
}

id!(
    /// A node's Ed25519 public key.
    EndpointId, 32, "endpoint id"
);
id!(
    /// The BLAKE3 hash that names a blob.
    BlobHash, 32, "blob hash"
);
id!(
    /// The SHA-256 of a blob, as OCI and the attachment API name content.
    Sha256Digest, 32, "SHA-256 digest"
);
id!(
    /// The BLAKE3 hash of a distribution's manifest bytes.
    DistributionId, 32, "distribution id"
);
id!(
    /// The BLAKE3 hash of an envelope, signature included.
    EnvelopeId, 32, "envelope id"
);
id!(
    /// The BLAKE3 hash of an encoded [`Credential`](super::Credential).
    CredentialHash, 32, "credential hash"
);
id!(
    /// One life of a node's data directory: random, made with it.
    Incarnation, 16, "incarnation"
);
id!(
    /// Names a formation without giving its key away.
    FormationId, 16, "formation id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_anything_else_is_refused_with_what_was_expected() {
        let id = BlobHash::from_bytes([0xa5; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for bad in ["", "a5", &"g".repeat(64), &"a".repeat(63), &"é".repeat(32), &"+a".repeat(32)] {
            let error = bad.parse::<BlobHash>().expect_err(bad);
            assert!(error.to_string().contains("expected 64 hex digits"), "{error}");
        }
    }

    #[test]
    fn cbor_is_a_byte_string_of_the_exact_length() {
        let id = Incarnation::from_bytes([7; 16]);
        let bytes = crate::model::encode(&id);
        assert_eq!(bytes[0], 0x50, "major type 2, length 16 (RFC 8949, section 3.1)");
        assert_eq!(crate::model::decode_whole::<Incarnation>(&bytes).ok(), Some(id));
        assert!(crate::model::decode_whole::<EndpointId>(&bytes).is_err());
    }
}
