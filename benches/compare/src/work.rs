//! What is to be done: which file goes over which links to how many.

use std::path::{Path, PathBuf};
use std::time::Duration;

use peat_blob_lab::{Lab, Profile, Seat};

use crate::Outcome;

/// One piece of work. All tools do the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    /// The links; none for two programs on one host's loopback device.
    pub(crate) profile: Option<&'static str>,
    pub(crate) size: u64,
    pub(crate) receivers: usize,
    pub(crate) deadline: Duration,
}

/// All of them, in the order in which they are run.
pub(crate) const WORKS: [Work; 4] = [
    Work { name: "satcom", profile: Some("satcom"), size: 4_000_000, receivers: 1, deadline: Duration::from_secs(1200) },
    Work { name: "star", profile: Some("star:4"), size: 16 << 20, receivers: 4, deadline: Duration::from_secs(600) },
    Work { name: "mesh", profile: Some("mesh"), size: 16 << 20, receivers: 1, deadline: Duration::from_secs(600) },
    Work { name: "loopback", profile: None, size: 1 << 30, receivers: 1, deadline: Duration::from_secs(600) },
];

impl Work {
    /// The same with little to carry: shows that it works.
    pub(crate) fn quick(self) -> Self {
        Self { size: self.size / if self.profile.is_some() { 40 } else { 200 }, ..self }
    }

    /// The lab for it.
    pub(crate) fn lab(&self, seed: u64) -> Outcome<Profile> {
        Ok(Profile { seed, ..self.profile.unwrap_or("lan").parse()? })
    }

    /// The sender's seat, which is the first, and the receivers', which are the last: those that are farthest off.
    pub(crate) fn seats<'a>(&self, lab: &'a Lab) -> Vec<Seat<'a>> {
        if self.profile.is_none() {
            return Seat::loopback(lab.host("a"), 1 + self.receivers);
        }
        let mut seats = Seat::each(lab);
        seats.drain(1..seats.len() - self.receivers);
        seats
    }

    /// The time that the bytes take at the rate of one link; none where no rate is set.
    pub(crate) fn ideal(&self) -> Outcome<Option<Duration>> {
        let Some(name) = self.profile else { return Ok(None) };
        Ok(Some(name.parse::<Profile>()?.link.sending(self.size)))
    }

    pub(crate) fn what(&self) -> String {
        let size = match self.size {
            size if size.is_multiple_of(1 << 30) => format!("{} GiB", size >> 30),
            size if size.is_multiple_of(1 << 20) => format!("{} MiB", size >> 20),
            size => format!("{} kB", size / 1000),
        };
        let to = if self.receivers == 1 { String::new() } else { format!(" to {} hosts", self.receivers) };
        format!("{size}{to}, {}", self.profile.unwrap_or("loopback"))
    }
}

/// One run of a piece of work.
pub(crate) struct Scene<'a> {
    /// The sender's, then the receivers'.
    pub(crate) seats: &'a [Seat<'a>],
    /// What is sent.
    pub(crate) file: &'a Path,
    /// Where the tool may write.
    pub(crate) directory: &'a Path,
    /// Our own programs.
    pub(crate) programs: &'a Path,
    pub(crate) deadline: Duration,
}

impl Scene<'_> {
    pub(crate) fn receivers(&self) -> &[Seat<'_>] {
        &self.seats[1..]
    }

    /// Where a receiver gets its files.
    pub(crate) fn inbox(&self, seat: &Seat<'_>) -> PathBuf {
        self.directory.join(format!("{}-inbox", seat.name))
    }

    pub(crate) fn sender(&self) -> &Seat<'_> {
        &self.seats[0]
    }
}
