//! Takes a parcel apart as it comes. Total on bytes that anyone may have made, in memory that does not depend on them.

use std::io::{BufRead as _, BufReader, ErrorKind as Io, Read};
use std::ops::Range;

use bytes::Bytes;

use super::{BlobStart, Header, MAGIC, MAX_CONTENTS, MAX_FRAME_BYTES, MAX_SMALL_FRAME_BYTES, ParcelError, VERSION, tag};
use crate::content::MAX_BLOCK_BYTES;
use crate::model::{BlobHash, DistributionId, decode_whole};
use crate::network::wire::{EnvelopeBytes, MAX_ENCODED_BLOCK_BYTES};

/// One part of a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Signed envelopes, each after those that it depends on. Their signatures are for the replica to check.
    Envelopes(Vec<Bytes>),
    /// Distributions whose blobs follow, as far as the exporter had them. Their envelopes came before.
    Contents(Vec<DistributionId>),
    /// A blob begins, of which the next items are.
    Blob {
        /// What it is called.
        hash: BlobHash,
        /// Its size in bytes, as the parcel claims.
        size: u64,
    },
    /// The next range of the blob, as [`Content::encode_block`](crate::content::Content::encode_block) has it.
    Block {
        /// Which of its bytes.
        range: Range<u64>,
        /// Hashes and bytes, to be verified against the blob's hash.
        encoded: Vec<u8>,
    },
    /// Every range of the blob was there.
    Whole,
    /// The rest of the blob is not there: its exporter could not read it.
    Cut,
}

/// Reads a parcel from its first byte to its last.
#[derive(Debug)]
pub struct ParcelReader<R> {
    source: BufReader<R>,
    hash: blake3::Hasher,
    bytes: u64,
    /// The size of the blob that is being read, and how much of it has come.
    blob: Option<(u64, u64)>,
    ended: bool,
}

impl<R: Read> ParcelReader<R> {
    /// Reads what comes first.
    ///
    /// # Errors
    /// [`ParcelError`] when it is no parcel, or one of a version that is not known.
    pub fn open(source: R) -> Result<(Header, Self), ParcelError> {
        let mut reader = Self { source: BufReader::new(source), hash: blake3::Hasher::new(), bytes: 0, blob: None, ended: false };
        let mut start = [0; MAGIC.len() + 2];
        match reader.fill(&mut start) {
            Ok(()) if start[..MAGIC.len()] == *MAGIC => {}
            Ok(()) | Err(ParcelError::Truncated(_)) => return Err(ParcelError::NotAParcel),
            Err(error) => return Err(error),
        }
        let version = u16::from_le_bytes([start[MAGIC.len()], start[MAGIC.len() + 1]]);
        if version != VERSION {
            return Err(ParcelError::Version(version));
        }
        let (tag, length) = reader.head()?;
        if tag != tag::HEADER {
            return Err(reader.damaged("it does not begin with a header"));
        }
        let payload = reader.payload(length, MAX_SMALL_FRAME_BYTES)?;
        let header = reader.decode(&payload)?;
        Ok((header, reader))
    }

    /// The next part; none once the whole has proved to be what was written.
    ///
    /// # Errors
    /// [`ParcelError`]; nothing more can be read then.
    pub fn next_item(&mut self) -> Result<Option<Item>, ParcelError> {
        if self.ended {
            return Ok(None);
        }
        if self.blob.is_some_and(|(size, read)| read == size) {
            self.blob = None;
            return Ok(Some(Item::Whole));
        }
        let before = self.hash.finalize();
        let (tag, length) = self.head()?;
        if let Some((size, read)) = self.blob {
            return self.block(tag, length, size, read).map(Some);
        }
        match tag {
            tag::ENVELOPES => {
                let payload = self.payload(length, MAX_FRAME_BYTES)?;
                let envelopes: Vec<EnvelopeBytes> = self.decode(&payload)?;
                Ok(Some(Item::Envelopes(envelopes.into_iter().map(|envelope| envelope.0.into()).collect())))
            }
            tag::CONTENTS => {
                let payload = self.payload(length, MAX_FRAME_BYTES)?;
                let distributions: Vec<DistributionId> = self.decode(&payload)?;
                if distributions.len() > MAX_CONTENTS {
                    return Err(self.damaged("a frame names too many distributions"));
                }
                Ok(Some(Item::Contents(distributions)))
            }
            tag::BLOB => {
                let payload = self.payload(length, MAX_SMALL_FRAME_BYTES)?;
                let BlobStart { hash, size } = self.decode(&payload)?;
                self.blob = Some((size, 0));
                Ok(Some(Item::Blob { hash, size }))
            }
            tag::END => {
                let payload = self.payload(length, blake3::OUT_LEN)?;
                if payload != before.as_bytes() {
                    return Err(self.damaged("its hash is not that of its bytes"));
                }
                if !self.source.fill_buf().map_err(ParcelError::Read)?.is_empty() {
                    return Err(self.damaged("bytes follow its end"));
                }
                self.ended = true;
                Ok(None)
            }
            other => Err(self.damaged(&format!("there is no frame {other} here"))),
        }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An error at this place of the parcel.
    #[must_use]
    pub fn damaged(&self, what: &str) -> ParcelError {
        ParcelError::Damaged { at: self.bytes, what: what.to_owned() }
    }

    fn block(&mut self, tag: u8, length: u32, size: u64, read: u64) -> Result<Item, ParcelError> {
        match tag {
            tag::BLOCK => {
                let encoded = self.payload(length, MAX_ENCODED_BLOCK_BYTES)?;
                let range = read..read.saturating_add(MAX_BLOCK_BYTES).min(size);
                self.blob = Some((size, range.end));
                Ok(Item::Block { range, encoded })
            }
            tag::CUT => {
                self.payload(length, 0)?;
                self.blob = None;
                Ok(Item::Cut)
            }
            _ => Err(self.damaged("a blob ends in its middle")),
        }
    }

    fn head(&mut self) -> Result<(u8, u32), ParcelError> {
        let mut head = [0; 5];
        self.fill(&mut head)?;
        Ok((head[0], u32::from_le_bytes([head[1], head[2], head[3], head[4]])))
    }

    fn payload(&mut self, length: u32, limit: usize) -> Result<Vec<u8>, ParcelError> {
        let length = length as usize;
        if length > limit {
            return Err(self.damaged(&format!("a frame of {length} bytes is over its limit")));
        }
        let mut payload = vec![0; length];
        self.fill(&mut payload)?;
        Ok(payload)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ParcelError> {
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            Io::UnexpectedEof => ParcelError::Truncated(self.bytes),
            _ => ParcelError::Read(error),
        })?;
        self.bytes += buffer.len() as u64;
        self.hash.update(buffer);
        Ok(())
    }

    fn decode<'b, T: minicbor::Decode<'b, ()>>(&self, payload: &'b [u8]) -> Result<T, ParcelError> {
        decode_whole(payload).map_err(|error| self.damaged(&error.to_string()))
    }
}
