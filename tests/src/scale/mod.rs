//! What a fleet costs each of its nodes as it grows: real reconcilers over a simulated network that counts. Beside the simulation
//! of faults, which has tens of nodes that each keep everything by themselves: here nothing fails, and nodes share what is the
//! same for all of them, so that a thousand with ten thousand distributions fit into one process.
//!
//! Real: every decision, and the sizes of envelopes and hints, which are taken from real ones. A model: envelopes flood as the
//! network pushes them (to every peer but the one that they came from, those of a link together each 20 ms); links are a ring
//! with chords, and those that reconcilers dial for, which close after ten seconds; a session is the two messages that equal
//! replicas need; a hint is heard once by everybody, as gossip's tree brings it.

mod fleet;
mod sizes;

use std::time::Duration;

use peat_blobcore::model::{NodeRef, Scope};

use fleet::Fleet;

use crate::simulation::Rng;

/// Nodes that one selector matches, whatever the fleet's size.
const GROUP: usize = 10;
/// Between two sends somewhere in the fleet, in milliseconds.
const SEND_EVERY: u64 = 100;
/// Distributions between two that are for all.
const ALL_EVERY: usize = 1000;
/// How long what is under way may take once all is sent, in milliseconds.
const SETTLE: u64 = 5 * 60_000;
/// How long it is looked on while nothing is to be done, in milliseconds.
const IDLE: u64 = 10 * 60_000;

/// What was counted. Of one node on average, unless it says otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Frames of envelopes that came.
    pub frames: f64,
    /// Envelopes in them that were news.
    pub news: f64,
    /// Envelopes in them that another peer had brought before.
    pub repeats: f64,
    /// Sessions, of which each has two ends.
    pub sessions: f64,
    /// Hints that were heard.
    pub hints: f64,
    /// Bytes of all these that came.
    pub bytes: f64,
    /// Calls of reconcile.
    pub calls: f64,
    /// Actions that they gave.
    pub actions: f64,
    /// Seconds that they took.
    pub seconds: f64,
}

/// What a fleet of one size came to.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Nodes.
    pub nodes: usize,
    /// Distributions.
    pub distributions: usize,
    /// Envelopes that there are at the end, which every member has.
    pub envelopes: usize,
    /// Pairs of a distribution and a target of it.
    pub due: usize,
    /// Those of them whose receipt the sender has.
    pub delivered: usize,
    /// Until every node knows every other.
    pub joining: Counts,
    /// While distributions are sent, and until they have arrived.
    pub working: Counts,
    /// Ten minutes without anything to do.
    pub idle: Counts,
}

/// Runs a fleet.
#[must_use]
pub fn run(nodes: usize, distributions: usize) -> Report {
    let mut rng = Rng::new(nodes as u64);
    let groups = nodes.div_ceil(GROUP);
    let mut fleet = Fleet::new(nodes, |node| format!("{}", node % groups));
    fleet.run_for(60_000);
    let joining = fleet.take_counts();
    for number in 0..distributions {
        let sender = rng.index(nodes);
        let scope = match number % 10 {
            _ if number % ALL_EVERY == 5 => Scope::All,
            0 | 1 => Scope::Nodes(vec![NodeRef::Id(fleet.id((sender + 1 + rng.index(nodes - 1)) % nodes))]),
            _ => Scope::Labels(format!("group={}", rng.index(groups)).parse().expect("a selector")),
        };
        fleet.send(sender, number, scope, Duration::from_secs(30 * 24 * 3600));
        fleet.run_for(SEND_EVERY);
    }
    fleet.run_for(SETTLE);
    let working = fleet.take_counts();
    let (due, delivered) = fleet.receipts();
    fleet.run_for(IDLE);
    let idle = fleet.take_counts();
    Report { nodes, distributions, envelopes: fleet.envelopes(), due, delivered, joining, working, idle }
}
