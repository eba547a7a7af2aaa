//! The simulated network, many seeds at a time.
//!
//! `PEAT_BLOB_SEED=<number>` replays one seed; `PEAT_BLOB_SEEDS=<count>` sets how many are run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use peat_blob_tests::simulation::run;

#[test]
fn a_node_of_a_fleet_does_no_more_than_what_happens_asks_of_it() {
    let report = peat_blob_tests::scale::run(30, 300);
    assert!(report.due > 1_500 && report.delivered == report.due, "{report:?}");
    // Each member gets each envelope of another once as news, however many links bring it, and not once for each of its links.
    let (news, repeats) = (report.joining.news + report.working.news, report.joining.repeats + report.working.repeats);
    let others = report.envelopes as f64 * 29.0 / 30.0;
    assert!((news - others).abs() < 1e-6, "{news} of {others}: {report:?}");
    assert!(repeats < 25.0 * others, "{report:?}");
    // What is one delivery to a target costs a fleet is bounded at each of its nodes: a receipt, and its share of a manifest and a roster.
    assert!(report.envelopes as f64 <= 30.0 + 2.0 * 300.0 + 1.5 * report.due as f64, "{report:?}");
    assert!(report.working.calls < 6.0 * (report.working.news + report.working.hints), "{report:?}");
    assert!(report.working.actions < 40.0 * report.due as f64 / 30.0 + 10.0 * 300.0, "{report:?}");
    // And nothing is said while nothing is to be said.
    let idle = report.idle;
    assert_eq!([idle.frames, idle.hints, idle.bytes, idle.sessions], [0.0; 4], "{report:?}");
    assert!(idle.calls < 10.0, "{report:?}");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_seed_keeps_the_rules_and_everything_arrives() {
    if let Some(seed) = number("PEAT_BLOB_SEED") {
        let report = run(seed).unwrap_or_else(|wrong| panic!("seed {seed}:\n{wrong}"));
        println!("seed {seed}: {report:?}");
        return;
    }
    let seeds = number("PEAT_BLOB_SEEDS").unwrap_or(1_000);
    let (next, failed, receipts) = (AtomicU64::new(0), Mutex::new(None), AtomicU64::new(0));
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().expect("no worker panicked").is_some() {
                        return;
                    }
                    match run(seed) {
                        Ok(report) => _ = receipts.fetch_add(report.receipts as u64, Ordering::Relaxed),
                        Err(wrong) => *failed.lock().expect("no worker panicked") = Some((seed, wrong)),
                    }
                }
            });
        }
    });
    if let Some((seed, wrong)) = failed.into_inner().expect("no worker panicked") {
        panic!("replay with PEAT_BLOB_SEED={seed}\n{wrong}");
    }
    // A simulation in which nothing is delivered would keep every rule.
    let receipts = receipts.into_inner();
    assert!(receipts > seeds * 10, "only {receipts} receipts in {seeds} runs");
}
