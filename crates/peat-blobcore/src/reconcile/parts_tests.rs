//! Who may have parts is asked where nobody who has all is in reach, and no more often than something may come of it.

use std::time::Duration;

use super::bench::*;
use super::*;
use crate::model::{EndpointId, Priority, TargetState};

/// A node that is to get what 2 sent, as is 3, whom it is connected with.
fn beside_another(sketch: &Sketch) -> (Bench, crate::model::DistributionId) {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(3)));
    let id = bench.add(sketch);
    (bench, id)
}

fn sources(actions: &[Action]) -> Vec<(EndpointId, bool)> {
    let asked = actions.iter().filter_map(|action| match action {
        Action::Fetch { source, whole, .. } | Action::FetchSmall { source, whole, .. } => Some((*source, *whole)),
        _ => None,
    });
    asked.collect()
}

#[test]
fn who_may_have_parts_is_asked_once_until_it_says_that_it_has_more_or_comes_anew() {
    let (mut bench, id) = beside_another(&Sketch::default());
    assert_eq!(bench.running.len(), 1);
    assert_eq!(bench.dialling, [peer(2)], "who has all of it is sought all the same");
    bench.fetch_ended(bench.running[0], FetchOutcome::Missing);
    for _ in 0..100 {
        assert_eq!(sources(&bench.wait(Duration::from_secs(60))), []);
    }
    let getting = Event::Getting { peer: peer(3), distribution: id };
    assert_eq!(sources(&bench.settle(getting)), [(peer(3), false)]);
    bench.fetch_ended(bench.running[0], FetchOutcome::Missing);
    bench.settle(Event::PeerDown(peer(3)));
    assert_eq!(sources(&bench.settle(Event::PeerUp(peer(3)))), [(peer(3), false)]);
    bench.fetch_ended(bench.running[0], FetchOutcome::Done);
    assert_eq!(bench.delivering.len(), 1);
}

#[test]
fn what_it_had_is_followed_by_the_question_for_more() {
    let (mut bench, _) = beside_another(&Sketch::default());
    let partial = bench.running[0];
    assert_eq!(sources(&bench.fetch_ended(partial, FetchOutcome::Partial)), [(peer(3), false)]);
    assert_eq!(sources(&bench.fetch_ended(bench.running[0], FetchOutcome::Missing)), []);
}

#[test]
fn who_has_all_comes_first_and_who_is_idle_not_meant_or_the_sender_is_not_asked_for_parts() {
    let mut bench = Bench::new();
    bench.view.idle.insert(peer(4));
    bench.settle(Event::PeerUp(peer(4)));
    bench.settle(Event::PeerUp(peer(5)));
    bench.add(&Sketch { scope: only(&[ME, 3, 4]), ..Sketch::default() });
    assert!(bench.running.is_empty());
    bench.settle(Event::PeerUp(peer(3)));
    let part = bench.running[0];
    bench.fetch_ended(part, FetchOutcome::Missing);
    assert_eq!(sources(&bench.settle(Event::PeerUp(peer(2)))), [(peer(2), true)]);
}

#[test]
fn a_question_is_no_fetch_for_those_who_look_and_what_comes_makes_it_one() {
    let (mut bench, id) = beside_another(&Sketch::default());
    let why = |bench: &Bench| explain(bench.now, &bench.policy, &bench.view, &bench.memory, &id, &peer(ME));
    let state = |bench: &Bench| bench.view.documents[&id].targets.get(&peer(ME)).map(|record| record.state);
    bench.wait(Duration::from_secs(3));
    assert_eq!(state(&bench), Some(TargetState::Pending));
    assert!(matches!(why(&bench), Reason::NoHolderConnected { .. }), "{}", why(&bench));
    bench.settle(Event::PartCame(bench.running[0].fetch));
    assert_eq!(state(&bench), Some(TargetState::Fetching));
    assert!(matches!(why(&bench), Reason::Fetching { fetches: 1, .. }), "{}", why(&bench));
}

#[test]
fn few_ask_for_parts_at_once_the_most_urgent_of_all_and_the_others_after_them() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(3)));
    let sketch = |number: u8, priority| Sketch { blobs: vec![(number, 1 << 20)], priority, ..Sketch::default() };
    let mut ids: Vec<_> = (1..=6).map(|number| bench.add(&sketch(number, Priority::Bulk))).collect();
    assert_eq!(bench.running.len(), 4);
    ids.push(bench.add(&sketch(7, Priority::Critical)));
    assert_eq!(bench.running.len(), 4);
    assert!(bench.running.iter().any(|running| running.distribution == ids[6]), "the critical one has the place of another");
    let mut asked = std::collections::BTreeSet::new();
    while let Some(running) = bench.running.first().copied() {
        assert!(asked.insert(running.blob), "each is asked for once");
        bench.fetch_ended(running, FetchOutcome::Missing);
    }
    assert_eq!(asked.len(), 7);
}

#[test]
fn of_several_small_ones_those_that_it_had_are_here_and_the_others_are_asked_for_when_it_has_more() {
    let (mut bench, id) = beside_another(&Sketch { blobs: vec![(1, 10), (2, 10), (3, 10)], ..Sketch::default() });
    let asked = bench.running.clone();
    assert_eq!(asked.len(), 3);
    bench.one_ended(asked[0], FetchOutcome::Done);
    bench.one_ended(asked[1], FetchOutcome::Missing);
    bench.one_ended(asked[2], FetchOutcome::Missing);
    for running in bench.running.clone() {
        bench.one_ended(running, FetchOutcome::Missing);
    }
    let mut asked = 0;
    for _ in 0..100 {
        asked += sources(&bench.wait(Duration::from_secs(60))).len();
        for running in bench.running.clone() {
            bench.one_ended(running, FetchOutcome::Missing);
        }
    }
    assert!(asked <= 2, "{asked}");
    assert_eq!(sources(&bench.settle(Event::Getting { peer: peer(3), distribution: id })), [(peer(3), false)]);
}

#[test]
fn who_turns_out_to_have_all_is_asked_at_once_though_others_are_left_alone_for_an_hour() {
    let (mut bench, id) = beside_another(&Sketch::default());
    bench.settle(Event::PeerUp(peer(4)));
    for _ in 0..2 {
        bench.fetch_ended(bench.running[0], FetchOutcome::Corrupt);
    }
    assert!(bench.running.is_empty());
    bench.settle(Event::PeerUp(peer(5)));
    bench.fetch_ended(bench.running[0], FetchOutcome::Missing);
    bench.say(id, 5, TargetState::Delivered);
    assert_eq!(bench.running.len(), 1);
}

#[test]
fn who_waits_for_a_place_has_that_of_a_fetch_of_which_nothing_comes_after_a_minute_and_any_after_two() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(3)));
    let sketch = |number: u8| Sketch { blobs: vec![(number, 1 << 20)], ..Sketch::default() };
    let ids: Vec<_> = (1..=5).map(|number| bench.add(&sketch(number))).collect();
    let comes = |bench: &mut Bench| {
        for running in bench.running.clone() {
            bench.settle(Event::PartCame(running.fetch));
        }
    };
    let waits = |bench: &Bench| ids.iter().filter(|id| bench.running.iter().all(|running| running.distribution != **id)).count();
    assert_eq!(bench.running.len(), 4);
    let first: Vec<_> = bench.running.iter().map(|running| running.distribution).collect();
    let last = *ids.iter().find(|id| !first.contains(id)).expect("one waits");
    for _ in 0..50 {
        bench.wait(Duration::from_secs(1));
        comes(&mut bench);
    }
    assert_eq!(waits(&bench), 1);
    // From now on nothing comes.
    assert!(bench.memory.armed.is_some_and(|armed| armed <= bench.now.plus(Duration::from_secs(60))));
    bench.wait(Duration::from_secs(60));
    assert!(bench.running.iter().any(|running| running.distribution == last), "its turn has come");
    assert_eq!((bench.running.len(), waits(&bench)), (4, 1));
    let mut had = std::collections::BTreeSet::new();
    for _ in 0..600 {
        bench.wait(Duration::from_secs(1));
        comes(&mut bench);
        had.insert(bench.running.iter().map(|running| running.distribution).collect::<Vec<_>>());
    }
    assert!(had.len() >= 4, "what gets on and on goes round, too");
}

#[test]
fn who_had_nothing_of_many_is_not_asked_for_all_the_others_until_it_says_something_or_is_met_anew() {
    let mut bench = Bench::new();
    let ids: Vec<_> = (1..=40).map(|number| bench.add(&Sketch { blobs: vec![(number, 10)], ..Sketch::default() })).collect();
    let mut asked = std::collections::BTreeSet::new();
    let mut answer = |bench: &mut Bench| {
        let before = asked.len();
        while let Some(running) = bench.running.first().copied() {
            asked.insert(running.blob);
            bench.fetch_ended(running, FetchOutcome::Missing);
        }
        asked.len() - before
    };
    bench.settle(Event::PeerUp(peer(3)));
    assert!((16..20).contains(&answer(&mut bench)));
    bench.wait(Duration::from_secs(3600));
    assert_eq!(answer(&mut bench), 0);
    for id in &ids {
        bench.settle(Event::Getting { peer: peer(3), distribution: *id });
        assert!(bench.running.len() == 1, "what it says is not in vain");
        bench.fetch_ended(bench.running[0], FetchOutcome::Missing);
    }
    bench.settle(Event::PeerDown(peer(3)));
    bench.settle(Event::PeerUp(peer(3)));
    assert!(!bench.running.is_empty());
}

#[test]
fn who_has_all_and_rests_for_a_moment_is_waited_for_and_what_waits_for_parts_keeps_nothing_else_from_coming() {
    let mut bench = Bench::new();
    bench.settle(Event::PeerUp(peer(2)));
    bench.settle(Event::PeerUp(peer(3)));
    bench.add(&Sketch { blobs: vec![(1, 10)], ..Sketch::default() });
    assert_eq!(sources(&bench.fetch_ended(bench.running[0], FetchOutcome::Missing)), []);
    assert_eq!(sources(&bench.wait(Duration::from_secs(1))), [(peer(2), true)]);
    bench.fetch_ended(bench.running[0], FetchOutcome::Done);
    // Others take all places, for what 5 sent.
    for number in 11..15 {
        bench.add(&Sketch { sender: 5, blobs: vec![(number, 1 << 20)], ..Sketch::default() });
    }
    assert_eq!(bench.running.len(), 4);
    bench.add(&Sketch { blobs: vec![(2, 1 << 20), (3, 1 << 20)], ..Sketch::default() });
    let of_two =
        |bench: &Bench| bench.running.iter().filter(|running| running.blob.as_bytes()[0] < 10).copied().collect::<Vec<_>>();
    let damaged = of_two(&bench)[0];
    bench.fetch_ended(damaged, FetchOutcome::Corrupt);
    let left: Vec<_> = of_two(&bench).iter().map(|running| running.blob.as_bytes()[0]).collect();
    assert_eq!(left, [3]);
    bench.policy.budget.fetches = 1;
    bench.fetch_ended(of_two(&bench)[0], FetchOutcome::Failed);
    assert!(of_two(&bench).is_empty());
    bench.wait(Duration::from_secs(2));
    assert_eq!(of_two(&bench).iter().map(|running| running.blob.as_bytes()[0]).collect::<Vec<_>>(), [3]);
}

#[test]
fn who_says_that_it_has_more_while_it_is_asked_is_asked_once_more() {
    let (mut bench, id) = beside_another(&Sketch::default());
    bench.settle(Event::Getting { peer: peer(3), distribution: id });
    assert_eq!(sources(&bench.fetch_ended(bench.running[0], FetchOutcome::Missing)), [(peer(3), false)]);
    assert_eq!(sources(&bench.fetch_ended(bench.running[0], FetchOutcome::Missing)), []);
}

#[test]
fn what_a_batch_lacked_is_there_as_soon_as_its_source_has_it() {
    let (mut bench, id) = beside_another(&Sketch { blobs: vec![(1, 10), (2, 10)], ..Sketch::default() });
    let asked = bench.running.clone();
    bench.one_ended(asked[0], FetchOutcome::Done);
    bench.one_ended(asked[1], FetchOutcome::Missing);
    for _ in 0..20 {
        while let Some(running) = bench.running.first().copied() {
            bench.fetch_ended(running, FetchOutcome::Missing);
        }
        let getting = bench.settle(Event::Getting { peer: peer(3), distribution: id });
        assert_eq!(sources(&getting), [(peer(3), false)], "it never waits for longer than for the word");
    }
}
