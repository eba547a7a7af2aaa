//! The streams of the API of our own: events as they come, and the bytes of a blob.

use std::sync::Arc;

use connectrpc::{ConnectError, ServiceStream};
use n0_future::stream;
use peat_blobapi::blob::{self, oneof::watch_response::Event};
use peat_blobcore::content::{BlobReader, ContentError};
use peat_blobcore::model::{BlobHash, DistributionId};
use peat_blobcore::{Error, NodeEvent};

use super::errors::failed;
use super::events::At;
use super::{Daemon, convert};

/// Bytes of one message of a blob.
const CHUNK: usize = 256 * 1024;

/// Every event from a number on, or every one that concerns a distribution, until the daemon ends. `first` comes before, with the number
/// before.
pub(crate) fn watch(
    daemon: Arc<Daemon>,
    from: u64,
    only: Option<DistributionId>,
    first: Option<NodeEvent>,
) -> ServiceStream<blob::WatchResponse> {
    Box::pin(stream::unfold((daemon, from, first), move |(daemon, mut next, mut first)| async move {
        loop {
            let (event, number) = match first.take() {
                Some(event) => (event, next.saturating_sub(1)),
                None => match daemon.events.at(next) {
                    At::Event(event) => {
                        next += 1;
                        (event, next - 1)
                    }
                    At::Missed(count, upto) => {
                        next = upto;
                        (NodeEvent::Missed(count), upto.saturating_sub(1))
                    }
                    At::Later => {
                        tokio::select! {
                            () = daemon.events.reach(next) => continue,
                            () = daemon.stopped() => return None,
                        }
                    }
                },
            };
            if let Some(event) = message(event, only) {
                let response = blob::WatchResponse { sequence: number, event: Some(event), ..Default::default() };
                return Some((Ok(response), (daemon, next, first)));
            }
        }
    }))
}

/// An event in the contract's words, if it is wanted. What was missed is always told.
fn message(event: NodeEvent, only: Option<DistributionId>) -> Option<Event> {
    let wanted = |id: &DistributionId| only.is_none_or(|only| only == *id);
    match event {
        NodeEvent::PeerUp(id) if only.is_none() => Some(Event::PeerUp(id.to_string())),
        NodeEvent::PeerDown(id) if only.is_none() => Some(Event::PeerDown(id.to_string())),
        NodeEvent::Clone(id) if only.is_none() => Some(Event::Clone(id.to_string())),
        NodeEvent::PeerUp(_) | NodeEvent::PeerDown(_) | NodeEvent::Clone(_) => None,
        NodeEvent::Distribution { id, state } => wanted(&id).then(|| {
            let changed = blob::DistributionChanged { distribution_id: id.to_string(), ..Default::default() };
            blob::DistributionChanged { state: convert::state(state).into(), ..changed }.into()
        }),
        NodeEvent::Progress { distribution, node, bytes } => wanted(&distribution).then(|| {
            let (distribution_id, endpoint_id) = (distribution.to_string(), node.to_string());
            blob::Progress { distribution_id, endpoint_id, bytes, ..Default::default() }.into()
        }),
        NodeEvent::File { distribution, index } => wanted(&distribution)
            .then(|| blob::FileDelivered { distribution_id: distribution.to_string(), index, ..Default::default() }.into()),
        NodeEvent::Removed { distribution, index } => wanted(&distribution)
            .then(|| blob::FileRemoved { distribution_id: distribution.to_string(), index, ..Default::default() }.into()),
        NodeEvent::Missed(count) => Some(Event::Missed(count)),
    }
}

/// The bytes of a blob. They are hashed on the way, and the stream ends with an error if they are not the blob's: whoever
/// reads from the start keeps nothing before the end.
pub(crate) fn read(reader: BlobReader, hash: BlobHash, offset: u64) -> ServiceStream<blob::ReadBlobResponse> {
    struct State {
        reader: Arc<BlobReader>,
        offset: u64,
        /// There for a read from the start.
        hasher: Option<blake3::Hasher>,
        first: bool,
    }
    let state = State { reader: Arc::new(reader), offset, hasher: (offset == 0).then(blake3::Hasher::new), first: true };
    Box::pin(stream::unfold(Some(state), move |state| async move {
        let mut state = state?;
        let (size, first) = (state.reader.size(), std::mem::take(&mut state.first));
        if state.offset == size && !first {
            let intact = state.hasher.is_none_or(|hasher| hasher.finalize().as_bytes() == hash.as_bytes());
            return (!intact).then(|| (Err(failed(ContentError::Corrupt(hash))), None));
        }
        let (reader, offset) = (Arc::clone(&state.reader), state.offset);
        let chunk = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK];
            let length = reader.read_at(offset, &mut chunk)?;
            chunk.truncate(length);
            Ok::<_, ContentError>(chunk)
        });
        let chunk: Result<Vec<u8>, ConnectError> = match chunk.await {
            Ok(Ok(chunk)) if chunk.is_empty() && state.offset < size => Err(failed(ContentError::Corrupt(hash))),
            Ok(read) => read.map_err(failed),
            Err(_) => Err(failed(Error::Stopped)),
        };
        match chunk {
            Ok(chunk) => {
                state.offset += chunk.len() as u64;
                if let Some(hasher) = &mut state.hasher {
                    hasher.update(&chunk);
                }
                let size = if first { size } else { 0 };
                Some((Ok(blob::ReadBlobResponse { chunk, size, ..Default::default() }), Some(state)))
            }
            Err(error) => Some((Err(error), None)),
        }
    }))
}
