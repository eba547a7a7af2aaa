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
    /// The latest time that was plausible and saved.
    last: Timestamp,
    /// Whether a peer ever agreed with a time that was saved.
    confirmed: bool,
    /// Whether each peer agreed when it was last heard.
    agrees: BTreeMap<EndpointId, bool>,
}

impl ClockTrust {
    /// Before anything was saved.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { last: now, confirmed: false, agrees: BTreeMap::new() }
    }

    /// What was saved.
    pub(super) fn decode(saved: &[u8]) -> Option<Self> {
        let (confirmed, millis) = saved.split_first()?;
        let last = Timestamp::from_millis(u64::from_be_bytes(millis.try_into().ok()?));
        Some(Self { last, confirmed: *confirmed == 1, agrees: BTreeMap::new() })
    }

    /// What to save.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.confirmed)];
        bytes.extend(self.last.as_millis().to_be_bytes());
        bytes
    }

    /// Takes in what a peer's clock said when ours said `ours`.
    pub(super) fn note(&mut self, peer: EndpointId, theirs: Timestamp, ours: Timestamp) {
        let apart = theirs.since(ours).max(ours.since(theirs));
        self.agrees.insert(peer, apart <= TOLERANCE);
        if self.agrees.len() > MAX_PEERS {
            self.agrees.pop_first();
        }
    }

    /// Whether `now` can be believed: a peer's clock agrees, or it fits what was saved. Peers that disagree outweigh what was
    /// saved only if no peer ever confirmed it; else one of them could make us doubt a good clock.
    pub(super) fn plausible(&self, now: Timestamp) -> bool {
        let fits = now >= self.last.minus(SET_BACK) && now <= self.last.plus(LONGEST_SLEEP);
        self.agreed() || fits && (self.confirmed || self.agrees.is_empty())
    }

    fn agreed(&self) -> bool {
        self.agrees.values().any(|agrees| *agrees)
    }

    /// What others may date their news up to.
    pub(super) fn latest(&self, now: Timestamp) -> Timestamp {
        now.max(self.last).plus(TOLERANCE)
    }

    /// Moves on to `now`; tells whether there is something to save.
    pub(super) fn advance(&mut self, now: Timestamp) -> bool {
        let moved = now.since(self.last).max(self.last.since(now)) >= Duration::from_secs(60);
        let confirms = self.agreed() && !self.confirmed;
        if !(moved || confirms) || !self.plausible(now) {
            return false;
        }
        self.last = now;
        self.confirmed |= confirms;
        true
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
    fn a_peer_that_agrees_outweighs_what_was_saved() {
        let mut trust = ClockTrust::new(at(100));
        trust.note(peer(1), at(500), at(500));
        assert!(trust.plausible(at(500)));
    }

    #[test]
    fn peers_that_disagree_outweigh_a_clock_that_no_peer_ever_confirmed() {
        let mut fresh = ClockTrust::new(at(40_000));
        fresh.note(peer(1), at(100), at(40_000));
        assert!(!fresh.plausible(at(40_000)));
        let mut trust = ClockTrust::new(at(100));
        trust.note(peer(1), at(100), at(100));
        assert!(trust.advance(at(100)));
        let mut trust = ClockTrust::decode(&trust.encode()).expect("what was saved");
        trust.note(peer(2), at(40_000), at(101));
        assert!(trust.plausible(at(101)));
        assert!(!trust.plausible(at(40_000)));
    }

    #[test]
    fn a_clock_that_was_wrong_once_is_set_right_by_a_peer() {
        let mut trust = ClockTrust::new(at(40_000));
        assert!(!trust.advance(at(20_000)));
        trust.note(peer(1), at(20_000), at(20_000));
        assert!(trust.advance(at(20_000)));
        assert!(!trust.advance(at(20_000)));
    }
}
