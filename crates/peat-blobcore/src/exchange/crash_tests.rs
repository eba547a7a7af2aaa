//! The process is killed at each place where the inbox's durable state changes, and again at each place of the recovery. In
//! the end every file is there, the user's edit is kept once, and nothing is left over.

use std::process::{Command, ExitStatus};

use super::testing::{Bench, NOW, word};
use super::{Delivery, Inbox, InboxPolicy};

/// Every `fault::point` of the exchange.
const PLACES: [&str; 10] = [
    "exchange.begin",
    "exchange.directory",
    "exchange.write",
    "exchange.barrier",
    "exchange.placing",
    "exchange.aside",
    "exchange.rename",
    "exchange.recover",
    "exchange.named",
    "exchange.finish",
];

/// The environment variable that tells the child where its inbox is.
const DIRECTORY: &str = "PEAT_BLOB_TEST_CRASH_DIRECTORY";

/// Two files and a directory that belong together, one over a file that the user edited, and two loose files.
fn deliveries(bench: &Bench, with_group: bool) -> Vec<Delivery> {
    let mut group = bench.make(2, 20, &[(b"a", "two"), (b"d/b", "b"), (b"d/c", "c")]);
    group.together = with_group;
    vec![group, bench.make(3, 20, &[(b"x", "x"), (b"e/f/y", "y")])]
}

/// Runs in a process of its own: delivers, unless it is killed.
#[test]
#[ignore = "the child of the other test"]
fn child() {
    let directory = std::env::var_os(DIRECTORY).expect("only the other test runs this");
    let directory = std::path::Path::new(&directory);
    let with_group = directory.join("canary/together").exists();
    let inbox =
        Inbox::open(&directory.join("inbox"), &directory.join("exchange.redb"), InboxPolicy::default()).expect("a ledger");
    let bench = Bench::new();
    let outcomes = inbox.deliver(&deliveries(&bench, with_group), &bench.blobs, NOW).expect("the inbox is in order");
    assert!(outcomes.iter().flatten().all(|(_, outcome)| !word(outcome).starts_with("failed")), "{outcomes:?}");
}

fn run_child(bench: &Bench, crash_at: &str) -> ExitStatus {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "exchange::crash_tests::child", "--ignored", "--quiet"])
        .env(DIRECTORY, bench.dir.path())
        .env("PEAT_BLOB_CRASH_AT", crash_at)
        .output()
        .expect("a child")
        .status
}

/// Kills one delivery at `first` and the next at `second`; `None` when `first` is never reached.
fn crash_twice(first: &str, second: &str, with_group: bool) -> Option<()> {
    let bench = Bench::new();
    assert_eq!(bench.deliver(&bench.make(1, 10, &[(b"a", "one")])), ["delivered"]);
    bench.write("a", "mine");
    if with_group {
        std::fs::write(bench.dir.path().join("canary/together"), "").expect("a note for the child");
    }
    let Bench { dir, blobs, inbox, policy } = bench;
    drop(inbox);
    let closed = |dir: tempfile::TempDir| {
        let inbox = Inbox::open(&dir.path().join("unused"), &dir.path().join("unused.redb"), policy).expect("a spare inbox");
        Bench { dir, blobs: Default::default(), inbox, policy }
    };
    drop(blobs);
    let bench = closed(dir);
    if run_child(&bench, first).success() {
        return None;
    }
    run_child(&bench, second);
    // A restart alone makes whole what was begun: what belongs together is there, or nothing of it.
    let open =
        || Inbox::open(&bench.path(""), &bench.dir.path().join("exchange.redb"), InboxPolicy::default()).expect("a ledger");
    drop(open());
    let what = format!("killed at {first}, then at {second}, together: {with_group}");
    let names = bench.names();
    assert!(!names.iter().any(|name| name.contains(".peat-")), "{what}: {names:?}");
    if with_group {
        let new = [bench.read("a").as_deref() == Some("two"), bench.path("d/b").exists(), bench.path("d/c").exists()];
        assert!(new == [true; 3] || new == [false; 3], "{what}: {names:?}");
    }
    assert!(run_child(&bench, "nowhere").success(), "{what}");
    let shown = ["a", "d/b", "d/c", "x", "e/f/y", "a.conflict-20261121T134625.123Z"].map(|path| bench.read(path));
    assert_eq!(shown, ["two", "b", "c", "x", "y", "mine"].map(|text| Some(text.to_owned())), "{what}");
    assert_eq!(bench.names().len(), 9, "{what}: {:?}", bench.names());
    // All is acknowledged, nothing is written any more.
    let store = Bench::new();
    let outcomes = open().deliver(&deliveries(&store, with_group), &store.blobs, NOW).expect("the inbox is in order");
    assert!(outcomes.iter().flatten().all(|(_, outcome)| word(outcome) == "already there"), "{what}: {outcomes:?}");
    Some(())
}

#[test]
fn a_kill_at_any_place_and_another_during_the_recovery_lose_and_leave_nothing() {
    for with_group in [true, false] {
        for place in PLACES {
            let mut reached = 0;
            for hit in 1.. {
                // The second kill is at another place each time; all pairs of places would add minutes and little else.
                let second = PLACES[(hit + place.len()) % PLACES.len()];
                if crash_twice(&format!("{place}:{hit}"), second, with_group).is_none() {
                    break;
                }
                reached += 1;
            }
            let reachable = !(place == "exchange.recover" || place == "exchange.placing" && !with_group);
            assert_eq!(reached > 0, reachable, "{place}, together: {with_group}");
        }
    }
    for second in PLACES {
        for hit in 1..=3 {
            assert!(crash_twice("exchange.rename:2", &format!("{second}:{hit}"), true).is_some());
        }
    }
}
