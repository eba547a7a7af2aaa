//! Laws of the inbox under random deliveries, users and restarts, held against a model of a few lines.

use std::collections::BTreeMap;

use proptest::prelude::*;

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
    files: BTreeMap<usize, u8>,
}

fn sent() -> impl Strategy<Value = Sent> {
    (0_u64..6, 1_u8..4, any::<bool>(), proptest::collection::btree_map(0..PATHS.len(), 0_u8..4, 1..PATHS.len()))
        .prop_map(|(made_at, sender, together, files)| Sent { made_at, sender, together, files })
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
                    let deliveries: Vec<_> = which.iter().map(|&n| {
                        let texts: Vec<(&[u8], String)> =
                            all[n].files.iter().map(|(path, text)| (PATHS[*path].as_bytes(), format!("text {text}"))).collect();
                        let files: Vec<(&[u8], &str)> = texts.iter().map(|(path, text)| (*path, text.as_str())).collect();
                        let mut delivery = bench.make(n as u8, all[n].made_at, &files);
                        delivery.sender = sender(all[n].sender);
                        delivery.together = all[n].together;
                        delivery
                    }).collect();
                    let now = NOW.plus(std::time::Duration::from_millis(step as u64));
                    let outcomes = bench.inbox.deliver(&deliveries, &bench.blobs, now).expect("the inbox is in order");
                    prop_assert!(outcomes.iter().flatten().all(|(_, outcome)| !word(outcome).starts_with("failed")));
                    // Again: idempotent, writes nothing.
                    let exports = bench.blobs.exports.get();
                    bench.inbox.deliver(&deliveries, &bench.blobs, Timestamp::from_millis(0)).expect("the inbox is in order");
                    prop_assert_eq!(bench.blobs.exports.get(), exports);
                    for n in which {
                        for (path, text) in &all[n].files {
                            let shown = &mut model[*path];
                            if shown.greatest.is_some_and(|greatest| greatest >= (all[n].made_at, n)) {
                                continue;
                            }
                            let text = format!("text {text}");
                            if shown.edited && shown.text.as_ref() != Some(&text) {
                                kept.extend(shown.text.take());
                            }
                            *shown = Shown { greatest: Some((all[n].made_at, n)), text: Some(text), edited: false };
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
}
