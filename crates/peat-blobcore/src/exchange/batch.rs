//! One batch of files: decide, write temporary files, one barrier, rename, make the names durable, remember. Nothing gets its
//! name before it is whole, verified and durable; nothing that a user made is replaced or removed.
//!
//! The ledger knows the temporary files before they exist, and knows a batch with files that belong together as "placing"
//! before the first of them is renamed; see [`recover`](super::recover) for what a crash leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use super::arrivals::Arrival;
use super::beneath::Dirs;
use super::blobs::Blobs;
use super::error::ExchangeError;
use super::inbox::{Delivery, InboxPolicy, Outcome, Owner};
use super::ledger::{Ledger, Pending, Record};
use super::look::{Print, ReadBack, There, look};
use super::name;
use super::sidecar::{self, Sidecar};
use crate::fault;
use crate::model::{FileEntry, RelativePath, Timestamp};

/// From this many files on, one `syncfs` is the barrier. Below, an fsync of each does not wait for what others write.
const SYNCFS_FILES: usize = 16;

/// One file that is to get a name.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// Which delivery of the call, and which of its files.
    pub(super) slot: (usize, usize),
    pub(super) delivery: &'a Delivery,
    pub(super) index: u32,
    pub(super) entry: &'a FileEntry,
    pub(super) path: RelativePath,
}

impl Job<'_> {
    pub(super) fn record(&self, print: Option<Print>) -> Record {
        Record {
            made_at: self.delivery.made_at,
            distribution: self.delivery.id,
            index: self.index,
            blob: self.entry.blob,
            size: self.entry.size,
            sender: self.delivery.sender,
            print,
            sidecar: None,
            expiry: Some(self.delivery.expiry),
        }
    }

    fn arrival(&self) -> Arrival {
        Arrival {
            path: self.path.to_string(),
            distribution: self.delivery.id,
            index: self.index,
            sender: self.delivery.sender,
            made_at: self.delivery.made_at,
            bundle: self.delivery.bundle.clone(),
            priority: self.delivery.priority,
            file: self.entry.clone(),
        }
    }
}

/// How far one job is.
enum Step {
    /// Its outcome stands.
    Done(Outcome),
    /// An equal file is there; the ledger has to learn of it.
    Equal(Record),
    /// To be written, or written, to the temporary file of this number.
    Temp(u64),
}

/// Runs the jobs, no two of which share a path. Jobs of a delivery that stays together are all here.
pub(super) fn run(
    dirs: &mut Dirs,
    ledger: &Ledger,
    policy: InboxPolicy,
    jobs: &[Job<'_>],
    blobs: &dyn Blobs,
    now: Timestamp,
) -> Result<Vec<Outcome>, ExchangeError> {
    let last = ledger.records(jobs.iter().map(|job| job.path.as_str()))?;
    let first = random()?;
    let mut steps: Vec<Step> = (0..)
        .zip(jobs.iter().zip(&last))
        .map(|(n, (job, last))| {
            let number = first.wrapping_add(n);
            decide(dirs, policy, job, last.as_ref(), blobs, number).unwrap_or_else(|error| Step::Done(Outcome::failed(error)))
        })
        .collect();
    hold_back(dirs, jobs, &mut steps);
    let mut sidecars: Vec<Option<Sidecar>> = Vec::new();
    if policy.sidecar {
        let wanted: Vec<bool> = steps.iter().map(|step| !matches!(step, Step::Done(_))).collect();
        sidecars = sidecar::plan(dirs, ledger, policy, jobs, &wanted, first.wrapping_add(jobs.len() as u64))?;
    }
    sidecars.resize_with(jobs.len(), || None);
    let rows = jobs.iter().zip(&steps).filter_map(|(job, step)| match step {
        Step::Temp(number) => {
            let arrival = policy.arrivals.then(|| job.arrival());
            Some((*number, Pending { path: job.path.to_string(), record: job.record(None), arrival }))
        }
        _ => None,
    });
    let beside = sidecars.iter().flatten().filter_map(|sidecar| {
        let (path, record) = (sidecar.path.clone(), sidecar.record.clone());
        Some((sidecar.number?, Pending { path, record, arrival: None }))
    });
    let mut rows = rows.chain(beside).peekable();
    if rows.peek().is_some() {
        ledger.begin(now, rows)?;
        fault::point("exchange.begin");
        write_all(dirs, policy, jobs, &mut steps, &mut sidecars, blobs);
        let mut ready: BTreeSet<u64> = steps.iter().filter_map(Step::temp).collect();
        ready.extend(sidecars.iter().flatten().filter_map(|sidecar| sidecar.number));
        if jobs.iter().zip(&steps).any(|(job, step)| is_group(job) && step.temp().is_some()) {
            ledger.placing(now, &ready)?;
            fault::point("exchange.placing");
        }
    } else if !steps.iter().any(|step| matches!(step, Step::Equal(_))) {
        return Ok(steps.into_iter().map(Step::outcome).collect());
    }
    let (mut records, mut arrivals) = (Vec::new(), Vec::new());
    let mut outcomes = Vec::with_capacity(jobs.len());
    for (((job, step), last), sidecar) in jobs.iter().zip(steps).zip(&last).zip(sidecars) {
        let placed = match step {
            Step::Done(outcome) => {
                outcomes.push(outcome);
                continue;
            }
            Step::Equal(record) => Ok((record, Outcome::AlreadyThere)),
            Step::Temp(number) => place(dirs, job.path.as_str(), number, job.record(None), last.as_ref(), now),
        };
        match placed {
            Ok((record, outcome)) => {
                records.push((job.path.to_string(), record));
                arrivals.extend(policy.arrivals.then(|| job.arrival()));
                outcomes.push(outcome);
                records.extend(sidecar.and_then(|sidecar| place_sidecar(dirs, sidecar, now)));
            }
            Err(error) => {
                outcomes.push(Outcome::failed(error));
                sidecar.iter().for_each(|sidecar| drop_sidecar(dirs, sidecar));
            }
        }
    }
    dirs.sync()?;
    fault::point("exchange.named");
    ledger.finish(&records, &arrivals)?;
    fault::point("exchange.finish");
    Ok(outcomes)
}

/// Whether the job shares its fate with others.
fn is_group(job: &Job<'_>) -> bool {
    job.delivery.together && job.delivery.files.len() > 1
}

impl Step {
    fn temp(&self) -> Option<u64> {
        match self {
            Self::Temp(number) => Some(*number),
            _ => None,
        }
    }

    fn outcome(self) -> Outcome {
        match self {
            Self::Done(outcome) => outcome,
            Self::Equal(_) | Self::Temp(_) => unreachable!("only finished steps are asked"),
        }
    }
}

/// For names that nobody else has.
pub(super) fn random() -> Result<u64, ExchangeError> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| ExchangeError::io("", "get a random name", error))?;
    Ok(u64::from_le_bytes(bytes))
}

/// What is to be done for a file, from what the ledger and the disk say. Changes nothing.
fn decide(
    dirs: &mut Dirs,
    policy: InboxPolicy,
    job: &Job<'_>,
    last: Option<&Record>,
    blobs: &dyn Blobs,
    number: u64,
) -> Result<Step, ExchangeError> {
    let path = job.path.as_str();
    let record = job.record(None);
    // A sidecar is as much its sender's as the file that it is of.
    if let Some(last) = last.filter(|last| policy.owner == Owner::Sender && last.sender != record.sender) {
        return Err(ExchangeError::NotOwner { path: path.to_owned(), owner: last.sender });
    }
    if let Some(last) = last.filter(|last| last.sidecar.is_none()) {
        match last.order().cmp(&record.order()) {
            std::cmp::Ordering::Greater => return Ok(Step::Done(Outcome::Superseded)),
            // Delivered before: whether it is still there, edited or removed is the user's business.
            std::cmp::Ordering::Equal => return Ok(Step::Done(Outcome::AlreadyThere)),
            std::cmp::Ordering::Less => {}
        }
    }
    let (_, name) = name::split(path);
    if let Some(dir) = dirs.find(path)? {
        match look(&dir, name, last, record.size, &record.blob)
            .map_err(|error| ExchangeError::io(path, "look at what is there", error))?
        {
            There::Equal { print, durable } => {
                if !durable {
                    dirs.touch(path);
                }
                return Ok(Step::Equal(Record { print: Some(print), ..record }));
            }
            There::Directory => return Err(ExchangeError::DirectoryInTheWay { path: path.to_owned() }),
            There::Nothing | There::Ours | There::Theirs => {}
        }
    }
    match blobs.size(&record.blob).map_err(|error| ExchangeError::io(path, "ask the store for its blob", error))? {
        None => Err(ExchangeError::Missing { path: path.to_owned(), blob: record.blob }),
        Some(size) if size != record.size => Err(damaged(path, &record)),
        Some(_) => Ok(Step::Temp(number)),
    }
}

fn damaged(path: &str, record: &Record) -> ExchangeError {
    ExchangeError::Damaged { path: path.to_owned(), blob: record.blob, size: record.size }
}

/// Where a file failed, the others of a delivery that stays together must not appear.
fn hold_back(dirs: &mut Dirs, jobs: &[Job<'_>], steps: &mut [Step]) {
    let mut failed: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
    for (job, step) in jobs.iter().zip(steps.iter()).filter(|(job, _)| is_group(job)) {
        if let Step::Done(Outcome::Failed { retry, .. }) = step {
            let (count, all_retry) = failed.entry(job.slot.0).or_insert((0, true));
            *count += 1;
            *all_retry &= retry;
        }
    }
    for (job, step) in jobs.iter().zip(steps) {
        if let (Some((failed, retry)), Step::Temp(number)) = (failed.get(&job.slot.0), &*step) {
            remove_temp(dirs, job.path.as_str(), *number);
            let error = ExchangeError::HeldBack { path: job.path.to_string(), failed: *failed };
            *step = Step::Done(Outcome::Failed { error, retry: *retry });
        }
    }
}

/// Writes the temporary files and makes them durable. Afterwards each step is done or its temporary file is whole.
fn write_all(
    dirs: &mut Dirs,
    policy: InboxPolicy,
    jobs: &[Job<'_>],
    steps: &mut [Step],
    sidecars: &mut [Option<Sidecar>],
    blobs: &dyn Blobs,
) {
    let files = steps.iter().filter_map(Step::temp).chain(sidecars.iter().flatten().filter_map(|sidecar| sidecar.number));
    let each = files.count() < SYNCFS_FILES;
    let mut broken = BTreeSet::new();
    for (job, step) in jobs.iter().zip(steps.iter_mut()) {
        let Step::Temp(number) = *step else { continue };
        // The rest of what stays together would be written in vain.
        if broken.contains(&job.slot.0) {
            continue;
        }
        let path = job.path.as_str();
        if let Err(error) = write(dirs, policy, path, number, job.entry, blobs, each) {
            remove_temp(dirs, path, number);
            *step = Step::Done(Outcome::failed(error));
            if is_group(job) {
                broken.insert(job.slot.0);
            }
        }
        fault::point("exchange.write");
    }
    hold_back(dirs, jobs, steps);
    for (step, slot) in steps.iter().zip(sidecars.iter_mut()) {
        let Some(Sidecar { number: Some(number), .. }) = slot else { continue };
        let (number, sidecar) = (*number, slot.as_ref().expect("it was just looked at"));
        let written = match step {
            Step::Done(_) => Ok(false),
            _ => sidecar::write(dirs, sidecar, number, each).map(|()| true),
        };
        if let Err(error) = &written {
            tracing::warn!(path = sidecar.path, %error, "a sidecar cannot be written");
        }
        if !matches!(written, Ok(true)) {
            drop_sidecar(dirs, sidecar);
            *slot = None;
        }
    }
    if !each && let Err(error) = fs::syncfs(&dirs.root().fd) {
        for (job, step) in jobs.iter().zip(steps) {
            if let Step::Temp(number) = *step {
                let path = job.path.as_str();
                remove_temp(dirs, path, number);
                *step = Step::Done(Outcome::failed(ExchangeError::io(path, "make it durable", error)));
            }
        }
        for sidecar in sidecars.iter_mut().filter_map(Option::take) {
            drop_sidecar(dirs, &sidecar);
        }
    }
    fault::point("exchange.barrier");
}

/// Fills one temporary file beside its later name, and reads it back: whatever way the bytes came, also by reflink, what the
/// name will show has the manifest's size and hash.
fn write(
    dirs: &mut Dirs,
    policy: InboxPolicy,
    path: &str,
    number: u64,
    entry: &FileEntry,
    blobs: &dyn Blobs,
    sync: bool,
) -> Result<(), ExchangeError> {
    let fail = |what: &'static str| move |error: io::Error| ExchangeError::io(path, what, error);
    let dir = dirs.make(path)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::openat(&dir.fd, name::temp(number), flags, Mode::from_raw_mode(0o600))
        .map_err(|error| fail("make a temporary file")(error.into()))?;
    let file = File::from(fd);
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ExchangeError::Missing { path: path.to_owned(), blob: entry.blob },
        _ => fail("write it")(error),
    };
    let mut read_back = ReadBack::new(&file, entry.size);
    blobs.export(&entry.blob, &file, &mut |end| read_back.follow(end)).map_err(missing)?;
    if read_back.hash().map_err(fail("read it back"))? != Some(entry.blob) {
        blobs.verify(&entry.blob).map_err(missing)?;
        return Err(ExchangeError::Damaged { path: path.to_owned(), blob: entry.blob, size: entry.size });
    }
    set_metadata(&file, policy, entry).map_err(|error| fail("set its mode and time")(error.into()))?;
    // A directory of the inbox may be a mount of its own, which the barrier of the inbox's file system does not cover.
    if sync || dir.dev != dirs.root().dev {
        file.sync_all().map_err(fail("make it durable"))?;
    }
    Ok(())
}

/// What the file keeps of the sender's time and permission bits. A file system that has no such thing keeps its own.
fn set_metadata(file: &File, policy: InboxPolicy, entry: &FileEntry) -> Result<(), Errno> {
    let omit = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
    let nanoseconds = entry.mtime.rem_euclid(1000) * 1_000_000;
    let time = Timespec { tv_sec: entry.mtime.div_euclid(1000), tv_nsec: nanoseconds };
    if policy.mtime {
        tolerate(fs::futimens(file, &Timestamps { last_access: omit, last_modification: time }))?;
    }
    tolerate(fs::fchmod(file, Mode::from_raw_mode(entry.mode & policy.mode & 0o777)))
}

/// A file system that has no such thing is no failure.
pub(super) fn tolerate(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(()),
        other => other,
    }
}

/// Gives a whole and durable temporary file its name. The disk is looked at again, since writing may have taken long.
pub(super) fn place(
    dirs: &mut Dirs,
    path: &str,
    number: u64,
    record: Record,
    last: Option<&Record>,
    now: Timestamp,
) -> Result<(Record, Outcome), ExchangeError> {
    let placed = try_place(dirs, path, number, &record, last, now);
    if !matches!(placed, Ok((_, Outcome::Delivered))) {
        remove_temp(dirs, path, number);
    }
    placed.map(|(print, outcome)| (Record { print: Some(print), ..record }, outcome))
}

fn try_place(
    dirs: &mut Dirs,
    path: &str,
    number: u64,
    record: &Record,
    last: Option<&Record>,
    now: Timestamp,
) -> Result<(Print, Outcome), ExchangeError> {
    let fail = |what: &'static str| move |error: Errno| ExchangeError::io(path, what, error);
    let dir = dirs.find(path)?.ok_or_else(|| fail("find its directory")(Errno::NOENT))?;
    let (_, name) = name::split(path);
    dirs.touch(path);
    match look(&dir, name, last, record.size, &record.blob)
        .map_err(|error| ExchangeError::io(path, "look at what is there", error))?
    {
        There::Nothing | There::Ours => {}
        There::Equal { print, .. } => return Ok((print, Outcome::AlreadyThere)),
        There::Directory => return Err(ExchangeError::DirectoryInTheWay { path: path.to_owned() }),
        // It is nobody's to replace with what nobody sent.
        There::Theirs if record.sidecar.is_some() => return Err(fail("keep what is there and write it")(Errno::EXIST)),
        There::Theirs => {
            dir.move_aside(name, now).map_err(fail("move aside what is there"))?;
            fault::point("exchange.aside");
        }
    }
    fs::renameat(&dir.fd, name::temp(number), &dir.fd, name).map_err(fail("rename it into place"))?;
    fault::point("exchange.rename");
    let stat = fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail("look at what was written"))?;
    Ok((Print::of(&stat), Outcome::Delivered))
}

/// Gives a sidecar its name, unless something else has taken that meanwhile.
fn place_sidecar(dirs: &mut Dirs, sidecar: Sidecar, now: Timestamp) -> Option<(String, Record)> {
    let Sidecar { path, number, record, last, .. } = sidecar;
    let Some(number) = number else { return Some((path, record)) };
    match place(dirs, &path, number, record, last.as_ref(), now) {
        Ok((record, _)) => Some((path, record)),
        Err(error) => {
            tracing::warn!(path, %error, "a sidecar cannot be written");
            None
        }
    }
}

fn drop_sidecar(dirs: &mut Dirs, sidecar: &Sidecar) {
    if let Some(number) = sidecar.number {
        remove_temp(dirs, &sidecar.path, number);
    }
}

/// Removes a temporary file of ours, if it exists. One that cannot be removed is logged and stays.
fn remove_temp(dirs: &mut Dirs, path: &str, number: u64) {
    if let Ok(Some(dir)) = dirs.find(path)
        && let Err(error) = dir.remove(&name::temp(number))
    {
        tracing::warn!(path, %error, "cannot remove a temporary file");
    }
}
