//! One run of one tool at one piece of work: a fresh lab, a fresh directory, the same bytes, compared in the end.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use peat_blob_lab::Lab;
use serde::{Deserialize, Serialize};

use crate::tool::{Step, Tool, pull_back};
use crate::usage::{Usage, Watch};
use crate::work::{Copy, Scene, Task, Work};
use crate::{Outcome, payload};

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// IP bytes that each link carried, by its name. The sender's are first: up, and down.
    pub(crate) links: Vec<(String, u64)>,
    pub(crate) sender: Usage,
    /// All receivers' processor time; the greatest memory of one.
    pub(crate) receivers: Usage,
}

/// Does the work once, beneath a directory. What is random about the links follows from the seed.
pub(crate) fn run(tool: Tool, work: &Work, seed: u64, programs: &Path, directory: &Path) -> Outcome<Measured> {
    let directory = tempfile::Builder::new().prefix("peat-blob-compare-").tempdir_in(directory)?;
    let outbox = directory.path().join("outbox");
    fs::create_dir(&outbox)?;
    let payload = payload::make(work, &outbox)?;

    let lab = Lab::new(&work.lab(seed))?;
    let seats = work.seats(&lab);
    let scene = Scene { work, seats: &seats, payload: &payload, directory: directory.path(), programs, deadline: work.deadline };
    let step = tool.prepare(&scene)?;
    match work.task {
        Task::Version => {
            step()?;
            payload::renew(&payload)?;
        }
        Task::Idle(settling, _) => {
            step()?;
            thread::sleep(settling);
        }
        Task::Image(Copy::Warm) => {
            // Files that were read once are in memory, and skopeo copies into an empty directory alone.
            step()?;
            for seat in scene.receivers() {
                fs::remove_dir_all(scene.inbox(seat))?;
                fs::create_dir(scene.inbox(seat))?;
            }
        }
        _ => {}
    }
    let before = lab.counts();
    let (outcome, time, usage) = thread::scope(|scope| {
        let watch = Watch::start(scope, lab.hosts().iter().map(peat_blob_lab::Host::namespace).collect());
        let start = Instant::now();
        let outcome = timed(&step, &scene, &lab);
        (outcome, start.elapsed(), watch.end())
    });
    let after = lab.counts();
    outcome?;
    if work.task == Task::Image(Copy::Push) {
        pull_back(&scene)?;
    }
    for seat in scene.receivers() {
        if !payload::same(work, &outbox, &scene.inbox(seat))? {
            return Err(format!("{} delivered other bytes to {}", tool.name(), seat.name).into());
        }
    }
    let receivers = usage[1..].iter().fold(Usage::default(), |sum, one| Usage {
        processor: sum.processor + one.processor,
        memory: sum.memory.max(one.memory),
    });
    let carried = |((name, after), (_, before)): (&(String, _), &(_, peat_blob_lab::Tally))| {
        let after: &peat_blob_lab::Tally = after;
        (name.clone(), after.bytes - before.bytes)
    };
    let links = after.links().iter().zip(before.links()).map(carried).collect();
    Ok(Measured { seconds: time.as_secs_f64(), links, sender: usage[0], receivers })
}

/// What the time is of.
fn timed(step: &Step<'_>, scene: &Scene<'_>, lab: &Lab) -> Outcome<()> {
    match scene.work.task {
        // The time itself is what is waited for.
        Task::Idle(_, time) => thread::sleep(time),
        Task::Interrupted(times, pause) => {
            let (ended, end) = channel();
            let made = thread::scope(|scope| {
                let cutting = scope.spawn(|| interrupt(lab, scene.work.size, times, pause, end));
                let outcome = step();
                drop(ended);
                let made = cutting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                outcome.map(|()| made)
            })?;
            if made < times {
                return Err(format!("it was done after {made} of {times} interruptions").into());
            }
        }
        _ => step()?,
    }
    Ok(())
}

/// Cuts the link whenever it has carried one more part of the size, for a while each. Tells how often it did before the end.
fn interrupt(lab: &Lab, size: u64, times: u32, pause: Duration, end: Receiver<()>) -> u32 {
    let carried = || lab.counts().links()[0].1.bytes;
    let before = carried();
    let ended = |wait| end.recv_timeout(wait) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected);
    for made in 0..times {
        while carried() - before < size * u64::from(made + 1) / u64::from(times + 1) {
            if ended(Duration::from_millis(5)) {
                return made;
            }
        }
        lab.cut("a", "b");
        let over = ended(pause);
        lab.join("a", "b");
        if over {
            return made;
        }
    }
    times
}
