//! Parcels: envelopes and blobs in one file, for links that are a USB stick. `docs/format.md` has the format to the byte.
//!
//! Knows the form alone. What goes into a parcel, and what of one is wanted, is decided by reconcile; what is made of
//! envelopes and blocks, by the replica and the store. Must never take memory for a length that it has not held against its
//! limit, nor say that a parcel has ended before its hash was compared.

mod read;
mod write;

pub use read::{Item, ParcelReader};
pub use write::ParcelWriter;

use std::io;

use crate::ErrorKind;
use crate::model::{EndpointId, FormationId, Timestamp};

/// The first bytes of every parcel.
pub const MAGIC: &[u8; 16] = b"peat-blob parcel";
/// The version of the format that is written, and the only one that is read.
pub const VERSION: u16 = 1;

/// Most distributions that one frame of contents names.
pub const MAX_CONTENTS: usize = 4096;
/// Longest payload of a frame that is no block, in bytes.
const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// Longest header, and longest start of a blob, in bytes.
const MAX_SMALL_FRAME_BYTES: usize = 256;

/// What a frame is.
mod tag {
    pub(super) const HEADER: u8 = 0;
    pub(super) const ENVELOPES: u8 = 1;
    pub(super) const CONTENTS: u8 = 2;
    pub(super) const BLOB: u8 = 3;
    pub(super) const BLOCK: u8 = 4;
    pub(super) const CUT: u8 = 5;
    pub(super) const END: u8 = 6;
}

/// What a parcel says of itself first. Nobody has signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Header {
    /// Whose members the envelopes in it are from.
    #[n(0)]
    pub formation: FormationId,
    /// The node that wrote it.
    #[n(1)]
    pub exporter: EndpointId,
    /// When, by that node's clock.
    #[n(2)]
    pub made_at: Timestamp,
}

/// Where the bytes of a blob begin.
#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct BlobStart {
    #[n(0)]
    hash: crate::model::BlobHash,
    #[n(1)]
    size: u64,
}

/// Why a parcel cannot be written or read. What was taken in before, and verified, stays.
#[derive(Debug, thiserror::Error)]
pub enum ParcelError {
    /// The file cannot be read.
    #[error("cannot read the parcel: {0}")]
    Read(io::Error),
    /// The file cannot be written.
    #[error("cannot write the parcel: {0}")]
    Write(io::Error),
    /// It is something else.
    #[error("this is no parcel")]
    NotAParcel,
    /// It was written by a version that this one does not know.
    #[error("the parcel has the format {0}, and this version reads {VERSION}")]
    Version(u16),
    /// It ends too early.
    #[error("the parcel is cut off after {0} bytes")]
    Truncated(u64),
    /// Bytes are not what was written.
    #[error("the parcel is damaged before byte {at}: {what}")]
    Damaged {
        /// How many of its bytes had been read.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// It is for others.
    #[error("the parcel is of the formation {theirs}, and this node is of another")]
    OtherFormation {
        /// The formation that the parcel is of.
        theirs: FormationId,
    },
}

impl ParcelError {
    /// What it means for the caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Read(error) | Self::Write(error) => ErrorKind::of_io(error),
            Self::NotAParcel => ErrorKind::Usage,
            Self::Version(_) | Self::OtherFormation { .. } => ErrorKind::Refused,
            Self::Truncated(_) | Self::Damaged { .. } => ErrorKind::Integrity,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Read(_) => "what was read before is kept: import it again, nothing is taken in twice",
            Self::Write(error) if ErrorKind::of_io(error) == ErrorKind::NoSpace => {
                "export to a larger medium, or fewer distributions at a time"
            }
            Self::Write(_) => return None,
            Self::NotAParcel => "name a file that `parcel export` wrote",
            Self::Version(_) => "import it with the version that wrote it, or a newer one",
            Self::Truncated(_) | Self::Damaged { .. } => {
                "what was verified before is kept; copy the parcel anew or export it again, and import that"
            }
            Self::OtherFormation { .. } => "import it at a node of the formation that it was exported in",
        };
        Some(hint.to_owned())
    }
}
