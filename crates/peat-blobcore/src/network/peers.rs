//! The admitted connections, at most one a pair, and which of two survives when both sides have dialled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iroh::endpoint::Connection;

use super::queue::SendQueue;
use crate::model::{EndpointId, EnvelopeId};

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
}

#[derive(Debug, Default)]
struct Table {
    connected: BTreeMap<EndpointId, Arc<Peer>>,
    /// A user wants no connection with these.
    left: BTreeSet<EndpointId>,
}

/// What became of a connection that was to be entered.
#[derive(Debug)]
pub(crate) enum Entered {
    /// It is the pair's connection now; the one that it replaced is to be closed.
    Stays(Option<Arc<Peer>>),
    /// The pair has a better one.
    Loses,
    /// There is no room for another pair's.
    Full,
    /// A user wants none with this peer.
    Left,
}

impl Peers {
    /// Enters a connection that was admitted, among at most `most` of different peers.
    pub(crate) fn enter(&self, peer: Arc<Peer>, most: usize) -> Entered {
        let mut table = self.lock();
        if table.left.contains(&peer.id) {
            return Entered::Left;
        }
        let connected = &mut table.connected;
        match connected.get(&peer.id) {
            Some(old) if !old.origin.yields_to(peer.origin) && old.connection.close_reason().is_none() => Entered::Loses,
            None if connected.len() >= most => Entered::Full,
            _ => Entered::Stays(connected.insert(peer.id, peer)),
        }
    }

    /// Enters no connection with this peer until [`Peers::want`]; the one that there is, to be closed.
    pub(crate) fn leave_alone(&self, id: EndpointId) -> Option<Arc<Peer>> {
        let mut table = self.lock();
        table.left.insert(id);
        table.connected.get(&id).cloned()
    }

    /// Enters connections with this peer again.
    pub(crate) fn want(&self, id: &EndpointId) {
        self.lock().left.remove(id);
    }

    /// Takes a connection out if it is still the pair's; whether it was.
    pub(crate) fn leave(&self, peer: &Arc<Peer>) -> bool {
        let connected = &mut self.lock().connected;
        let is_current = connected.get(&peer.id).is_some_and(|current| Arc::ptr_eq(current, peer));
        if is_current {
            connected.remove(&peer.id);
        }
        is_current
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

    /// Queues envelopes for every peer but the one that they came from.
    pub(crate) fn push(&self, ids: &[EnvelopeId], except: Option<&EndpointId>) {
        for peer in self.all() {
            if Some(&peer.id) != except {
                peer.queue.envelopes(ids.iter().copied());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is changed by single calls of the map: a panic elsewhere leaves it in order.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
