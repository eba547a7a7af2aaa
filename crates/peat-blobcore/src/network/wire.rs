//! What two admitted nodes say on their connection. Every length is checked before memory is taken for it.
//!
//! A frame is a little-endian `u32` length and that many bytes. The first bidirectional stream carries admission and then
//! [`Message`]s both ways; each further one is a [`Request`] and its answer: [`BlockFrame`]s for a [`BlockRequest`], and for
//! an [`AvailabilityRequest`] frames of [`Available`] for as long as the asker keeps the stream open. A [`RecipeRequest`] and a
//! [`RangesRequest`] are followed by a frame of [`Runs`], and answered in [`BlockFrame`]s. The frames that answer a
//! [`SmallRequest`] hold [`SmallBlobs`]. An [`UpstreamRequest`] is answered by a frame of an
//! [`UpstreamHead`](super::errand::UpstreamHead), and the bytes after it.

use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{ReadExactError, RecvStream, SendStream, WriteError};
use tokio::time::timeout;

use super::errand::UpstreamRequest;
use crate::content::Known;
use crate::model::{BlobHash, DistributionId, EnvelopeId, decode_whole, encode};

/// The ALPN of our protocol. Versions are agreed on during admission.
pub const ALPN: &[u8] = b"peat-blob/1";
/// Longest frame of the control stream, in bytes.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// Payload of envelopes that one [`Message::Envelopes`] is filled to, in bytes.
pub const ENVELOPE_BATCH_BYTES: usize = 256 * 1024;
/// Most envelope ids in one [`Message::Want`].
pub const MAX_WANTED: usize = 4096;
/// Longest block of a blob, in bytes.
pub const MAX_BLOCK_BYTES: u64 = 1024 * 1024;
/// Bytes of a verified group: the unit of requests (BLAKE3 chunk groups of 16 chunks).
pub const GROUP_BYTES: u64 = 16 * 1024;
/// Longest encoded block: its bytes and a pair of hashes for each node above its first and its last group.
pub(crate) const MAX_ENCODED_BLOCK_BYTES: usize = MAX_BLOCK_BYTES as usize + MAX_PAIRS_BYTES;
/// No tree that 64 bits can number the bytes of is deeper than 64.
pub(crate) const MAX_PAIRS_BYTES: usize = 64 * (64 + 64);

/// What admitted nodes tell each other.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Message {
    /// The first message each way: a number that is new each time the node starts, so that a connection left over from
    /// before a peer's restart is known as such.
    #[n(0)]
    Start(#[n(0)] u64),
    /// One message of set reconciliation (negentropy protocol 1), from the side that dialled.
    #[n(1)]
    Question(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The answer to a question.
    #[n(2)]
    Answer(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// Envelopes to send to this side.
    #[n(3)]
    Want(#[n(0)] Vec<EnvelopeId>),
    /// Envelopes, as asked for or as they come to be.
    #[n(4)]
    Envelopes(#[n(0)] Vec<EnvelopeBytes>),
    /// Everything that the other side lacked has been sent before this.
    #[n(5)]
    Reconciled,
    /// The sender's replica may differ from the receiver's: reconcile again.
    #[n(6)]
    Again,
    /// Verified bytes of a distribution at this node, for who shows them, and for who is to get it too and may ask for them; may be
    /// lost.
    #[n(7)]
    Progress {
        /// Which distribution.
        #[n(0)]
        distribution: DistributionId,
        /// How many of its bytes are verified here.
        #[n(1)]
        bytes: u64,
    },
}

/// One signed envelope as bytes.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct EnvelopeBytes(#[cbor(n(0), with = "minicbor::bytes")] pub Vec<u8>);

impl Message {
    /// The frame's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a message from a frame that anyone may have sent.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Ok(decode_whole(bytes)?)
    }
}

/// The first frame of a stream that a peer opens. A node that does not know a kind of request ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum Request {
    /// It wants bytes.
    #[n(0)]
    Blocks(#[n(0)] BlockRequest),
    /// It wants to know what there is, and what comes to be there.
    #[n(1)]
    Availability(#[n(0)] AvailabilityRequest),
    /// It wants to know of which chunks a blob consists.
    #[n(2)]
    Recipe(#[n(0)] RecipeRequest),
    /// It wants bytes that its own store lacks of a blob.
    #[n(3)]
    Ranges(#[n(0)] RangesRequest),
    /// It wants several small blobs.
    #[n(4)]
    Small(#[n(0)] SmallRequest),
    /// It wants something that an upstream of the node's has.
    #[n(5)]
    Upstream(#[n(0)] UpstreamRequest),
}

impl Request {
    /// Longest encoded request, in bytes.
    pub const MAX_BYTES: usize = 16 + SmallRequest::MAX_BLOBS * 34;

    /// The frame's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a request from bytes that anyone may have sent.
    ///
    /// # Errors
    /// [`WireError::Malformed`] when it is none, [`WireError::Request`] when it asks for what nobody may.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let request: Self = decode_whole(bytes)?;
        match &request {
            Self::Blocks(blocks) => blocks.check()?,
            Self::Availability(_) | Self::Recipe(_) | Self::Ranges(_) => {}
            Self::Small(small) => small.check()?,
            Self::Upstream(wanted) => wanted.check()?,
        }
        Ok(request)
    }
}

/// Asks a holder for several blobs, each whole, of at most [`GROUP_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct SmallRequest {
    /// Which blobs.
    #[n(0)]
    pub blobs: Vec<BlobHash>,
}

impl SmallRequest {
    /// Most blobs of one request.
    pub const MAX_BLOBS: usize = 256;

    fn check(&self) -> Result<(), WireError> {
        if (1..=Self::MAX_BLOBS).contains(&self.blobs.len()) { Ok(()) } else { Err(WireError::Request) }
    }
}

/// What one [`BlockFrame::Block`] of the answer to a [`SmallRequest`] holds: the next of the blobs, in the order in which they
/// were asked for.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct SmallBlobs {
    /// Each of them, or why it does not come.
    #[n(0)]
    pub blobs: Vec<SmallBlob>,
}

/// What becomes of one blob of a [`SmallRequest`].
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub enum SmallBlob {
    /// All its bytes.
    #[n(0)]
    Whole(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The number of a [`Denial`], which concerns this blob alone.
    #[n(1)]
    Denied(#[n(0)] u8),
}

impl SmallBlobs {
    /// Bytes of blobs that a frame is filled to: what a cut can cost.
    pub const FILL_BYTES: usize = 32 * 1024;
    /// Longest frame, in bytes.
    pub const MAX_BYTES: usize = Self::FILL_BYTES + GROUP_BYTES as usize + SmallRequest::MAX_BLOBS * 8;

    /// The frame's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a frame that anyone may have sent.
    ///
    /// # Errors
    /// [`WireError::Malformed`], [`WireError::TooLong`], or [`WireError::Request`] when it says nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let decoded: Self = decode_within(bytes, Self::MAX_BYTES)?;
        if decoded.blobs.is_empty() { Err(WireError::Request) } else { Ok(decoded) }
    }
}

/// Reads a frame that anyone may have sent, of so many bytes at most.
pub(super) fn decode_within<T: for<'b> minicbor::Decode<'b, ()>>(bytes: &[u8], most: usize) -> Result<T, WireError> {
    if bytes.len() > most {
        return Err(WireError::TooLong(bytes.len()));
    }
    Ok(decode_whole(bytes)?)
}

/// Asks a node that may have parts of a blob which it has, now and from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct AvailabilityRequest {
    /// Which blob.
    #[n(0)]
    pub blob: BlobHash,
}

/// Groups of a blob that have come to be verified at a node since the last frame of the answer. The first frame has none: who asked
/// learns that it was heard.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Available {
    /// The first group and how many, for each run of groups of [`GROUP_BYTES`].
    #[n(0)]
    pub runs: Vec<(u64, u64)>,
}

impl Available {
    /// Most runs of one frame.
    pub const MAX_RUNS: usize = 2048;
    /// Longest frame, in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// The frame's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a frame that anyone may have sent.
    ///
    /// # Errors
    /// [`WireError::Malformed`], or [`WireError::Request`] when it says more than a frame may.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let available: Self = decode_whole(bytes)?;
        if available.runs.len() <= Self::MAX_RUNS { Ok(available) } else { Err(WireError::Request) }
    }
}

/// Asks who holds all of a blob for its recipe. The [`Runs`] that follow are runs of segments, of which the chunks are wanted: the
/// answer is one [`BlockFrame`] for each run. Without any the outline is wanted: the answer is frames of whole segments until
/// these are all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct RecipeRequest {
    /// Which blob.
    #[n(0)]
    pub blob: BlobHash,
}

/// Asks who holds all of a blob for ranges of its bytes, which are the [`Runs`] that follow: the answer is one [`BlockFrame`] for
/// each, of the bytes and nothing else. The holder verifies them; the asker cannot before it has the whole blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct RangesRequest {
    /// Which blob.
    #[n(0)]
    pub blob: BlobHash,
}

/// Which parts of something are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(array)]
pub struct Runs {
    /// Where each begins, and how long it is: at least 1, at most [`MAX_BLOCK_BYTES`].
    #[n(0)]
    pub runs: Vec<(u64, u64)>,
}

impl Runs {
    /// Most runs of one request.
    pub const MAX_RUNS: usize = 256;
    /// Longest frame, in bytes.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// The frame's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a frame that anyone may have sent.
    ///
    /// # Errors
    /// [`WireError::Malformed`], or [`WireError::Request`] when it asks for what nobody may.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let decoded: Self = decode_whole(bytes)?;
        let fits = |(start, length): &(u64, u64)| (1..=MAX_BLOCK_BYTES).contains(length) && start.checked_add(*length).is_some();
        let fit = decoded.runs.len() <= Self::MAX_RUNS && decoded.runs.iter().all(fits);
        if fit { Ok(decoded) } else { Err(WireError::Request) }
    }
}

/// Asks a holder for verified bytes of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct BlockRequest {
    /// Which blob.
    #[n(0)]
    pub blob: BlobHash,
    /// The offset of the first byte, a multiple of [`GROUP_BYTES`].
    #[n(1)]
    pub start: u64,
    /// The offset after the last byte: a multiple of [`GROUP_BYTES`], or the size of the blob.
    #[n(2)]
    pub end: u64,
    /// The size of the blocks to send them in: a multiple of [`GROUP_BYTES`], at most [`MAX_BLOCK_BYTES`].
    #[n(3)]
    pub block: u64,
    /// How much work compression is worth to the asker, as a level of zstd; without it, it takes plain blocks only.
    #[n(4)]
    pub compression: Option<u8>,
    /// How many pairs of hashes from the root on, on the way to the first group, it has.
    #[n(5)]
    #[cbor(default)]
    pub pairs: u8,
}

impl BlockRequest {
    fn check(&self) -> Result<(), WireError> {
        let aligned = self.start.is_multiple_of(GROUP_BYTES) && self.block.is_multiple_of(GROUP_BYTES);
        let block_fits = (GROUP_BYTES..=MAX_BLOCK_BYTES).contains(&self.block);
        // Nobody need ask for an empty blob, whose hash says all; who does gets an empty block.
        let ordered = self.start < self.end || (self.start, self.end) == (0, 0);
        if aligned && block_fits && ordered { Ok(()) } else { Err(WireError::Request) }
    }

    /// Which pairs of hashes are left out of the blocks.
    #[must_use]
    pub const fn known(&self) -> Known {
        Known { since: self.start, pairs: self.pairs }
    }

    /// The byte ranges of the blocks, in order.
    pub fn blocks(self) -> impl Iterator<Item = std::ops::Range<u64>> {
        let mut next = Some(self.start);
        std::iter::from_fn(move || {
            let start = next?;
            let end = start.saturating_add(self.block).min(self.end);
            next = (end < self.end).then_some(end);
            Some(start..end)
        })
    }
}

/// Part of the answer to a [`BlockRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockFrame {
    /// The next block: from the root down the pairs of hashes that the asker lacks, and the bytes below them.
    Block(Vec<u8>),
    /// The same, compressed ([`super::compression`]): only for who said that it takes that.
    Compressed(Vec<u8>),
    /// The answer ends here.
    Denied(Denial),
}

/// Why a holder does not send a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// The asker is not entitled to it, or it is not here: a stranger to a blob does not learn which.
    NotAvailable = 1,
    /// It was damaged here, which this request has brought to light.
    Damaged = 2,
    /// The holder cannot read its store now.
    Failed = 3,
    /// Its link is metered, and this is not critical: it is to be asked again later. (To nodes that do not know it, failed.)
    Later = 4,
}

/// Where frames of blobs go: a stream, or one that is held to a limit.
pub trait FrameWriter: Send {
    /// Writes all of it. Gives up when the peer takes nothing for as long as `patience`.
    ///
    /// # Errors
    /// The stream's, or [`WireError::Stalled`].
    fn write_chunks(&mut self, chunks: &mut [Bytes], patience: Duration) -> impl Future<Output = Result<(), WireError>> + Send;
}

impl FrameWriter for SendStream {
    async fn write_chunks(&mut self, mut chunks: &mut [Bytes], patience: Duration) -> Result<(), WireError> {
        while !chunks.is_empty() {
            timeout(patience, self.write_many_chunks(&mut chunks)).await.map_err(|_| WireError::Stalled)??;
        }
        Ok(())
    }
}

/// Where frames of blobs come from: a stream, or one that is held to a limit.
pub trait FrameReader: Send {
    /// Reads some bytes, one at least. Gives up when nothing comes for as long as `patience`.
    ///
    /// # Errors
    /// The stream's, also when it has ended, or [`WireError::Stalled`].
    fn read_some(&mut self, bytes: &mut [u8], patience: Duration) -> impl Future<Output = Result<usize, WireError>> + Send;
}

impl FrameReader for RecvStream {
    async fn read_some(&mut self, bytes: &mut [u8], patience: Duration) -> Result<usize, WireError> {
        let read = timeout(patience, self.read(bytes)).await.map_err(|_| WireError::Stalled)?;
        Ok(read.map_err(ReadExactError::from)?.ok_or(ReadExactError::FinishedEarly(0))?)
    }
}

impl Denial {
    /// The one of this number. What is not known is a failure.
    #[must_use]
    pub fn numbered(number: u8) -> Self {
        match number {
            1 => Self::NotAvailable,
            2 => Self::Damaged,
            4 => Self::Later,
            _ => Self::Failed,
        }
    }
}

impl BlockFrame {
    const HEAD_BYTES: usize = 5;

    /// Writes the frame: a tag byte, a `u32` length, the payload. Gives up when the peer takes nothing for as long as
    /// `patience`.
    ///
    /// # Errors
    /// The stream's, or [`WireError::Stalled`].
    pub async fn write(self, stream: &mut impl FrameWriter, patience: Duration) -> Result<(), WireError> {
        let (tag, payload) = match self {
            Self::Block(bytes) => (0, bytes),
            Self::Compressed(bytes) => (2, bytes),
            Self::Denied(denial) => (1, vec![denial as u8]),
        };
        let length = u32::try_from(payload.len()).expect("a block is at most about 1 MiB");
        let mut head = vec![tag];
        head.extend(length.to_le_bytes());
        // Handed over, not copied.
        stream.write_chunks(&mut [Bytes::from(head), Bytes::from(payload)], patience).await
    }

    /// How many bytes [`BlockFrame::write`] writes.
    pub(crate) fn bytes_on_wire(&self) -> usize {
        Self::HEAD_BYTES
            + match self {
                Self::Block(bytes) | Self::Compressed(bytes) => bytes.len(),
                Self::Denied(_) => 1,
            }
    }

    /// Reads one frame. Gives up when nothing comes for as long as `patience`, and when the whole takes a hundred times that:
    /// a link may be slow, but who sends a byte now and then holds up what others could send.
    ///
    /// # Errors
    /// The stream's, [`WireError::Stalled`], or [`WireError::TooLong`] and [`WireError::Request`] for what no honest holder
    /// sends.
    pub async fn read(stream: &mut impl FrameReader, patience: Duration) -> Result<Self, WireError> {
        timeout(patience.saturating_mul(100), Self::read_slowly(stream, patience)).await.map_err(|_| WireError::Stalled)?
    }

    async fn read_slowly(stream: &mut impl FrameReader, patience: Duration) -> Result<Self, WireError> {
        let mut head = [0; Self::HEAD_BYTES];
        read_all(stream, &mut head, patience).await?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = async |limit| {
            let mut bytes = body_of(length, limit)?;
            read_all(stream, &mut bytes, patience).await?;
            Ok::<_, WireError>(bytes)
        };
        match head[0] {
            0 => Ok(Self::Block(body(MAX_ENCODED_BLOCK_BYTES).await?)),
            1 => Ok(Self::Denied(Denial::numbered(body(1).await?.first().copied().unwrap_or_default()))),
            2 => Ok(Self::Compressed(body(MAX_ENCODED_BLOCK_BYTES).await?)),
            _ => Err(WireError::Request),
        }
    }
}

/// Writes one frame.
///
/// # Errors
/// The stream's.
pub async fn write_frame(stream: &mut SendStream, bytes: &[u8]) -> Result<(), WireError> {
    let length = u32::try_from(bytes.len()).map_err(|_| WireError::TooLong(bytes.len()))?;
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(bytes).await?;
    Ok(())
}

/// Reads one frame of at most `limit` bytes.
///
/// # Errors
/// The stream's, or [`WireError::TooLong`].
pub async fn read_frame(stream: &mut RecvStream, limit: usize) -> Result<Vec<u8>, WireError> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let mut bytes = body_of(u32::from_le_bytes(length) as usize, limit)?;
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Memory for a body, if it may be that long.
fn body_of(length: usize, limit: usize) -> Result<Vec<u8>, WireError> {
    if length > limit { Err(WireError::TooLong(length)) } else { Ok(vec![0; length]) }
}

async fn read_all(stream: &mut impl FrameReader, mut bytes: &mut [u8], patience: Duration) -> Result<(), WireError> {
    while !bytes.is_empty() {
        let read = stream.read_some(bytes, patience).await?;
        bytes = &mut bytes[read..];
    }
    Ok(())
}

/// Why a stream ended, or why what came over it was no protocol of ours.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream or its connection ended while reading.
    #[error("the stream ended: {0}")]
    Read(#[from] ReadExactError),
    /// The stream or its connection ended while writing.
    #[error("the stream ended: {0}")]
    Write(#[from] WriteError),
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Connection(#[from] iroh::endpoint::ConnectionError),
    /// For a long time the peer has sent nothing, or taken nothing.
    #[error("the peer stalls")]
    Stalled,
    /// A frame longer than anyone may send here, in bytes.
    #[error("a frame of {0} bytes is over its limit")]
    TooLong(usize),
    /// Not CBOR of the expected shape.
    #[error("a message is malformed: {0}")]
    Malformed(#[from] minicbor::decode::Error),
    /// A message that does not belong here.
    #[error("a request or its answer breaks the protocol")]
    Request,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_cut_into_blocks_that_cover_it() {
        let blob = BlobHash::from_bytes([1; 32]);
        let request =
            BlockRequest { blob, start: GROUP_BYTES, end: 100_000, block: 2 * GROUP_BYTES, compression: None, pairs: 0 };
        let decoded = blocks(request).expect("aligned");
        let ranges: Vec<_> = decoded.blocks().collect();
        assert_eq!(ranges, [16_384..49_152, 49_152..81_920, 81_920..100_000]);
        let empty = BlockRequest { blob, start: 0, end: 0, block: GROUP_BYTES, compression: None, pairs: 0 };
        assert_eq!(blocks(empty).expect("empty").blocks().next(), Some(0..0));
    }

    #[test]
    fn requests_out_of_step_with_groups_are_refused() {
        let blob = BlobHash::from_bytes([1; 32]);
        for (start, end, block) in
            [(1, 2, GROUP_BYTES), (0, 1, 0), (0, 1, 2 * MAX_BLOCK_BYTES), (GROUP_BYTES, GROUP_BYTES, GROUP_BYTES)]
        {
            let request = BlockRequest { blob, start, end, block, compression: Some(u8::MAX), pairs: u8::MAX };
            assert!(blocks(request).is_none(), "{start}..{end} by {block}");
            assert!(Request::Blocks(request).encode().len() <= Request::MAX_BYTES);
        }
    }

    fn blocks(request: BlockRequest) -> Option<BlockRequest> {
        match Request::decode(&Request::Blocks(request).encode()) {
            Ok(Request::Blocks(request)) => Some(request),
            _ => None,
        }
    }

    #[test]
    fn what_is_asked_is_told_apart() {
        let blob = BlobHash::from_bytes([1; 32]);
        let blocks = Request::Blocks(BlockRequest { blob, start: 0, end: 1, block: GROUP_BYTES, compression: Some(3), pairs: 7 });
        let availability = Request::Availability(AvailabilityRequest { blob });
        let recipe = Request::Recipe(RecipeRequest { blob });
        let ranges = Request::Ranges(RangesRequest { blob });
        let small = Request::Small(SmallRequest { blobs: vec![BlobHash::from_bytes([0xff; 32]); SmallRequest::MAX_BLOBS] });
        for request in [blocks, availability, recipe, ranges, small] {
            let bytes = request.encode();
            assert!(bytes.len() <= Request::MAX_BYTES);
            assert_eq!(Request::decode(&bytes).expect("a request"), request);
        }
    }

    #[test]
    fn so_many_small_blobs_are_asked_for_at_once_and_no_more() {
        for count in [0, SmallRequest::MAX_BLOBS + 1] {
            let request = Request::Small(SmallRequest { blobs: vec![BlobHash::from_bytes([1; 32]); count] });
            assert!(matches!(Request::decode(&request.encode()), Err(WireError::Request)), "{count}");
        }
    }

    #[test]
    fn small_blobs_fit_a_frame_however_they_fill_it() {
        let fits = |blobs: Vec<SmallBlob>| {
            let small = SmallBlobs { blobs };
            assert_eq!(SmallBlobs::decode(&small.encode()).expect("a frame"), small);
        };
        let whole = |bytes: u64| SmallBlob::Whole(vec![0xff; bytes as usize]);
        fits(vec![whole(GROUP_BYTES), whole(GROUP_BYTES - 1), whole(GROUP_BYTES)]);
        fits(vec![whole(SmallBlobs::FILL_BYTES as u64 / 256); 256]);
        fits(vec![SmallBlob::Denied(1); SmallRequest::MAX_BLOBS]);
        let long = SmallBlobs { blobs: vec![whole(GROUP_BYTES); 5] };
        assert!(matches!(SmallBlobs::decode(&long.encode()), Err(WireError::TooLong(_))));
        assert!(matches!(SmallBlobs::decode(&SmallBlobs { blobs: Vec::new() }.encode()), Err(WireError::Request)));
    }

    #[test]
    fn availability_has_a_longest_frame() {
        let available = |runs| Available { runs: vec![(u64::MAX, u64::MAX); runs] };
        let longest = available(Available::MAX_RUNS).encode();
        assert!(longest.len() <= Available::MAX_BYTES, "{}", longest.len());
        assert!(Available::decode(&longest).is_ok());
        assert!(Available::decode(&available(Available::MAX_RUNS + 1).encode()).is_err());
    }

    #[test]
    fn what_is_asked_for_has_a_most() {
        let runs = |runs: &[(u64, u64)]| Runs { runs: runs.to_vec() };
        let longest = runs(&[(u64::MAX - MAX_BLOCK_BYTES, MAX_BLOCK_BYTES); Runs::MAX_RUNS]);
        assert!(longest.encode().len() <= Runs::MAX_BYTES, "{}", longest.encode().len());
        for good in [longest, Runs::default(), runs(&[(7, 1), (0, 5)])] {
            assert_eq!(Runs::decode(&good.encode()).expect("fine"), good);
        }
        for bad in [&[(0, 0)][..], &[(0, MAX_BLOCK_BYTES + 1)], &[(u64::MAX, 1)], &[(0, 1); Runs::MAX_RUNS + 1]] {
            assert!(Runs::decode(&runs(bad).encode()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Message::decode(&bytes);
            let _ = Available::decode(&bytes);
            let _ = Runs::decode(&bytes);
            if let Ok(Request::Blocks(request)) = Request::decode(&bytes) {
                prop_assert!(request.blocks().take(10).all(|block| block.start <= block.end));
            }
        }
    }
}
