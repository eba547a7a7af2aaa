//! A blob of the store as a stream. Every byte of it was verified in the read that gave it.

use std::io::{self, Read};

use crate::content::{BlobReader, Content, ContentError};
use crate::model::BlobHash;

/// Bytes that are read at a time.
const STEP_BYTES: usize = 256 * 1024;

/// A blob, from its first byte to its last. The blob is not collected meanwhile.
#[derive(Debug)]
pub struct BlobStream {
    reader: BlobReader,
    at: u64,
    buffer: Vec<u8>,
    taken: usize,
}

impl BlobStream {
    /// Opens a blob.
    ///
    /// # Errors
    /// `Absent` or `Damaged` when it is not held, or what the store's files failed with.
    pub fn open(content: &Content, hash: &BlobHash) -> Result<Self, ContentError> {
        Ok(Self { reader: content.open_blob(hash)?, at: 0, buffer: Vec::new(), taken: 0 })
    }

    /// The blob's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.reader.size()
    }

    /// The next bytes, none at the end.
    ///
    /// # Errors
    /// `Damaged` when they are not what they were.
    pub fn next_piece(&mut self) -> Result<&[u8], ContentError> {
        self.buffer.resize(STEP_BYTES, 0);
        let read = self.reader.read_at(self.at, &mut self.buffer)?;
        self.at += read as u64;
        self.buffer.truncate(read);
        self.taken = 0;
        Ok(&self.buffer)
    }
}

impl Read for BlobStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.len() && self.next_piece().map_err(io::Error::other)?.is_empty() {
            return Ok(0);
        }
        let rest = &self.buffer[self.taken..];
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        self.taken += length;
        Ok(length)
    }
}
