//! Whom to dial when. Pure: the network asks it what is due and tells it what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::idle::IdleLinks;
use crate::model::{EndpointId, Timestamp};

/// The first pause after a failed dial; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two dials of one peer.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause for who was connected not long ago: it may be an outage, which ends any moment. A dial knocks every five
/// seconds or more often, so a longer pause than this would be felt, and a shorter one hardly.
const MAX_OUTAGE_PAUSE: Duration = Duration::from_secs(4);
/// How long one hopes so.
const OUTAGE: Duration = Duration::from_secs(10 * 60);
/// A connection that ended sooner counts as a failed dial: who takes it and drops it at once must not be knocked at for ever.
const STEADY: Duration = Duration::from_secs(5);

/// The peers that this node wants to be connected with, and when each is due.
#[derive(Debug, Default)]
pub(crate) struct Dialing {
    peers: BTreeMap<EndpointId, Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Named by the user: never forgotten, and dialled whatever the number of connections.
    fixed: bool,
    state: State,
    /// How long its last pause was to be.
    pause: Duration,
    failures: u32,
    /// When a connection with it that had stood for a while ended.
    lost: Option<Timestamp>,
    /// How often its connection was let go since it was last out of reach.
    looks: u32,
    /// Its connection was let go: it has its place, whatever the number of connections.
    rests: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Due,
    At(Timestamp),
    Dialling,
    Connected(Timestamp),
    /// A user wants no connection with it.
    Left,
}

impl Peer {
    fn pause_for(&mut self, pause: Duration, now: Timestamp) {
        (self.pause, self.state) = (pause, State::At(now.plus(pause)));
    }
}

impl Dialing {
    /// Wants a connection with this peer; `fixed` when a user named it, which ends that it was left.
    pub(crate) fn want(&mut self, peer: EndpointId, fixed: bool) {
        let entry = self.peers.entry(peer).or_default();
        entry.fixed |= fixed;
        if fixed && entry.state == State::Left {
            entry.state = State::Due;
        }
    }

    /// Dials this peer no more until a user names it again.
    pub(crate) fn leave(&mut self, peer: EndpointId) {
        *self.peers.entry(peer).or_default() = Peer { state: State::Left, ..Peer::default() };
    }

    /// Whether a user wants no connection with it.
    pub(crate) fn is_left(&self, peer: &EndpointId) -> bool {
        self.peers.get(peer).is_some_and(|peer| peer.state == State::Left)
    }

    /// Whether this peer is wanted, or was left.
    pub(crate) fn knows(&self, peer: &EndpointId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Forgets a peer.
    pub(crate) fn forget(&mut self, peer: &EndpointId) {
        self.peers.remove(peer);
    }

    /// Dials this peer at the next opportunity, whatever its pause: there is news of it, or somebody needs it now.
    pub(crate) fn hurry(&mut self, peer: EndpointId) {
        let entry = self.peers.entry(peer).or_default();
        if matches!(entry.state, State::At(_)) {
            entry.state = State::Due;
        }
    }

    /// It can be dialled elsewhere: so it is, at the next opportunity. Whether a dial was under way, which is to be given up.
    pub(crate) fn moved(&mut self, peer: EndpointId) -> bool {
        let entry = self.peers.entry(peer).or_default();
        let was_dialling = entry.state == State::Dialling;
        if was_dialling || matches!(entry.state, State::At(_)) {
            entry.state = State::Due;
        }
        was_dialling
    }

    /// All pauses end: the machine's network has changed.
    pub(crate) fn hurry_all(&mut self) {
        for peer in self.peers.values_mut().filter(|peer| matches!(peer.state, State::At(_))) {
            *peer = Peer { fixed: peer.fixed, rests: peer.rests, ..Peer::default() };
        }
    }

    /// A connection with this peer stands, whoever dialled.
    pub(crate) fn connected(&mut self, peer: EndpointId, now: Timestamp) {
        let entry = self.peers.entry(peer).or_default();
        if entry.state != State::Left {
            entry.state = State::Connected(now);
        }
    }

    /// The connection has ended: dial again soon, but not in the same instant, in which the other side dials too.
    pub(crate) fn disconnected(&mut self, peer: &EndpointId, now: Timestamp, seed: u64) {
        if let Some(Peer { state: State::Connected(since), failures, lost, rests, .. }) = self.peers.get_mut(peer) {
            *rests = false;
            let was_steady = now.since(*since) >= STEADY;
            *failures = if was_steady { 0 } else { failures.saturating_add(1) };
            *lost = if was_steady { Some(now) } else { *lost };
        }
        self.pause(peer, now, seed);
    }

    /// The connection was let go for having nothing to carry: look at the peer after a while. `dialled` when this side had made it.
    pub(crate) fn rests(&mut self, peer: &EndpointId, now: Timestamp, idle: &IdleLinks, dialled: bool) {
        if let Some(entry) = self.peers.get_mut(peer).filter(|entry| entry.state != State::Left) {
            entry.pause_for(idle.until_look(entry.looks, dialled), now);
            entry.looks = entry.looks.saturating_add(1);
            entry.failures = 0;
            entry.rests = true;
        }
    }

    /// Whether its connection has stood for less than this.
    pub(crate) fn was_hasty(&self, peer: &EndpointId, now: Timestamp, least: Duration) -> bool {
        let connected = |peer: &Peer| if let State::Connected(since) = peer.state { Some(since) } else { None };
        self.peers.get(peer).and_then(connected).is_some_and(|since| now.since(since) < least.min(STEADY))
    }

    /// Whether there is somebody wanted that this node has no connection with, but for those that `is_idle` says are in reach.
    pub(crate) fn lacks_somebody(&self, is_idle: impl Fn(&EndpointId) -> bool) -> bool {
        let lacks = |(id, peer): (&EndpointId, &Peer)| !matches!(peer.state, State::Connected(_) | State::Left) && !is_idle(id);
        self.peers.iter().any(lacks)
    }

    /// A dial has failed.
    pub(crate) fn failed(&mut self, peer: &EndpointId, now: Timestamp, seed: u64) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.failures = entry.failures.saturating_add(1);
            entry.looks = 0;
            if std::mem::take(&mut entry.rests) {
                // It was in reach until now.
                entry.lost = Some(now);
            }
        }
        self.pause(peer, now, seed);
    }

    fn pause(&mut self, peer: &EndpointId, now: Timestamp, seed: u64) {
        if let Some(entry) = self.peers.get_mut(peer).filter(|entry| entry.state != State::Left) {
            let is_outage = entry.lost.is_some_and(|lost| now.since(lost) < OUTAGE);
            let most = if is_outage { MAX_OUTAGE_PAUSE } else { MAX_PAUSE };
            let longest = MIN_PAUSE.saturating_mul(1 << entry.failures.min(16)).min(most);
            // Between half of the pause and all of it, so that nodes that failed together do not dial together.
            let share = (seed ^ u64::from(peer.as_bytes()[0])) % 512;
            entry.pause_for(longest.mul_f64(0.5 + share as f64 / 1024.0), now);
        }
    }

    /// The peers to dial now, which then count as being dialled. Beyond `room` more connections only fixed peers are dialled.
    pub(crate) fn due(&mut self, now: Timestamp, room: usize) -> Vec<EndpointId> {
        let dialling = self.peers.values().filter(|peer| peer.state == State::Dialling).count();
        let mut room = room.saturating_sub(dialling);
        let mut due = Vec::new();
        for (id, peer) in &mut self.peers {
            let ready = match peer.state {
                State::Due => true,
                State::At(time) => {
                    // The clock may have been set back, by years where a machine learns the time from others.
                    let time = time.min(now.plus(peer.pause));
                    peer.state = State::At(time);
                    time <= now
                }
                State::Dialling | State::Connected(_) | State::Left => false,
            };
            if !ready || !(peer.fixed || peer.rests || room > 0) {
                continue;
            }
            room = room.saturating_sub(1);
            peer.state = State::Dialling;
            due.push(*id);
        }
        due
    }

    /// When to look again.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.peers.values().filter_map(|peer| if let State::At(time) = peer.state { Some(time) } else { None }).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: EndpointId = EndpointId::from_bytes([1; 32]);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn pauses_double_up_to_their_limit_and_end_when_the_peer_is_back() {
        let mut dialing = Dialing::default();
        dialing.want(PEER, true);
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(dialing.due(now, 0), [PEER]);
            assert_eq!(dialing.due(now, 0), [], "a peer is dialled once at a time");
            dialing.failed(&PEER, now, 0);
            let next = dialing.next().expect("a dial is planned");
            pauses.push(next.since(now));
            now = next;
        }
        assert!(pauses[0] <= Duration::from_secs(1), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= MAX_PAUSE), "{pauses:?}");
        assert!(pauses[11] >= MAX_PAUSE / 2, "{pauses:?}");
        dialing.connected(PEER, now);
        assert_eq!(dialing.next(), None);
        let later = now.plus(STEADY);
        dialing.disconnected(&PEER, later, 0);
        assert!(dialing.next().expect("dialled again").since(later) <= MIN_PAUSE);
    }

    #[test]
    fn a_clock_that_is_set_back_lengthens_no_pause() {
        let (year, idle) = (Duration::from_secs(365 * 24 * 3600), IdleLinks::default());
        for rests in [false, true] {
            let mut dialing = Dialing::default();
            dialing.want(PEER, true);
            assert_eq!(dialing.due(at(0).plus(year), 0), [PEER]);
            if rests {
                dialing.connected(PEER, at(0).plus(year));
                dialing.rests(&PEER, at(0).plus(year), &idle, false);
            } else {
                dialing.failed(&PEER, at(0).plus(year), 0);
            }
            assert_eq!(dialing.due(at(0), 0), [], "its pause is not over by that");
            let longest = if rests { idle.look } else { MAX_PAUSE };
            assert_eq!(dialing.due(at(0).plus(longest), 0), [PEER]);
        }
    }

    #[test]
    fn who_was_connected_not_long_ago_is_dialled_after_short_pauses_for_a_while() {
        let longest_until = |dialing: &mut Dialing, mut now: Timestamp, until: Timestamp| {
            let mut longest = Duration::ZERO;
            while now < until {
                let next = dialing.next().expect("a dial is planned");
                longest = longest.max(next.since(now));
                now = next;
                assert_eq!(dialing.due(now, 1), [PEER]);
                dialing.failed(&PEER, now, 0);
            }
            longest
        };
        let (lost, hopeless) = (at(0).plus(STEADY), at(0).plus(STEADY).plus(OUTAGE));
        for rested in [false, true] {
            let mut dialing = Dialing::default();
            dialing.connected(PEER, at(0));
            if rested {
                dialing.rests(&PEER, at(0), &IdleLinks::default(), true);
                dialing.hurry(PEER);
                assert_eq!(dialing.due(lost, 1), [PEER]);
                dialing.failed(&PEER, lost, 0);
            } else {
                dialing.disconnected(&PEER, lost, 0);
            }
            assert!(longest_until(&mut dialing, lost, hopeless) <= MAX_OUTAGE_PAUSE);
            let now = dialing.next().expect("a dial is planned");
            let _ = dialing.due(now, 1);
            dialing.failed(&PEER, now, 0);
            assert!(longest_until(&mut dialing, now, now.plus(OUTAGE)) > MAX_PAUSE / 3, "then it is dialled as seldom as others");
        }
    }

    #[test]
    fn who_takes_connections_and_drops_them_is_dialled_ever_more_seldom() {
        let mut dialing = Dialing::default();
        dialing.want(PEER, true);
        let mut now = at(0);
        for _ in 0..12 {
            assert_eq!(dialing.due(now, 0), [PEER]);
            dialing.connected(PEER, now);
            dialing.disconnected(&PEER, now, 0);
            let pause = dialing.next().expect("a dial is planned").since(now);
            assert!(pause <= MAX_PAUSE);
            now = now.plus(pause);
        }
        assert!(now.since(at(0)) > MAX_PAUSE * 2);
    }

    #[test]
    fn who_was_left_is_not_dialled_until_a_user_names_it_again() {
        let mut dialing = Dialing::default();
        dialing.want(PEER, true);
        dialing.leave(PEER);
        dialing.want(PEER, false);
        dialing.hurry(PEER);
        assert!(!dialing.moved(PEER));
        dialing.hurry_all();
        dialing.connected(PEER, at(0));
        dialing.disconnected(&PEER, at(0), 0);
        assert!(dialing.is_left(&PEER) && dialing.due(at(100_000), 5).is_empty());
        dialing.want(PEER, true);
        assert_eq!(dialing.due(at(100_000), 0), [PEER]);
    }

    #[test]
    fn who_has_moved_is_dialled_anew_though_a_dial_is_under_way() {
        let mut dialing = Dialing::default();
        dialing.want(PEER, true);
        assert!(!dialing.moved(PEER));
        assert_eq!(dialing.due(at(0), 0), [PEER]);
        dialing.hurry(PEER);
        assert_eq!(dialing.due(at(0), 0), [], "haste alone makes no second dial");
        assert!(dialing.moved(PEER));
        assert_eq!(dialing.due(at(0), 0), [PEER]);
        dialing.connected(PEER, at(0));
        assert!(!dialing.moved(PEER));
        assert_eq!(dialing.due(at(0), 0), [], "nor is who is connected");
    }

    #[test]
    fn who_rests_is_dialled_when_needed_however_many_connections_there_are() {
        let mut dialing = Dialing::default();
        dialing.connected(PEER, at(0));
        dialing.rests(&PEER, at(20_000), &IdleLinks::default(), true);
        dialing.hurry(PEER);
        assert_eq!(dialing.due(at(20_000), 0), [PEER]);
        dialing.failed(&PEER, at(20_000), 0);
        dialing.hurry(PEER);
        assert_eq!(dialing.due(at(20_000), 0), [], "who is out of reach has no place");
    }

    #[test]
    fn who_lets_go_at_once_was_hasty() {
        let mut dialing = Dialing::default();
        dialing.connected(PEER, at(0));
        assert!(dialing.was_hasty(&PEER, at(1_000), Duration::from_secs(7)));
        assert!(!dialing.was_hasty(&PEER, at(5_000), Duration::from_secs(7)));
    }

    #[test]
    fn who_rests_is_looked_at_ever_more_seldom_and_lacks_nobody() {
        let (idle, mut dialing) = (IdleLinks::default(), Dialing::default());
        dialing.want(PEER, true);
        let (mut now, mut waits) = (at(0), Vec::new());
        for _ in 0..4 {
            assert_eq!(dialing.due(now, 0), [PEER]);
            assert!(dialing.lacks_somebody(|_| false), "it is being dialled");
            dialing.connected(PEER, now);
            assert!(!dialing.lacks_somebody(|_| false));
            dialing.rests(&PEER, now, &idle, false);
            assert!(!dialing.lacks_somebody(|peer| *peer == PEER));
            let next = dialing.next().expect("a look is planned");
            waits.push(next.since(now));
            now = next;
        }
        assert_eq!(waits, [idle.look, idle.look * 2, idle.look * 4, idle.look * 4]);
        dialing.hurry(PEER);
        assert_eq!(dialing.due(at(0), 0), [PEER], "who has something to say waits for no look");
        dialing.failed(&PEER, now, 0);
        dialing.connected(PEER, now);
        dialing.rests(&PEER, now, &idle, false);
        assert_eq!(dialing.next().map(|next| next.since(now)), Some(idle.look), "after an outage all begins anew");
    }

    #[test]
    fn hurry_ends_a_pause_and_a_full_house_dials_only_fixed_peers() {
        let other = EndpointId::from_bytes([2; 32]);
        let mut dialing = Dialing::default();
        dialing.want(PEER, true);
        dialing.want(other, false);
        assert_eq!(dialing.due(at(0), 0), [PEER]);
        assert_eq!(dialing.due(at(0), 2), [other]);
        dialing.failed(&other, at(0), 0);
        assert_eq!(dialing.due(at(1), 2), []);
        dialing.hurry(other);
        assert_eq!(dialing.due(at(1), 2), [other]);
    }
}
