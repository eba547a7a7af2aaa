//! Single behaviours of one node, by example.

use std::time::Duration;

use super::bench::{Bench, ME, Sketch, only, peer};
use super::*;
use crate::model::{Carry, DistributionState, NodeRef, Priority, Scope, TargetState};

fn deliver_all(bench: &mut Bench, id: crate::model::DistributionId) -> Vec<Action> {
    while let Some(running) = bench.running.first().copied() {
        bench.fetch_ended(running, FetchOutcome::Done);
    }
    bench.delivery_ended(id, &FileOutcome::Delivered)
}

#[test]
fn a_quick_delivery_costs_one_record() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch::default());
    bench.settle(Event::PeerUp(peer(2)));
    deliver_all(&mut bench, id);
    let own = &bench.view.documents[&id].targets[&peer(ME)];
    assert_eq!(own.state, TargetState::Delivered);
    assert_eq!(own.bytes, 10);
}

#[test]
fn ten_thousand_idle_distributions_cost_an_event_nothing() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    for number in 0..10_000_u64 {
        let sketch = Sketch { blobs: vec![(1, number + 1)], ..Sketch::default() };
        let mut document = sketch.build();
        let record = crate::model::TargetRecord { state: TargetState::Delivered, bytes: 0, error: None, time: bench.now };
        document.targets.insert(peer(ME), record);
        bench.view.documents.insert(document.id, document.into());
    }
    let distributions = bench.view.documents.keys().copied().collect();
    bench.settle(Event::Started { distributions });
    while !bench.memory.dirty.is_empty() {
        bench.settle(Event::Timer);
    }
    bench.view.asked.set(0);
    let id = bench.add(&Sketch { blobs: vec![(2, 10)], ..Sketch::default() });
    deliver_all(&mut bench, id);
    bench.settle(Event::PeerDown(peer(2)));
    bench.settle(Event::PeerUp(peer(2)));
    bench.wait(Duration::from_secs(60));
    assert!(bench.view.asked.get() < 20, "looked at {} documents", bench.view.asked.get());
}

#[test]
fn a_holder_that_is_not_connected_is_dialled_and_so_is_a_target_by_the_sender() {
    let mut bench = Bench::new();
    bench.add(&Sketch { sender: 2, ..Sketch::default() });
    assert_eq!(bench.dialling, [peer(2)]);
    let mut sender = Bench::new();
    sender.add(&Sketch { sender: ME, scope: only(&[3]), ..Sketch::default() });
    assert_eq!(sender.dialling, [peer(3)]);
}

#[test]
fn the_roster_is_written_once_another_was_reconciled_with_and_late_joiners_do_not_reopen_it() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch { sender: ME, ..Sketch::default() });
    assert_eq!(bench.view.documents[&id].roster, None);
    bench.settle(Event::Reconciled(peer(2)));
    assert_eq!(bench.view.documents[&id].roster, Some((2..=6).map(peer).collect()));
    for number in 2..=6 {
        bench.say(id, number, TargetState::Delivered);
    }
    assert_eq!(bench.states[&id], DistributionState::Completed);
    bench.view.nodes.insert(peer(9), Node { name: "late".into(), ..Node::default() });
    bench.settle(Event::NodeChanged(peer(9)));
    bench.say(id, 9, TargetState::Pending);
    assert_eq!(bench.states[&id], DistributionState::Completed);
    assert!(bench.dialling.contains(&peer(9)), "it is delivered too");
}

#[test]
fn what_has_no_targets_can_be_called_off_and_expires() {
    let mut bench = Bench::new();
    let scope = Scope::Nodes(vec![NodeRef::Name("unknown".into())]);
    let id = bench.add(&Sketch { sender: ME, scope, ..Sketch::default() });
    assert_eq!(status(bench.now, &bench.view, &bench.view.documents[&id]), DistributionState::NoTargets);
    let expiry = bench.view.documents[&id].manifest.expiry;
    assert_eq!(status(expiry, &bench.view, &bench.view.documents[&id]), DistributionState::Expired);
    bench.edit(id, |document| document.cancelled = Some(Timestamp::from_millis(2_000_001)));
    assert_eq!(bench.states[&id], DistributionState::Cancelled);
}

#[test]
fn zero_targets_is_a_state_of_its_own() {
    let mut bench = Bench::new();
    let scope = Scope::Nodes(vec![NodeRef::Name("unknown".into())]);
    let id = bench.add(&Sketch { sender: ME, scope, ..Sketch::default() });
    bench.settle(Event::Reconciled(peer(2)));
    assert_eq!(bench.states[&id], DistributionState::NoTargets);
    let why = explain(bench.now, &bench.policy, &bench.view, &bench.memory, &id, &peer(3));
    assert_eq!(why, Reason::UnknownNames(vec!["unknown".into()]));
    bench.view.nodes.insert(peer(9), Node { name: "unknown".into(), ..Node::default() });
    bench.settle(Event::NodeChanged(peer(9)));
    assert_eq!(bench.states[&id], DistributionState::Pending);
    assert_eq!(bench.view.documents[&id].roster, Some([peer(9)].into()));
}

#[test]
fn at_its_end_a_distribution_is_partial_expired_failed_or_cancelled() {
    use DistributionState as State;
    let end = Timestamp::from_millis(600_000_000);
    for (states, cancelled, now, expected) in [
        (vec![], false, 0, State::Pending),
        (vec![(2, TargetState::Fetching)], false, 0, State::InProgress),
        (vec![], false, end.as_millis(), State::Expired),
        (vec![(2, TargetState::Delivered)], false, end.as_millis(), State::Partial),
        (vec![(2, TargetState::Delivered), (3, TargetState::Superseded)], false, end.as_millis(), State::Completed),
        (vec![(2, TargetState::Failed), (3, TargetState::Refused)], false, 0, State::Failed),
        (vec![(2, TargetState::Failed), (3, TargetState::Delivered)], false, 0, State::Partial),
        (vec![], true, 0, State::Cancelled),
        (vec![(2, TargetState::Delivered)], true, 0, State::Partial),
    ] {
        let mut bench = Bench::new();
        let id = bench.add(&Sketch { sender: ME, scope: only(&[2, 3]), ..Sketch::default() });
        for (who, state) in &states {
            bench.say(id, *who, *state);
        }
        let at = bench.now;
        bench.edit(id, |document| document.cancelled = cancelled.then_some(at));
        let state = status(Timestamp::from_millis(now), &bench.view, &bench.view.documents[&id]);
        assert_eq!(state, expected, "{states:?}");
    }
}

#[test]
fn what_the_policy_does_not_take_is_refused_with_the_rule_and_taken_when_the_policy_changes() {
    let mut bench = Bench::new();
    bench.policy.max_file_bytes = Some(5);
    let id = bench.add(&Sketch::default());
    bench.settle(Event::PeerUp(peer(2)));
    let own = bench.view.documents[&id].targets[&peer(ME)].clone();
    assert_eq!(own.state, TargetState::Refused);
    assert_eq!(own.error.as_deref(), Some("a file of 10 bytes is over the cap of 5 bytes"));
    assert!(bench.running.is_empty());
    bench.policy.max_file_bytes = None;
    bench.settle(Event::PolicyChanged);
    assert_eq!(bench.running.len(), 1);
}

#[test]
fn what_the_quota_has_no_room_for_waits_until_another_is_complete() {
    let mut bench = Bench::new();
    bench.policy.quota_bytes = Some(15);
    bench.settle(Event::PeerUp(peer(2)));
    let first = bench.add(&Sketch { scope: only(&[ME]), ..Sketch::default() });
    let second = bench.add(&Sketch { scope: only(&[ME]), blobs: vec![(2, 11)], ..Sketch::default() });
    assert_eq!(bench.running.len(), 1);
    let why = explain(bench.now, &bench.policy, &bench.view, &bench.memory, &second, &peer(ME));
    assert_eq!(why, Reason::QuotaUsedUp);
    deliver_all(&mut bench, first);
    assert_eq!(bench.running.len(), 1, "the first is complete and no longer counts");
    deliver_all(&mut bench, second);
}

#[test]
fn a_full_store_is_recorded_once_and_tried_again_later() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch::default());
    bench.settle(Event::PeerUp(peer(2)));
    for _ in 0..3 {
        let running = bench.running[0];
        bench.fetch_ended(running, FetchOutcome::NoSpace);
        assert!(bench.running.is_empty());
        let time = bench.view.documents[&id].targets[&peer(ME)].time;
        assert!(time <= Timestamp::from_millis(2_000_000), "recorded once");
        bench.wait(bench.policy.patience.retry);
    }
    deliver_all(&mut bench, id);
}

#[test]
fn room_ends_the_wait_for_it_at_once() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch::default());
    bench.settle(Event::PeerUp(peer(2)));
    let running = bench.running[0];
    bench.fetch_ended(running, FetchOutcome::NoSpace);
    assert!(bench.running.is_empty());
    bench.settle(Event::RoomMade);
    bench.fetch_ended(bench.running[0], FetchOutcome::Done);
    bench.delivery_ended(id, &FileOutcome::Failed { error: "no space".into(), retry: Retry::WithRoom });
    assert!(bench.delivering.is_empty());
    bench.settle(Event::RoomMade);
    bench.delivery_ended(id, &FileOutcome::Delivered);
    assert_eq!(bench.view.documents[&id].targets[&peer(ME)].state, TargetState::Delivered);
}

#[test]
fn what_is_lost_is_fetched_again_by_target_carrier_and_sender_and_changes_no_record() {
    // A target that has its receipt, while another target is still to come.
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    let id = bench.add(&Sketch { scope: only(&[ME, 3]), ..Sketch::default() });
    deliver_all(&mut bench, id);
    let before = bench.view.documents[&id].targets.clone();
    loses(&mut bench, id);
    assert_eq!(bench.running.len(), 1);
    bench.fetch_ended(bench.running[0], FetchOutcome::Done);
    bench.delivery_ended(id, &FileOutcome::AlreadyThere);
    assert_eq!(bench.view.documents[&id].targets, before);
    // A carrier that has everything.
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    let id = bench.add(&Sketch { scope: only(&[3]), ..Sketch::default() });
    bench.wait(bench.policy.patience.carry_after);
    bench.fetch_ended(bench.running[0], FetchOutcome::Done);
    loses(&mut bench, id);
    assert_eq!(bench.running.len(), 1);
    // A sender, from a target; it goes on reaching the other meanwhile and afterwards.
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    bench.settle(Event::Reconciled(peer(2)));
    let id = bench.add(&Sketch { sender: ME, scope: only(&[2, 3]), ..Sketch::default() });
    bench.say(id, 2, TargetState::Delivered);
    bench.policy.quota_bytes = Some(1);
    loses(&mut bench, id);
    assert_eq!((bench.running.len(), bench.dialling.clone()), (1, vec![peer(3)]));
    bench.fetch_ended(bench.running[0], FetchOutcome::Done);
    assert!(!bench.view.documents[&id].targets.contains_key(&peer(ME)));
    assert_eq!((bench.running.len(), bench.view.pins[&id]), (0, PinReason::Sent));
    bench.settle(Event::DialEnded { peer: peer(3), ok: false });
    bench.dialling.clear();
    bench.wait(bench.policy.patience.backoff_max);
    assert_eq!(bench.dialling, vec![peer(3)]);
}

fn loses(bench: &mut Bench, id: crate::model::DistributionId) {
    bench.view.blobs.clear();
    bench.settle(Event::Lost(id));
}

#[test]
fn a_source_that_served_damage_is_left_out_for_that_blob_even_when_it_comes_again() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    bench.add(&Sketch { blobs: vec![(1, 10), (2, 10)], ..Sketch::default() });
    let running = bench.running[0];
    bench.fetch_ended(running, FetchOutcome::Corrupt);
    bench.settle(Event::PeerDown(peer(2)));
    bench.settle(Event::PeerUp(peer(2)));
    assert!(bench.running.iter().all(|other| other.blob != running.blob));
    bench.wait(bench.policy.patience.corrupt);
    assert!(bench.running.iter().any(|other| other.blob == running.blob), "its own check may have mended it");
}

/// What is being fetched: the number of the fetch, and of the blob.
fn asked(bench: &Bench) -> Vec<(u64, u8)> {
    bench.running.iter().map(|running| (running.fetch.0, running.blob.as_bytes()[0])).collect()
}

#[test]
fn small_blobs_are_asked_for_together_and_each_stands_for_itself() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    let blobs = vec![(1, 10), (2, SMALL_BYTES + 1), (3, SMALL_BYTES), (4, 10), (5, 10)];
    let id = bench.add(&Sketch { blobs, ..Sketch::default() });
    assert_eq!(asked(&bench), [(0, 1), (0, 3), (0, 4), (0, 5), (1, 2)]);
    let [first, third, fourth, ..] = bench.running[..] else { panic!("all are fetched") };
    bench.one_ended(third, FetchOutcome::Corrupt);
    bench.one_ended(fourth, FetchOutcome::Missing);
    bench.one_ended(first, FetchOutcome::Done);
    assert_eq!(asked(&bench), [(0, 5), (1, 2)], "what did not come is not asked of the same source again");
    bench.settle(Event::Holding { peer: peer(3), distribution: id });
    bench.settle(Event::PeerUp(peer(3)));
    assert_eq!(asked(&bench), [(0, 5), (1, 2), (2, 3), (2, 4)], "but of another");
    deliver_all(&mut bench, id);
    assert_eq!(bench.view.documents[&id].targets[&peer(ME)].state, TargetState::Delivered);
}

#[test]
fn what_is_asked_for_together_keeps_to_the_budget() {
    let mut bench = Bench::new();
    bench.policy.budget = Budget { fetches: 2, bytes: 35, dials: 1 };
    bench.settle(Event::PeerUp(peer(2)));
    bench.add(&Sketch { blobs: (1..=9).map(|blob| (blob, 10)).collect(), ..Sketch::default() });
    assert_eq!(asked(&bench), [(0, 1), (0, 2), (0, 3)]);
    let urgent = Sketch { priority: Priority::Critical, blobs: vec![(11, 10), (12, 10)], ..Sketch::default() };
    bench.add(&urgent);
    assert_eq!(asked(&bench), [(1, 11), (1, 12), (2, 1)], "the urgent goes first, what is left of the budget to the other");
}

#[test]
fn who_gives_blobs_one_by_one_is_asked_for_one_by_one_until_it_connects_anew() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    bench.add(&Sketch { blobs: vec![(1, 10), (2, 10), (3, 10)], ..Sketch::default() });
    assert_eq!(asked(&bench), [(0, 1), (0, 2), (0, 3)]);
    bench.fetch_ended(bench.running[0], FetchOutcome::OneByOne);
    assert_eq!(asked(&bench), [(1, 1), (2, 2), (3, 3)]);
    while let Some(running) = bench.running.first().copied() {
        bench.fetch_ended(running, FetchOutcome::Unreachable);
    }
    bench.settle(Event::PeerDown(peer(2)));
    bench.settle(Event::PeerUp(peer(2)));
    assert_eq!(asked(&bench), [(4, 1), (4, 2), (4, 3)]);
}

#[test]
fn a_holder_that_is_back_is_asked_at_once_however_often_it_failed() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    bench.add(&Sketch::default());
    for _ in 0..12 {
        let running = bench.running[0];
        bench.fetch_ended(running, FetchOutcome::Unreachable);
        bench.wait(bench.policy.patience.backoff_max);
    }
    let running = bench.running[0];
    bench.fetch_ended(running, FetchOutcome::Unreachable);
    assert!(bench.running.is_empty());
    bench.settle(Event::PeerDown(peer(2)));
    bench.settle(Event::PeerUp(peer(2)));
    assert_eq!(bench.running.len(), 1);
}

#[test]
fn a_source_that_never_has_the_blob_does_not_keep_less_urgent_fetches_from_their_end() {
    let mut bench = Bench::new();
    bench.policy.budget.fetches = 1;
    bench.settle(Event::PeerUp(peer(2)));
    bench.add(&Sketch { blobs: vec![(9, 1000)], priority: Priority::Low, ..Sketch::default() });
    bench.add(&Sketch { priority: Priority::Critical, ..Sketch::default() });
    let (mut put_off, mut low) = (0, bench.running.clone());
    for _ in 0..1000 {
        match bench.running[..] {
            [running] if running.blob == crate::model::BlobHash::from_bytes([1; 32]) => {
                put_off += 1;
                low.clear();
                bench.fetch_ended(running, FetchOutcome::Missing);
            }
            [running] => low.push(running),
            _ => {}
        }
        bench.wait(Duration::from_secs(1));
    }
    assert!(put_off > 0 && put_off < 10, "{put_off}");
    assert!(low.len() > 500 && low.iter().all(|running| running.fetch == low[0].fetch), "it goes on to its end");
}

#[test]
fn a_clock_that_goes_back_makes_nothing_wait_for_the_time_it_showed_before() {
    let mut bench = Bench::new();
    bench.now = Timestamp::from_millis(400_000_000);
    bench.settle(Event::PeerUp(peer(2)));
    bench.add(&Sketch::default());
    let running = bench.running[0];
    bench.fetch_ended(running, FetchOutcome::NoSpace);
    bench.now = Timestamp::from_millis(2_000_000);
    let actions = bench.settle(Event::Timer);
    let latest = bench.now.plus(bench.policy.patience.retry);
    assert!(actions.iter().any(|action| matches!(action, Action::ArmTimer(at) if *at <= latest)), "{actions:?}");
    bench.wait(bench.policy.patience.retry);
    assert_eq!(bench.running.len(), 1);
}

#[test]
fn a_file_that_the_inbox_cannot_take_does_not_hold_up_those_that_come_after_it() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    let id = bench.add(&Sketch { blobs: vec![(1, 10), (2, 10)], together: false, ..Sketch::default() });
    let [first, second] = bench.running[..] else { panic!("both are fetched") };
    bench.one_ended(first, FetchOutcome::Done);
    assert_eq!(bench.delivering[&id], [0]);
    bench.delivery_ended(id, &FileOutcome::Failed { error: "in the way".into(), retry: Retry::Later });
    bench.settle(Event::RoomMade);
    assert!(bench.delivering.is_empty(), "it is not room that it waits for");
    bench.one_ended(second, FetchOutcome::Done);
    assert_eq!(bench.delivering[&id], [1]);
    bench.delivery_ended(id, &FileOutcome::Delivered);
    let record = &bench.view.documents[&id].targets[&peer(ME)];
    assert_eq!((record.state, record.error.as_deref()), (TargetState::Held, Some("in the way")));
    bench.wait(bench.policy.patience.retry);
    assert_eq!(bench.delivering[&id], [0]);
    bench.delivery_ended(id, &FileOutcome::Delivered);
    assert_eq!(bench.view.documents[&id].targets[&peer(ME)].state, TargetState::Delivered);
}

#[test]
fn nothing_of_a_sender_that_was_expelled_counts() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(3)));
    let id = bench.add(&Sketch::default());
    bench.settle(Event::Holding { peer: peer(3), distribution: id });
    assert_eq!(bench.running.len(), 1);
    bench.view.nodes.get_mut(&peer(2)).expect("a member").revoked = true;
    bench.settle(Event::NodeChanged(peer(2)));
    assert!(bench.running.is_empty() && bench.view.pins.is_empty());
    let why = explain(bench.now, &bench.policy, &bench.view, &bench.memory, &id, &peer(ME));
    assert_eq!(why, Reason::SenderRevoked);
}

#[test]
fn who_was_retired_is_not_waited_for_and_the_status_says_why() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch::default());
    let why = |bench: &Bench| explain(bench.now, &bench.policy, &bench.view, &bench.memory, &id, &peer(3));
    assert!(matches!(why(&bench), Reason::NothingHeard { .. }));
    bench.view.nodes.get_mut(&peer(3)).expect("a member").retired = true;
    bench.settle(Event::NodeChanged(peer(3)));
    assert_eq!(why(&bench), Reason::Retired);
    assert!(!targets(&bench.view, &bench.view.documents[&id]).contains(&peer(3)));
}

#[test]
fn records_in_between_leave_room_for_the_receipt() {
    let mut bench = Bench::new();
    bench.view.changes_left = 8;
    let id = bench.add(&Sketch::default());
    bench.wait(Duration::from_secs(3));
    assert!(bench.view.documents[&id].targets.is_empty());
    bench.settle(Event::PeerUp(peer(2)));
    deliver_all(&mut bench, id);
    assert_eq!(bench.view.documents[&id].targets[&peer(ME)].state, TargetState::Delivered);
}

#[test]
fn the_urgent_takes_the_place_of_the_less_urgent() {
    let mut bench = Bench::new();
    bench.policy.budget.fetches = 1;
    bench.settle(Event::PeerUp(peer(2)));
    bench.add(&Sketch { priority: Priority::Bulk, ..Sketch::default() });
    let urgent = bench.add(&Sketch { priority: Priority::Critical, blobs: vec![(2, 10)], ..Sketch::default() });
    assert_eq!(bench.running.iter().map(|running| running.distribution).collect::<Vec<_>>(), [urgent]);
    let running = bench.running[0];
    bench.fetch_ended(running, FetchOutcome::Done);
    assert_eq!(bench.running.len(), 1, "the other goes on");
}

#[test]
fn a_member_carries_for_a_target_that_was_out_of_reach_for_a_minute_and_drops_it_when_it_has_a_receipt() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch { scope: only(&[3]), ..Sketch::default() });
    bench.settle(Event::PeerUp(peer(2)));
    bench.wait(Duration::from_secs(59));
    assert!(bench.running.is_empty());
    bench.wait(Duration::from_secs(1));
    let running = bench.running[0];
    bench.fetch_ended(running, FetchOutcome::Done);
    assert_eq!(bench.view.documents[&id].carriers[&peer(ME)].state, TargetState::Held);
    assert_eq!(bench.view.pins[&id], PinReason::Carry);
    assert!(bench.dialling.contains(&peer(3)));
    bench.say(id, 3, TargetState::Delivered);
    assert!(bench.view.pins.is_empty());
}

#[test]
fn what_a_client_asks_for_is_fetched_and_nothing_else_and_pinned_for_nothing() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch { scope: only(&[3]), blobs: vec![(1, 10), (2, 20_000), (3, 20_000)], ..Sketch::default() });
    bench.settle(Event::PeerUp(peer(2)));
    assert!(bench.running.is_empty());
    bench.ask(id, &[2]);
    let blobs = |bench: &Bench| bench.running.iter().map(|running| running.blob.as_bytes()[0]).collect::<Vec<_>>();
    assert_eq!(blobs(&bench), [2]);
    bench.ask(id, &[2, 3]);
    assert_eq!(blobs(&bench), [2, 3], "while the first is under way");
    let (two, three) = (bench.running[0], bench.running[1]);
    bench.fetch_ended(two, FetchOutcome::Unreachable);
    bench.fetch_ended(three, FetchOutcome::Done);
    bench.wait(Duration::from_secs(2));
    assert_eq!(blobs(&bench), [2], "it is tried again");
    let two = bench.running[0];
    bench.fetch_ended(two, FetchOutcome::Done);
    assert!(bench.view.pins.is_empty() && bench.view.documents[&id].carriers.is_empty(), "a part is nothing to speak of");
    bench.ask(id, &[1]);
    let one = bench.running[0];
    let actions = bench.fetch_ended(one, FetchOutcome::Done);
    assert!(actions.contains(&Action::Announce { distribution: id }));
    assert_eq!(bench.view.documents[&id].carriers[&peer(ME)].state, TargetState::Held, "others may come for it");
    assert_eq!(bench.ask(id, &[1, 2, 3]), [], "all of it is here");
}

#[test]
fn nobody_fetches_for_a_client_what_it_may_not_hold_and_a_cancelled_package_is_not_waited_for() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    let id = bench.add(&Sketch { scope: only(&[3]), carry: Carry::None, ..Sketch::default() });
    bench.ask(id, &[1]);
    assert!(bench.running.is_empty());
    let id = bench.add(&Sketch { scope: only(&[3]), blobs: vec![(2, 10)], ..Sketch::default() });
    bench.ask(id, &[2]);
    assert_eq!(bench.running.len(), 1);
    let now = bench.now;
    bench.edit(id, |document| document.cancelled = Some(now));
    assert!(bench.running.is_empty());
}

#[test]
fn what_a_node_once_had_and_lost_comes_again_when_a_client_asks() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(3)));
    let sent = bench.add(&Sketch { sender: ME, scope: only(&[3]), ..Sketch::default() });
    bench.say(sent, 3, TargetState::Delivered);
    bench.ask(sent, &[1]);
    assert_eq!(bench.running.len(), 1, "its own, from who has it");
    let running = bench.running[0];
    bench.fetch_ended(running, FetchOutcome::Done);
    assert!(bench.running.is_empty());
}

#[test]
fn a_client_that_asks_brings_about_a_dial_to_who_has_it() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch { scope: only(&[3]), ..Sketch::default() });
    assert!(bench.dialling.is_empty());
    bench.ask(id, &[1]);
    assert_eq!(bench.dialling, [peer(2)]);
    bench.settle(Event::PeerUp(peer(2)));
    assert_eq!(bench.running.len(), 1);
}

#[test]
fn a_carrier_that_crashed_goes_on_at_once() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch { scope: only(&[3]), ..Sketch::default() });
    bench.settle(Event::PeerUp(peer(2)));
    bench.wait(Duration::from_secs(60));
    assert_eq!(bench.running.len(), 1);
    bench.running.clear();
    bench.memory = Memory::default();
    bench.settle(Event::Started { distributions: vec![id] });
    assert_eq!(bench.view.pins[&id], PinReason::Carry, "what has come stays");
    bench.settle(Event::PeerUp(peer(2)));
    assert_eq!(bench.running.len(), 1);
}

#[test]
fn nobody_carries_beside_two_others_or_without_permission_or_room() {
    let two = |bench: &mut Bench, id| {
        let record = crate::model::TargetRecord { state: TargetState::Held, bytes: 0, error: None, time: bench.now };
        bench.edit(id, |document| document.carriers.extend([(peer(4), record.clone()), (peer(5), record)]));
    };
    for (carry, quota, others) in [
        (Carry::Members, 100, true),
        (Carry::None, 100, false),
        (Carry::Nodes(vec![peer(4)]), 100, false),
        (Carry::Members, 5, false),
    ] {
        let mut bench = Bench::new();
        bench.policy.carry_quota_bytes = quota;
        let id = bench.add(&Sketch { scope: only(&[3]), carry, ..Sketch::default() });
        if others {
            two(&mut bench, id);
        }
        bench.settle(Event::PeerUp(peer(2)));
        for _ in 0..5 {
            bench.wait(Duration::from_secs(60));
        }
        assert!(bench.running.is_empty());
    }
}

#[test]
fn a_node_without_an_inbox_holds_and_signs_no_receipt() {
    let mut bench = Bench::new();
    bench.policy.inbox = false;
    let id = bench.add(&Sketch::default());
    bench.settle(Event::PeerUp(peer(2)));
    let running = bench.running[0];
    bench.fetch_ended(running, FetchOutcome::Done);
    assert_eq!(bench.view.documents[&id].targets[&peer(ME)].state, TargetState::Held);
    assert!(bench.delivering.is_empty());
}

#[test]
fn where_the_inbox_alone_is_to_have_it_nothing_is_kept_once_the_receipt_is_signed_and_not_before() {
    for inbox_only in [false, true] {
        let mut bench = Bench::new();
        bench.policy.inbox_only = inbox_only;
        let id = bench.add(&Sketch::default());
        bench.edit(id, |document| document.roster = Some([peer(ME), peer(9)].into()));
        bench.settle(Event::PeerUp(peer(2)));
        let running = bench.running[0];
        bench.fetch_ended(running, FetchOutcome::Done);
        assert!(bench.view.pins.contains_key(&id), "it is being delivered");
        deliver_all(&mut bench, id);
        assert_eq!(bench.view.documents[&id].targets[&peer(ME)].state, TargetState::Delivered);
        assert_eq!(bench.view.pins.contains_key(&id), !inbox_only, "another may yet want it");
        bench.settle(Event::Redeliver(id));
        assert!(bench.view.pins.contains_key(&id), "it is to be here once more");
    }
}

#[test]
fn a_cancellation_stops_fetching_and_is_acknowledged_unless_it_was_delivered() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch::default());
    bench.settle(Event::PeerUp(peer(2)));
    bench.wait(Duration::from_secs(3));
    let now = bench.now;
    bench.edit(id, |document| document.cancelled = Some(now));
    assert!(bench.running.is_empty());
    assert!(bench.view.pins.is_empty());
    assert_eq!(bench.view.documents[&id].targets[&peer(ME)].state, TargetState::Cancelled);
}

#[test]
fn after_a_cancellation_nothing_more_is_fetched_while_a_delivery_ends() {
    let mut bench = Bench::new();
    bench.policy.budget.fetches = 1;
    bench.settle(Event::PeerUp(peer(2)));
    let blobs = vec![(1, 10), (2, 10), (3, 10)];
    let id = bench.add(&Sketch { blobs, together: false, ..Sketch::default() });
    let running = bench.running[0];
    bench.one_ended(running, FetchOutcome::Done);
    assert!(bench.delivering.contains_key(&id));
    let now = bench.now;
    bench.edit(id, |document| document.cancelled = Some(now));
    assert!(bench.running.is_empty());
    bench.edit(id, |document| document.cancelled = None);
    assert_eq!(bench.running.len(), 2, "a member that is meant again goes on");
    bench.edit(id, |document| document.cancelled = Some(now));
    bench.delivery_ended(id, &FileOutcome::Delivered);
    assert!(bench.running.is_empty() && bench.delivering.is_empty() && bench.view.pins.is_empty());
}

#[test]
fn a_restarted_node_does_again_only_what_it_is_asked_to() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch::default());
    bench.settle(Event::PeerUp(peer(2)));
    deliver_all(&mut bench, id);
    bench.memory = Memory::default();
    bench.settle(Event::Started { distributions: vec![id] });
    assert!(bench.delivering.is_empty());
    bench.settle(Event::Redeliver(id));
    assert!(bench.delivering.contains_key(&id));
    let actions = bench.delivery_ended(id, &FileOutcome::AlreadyThere);
    assert!(!actions.iter().any(|action| matches!(action, Action::Record { .. })), "the receipt is there already");
}

#[test]
fn every_file_must_arrive_for_a_receipt_and_one_that_cannot_makes_it_failed() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch { blobs: vec![(1, 10), (2, 10)], together: false, ..Sketch::default() });
    bench.settle(Event::PeerUp(peer(2)));
    let (first, second) = (bench.running[0], bench.running[1]);
    bench.one_ended(first, FetchOutcome::Done);
    let error = "a directory is in the way".to_owned();
    bench.delivery_ended(id, &FileOutcome::Failed { error, retry: Retry::Never });
    assert!(!bench.view.documents[&id].targets.contains_key(&peer(ME)));
    bench.one_ended(second, FetchOutcome::Done);
    bench.delivery_ended(id, &FileOutcome::Delivered);
    let own = &bench.view.documents[&id].targets[&peer(ME)];
    assert_eq!(own.state, TargetState::Failed);
    assert_eq!(own.error.as_deref(), Some("1 of 2 files: a directory is in the way"));
}

#[test]
fn what_somebody_brings_is_carried_at_once_if_there_is_room_and_goes_on_being_carried() {
    let mut bench = Bench::new();
    let id = bench.add(&Sketch { scope: only(&[3]), ..Sketch::default() });
    assert_eq!(bench.view.pinned(&id), None);
    bench.policy.carry_quota_bytes = 9;
    bench.settle(Event::Offered(id));
    assert_eq!(bench.view.pinned(&id), None, "its 10 bytes are over the quota");
    bench.policy.carry_quota_bytes = 10;
    bench.settle(Event::Offered(id));
    assert_eq!(bench.view.pinned(&id), Some(PinReason::Carry));
    bench.memory = Memory::default();
    bench.settle(Event::Started { distributions: vec![id] });
    assert_eq!(bench.view.pinned(&id), Some(PinReason::Carry), "also in a later life");
    bench.say(id, 3, TargetState::Delivered);
    bench.settle(Event::DistributionChanged(id));
    assert_eq!(bench.view.pinned(&id), None, "until nobody needs it");
}

#[test]
fn what_is_brought_for_this_node_gets_its_place_in_the_quota() {
    let mut bench = Bench::new();
    bench.policy.quota_bytes = Some(15);
    let (first, second) = (bench.add(&Sketch::default()), bench.add(&Sketch { sender: 3, ..Sketch::default() }));
    bench.settle(Event::Offered(first));
    bench.settle(Event::Offered(second));
    assert_eq!((bench.view.pinned(&first), bench.view.pinned(&second)), (Some(PinReason::Target), None));
}

#[test]
fn a_parcel_holds_what_its_selection_says_and_no_blob_that_this_node_may_not_hand_on() {
    let mut bench = Bench::new();
    let for_three = |sender, carry| Sketch { sender, scope: only(&[3]), carry, ..Sketch::default() };
    let ids =
        [(ME, Carry::None), (2, Carry::Members), (2, Carry::None)].map(|(sender, carry)| bench.add(&for_three(sender, carry)));
    let pack = |bench: &Bench, selection: &ParcelSelection| {
        ids.map(|id| packing(bench.now, &bench.view, &bench.view.documents[&id], selection))
    };
    let nodes = |numbers: &[u8]| ParcelSelection::Nodes(numbers.iter().map(|number| peer(*number)).collect());
    use Packing::{Document, Nothing, Whole, Withheld};
    assert_eq!(pack(&bench, &ParcelSelection::Everything), [Whole, Whole, Withheld]);
    assert_eq!(pack(&bench, &ParcelSelection::Distributions([ids[0]].into())), [Whole, Nothing, Nothing]);
    assert_eq!(pack(&bench, &nodes(&[3])), [Whole, Whole, Whole]);
    assert_eq!(pack(&bench, &nodes(&[2])), [Nothing, Document, Document]);
    assert_eq!(pack(&bench, &nodes(&[4])), [Nothing; 3]);
    bench.say(ids[1], 3, TargetState::Delivered);
    assert_eq!(pack(&bench, &nodes(&[3])), [Whole, Document, Whole]);
    bench.now = bench.now.plus(Duration::from_secs(400 * 24 * 3600));
    assert_eq!(pack(&bench, &ParcelSelection::Everything), [Document; 3], "what has expired is delivered to nobody");
}

#[test]
fn on_a_metered_link_what_is_not_critical_gives_way_and_goes_on_when_that_is_over() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    let routine = bench.add(&Sketch { blobs: vec![(1, 10)], ..Sketch::default() });
    assert_eq!(bench.running.len(), 1);
    bench.policy.metered = true;
    bench.settle(Event::PolicyChanged);
    assert!(bench.running.is_empty());
    let critical = bench.add(&Sketch { blobs: vec![(2, 10)], priority: Priority::Critical, ..Sketch::default() });
    assert_eq!(bench.running.iter().map(|running| running.distribution).collect::<Vec<_>>(), [critical]);
    let why = explain(bench.now, &bench.policy, &bench.view, &bench.memory, &routine, &peer(ME));
    assert_eq!(why.to_string(), "waits: the link is metered and its priority is routine");
    deliver_all(&mut bench, critical);
    assert!(bench.running.is_empty());
    bench.policy.metered = false;
    bench.settle(Event::PolicyChanged);
    deliver_all(&mut bench, routine);
    assert_eq!(bench.view.documents[&routine].targets[&peer(ME)].state, TargetState::Delivered);
}

#[test]
fn nobody_is_dialled_over_a_metered_link_for_what_gives_way() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    bench.add(&Sketch::default());
    bench.policy.metered = true;
    bench.settle(Event::PolicyChanged);
    bench.settle(Event::PeerDown(peer(2)));
    bench.settle(Event::PolicyChanged);
    assert_eq!((bench.running.len(), bench.dialling.len()), (0, 0));
    bench.add(&Sketch { blobs: vec![(2, 10)], priority: Priority::Critical, ..Sketch::default() });
    assert_eq!(bench.dialling, [peer(2)]);
}

#[test]
fn a_source_whose_link_is_metered_is_asked_again_once_it_has_reconciled() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    let id = bench.add(&Sketch::default());
    let running = bench.running[0];
    bench.fetch_ended(running, FetchOutcome::Later);
    assert!(bench.running.is_empty());
    let why = explain(bench.now, &bench.policy, &bench.view, &bench.memory, &id, &peer(ME));
    assert!(matches!(why, Reason::HoldersMetered(_)), "{why}");
    bench.settle(Event::Reconciled(peer(2)));
    assert_eq!(bench.running.len(), 1);
    bench.fetch_ended(bench.running[0], FetchOutcome::Later);
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.running.len(), 1, "it is asked again after a while, too");
}

#[test]
fn what_lies_next_door_does_not_cross_a_satellite_and_equals_share_the_work() {
    for (sender, shared) in [(Distance::Far, false), (Distance::Near, true)] {
        let mut bench = Bench::new();
        bench.view.distances.insert(peer(2), sender);
        bench.settle(Event::PeerUp(peer(2)));
        bench.settle(Event::PeerUp(peer(3)));
        let mut from = std::collections::BTreeSet::new();
        for number in 1..=20 {
            let sketch = Sketch { sender: 2, scope: only(&[ME, 3]), blobs: vec![(number, 10)], ..Sketch::default() };
            let mut document = sketch.build();
            let record = crate::model::TargetRecord { state: TargetState::Delivered, bytes: 0, error: None, time: bench.now };
            document.targets.insert(peer(3), record);
            let id = document.id;
            bench.view.documents.insert(id, document.into());
            for action in bench.settle(Event::DistributionChanged(id)) {
                if let Action::Fetch { source, .. } | Action::FetchSmall { source, .. } = action {
                    from.insert(source);
                }
            }
            deliver_all(&mut bench, id);
        }
        assert_eq!((from.contains(&peer(3)), from.contains(&peer(2))), (true, shared), "{sender:?}");
    }
}
