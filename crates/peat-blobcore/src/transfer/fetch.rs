//! Fetches one blob from one holder into its assembly, from wherever an earlier run left it.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{FetchError, Traffic};
use crate::content::{Assembly, Content, Ingested, Taken};
use crate::model::BlobHash;
use crate::network::wire::{BlockFrame, BlockRequest, Denial, GROUP_BYTES, write_frame};

/// How long a block should take to arrive, so that little is lost when the link is cut and each arrives verified.
const BLOCK_TIME: Duration = Duration::from_millis(250);
/// The first block of a blob; from then on the link's rate decides.
const FIRST_BLOCK_BYTES: u64 = 2 * GROUP_BYTES;
/// Blocks of one request at most: enough that asking costs no time, few enough that another source can take the rest.
const BLOCKS_PER_REQUEST: u64 = 8;
/// What of a blob is asked for and not written yet, at most: this much crosses the link again after a kill.
const WINDOW_BYTES: u64 = 1024 * 1024;
/// Requests under way at once for one blob, so that the source reads, the link carries and this node writes all the time.
const REQUESTS: usize = 4;
/// Longest request, and with it the longest block.
const REQUEST_BYTES: u64 = WINDOW_BYTES / REQUESTS as u64;

/// What a caller hears while a fetch goes on: verified bytes of the blob so far.
pub(crate) type OnProgress = dyn Fn(u64) + Send + Sync;

/// Fetches the missing parts of a blob over one admitted connection and makes it whole. A source that sends nothing for as
/// long as `patience` has stalled.
///
/// # Errors
/// [`FetchError`]; what had arrived by then is kept.
pub(crate) async fn fetch(
    connection: &Connection,
    content: &Content,
    blob: BlobHash,
    size: u64,
    patience: Duration,
    traffic: Arc<Traffic>,
    on_progress: &OnProgress,
) -> Result<Ingested, FetchError> {
    let store = content.clone();
    let assembly = blocking(move || store.assemble(&blob, size)).await?;
    let mut block = FIRST_BLOCK_BYTES;
    // Dropped with this call, which ends what they do; what they had taken is given back.
    let mut requests = JoinSet::new();
    let mut upkeep = JoinSet::new();
    loop {
        while requests.len() < REQUESTS
            && let Some(taken) = assembly.take((block * BLOCKS_PER_REQUEST).min(REQUEST_BYTES))
        {
            requests.spawn(request(connection.clone(), assembly.clone(), taken, block, patience, Arc::clone(&traffic)));
        }
        tokio::select! {
            Some(ended) = requests.join_next() => {
                block = ended.map_err(|_| FetchError::Stopped)??;
                on_progress(assembly.held());
                if upkeep.is_empty() && !assembly.is_whole() {
                    let assembly = assembly.clone();
                    upkeep.spawn_blocking(move || assembly.keep_up());
                }
            }
            Some(ended) = upkeep.join_next() => ended.map_err(|_| FetchError::Stopped)??,
            else => break,
        }
    }
    if !assembly.is_whole() {
        // All that is missing is on its way from other sources.
        return Err(FetchError::Busy);
    }
    blocking(move || assembly.finish()).await
}

/// Asks for one range and writes what arrives, receiving and writing at the same time. Returns the size that suits the next
/// request's blocks.
async fn request(
    connection: Connection,
    assembly: Assembly,
    taken: Taken,
    block: u64,
    patience: Duration,
    traffic: Arc<Traffic>,
) -> Result<u64, FetchError> {
    let started = Instant::now();
    let range = taken.range();
    let request = BlockRequest { blob: assembly.hash(), start: range.start, end: range.end, block };
    let (blocks, mut arrived) = mpsc::channel::<(Range<u64>, Vec<u8>)>(2);
    let write = async {
        while let Some((range, encoded)) = arrived.recv().await {
            let assembly = assembly.clone();
            blocking(move || assembly.write_block(range, &encoded)).await?;
        }
        Ok(())
    };
    let receive = async move {
        let (mut send, mut recv) = connection.open_bi().await.map_err(FetchError::connection)?;
        write_frame(&mut send, &request.encode()).await.map_err(FetchError::wire)?;
        let _ = send.finish();
        for range in request.blocks() {
            match BlockFrame::read(&mut recv, patience).await.map_err(FetchError::wire)? {
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
    Ok(block_for(range.end - range.start, started.elapsed()))
}

/// The block size that takes about [`BLOCK_TIME`] at the rate of a request: a power of two of groups.
fn block_for(bytes: u64, elapsed: Duration) -> u64 {
    let per_block = bytes as f64 / elapsed.as_secs_f64().max(1e-6) * BLOCK_TIME.as_secs_f64();
    let groups = (per_block / GROUP_BYTES as f64).clamp(1.0, (REQUEST_BYTES / GROUP_BYTES) as f64) as u64;
    (1 << groups.ilog2()) * GROUP_BYTES
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
        assert_eq!(block_for(1 << 20, Duration::from_millis(1)), REQUEST_BYTES);
        assert_eq!(block_for(32_000, Duration::from_secs(1)), GROUP_BYTES);
        assert_eq!(block_for(1 << 20, Duration::from_secs(1)), 256 * 1024);
        assert_eq!(block_for(0, Duration::ZERO), GROUP_BYTES);
    }
}
