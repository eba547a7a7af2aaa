//! The simulated network, many seeds at a time.
//!
//! `PEAT_BLOB_SEED=<number>` replays one seed; `PEAT_BLOB_SEEDS=<count>` sets how many are run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use peat_blob_tests::simulation::run;

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
