//! What is in the store, for who wants to look at it: blob by blob, each with the reasons for which it is kept.

use std::fmt;

use super::index::{self, PINS, REASONS, Row};
use super::{BlobStatus, Content, ContentError, Pin, PinRole};
use crate::model::{BlobHash, Sha256Digest, Timestamp};

/// A blob of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its hash.
    pub hash: BlobHash,
    /// Its SHA-256.
    pub sha256: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Held, or damaged.
    pub status: BlobStatus,
    /// When it became whole here.
    pub added: Timestamp,
}

impl Content {
    /// Blobs whose hash comes after that one, in the order of the hashes, `most` of them. Those that are unfinished are left out.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn list(&self, after: Option<BlobHash>, most: usize) -> Result<Vec<Listed>, ContentError> {
        Ok(self.0.index.page(after, most)?.into_iter().map(|(hash, row)| listed(hash, &row)).collect())
    }

    /// A blob that is in the list.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn listed(&self, hash: &BlobHash) -> Result<Option<Listed>, ContentError> {
        Ok(self.0.index.row(hash)?.map(|row| listed(*hash, &row)))
    }

    /// Why a blob is kept, here or not. Leases that have ended are left out.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn reasons(&self, hash: &BlobHash) -> Result<Vec<Pin>, ContentError> {
        let now = self.0.clock.now().as_millis();
        self.0.index.read(|txn| {
            let pins = index::pins_of(&txn.open_table(PINS)?, &txn.open_table(REASONS)?, hash)?;
            pins.into_iter().filter(|(_, until)| *until > now).map(|(key, until)| Pin::from_key(&key, until)).collect()
        })
    }
}

fn listed(hash: BlobHash, row: &Row) -> Listed {
    let status = if row.damaged { BlobStatus::Damaged } else { BlobStatus::Held { size: row.size } };
    Listed { hash, sha256: row.sha256, size: row.size, status, added: row.added }
}

/// `user:NAME`, `lease:NAME`, `distribution:ID (role)`, `package:REPOSITORY@DIGEST`, `stock:HASH`.
impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Distribution(id, role) => write!(f, "distribution:{id} ({role})"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Lease { name, .. } => write!(f, "lease:{name}"),
            Self::Stock(hash) => write!(f, "stock:{hash}"),
            Self::Package { repository, digest } => write!(f, "package:{repository}@{digest}"),
        }
    }
}

impl fmt::Display for PinRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sender => "sender",
            Self::Target => "target",
            Self::Carrier => "carrier",
        })
    }
}
