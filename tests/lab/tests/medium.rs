//! The medium by itself, in virtual time: rates, delays, losses, partitions and counts, exactly or within their confidence
//! interval. No root, no clock.

use std::time::Duration;

use peat_blob_lab::{Arrival, Counts, Direction, Duty, Link, Medium, Partition, Profile, Reorder};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

/// At a time, from a host to a host, so many bytes.
type Sending = (Duration, usize, usize, usize);

fn profile(name: &str) -> Profile {
    name.parse().expect("it has a name")
}

/// Two hosts, a megabit in a second, nothing else.
fn plain() -> Profile {
    Profile { link: Link::new(1_000_000, Duration::ZERO, 64 << 10), ..profile("lan") }
}

/// Sends all, in order, and waits for the last arrival.
fn run(profile: &Profile, sendings: &[Sending]) -> (Vec<Arrival>, Counts) {
    let mut medium = Medium::new(profile).expect("a profile");
    let mut arrivals = Vec::new();
    for &(at, from, to, bytes) in sendings {
        medium.send(at, from, to, vec![0; bytes]);
    }
    while let Some(next) = medium.next() {
        arrivals.extend(medium.receive(next));
    }
    (arrivals, medium.counts().clone())
}

/// Packets of 1000 bytes, evenly spread, at so many bits in a second.
fn load(from: usize, to: usize, rate: u64, time: Duration) -> Vec<Sending> {
    let count = (time.as_secs_f64() * rate as f64 / 8000.0) as u32;
    (0..count).map(|n| (time * n / count, from, to, 1000)).collect()
}

fn delivered_rate(arrivals: &[Arrival]) -> f64 {
    let (first, last) = (arrivals.first().expect("some arrive"), arrivals.last().expect("some arrive"));
    let bytes: usize = arrivals[1..].iter().map(|arrival| arrival.packet.len()).sum();
    bytes as f64 * 8.0 / (last.at - first.at).as_secs_f64()
}

/// Whether `count` of `n` is what a probability makes: within 4.5 standard deviations, 7 in a million err.
fn is_binomial(count: u64, n: u64, probability: f64) -> bool {
    let (mean, deviation) = (n as f64 * probability, (n as f64 * probability * (1.0 - probability)).sqrt());
    (count as f64 - mean).abs() <= 4.5 * deviation + 0.5
}

#[test]
fn twice_the_rate_of_each_profile_comes_out_at_its_rate() {
    for (name, to) in [("lan", 1), ("wan", 1), ("satcom", 1), ("mesh", 5), ("star:4", 3)] {
        let mut profile = profile(name);
        profile.link.loss = 0.0;
        let time = if name == "lan" { SECOND } else { 20 * SECOND };
        let (arrivals, _) = run(&profile, &load(0, to, 2 * profile.link.rate, time));
        let ratio = delivered_rate(&arrivals) / profile.link.rate as f64;
        assert!((ratio - 1.0).abs() < 0.001, "{name}: {ratio}");
    }
}

#[test]
fn each_host_has_its_own_rate_in_each_direction() {
    let own = |profile: &mut Profile, host, direction, rate| _ = profile.rates.insert((host, direction), rate);
    for (name, far) in [("star:3", 3), ("mesh", 1)] {
        let mut profile = profile(name);
        own(&mut profile, 0, Direction::Up, 1_000_000);
        own(&mut profile, far, Direction::Down, 2_000_000);
        own(&mut profile, far, Direction::Up, 4_000_000);
        own(&mut profile, 0, Direction::Down, 3_000_000);
        for (from, to, rate) in [(0, far, 1e6), (far, 0, 3e6)] {
            let (arrivals, _) = run(&profile, &load(from, to, 8_000_000, 20 * SECOND));
            let ratio = delivered_rate(&arrivals) / rate;
            assert!((ratio - 1.0).abs() < 0.001, "{name}, {from} to {to}: {ratio}");
        }
    }
    let mut star = profile("star:3");
    own(&mut star, 3, Direction::Down, 2_000_000);
    let (arrivals, _) = run(&star, &load(1, 3, 8_000_000, 20 * SECOND));
    assert!((delivered_rate(&arrivals) / 2e6 - 1.0).abs() < 0.001, "what comes to it from anywhere");
    let (arrivals, _) = run(&star, &load(1, 2, 8_000_000, 5 * SECOND));
    assert!((delivered_rate(&arrivals) / 8e6 - 1.0).abs() < 0.01, "others are as they were");
    own(&mut star, 4, Direction::Up, 1);
    assert!(star.check().is_err());
    assert!(Profile { rates: [((0, Direction::Up), 0)].into(), ..profile("lan") }.check().is_err());
}

#[test]
fn half_the_rate_passes_without_a_loss() {
    let (_, counts) = run(&plain(), &load(0, 1, 500_000, 20 * SECOND));
    let pair = counts.pair(0, 1);
    assert_eq!(pair.sent, pair.delivered);
}

#[test]
fn losses_and_copies_are_as_many_as_they_should_be() {
    let mut profile = Profile { seed: 1, ..plain() };
    (profile.link.loss, profile.link.duplicate) = (0.05, 0.02);
    let sendings: Vec<Sending> = (0..1_000_000).map(|n| (Duration::from_millis(n), 0, 1, 20)).collect();
    let (_, counts) = run(&profile, &sendings);
    let pair = counts.pair(0, 1);
    let (sent, lost) = (pair.sent.packets, pair.lost.packets);
    assert!(is_binomial(lost, sent, 0.05), "{lost} of {sent}");
    assert!(is_binomial(pair.duplicated.packets, sent - lost, 0.02), "{:?}", pair.duplicated);
}

#[test]
fn the_two_directions_lose_independently() {
    let mut profile = plain();
    profile.link.loss = 0.5;
    let mut both = load(0, 1, 100_000, 60 * SECOND);
    both.extend(load(1, 0, 100_000, 60 * SECOND));
    both.sort();
    let (arrivals, _) = run(&profile, &both);
    let (alone, _) = run(&profile, &load(0, 1, 100_000, 60 * SECOND));
    let there: Vec<&Arrival> = arrivals.iter().filter(|arrival| arrival.to == 1).collect();
    assert_eq!(there, alone.iter().collect::<Vec<_>>());
    assert!(there.len() + arrivals.len() / 2 > 0 && arrivals.len() != 2 * there.len());
}

#[test]
fn a_packet_takes_half_of_the_round_trip_and_its_sending() {
    let (arrivals, _) = run(&Profile { seed: 3, ..profile("satcom") }, &[(SECOND, 0, 1, 250)]);
    assert_eq!(arrivals[0].at, Duration::from_millis(1000 + 300 + 1));
}

#[test]
fn jitter_spreads_arrivals_and_keeps_their_order() {
    let mut profile = plain();
    profile.link.jitter = Duration::from_millis(20);
    let (arrivals, _) = run(&profile, &load(0, 1, 100_000, 100 * SECOND));
    let late = |arrival: &Arrival, n: usize| arrival.at - 100 * SECOND * n as u32 / 1250 - Duration::from_millis(8);
    let delays: Vec<Duration> = arrivals.iter().enumerate().map(|(n, arrival)| late(arrival, n)).collect();
    assert!(arrivals.windows(2).all(|pair| pair[0].at <= pair[1].at));
    assert!(delays.iter().all(|delay| *delay <= Duration::from_millis(20)));
    let mean = delays.iter().sum::<Duration>() / 1250;
    assert!((Duration::from_millis(9)..Duration::from_millis(11)).contains(&mean), "{mean:?}");
}

#[test]
fn a_chain_costs_each_hop_its_sending_and_its_delay() {
    let (arrivals, counts) = run(&profile("mesh"), &[(SECOND, 0, 5, 1250), (3 * SECOND, 5, 2, 1250)]);
    assert_eq!(arrivals[0].at, SECOND + 5 * Duration::from_millis(5 + 1));
    assert_eq!(arrivals[1].at, 3 * SECOND + 3 * Duration::from_millis(5 + 1));
    let carried = |name: &str| counts.links().iter().find(|(link, _)| link == name).map(|(_, tally)| tally.packets);
    assert_eq!([carried("a to b"), carried("e to f")], [Some(1); 2]);
    assert_eq!([carried("f to e"), carried("d to c"), carried("c to b")], [Some(1), Some(1), Some(0)]);
}

#[test]
fn those_who_send_to_one_host_of_a_star_share_its_link_down() {
    let mut profile = profile("star:3");
    // Senders in lockstep would find the queue always full or never.
    profile.link.jitter = Duration::from_millis(5);
    let mut loads: Vec<Sending> = (1..4).flat_map(|from| load(from, 0, 15_000_000, 10 * SECOND)).collect();
    loads.sort();
    let (arrivals, counts) = run(&profile, &loads);
    assert!((delivered_rate(&arrivals) / 20e6 - 1.0).abs() < 0.001);
    for from in 1..4 {
        assert!(counts.pair(from, 0).overflowed.packets > 0, "{counts}");
    }
}

#[test]
fn one_who_sends_to_all_of_a_star_shares_its_link_up() {
    let mut loads: Vec<Sending> = (1..4).flat_map(|to| load(0, to, 15_000_000, 10 * SECOND)).collect();
    loads.sort();
    let (arrivals, _) = run(&profile("star:3"), &loads);
    assert!((delivered_rate(&arrivals) / 20e6 - 1.0).abs() < 0.001);
}

#[test]
fn a_radio_carries_while_it_is_on() {
    let mut profile = profile("radio");
    (profile.link.loss, profile.link.duty) = (0.0, Some(Duty { on: 30 * SECOND, off: 30 * SECOND }));
    let (arrivals, counts) = run(&profile, &load(0, 1, 100_000, 120 * SECOND));
    let on = |at: Duration| at.as_secs() % 60 < 30;
    assert!(arrivals.iter().all(|arrival| on(arrival.at)));
    let pair = counts.pair(0, 1);
    assert!((pair.delivered.packets as f64 / pair.sent.packets as f64 - 0.5).abs() < 0.01);
    assert_eq!(pair.delivered.packets + pair.cut.packets, pair.sent.packets);
}

#[test]
fn a_partition_begins_and_ends_when_it_should_and_concerns_its_pair_alone() {
    let mut profile = profile("star:2");
    profile.partitions.push(Partition { one: 2, other: 0, from: 10 * SECOND, until: 20 * SECOND });
    let mut loads: Vec<Sending> = (1..3).flat_map(|to| load(0, to, 100_000, 30 * SECOND)).collect();
    loads.sort();
    let (arrivals, counts) = run(&profile, &loads);
    assert_eq!(counts.pair(0, 1).cut.packets, 0);
    let gap: Vec<Duration> = arrivals.iter().filter(|arrival| arrival.to == 2).map(|arrival| arrival.at).collect();
    assert!(gap.iter().all(|at| *at < 10 * SECOND || *at >= 20 * SECOND));
    assert!(gap.iter().any(|at| (9 * SECOND..10 * SECOND).contains(at)));
    assert!(gap.iter().any(|at| (20 * SECOND..21 * SECOND).contains(at)));
}

#[test]
fn a_cut_loses_what_is_on_its_way_and_a_join_lets_pass_again() {
    let mut medium = Medium::new(&profile("satcom")).unwrap();
    let mut seen = Vec::new();
    for (second, action) in [(1, ""), (2, "cut"), (3, ""), (4, "join"), (5, "")] {
        let now = second * SECOND;
        seen.extend(medium.receive(now).map(|arrival| arrival.packet[0]));
        medium.send(now, 0, 1, vec![second as u8]);
        match action {
            "cut" => medium.cut(1, 0),
            "join" => medium.join(0, 1),
            _ => {}
        }
    }
    seen.extend(medium.receive(60 * SECOND).map(|arrival| arrival.packet[0]));
    assert_eq!(seen, [1, 5]);
    assert_eq!(medium.counts().pair(0, 1).cut.packets, 3);
}

#[test]
fn a_cut_hop_of_a_chain_stops_all_that_takes_it() {
    let mut medium = Medium::new(&profile("mesh")).unwrap();
    medium.cut(2, 3);
    for (from, to) in [(0, 5), (5, 0), (2, 3), (0, 2), (3, 5)] {
        medium.send(SECOND, from, to, vec![0; 100]);
    }
    let mut arrived = Vec::new();
    while let Some(arrival) = medium.receive(2 * SECOND) {
        arrived.push((arrival.from, arrival.to));
    }
    arrived.sort_unstable();
    assert_eq!(arrived, [(0, 2), (3, 5)]);
}

#[test]
fn a_pair_of_a_chain_can_be_cut_though_its_hops_work() {
    let mut medium = Medium::new(&profile("mesh")).unwrap();
    medium.cut(0, 2);
    medium.send(SECOND, 0, 2, vec![0; 100]);
    medium.send(SECOND, 0, 1, vec![0; 100]);
    assert_eq!(medium.receive(2 * SECOND).map(|arrival| arrival.to), Some(1));
    assert_eq!(medium.receive(2 * SECOND), None);
}

#[test]
fn what_is_for_nobody_is_ignored() {
    let (arrivals, counts) = run(&plain(), &[(SECOND, 0, 7, 100), (SECOND, 0, 0, 100), (SECOND, 9, 0, 100)]);
    assert!(arrivals.is_empty());
    assert_eq!(counts.pair(0, 1).sent.packets + counts.pair(1, 0).sent.packets, 0);
}

/// Any link, any shape, any packets.
fn any_scene() -> impl Strategy<Value = (Profile, Vec<Sending>)> {
    let link = (1_000_u64..100_000_000, 0_u64..500, 0_u64..50, 0.0..0.5, 0.0..0.5, 0.0..0.5, 1_000_u64..100_000).prop_map(
        |(rate, delay, jitter, loss, duplicate, reorder, queue)| Link {
            jitter: Duration::from_millis(jitter),
            loss,
            duplicate,
            reorder: Some(Reorder { share: reorder, by: Duration::from_millis(30) }),
            duty: Some(Duty { on: 3 * SECOND, off: SECOND }),
            ..Link::new(rate, Duration::from_millis(delay), queue)
        },
    );
    let sendings = prop::collection::vec((0_u64..10_000, 0_usize..5, 0_usize..5, 1_usize..1500), 0..200);
    (link, any::<bool>(), any::<u64>(), sendings).prop_map(|(link, chain, seed, sendings)| {
        let base = profile(if chain { "mesh" } else { "star:4" });
        let partitions = vec![Partition { one: 1, other: 2, from: 4 * SECOND, until: 6 * SECOND }];
        let mut sendings: Vec<Sending> =
            sendings.into_iter().map(|(at, from, to, bytes)| (Duration::from_millis(at), from, to, bytes)).collect();
        sendings.sort();
        (Profile { link, seed, partitions, hosts: 5, ..base }, sendings)
    })
}

proptest! {
    #[test]
    fn each_packet_is_accounted_for((profile, sendings) in any_scene()) {
        let (arrivals, counts) = run(&profile, &sendings);
        let mut delivered = 0;
        for (from, to) in (0..5).flat_map(|from| (0..5).map(move |to| (from, to))) {
            let pair = counts.pair(from, to);
            let expected = sendings.iter().filter(|sending| (sending.1, sending.2) == (from, to) && from != to).count();
            prop_assert_eq!(pair.sent.packets, expected as u64);
            for part in [|tally: peat_blob_lab::Tally| tally.packets, |tally: peat_blob_lab::Tally| tally.bytes] {
                let ends = [pair.delivered, pair.lost, pair.overflowed, pair.cut].map(part).iter().sum::<u64>();
                prop_assert_eq!(part(pair.sent) + part(pair.duplicated), ends);
            }
            delivered += pair.delivered.packets;
        }
        prop_assert_eq!(delivered, arrivals.len() as u64);
        prop_assert!(arrivals.windows(2).all(|pair| pair[0].at <= pair[1].at));
    }

    #[test]
    fn a_caller_who_is_late_to_receive_sees_the_same((profile, sendings) in any_scene(), late in 0_u64..2000) {
        let (punctual, counts) = run(&profile, &sendings);
        let mut medium = Medium::new(&profile).unwrap();
        let mut seen = Vec::new();
        let mut asked = Duration::ZERO;
        for &(at, from, to, bytes) in &sendings {
            medium.send(at, from, to, vec![0; bytes]);
            if at >= asked {
                seen.extend(std::iter::from_fn(|| medium.receive(at)));
                asked = at + Duration::from_millis(late);
            }
        }
        seen.extend(std::iter::from_fn(|| medium.receive(Duration::from_secs(1_000_000))));
        prop_assert_eq!(seen, punctual);
        prop_assert_eq!(medium.counts(), &counts);
    }
}
