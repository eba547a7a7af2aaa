//! All limits of one direction, and who waits for them. Whoever may go under the limits that concern it goes in fair order:
//! those of one priority share alike, whatever they ask for, and each priority gets twice what the one below it gets, so that
//! none waits for ever (start-time fair queueing, Goyal, Vin and Cheng, 1996).

use std::collections::{BTreeMap, VecDeque};

use super::Caps;
use super::bucket::{Bucket, slice};
use super::rate::Rate;
use crate::model::{EndpointId, Priority};

/// Lines that are kept though nobody is in them, so that who leaves and comes back gets no more than its share.
const MAX_IDLE_LINES: usize = 512;

/// Bytes of one priority with one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) peer: EndpointId,
    pub(crate) priority: Priority,
}

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Debug, Clone, Copy)]
struct Waiting {
    ticket: Ticket,
    stream: u64,
    bytes: u64,
    granted: u64,
}

/// Those who wait in one flow, by stream: what is begun is ended before what came later, since a cut costs what is not whole.
#[derive(Debug, Default)]
struct Line {
    /// The name of the peer, where limits may name it.
    name: Option<String>,
    waiting: VecDeque<Waiting>,
    /// Where in virtual time what has gone ends.
    finish: u64,
}

/// The limits of one direction, and who waits.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    caps: Caps,
    node: Option<Bucket>,
    classes: BTreeMap<Priority, Bucket>,
    peers: BTreeMap<EndpointId, (Option<String>, Bucket)>,
    lines: BTreeMap<Flow, Line>,
    /// Where in virtual time what went last began.
    virtual_time: u64,
    tickets: u64,
}

/// What has come of a look at the queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Who may go.
    pub(crate) done: Vec<Ticket>,
    /// When to look again, if somebody waits.
    pub(crate) next: Option<u64>,
}

impl Queue {
    /// These limits hold from now on.
    pub(crate) fn set(&mut self, caps: Caps) {
        let changed = |bucket: Option<Bucket>, rate: Option<Rate>| {
            let rate = rate?;
            let mut bucket = bucket.unwrap_or_else(|| Bucket::new(rate));
            if bucket.rate() != rate {
                bucket.change(rate);
            }
            Some(bucket)
        };
        self.node = changed(self.node, caps.node);
        let classes = caps.classes.iter();
        self.classes =
            classes.filter_map(|(class, rate)| Some((*class, changed(self.classes.get(class).copied(), Some(*rate))?))).collect();
        let known = self.lines.iter().map(|(flow, line)| (flow.peer, line.name.clone()));
        let known: BTreeMap<_, _> = known.chain(self.peers.iter().map(|(id, (name, _))| (*id, name.clone()))).collect();
        let peers = known.into_iter().filter_map(|(id, name)| {
            let before = self.peers.get(&id).map(|(_, bucket)| *bucket);
            let bucket = changed(before, caps.of_peer(&id, name.as_deref()))?;
            Some((id, (name, bucket)))
        });
        self.peers = peers.collect();
        self.caps = caps;
    }

    /// Waits for so many bytes of a flow to be let through; of one flow those of the lowest stream first.
    pub(crate) fn ask(&mut self, flow: Flow, name: Option<&str>, stream: u64, bytes: u64) -> Ticket {
        if let Some(rate) = self.caps.of_peer(&flow.peer, name) {
            self.peers.entry(flow.peer).or_insert_with(|| (name.map(str::to_owned), Bucket::new(rate)));
        }
        if self.lines.len() > MAX_IDLE_LINES {
            let virtual_time = self.virtual_time;
            self.lines.retain(|_, line| !line.waiting.is_empty() || line.finish > virtual_time);
        }
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        let line = self.lines.entry(flow).or_default();
        line.name = name.map(str::to_owned);
        let at = line.waiting.partition_point(|other| other.stream <= stream);
        line.waiting.insert(at, Waiting { ticket, stream, bytes, granted: 0 });
        ticket
    }

    /// Nobody waits for this any more. What had been let through of it goes to others.
    pub(crate) fn cancel(&mut self, flow: Flow, ticket: Ticket) {
        let Some(line) = self.lines.get_mut(&flow) else { return };
        let Some(at) = line.waiting.iter().position(|waiting| waiting.ticket == ticket) else { return };
        let granted = line.waiting.remove(at).map_or(0, |waiting| waiting.granted);
        self.give_back(flow, granted);
    }

    /// So many bytes were let through and have not crossed.
    pub(crate) fn give_back(&mut self, flow: Flow, bytes: u64) {
        self.buckets(flow).for_each(|bucket| bucket.give_back(bytes));
    }

    /// Lets through what may go now.
    pub(crate) fn look(&mut self, now: u64) -> Looked {
        let mut looked = Looked::default();
        loop {
            // The first in virtual time of those who may go; of the others, when the first of them may.
            let (mut best, mut next) = (None::<(u64, Flow, u64)>, None::<u64>);
            for (flow, line) in &self.lines {
                let Some(first) = line.waiting.front() else { continue };
                let left = first.bytes - first.granted;
                let rate = self.rate(flow);
                let bytes = rate.map_or(left, |rate| slice(rate).min(left));
                let ready = self.buckets_of(flow).map(|bucket| bucket.ready_at()).max().unwrap_or(0);
                if ready > now {
                    next = Some(next.map_or(ready, |other| other.min(ready)));
                    continue;
                }
                let start = line.finish.max(self.virtual_time);
                if best.is_none_or(|(other, ..)| start < other) {
                    best = Some((start, *flow, bytes));
                }
            }
            let Some((start, flow, bytes)) = best else {
                looked.next = next;
                return looked;
            };
            self.buckets(flow).for_each(|bucket| bucket.spend(now, bytes));
            self.virtual_time = start;
            let Some(line) = self.lines.get_mut(&flow) else { continue };
            line.finish = start.saturating_add(bytes * cost(flow.priority));
            if let Some(first) = line.waiting.front_mut() {
                first.granted += bytes;
                if first.granted == first.bytes {
                    looked.done.push(first.ticket);
                    line.waiting.pop_front();
                }
            }
        }
    }

    /// The least of the limits that concern a flow.
    pub(crate) fn rate_for(&self, flow: &Flow, name: Option<&str>) -> Option<Rate> {
        let peer = self.caps.of_peer(&flow.peer, name);
        [self.caps.node, self.caps.classes.get(&flow.priority).copied(), peer].into_iter().flatten().min()
    }

    /// The same for one of which somebody waits.
    fn rate(&self, flow: &Flow) -> Option<Rate> {
        self.buckets_of(flow).map(Bucket::rate).min()
    }

    fn buckets_of(&self, flow: &Flow) -> impl Iterator<Item = &Bucket> {
        let peer = self.peers.get(&flow.peer).map(|(_, bucket)| bucket);
        self.node.iter().chain(self.classes.get(&flow.priority)).chain(peer)
    }

    fn buckets(&mut self, flow: Flow) -> impl Iterator<Item = &mut Bucket> {
        let peer = self.peers.get_mut(&flow.peer).map(|(_, bucket)| bucket);
        self.node.iter_mut().chain(self.classes.get_mut(&flow.priority)).chain(peer)
    }
}

/// What a byte costs in virtual time: half of what one of the next lower priority does.
const fn cost(priority: Priority) -> u64 {
    match priority {
        Priority::Bulk => 16,
        Priority::Low => 8,
        Priority::Routine => 4,
        Priority::Priority => 2,
        Priority::Critical => 1,
    }
}
