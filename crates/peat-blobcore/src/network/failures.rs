//! The last failure with each peer, for people who ask why it is not connected. Bounded, since strangers fail as often as they like.
//! Nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use iroh::endpoint::ConnectionError;

use super::endpoint::CloseCode;
use super::session::SessionError;
use crate::model::{EndpointId, Timestamp};

/// Peers whose failures are remembered.
const MOST: usize = 256;
/// Longest text, in characters: a part of it may be the peer's.
const MAX_TEXT: usize = 300;

/// Why there is no connection with a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFailure {
    /// When it failed last.
    pub time: Timestamp,
    /// Whether this node has dialled it since it was connected last.
    pub dialled: bool,
    /// Whether one of the two did not admit the other.
    pub refused: bool,
    /// What failed. A part of it may be the peer's words.
    pub error: String,
}

impl PeerFailure {
    pub(super) fn new(time: Timestamp, dialled: bool, error: &SessionError) -> Self {
        let refused = matches!(error, SessionError::Rejected(_) | SessionError::Expelled) || is_turned_away(error);
        Self { time, dialled, refused, error: error.to_string().chars().take(MAX_TEXT).collect() }
    }
}

/// Whether the peer has ended the connection since it does not admit this node.
fn is_turned_away(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|cause| cause.downcast_ref::<ConnectionError>()).any(|cause| match cause {
        ConnectionError::ApplicationClosed(closed) => closed.error_code == CloseCode::NotAdmitted.var_int(),
        _ => false,
    })
}

/// The last failure of each.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<BTreeMap<EndpointId, PeerFailure>>);

impl Failures {
    /// Those who were dialled stay the longest, since somebody has named them.
    pub(super) fn note(&self, peer: EndpointId, failure: PeerFailure) {
        let mut failures = self.lock();
        let dialled = failure.dialled || failures.get(&peer).is_some_and(|before| before.dialled);
        failures.insert(peer, PeerFailure { dialled, ..failure });
        while failures.len() > MOST {
            let least = failures.iter().min_by_key(|(id, failure)| (failure.dialled, failure.time, **id)).map(|(id, _)| *id);
            failures.remove(&least.expect("there are some"));
        }
    }

    /// It is connected.
    pub(super) fn forget(&self, peer: &EndpointId) {
        self.lock().remove(peer);
    }

    pub(crate) fn all(&self) -> BTreeMap<EndpointId, PeerFailure> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, PeerFailure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_push_out_who_was_dialled_and_do_not_pile_up() {
        let failures = Failures::default();
        let id = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            EndpointId::from_bytes(bytes)
        };
        let failure =
            |number: u32, dialled| PeerFailure::new(Timestamp::from_millis(number.into()), dialled, &SessionError::Slow);
        failures.note(id(0), failure(0, true));
        (1..1000).for_each(|number| failures.note(id(number), failure(number, false)));
        let all = failures.all();
        assert_eq!(all.len(), MOST);
        assert!(all.contains_key(&id(0)) && all.contains_key(&id(999)) && !all.contains_key(&id(1)));
        failures.forget(&id(0));
        assert!(!failures.all().contains_key(&id(0)));
    }
}
