//! Bodies that go out and come in, piece by piece. Nothing is read ahead of a client by more than one piece, no lock is held and
//! no thread waits while a slow client takes its time; what cannot be verified ends a body with an error, never cleanly.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use n0_future::{StreamExt as _, stream};
use tokio::task::JoinHandle;

use super::problem::Problem;
use crate::content::BlobReader;
use crate::oci::{Digest, Repository};
use crate::registry::{Found, Registry, RegistryError, UploadId, blocking};

/// Most bodies of blobs under way at once, either way.
const MAX_STREAMS: usize = 1024;
/// Memory for the pieces of all of them; each has two at most. With very many each has [`LEAST_PIECE`] all the same.
const PIECES_BYTES: usize = 64 * 1024 * 1024;
const MOST_PIECE: usize = 1024 * 1024;
const LEAST_PIECE: usize = 32 * 1024;

/// How many bodies are under way.
#[derive(Debug, Default)]
pub(super) struct Streams(AtomicUsize);

/// The place of one of them.
#[derive(Debug)]
pub(super) struct Place(Arc<Streams>);

impl Streams {
    pub(super) fn enter(self: &Arc<Self>) -> Result<Place, Problem> {
        let place = Place(Arc::clone(self));
        if self.0.fetch_add(1, Ordering::Relaxed) >= MAX_STREAMS {
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", "too many transfers are under way"));
        }
        Ok(place)
    }
}

impl Place {
    /// Bytes of a piece now.
    fn piece(&self) -> usize {
        let streams = self.0.0.load(Ordering::Relaxed).max(1);
        let piece = (PIECES_BYTES / 2 / streams).clamp(LEAST_PIECE, MOST_PIECE);
        // A power of two, so that pieces end with groups.
        1 << piece.ilog2()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A range of a blob that is here. The next piece is read while the one before goes out.
struct Outgoing {
    reader: Arc<BlobReader>,
    rest: Range<u64>,
    next: Option<JoinHandle<Result<Bytes, RegistryError>>>,
    place: Place,
}

impl Outgoing {
    fn read_ahead(&mut self) {
        let Range { start, end } = self.rest;
        if start >= end {
            return;
        }
        let piece = self.place.piece() as u64;
        let until = end.min((start / piece + 1) * piece);
        self.rest.start = until;
        let reader = Arc::clone(&self.reader);
        self.next = Some(tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; usize::try_from(until - start).expect("a piece")];
            let read = reader.read_at(start, &mut bytes)?;
            bytes.truncate(read);
            Ok(bytes.into())
        }));
    }
}

/// The body that has this range of a blob.
pub(super) fn held(reader: BlobReader, range: Range<u64>, place: Place) -> Body {
    let mut outgoing = Outgoing { reader: Arc::new(reader), rest: range, next: None, place };
    outgoing.read_ahead();
    Body::from_stream(stream::unfold(outgoing, |mut outgoing| async move {
        let read = outgoing.next.take()?.await.map_err(|_| RegistryError::Stopped).flatten();
        if read.is_ok() {
            outgoing.read_ahead();
        }
        Some((read, outgoing))
    }))
}

/// The body that has this range of a blob that is on its way.
pub(super) fn arriving(
    registry: Registry,
    repository: Repository,
    digest: Digest,
    found: Found,
    range: Range<u64>,
    place: Place,
) -> Body {
    let state = Some((range, found));
    let read = move |state: Option<(Range<u64>, Found)>| {
        let (registry, repository, piece) = (registry.clone(), repository.clone(), place.piece());
        async move {
            let (rest, found) = state?;
            if rest.is_empty() {
                return None;
            }
            match registry.read_found(&repository, &digest, &found, rest.clone(), piece).await {
                Ok(bytes) => {
                    let rest = rest.start + bytes.len() as u64..rest.end;
                    Some((Ok(Bytes::from(bytes)), Some((rest, found))))
                }
                Err(error) => {
                    tracing::warn!(%digest, %error, "a blob on its way is cut off");
                    Some((Err(error), None))
                }
            }
        }
    };
    Body::from_stream(stream::unfold(state, read))
}

/// Takes a body into an upload, from `at` on, and says how many bytes that has then. More than up to `end` is refused.
pub(super) async fn take(
    registry: &Registry,
    (repository, id): (&Repository, &UploadId),
    mut at: u64,
    end: Option<u64>,
    body: Body,
    place: &Place,
) -> Result<u64, Problem> {
    let write = |at: u64, bytes: Vec<u8>| {
        let (registry, repository, id) = (registry.clone(), repository.clone(), *id);
        blocking(move || registry.append_upload(&repository, &id, at, &bytes))
    };
    let mut body = body.into_data_stream();
    let mut piece = Vec::new();
    loop {
        let more = body.next().await;
        if let Some(Ok(bytes)) = &more {
            let has = at + (piece.len() + bytes.len()) as u64;
            if end.is_some_and(|end| has > end) {
                let why = "more bytes came than the request's headers say";
                return Err(Problem::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", why));
            }
            piece.extend_from_slice(bytes);
        }
        let ended = !matches!(more, Some(Ok(_)));
        if piece.len() >= place.piece() || (ended && !piece.is_empty()) {
            at = write(at, std::mem::take(&mut piece)).await?;
        }
        match more {
            Some(Ok(_)) => {}
            None => return Ok(at),
            // What has come stays, to be continued.
            Some(Err(error)) => {
                let why = format!("the request broke off: {error}");
                return Err(Problem::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", why));
            }
        }
    }
}
