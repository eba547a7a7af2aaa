//! Laws of the inbox under random deliveries, users and restarts, held against a model of a few lines.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::Delivery;
use super::testing::{Bench, NOW, sender, word};
use crate::model::Timestamp;

const PATHS: [&str; 4] = ["a", "b", "d/a", "d/e/f"];

/// Something that happens to an inbox.
#[derive(Debug, Clone)]
enum Event {
    /// Distributions come, each with files (path, content), perhaps some that came before.
    Deliver(Vec<usize>),
    Edit(usize),
    Remove(usize),
    Restart,
}

#[derive(Debug, Clone)]
struct Sent {
    made_at: u64,
    sender: u8,
    together: bool,
    /// Whether its files are to go.
    removes: bool,
    files: BTreeMap<usize, u8>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let files = proptest::collection::btree_map(0..PATHS.len(), 0_u8..4, 1..PATHS.len());
    (0_u64..6, 1_u8..4, any::<bool>(), proptest::bool::weighted(0.3), files)
        .prop_map(|(made_at, sender, together, removes, files)| Sent { made_at, sender, together, removes, files })
}

/// The `n`-th distribution.
fn delivery(bench: &Bench, n: usize, sent: &Sent) -> Delivery {
    let made = if sent.removes {
        let paths: Vec<&str> = sent.files.keys().map(|path| PATHS[*path]).collect();
        bench.unmake(n as u8, sent.made_at, &paths)
    } else {
        let texts: Vec<(&[u8], String)> =
            sent.files.iter().map(|(path, text)| (PATHS[*path].as_bytes(), format!("text {text}"))).collect();
        let files: Vec<(&[u8], &str)> = texts.iter().map(|(path, text)| (*path, text.as_str())).collect();
        Delivery { together: sent.together, ..bench.make(n as u8, sent.made_at, &files) }
    };
    Delivery { sender: sender(sent.sender), ..made }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => proptest::collection::vec(0_usize..8, 1..4).prop_map(Event::Deliver),
        2 => (0..PATHS.len()).prop_map(Event::Edit),
        1 => (0..PATHS.len()).prop_map(Event::Remove),
        1 => Just(Event::Restart),
    ]
}

/// What the user sees under one path, and the greatest that was accepted for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    greatest: Option<(u64, usize)>,
    text: Option<String>,
    /// Whose version was shown last, while it was not removed.
    sender: Option<u8>,
    /// Whether the user wrote `text`.
    edited: bool,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn each_path_shows_the_greatest_accepted_or_what_the_user_did_after_it_and_no_edit_is_lost(
        all in proptest::collection::vec(sent(), 8),
        events in proptest::collection::vec(event(), 1..16),
    ) {
        let mut bench = Bench::new();
        let mut model = vec![Shown::default(); PATHS.len()];
        let mut kept: Vec<String> = Vec::new();
        for (step, event) in events.iter().enumerate() {
            match event {
                Event::Deliver(which) => {
                    let mut which = which.clone();
                    which.sort_unstable();
                    which.dedup();
                    let deliveries: Vec<_> = which.iter().map(|&n| delivery(&bench, n, &all[n])).collect();
                    let now = NOW.plus(std::time::Duration::from_millis(step as u64));
                    let outcomes = bench.inbox.deliver(&deliveries, &bench.blobs, now).expect("the inbox is in order");
                    prop_assert!(outcomes.iter().flatten().all(|(_, outcome)| !word(outcome).starts_with("failed")));
                    // Again: idempotent, writes nothing.
                    let exports = bench.blobs.exports.get();
                    bench.inbox.deliver(&deliveries, &bench.blobs, Timestamp::from_millis(0)).expect("the inbox is in order");
                    prop_assert_eq!(bench.blobs.exports.get(), exports);
                    // The newest first, as they are delivered: it matters to what another sender has removed.
                    which.sort_by_key(|&n| std::cmp::Reverse((all[n].made_at, n)));
                    for n in which {
                        for (path, text) in &all[n].files {
                            let shown = &mut model[*path];
                            if shown.greatest.is_some_and(|greatest| greatest >= (all[n].made_at, n)) {
                                continue;
                            }
                            shown.greatest = Some((all[n].made_at, n));
                            if all[n].removes {
                                let theirs = shown.sender.is_some_and(|sender| sender != all[n].sender);
                                if !theirs && !shown.edited {
                                    (shown.text, shown.sender) = (None, None);
                                }
                                continue;
                            }
                            let text = format!("text {text}");
                            if shown.edited && shown.text.as_ref() != Some(&text) {
                                kept.extend(shown.text.take());
                            }
                            *shown = Shown { text: Some(text), sender: Some(all[n].sender), edited: false, ..shown.clone() };
                        }
                    }
                }
                Event::Edit(path) => {
                    let text = format!("edit {step}");
                    bench.write(PATHS[*path], &text);
                    model[*path] = Shown { text: Some(text), edited: true, ..model[*path].clone() };
                }
                Event::Remove(path) => {
                    let _absent_is_fine = std::fs::remove_file(bench.path(PATHS[*path]));
                    model[*path] = Shown { text: None, edited: false, ..model[*path].clone() };
                }
                Event::Restart => bench = bench.reopen(),
            }
            bench.assert_clean();
            for (path, shown) in PATHS.iter().zip(&model) {
                prop_assert_eq!(bench.read(path), shown.text.clone(), "{} after {:?}", path, event);
            }
        }
        let mut aside: Vec<String> =
            bench.names().iter().filter(|name| name.contains(".conflict-")).filter_map(|name| bench.read(name)).collect();
        aside.sort();
        kept.sort();
        prop_assert_eq!(aside, kept, "each edit that was replaced is kept once, and nothing else is");
    }

    #[test]
    fn versions_and_removals_of_one_sender_end_the_same_in_whatever_order_they_come_and_however_often(
        all in proptest::collection::vec(sent(), 8),
        order in proptest::collection::vec((0_usize..8, any::<bool>()), 0..16),
    ) {
        let all: Vec<Sent> = all.into_iter().map(|sent| Sent { sender: 1, ..sent }).collect();
        let mut bench = Bench::new();
        for (n, restart) in order.into_iter().chain((0..8).map(|n| (n, false))) {
            let outcomes = bench.inbox.deliver(&[delivery(&bench, n, &all[n])], &bench.blobs, NOW).expect("the inbox is in order");
            prop_assert!(outcomes.iter().flatten().all(|(_, outcome)| !word(outcome).starts_with("failed") && word(outcome) != "kept"));
            if restart {
                bench = bench.reopen();
            }
        }
        for (path, name) in PATHS.iter().enumerate() {
            let of_path = all.iter().enumerate().filter_map(|(n, sent)| Some(((sent.made_at, n), sent, sent.files.get(&path)?)));
            let last = of_path.max_by_key(|(order, ..)| *order);
            let text = last.and_then(|(_, sent, text)| (!sent.removes).then(|| format!("text {text}")));
            prop_assert_eq!(bench.read(name), text, "{}", name);
        }
        prop_assert!(!bench.names().iter().any(|name| name.contains(".conflict-")));
    }
}
