//! Many small blobs with one request: given, asked for, and made whole together. Each stands for itself: one that is not there,
//! or is not what its hash says, costs the others nothing. Never keeps a byte that its hash does not vouch for.

use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, SendStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::limiter::{Limiter, Pace};
use super::paced::{Incoming, Outgoing, Paid};
use super::serve::{self, PATIENCE};
use super::{FetchError, Traffic, blocking};
use crate::content::{Content, ContentError};
use crate::model::{BlobHash, EndpointId, Priority};
use crate::network::wire::{
    BlockFrame, Denial, GROUP_BYTES, Request, SmallBlob, SmallBlobs, SmallRequest, WireError, write_frame,
};
use crate::reconcile;

const _: () = assert!(reconcile::MAX_SMALL_BLOBS <= SmallRequest::MAX_BLOBS && reconcile::SMALL_BYTES <= GROUP_BYTES);

/// What has come is made whole when all is there, and on slow links so often: a node that is killed has lost no more.
const KEEP_AFTER: Duration = Duration::from_secs(1);
/// Frames that have come and wait for the disk.
const FRAMES: usize = 4;

/// What to fetch, and from whom.
pub(crate) struct SmallOrder {
    pub(crate) content: Content,
    pub(crate) connection: Connection,
    /// Which blobs, with the sizes in bytes that the manifest claims.
    pub(crate) blobs: Vec<(BlobHash, u64)>,
    /// A source that sends nothing for so long has stalled.
    pub(crate) patience: Duration,
    pub(crate) pace: Pace,
    pub(crate) traffic: Arc<Traffic>,
}

/// How it went with one blob.
pub(crate) type Landed = (BlobHash, Result<(), FetchError>);

/// Fetches small blobs over an admitted connection and makes them whole. `tell` hears of each that has ended by itself.
///
/// # Errors
/// What has ended the rest: with [`FetchError::OneByOne`] the source does not know such requests.
pub(crate) async fn fetch_small(order: SmallOrder, tell: &(dyn Fn(Vec<Landed>) + Send + Sync)) -> Result<(), FetchError> {
    let SmallOrder { content, connection, blobs, patience, pace, traffic } = order;
    let (store, bytes) = (content.clone(), blobs.iter().map(|(_, size)| size).sum());
    // Better asked here than found out when it has crossed the link.
    blocking(move || store.ensure_small_fit(bytes)).await?;
    let paid = Paid::take(pace, bytes).await;
    let (came, coming) = mpsc::channel(FRAMES);
    let (received, kept) = tokio::join!(receive(&connection, blobs, patience, paid, &traffic, came), keep(content, coming, tell));
    let unavailable = kept?;
    received?;
    match unavailable {
        Unavailable::All => Err(FetchError::NotAvailable),
        Unavailable::Some(blobs) => {
            tell(blobs.into_iter().map(|blob| (blob, Err(FetchError::NotAvailable))).collect());
            Ok(())
        }
    }
}

/// What came for one of the blobs that were asked for.
struct Came {
    blob: BlobHash,
    size: u64,
    answer: SmallBlob,
}

/// Asks, and hands on what comes until all has. The one place where bytes of such answers are read.
async fn receive(
    connection: &Connection,
    blobs: Vec<(BlobHash, u64)>,
    patience: Duration,
    paid: Paid,
    traffic: &Traffic,
    came: mpsc::Sender<Vec<Came>>,
) -> Result<(), FetchError> {
    let measured = traffic.speeds.asked(paid.peer(), connection);
    let (mut send, recv) = connection.open_bi().await.map_err(FetchError::connection)?;
    let mut recv = Incoming::new(recv, paid).telling(move |bytes| measured.came(bytes));
    let request = SmallRequest { blobs: blobs.iter().map(|(blob, _)| *blob).collect() };
    let mut first = match write_frame(&mut send, &Request::Small(request).encode()).await {
        Ok(()) => {
            let _ = send.finish();
            Some(BlockFrame::read(&mut recv, patience).await)
        }
        Err(error) => Some(Err(error)),
    };
    if let Some(Err(WireError::Read(_) | WireError::Write(_))) = &first
        && connection.close_reason().is_none()
    {
        return Err(FetchError::OneByOne);
    }
    let mut asked = blobs.into_iter();
    while asked.len() > 0 {
        let frame = match first.take() {
            Some(first) => first,
            None => BlockFrame::read(&mut recv, patience).await,
        };
        let encoded = match frame.map_err(FetchError::wire)? {
            BlockFrame::Block(encoded) => encoded,
            // It was not asked to compress.
            BlockFrame::Compressed(_) => return Err(FetchError::Protocol(WireError::Request)),
            BlockFrame::Denied(Denial::NotAvailable) => return Err(FetchError::NotAvailable),
            BlockFrame::Denied(Denial::Later) => return Err(FetchError::Later),
            BlockFrame::Denied(Denial::Damaged | Denial::Failed) => return Err(FetchError::SourceFailed),
        };
        traffic.received(encoded.len());
        let SmallBlobs { blobs } = SmallBlobs::decode(&encoded).map_err(FetchError::wire)?;
        if blobs.len() > asked.len() {
            return Err(FetchError::Protocol(WireError::Request));
        }
        let answered = asked.by_ref().take(blobs.len()).zip(blobs);
        let answered = answered.map(|((blob, size), answer)| Came { blob, size, answer }).collect();
        // Who keeps leaves early only with an error of its own, which then counts.
        if came.send(answered).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The blobs that the source does not have, or not for us.
enum Unavailable {
    /// It has given none.
    All,
    Some(Vec<BlobHash>),
}

/// Makes whole what comes, all at once if it comes fast.
async fn keep(
    content: Content,
    mut coming: mpsc::Receiver<Vec<Came>>,
    tell: &(dyn Fn(Vec<Landed>) + Send + Sync),
) -> Result<Unavailable, FetchError> {
    let (mut unavailable, mut given) = (Vec::new(), false);
    while let Some(mut came) = coming.recv().await {
        let until = Instant::now() + KEEP_AFTER;
        while let Ok(Some(more)) = timeout_at(until, coming.recv()).await {
            came.extend(more);
        }
        let store = content.clone();
        let landed = blocking(move || keep_all(&store, came)).await?;
        let (denied, landed): (Vec<_>, Vec<_>) =
            landed.into_iter().partition(|(_, outcome)| matches!(outcome, Err(FetchError::NotAvailable)));
        unavailable.extend(denied.into_iter().map(|(blob, _)| blob));
        given |= landed.iter().any(|(_, outcome)| outcome.is_ok());
        tell(landed);
    }
    Ok(if given || unavailable.is_empty() { Unavailable::Some(unavailable) } else { Unavailable::All })
}

/// One commit for all of these that are what they are to be.
fn keep_all(content: &Content, came: Vec<Came>) -> Result<Vec<Landed>, ContentError> {
    let mut batch = content.batch();
    let mut landed = Vec::with_capacity(came.len());
    for Came { blob, size, answer } in came {
        let outcome = match answer {
            SmallBlob::Whole(bytes) if bytes.len() as u64 != size => Err(ContentError::Corrupt(blob).into()),
            SmallBlob::Whole(bytes) => match batch.add_small(&blob, bytes) {
                Ok(_) => Ok(()),
                Err(error @ ContentError::Corrupt(_)) => Err(error.into()),
                Err(error) => return Err(error),
            },
            SmallBlob::Denied(number) => Err(match Denial::numbered(number) {
                Denial::NotAvailable => FetchError::NotAvailable,
                Denial::Later => FetchError::Later,
                Denial::Damaged | Denial::Failed => FetchError::SourceFailed,
            }),
        };
        landed.push((blob, outcome));
    }
    batch.commit()?;
    Ok(landed)
}

/// Answers a request for these blobs, of which the peer is entitled to those that have a priority. The one place where bytes of
/// such answers are written.
pub(super) async fn give(
    peer: EndpointId,
    content: Content,
    asked: Vec<(BlobHash, Option<Priority>)>,
    most_urgent: Priority,
    traffic: Arc<Traffic>,
    send: SendStream,
) -> Result<(), WireError> {
    let mut send = Outgoing::new(send, traffic.limiter.up(peer, most_urgent));
    let mut rest = &asked[..];
    let mut next = gather(&content, peer, &traffic.limiter, &mut rest).await;
    while let Some(frame) = next {
        traffic.served(frame.len());
        let (written, following) = tokio::join!(
            BlockFrame::Block(frame).write(&mut send, PATIENCE),
            gather(&content, peer, &traffic.limiter, &mut rest)
        );
        written?;
        next = following;
    }
    send.finish();
    Ok(())
}

/// The next frame of an answer; nothing when all was answered, or this node stops.
async fn gather(
    content: &Content,
    peer: EndpointId,
    limiter: &Limiter,
    rest: &mut &[(BlobHash, Option<Priority>)],
) -> Option<Vec<u8>> {
    if rest.is_empty() {
        return None;
    }
    let denial = |priority: Option<Priority>| match priority {
        None => Some(Denial::NotAvailable),
        Some(priority) if limiter.refuses(priority) => Some(Denial::Later),
        Some(_) => None,
    };
    let asked: Vec<_> = rest.iter().map(|(blob, priority)| (*blob, denial(*priority))).collect();
    let content = content.clone();
    let frame = serve::blocking(move || fill(&content, peer, &asked)).await?;
    *rest = &rest[frame.blobs.len()..];
    Some(frame.encode())
}

/// Fills one frame with the first of these blobs, those apart that are denied.
fn fill(content: &Content, peer: EndpointId, asked: &[(BlobHash, Option<Denial>)]) -> SmallBlobs {
    let (mut blobs, mut bytes) = (Vec::new(), 0);
    while let [(_, denial), ..] = &asked[blobs.len()..]
        && bytes < SmallBlobs::FILL_BYTES
    {
        let alike = asked[blobs.len()..].iter().take_while(|(_, other)| other == denial).map(|(blob, _)| *blob);
        if let Some(denial) = denial {
            blobs.extend(alike.map(|_| SmallBlob::Denied(*denial as u8)));
            continue;
        }
        let alike: Vec<BlobHash> = alike.collect();
        let read = content.read_small(&alike, SmallBlobs::FILL_BYTES - bytes);
        let read = read.unwrap_or_else(|error| alike.iter().map(|_| Err(error.clone())).collect());
        for (blob, read) in alike.iter().zip(read) {
            blobs.push(match read {
                Ok(read) => {
                    bytes += read.len();
                    SmallBlob::Whole(read)
                }
                Err(error) => {
                    tracing::warn!(%blob, peer = %peer.short(), %error, "cannot serve");
                    SmallBlob::Denied(serve::denial(&error) as u8)
                }
            });
        }
    }
    SmallBlobs { blobs }
}
