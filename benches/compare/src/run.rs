//! One run of one tool at one piece of work: a fresh lab, a fresh directory, the same bytes, compared in the end.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use peat_blob_lab::Lab;

use crate::Outcome;
use crate::tool::Tool;
use crate::usage::{Usage, Watch};
use crate::work::{Scene, Work};

/// What was measured.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) time: Duration,
    /// IP bytes that the sender's link up carried; none over loopback.
    pub(crate) sent: u64,
    /// IP bytes that its link down carried.
    pub(crate) returned: u64,
    pub(crate) sender: Usage,
    /// All receivers' processor time; the greatest memory of one.
    pub(crate) receivers: Usage,
}

/// Does the work once, beneath a directory. What is random about the links follows from the seed.
pub(crate) fn run(tool: Tool, work: &Work, seed: u64, programs: &Path, directory: &Path) -> Outcome<Measured> {
    let directory = tempfile::Builder::new().prefix("peat-blob-compare-").tempdir_in(directory)?;
    let outbox = directory.path().join("outbox");
    fs::create_dir(&outbox)?;
    let file = outbox.join("payload.bin");
    std::io::copy(&mut File::open("/dev/urandom")?.take(work.size), &mut File::create(&file)?)?;
    // What is not yet on the disk would be written in the timed step.
    File::open(&file)?.sync_all()?;

    let lab = Lab::new(&work.lab(seed)?)?;
    let seats = work.seats(&lab);
    let scene = Scene { seats: &seats, file: &file, directory: directory.path(), programs, deadline: work.deadline };
    let step = tool.prepare(&scene)?;
    let carried = || lab.counts().links().iter().take(2).map(|(_, tally)| tally.bytes).collect::<Vec<u64>>();
    let before = carried();
    let (outcome, time, usage) = thread::scope(|scope| {
        let watch = Watch::start(scope, lab.hosts().iter().map(peat_blob_lab::Host::namespace).collect());
        let start = Instant::now();
        let outcome = step();
        (outcome, start.elapsed(), watch.end())
    });
    let after = carried();
    outcome?;
    for seat in scene.receivers() {
        if !equal(&file, &scene.inbox(seat).join("payload.bin"))? {
            return Err(format!("{} delivered other bytes to {}", tool.name(), seat.name).into());
        }
    }
    let receivers = usage[1..].iter().fold(Usage::default(), |sum, one| Usage {
        processor: sum.processor + one.processor,
        memory: sum.memory.max(one.memory),
    });
    Ok(Measured { time, sent: after[0] - before[0], returned: after[1] - before[1], sender: usage[0], receivers })
}

fn equal(one: &Path, other: &Path) -> Outcome<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..length])?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
    }
}
