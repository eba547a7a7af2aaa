//! Puts a parcel together, one part after the other.

use std::io::{BufWriter, Write};

use bytes::Bytes;

use super::{BlobStart, Header, MAGIC, MAX_CONTENTS, ParcelError, VERSION, tag};
use crate::model::{BlobHash, DistributionId, encode};
use crate::network::wire::{ENVELOPE_BATCH_BYTES, EnvelopeBytes};

/// Writes a parcel from its first byte to its last. One that is not finished does not read as one.
#[derive(Debug)]
pub struct ParcelWriter<W: Write> {
    sink: BufWriter<W>,
    hash: blake3::Hasher,
    bytes: u64,
    envelopes: Vec<EnvelopeBytes>,
    envelope_bytes: usize,
}

impl<W: Write> ParcelWriter<W> {
    /// Writes what comes first.
    ///
    /// # Errors
    /// [`ParcelError::Write`].
    pub fn begin(sink: W, header: &Header) -> Result<Self, ParcelError> {
        let (sink, hash) = (BufWriter::new(sink), blake3::Hasher::new());
        let mut writer = Self { sink, hash, bytes: 0, envelopes: Vec::new(), envelope_bytes: 0 };
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.frame(tag::HEADER, &encode(header))?;
        Ok(writer)
    }

    /// Adds an envelope, after those that it depends on.
    ///
    /// # Errors
    /// [`ParcelError::Write`].
    pub fn envelope(&mut self, envelope: &Bytes) -> Result<(), ParcelError> {
        self.envelope_bytes += envelope.len();
        self.envelopes.push(EnvelopeBytes(envelope.to_vec()));
        if self.envelope_bytes >= ENVELOPE_BATCH_BYTES { self.flush_envelopes() } else { Ok(()) }
    }

    /// Names the distributions whose blobs follow.
    ///
    /// # Errors
    /// [`ParcelError::Write`].
    pub fn contents(&mut self, distributions: &[DistributionId]) -> Result<(), ParcelError> {
        self.flush_envelopes()?;
        distributions.chunks(MAX_CONTENTS).try_for_each(|chunk| self.frame(tag::CONTENTS, &encode(&chunk)))
    }

    /// Begins a blob, whose blocks of [`MAX_BLOCK_BYTES`](crate::content::MAX_BLOCK_BYTES) follow in order; an empty one has
    /// none.
    ///
    /// # Errors
    /// [`ParcelError::Write`].
    pub fn blob(&mut self, hash: BlobHash, size: u64) -> Result<(), ParcelError> {
        self.flush_envelopes()?;
        self.frame(tag::BLOB, &encode(&BlobStart { hash, size }))
    }

    /// Adds the next block of the blob.
    ///
    /// # Errors
    /// [`ParcelError::Write`].
    pub fn block(&mut self, encoded: &[u8]) -> Result<(), ParcelError> {
        self.frame(tag::BLOCK, encoded)
    }

    /// Ends a blob before its last block.
    ///
    /// # Errors
    /// [`ParcelError::Write`].
    pub fn cut(&mut self) -> Result<(), ParcelError> {
        self.frame(tag::CUT, &[])
    }

    /// Ends the parcel, and says how many bytes it has. They are handed over, which does not make them durable.
    ///
    /// # Errors
    /// [`ParcelError::Write`].
    pub fn finish(mut self) -> Result<u64, ParcelError> {
        self.flush_envelopes()?;
        let hash = self.hash.finalize();
        self.frame(tag::END, hash.as_bytes())?;
        self.sink.flush().map_err(ParcelError::Write)?;
        Ok(self.bytes)
    }

    fn flush_envelopes(&mut self) -> Result<(), ParcelError> {
        if self.envelopes.is_empty() {
            return Ok(());
        }
        self.envelope_bytes = 0;
        let envelopes = std::mem::take(&mut self.envelopes);
        self.frame(tag::ENVELOPES, &encode(&envelopes))
    }

    fn frame(&mut self, tag: u8, payload: &[u8]) -> Result<(), ParcelError> {
        let length = u32::try_from(payload.len()).expect("frames are at most about 1 MiB");
        let mut head = [tag; 5];
        head[1..].copy_from_slice(&length.to_le_bytes());
        self.put(&head)?;
        self.put(payload)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ParcelError> {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
        self.sink.write_all(bytes).map_err(ParcelError::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::MAX_BLOCK_BYTES;
    use crate::model::{EndpointId, FormationId, Timestamp};
    use crate::parcel::{Item, ParcelReader};

    fn header() -> Header {
        let exporter = EndpointId::from_bytes([2; 32]);
        Header { formation: FormationId::from_bytes([1; 16]), exporter, made_at: Timestamp::from_millis(3) }
    }

    fn parcel() -> Vec<u8> {
        let (mut bytes, blob) = (Vec::new(), BlobHash::from_bytes([4; 32]));
        let mut writer = ParcelWriter::begin(&mut bytes, &header()).expect("memory");
        writer.envelope(&Bytes::from_static(b"one")).expect("memory");
        writer.envelope(&Bytes::from_static(b"two")).expect("memory");
        writer.contents(&[DistributionId::from_bytes([5; 32])]).expect("memory");
        writer.blob(blob, 0).expect("memory");
        writer.blob(blob, MAX_BLOCK_BYTES + 1).expect("memory");
        writer.block(b"first").expect("memory");
        writer.block(b"second").expect("memory");
        writer.blob(blob, 7).expect("memory");
        writer.cut().expect("memory");
        let length = writer.finish().expect("memory");
        assert_eq!(length, bytes.len() as u64);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<Item>, ParcelError> {
        let (found, mut reader) = ParcelReader::open(bytes)?;
        assert_eq!(found, header());
        let mut items = Vec::new();
        while let Some(item) = reader.next_item()? {
            items.push(item);
        }
        Ok(items)
    }

    #[test]
    fn what_is_written_is_read() {
        let (hash, last) = (BlobHash::from_bytes([4; 32]), MAX_BLOCK_BYTES + 1);
        let expected = vec![
            Item::Envelopes(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]),
            Item::Contents(vec![DistributionId::from_bytes([5; 32])]),
            Item::Blob { hash, size: 0 },
            Item::Whole,
            Item::Blob { hash, size: last },
            Item::Block { range: 0..MAX_BLOCK_BYTES, encoded: b"first".to_vec() },
            Item::Block { range: MAX_BLOCK_BYTES..last, encoded: b"second".to_vec() },
            Item::Whole,
            Item::Blob { hash, size: 7 },
            Item::Cut,
        ];
        assert_eq!(read(&parcel()).expect("whole"), expected);
    }

    #[test]
    fn no_parcel_that_is_cut_off_or_continued_reads_to_its_end() {
        let parcel = parcel();
        for length in 0..parcel.len() {
            let error = read(&parcel[..length]).expect_err("cut off");
            let expected = matches!((length, &error), (..18, ParcelError::NotAParcel) | (18.., ParcelError::Truncated(_)));
            assert!(expected, "{length}: {error}");
        }
        let error = read(&[parcel.as_slice(), b"\0"].concat()).expect_err("continued");
        assert!(matches!(error, ParcelError::Damaged { .. }), "{error}");
    }

    #[test]
    fn no_flipped_bit_stays_unnoticed() {
        let parcel = parcel();
        for bit in 0..parcel.len() * 8 {
            let mut flipped = parcel.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The header is handed over before the end is compared; `read` looks at it only when it can be read.
            let outcome = ParcelReader::open(flipped.as_slice()).and_then(|(_, mut reader)| {
                while reader.next_item()?.is_some() {}
                Ok(())
            });
            outcome.expect_err("flipped");
        }
    }

    #[test]
    fn a_length_over_its_limit_takes_no_memory() {
        let mut bytes = parcel();
        let header = 18 + 5 + bytes[19] as usize;
        bytes[header + 1..header + 5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&bytes), Err(ParcelError::Damaged { what, .. }) if what.contains("over its limit")));
    }
}
