//! The admitted connections, at most one a pair, and which of two survives when both sides have dialled; the peers that are in
//! reach without one, and those that are not, though their connection may come to life again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use tokio::sync::Notify;

use super::failures::Failures;
use super::hearing::Hearing;
use super::queue::SendQueue;
use crate::model::{EndpointId, EnvelopeId};
use crate::transfer::Traffic;

/// For so long a peer that could not be dialled is taken for one that can only dial itself. It may have been an outage.
const INWARD: Duration = Duration::from_secs(3600);
/// A dial that ends with an admission takes no longer. What stands for longer is not what a new one crosses: its dialler has missed
/// it. Both sides see the same, whatever each of them has heard of late.
const CROSSING: Duration = Duration::from_secs(35);
/// Connections that are kept though nothing is heard over them.
const MAX_SILENT: usize = 64;

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
    pub(super) hearing: Hearing,
    /// When it was admitted.
    pub(super) since: Instant,
}

impl Peer {
    /// Whether another one of the pair may have been dialled before this one stood, and this one can stay.
    fn may_cross(&self) -> bool {
        self.connection.close_reason().is_none() && self.since.elapsed() < CROSSING
    }

    /// The round trip time of the path in use, while there is one.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.connection.paths().iter().find(|path| path.is_selected()).map(|path| path.rtt())
    }

    /// The largest packet that the path in use takes, while there is one.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.connection.paths().iter().find(|path| path.is_selected()).map(|path| path.stats().current_mtu)
    }
}

/// What decides between two connections of one pair; both sides see the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Whether the endpoint with the smaller id dialled.
    pub(crate) smaller_dialled: bool,
    /// The number that the peer drew when it started.
    pub(crate) instance: u64,
}

impl Origin {
    /// Whether a connection of origin `new` takes the place of one of origin `self`. A peer that has restarted has forgotten
    /// the old one; when both dialled at once the smaller id's connection stays; else the newer, which its dialler wanted.
    fn yields_to(self, new: Self) -> bool {
        new.instance != self.instance || new.smaller_dialled || !self.smaller_dialled
    }
}

/// The table of admitted connections.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    table: Mutex<Table>,
    /// An idle peer is wanted.
    wanted: Notify,
    /// A peer has come, or is idle no more.
    settled: Notify,
    /// Why others are not connected.
    pub(crate) failures: Failures,
}

#[derive(Debug, Default)]
struct Table {
    connected: BTreeMap<EndpointId, Arc<Peer>>,
    /// A user wants no connection with these.
    left: BTreeSet<EndpointId>,
    /// In reach, but their connection was let go for having nothing to carry.
    idle: BTreeMap<EndpointId, Idle>,
    /// Out of reach, but the connection with them goes on if they are heard again before another is made.
    silent: BTreeMap<EndpointId, Arc<Peer>>,
    /// They dial this node, which could not dial them at these times: so their connections are kept.
    inward: BTreeMap<EndpointId, Instant>,
}

#[derive(Debug)]
struct Idle {
    /// The number of the peer's run that the connection was with.
    instance: u64,
    /// Whether there is something to say to it.
    wanted: bool,
}

/// What became of a connection that was to be entered.
#[derive(Debug)]
pub(crate) enum Entered {
    /// It is the pair's connection now.
    Stays {
        /// The one that it replaced, to be closed.
        replaced: Option<Arc<Peer>>,
        /// The run of the peer that it was in reach with until now, with or without a connection.
        instance: Option<u64>,
    },
    /// The pair has a better one.
    Loses,
    /// There is no room for another pair's.
    Full,
    /// A user wants none with this peer.
    Left,
}

impl Peers {
    /// Enters a connection that was admitted, among at most `most` of different peers; or one that was silent, `again`.
    pub(crate) fn enter(&self, peer: Arc<Peer>, most: usize, again: bool) -> Entered {
        let mut table = self.lock();
        if table.left.contains(&peer.id) {
            return Entered::Left;
        }
        if again && !table.silent.get(&peer.id).is_some_and(|silent| Arc::ptr_eq(silent, &peer)) {
            return Entered::Loses;
        }
        let connected = &table.connected;
        match connected.get(&peer.id) {
            Some(old) if !old.origin.yields_to(peer.origin) && old.may_cross() => Entered::Loses,
            None if connected.len() >= most => Entered::Full,
            _ => {
                let id = peer.id;
                let silent = table.silent.remove(&id).filter(|silent| !Arc::ptr_eq(silent, &peer));
                let replaced = table.connected.insert(id, peer);
                let idle = table.idle.remove(&id);
                let instance = replaced.as_ref().map(|old| old.origin.instance).or(idle.map(|idle| idle.instance));
                let replaced = replaced.or(silent);
                drop(table);
                self.settled.notify_waiters();
                Entered::Stays { replaced, instance }
            }
        }
    }

    /// Enters no connection with this peer until [`Peers::want`]; the one that there is, to be closed.
    pub(crate) fn leave_alone(&self, id: EndpointId) -> Option<Arc<Peer>> {
        let mut table = self.lock();
        table.left.insert(id);
        table.connected.get(&id).or_else(|| table.silent.get(&id)).cloned()
    }

    /// Enters connections with this peer again.
    pub(crate) fn want(&self, id: &EndpointId) {
        self.lock().left.remove(id);
    }

    /// Takes a connection out if it is still the pair's; whether it was, and was not silent.
    pub(crate) fn leave(&self, peer: &Arc<Peer>) -> bool {
        let mut table = self.lock();
        take(&mut table.silent, peer);
        take(&mut table.connected, peer)
    }

    /// Takes a peer for out of reach, and keeps its connection if it is still the pair's and there is room; whether it is kept.
    pub(crate) fn fall_silent(&self, peer: &Arc<Peer>) -> bool {
        let mut table = self.lock();
        let is_kept = table.silent.len() < MAX_SILENT && take(&mut table.connected, peer);
        if is_kept {
            table.silent.insert(peer.id, Arc::clone(peer));
        }
        is_kept
    }

    /// Whether a connection is kept though its peer is out of reach.
    pub(crate) fn is_silent(&self, peer: &Arc<Peer>) -> bool {
        self.lock().silent.get(&peer.id).is_some_and(|silent| Arc::ptr_eq(silent, peer))
    }

    /// Lets a connection go if it is still the pair's: the peer stays in reach. Whether it was. Who is not told everything yet is
    /// wanted again at once.
    pub(crate) fn rest(&self, peer: &Arc<Peer>, is_told: impl FnOnce() -> bool) -> bool {
        let mut table = self.lock();
        if !take(&mut table.connected, peer) {
            return false;
        }
        // Asked with the table in hand: who queues after this finds it idle, and wakes it.
        let wanted = !is_told();
        table.idle.insert(peer.id, Idle { instance: peer.origin.instance, wanted });
        true
    }

    /// An idle peer is in reach no more; whether it was.
    pub(crate) fn lost(&self, id: &EndpointId) -> bool {
        let was_idle = self.lock().idle.remove(id).is_some();
        self.settled.notify_waiters();
        was_idle
    }

    /// Notes whether this node can dial a peer.
    pub(crate) fn dialled(&self, id: &EndpointId, ok: bool) {
        let inward = &mut self.lock().inward;
        if ok {
            inward.remove(id)
        } else {
            inward.insert(*id, Instant::now())
        };
    }

    /// Whether this node has failed to dial a peer of late, and not got through since.
    pub(crate) fn is_inward(&self, id: &EndpointId) -> bool {
        self.lock().inward.get(id).is_some_and(|failed| failed.elapsed() < INWARD)
    }

    /// The peers that are in reach without a connection.
    pub(crate) fn idle(&self) -> Vec<EndpointId> {
        self.lock().idle.keys().copied().collect()
    }

    /// Whether a peer is in reach without a connection.
    pub(crate) fn is_idle(&self, id: &EndpointId) -> bool {
        self.lock().idle.contains_key(id)
    }

    /// Wants a connection with a peer if it is idle.
    pub(crate) fn wake(&self, id: &EndpointId) {
        self.wake_all(|idle| idle == id);
    }

    fn wake_all(&self, whom: impl Fn(&EndpointId) -> bool) {
        let mut table = self.lock();
        let mut resting = table.idle.iter_mut().filter(|(id, idle)| !idle.wanted && whom(id)).peekable();
        if resting.peek().is_some() {
            self.wanted.notify_one();
        }
        resting.for_each(|(_, idle)| idle.wanted = true);
    }

    /// The idle peers that are wanted.
    pub(crate) fn wanted(&self) -> Vec<EndpointId> {
        self.lock().idle.iter().filter(|(_, idle)| idle.wanted).map(|(id, _)| *id).collect()
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
                let table = self.lock();
                (table.connected.get(id).cloned(), table.idle.contains_key(id))
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
        self.lock().connected.get(id).cloned()
    }

    /// All connections, in order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Peer>> {
        self.lock().connected.values().cloned().collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().connected.len()
    }

    /// Queues envelopes for every peer but the one that they came from, those of whom nothing is heard included. Idle ones get them
    /// when they are connected again.
    pub(crate) fn push(&self, ids: &[EnvelopeId], except: Option<&EndpointId>) {
        let table = self.lock();
        for peer in table.connected.values().chain(table.silent.values()) {
            if Some(&peer.id) != except {
                peer.queue.envelopes(ids.iter().copied());
            }
        }
        drop(table);
        if !ids.is_empty() {
            self.wake_all(|id| Some(id) != except);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is changed by single calls of the map: a panic elsewhere leaves it in order.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection out; whether it was in.
fn take(connections: &mut BTreeMap<EndpointId, Arc<Peer>>, peer: &Arc<Peer>) -> bool {
    let is_in = connections.get(&peer.id).is_some_and(|current| Arc::ptr_eq(current, peer));
    is_in && connections.remove(&peer.id).is_some()
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

#[cfg(test)]
mod tests {
    use super::Origin;

    const SMALLER: Origin = Origin { smaller_dialled: true, instance: 1 };
    const LARGER: Origin = Origin { smaller_dialled: false, instance: 1 };

    #[test]
    fn of_two_that_crossed_both_sides_keep_the_one_that_the_smaller_id_dialled() {
        assert!(LARGER.yields_to(SMALLER));
        assert!(!SMALLER.yields_to(LARGER));
    }

    #[test]
    fn a_dialler_that_dials_again_and_a_peer_that_restarted_replace_the_old_connection() {
        assert!(LARGER.yields_to(LARGER) && SMALLER.yields_to(SMALLER));
        assert!(SMALLER.yields_to(Origin { instance: 2, ..LARGER }));
    }
}
