//! What holds whatever happens, as properties over arbitrary histories of one node.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::bench::{Bench, ME, Running, Sketch, peer};
use super::*;
use crate::document::Distribution;
use crate::model::{BlobHash, Carry, DistributionId, Files, NodeRef, Priority, Scope, TargetState};

/// One thing that happens; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Op {
    Add(Sketch),
    Up(u8),
    Down(u8),
    Hint(u8, usize),
    FetchEnds(usize, FetchOutcome),
    OneEnds(usize, FetchOutcome),
    DeliveryEnds(usize, FileOutcome),
    DialEnds(usize, bool),
    Says(usize, u8, TargetState),
    Cancels(usize),
    Retires(u8),
    Redeliver(usize),
    Asks(usize, u8),
    Reconciled(u8),
    RoomMade,
    Metered(bool),
    Loses(usize),
    Waits(u64),
    ClockGoesBack(u64),
    Restarts,
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let scope = prop_oneof![
        Just(Scope::All),
        Just(Scope::Nodes(vec![NodeRef::Id(peer(ME))])),
        Just(Scope::Nodes(vec![NodeRef::Id(peer(3)), NodeRef::Name("node-4".into())])),
        Just(Scope::Nodes(vec![NodeRef::Name("nobody".into())])),
    ];
    let carry = prop_oneof![Just(Carry::None), Just(Carry::Members), Just(Carry::Nodes(vec![peer(ME)]))];
    let blobs = proptest::collection::vec((0_u8..12, Just(400_u64)), 1..6);
    let priority = prop_oneof![Just(Priority::Bulk), Just(Priority::Routine), Just(Priority::Critical)];
    (1_u8..4, scope, blobs, any::<bool>(), priority, carry).prop_map(|(sender, scope, blobs, together, priority, carry)| Sketch {
        sender,
        scope,
        blobs,
        together,
        priority,
        carry,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let fetch = prop_oneof![
        4 => Just(FetchOutcome::Done),
        1 => Just(FetchOutcome::Unreachable),
        1 => Just(FetchOutcome::Refused),
        1 => Just(FetchOutcome::Later),
        1 => Just(FetchOutcome::Missing),
        1 => Just(FetchOutcome::Corrupt),
        1 => Just(FetchOutcome::NoSpace),
        1 => Just(FetchOutcome::OneByOne),
        1 => Just(FetchOutcome::Failed),
    ];
    let failed = |retry| FileOutcome::Failed { error: "no".into(), retry };
    let file = prop_oneof![
        4 => Just(FileOutcome::Delivered),
        1 => Just(FileOutcome::AlreadyThere),
        1 => Just(FileOutcome::Superseded),
        1 => Just(failed(Retry::Never)),
        1 => Just(failed(Retry::Later)),
        1 => Just(failed(Retry::WithRoom)),
    ];
    let state = proptest::sample::select(TargetState::ALL.to_vec());
    prop_oneof![
        4 => sketch().prop_map(Op::Add),
        4 => (2_u8..7).prop_map(Op::Up),
        2 => (2_u8..7).prop_map(Op::Down),
        1 => (2_u8..7, any::<usize>()).prop_map(|(who, what)| Op::Hint(who, what)),
        8 => (any::<usize>(), fetch.clone()).prop_map(|(which, how)| Op::FetchEnds(which, how)),
        6 => (any::<usize>(), fetch).prop_map(|(which, how)| Op::OneEnds(which, how)),
        6 => (any::<usize>(), file).prop_map(|(which, how)| Op::DeliveryEnds(which, how)),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, ok)| Op::DialEnds(which, ok)),
        3 => (any::<usize>(), 2_u8..7, state).prop_map(|(what, who, state)| Op::Says(what, who, state)),
        1 => any::<usize>().prop_map(Op::Cancels),
        1 => (2_u8..7).prop_map(Op::Retires),
        1 => any::<usize>().prop_map(Op::Redeliver),
        2 => (any::<usize>(), 0_u8..12).prop_map(|(what, blob)| Op::Asks(what, blob)),
        1 => (2_u8..7).prop_map(Op::Reconciled),
        1 => Just(Op::RoomMade),
        1 => any::<bool>().prop_map(Op::Metered),
        1 => any::<usize>().prop_map(Op::Loses),
        4 => (1_u64..400_000).prop_map(Op::Waits),
        1 => (1_u64..900_000).prop_map(Op::ClockGoesBack),
        1 => Just(Op::Restarts),
    ]
}

fn pick<T: Clone>(from: &[T], choice: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[choice % from.len()].clone())
}

fn consists_of(document: &Distribution, blob: &BlobHash) -> bool {
    matches!(&document.manifest.files, Files::Inline(files) if files.iter().any(|file| file.blob == *blob))
}

/// Lets it happen; returns the event, where giving it twice must change nothing.
fn happen(bench: &mut Bench, op: Op) -> Option<Event> {
    let known: Vec<DistributionId> = bench.view.documents.keys().copied().collect();
    match op {
        Op::Add(sketch) => {
            if sketch.sender == ME {
                for (blob, _) in &sketch.blobs {
                    let blob = BlobHash::from_bytes([*blob; 32]);
                    bench.view.blobs.insert(blob);
                    bench.running.retain(|running| running.blob != blob);
                    bench.settle(Event::BlobHeld(blob));
                }
            }
            Some(Event::DistributionChanged(bench.add(&sketch)))
        }
        Op::FetchEnds(which, outcome) => {
            let running = pick(&bench.running, which)?;
            bench.fetch_ended(running, outcome);
            Some(Event::FetchEnded { fetch: running.fetch, outcome })
        }
        Op::OneEnds(which, outcome) => {
            let running = pick(&bench.running, which)?;
            bench.one_ended(running, outcome);
            Some(Event::SomeFetched { fetch: running.fetch, outcomes: vec![(running.blob, outcome)] })
        }
        Op::DeliveryEnds(which, outcome) => {
            let delivering: Vec<_> = bench.delivering.keys().copied().collect();
            bench.delivery_ended(pick(&delivering, which)?, &outcome);
            None
        }
        Op::DialEnds(which, ok) => {
            let peer = pick(&bench.dialling, which)?;
            bench.dialling.retain(|other| *other != peer);
            Some(give(bench, Event::DialEnded { peer, ok }))
        }
        Op::Says(what, who, state) => {
            let id = pick(&known, what)?;
            // Records of others are signed for good once they are receipts.
            let standing = bench.view.documents[&id].targets.get(&peer(who)).is_some_and(|record| record.state.is_receipt());
            if !standing {
                bench.say(id, who, state);
            }
            Some(Event::DistributionChanged(id))
        }
        Op::Cancels(what) => {
            let (id, now) = (pick(&known, what)?, bench.now);
            bench.edit(id, |document| document.cancelled = Some(now));
            Some(Event::DistributionChanged(id))
        }
        Op::Retires(who) => {
            bench.view.nodes.get_mut(&peer(who)).expect("a member").retired = true;
            Some(give(bench, Event::NodeChanged(peer(who))))
        }
        Op::Loses(which) => {
            let blob = pick(&bench.view.blobs.iter().copied().collect::<Vec<_>>(), which)?;
            bench.view.blobs.remove(&blob);
            let kept = |id: &DistributionId| bench.view.documents.get(id).is_some_and(|document| consists_of(document, &blob));
            let concerned: Vec<_> = bench.view.pins.keys().copied().filter(kept).collect();
            concerned.into_iter().map(|id| give(bench, Event::Lost(id))).last()
        }
        Op::Metered(metered) => {
            bench.policy.metered = metered;
            let event = give(bench, Event::PolicyChanged);
            let critical = |blob: &BlobHash| {
                let documents = bench.view.documents.values();
                documents
                    .into_iter()
                    .any(|document| document.manifest.priority == Priority::Critical && consists_of(document, blob))
            };
            // Small blobs that were asked for together with a critical one come along with it.
            let going_on: BTreeSet<_> =
                bench.running.iter().filter(|running| critical(&running.blob)).map(|running| running.fetch).collect();
            let gives_way = |running: &Running| !going_on.contains(&running.fetch);
            assert!(!metered || !bench.running.iter().any(gives_way), "what is not critical gives way");
            Some(event)
        }
        Op::RoomMade => Some(give(bench, Event::RoomMade)),
        Op::Waits(millis) => {
            bench.wait(Duration::from_millis(millis));
            Some(Event::Timer)
        }
        Op::ClockGoesBack(millis) => {
            bench.now = bench.now.minus(Duration::from_millis(millis));
            Some(give(bench, Event::Timer))
        }
        Op::Restarts => {
            bench.memory = Memory::default();
            (bench.running, bench.dialling) = (Vec::new(), Vec::new());
            bench.delivering.clear();
            bench.states.clear();
            Some(give(bench, Event::Started { distributions: known }))
        }
        Op::Up(who) => Some(give(bench, Event::PeerUp(peer(who)))),
        Op::Down(who) => Some(give(bench, Event::PeerDown(peer(who)))),
        Op::Hint(who, what) => {
            let distribution = pick(&known, what)?;
            Some(give(bench, Event::Holding { peer: peer(who), distribution }))
        }
        Op::Asks(what, blob) => {
            let distribution = pick(&known, what)?;
            bench.asked.insert(distribution);
            Some(give(bench, Event::Asked { distribution, blobs: vec![BlobHash::from_bytes([blob; 32])] }))
        }
        Op::Redeliver(what) => Some(give(bench, Event::Redeliver(pick(&known, what)?))),
        Op::Reconciled(who) => Some(give(bench, Event::Reconciled(peer(who)))),
    }
}

fn give(bench: &mut Bench, event: Event) -> Event {
    bench.settle(event.clone());
    event
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// The bench checks each action: only what is meant or carried is fetched, within the budget; a receipt is for every
    /// file and stands; completed is for good. Here: the same event again changes nothing, and nothing is begun after Stop.
    #[test]
    fn every_history_keeps_the_laws(ops in proptest::collection::vec(op(), 1..60)) {
        let mut bench = Bench::new();
        bench.policy.budget = Budget { fetches: 3, bytes: 1_000, dials: 2 };
        for op in ops {
            let text = format!("{op:?}");
            if let Some(event) = happen(&mut bench, op) {
                let mut again = bench.raw(event);
                // A timer that has gone off has to be armed again.
                again.retain(|action| !matches!(action, Action::ArmTimer(_)));
                prop_assert!(again.is_empty(), "{text} again led to {again:?}");
            }
        }
        let running: BTreeSet<_> = bench.running.iter().map(|running| running.fetch).collect();
        let cancelled: BTreeSet<_> = bench.raw(Event::Stop).into_iter().map(|action| match action {
            Action::CancelFetch { fetch } => fetch,
            other => panic!("began {other:?} at its end"),
        }).collect();
        prop_assert_eq!(running, cancelled);
        bench.now = bench.now.plus(Duration::from_secs(3600));
        for event in [Event::Timer, Event::PeerUp(peer(2)), Event::RoomMade, Event::PolicyChanged] {
            prop_assert_eq!(bench.raw(event), Vec::new());
        }
    }

    #[test]
    fn the_order_in_which_news_arrives_does_not_matter(
        sketches in proptest::collection::vec(sketch(), 1..6),
        order in Just((0..9_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let outcome = |order: &[usize]| {
            let mut bench = Bench::new();
            for step in order {
                match (*step, sketches.get(*step)) {
                    (_, Some(sketch)) => _ = bench.add(sketch),
                    (6.., None) => _ = bench.settle(Event::PeerUp(peer(u8::try_from(*step).expect("small") - 4))),
                    _ => {}
                }
            }
            let fetched: BTreeSet<_> = bench.running.iter().map(|running| running.blob).collect();
            (fetched, bench.view.pins, bench.states)
        };
        prop_assert_eq!(outcome(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), outcome(&order));
    }

    /// Whichever side dialled: the event is the same. Each fetch that does not fail is one step.
    #[test]
    fn with_one_holder_in_reach_a_target_is_done_in_as_many_steps_as_there_are_files(
        sketch in sketch(),
        failures in proptest::collection::vec(prop_oneof![
            Just(FetchOutcome::Unreachable), Just(FetchOutcome::Refused), Just(FetchOutcome::Missing), Just(FetchOutcome::Later),
            Just(FetchOutcome::Corrupt), Just(FetchOutcome::NoSpace), Just(FetchOutcome::OneByOne), Just(FetchOutcome::Failed),
        ], 0..8),
        one_by_one in any::<bool>(),
    ) {
        let sketch = Sketch { sender: 2, scope: Scope::All, ..sketch };
        let mut bench = Bench::new();
        let id = bench.add(&sketch);
        bench.settle(Event::PeerUp(peer(2)));
        let mut failures = failures.into_iter();
        for _ in 0..100 {
            if bench.view.documents[&id].targets.get(&peer(ME)).is_some_and(|record| record.state == TargetState::Delivered) {
                return Ok(());
            }
            if let Some(running) = bench.running.first().copied() {
                let outcome = failures.next().unwrap_or(FetchOutcome::Done);
                let end = if one_by_one { Bench::one_ended } else { Bench::fetch_ended };
                end(&mut bench, running, outcome);
            } else if bench.delivering.contains_key(&id) {
                bench.delivery_ended(id, &FileOutcome::Delivered);
            } else {
                bench.wait(bench.policy.patience.corrupt);
            }
        }
        prop_assert!(false, "not delivered: {}", explain(bench.now, &bench.policy, &bench.view, &bench.memory, &id, &peer(ME)));
    }
}
