//! Whether this node's clock can be believed. Dropping and refusing for good rest on it, so a clock that jumped back, or far
//! ahead with no peer agreeing, must never lead to either.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{EndpointId, Timestamp};

/// How far two clocks of one formation may lie apart.
pub(super) const TOLERANCE: Duration = Duration::from_secs(24 * 3600);
/// A clock may be set back a little.
const SET_BACK: Duration = Duration::from_secs(600);
/// The longest that a node may have been off and still trust its clock without a peer.
const LONGEST_SLEEP: Duration = Duration::from_secs(30 * 24 * 3600);
/// Peers whose clocks are remembered.
const MAX_PEERS: usize = 64;

/// What is known of this node's clock.
#[derive(Debug)]
pub(super) struct ClockTrust {
    last: Timestamp,
    agrees: BTreeMap<EndpointId, bool>,
}

impl ClockTrust {
    /// `last` is the latest time that was plausible and saved.
    pub(super) fn new(last: Timestamp) -> Self {
        Self { last, agrees: BTreeMap::new() }
    }

    /// Takes in what a peer's clock said when ours said `ours`.
    pub(super) fn note(&mut self, peer: EndpointId, theirs: Timestamp, ours: Timestamp) {
        let apart = theirs.since(ours).max(ours.since(theirs));
        self.agrees.insert(peer, apart <= TOLERANCE);
        if self.agrees.len() > MAX_PEERS {
            self.agrees.pop_first();
        }
    }

    /// Whether `now` can be believed: a peer's clock agrees, or nobody was met and it fits what was saved.
    pub(super) fn plausible(&self, now: Timestamp) -> bool {
        if self.agrees.is_empty() {
            return now >= self.last.minus(SET_BACK) && now <= self.last.plus(LONGEST_SLEEP);
        }
        self.agrees.values().any(|agrees| *agrees)
    }

    /// What others may date their news up to.
    pub(super) fn latest(&self, now: Timestamp) -> Timestamp {
        now.max(self.last).plus(TOLERANCE)
    }

    /// The time to save, if it moved on by a minute.
    pub(super) fn advance(&mut self, now: Timestamp) -> Option<Timestamp> {
        let moved = now.since(self.last).max(self.last.since(now)) >= Duration::from_secs(60);
        if !moved || !self.plausible(now) {
            return None;
        }
        self.last = now;
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn at(days: u64) -> Timestamp {
        Timestamp::from_millis(days * DAY)
    }

    fn peer(byte: u8) -> EndpointId {
        EndpointId::from_bytes([byte; 32])
    }

    #[test]
    fn alone_a_clock_is_believed_while_it_fits_what_was_saved() {
        let trust = ClockTrust::new(at(100));
        assert!(trust.plausible(at(100)) && trust.plausible(at(129)));
        assert!(!trust.plausible(at(99)) && !trust.plausible(at(131)));
    }

    #[test]
    fn a_peer_that_agrees_outweighs_what_was_saved_and_peers_that_disagree_outweigh_the_clock() {
        let mut trust = ClockTrust::new(at(100));
        trust.note(peer(1), at(500), at(500));
        assert!(trust.plausible(at(500)));
        let mut trust = ClockTrust::new(at(100));
        trust.note(peer(1), at(103), at(100));
        assert!(!trust.plausible(at(100)));
        trust.note(peer(2), at(100), at(100));
        assert!(trust.plausible(at(100)));
    }

    #[test]
    fn a_clock_that_was_wrong_once_is_set_right_by_a_peer() {
        let mut trust = ClockTrust::new(at(40_000));
        assert_eq!(trust.advance(at(20_000)), None);
        trust.note(peer(1), at(20_000), at(20_000));
        assert_eq!(trust.advance(at(20_000)), Some(at(20_000)));
        assert_eq!(trust.advance(at(20_000)), None);
    }
}
