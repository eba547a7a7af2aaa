//! What the medium counted: bytes and packets of each ordered pair of hosts, and on each link.

use std::fmt;

use crate::profile::host_name;

/// Packets and their bytes, IP headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.packets += 1;
        self.bytes += bytes;
    }
}

/// What one host sent to one other, and what became of it. What is none of these is on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pair {
    /// What the sender handed to the medium.
    pub sent: Tally,
    /// What the medium handed to the receiver, duplicates included.
    pub delivered: Tally,
    /// What was lost on a link.
    pub lost: Tally,
    /// What found a queue full.
    pub overflowed: Tally,
    /// What met a partition.
    pub cut: Tally,
    /// Copies that a link made.
    pub duplicated: Tally,
}

/// A snapshot of all that was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub(crate) hosts: usize,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) links: Vec<(String, Tally)>,
}

impl Counts {
    pub(crate) fn new(hosts: usize, links: impl IntoIterator<Item = String>) -> Self {
        let links = links.into_iter().map(|name| (name, Tally::default())).collect();
        Self { hosts, pairs: vec![Pair::default(); hosts * hosts], links }
    }

    pub(crate) fn pair_mut(&mut self, from: usize, to: usize) -> &mut Pair {
        &mut self.pairs[from * self.hosts + to]
    }

    /// What the host of one number sent to the host of another.
    ///
    /// # Panics
    /// Where there is no such host.
    #[must_use]
    pub fn pair(&self, from: usize, to: usize) -> Pair {
        self.pairs[from * self.hosts + to]
    }

    /// Each link by its name, and what it carried: what arrived, and what was lost on the way.
    #[must_use]
    pub fn links(&self) -> &[(String, Tally)] {
        &self.links
    }
}

/// A table of the pairs that sent something, and of the links that carried something.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:8} {:>10} {:>14} {:>14} {:>8} {:>8} {:>8}",
            "pair", "packets", "bytes", "delivered", "lost", "overflow", "cut"
        )?;
        for from in 0..self.hosts {
            for to in 0..self.hosts {
                let pair = self.pair(from, to);
                if pair.sent.packets > 0 {
                    let name = format!("{}>{}", host_name(from), host_name(to));
                    let [lost, overflowed, cut] = [pair.lost, pair.overflowed, pair.cut].map(|tally| tally.packets);
                    let (sent, delivered) = (pair.sent, pair.delivered.bytes);
                    writeln!(
                        f,
                        "{name:8} {:>10} {:>14} {delivered:>14} {lost:>8} {overflowed:>8} {cut:>8}",
                        sent.packets, sent.bytes
                    )?;
                }
            }
        }
        for (name, carried) in self.links.iter().filter(|(_, carried)| carried.packets > 0) {
            writeln!(f, "{name:8} {:>10} {:>14}", carried.packets, carried.bytes)?;
        }
        Ok(())
    }
}
