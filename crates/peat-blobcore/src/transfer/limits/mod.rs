//! How much may cross, and when: the limits of a node as its user says them, and who goes next under them. Pure: time comes in
//! as a value, and nothing here waits. What is never limited does not come here: documents, receipts, hints, availability.
//!
//! - `rate`, `schedule`: what a user says
//! - `bucket`: one limit over time; `queue`: all limits of one direction, and who waits for them
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod bucket;
mod queue;
#[cfg(test)]
mod queue_tests;
mod rate;
mod schedule;

pub(super) use bucket::slice;
pub(super) use queue::{Flow, Queue, Ticket};
pub use rate::{LimitError, Rate, RateChange, Rates, rate_or_none};
pub use schedule::{Period, Then};

use std::collections::BTreeMap;

use crate::model::{EndpointId, NodeRef, Priority, Timestamp};

/// The limits of a node. What crosses keeps to each that concerns it; without any it is as fast as the link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// For everything together.
    pub node: Rates,
    /// For what has a priority, from and to all peers together.
    pub classes: BTreeMap<Priority, Rates>,
    /// For one peer, by its endpoint id or its name.
    pub peers: BTreeMap<NodeRef, Rates>,
    /// Times at which others hold; of those that do, the first counts.
    pub schedule: Vec<Period>,
    /// The link costs by the byte: of blobs only what is critical is fetched, served or carried; documents go on.
    pub metered: bool,
}

/// What holds at a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LimitsInForce {
    /// For everything together.
    pub node: Rates,
    /// For what has a priority.
    pub classes: BTreeMap<Priority, Rates>,
    /// For one peer.
    pub peers: BTreeMap<NodeRef, Rates>,
    /// The time of the schedule that it is.
    pub period: Option<Period>,
    /// Whether only what is critical crosses.
    pub metered: bool,
    /// When that changes by itself.
    pub until: Option<Timestamp>,
}

impl Limits {
    /// Peers and times that can be named, at most: each costs a look at every block.
    pub const MAX_ENTRIES: usize = 1024;

    /// Whether nothing but metered mode is said.
    #[must_use]
    pub fn is_free(&self) -> bool {
        let rates = self.classes.values().chain(self.peers.values());
        self.node.is_free() && self.schedule.is_empty() && rates.into_iter().all(Rates::is_free)
    }

    /// What of them holds at a time.
    #[must_use]
    pub fn in_force(&self, now: Timestamp) -> LimitsInForce {
        let (period, until) = schedule::in_force(&self.schedule, now);
        let (metered, node) = (self.metered, self.node);
        match period.map(|period| period.then()) {
            Some(Then::Unlimited) => LimitsInForce { period, metered, until, ..LimitsInForce::default() },
            Some(Then::Rates(change)) => LimitsInForce { node: change.applied_to(node), period, until, ..self.always() },
            None => LimitsInForce { until, ..self.always() },
        }
    }

    fn always(&self) -> LimitsInForce {
        let (node, metered) = (self.node, self.metered);
        LimitsInForce { node, classes: self.classes.clone(), peers: self.peers.clone(), metered, period: None, until: None }
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// To others.
    Up,
    /// From others.
    Down,
}

/// The limits of one direction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Caps {
    node: Option<Rate>,
    classes: BTreeMap<Priority, Rate>,
    peers: BTreeMap<NodeRef, Rate>,
}

impl Caps {
    pub(super) fn of(limits: &LimitsInForce, direction: Direction) -> Self {
        let side = |rates: &Rates| if direction == Direction::Up { rates.up } else { rates.down };
        let classes = limits.classes.iter().filter_map(|(class, rates)| Some((*class, side(rates)?))).collect();
        let peers = limits.peers.iter().filter_map(|(peer, rates)| Some((peer.clone(), side(rates)?))).collect();
        Self { node: side(&limits.node), classes, peers }
    }

    /// Whether there is none.
    pub(super) fn is_free(&self) -> bool {
        self.node.is_none() && self.classes.is_empty() && self.peers.is_empty()
    }

    fn of_peer(&self, id: &EndpointId, name: Option<&str>) -> Option<Rate> {
        let named = || self.peers.get(&NodeRef::Name(name?.to_owned()));
        self.peers.get(&NodeRef::Id(*id)).or_else(named).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_replaces_what_it_mentions_and_unlimited_lifts_all() {
        let rate = |text: &str| text.parse::<RateChange>().expect(text).applied_to(Rates::default());
        let limits = Limits {
            node: rate("up=1MiB/s down=2MiB/s"),
            classes: BTreeMap::from([(Priority::Bulk, rate("100KiB/s"))]),
            peers: BTreeMap::from([(NodeRef::Name("bravo".into()), rate("down=50KiB/s"))]),
            schedule: vec![
                "22:00-06:00 unlimited".parse().expect("a period"),
                "08:00-18:00 up=64KiB/s".parse().expect("a period"),
            ],
            metered: true,
        };
        let at = |hour: u64| limits.in_force(Timestamp::from_millis(hour * 3_600_000));
        assert!(Caps::of(&at(23), Direction::Up).is_free() && Caps::of(&at(23), Direction::Down).is_free());
        assert_eq!(at(7).node.to_string(), "up=1MiB/s down=2MiB/s");
        assert_eq!(at(7).until, Some(Timestamp::from_millis(8 * 3_600_000)));
        assert_eq!(at(9).node.to_string(), "up=64KiB/s down=2MiB/s");
        assert_eq!(at(9).classes, limits.classes);
        assert!(at(9).metered && at(23).metered);
        let (up, down) = (Caps::of(&at(9), Direction::Up), Caps::of(&at(9), Direction::Down));
        let id = EndpointId::from_bytes([1; 32]);
        assert_eq!(up.of_peer(&id, Some("bravo")), None);
        assert_eq!(down.of_peer(&id, Some("bravo")), Rate::from_bytes(50 << 10));
        assert_eq!(down.of_peer(&id, None), None);
    }
}
