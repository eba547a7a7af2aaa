//! Fetches one blob from one holder into its assembly, from wherever an earlier run left it.

use std::ops::Range;
use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use n0_future::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;

use super::{FetchError, Traffic};
use crate::content::{Assembly, Content, Ingested, Taken};
use crate::model::BlobHash;
use crate::network::wire::{BlockFrame, BlockRequest, Denial, GROUP_BYTES, MAX_BLOCK_BYTES, write_frame};

/// How long a block should take to arrive, so that little is lost when the link is cut and each arrives verified.
const BLOCK_TIME: Duration = Duration::from_millis(250);
/// The first block of a blob; from then on the link's rate decides.
const FIRST_BLOCK_BYTES: u64 = 8 * GROUP_BYTES;
/// Blocks of one request: enough that asking costs no time, few enough that another source can take the rest.
const BLOCKS_PER_REQUEST: u64 = 8;
/// Requests under way at once for one blob, so that the link never waits for one to be asked.
const REQUESTS: usize = 4;
/// Bytes on their way at once for one blob. A killed process loses no more.
const WINDOW_BYTES: u64 = 1024 * 1024;
/// A source that sends nothing for so long has stalled.
const STALL: Duration = Duration::from_secs(30);

/// What a caller hears while a fetch goes on: verified bytes of the blob so far.
pub(crate) type OnProgress = dyn Fn(u64) + Send + Sync;

/// Fetches the missing parts of a blob over one admitted connection and makes it whole.
///
/// # Errors
/// [`FetchError`]; what had arrived by then is kept.
pub(crate) async fn fetch(
    connection: &Connection,
    content: &Content,
    blob: BlobHash,
    size: u64,
    traffic: &Traffic,
    on_progress: &OnProgress,
) -> Result<Ingested, FetchError> {
    let store = content.clone();
    let assembly = blocking(move || store.assemble(&blob, size)).await?;
    let mut block = FIRST_BLOCK_BYTES;
    let mut under_way = FuturesUnordered::new();
    while !assembly.is_whole() {
        while under_way.len() < REQUESTS
            && let Some(taken) = assembly.take((block * BLOCKS_PER_REQUEST).min(WINDOW_BYTES / REQUESTS as u64))
        {
            under_way.push(request(connection, &assembly, taken, block, traffic, on_progress));
        }
        block = match under_way.next().await {
            Some(next) => next?,
            // All that is missing is on its way from other sources.
            None => return Err(FetchError::Busy),
        };
    }
    drop(under_way);
    blocking(move || assembly.finish()).await
}

/// The block size that takes about [`BLOCK_TIME`] at the rate of the last request: a power of two of groups.
fn block_for(bytes: u64, elapsed: Duration) -> u64 {
    let per_block = bytes as f64 / elapsed.as_secs_f64().max(1e-6) * BLOCK_TIME.as_secs_f64();
    let groups = (per_block / GROUP_BYTES as f64).clamp(1.0, (MAX_BLOCK_BYTES / GROUP_BYTES) as f64) as u64;
    (1 << groups.ilog2()) * GROUP_BYTES
}

/// Asks for one range and writes what arrives, receiving and writing at the same time. Returns the block size for the next.
async fn request(
    connection: &Connection,
    assembly: &Assembly,
    taken: Taken,
    block: u64,
    traffic: &Traffic,
    on_progress: &OnProgress,
) -> Result<u64, FetchError> {
    let (range, started) = (taken.range(), Instant::now());
    let bytes = range.end - range.start;
    let request = BlockRequest { blob: assembly.hash(), start: range.start, end: range.end, block };
    let (blocks, mut arrived) = mpsc::channel::<(Range<u64>, Vec<u8>)>(2);
    let writer = assembly.clone();
    let write = async {
        while let Some((range, encoded)) = arrived.recv().await {
            let assembly = writer.clone();
            blocking(move || assembly.write_block(range, &encoded)).await?;
            on_progress(writer.held());
        }
        Ok(())
    };
    let receive = async move {
        let (mut send, mut recv) = connection.open_bi().await.map_err(FetchError::connection)?;
        write_frame(&mut send, &request.encode()).await.map_err(FetchError::wire)?;
        let _ = send.finish();
        for range in request.blocks() {
            let frame = tokio::time::timeout(STALL, BlockFrame::read(&mut recv)).await.map_err(|_| FetchError::Stalled)?;
            match frame.map_err(FetchError::wire)? {
                BlockFrame::Block(encoded) => {
                    traffic.received(encoded.len());
                    // The writer leaves early only with an error of its own, which then counts.
                    if blocks.send((range, encoded)).await.is_err() {
                        break;
                    }
                }
                BlockFrame::Denied(Denial::NotAvailable) => return Err(FetchError::NotAvailable),
                BlockFrame::Denied(Denial::Damaged | Denial::Failed) => return Err(FetchError::SourceFailed),
            }
        }
        Ok(())
    };
    tokio::try_join!(receive, write)?;
    Ok(block_for(bytes, started.elapsed()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::content::ContentError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(FetchError::Content),
        // Only a runtime that shuts down cancels blocking work.
        Err(_) => Err(FetchError::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_the_rate_of_the_link() {
        assert_eq!(block_for(1 << 20, Duration::from_millis(1)), MAX_BLOCK_BYTES);
        assert_eq!(block_for(32_000, Duration::from_secs(1)), GROUP_BYTES);
        assert_eq!(block_for(1 << 20, Duration::from_secs(1)), 256 * 1024);
        assert_eq!(block_for(0, Duration::ZERO), GROUP_BYTES);
    }
}
