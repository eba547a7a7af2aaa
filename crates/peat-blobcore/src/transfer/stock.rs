//! Answers stock clients of iroh-blobs, which are no members: the gate lets through those that the user listed and no others.
//! Read only, and only what was named for them. Never sends a byte that does not match its hash; holds no thread and no more
//! than two pieces of a blob while the client takes its time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, VarInt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::paced::Outgoing;
use super::{Traffic, blocking};
use crate::content::{BlobReader, Content, ContentError, MAX_SEQUENCE_BYTES};
use crate::model::{BlobHash, EndpointId, Priority};
use crate::network::stock::{GetRequest, MAX_REQUEST_BYTES};
use crate::network::wire::{FrameWriter as _, WireError};

/// Requests that a client may have open on one connection. Each costs some 3 MiB at most: itself, the hashes of a collection,
/// and two pieces.
pub(crate) const MAX_STREAMS: u32 = 4;
/// A client that sends no request on the stream that it opened, or takes nothing, is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(60);
/// How urgent what they ask for is: not at all, beside what members do.
const PRIORITY: Priority = Priority::Bulk;
/// What iroh-blobs calls these: "a permission error", and "an internal error".
const REFUSED: VarInt = VarInt::from_u32(1);
const FAILED: VarInt = VarInt::from_u32(3);

/// Why a client gets no answer, or no whole one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StockError {
    #[error("it asks for what was not named for it, or in a way that is not answered")]
    Refused,
    #[error("the link is metered")]
    Metered,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Fetch(#[from] super::FetchError),
}

/// Answers requests, each on a stream of its own, until the client leaves.
pub(crate) async fn serve_stock(connection: Connection, content: Content, traffic: Arc<Traffic>) {
    let peer = EndpointId::from_bytes(*connection.remote_id().as_bytes());
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(MAX_STREAMS));
    // The window for streams takes back what is done before it is answered; this does not.
    let turns = Arc::new(Semaphore::new(MAX_STREAMS as usize));
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => {
                let Ok((send, recv)) = stream else { return };
                let (content, traffic, turns) = (content.clone(), Arc::clone(&traffic), Arc::clone(&turns));
                streams.spawn(async move {
                    let _turn = turns.acquire().await;
                    answer(&content, &traffic, Outgoing::new(send, traffic.limiter.up(peer, PRIORITY)), recv).await
                });
            }
            Some(ended) = streams.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(peer = %peer.short(), %error, "a request of a stock client ended early");
                }
            }
        }
    }
}

async fn answer(content: &Content, traffic: &Traffic, mut send: Outgoing, mut recv: RecvStream) -> Result<(), StockError> {
    let outcome = async {
        let asked = tokio::time::timeout(PATIENCE, recv.read_to_end(MAX_REQUEST_BYTES)).await.map_err(|_| WireError::Stalled)?;
        let request = asked.ok().and_then(|bytes| GetRequest::decode(&bytes)).ok_or(StockError::Refused)?;
        send_all(content, traffic, &mut send, request).await
    }
    .await;
    match &outcome {
        Ok(()) => send.finish(),
        Err(StockError::Refused) => send.reset(REFUSED),
        Err(_) => send.reset(FAILED),
    };
    outcome
}

async fn send_all(content: &Content, traffic: &Traffic, send: &mut Outgoing, request: GetRequest) -> Result<(), StockError> {
    let request = Arc::new(request);
    send_blob(content, traffic, send, request.blob, &request, 0).await?;
    if !request.is_for_collection() {
        return Ok(());
    }
    let reader = open(content, request.blob).await?;
    if reader.size() > MAX_SEQUENCE_BYTES || !reader.size().is_multiple_of(32) {
        return Err(StockError::Refused);
    }
    let hashes = blocking(move || reader.read_first(MAX_SEQUENCE_BYTES)).await?;
    for (number, hash) in (1..).zip(hashes.chunks_exact(32)) {
        let hash = BlobHash::from_bytes(hash.try_into().expect("32 bytes"));
        send_blob(content, traffic, send, hash, &request, number).await?;
    }
    Ok(())
}

/// Opens what was named for stock clients and is here; whether it is here nobody else learns.
async fn open(content: &Content, hash: BlobHash) -> Result<BlobReader, StockError> {
    let content = content.clone();
    let opened = blocking(move || if content.is_stock(&hash)? { content.open_blob(&hash).map(Some) } else { Ok(None) }).await;
    match opened {
        Ok(Some(reader)) => Ok(reader),
        Ok(None) | Err(super::FetchError::Content(ContentError::Absent(_))) => Err(StockError::Refused),
        Err(error) => Err(error.into()),
    }
}

/// The size, and what is wanted with the hashes that prove it; nothing if nothing is.
async fn send_blob(
    content: &Content,
    traffic: &Traffic,
    send: &mut Outgoing,
    hash: BlobHash,
    request: &Arc<GetRequest>,
    number: u64,
) -> Result<(), StockError> {
    if request.of(number).is_none() {
        return Ok(());
    }
    let reader = Arc::new(open(content, hash).await?);
    write(send, reader.size().to_le_bytes().to_vec()).await?;
    let piece = |from: u64| {
        let (reader, request) = (Arc::clone(&reader), Arc::clone(request));
        blocking(move || request.of(number).map_or(Ok(None), |chunks| reader.encode_chunks(chunks, from)))
    };
    let mut next = piece(0).await?;
    while let Some((bytes, from)) = next {
        if traffic.limiter.refuses(PRIORITY) {
            return Err(StockError::Metered);
        }
        traffic.served(bytes.len());
        let (written, following) = tokio::join!(write(send, bytes), piece(from));
        written?;
        next = following?;
    }
    Ok(())
}

async fn write(send: &mut Outgoing, bytes: Vec<u8>) -> Result<(), WireError> {
    send.write_chunks(&mut [Bytes::from(bytes)], PATIENCE).await
}
