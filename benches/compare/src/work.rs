//! What is to be done: which bytes go over which links to how many, what the links allow at best, and what ours is to reach.

use std::path::{Path, PathBuf};
use std::time::Duration;

use peat_blob_lab::{Lab, Profile, Seat};

use crate::goal::Goal;

/// What is done with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// One file is delivered.
    File,
    /// So many files of the same size are.
    Files(u32),
    /// One file is, of which an older version is there already.
    Version,
    /// One file is, while the link is cut so many times, for so long each.
    Interrupted(u32, Duration),
    /// Nothing is, for so long, after one file was and after a while to settle.
    Idle(Duration, Duration),
    /// An OCI image is copied from a registry or into one.
    Image(Copy),
}

/// How an image is copied. The client is skopeo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copy {
    /// Into the sender's registry.
    Push,
    /// From there.
    Warm,
    /// By a receiver's host, of what only the sender's registry has: from there too, or from a registry of its own.
    Cold,
}

/// One piece of work. All tools do the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) task: Task,
    /// The links; none for two programs on one host's loopback device.
    pub(crate) profile: Option<&'static str>,
    /// Of all files together.
    pub(crate) size: u64,
    pub(crate) receivers: usize,
    pub(crate) deadline: Duration,
    /// What ours is to reach.
    pub(crate) goals: &'static [Goal],
}

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

/// One file to one host, as far as nothing else is said.
const ONE: Work = Work {
    name: "",
    task: Task::File,
    profile: None,
    size: 64 * MIB,
    receivers: 1,
    deadline: Duration::from_secs(1200),
    goals: &[],
};
/// One image, which a receiver's host does not have.
const IMAGE: Work = Work { task: Task::Image(Copy::Cold), size: 200_000_000, ..ONE };
const STAR: &[Goal] = &[Goal::Time(1.3), Goal::Sent(1.15)];
const QUIET: Task = Task::Idle(Duration::from_secs(20), Duration::from_secs(300));

/// All of them, in the order in which they are run.
pub(crate) const WORKS: [Work; 18] = [
    Work { name: "loopback", size: 1 << 30, goals: &[Goal::OfEncrypted(0.5)], ..ONE },
    Work { name: "small", task: Task::Files(10_000), size: 10_000 * 4096, goals: &[Goal::OfEncrypted(0.5)], ..ONE },
    Work { name: "satcom", profile: Some("satcom"), size: 4_000_000, goals: &[Goal::Time(1.1)], ..ONE },
    Work { name: "satcom-20", profile: Some("satcom"), size: 20_000_000, goals: &[Goal::Time(1.1)], ..ONE },
    Work {
        name: "radio",
        profile: Some("radio"),
        size: 8_000_000,
        deadline: Duration::from_secs(2400),
        goals: &[Goal::Time(1.2)],
        ..ONE
    },
    Work { name: "wan", profile: Some("wan"), ..ONE },
    Work {
        name: "interrupted",
        task: Task::Interrupted(10, Duration::from_secs(10)),
        profile: Some("wan"),
        goals: &[Goal::Twice(0.01)],
        ..ONE
    },
    Work { name: "version", task: Task::Version, profile: Some("wan"), goals: &[Goal::Wire(1.2)], ..ONE },
    Work { name: "star-2", profile: Some("star:2"), receivers: 2, goals: STAR, ..ONE },
    Work { name: "star-4", profile: Some("star:4"), receivers: 4, goals: STAR, ..ONE },
    Work { name: "star-8", profile: Some("star:8"), receivers: 8, goals: STAR, ..ONE },
    Work { name: "mesh", profile: Some("mesh"), size: 16 * MIB, goals: &[Goal::Time(1.3)], ..ONE },
    Work { name: "idle-thin", task: QUIET, profile: Some("satcom"), size: 4096, goals: &[Goal::Idle(20.0)], ..ONE },
    Work { name: "idle-lan", task: QUIET, profile: Some("lan"), size: 4096, goals: &[Goal::Idle(60.0)], ..ONE },
    Work { name: "image", profile: Some("wan"), ..IMAGE },
    Work { name: "image-push", task: Task::Image(Copy::Push), ..IMAGE },
    Work { name: "image-warm", task: Task::Image(Copy::Warm), goals: &[Goal::OfPeer(0.8)], ..IMAGE },
    Work { name: "image-cold", goals: &[Goal::OfWarm(1.3)], ..IMAGE },
];

impl Work {
    /// The same with little to carry: shows that it works.
    pub(crate) fn quick(self) -> Self {
        let task = match self.task {
            Task::Files(count) => Task::Files(count / 200),
            Task::Interrupted(..) => Task::Interrupted(2, SECOND),
            Task::Idle(..) => Task::Idle(SECOND, SECOND),
            task => task,
        };
        let part = if self.profile.is_none() { 200 } else { 40 };
        Self { size: if self.is_idle() { self.size } else { self.size / part }, task, ..self }
    }

    /// Whether there is nothing to carry.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.task, Task::Idle(..))
    }

    /// The lab for it.
    pub(crate) fn lab(&self, seed: u64) -> Profile {
        Profile { seed, ..self.links().unwrap_or_else(|| parse("lan")) }
    }

    fn links(&self) -> Option<Profile> {
        self.profile.map(parse)
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

    /// The time that it takes at best; none where no rate is set, or time is not what counts.
    ///
    /// Over a satellite the handshakes take six round trips, and 0.94 of the rate is what headers leave; of a radio that loses
    /// 5 % so much less, and the last time that it is on counts as used.
    pub(crate) fn ideal(&self) -> Option<Duration> {
        let link = self.links()?.link;
        let bytes = |share: f64| link.sending((self.size as f64 / share) as u64);
        match (self.task, link.duty, self.profile) {
            (Task::Version | Task::Idle(..), ..) => None,
            (Task::Interrupted(times, pause), ..) => Some(bytes(1.0) + pause * times),
            (_, Some(duty), _) => {
                let periods = (bytes(0.94 * 0.95).as_secs_f64() / duty.on.as_secs_f64()).ceil() as u32;
                Some(duty.on * periods + duty.off * periods.saturating_sub(1))
            }
            (.., Some("satcom")) => Some(link.delay * 12 + bytes(0.94)),
            _ => Some(bytes(1.0)),
        }
    }

    pub(crate) fn what(&self) -> String {
        let size = match self.size {
            size if size.is_multiple_of(1 << 30) => format!("{} GiB", size >> 30),
            size if size.is_multiple_of(MIB) => format!("{} MiB", size / MIB),
            size if size.is_multiple_of(1_000_000) => format!("{} MB", size / 1_000_000),
            size => format!("{} kB", size / 1000),
        };
        let what = match self.task {
            Task::File if self.receivers > 1 => format!("{size} to {} hosts", self.receivers),
            Task::File => size,
            Task::Files(count) => format!("{count} x {} KiB", self.size / u64::from(count) / 1024),
            Task::Version => format!("new version of {size}"),
            Task::Interrupted(times, pause) => format!("{size}, cut {times} times for {} s", pause.as_secs()),
            Task::Idle(..) => "idle".into(),
            Task::Image(Copy::Push) => format!("image of {size}, pushed"),
            Task::Image(Copy::Warm) => format!("image of {size}, pulled from its registry"),
            Task::Image(Copy::Cold) => format!("image of {size}, pulled by another host"),
        };
        format!("{what}, {}", self.profile.unwrap_or("loopback"))
    }
}

fn parse(name: &str) -> Profile {
    name.parse().expect("works name profiles that there are")
}

/// One run of a piece of work.
pub(crate) struct Scene<'a> {
    pub(crate) work: &'a Work,
    /// The sender's, then the receivers'.
    pub(crate) seats: &'a [Seat<'a>],
    /// What is sent: one file, or a directory.
    pub(crate) payload: &'a Path,
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

    /// The directory with what is sent, and nothing else.
    pub(crate) fn outbox(&self) -> PathBuf {
        self.directory.join("outbox")
    }

    /// Where a receiver gets what the outbox has.
    pub(crate) fn inbox(&self, seat: &Seat<'_>) -> PathBuf {
        self.directory.join(format!("{}-inbox", seat.name))
    }

    pub(crate) fn sender(&self) -> &Seat<'_> {
        &self.seats[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ideal(name: &str) -> f64 {
        let work = WORKS.iter().find(|work| work.name == name).expect("there is such work");
        work.ideal().expect("it has an ideal").as_secs_f64()
    }

    #[test]
    fn every_work_has_links_and_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = WORKS.iter().map(|work| work.name).collect();
        assert_eq!(names.len(), WORKS.len());
        for work in WORKS {
            assert!(work.lab(0).hosts > work.receivers, "{}", work.name);
        }
    }

    #[test]
    fn ideals_are_what_the_links_allow() {
        // Six round trips of 600 ms, and 4 MB at 1.88 Mbit/s.
        assert!((ideal("satcom") - 20.62).abs() < 0.01);
        // 279.9 s of on-time: ten periods, and nine pauses between them.
        assert!((ideal("radio") - 570.0).abs() < 0.01);
        assert!((ideal("star-8") - 26.84).abs() < 0.01);
        assert!((ideal("interrupted") - 110.74).abs() < 0.01);
    }
}
