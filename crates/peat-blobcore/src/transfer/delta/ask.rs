//! Asks a holder for a recipe, and for ranges. What comes is a claim until the whole blob is there; its lengths are not.

use std::ops::Range;
use std::time::Duration;

use iroh::endpoint::Connection;

use super::plan::{Piece, bytes_of};
use crate::content::{Chunk, Segment};
use crate::model::BlobHash;
use crate::network::wire::{BlockFrame, Denial, RangesRequest, RecipeRequest, Request, Runs, WireError, write_frame};
use crate::transfer::limiter::Pace;
use crate::transfer::paced::{Incoming, Paid};
use crate::transfer::{FetchError, Traffic};

/// Chunks of one run of segments, at most.
const RUN_CHUNKS: usize = 4096;

/// Whom to ask, and for how long.
pub(super) struct Holder<'a> {
    pub(super) connection: &'a Connection,
    pub(super) blob: BlobHash,
    pub(super) patience: Duration,
    pub(super) traffic: &'a Traffic,
    pub(super) pace: Pace,
}

impl Holder<'_> {
    /// The outline of the recipe of a blob of this size.
    pub(super) async fn outline(&self, size: u64) -> Result<Vec<Segment>, FetchError> {
        let mut recv = self.open(Request::Recipe(RecipeRequest { blob: self.blob }), Vec::new(), 0).await?;
        let (mut outline, mut bytes) = (Vec::new(), 0);
        while bytes < size {
            let frame = self.frame(&mut recv).await?;
            let segments = Segment::decode_all(&frame).filter(|segments| !segments.is_empty()).ok_or_else(nonsense)?;
            bytes += segments.iter().map(|segment| u64::from(segment.bytes)).sum::<u64>();
            outline.extend(segments);
            if bytes > size || outline.len() as u64 > Segment::most(size) {
                return Err(nonsense());
            }
        }
        Ok(outline)
    }

    /// The chunks of those segments of an outline that `wanted` tells, in order.
    pub(super) async fn chunks(&self, outline: &[Segment], wanted: &[usize]) -> Result<Vec<Vec<Chunk>>, FetchError> {
        let mut lists = Vec::with_capacity(wanted.len());
        for runs in runs(outline, wanted).chunks(Runs::MAX_RUNS) {
            let asked = runs.iter().map(|run| (run.start as u64, run.len() as u64)).collect();
            let mut recv = self.open(Request::Recipe(RecipeRequest { blob: self.blob }), asked, 0).await?;
            for run in runs {
                let chunks = Chunk::decode_all(&self.frame(&mut recv).await?).ok_or_else(nonsense)?;
                let mut rest = &chunks[..];
                for segment in &outline[run.clone()] {
                    let (list, after) = rest.split_at_checked(usize::from(segment.chunks)).ok_or_else(nonsense)?;
                    if Segment::of(list) != *segment {
                        return Err(nonsense());
                    }
                    lists.push(list.to_vec());
                    rest = after;
                }
            }
        }
        Ok(lists)
    }

    /// Asks for pieces, to be read one by one in this order.
    pub(super) async fn ask_for(&self, pieces: &[Piece]) -> Result<Incoming, FetchError> {
        let runs = pieces.iter().map(|piece| (piece.at, piece.length)).collect();
        self.open(Request::Ranges(RangesRequest { blob: self.blob }), runs, bytes_of(pieces)).await
    }

    /// The bytes of the next piece.
    pub(super) async fn piece(&self, recv: &mut Incoming, piece: &Piece) -> Result<Vec<u8>, FetchError> {
        let bytes = self.frame(recv).await?;
        if bytes.len() as u64 == piece.length { Ok(bytes) } else { Err(nonsense()) }
    }

    /// Asks for what is about so many bytes.
    async fn open(&self, request: Request, runs: Vec<(u64, u64)>, bytes: u64) -> Result<Incoming, FetchError> {
        let paid = Paid::take(self.pace.clone(), bytes).await;
        let (mut send, recv) = self.connection.open_bi().await.map_err(FetchError::connection)?;
        write_frame(&mut send, &request.encode()).await.map_err(FetchError::wire)?;
        write_frame(&mut send, &Runs { runs }.encode()).await.map_err(FetchError::wire)?;
        let _ = send.finish();
        Ok(Incoming::new(recv, paid))
    }

    async fn frame(&self, recv: &mut Incoming) -> Result<Vec<u8>, FetchError> {
        match BlockFrame::read(recv, self.patience).await.map_err(FetchError::wire)? {
            BlockFrame::Block(bytes) => {
                self.traffic.received(bytes.len());
                Ok(bytes)
            }
            // It was not asked to compress.
            BlockFrame::Compressed(_) => Err(nonsense()),
            BlockFrame::Denied(Denial::Later) => Err(FetchError::Later),
            BlockFrame::Denied(Denial::NotAvailable) => Err(FetchError::NotAvailable),
            BlockFrame::Denied(Denial::Damaged | Denial::Failed) => Err(FetchError::SourceFailed),
        }
    }
}

fn nonsense() -> FetchError {
    FetchError::Protocol(WireError::Request)
}

/// Segments in a row, of so many chunks that a frame holds them.
fn runs(outline: &[Segment], wanted: &[usize]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut chunks = 0;
    for segment in wanted {
        chunks += usize::from(outline[*segment].chunks);
        match runs.last_mut().filter(|run| run.end == *segment && chunks <= RUN_CHUNKS) {
            Some(run) => run.end += 1,
            None => {
                chunks = usize::from(outline[*segment].chunks);
                runs.push(*segment..*segment + 1);
            }
        }
    }
    runs
}
