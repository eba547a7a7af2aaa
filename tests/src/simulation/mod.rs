//! A simulated network of reconcilers: virtual time, one seed for everything that chance decides, and faults of every kind
//! until they stop. Rules are checked at each step; at the end, everything has to be where it was meant to be.

mod node;
mod rng;
mod scenario;
mod world;

use peat_blobcore::model::{DistributionState, TargetState};
use peat_blobcore::reconcile::{View as _, explain, is_target, status, targets};

use node::{SimView, files_of};
pub use rng::Rng;
use scenario::Scenario;
use world::{BEGIN, World};

/// How long things go wrong, in milliseconds.
const FAULTS: u64 = 8 * 60_000;
/// How long everything may take after they stopped, in milliseconds.
const BOUND: u64 = 20 * 60_000;
/// How often it is looked whether everything has arrived, in milliseconds.
const LOOK_EVERY: u64 = 20_000;

/// What a run came to.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Events that reconcilers were given.
    pub events: u64,
    /// Receipts that were due at the end, and there.
    pub receipts: usize,
    /// Distributions that their senders saw completed.
    pub completed: usize,
}

/// Runs one seed.
///
/// # Errors
/// Which rules were broken, or what did not arrive and why.
pub fn run(seed: u64) -> Result<Report, String> {
    let (mut scenario, mut world) = Scenario::new(seed);
    let end = BEGIN + FAULTS;
    while world.now < end && world.violations.is_empty() {
        let pause = scenario.pause();
        let until = (world.now + pause).min(end);
        world.run_until(until);
        scenario.strike(&mut world);
    }
    scenario.heal(&mut world);
    let mut missing = Vec::new();
    let mut report = Report { events: 0, receipts: 0, completed: 0 };
    while world.now < end + BOUND && world.violations.is_empty() {
        let until = world.now + LOOK_EVERY;
        world.run_until(until);
        (missing, report) = missing_at_end(&scenario, &world);
        if missing.is_empty() {
            break;
        }
    }
    if world.violations.is_empty() && missing.is_empty() {
        // Once everything is there, nothing but background noise may go on.
        let before = world.events;
        let until = world.now + 4 * 60_000;
        world.run_until(until);
        let quiet = (world.events - before) / world.nodes.len() as u64;
        if quiet > 1_500 {
            world.violations.push(format!("{quiet} events for each node in four minutes with nothing to do"));
        }
        missing = missing_at_end(&scenario, &world).0;
    }
    let wrong: Vec<_> = world.violations.iter().chain(&missing).take(10).cloned().collect();
    if wrong.is_empty() { Ok(report) } else { Err(wrong.join("\n")) }
}

/// What ought to have arrived and has not, with the reason that the target gives.
fn missing_at_end(scenario: &Scenario, world: &World) -> (Vec<String>, Report) {
    let mut missing = Vec::new();
    let mut report = Report { events: world.events, receipts: 0, completed: 0 };
    for (sender, id) in scenario.expected(world) {
        let at_sender = &world.nodes[sender];
        let Some(document) = at_sender.documents.get(&id) else {
            missing.push(format!("{} does not know {id:?}, which it sent", at_sender.name));
            continue;
        };
        let now = at_sender.clock(world.now);
        let state = status(now, &SimView(at_sender), document);
        let mut all = true;
        for target in world.nodes.iter().filter(|node| is_target(SimView(at_sender).nodes(), document, &node.id)) {
            if !scenario.can_arrive(world, sender, target, document) {
                all &= !targets(&SimView(at_sender), document).contains(&target.id);
                continue;
            }
            let record = document.targets.get(&target.id);
            let files = target.inbox.get(&id).map_or(0, std::collections::BTreeSet::len);
            if files == files_of(&document.manifest).len() && record.is_some_and(|r| r.state == TargetState::Delivered) {
                report.receipts += 1;
                continue;
            }
            all = false;
            let (view, now) = (SimView(target), target.clock(world.now));
            let why = explain(now, &target.policy, &view, &target.memory, &id, &target.id);
            missing.push(format!("{id:?} of {} is not at {}: {why} (sender knows {record:?})", at_sender.name, target.name));
        }
        match (all, state) {
            (true, DistributionState::Completed) => report.completed += 1,
            (true, DistributionState::NoTargets) | (false, _) => {}
            (true, state) => missing.push(format!("{id:?} of {} is everywhere and {state}: {document:?}", at_sender.name)),
        }
    }
    (missing, report)
}
