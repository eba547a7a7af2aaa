//! What a lab is like: how many hosts, in what shape, over what links. The named profiles, and their parsing.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use crate::LabError;
use crate::link::{Duty, Link};

/// Hosts are named by one letter each.
pub const MAX_HOSTS: usize = 26;

/// The name of the host of this number: `a` is the first.
#[must_use]
pub fn host_name(index: usize) -> String {
    char::from(b'a' + index as u8).to_string()
}

/// The number of the host of this name.
#[must_use]
pub fn host_index(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(usize::from(letter - b'a')),
        _ => None,
    }
}

/// How hosts are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Each has one link up and one down; all meet in a switch that costs nothing.
    Star,
    /// In a row. Packets for hosts farther off are forwarded by the medium, hop by hop, each with its own queue and rate.
    Chain,
}

/// A time during which nothing passes between two hosts, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// One host.
    pub one: usize,
    /// The other.
    pub other: usize,
    /// From when, after the lab's start.
    pub from: Duration,
    /// Until when.
    pub until: Duration,
}

/// A direction of a host's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// What the host sends.
    Up,
    /// What comes to it.
    Down,
}

/// What a lab is like.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// How hosts are joined.
    pub shape: Shape,
    /// How many hosts, from 2 to [`MAX_HOSTS`].
    pub hosts: usize,
    /// Each link, in each direction. In a star it is the one up; the one down has its rate and its queue, and adds nothing else.
    pub link: Link,
    /// Bits in a second where a host's are others, by its number. Of a hop of a chain, the lesser of the two hosts' counts.
    pub rates: BTreeMap<(usize, Direction), u64>,
    /// The greatest IP packet, in bytes.
    pub mtu: u16,
    /// What is cut when.
    pub partitions: Vec<Partition>,
    /// What all that is random follows from.
    pub seed: u64,
}

impl Profile {
    /// The profiles that have a name, with what they are.
    pub const NAMED: [(&str, &str); 6] = [
        ("lan", "2 hosts, 1 Gbit/s, round trip 0.2 ms"),
        ("wan", "2 hosts, 50 Mbit/s, round trip 40 ms, 0.1 % lost"),
        ("satcom", "2 hosts, 2 Mbit/s, round trip 600 ms, 1 % lost"),
        ("radio", "2 hosts, 256 kbit/s, round trip 200 ms, 5 % lost, 30 s on and 30 s off"),
        ("mesh", "6 hosts in a chain of five hops, each 10 Mbit/s, round trip 10 ms"),
        ("star:N", "host a and N others, each 20 Mbit/s up and down, round trip 20 ms"),
    ];

    fn new(shape: Shape, hosts: usize, link: Link) -> Self {
        Self { shape, hosts, link, rates: BTreeMap::new(), mtu: 1500, partitions: Vec::new(), seed: 0 }
    }

    /// Bits in a second of a host in a direction.
    pub(crate) fn rate(&self, host: usize, direction: Direction) -> u64 {
        self.rates.get(&(host, direction)).copied().unwrap_or(self.link.rate)
    }

    /// Refuses what makes no lab.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), LabError> {
        let shares = [self.link.loss, self.link.duplicate, self.link.reorder.map_or(0.0, |reorder| reorder.share)];
        let wrong = if !(2..=MAX_HOSTS).contains(&self.hosts) {
            Some(format!("a lab has 2 to {MAX_HOSTS} hosts, not {}", self.hosts))
        } else if self.rates.keys().any(|(host, _)| *host >= self.hosts) {
            Some("a rate is of a host that the lab does not have".into())
        } else if self.link.rate == 0 || self.rates.values().any(|rate| *rate == 0) {
            Some("a link has a rate of at least 1 bit/s".into())
        } else if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            Some("shares (of loss, duplicates, reordering) are from 0 to 1".into())
        } else if self.mtu < 576 {
            Some("the MTU is at least 576".into())
        } else {
            let unknown = |cut: &&Partition| cut.one >= self.hosts || cut.other >= self.hosts;
            self.partitions.iter().find(unknown).map(|_| "a partition names a host that the lab does not have".into())
        };
        wrong.map_or(Ok(()), |wrong| Err(LabError::Usage(wrong)))
    }
}

impl FromStr for Profile {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let half = |round_trip: f64| Duration::from_secs_f64(round_trip / 2000.0);
        let profile = match text {
            "lan" => Self::new(Shape::Star, 2, Link::new(1_000_000_000, half(0.2), 2 << 20)),
            "wan" => Self::new(Shape::Star, 2, Link { loss: 0.001, ..Link::new(50_000_000, half(40.0), 512 << 10) }),
            "satcom" => Self::new(Shape::Star, 2, Link { loss: 0.01, ..Link::new(2_000_000, half(600.0), 256 << 10) }),
            "radio" => {
                let duty = Duty { on: Duration::from_secs(30), off: Duration::from_secs(30) };
                let link = Link::new(256_000, half(200.0), 32 << 10);
                Self::new(Shape::Star, 2, Link { loss: 0.05, duty: Some(duty), ..link })
            }
            "mesh" => Self::new(Shape::Chain, 6, Link::new(10_000_000, half(10.0), 128 << 10)),
            _ => match text.strip_prefix("star:").and_then(|others| others.parse::<usize>().ok()) {
                Some(others) => Self::new(Shape::Star, others.saturating_add(1), Link::new(20_000_000, half(20.0), 256 << 10)),
                None => {
                    let known = Self::NAMED.map(|(name, _)| name).join(", ");
                    return Err(LabError::Usage(format!("no profile {text:?}: one of {known}")));
                }
            },
        };
        profile.check()?;
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_profile_is_one() {
        for (name, _) in Profile::NAMED {
            name.replace('N', "8").parse::<Profile>().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn a_star_of_n_has_a_centre_of_its_own_and_n_others() {
        assert_eq!("star:8".parse::<Profile>().unwrap().hosts, 9);
    }

    #[test]
    fn what_makes_no_lab_is_refused() {
        for text in ["", "star:", "star:0", "star:26", "star:99999999999999999999", "Lan"] {
            assert!(text.parse::<Profile>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_numbers_of_hosts_belong_together() {
        for index in 0..MAX_HOSTS {
            assert_eq!(host_index(&host_name(index)), Some(index));
        }
        assert_eq!(host_index("aa"), None);
        assert_eq!(host_index("A"), None);
    }
}
