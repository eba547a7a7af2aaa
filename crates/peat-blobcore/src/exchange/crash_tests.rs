//! The process is killed at each place where the inbox's durable state changes, and again at each place of the recovery. In
//! the end every file is there, the user's edit is kept once, and nothing is left over.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::testing::{Bench, NOW, names_in, word};
use super::{Delivery, Inbox, InboxPolicy, Ledger};
use crate::fault::POINTS;

/// Every place of the exchange.
fn places() -> Vec<&'static str> {
    POINTS.iter().map(|(name, _)| *name).filter(|name| name.starts_with("exchange.")).collect()
}

/// The environment variable that tells the child where its inbox is.
const DIRECTORY: &str = "PEAT_BLOB_TEST_CRASH_DIRECTORY";

/// Two files and a directory that belong together, one over a file that the user edited, two loose files, and one that goes.
fn deliveries(bench: &Bench, with_group: bool) -> Vec<Delivery> {
    let mut group = bench.make(2, 20, &[(b"a", "two"), (b"d/b", "b"), (b"d/c", "c")]);
    group.together = with_group;
    vec![group, bench.make(3, 20, &[(b"x", "x"), (b"e/f/y", "y")]), bench.unmake(4, 20, &["g"])]
}

fn open(dir: &Path) -> Inbox {
    let policy = InboxPolicy { sidecar: true, arrivals: true, ..InboxPolicy::default() };
    Inbox::open(&dir.join("inbox"), Ledger::open(&dir.join("exchange.redb")).expect("a ledger"), policy).expect("a ledger")
}

/// Runs in a process of its own: delivers, unless it is killed.
#[test]
#[ignore = "the child of the other test"]
fn child() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("only the other test runs this"));
    let with_group = directory.join("canary/together").exists();
    let bench = Bench::new();
    let outcomes = open(&directory).deliver(&deliveries(&bench, with_group), &bench.blobs, NOW).expect("the inbox is in order");
    assert!(outcomes.iter().flatten().all(|(_, outcome)| !word(outcome).starts_with("failed")), "{outcomes:?}");
}

fn run_child(dir: &Path, crash_at: &str) -> ExitStatus {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "exchange::crash_tests::child", "--ignored", "--quiet"])
        .env(DIRECTORY, dir)
        .env("PEAT_BLOB_CRASH_AT", crash_at)
        .output()
        .expect("a child")
        .status
}

/// Kills one delivery at `first` and the next at `second`; `None` when `first` is never reached.
fn crash_twice(first: &str, second: &str, with_group: bool) -> Option<()> {
    let bench = Bench::new();
    assert_eq!(bench.deliver(&bench.make(1, 10, &[(b"a", "one"), (b"g", "goes")])), ["delivered"; 2]);
    bench.write("a", "mine");
    if with_group {
        std::fs::write(bench.dir.path().join("canary/together"), "").expect("a note for the child");
    }
    let Bench { dir, inbox, ledger, .. } = bench;
    drop((inbox, ledger));
    let dir = dir.path();
    if run_child(dir, first).success() {
        return None;
    }
    run_child(dir, second);
    // A restart alone makes whole what was begun: what belongs together is there, or nothing of it.
    drop(open(dir));
    let read = |path: &str| std::fs::read_to_string(dir.join("inbox").join(path)).ok();
    let what = format!("killed at {first}, then at {second}, together: {with_group}");
    let names = names_in(&dir.join("inbox"));
    assert!(!names.iter().any(|name| name.contains(".peat-")), "{what}: {names:?}");
    if with_group {
        let new = [read("a").as_deref() == Some("two"), read("d/b").is_some(), read("d/c").is_some()];
        assert!(new == [true; 3] || new == [false; 3], "{what}: {names:?}");
    }
    assert!(run_child(dir, "nowhere").success(), "{what}");
    let shown = ["a", "d/b", "d/c", "x", "e/f/y", "a.conflict-20261121T134625.123Z"].map(read);
    assert_eq!(shown, ["two", "b", "c", "x", "y", "mine"].map(|text| Some(text.to_owned())), "{what}");
    let names = names_in(&dir.join("inbox"));
    let sidecars = ["a", "d/b", "d/c", "x", "e/f/y"].map(|path| format!("{path}.peat.json"));
    assert!(names.len() == 9 + sidecars.len() && sidecars.iter().all(|path| names.contains(path)), "{what}: {names:?}");
    // All is acknowledged, nothing is written any more.
    let store = Bench::new();
    let outcomes = open(dir).deliver(&deliveries(&store, with_group), &store.blobs, NOW).expect("the inbox is in order");
    assert!(outcomes.iter().flatten().all(|(_, outcome)| word(outcome) == "already there"), "{what}: {outcomes:?}");
    // Of each file it was told at least once.
    let (inbox, mut told) = (open(dir), BTreeSet::new());
    while let Some((number, arrival)) = inbox.arrival().expect("a ledger") {
        told.insert(arrival.path);
        inbox.arrival_done(number).expect("a ledger");
    }
    assert_eq!(told.into_iter().collect::<Vec<_>>(), ["a", "d/b", "d/c", "e/f/y", "x"], "{what}");
    Some(())
}

#[test]
fn a_kill_at_any_place_and_another_during_the_recovery_lose_and_leave_nothing() {
    let places = places();
    for with_group in [true, false] {
        for &place in &places {
            let mut reached = 0;
            for hit in 1.. {
                // The second kill is at another place each time; all pairs of places would add minutes and little else.
                let second = places[(hit + place.len()) % places.len()];
                if crash_twice(&format!("{place}:{hit}"), second, with_group).is_none() {
                    break;
                }
                reached += 1;
            }
            let reachable = !(place == "exchange.recover" || place == "exchange.placing" && !with_group);
            assert_eq!(reached > 0, reachable, "{place}, together: {with_group}");
        }
    }
    for &second in &places {
        for hit in 1..=3 {
            assert!(crash_twice("exchange.rename:2", &format!("{second}:{hit}"), true).is_some());
        }
    }
}
