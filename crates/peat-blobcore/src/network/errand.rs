//! What a node asks another to ask a registry for that it cannot reach itself. Names and digests are checked when they are read:
//! nothing else gets further.

use super::wire::{WireError, decode_within};
use crate::model::encode;
use crate::oci::{Digest, Repository, Tag};

/// Asks a member for something of a repository that an upstream of the member's has.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct UpstreamRequest {
    /// The repository, by the name that it has in this fleet.
    #[n(0)]
    pub repository: String,
    /// What of it.
    #[n(1)]
    pub wanted: UpstreamWanted,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum UpstreamWanted {
    /// What a tag points to.
    #[n(0)]
    Tag(#[n(0)] String),
    /// The manifest of a digest.
    #[n(1)]
    Manifest(#[n(0)] String),
    /// The blob of a digest, from a byte on.
    #[n(2)]
    Blob(#[n(0)] String, #[n(1)] u64),
}

impl UpstreamRequest {
    /// Whether every name in it is one.
    pub(super) fn check(&self) -> Result<(), WireError> {
        let named = match &self.wanted {
            UpstreamWanted::Tag(tag) => tag.parse::<Tag>().is_ok(),
            UpstreamWanted::Manifest(digest) | UpstreamWanted::Blob(digest, _) => digest.parse::<Digest>().is_ok(),
        };
        if named && self.repository.parse::<Repository>().is_ok() { Ok(()) } else { Err(WireError::Request) }
    }
}

/// The first frame of the answer: what there is. Of a manifest or blob its bytes follow, from where they were asked for.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct UpstreamHead {
    /// The digest.
    #[n(0)]
    pub digest: String,
    /// The media type.
    #[n(1)]
    pub media_type: String,
    /// The size of the whole in bytes.
    #[n(2)]
    pub size: u64,
}

impl UpstreamHead {
    /// Longest frame, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// The frame's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a frame that anyone may have sent.
    ///
    /// # Errors
    /// [`WireError::Malformed`], [`WireError::TooLong`], or [`WireError::Request`] when its digest is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let head: Self = decode_within(bytes, Self::MAX_BYTES)?;
        if head.digest.parse::<Digest>().is_ok() { Ok(head) } else { Err(WireError::Request) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::wire::Request;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn decoded(repository: &str, wanted: UpstreamWanted) -> bool {
        let request = Request::Upstream(UpstreamRequest { repository: repository.to_owned(), wanted });
        let bytes = request.encode();
        assert!(bytes.len() <= Request::MAX_BYTES);
        match Request::decode(&bytes) {
            Ok(decoded) => decoded == request,
            Err(_) => false,
        }
    }

    #[test]
    fn what_has_no_name_is_not_asked_for() {
        let tag = |tag: &str| UpstreamWanted::Tag(tag.to_owned());
        assert!(decoded("up/a", tag("v1")) && decoded("up/a", UpstreamWanted::Manifest(DIGEST.to_owned())));
        assert!(decoded("up/a", UpstreamWanted::Blob(DIGEST.to_owned(), u64::MAX)));
        for (repository, wanted) in [
            ("../a", tag("v1")),
            ("up/a", tag("v1/../..")),
            ("", tag("v1")),
            ("up/a", UpstreamWanted::Manifest("v1".to_owned())),
            ("up/a", UpstreamWanted::Blob("sha256:".to_owned(), 0)),
        ] {
            assert!(!decoded(repository, wanted.clone()), "{repository} {wanted:?}");
        }
    }

    #[test]
    fn a_head_says_what_it_is() {
        let head = UpstreamHead { digest: DIGEST.to_owned(), media_type: "a/b".to_owned(), size: 7 };
        assert_eq!(UpstreamHead::decode(&head.encode()).expect("a head"), head);
        let nothing = UpstreamHead { digest: "v1".to_owned(), ..head.clone() };
        assert!(matches!(UpstreamHead::decode(&nothing.encode()), Err(WireError::Request)));
        let long = UpstreamHead { media_type: "x".repeat(UpstreamHead::MAX_BYTES), ..head };
        assert!(matches!(UpstreamHead::decode(&long.encode()), Err(WireError::TooLong(_))));
    }
}
