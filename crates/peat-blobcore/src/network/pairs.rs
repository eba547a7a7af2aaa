//! What this node has with each of its peers: one connection, one that may come to life again, or none and its word that it is there.
//! Which of two connections survives when both sides have dialled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::EndpointId;

/// For so long a peer that could not be dialled is taken for one that can only dial itself. It may have been an outage.
const INWARD: Duration = Duration::from_secs(3600);
/// Connections that are kept though nothing is heard over them.
const MAX_SILENT: usize = 64;

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

/// A connection of a pair, as far as it matters which one stays.
pub(super) trait Paired {
    /// Who is at the other end.
    fn id(&self) -> EndpointId;
    /// Which side dialled, and with which run of the peer's program it is.
    fn origin(&self) -> Origin;
    /// Whether another one of the pair may have been dialled before this one stood, and this one can stay.
    fn may_cross(&self) -> bool;
}

/// A peer is in one of `connected`, `idle` and `silent`, or in none.
#[derive(Debug)]
pub(super) struct Pairs<C> {
    connected: BTreeMap<EndpointId, Arc<C>>,
    /// A user wants no connection with these.
    left: BTreeSet<EndpointId>,
    /// In reach, but their connection was let go for having nothing to carry.
    idle: BTreeMap<EndpointId, Idle>,
    /// Out of reach, but the connection with them goes on if they are heard again before another is made.
    silent: BTreeMap<EndpointId, Arc<C>>,
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
pub(super) enum Entered<C> {
    /// It is the pair's connection now.
    Stays {
        /// The one that it replaced, to be closed.
        replaced: Option<Arc<C>>,
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

impl<C> Default for Pairs<C> {
    fn default() -> Self {
        Self {
            connected: BTreeMap::new(),
            left: BTreeSet::new(),
            idle: BTreeMap::new(),
            silent: BTreeMap::new(),
            inward: BTreeMap::new(),
        }
    }
}

impl<C: Paired> Pairs<C> {
    /// Enters a connection that was admitted, among at most `most` of different peers.
    pub(super) fn enter(&mut self, new: Arc<C>, most: usize) -> Entered<C> {
        let id = new.id();
        if self.left.contains(&id) {
            return Entered::Left;
        }
        match self.connected.get(&id) {
            Some(old) if !old.origin().yields_to(new.origin()) && old.may_cross() => Entered::Loses,
            None if self.connected.len() >= most => Entered::Full,
            _ => {
                let silent = self.silent.remove(&id).filter(|silent| !Arc::ptr_eq(silent, &new));
                let replaced = self.connected.insert(id, new);
                let idle = self.idle.remove(&id);
                let instance = replaced.as_ref().map(|old| old.origin().instance).or(idle.map(|idle| idle.instance));
                Entered::Stays { replaced: replaced.or(silent), instance }
            }
        }
    }

    /// Enters a connection again that was silent.
    pub(super) fn enter_again(&mut self, heard: Arc<C>, most: usize) -> Entered<C> {
        if self.is_silent(&heard) { self.enter(heard, most) } else { Entered::Loses }
    }

    /// Enters no connection with this peer until [`Pairs::want`]; the one that there is, to be closed.
    pub(super) fn leave_alone(&mut self, id: EndpointId) -> Option<Arc<C>> {
        self.left.insert(id);
        self.connected.get(&id).or_else(|| self.silent.get(&id)).cloned()
    }

    /// Enters connections with this peer again.
    pub(super) fn want(&mut self, id: &EndpointId) {
        self.left.remove(id);
    }

    /// Takes a connection out if it is still the pair's; whether it was, and was not silent.
    pub(super) fn leave(&mut self, connection: &Arc<C>) -> bool {
        take(&mut self.silent, connection);
        take(&mut self.connected, connection)
    }

    /// Takes a peer for out of reach, and keeps its connection if it is still the pair's and there is room; whether it is kept.
    pub(super) fn fall_silent(&mut self, connection: &Arc<C>) -> bool {
        let is_kept = self.silent.len() < MAX_SILENT && take(&mut self.connected, connection);
        if is_kept {
            self.silent.insert(connection.id(), Arc::clone(connection));
        }
        is_kept
    }

    /// Whether a connection is kept though its peer is out of reach.
    pub(super) fn is_silent(&self, connection: &Arc<C>) -> bool {
        is_in(&self.silent, connection)
    }

    /// Lets a connection go if it is still the pair's: the peer stays in reach. Whether it was. Who is not told everything yet is
    /// wanted again at once.
    pub(super) fn rest(&mut self, connection: &Arc<C>, is_told: impl FnOnce() -> bool) -> bool {
        if !take(&mut self.connected, connection) {
            return false;
        }
        // Asked with the table in hand: who queues after this finds it idle, and wakes it.
        let wanted = !is_told();
        self.idle.insert(connection.id(), Idle { instance: connection.origin().instance, wanted });
        true
    }

    /// An idle peer is in reach no more; whether it was.
    pub(super) fn lost(&mut self, id: &EndpointId) -> bool {
        self.idle.remove(id).is_some()
    }

    /// Notes whether this node can dial a peer.
    pub(super) fn dialled(&mut self, id: &EndpointId, ok: bool) {
        if ok {
            self.inward.remove(id);
        } else {
            self.inward.insert(*id, Instant::now());
        }
    }

    /// Whether this node has failed to dial a peer of late, and not got through since.
    pub(super) fn is_inward(&self, id: &EndpointId) -> bool {
        self.inward.get(id).is_some_and(|failed| failed.elapsed() < INWARD)
    }

    /// The peers that are in reach without a connection.
    pub(super) fn idle(&self) -> impl Iterator<Item = &EndpointId> {
        self.idle.keys()
    }

    /// Whether a peer is in reach without a connection.
    pub(super) fn is_idle(&self, id: &EndpointId) -> bool {
        self.idle.contains_key(id)
    }

    /// Wants connections with idle peers; whether there are some that were not wanted yet.
    pub(super) fn wake(&mut self, whom: impl Fn(&EndpointId) -> bool) -> bool {
        let mut some = false;
        for (_, idle) in self.idle.iter_mut().filter(|(id, idle)| !idle.wanted && whom(id)) {
            (idle.wanted, some) = (true, true);
        }
        some
    }

    /// The idle peers that are wanted.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &EndpointId> {
        self.idle.iter().filter(|(_, idle)| idle.wanted).map(|(id, _)| id)
    }

    /// The connection with a peer that is in reach.
    pub(super) fn get(&self, id: &EndpointId) -> Option<&Arc<C>> {
        self.connected.get(id)
    }

    /// All connections with peers that are in reach, in order of their ids.
    pub(super) fn connected(&self) -> impl ExactSizeIterator<Item = &Arc<C>> {
        self.connected.values()
    }

    /// Those with peers of whom nothing is heard.
    pub(super) fn silent(&self) -> impl Iterator<Item = &Arc<C>> {
        self.silent.values()
    }
}

fn is_in<C: Paired>(connections: &BTreeMap<EndpointId, Arc<C>>, connection: &Arc<C>) -> bool {
    connections.get(&connection.id()).is_some_and(|current| Arc::ptr_eq(current, connection))
}

/// Takes a connection out; whether it was in.
fn take<C: Paired>(connections: &mut BTreeMap<EndpointId, Arc<C>>, connection: &Arc<C>) -> bool {
    is_in(connections, connection) && connections.remove(&connection.id()).is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// A connection that exists in words alone.
    #[derive(Debug)]
    struct Line {
        id: EndpointId,
        origin: Origin,
        is_new: AtomicBool,
    }

    impl Paired for Line {
        fn id(&self) -> EndpointId {
            self.id
        }

        fn origin(&self) -> Origin {
            self.origin
        }

        fn may_cross(&self) -> bool {
            self.is_new.load(Ordering::Relaxed)
        }
    }

    const SMALLER: Origin = Origin { smaller_dialled: true, instance: 1 };
    const LARGER: Origin = Origin { smaller_dialled: false, instance: 1 };

    fn line(id: u8, origin: Origin) -> Arc<Line> {
        Arc::new(Line { id: EndpointId::from_bytes([id; 32]), origin, is_new: AtomicBool::new(true) })
    }

    #[test]
    fn of_two_that_crossed_both_sides_keep_the_one_that_the_smaller_id_dialled() {
        let (smaller, larger) = (line(1, SMALLER), line(1, LARGER));
        for (first, second) in [(&smaller, &larger), (&larger, &smaller)] {
            let mut pairs = Pairs::default();
            pairs.enter(Arc::clone(first), 1);
            pairs.enter(Arc::clone(second), 1);
            assert!(Arc::ptr_eq(pairs.get(&smaller.id).expect("one stays"), &smaller));
        }
    }

    #[test]
    fn a_dialler_that_dials_again_and_a_peer_that_restarted_replace_the_old_connection() {
        assert!(LARGER.yields_to(LARGER) && SMALLER.yields_to(SMALLER));
        assert!(SMALLER.yields_to(Origin { instance: 2, ..LARGER }));
    }

    #[test]
    fn what_stands_for_long_is_not_what_a_new_one_crosses() {
        let (old, new, mut pairs) = (line(1, SMALLER), line(1, LARGER), Pairs::default());
        pairs.enter(Arc::clone(&old), 1);
        old.is_new.store(false, Ordering::Relaxed);
        assert!(matches!(pairs.enter(new, 1), Entered::Stays { replaced: Some(replaced), .. } if Arc::ptr_eq(&replaced, &old)));
    }

    #[test]
    fn who_is_heard_again_is_back_over_the_old_connection_unless_another_was_made_first() {
        let (old, new, mut pairs) = (line(1, LARGER), line(1, LARGER), Pairs::default());
        pairs.enter(Arc::clone(&old), 1);
        assert!(pairs.fall_silent(&old) && pairs.get(&old.id).is_none());
        // Out of reach until then, so that nobody takes it for restarted or for having been there all along.
        assert!(matches!(pairs.enter_again(Arc::clone(&old), 1), Entered::Stays { replaced: None, instance: None }));
        pairs.fall_silent(&old);
        assert!(matches!(pairs.enter(new, 1), Entered::Stays { replaced: Some(replaced), .. } if Arc::ptr_eq(&replaced, &old)));
        assert!(matches!(pairs.enter_again(old, 1), Entered::Loses));
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A connection with one of three peers is admitted.
        Enter(u8, bool, u64),
        /// The rest is about one of the connections that were made, or of the peers.
        Again(usize),
        Silent(usize),
        Rest(usize, bool),
        Leave(usize),
        Ages(usize),
        Lost(u8),
        LeaveAlone(u8),
        Want(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (peer, made) = (0..3_u8, 0..12_usize);
        prop_oneof![
            4 => (peer.clone(), any::<bool>(), 1..3_u64).prop_map(|(peer, smaller, run)| Step::Enter(peer, smaller, run)),
            2 => made.clone().prop_map(Step::Again),
            3 => made.clone().prop_map(Step::Silent),
            1 => (made.clone(), any::<bool>()).prop_map(|(made, told)| Step::Rest(made, told)),
            1 => made.clone().prop_map(Step::Leave),
            1 => made.prop_map(Step::Ages),
            1 => peer.clone().prop_map(Step::Lost),
            1 => peer.clone().prop_map(Step::LeaveAlone),
            1 => peer.prop_map(Step::Want),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: a peer has one standing; each connection that stood is either in the table or was
        /// said to be ended to who runs it; who is left alone gets no new one; and no more are connected than may be.
        #[test]
        fn every_connection_is_accounted_for_and_each_peer_has_one_standing(steps in prop::collection::vec(step(), 1..60)) {
            const MOST: usize = 2;
            let (mut pairs, mut made) = (Pairs::default(), Vec::<Arc<Line>>::new());
            let (mut live, mut left) = (BTreeSet::new(), BTreeSet::new());
            let address = |line: &Arc<Line>| Arc::as_ptr(line) as usize;
            let peer = |id: u8| EndpointId::from_bytes([id; 32]);
            for step in steps {
                let entered = match step {
                    Step::Enter(id, smaller_dialled, instance) => {
                        let new = line(id, Origin { smaller_dialled, instance });
                        made.push(Arc::clone(&new));
                        Some((pairs.enter(Arc::clone(&new), MOST), new))
                    }
                    Step::Again(which) => made.get(which).cloned().map(|old| (pairs.enter_again(Arc::clone(&old), MOST), old)),
                    _ => None,
                };
                if let Some((entered, new)) = entered {
                    match entered {
                        Entered::Stays { replaced, .. } => {
                            prop_assert!(!left.contains(&new.id));
                            live.insert(address(&new));
                            if let Some(replaced) = replaced {
                                prop_assert!(live.remove(&address(&replaced)) && replaced.id == new.id);
                            }
                        }
                        // Who runs it is told by this that it has ended.
                        _ => {
                            pairs.leave(&new);
                            live.remove(&address(&new));
                        }
                    }
                }
                match step {
                    Step::Silent(which) => {
                        if let Some(line) = made.get(which)
                            && !pairs.fall_silent(line)
                            && !pairs.is_silent(line)
                        {
                            prop_assert!(!live.contains(&address(line)));
                        }
                    }
                    Step::Rest(which, told) => {
                        if let Some(line) = made.get(which)
                            && pairs.rest(line, || told)
                        {
                            prop_assert!(live.remove(&address(line)) && pairs.wanted().any(|id| *id == line.id) != told);
                        }
                    }
                    Step::Leave(which) => {
                        if let Some(line) = made.get(which) {
                            pairs.leave(line);
                            live.remove(&address(line));
                        }
                    }
                    Step::Ages(which) => {
                        if let Some(line) = made.get(which) {
                            line.is_new.store(false, Ordering::Relaxed);
                        }
                    }
                    Step::Lost(id) => prop_assert!(pairs.is_idle(&peer(id)) == pairs.lost(&peer(id)) && !pairs.is_idle(&peer(id))),
                    Step::LeaveAlone(id) => {
                        left.insert(peer(id));
                        if let Some(line) = pairs.leave_alone(peer(id)) {
                            prop_assert!(live.contains(&address(&line)));
                        }
                    }
                    Step::Want(id) => {
                        left.remove(&peer(id));
                        pairs.want(&peer(id));
                    }
                    Step::Enter(..) | Step::Again(_) => {}
                }
                let (connected, silent): (Vec<_>, Vec<_>) = (pairs.connected().collect(), pairs.silent().collect());
                prop_assert!(connected.len() <= MOST);
                let held: BTreeSet<_> = connected.iter().chain(&silent).map(|line| address(line)).collect();
                prop_assert_eq!(&held, &live);
                let standing = connected.iter().chain(&silent).map(|line| line.id).chain(pairs.idle().copied());
                let standing: Vec<_> = standing.collect();
                prop_assert_eq!(standing.iter().collect::<BTreeSet<_>>().len(), standing.len());
            }
        }
    }
}
