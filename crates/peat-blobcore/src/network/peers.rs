//! The admitted connections, for all who use them: who is wanted, and who waits for whom.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use tokio::sync::Notify;

use super::failures::Failures;
use super::pairs::{Entered, Origin, Paired, Pairs};
use super::queue::SendQueue;
use crate::model::{EndpointId, EnvelopeId};
use crate::transfer::Traffic;

/// A dial that ends with an admission takes no longer. What stands for longer is not what a new one crosses: its dialler has missed
/// it. Both sides see the same, whatever each of them has heard of late.
const CROSSING: Duration = Duration::from_secs(35);

/// One admitted connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Who is at the other end.
    pub(crate) id: EndpointId,
    /// The connection itself, for streams of blocks.
    pub(crate) connection: Connection,
    /// What is to be written on its control stream.
    pub(crate) queue: SendQueue,
    /// Which side dialled, and which run of the peer's program this is with.
    pub(crate) origin: Origin,
    /// A clone is held by whatever uses the connection for longer than a message: it is not let go meanwhile.
    pub(crate) in_use: Arc<()>,
    /// When it was admitted.
    pub(super) since: Instant,
}

impl Paired for Peer {
    fn id(&self) -> EndpointId {
        self.id
    }

    fn origin(&self) -> Origin {
        self.origin
    }

    fn may_cross(&self) -> bool {
        self.connection.close_reason().is_none() && self.since.elapsed() < CROSSING
    }
}

impl Peer {
    /// The round trip time of the path in use, while there is one.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.connection.paths().iter().find(|path| path.is_selected()).map(|path| path.rtt())
    }

    /// The largest packet that the path in use takes, while there is one.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.connection.paths().iter().find(|path| path.is_selected()).map(|path| path.stats().current_mtu)
    }
}

/// The admitted connections, at most one a pair; what is between two peers is in [`Pairs`].
#[derive(Debug, Default)]
pub(crate) struct Peers {
    pairs: Mutex<Pairs<Peer>>,
    /// An idle peer is wanted.
    wanted: Notify,
    /// A peer has come, or is idle no more.
    settled: Notify,
    /// Why others are not connected.
    pub(crate) failures: Failures,
}

impl Peers {
    /// See [`Pairs::enter`], and, for one that was silent, [`Pairs::enter_again`].
    pub(super) fn enter(&self, peer: &Arc<Peer>, most: usize, again: bool) -> Entered<Peer> {
        let peer = Arc::clone(peer);
        let entered = if again { self.lock().enter_again(peer, most) } else { self.lock().enter(peer, most) };
        if matches!(entered, Entered::Stays { .. }) {
            self.settled.notify_waiters();
        }
        entered
    }

    /// See [`Pairs::leave_alone`].
    pub(crate) fn leave_alone(&self, id: EndpointId) -> Option<Arc<Peer>> {
        self.lock().leave_alone(id)
    }

    /// See [`Pairs::want`].
    pub(crate) fn want(&self, id: &EndpointId) {
        self.lock().want(id);
    }

    /// See [`Pairs::leave`].
    pub(crate) fn leave(&self, peer: &Arc<Peer>) -> bool {
        self.lock().leave(peer)
    }

    /// See [`Pairs::fall_silent`].
    pub(crate) fn fall_silent(&self, peer: &Arc<Peer>) -> bool {
        self.lock().fall_silent(peer)
    }

    /// See [`Pairs::is_silent`].
    pub(crate) fn is_silent(&self, peer: &Arc<Peer>) -> bool {
        self.lock().is_silent(peer)
    }

    /// See [`Pairs::rest`].
    pub(crate) fn rest(&self, peer: &Arc<Peer>, is_told: impl FnOnce() -> bool) -> bool {
        self.lock().rest(peer, is_told)
    }

    /// An idle peer is in reach no more; whether it was.
    pub(crate) fn lost(&self, id: &EndpointId) -> bool {
        let was_idle = self.lock().lost(id);
        self.settled.notify_waiters();
        was_idle
    }

    /// See [`Pairs::dialled`].
    pub(crate) fn dialled(&self, id: &EndpointId, ok: bool) {
        self.lock().dialled(id, ok);
    }

    /// See [`Pairs::is_inward`].
    pub(crate) fn is_inward(&self, id: &EndpointId) -> bool {
        self.lock().is_inward(id)
    }

    /// The peers that are in reach without a connection.
    pub(crate) fn idle(&self) -> Vec<EndpointId> {
        self.lock().idle().copied().collect()
    }

    /// Whether a peer is in reach without a connection.
    pub(crate) fn is_idle(&self, id: &EndpointId) -> bool {
        self.lock().is_idle(id)
    }

    /// Wants a connection with a peer if it is idle.
    pub(crate) fn wake(&self, id: &EndpointId) {
        self.wake_all(|idle| idle == id);
    }

    fn wake_all(&self, whom: impl Fn(&EndpointId) -> bool) {
        if self.lock().wake(whom) {
            self.wanted.notify_one();
        }
    }

    /// The idle peers that are wanted.
    pub(crate) fn wanted(&self) -> Vec<EndpointId> {
        self.lock().wanted().copied().collect()
    }

    /// Waits until somebody wants an idle peer. For one waiter.
    pub(crate) async fn is_wanted(&self) {
        self.wanted.notified().await;
    }

    /// The connection with this peer, made anew if it is idle; none if it is out of reach.
    pub(crate) async fn reach(&self, id: &EndpointId) -> Option<Arc<Peer>> {
        loop {
            let settled = self.settled.notified();
            let (connected, is_idle) = {
                let pairs = self.lock();
                (pairs.get(id).cloned(), pairs.is_idle(id))
            };
            if connected.is_some() || !is_idle {
                return connected;
            }
            self.wake(id);
            settled.await;
        }
    }

    /// The connection with this peer.
    pub(crate) fn get(&self, id: &EndpointId) -> Option<Arc<Peer>> {
        self.lock().get(id).cloned()
    }

    /// All connections, in order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        self.lock().connected().cloned().collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().connected().len()
    }

    /// Queues envelopes for every peer but the one that they came from, those of whom nothing is heard included. Idle ones get them
    /// when they are connected again.
    pub(crate) fn push(&self, ids: &[EnvelopeId], except: Option<&EndpointId>) {
        let pairs = self.lock();
        for peer in pairs.connected().chain(pairs.silent()) {
            if Some(&peer.id) != except {
                peer.queue.envelopes(ids.iter().copied());
            }
        }
        drop(pairs);
        if !ids.is_empty() {
            self.wake_all(|id| Some(id) != except);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pairs<Peer>> {
        // The table is changed by single calls of the map: a panic elsewhere leaves it in order.
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is in reach, for who asks beside the driver. It outlives the network without keeping it.
#[derive(Clone)]
pub(crate) struct Reached {
    peers: Arc<Peers>,
    traffic: Arc<Traffic>,
}

impl Reached {
    pub(crate) fn new(peers: Arc<Peers>, traffic: Arc<Traffic>) -> Self {
        Self { peers, traffic }
    }

    /// Whether a peer has a connection, or had one that was let go and is made again when needed.
    pub(crate) fn seems(&self, id: &EndpointId) -> bool {
        self.peers.get(id).is_some() || self.peers.is_idle(id)
    }

    /// The admitted connection with this peer, made again if it was let go.
    pub(crate) async fn peer(&self, id: &EndpointId) -> Option<Arc<Peer>> {
        self.peers.reach(id).await
    }

    /// The count of what crosses, and its limits.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }
}
