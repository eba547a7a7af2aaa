//! Several small blobs in one go: read from the index, and put there once they are what their hashes say.

use super::{Batch, Content, ContentError, Ingested, MAX_INLINE_BYTES, ingest};
use crate::model::BlobHash;

impl Content {
    /// Reads small blobs one after the other, verified, until what was read comes to `most` bytes: at least the first.
    /// Larger ones are `Absent` here.
    ///
    /// # Errors
    /// When the index cannot be read. That one blob is absent or damaged concerns that one alone.
    pub fn read_small(&self, hashes: &[BlobHash], most: usize) -> Result<Vec<Result<Vec<u8>, ContentError>>, ContentError> {
        let mut all = 0;
        let found = self.0.index.inline_of(hashes, &mut |bytes| {
            all += bytes;
            all < most
        })?;
        let verified = hashes.iter().zip(found).map(|(hash, found)| {
            let (row, bytes) = found.ok_or(ContentError::Absent(*hash))?;
            match bytes {
                _ if row.damaged => Err(ContentError::Damaged(*hash)),
                Some(bytes) if blake3::hash(&bytes).as_bytes() == hash.as_bytes() => Ok(bytes),
                _ => Err(self.0.damaged(hash, &row)),
            }
        });
        Ok(verified.collect())
    }

    /// Whether the index has room for small blobs of so many bytes in all: asked before they are sent for.
    ///
    /// # Errors
    /// `NoSpace` when it has not.
    pub fn ensure_small_fit(&self, bytes: u64) -> Result<(), ContentError> {
        self.0.ensure_index_room(bytes)
    }
}

impl Batch {
    /// Adds a small blob, if the bytes are what the hash names.
    ///
    /// # Errors
    /// `Corrupt` when they are not, and nothing has changed; else as [`Content::ingest_bytes`].
    pub fn add_small(&mut self, hash: &BlobHash, bytes: Vec<u8>) -> Result<Ingested, ContentError> {
        if bytes.len() as u64 > MAX_INLINE_BYTES {
            return Err(ContentError::Corrupt(*hash));
        }
        let staged = ingest::stage_inline(bytes);
        if staged.blob.hash == *hash { self.add(staged) } else { Err(ContentError::Corrupt(*hash)) }
    }
}
