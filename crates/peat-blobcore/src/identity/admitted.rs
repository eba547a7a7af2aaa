//! The peers that were admitted, each with a lease. Handlers of every protocol of the endpoint ask here, and close the
//! connections of ids that are not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::model::{EndpointId, Timestamp};

/// A shared set of peers with leases. Clones are handles to the same set.
#[derive(Debug, Clone)]
pub struct Admitted {
    set: Arc<Mutex<Set>>,
    /// Wakes those who wait whenever a peer leaves the set.
    departures: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Set {
    leases: BTreeMap<EndpointId, Timestamp>,
    expelled: BTreeSet<EndpointId>,
}

impl Default for Admitted {
    fn default() -> Self {
        Self { set: Arc::default(), departures: watch::Sender::new(()) }
    }
}

impl Admitted {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Admits a peer up to and including the time `until`, or moves the end of its lease there. `false` when it was expelled:
    /// a revocation that overtakes an admission holds.
    #[must_use]
    pub fn admit(&self, id: EndpointId, until: Timestamp) -> bool {
        let mut set = self.lock();
        if set.expelled.contains(&id) {
            return false;
        }
        set.leases.insert(id, until);
        true
    }

    /// Takes a peer out, for as long as this set lives. For who was revoked.
    pub fn expel(&self, id: EndpointId) {
        let mut set = self.lock();
        set.expelled.insert(id);
        set.leases.remove(&id);
        drop(set);
        self.departures.send_replace(());
    }

    /// Takes out the peers whose lease has ended and returns them.
    pub fn expire(&self, now: Timestamp) -> Vec<EndpointId> {
        let gone: Vec<_> = self.lock().leases.extract_if(.., |_, until| now > *until).map(|(id, _)| id).collect();
        if !gone.is_empty() {
            self.departures.send_replace(());
        }
        gone
    }

    /// Whether a peer is admitted at the time `now`.
    #[must_use]
    pub fn is_admitted(&self, id: &EndpointId, now: Timestamp) -> bool {
        self.lock().leases.get(id).is_some_and(|until| now <= *until)
    }

    /// Whether a peer was taken out for as long as this set lives.
    #[must_use]
    pub fn is_expelled(&self, id: &EndpointId) -> bool {
        self.lock().expelled.contains(id)
    }

    /// Who is admitted at the time `now`.
    #[must_use]
    pub fn peers(&self, now: Timestamp) -> Vec<EndpointId> {
        self.lock().leases.iter().filter(|(_, until)| now <= **until).map(|(id, _)| *id).collect()
    }

    /// Ends when the peer is not in the set: at once, or when it is expelled, or when [`Admitted::expire`] takes it out.
    pub async fn departed(&self, id: EndpointId) {
        let mut departures = self.departures.subscribe();
        while self.lock().leases.contains_key(&id) {
            departures.changed().await.expect("the sender lives as long as this handle");
        }
    }

    /// Changes whenever a peer leaves the set, for those who watch over more than one.
    #[must_use]
    pub fn departures(&self) -> watch::Receiver<()> {
        self.departures.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.set.lock().expect("nothing panics while it holds the set")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const PEER: EndpointId = EndpointId::from_bytes([1; 32]);
    const OTHER: EndpointId = EndpointId::from_bytes([2; 32]);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn is_pending(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())) == Poll::Pending
    }

    #[test]
    fn a_lease_ends_by_itself_and_is_moved_by_admitting_again() {
        let admitted = Admitted::new();
        assert!(!admitted.is_admitted(&PEER, at(0)));
        assert!(admitted.admit(PEER, at(10)));
        assert!(admitted.is_admitted(&PEER, at(10)));
        assert!(!admitted.is_admitted(&PEER, at(11)), "before anybody calls `expire`");
        assert!(admitted.clone().admit(PEER, at(20)));
        assert_eq!(admitted.peers(at(11)), [PEER]);
        assert_eq!(admitted.expire(at(20)), []);
        assert_eq!(admitted.expire(at(21)), [PEER]);
        assert!(!admitted.is_admitted(&PEER, at(0)));
    }

    #[test]
    fn who_was_expelled_is_not_admitted_again() {
        let admitted = Admitted::new();
        assert!(admitted.admit(PEER, at(10)));
        admitted.expel(PEER);
        assert!(!admitted.is_admitted(&PEER, at(0)));
        assert!(!admitted.admit(PEER, at(10)));
        assert!(!admitted.is_admitted(&PEER, at(0)));
        assert!(admitted.admit(OTHER, at(10)));
    }

    #[test]
    fn a_revocation_that_overtakes_an_admission_holds() {
        let admitted = Admitted::new();
        admitted.expel(PEER);
        assert!(!admitted.admit(PEER, at(10)));
    }

    #[test]
    fn who_waits_for_a_departure_learns_of_that_peers_and_no_other() {
        let admitted = Admitted::new();
        assert!(!is_pending(pin!(admitted.departed(PEER))), "a peer that never came has departed");
        assert!(admitted.admit(PEER, at(10)) && admitted.admit(OTHER, at(20)));
        let (mut peer, mut other) = (pin!(admitted.departed(PEER)), pin!(admitted.departed(OTHER)));
        assert!(is_pending(peer.as_mut()) && is_pending(other.as_mut()));
        admitted.expel(PEER);
        assert!(!is_pending(peer.as_mut()) && is_pending(other.as_mut()));
        admitted.expire(at(21));
        assert!(!is_pending(other.as_mut()));
    }
}
