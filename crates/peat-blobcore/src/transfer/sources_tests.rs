//! What is asked of whom, with stores instead of links.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::fetch::REQUESTS;
use super::sources::{Asking, Rates, Sources};
use crate::clock::SystemClock;
use crate::content::{Assembly, Content, Options};
use crate::model::{BlobHash, EndpointId};
use crate::network::wire::{BlockRequest, GROUP_BYTES, Request};

pub(super) fn id(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 32])
}

/// The one who has it all.
const SENDER: u8 = 0;

pub(super) struct Store {
    pub(super) content: Content,
    _directory: tempfile::TempDir,
}

impl Store {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let options = Options { quota: None, reserve: 0 };
        let content = Content::open(directory.path(), options, Arc::new(SystemClock)).expect("a new store");
        Self { content, _directory: directory }
    }

    pub(super) fn with_blob(groups: u64) -> (Self, BlobHash, u64) {
        let store = Self::new();
        let bytes: Vec<u8> = (0..groups * GROUP_BYTES - 7).map(|at| (at / 11) as u8).collect();
        let blob = store.content.ingest_bytes(&bytes).expect("ingested");
        (store, blob.hash, blob.size)
    }
}

/// A node that fetches; what it was told of others waits in `news`.
struct Fetcher {
    store: Store,
    assembly: Assembly,
    sources: Sources<()>,
    asked: Vec<Asking<()>>,
    news: VecDeque<(usize, EndpointId, Range<u64>)>,
}

impl Fetcher {
    fn new(blob: BlobHash, size: u64, me: u8) -> Self {
        let store = Store::new();
        let assembly = store.content.assemble(&blob, size).expect("an assembly");
        let sources = Sources::new(size.div_ceil(GROUP_BYTES), id(me));
        Self { store, assembly, sources, asked: Vec::new(), news: VecDeque::new() }
    }

    fn ask(&mut self) {
        while let Some(asking) = self.sources.next(&self.assembly) {
            let Range { start, end } = asking.taken.range();
            let (blob, block) = (self.assembly.hash(), asking.block);
            let request = Request::Blocks(BlockRequest { blob, start, end, block, compression: None, pairs: 0 });
            assert!(Request::decode(&request.encode()).is_ok(), "{request:?}");
            self.asked.push(asking);
        }
    }

    /// The oldest request to a source is answered; its groups.
    fn answer(&mut self, source: EndpointId, from: &Content) -> Option<Range<u64>> {
        self.answer_at(1e5, source, from)
    }

    /// The same, at a rate in bytes a second.
    fn answer_at(&mut self, rate: f64, source: EndpointId, from: &Content) -> Option<Range<u64>> {
        let at = self.asked.iter().position(|asking| asking.source == source)?;
        let asking = self.asked.remove(at);
        let (range, groups) = (asking.taken.range(), groups(&asking));
        let encoded = from.encode_block(&self.assembly.hash(), range.clone()).expect("it was said to have it");
        self.assembly.write_block(range, &encoded).expect("verified");
        self.sources.answered(&source, 0, asking.number, Rates { blob: rate, link: rate });
        Some(groups)
    }
}

fn groups(asking: &Asking<()>) -> Range<u64> {
    let bytes = asking.taken.range();
    bytes.start / GROUP_BYTES..bytes.end.div_ceil(GROUP_BYTES)
}

#[test]
fn one_source_is_asked_from_the_first_byte_to_the_last() {
    let (sender, blob, size) = Store::with_blob(100);
    let mut fetcher = Fetcher::new(blob, size, 9);
    fetcher.sources.add(id(SENDER), 0, (), true);
    let mut next = 0;
    while !fetcher.assembly.is_whole() {
        fetcher.ask();
        assert!(fetcher.asked.len() <= REQUESTS);
        let groups = fetcher.answer(id(SENDER), &sender.content).expect("there is more");
        assert_eq!(groups.start, next);
        next = groups.end;
    }
}

#[test]
fn who_has_all_is_asked_for_what_nobody_else_has_and_for_the_rest_when_the_others_are_gone() {
    let (sender, blob, size) = Store::with_blob(64);
    let mut fetcher = Fetcher::new(blob, size, 9);
    fetcher.sources.add(id(SENDER), 0, (), true);
    fetcher.sources.add(id(1), 0, (), false);
    fetcher.sources.gained(&id(1), 0, vec![0..60, 1000..u64::MAX]);
    fetcher.ask();
    for asking in &fetcher.asked {
        let expected = if asking.source == id(SENDER) { 60..64 } else { 0..60 };
        let groups = groups(asking);
        assert!(expected.start <= groups.start && groups.end <= expected.end, "{asking:?}");
    }
    assert!(fetcher.asked.iter().any(|asking| asking.source == id(1)));
    fetcher.asked.clear();
    fetcher.sources.silent(&id(1), 0);
    fetcher.ask();
    while let Some(_groups) = fetcher.answer(id(SENDER), &sender.content) {
        fetcher.ask();
    }
    assert!(fetcher.assembly.is_whole());
}

#[test]
fn who_says_of_more_than_there_is_that_it_has_it_is_asked_no_more() {
    let (_sender, blob, size) = Store::with_blob(64);
    let mut fetcher = Fetcher::new(blob, size, 9);
    for number in [1, 2] {
        fetcher.sources.add(id(number), 0, (), false);
        fetcher.sources.gained(&id(number), 0, vec![0..20, 20..40]);
    }
    fetcher.sources.gained(&id(1), 0, vec![40..50, 50..60]);
    fetcher.sources.gained(&id(2), 0, vec![0..20, 20..40]);
    fetcher.ask();
    assert!(fetcher.asked.iter().all(|asking| asking.source == id(1)));
    assert!(!fetcher.asked.is_empty());
}

#[test]
fn two_who_have_all_share_the_work() {
    let (sender, blob, size) = Store::with_blob(200);
    let mut fetcher = Fetcher::new(blob, size, 9);
    fetcher.sources.add(id(SENDER), 0, (), true);
    fetcher.sources.add(id(1), 0, (), true);
    let mut sent = [0, 0];
    while !fetcher.assembly.is_whole() {
        fetcher.ask();
        for source in [SENDER, 1] {
            let groups = fetcher.answer(id(source), &sender.content).unwrap_or_default();
            sent[usize::from(source)] += groups.end - groups.start;
        }
    }
    assert!(sent[0].abs_diff(sent[1]) <= 20, "{sent:?}");
}

#[test]
fn of_two_who_have_all_the_one_on_a_thin_link_is_asked_once_and_again_when_the_other_is_gone() {
    const THIN: u8 = 1;
    let (sender, blob, size) = Store::with_blob(200);
    let mut fetcher = Fetcher::new(blob, size, 9);
    for source in [SENDER, THIN] {
        fetcher.sources.add(id(source), 0, (), true);
    }
    fetcher.ask();
    let mut sent = [0, 0];
    for (source, rate) in [(THIN, 20e3), (SENDER, 50e6)] {
        assert_eq!(fetcher.asked.iter().filter(|asking| asking.source == id(source)).count(), 1, "nothing is known of it");
        let groups = fetcher.answer_at(rate, id(source), &sender.content).expect("it is asked");
        sent[usize::from(source)] += groups.end - groups.start;
    }
    for _ in 0..4 {
        fetcher.ask();
        assert!(fetcher.asked.iter().all(|asking| asking.source == id(SENDER)));
        assert!(fetcher.answer_at(50e6, id(SENDER), &sender.content).is_some());
    }
    assert_eq!(sent, [2, 2]);
    fetcher.asked.clear();
    fetcher.sources.remove(&id(SENDER), 0);
    while !fetcher.assembly.is_whole() {
        fetcher.ask();
        assert!(fetcher.answer(id(THIN), &sender.content).is_some(), "who is left is asked");
    }
}

/// A star: in each round everybody's link carries one request from the sender, and two from each of the others. What one has
/// got the others hear three rounds later.
#[test]
fn many_who_fetch_the_same_get_it_from_each_other() {
    const NODES: u8 = 6;
    let (sender, blob, size) = Store::with_blob(1024);
    for seed in 0..2 {
        let id = |node| if node == SENDER { id(node) } else { id(node + 100 * seed) };
        let mut nodes: Vec<Fetcher> = (1..=NODES).map(|node| Fetcher::new(blob, size, node + 100 * seed)).collect();
        for (node, fetcher) in (1..).zip(&mut nodes) {
            fetcher.sources.add(id(SENDER), 0, (), true);
            (1..=NODES).filter(|other| *other != node).for_each(|other| {
                fetcher.sources.add(id(other), 0, (), false);
            });
        }
        let (mut sent, mut round) = (0, 0);
        while !nodes.iter().all(|node| node.assembly.is_whole()) {
            round += 1;
            assert!(round < 10_000, "it comes to an end");
            for node in 1..=NODES {
                let at = usize::from(node) - 1;
                while nodes[at].news.front().is_some_and(|(due, ..)| *due <= round)
                    && let Some((_, from, groups)) = nodes[at].news.pop_front()
                {
                    nodes[at].sources.gained(&from, 0, vec![groups]);
                }
                nodes[at].ask();
                let mut got: Vec<_> = nodes[at].answer(id(SENDER), &sender.content).into_iter().collect();
                sent += got.iter().map(|groups| groups.end - groups.start).sum::<u64>();
                for other in (1..=NODES).filter(|other| *other != node) {
                    let from = nodes[usize::from(other) - 1].store.content.clone();
                    got.extend((0..2).filter_map(|_| nodes[at].answer(id(other), &from)));
                }
                for groups in got {
                    for other in (0..usize::from(NODES)).filter(|other| *other != at) {
                        nodes[other].news.push_back((round + 3, id(node), groups.clone()));
                    }
                }
            }
        }
        assert!(sent * 100 <= 1024 * 125, "seed {seed}: the sender sent {sent} groups of 1024 in {round} rounds");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_fellow_was_asked_for_stays_with_it_though_it_pauses_and_only_what_is_free_leaves_the_sender() {
    let (sender, blob, size) = Store::with_blob(200);
    let mut fetcher = Fetcher::new(blob, size, 9);
    fetcher.sources.add(id(SENDER), 0, (), true);
    fetcher.sources.add(id(1), 0, (), false);
    fetcher.sources.gained(&id(1), 0, vec![0..75, 75..150]);
    let from_sender = |fetcher: &mut Fetcher| {
        let mut groups = 0;
        loop {
            fetcher.ask();
            match fetcher.answer_at(5e6, id(SENDER), &sender.content) {
                Some(sent) => groups += sent.end - sent.start,
                None => return groups,
            }
        }
    };
    assert!((1..=50).contains(&from_sender(&mut fetcher)), "what the fellow has is left to it");
    tokio::time::advance(Duration::from_millis(2500)).await;
    fetcher.sources.look_again();
    assert!(from_sender(&mut fetcher) > 100, "what is free is asked of the sender");
    fetcher.sources.look_again();
    fetcher.ask();
    assert!(!fetcher.asked.is_empty() && fetcher.asked.iter().all(|asking| asking.source == id(1)));
    assert_eq!(fetcher.sources.relieve(&fetcher.assembly), [0; 0]);
}
