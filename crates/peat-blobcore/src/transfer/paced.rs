//! Streams of blobs that are held to a limit. What crosses a connection and is no document goes through here, both ways.

use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{RecvStream, SendStream, VarInt};

use super::limiter::Pace;
use super::limits::slice;
use crate::model::EndpointId;
use crate::network::wire::{FrameReader, FrameWriter, WireError};

/// A stream to a peer.
pub(crate) struct Outgoing {
    stream: SendStream,
    pace: Pace,
}

impl Outgoing {
    pub(crate) fn new(stream: SendStream, pace: Pace) -> Self {
        Self { stream, pace }
    }

    /// Ends it in the midst.
    pub(crate) fn reset(&mut self, code: VarInt) {
        // It may be gone already, which is what this is to bring about.
        let _ = self.stream.reset(code);
    }

    /// Nothing follows.
    pub(crate) fn finish(&mut self) {
        // That the peer may have closed the stream first is no matter.
        let _ = self.stream.finish();
    }

    /// After the end: waits until all has come, or the peer wants no more of it. What has not gone out then does not, which over a slow
    /// link is most of what was written.
    pub(super) async fn heed(mut self) {
        if let Ok(Some(code)) = self.stream.stopped().await {
            self.reset(code);
        }
    }
}

impl FrameWriter for Outgoing {
    async fn write_chunks(&mut self, chunks: &mut [Bytes], patience: Duration) -> Result<(), WireError> {
        let mut left: usize = chunks.iter().map(Bytes::len).sum();
        let mut may = 0;
        for chunk in chunks {
            while !chunk.is_empty() {
                if may == 0 {
                    // Little by little, so that others have their turns and no queue fills beyond the limit.
                    let Some(rate) = self.pace.rate() else {
                        left -= chunk.len();
                        self.stream.write_chunks(&mut [std::mem::take(chunk)], patience).await?;
                        continue;
                    };
                    may = usize::try_from(slice(rate)).unwrap_or(usize::MAX).min(left);
                    self.pace.take(may as u64).await;
                }
                let piece = chunk.split_to(may.min(chunk.len()));
                (may, left) = (may - piece.len(), left - piece.len());
                self.stream.write_chunks(&mut [piece], patience).await?;
            }
        }
        Ok(())
    }
}

/// A stream from a peer. What is asked for is paid for before it is asked for, since a peer sends as fast as it can; what else
/// comes is paid for when it is read.
pub(crate) struct Incoming {
    stream: RecvStream,
    paid: Paid,
    /// Is told how many bytes have come.
    came: Option<Box<dyn Fn(usize) + Send + Sync>>,
}

/// Bytes that may come. What has not come is given back.
pub(crate) struct Paid {
    pace: Pace,
    bytes: u64,
}

impl Paid {
    /// Waits until so many bytes may come.
    pub(crate) async fn take(pace: Pace, bytes: u64) -> Self {
        let bytes = if pace.rate().is_some() { bytes } else { 0 };
        pace.take(bytes).await;
        Self { pace, bytes }
    }

    /// From whom.
    pub(super) fn peer(&self) -> EndpointId {
        self.pace.peer()
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        self.pace.give_back(self.bytes);
    }
}

impl Incoming {
    pub(crate) fn new(stream: RecvStream, paid: Paid) -> Self {
        Self { stream, paid, came: None }
    }

    /// Tells how many bytes have come, whenever some have.
    pub(super) fn telling(self, came: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self { came: Some(Box::new(came)), ..self }
    }

    fn tell(&self, bytes: usize) -> usize {
        if let Some(came) = &self.came {
            came(bytes);
        }
        bytes
    }
}

impl FrameReader for Incoming {
    async fn read_some(&mut self, bytes: &mut [u8], patience: Duration) -> Result<usize, WireError> {
        if self.paid.bytes == 0 {
            let Some(rate) = self.paid.pace.rate() else {
                let read = self.stream.read_some(bytes, patience).await?;
                return Ok(self.tell(read));
            };
            let more = slice(rate).min(bytes.len() as u64);
            self.paid.pace.take(more).await;
            self.paid.bytes = more;
        }
        let most = usize::try_from(self.paid.bytes).unwrap_or(usize::MAX).min(bytes.len());
        let read = self.stream.read_some(&mut bytes[..most], patience).await?;
        self.paid.bytes -= read as u64;
        Ok(self.tell(read))
    }
}
