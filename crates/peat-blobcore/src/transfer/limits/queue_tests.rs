//! What holds of the queue whoever asks for what: over virtual time, with nobody who waits in truth.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::bucket::{burst, slice};
use super::queue::Looked;
use super::*;

const SECOND: u64 = 1_000_000_000;
const SECOND_BYTES: u64 = 1 << 20;

fn peer(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 32])
}

fn rate(bytes: u64) -> Rate {
    Rate::from_bytes(bytes).expect("within")
}

fn node(bytes: u64) -> Caps {
    Caps { node: Some(rate(bytes)), ..Caps::default() }
}

/// Each of these flows always wants so many bytes more, and gets what it may in ten seconds from `from`.
fn saturate(queue: &mut Queue, wants: &BTreeMap<Flow, u64>, from: u64, until: u64) -> BTreeMap<Flow, u64> {
    let mut tickets: BTreeMap<Ticket, (Flow, u64)> = BTreeMap::new();
    let mut got: BTreeMap<Flow, u64> = wants.keys().map(|flow| (*flow, 0)).collect();
    for (flow, bytes) in wants {
        tickets.insert(queue.ask(*flow, None, 0, *bytes), (*flow, *bytes));
    }
    let mut now = from;
    loop {
        let Looked { done, next } = queue.look(now);
        for ticket in &done {
            let (flow, bytes) = tickets.remove(ticket).expect("it was asked for");
            *got.get_mut(&flow).expect("it is one of them") += bytes;
            tickets.insert(queue.ask(flow, None, 0, bytes), (flow, bytes));
        }
        match next {
            _ if !done.is_empty() => {}
            Some(next) if next <= until => now = next,
            _ => break,
        }
    }
    for (ticket, (flow, _)) in tickets {
        queue.cancel(flow, ticket);
    }
    got
}

fn priorities() -> impl Strategy<Value = Priority> {
    prop_oneof![
        Just(Priority::Bulk),
        Just(Priority::Low),
        Just(Priority::Routine),
        Just(Priority::Priority),
        Just(Priority::Critical)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Within five per cent of the rate over ten seconds, whoever wants whatever in whatever pieces.
    #[test]
    fn all_together_get_the_rate(
        limit in 32_768_u64..1_000_000,
        flows in proptest::collection::btree_map((0_u8..6, priorities()), 1_000_u64..100_000, 1..8),
    ) {
        let mut queue = Queue::default();
        queue.set(node(limit));
        let wants = flows.iter().map(|((id, priority), bytes)| (Flow { peer: peer(*id), priority: *priority }, *bytes)).collect();
        let sum: u64 = saturate(&mut queue, &wants, 0, 10 * SECOND).values().sum();
        let unfinished: u64 = wants.values().sum();
        prop_assert!(sum <= limit * 10 + burst(rate(limit)), "{sum} at {limit}");
        prop_assert!(sum + unfinished >= limit * 10 * 95 / 100, "{sum} at {limit}");
    }

    /// Peers that always want more share alike, though one asks for a little and another for much at a time.
    #[test]
    fn peers_share_alike(limit in 32_768_u64..1_000_000, wants in proptest::collection::vec(1_000_u64..300_000, 2..6)) {
        let mut queue = Queue::default();
        queue.set(node(limit));
        let flow = |id: usize| Flow { peer: peer(u8::try_from(id).expect("few")), priority: Priority::Routine };
        let largest = *wants.iter().max().expect("some");
        let wants: BTreeMap<_, _> = wants.into_iter().enumerate().map(|(id, bytes)| (flow(id), bytes)).collect();
        let got = saturate(&mut queue, &wants, 0, 10 * SECOND);
        let (least, most) = (got.values().min().expect("some"), got.values().max().expect("some"));
        prop_assert!(most - least <= largest + 2 * slice(rate(limit)) + burst(rate(limit)), "{got:?}");
    }

    /// Nobody is starved: who wants a little gets it though others want without end, and are more urgent.
    #[test]
    fn a_little_gets_through_behind_much(limit in 32_768_u64..10_000_000, urgent in 1_u8..8, bytes in 1_u64..16_384) {
        let mut queue = Queue::default();
        queue.set(node(limit));
        for id in 1..=urgent {
            queue.ask(Flow { peer: peer(id), priority: Priority::Critical }, None, 0, u64::MAX / 2);
        }
        let mut now = queue.look(0).next.expect("they wait");
        let ticket = queue.ask(Flow { peer: peer(0), priority: Priority::Bulk }, None, 0, bytes);
        let since = now;
        loop {
            let looked = queue.look(now);
            if looked.done.contains(&ticket) {
                break;
            }
            now = looked.next.expect("they wait");
        }
        // Its share is a sixteenth of each other's, and it waits for a turn of each.
        let turns = u64::from(urgent) * slice(rate(limit)) + bytes;
        let longest = (u128::from(bytes) * 16 * u128::from(urgent) + u128::from(turns)) * u128::from(SECOND) / u128::from(limit);
        prop_assert!(u128::from(now - since) <= longest + u128::from(SECOND / 5), "{} of {longest}", now - since);
    }

    /// Each limit binds what it concerns, and what it does not concern goes by.
    #[test]
    fn every_limit_binds(class in 16_384_u64..100_000, other in 16_384_u64..100_000) {
        let caps = Caps {
            node: None,
            classes: BTreeMap::from([(Priority::Bulk, rate(class))]),
            peers: BTreeMap::from([(NodeRef::Id(peer(1)), rate(other)), (NodeRef::Name("two".into()), rate(other))]),
        };
        let mut queue = Queue::default();
        queue.set(caps);
        let flow = |id, priority| Flow { peer: peer(id), priority };
        let wants: BTreeMap<_, _> =
            [(flow(1, Priority::Bulk), 100), (flow(1, Priority::Routine), 100), (flow(3, Priority::Bulk), 100)].into();
        let got = saturate(&mut queue, &wants, 0, 10 * SECOND);
        let of = |choose: &dyn Fn(&Flow) -> bool| got.iter().filter(|(flow, _)| choose(flow)).map(|(_, bytes)| bytes).sum::<u64>();
        let slack = |limit| limit * 10 + burst(rate(limit));
        prop_assert!(of(&|flow| flow.priority == Priority::Bulk) <= slack(class));
        prop_assert!(of(&|flow| flow.peer == peer(1)) <= slack(other));
        prop_assert!(of(&|flow| flow.peer == peer(1)) >= other * 10 * 9 / 10, "{got:?}");
        let ticket = queue.ask(flow(2, Priority::Routine), None, 0, 1 << 40);
        prop_assert_eq!(queue.look(10 * SECOND).done, vec![ticket], "nothing limits it");
    }

    /// What was let through and is not used goes to others, also of a request that is given up halfway.
    #[test]
    fn what_is_given_up_is_not_lost(limit in 32_768_u64..1_000_000, bytes in 10_000_u64..1_000_000) {
        let mut queue = Queue::default();
        queue.set(node(limit));
        let flow = Flow { peer: peer(1), priority: Priority::Routine };
        let ticket = queue.ask(flow, None, 0, bytes + burst(rate(limit)));
        queue.look(0);
        queue.cancel(flow, ticket);
        let again = queue.ask(flow, None, 0, slice(rate(limit)));
        prop_assert_eq!(queue.look(0).done, vec![again]);
    }
}

#[test]
fn a_change_takes_effect_at_once_for_who_waits() {
    let mut queue = Queue::default();
    queue.set(node(1024));
    let flow = Flow { peer: peer(1), priority: Priority::Routine };
    let ticket = queue.ask(flow, Some("bravo"), 0, 1 << 20);
    assert!(queue.look(0).done.is_empty());
    assert!(queue.look(SECOND).done.is_empty());
    queue.set(Caps { peers: BTreeMap::from([(NodeRef::Name("bravo".into()), rate(1 << 20))]), ..Caps::default() });
    assert!(queue.look(SECOND).done.is_empty(), "it is named by now");
    queue.set(Caps::default());
    assert_eq!(queue.look(SECOND), Looked { done: vec![ticket], next: None });
}

#[test]
fn the_more_urgent_get_more() {
    let mut queue = Queue::default();
    queue.set(node(100_000));
    let flow = |priority| Flow { peer: peer(1), priority };
    let wants = BTreeMap::from([(flow(Priority::Routine), 1000), (flow(Priority::Bulk), 1000)]);
    let got = saturate(&mut queue, &wants, 0, 10 * SECOND);
    let ratio = got[&flow(Priority::Routine)] as f64 / got[&flow(Priority::Bulk)] as f64;
    assert!((3.5..4.5).contains(&ratio), "{got:?}");
}

#[test]
fn a_stream_that_was_begun_goes_before_those_that_came_later() {
    let mut queue = Queue::default();
    queue.set(node(SECOND_BYTES));
    let flow = Flow { peer: peer(1), priority: Priority::Routine };
    let later = queue.ask(flow, None, 2, SECOND_BYTES);
    let first = queue.ask(flow, None, 1, SECOND_BYTES);
    let (mut now, mut done) = (0, Vec::new());
    while done.len() < 2 {
        let looked = queue.look(now);
        done.extend(looked.done);
        now = looked.next.unwrap_or(now);
    }
    assert_eq!(done, [first, later]);
}
