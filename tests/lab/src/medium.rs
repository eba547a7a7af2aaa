//! The medium: carries packets between hosts over links. Pure: time comes in as a value, and nothing else does.
//!
//! What comes due is worked off at the time at which it was due, not at the time of the call. So a caller that is late changes
//! neither rates nor order.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use crate::LabError;
use crate::counts::Counts;
use crate::link::{Fate, Link, Transmitter};
use crate::profile::{Direction, Partition, Profile, Shape, host_name};
use crate::random::Random;

/// A packet that has come to its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// When it came.
    pub at: Duration,
    /// From whom.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// The IP packet.
    pub packet: Vec<u8>,
}

/// A packet that is on a link.
#[derive(Debug)]
struct Flight {
    at: Duration,
    sequence: u64,
    from: usize,
    to: usize,
    hop: Hop,
    packet: Vec<u8>,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}
impl Eq for Flight {}
impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// One step of a packet's way.
#[derive(Debug, Clone, Copy)]
struct Hop {
    link: usize,
    /// Between which hosts the step is, as partitions see it.
    between: (usize, usize),
}

/// The medium.
#[derive(Debug)]
pub struct Medium {
    shape: Shape,
    hosts: usize,
    links: Vec<Transmitter>,
    partitions: Vec<Partition>,
    cuts: BTreeSet<(usize, usize)>,
    flights: BinaryHeap<Reverse<Flight>>,
    arrived: VecDeque<Arrival>,
    sequence: u64,
    counts: Counts,
}

impl Medium {
    /// A medium in which nothing is on its way.
    ///
    /// # Errors
    /// What is wrong with the profile.
    pub fn new(profile: &Profile) -> Result<Self, LabError> {
        profile.check()?;
        let mut links: Vec<(String, Link)> = Vec::new();
        match profile.shape {
            Shape::Star => {
                for host in 0..profile.hosts {
                    let (up, down) = (profile.rate(host, Direction::Up), profile.rate(host, Direction::Down));
                    let down = Link { cut_through: true, ..Link::new(down, Duration::ZERO, profile.link.queue) };
                    links.push((format!("{} up", host_name(host)), Link { rate: up, ..profile.link.clone() }));
                    links.push((format!("{} down", host_name(host)), down));
                }
            }
            Shape::Chain => {
                for right in 1..profile.hosts {
                    for (one, other) in [(right - 1, right), (right, right - 1)] {
                        let rate = profile.rate(one, Direction::Up).min(profile.rate(other, Direction::Down));
                        let name = format!("{} to {}", host_name(one), host_name(other));
                        links.push((name, Link { rate, ..profile.link.clone() }));
                    }
                }
            }
        }
        let counts = Counts::new(profile.hosts, links.iter().map(|(name, _)| name.clone()));
        let links = (0..).zip(links).map(|(stream, (_, link))| Transmitter::new(link, Random::new(profile.seed, stream)));
        Ok(Self {
            shape: profile.shape,
            hosts: profile.hosts,
            links: links.collect(),
            partitions: profile.partitions.clone(),
            cuts: BTreeSet::new(),
            flights: BinaryHeap::new(),
            arrived: VecDeque::new(),
            sequence: 0,
            counts,
        })
    }

    /// Takes a packet from a host. What is for the sender itself or for nobody is ignored. Times may not go back.
    pub fn send(&mut self, now: Duration, from: usize, to: usize, packet: Vec<u8>) {
        self.advance(now);
        if from >= self.hosts || to >= self.hosts || from == to {
            return;
        }
        self.counts.pair_mut(from, to).sent.add(packet.len() as u64);
        let hop = self.first_hop(from, to);
        self.enter(now, from, to, hop, packet);
    }

    /// The next packet that has come to its host by now, in order of time.
    pub fn receive(&mut self, now: Duration) -> Option<Arrival> {
        self.advance(now);
        self.arrived.pop_front()
    }

    /// When something happens next if nothing is sent.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        let on_the_way = self.flights.peek().map(|Reverse(flight)| flight.at);
        self.arrived.front().map(|arrival| arrival.at).or(on_the_way)
    }

    /// From now on nothing passes between two hosts: neither what the one sends to the other, nor what takes the hop between
    /// them. What is on its way there is lost.
    pub fn cut(&mut self, one: usize, other: usize) {
        self.cuts.insert((one.min(other), one.max(other)));
    }

    /// Takes a [`cut`](Self::cut) back.
    pub fn join(&mut self, one: usize, other: usize) {
        self.cuts.remove(&(one.min(other), one.max(other)));
    }

    /// What was counted so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn advance(&mut self, now: Duration) {
        while self.flights.peek().is_some_and(|Reverse(flight)| flight.at <= now) {
            let Some(Reverse(flight)) = self.flights.pop() else { return };
            let Flight { at, from, to, hop, packet, .. } = flight;
            let bytes = packet.len() as u64;
            if !self.passes(at, from, to, hop) {
                self.counts.pair_mut(from, to).cut.add(bytes);
            } else if let Some(next) = self.next_hop(hop, to) {
                self.enter(at, from, to, next, packet);
            } else {
                self.counts.pair_mut(from, to).delivered.add(bytes);
                self.arrived.push_back(Arrival { at, from, to, packet });
            }
        }
    }

    /// Hands a packet to a link.
    fn enter(&mut self, now: Duration, from: usize, to: usize, hop: Hop, packet: Vec<u8>) {
        let bytes = packet.len() as u64;
        if !self.passes(now, from, to, hop) {
            self.counts.pair_mut(from, to).cut.add(bytes);
            return;
        }
        let fate = self.links[hop.link].send(now, bytes);
        if fate != Fate::Overflows {
            self.counts.links[hop.link].1.add(bytes);
        }
        match fate {
            Fate::Overflows => self.counts.pair_mut(from, to).overflowed.add(bytes),
            Fate::Lost => self.counts.pair_mut(from, to).lost.add(bytes),
            Fate::Arrives(first, second) => {
                if let Some(at) = second {
                    self.counts.pair_mut(from, to).duplicated.add(bytes);
                    self.fly(at, from, to, hop, packet.clone());
                }
                self.fly(first, from, to, hop, packet);
            }
        }
    }

    fn fly(&mut self, at: Duration, from: usize, to: usize, hop: Hop, packet: Vec<u8>) {
        self.sequence += 1;
        self.flights.push(Reverse(Flight { at, sequence: self.sequence, from, to, hop, packet }));
    }

    /// Whether nothing is in a packet's way at this time.
    fn passes(&self, now: Duration, from: usize, to: usize, hop: Hop) -> bool {
        let concerns = |one, other| [(from, to), hop.between].iter().any(|pair| *pair == (one, other) || *pair == (other, one));
        self.links[hop.link].works(now)
            && !self.cuts.iter().any(|(one, other)| concerns(*one, *other))
            && !self.partitions.iter().any(|cut| (cut.from..cut.until).contains(&now) && concerns(cut.one, cut.other))
    }

    fn first_hop(&self, from: usize, to: usize) -> Hop {
        match self.shape {
            Shape::Star => Hop { link: 2 * from, between: (from, to) },
            Shape::Chain => Self::chain_hop(from, to),
        }
    }

    fn next_hop(&self, hop: Hop, to: usize) -> Option<Hop> {
        match self.shape {
            Shape::Star => hop.link.is_multiple_of(2).then_some(Hop { link: 2 * to + 1, between: hop.between }),
            Shape::Chain => (hop.between.1 != to).then(|| Self::chain_hop(hop.between.1, to)),
        }
    }

    fn chain_hop(at: usize, to: usize) -> Hop {
        if to > at { Hop { link: 2 * at, between: (at, at + 1) } } else { Hop { link: 2 * (at - 1) + 1, between: (at, at - 1) } }
    }
}
