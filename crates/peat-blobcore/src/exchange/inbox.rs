//! The inbox: deliveries in, outcomes out. Decides what goes into which batch; a batch does the writing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::arrivals::Arrival;
use super::batch::{self, Job};
use super::beneath::Dirs;
use super::blobs::Blobs;
use super::error::ExchangeError;
use super::ledger::Ledger;
use super::{name, recover, remove, sidecar};
use crate::model::{DistributionId, EndpointId, FileEntry, Priority, Timestamp};

/// Files between two barriers. What is delivered together is never split, whatever its number.
const BATCH_FILES: usize = 1024;

/// Who may replace a file of the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    /// Any accepted sender: the latest wins.
    #[default]
    Shared,
    /// Only the sender whose delivery made the path; others are refused.
    Sender,
}

/// Where a file of a sender goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// `{inbox}/{relative path}`, whoever sent it.
    #[default]
    Shared,
    /// `{inbox}/{endpoint id of the sender}/{relative path}`: the one name that a node keeps when it is renamed, and that nobody
    /// else can take.
    Origin,
}

/// The rules of an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxPolicy {
    /// Who may replace a file.
    pub owner: Owner,
    /// Where files go.
    pub layout: Layout,
    /// Which of the permission bits of its sender a file keeps. Set-uid, set-gid and sticky are never kept, whatever is said here.
    pub mode: u32,
    /// Whether a file keeps the time at which it was modified; else it has that of its delivery.
    pub mtime: bool,
    /// Whether a `<name>.peat.json` is written beside each file.
    pub sidecar: bool,
    /// Whether somebody is to be told of each file: see [`Inbox::arrival`].
    pub arrivals: bool,
}

impl Default for InboxPolicy {
    fn default() -> Self {
        // Nobody but the owner may write, whatever the sender's machine thinks of its group and others.
        Self { owner: Owner::Shared, layout: Layout::Shared, mode: 0o755, mtime: true, sidecar: false, arrivals: false }
    }
}

/// Files of one distribution whose blobs are here.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The distribution.
    pub id: DistributionId,
    /// Who sent it.
    pub sender: EndpointId,
    /// Its time, which orders what comes under one path.
    pub made_at: Timestamp,
    /// Until when it is tried.
    pub expiry: Timestamp,
    /// The send call that it belongs to.
    pub bundle: String,
    /// How urgent it is.
    pub priority: Priority,
    /// How many files the whole distribution has, whatever their number here.
    pub file_count: u64,
    /// Whether these files, which are then all that the distribution has, appear all at once or not at all.
    pub together: bool,
    /// Whether these files are to go from the inbox, and not to come.
    pub removes: bool,
    /// The files, each with its place in the manifest's list.
    pub files: Vec<(u32, FileEntry)>,
}

/// What became of one file. All but [`Outcome::Failed`] are durable and stand for a receipt.
#[derive(Debug)]
pub enum Outcome {
    /// It is in the inbox now.
    Delivered,
    /// An equal file is there; or this very file was delivered before, and what the user has done with it since stands. Of what is
    /// to go: nothing of it is there.
    AlreadyThere,
    /// The inbox has had something newer under that path.
    Superseded,
    /// It was to go, and is gone.
    Removed,
    /// It was to go, and stays: it is not what was delivered there, or what another sender delivered.
    Kept,
    /// It is not in the inbox, and nothing else was lost for it.
    Failed {
        /// Why.
        error: ExchangeError,
        /// Whether the same delivery can succeed later.
        retry: bool,
    },
}

impl Outcome {
    pub(super) fn failed(error: ExchangeError) -> Self {
        let retry = error.retry();
        Self::Failed { error, retry }
    }
}

/// A directory that verified files appear in. Clones share one inbox; deliveries take turns. All calls block.
#[derive(Debug, Clone)]
pub struct Inbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    policy: InboxPolicy,
    ledger: Ledger,
    turn: Mutex<()>,
    /// Told when something may have arrived.
    arrived: Notify,
}

impl Inbox {
    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// Opens the inbox at `directory`, made if need be, with its ledger at `ledger`. What a crash left half-done is finished
    /// or undone first: temporary files are known by name from the ledger, so no file of anybody else is ever removed.
    ///
    /// # Errors
    /// [`ExchangeError`] when the ledger cannot be opened. An inbox that cannot be written to is no error here: each delivery
    /// reports it, and succeeds once it can.
    pub fn open(directory: &Path, ledger: Ledger, policy: InboxPolicy) -> Result<Self, ExchangeError> {
        if !policy.arrivals {
            ledger.forget_arrivals()?;
        }
        let (turn, arrived) = (Mutex::new(()), Notify::new());
        let shared = Shared { directory: directory.to_owned(), policy, ledger, turn, arrived };
        let recovered = Dirs::open(&shared.directory).and_then(|mut dirs| {
            recover::recover(&mut dirs, &shared.ledger)?;
            if policy.sidecar { sidecar::sweep(&mut dirs, &shared.ledger) } else { Ok(()) }
        });
        if let Err(error) = recovered {
            tracing::warn!(inbox = %directory.display(), %error, "the inbox cannot be written to yet");
        }
        Ok(Self(Arc::new(shared)))
    }

    /// Delivers files, and returns what became of each, in the order of `deliveries` and of their files. Calling again with
    /// the same is harmless and writes nothing. `now` names the files that are moved aside.
    ///
    /// # Errors
    /// [`ExchangeError`] when the inbox's directory or ledger is out of order: nothing is acknowledged then, and what is
    /// half-done is finished or undone by the next call.
    pub fn deliver(
        &self,
        deliveries: &[Delivery],
        blobs: &dyn Blobs,
        now: Timestamp,
    ) -> Result<Vec<Vec<(u32, Outcome)>>, ExchangeError> {
        let _turn = self.turn();
        let mut dirs = Dirs::open(&self.0.directory)?;
        recover::recover(&mut dirs, &self.0.ledger)?;
        let mut outcomes: Vec<Vec<Option<Outcome>>> =
            deliveries.iter().map(|delivery| delivery.files.iter().map(|_| None).collect()).collect();
        let mut batch = Batch::default();
        let flush = |dirs: &mut Dirs, batch: &mut Batch<'_>, outcomes: &mut Vec<Vec<Option<Outcome>>>| {
            batch.paths.clear();
            let jobs = std::mem::take(&mut batch.jobs);
            let done = batch::run(dirs, &self.0.ledger, self.0.policy, &jobs, blobs, now)?;
            self.0.arrived.notify_one();
            for (job, outcome) in jobs.iter().zip(done) {
                outcomes[job.slot.0][job.slot.1] = Some(outcome);
            }
            Ok::<_, ExchangeError>(())
        };
        // The newest first: what it supersedes is then not written at all.
        let mut order: Vec<usize> = (0..deliveries.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse((deliveries[at].made_at, deliveries[at].id)));
        for at in order {
            let jobs = plan(self.0.policy.layout, at, &deliveries[at], &mut outcomes[at]);
            if deliveries[at].removes {
                flush(&mut dirs, &mut batch, &mut outcomes)?;
                for jobs in jobs.chunks(BATCH_FILES) {
                    for (job, outcome) in jobs.iter().zip(remove::run(&mut dirs, &self.0.ledger, self.0.policy.owner, jobs)?) {
                        outcomes[job.slot.0][job.slot.1] = Some(outcome);
                    }
                }
                continue;
            }
            let block = if deliveries[at].together { jobs.len().max(1) } else { 1 };
            let mut jobs = jobs.into_iter().peekable();
            while jobs.peek().is_some() {
                let block: Vec<Job<'_>> = jobs.by_ref().take(block).collect();
                if !batch.takes(&block) {
                    flush(&mut dirs, &mut batch, &mut outcomes)?;
                }
                batch.add(block);
            }
        }
        flush(&mut dirs, &mut batch, &mut outcomes)?;
        let whole = outcomes.into_iter().zip(deliveries).map(|(outcomes, delivery)| {
            let indices = delivery.files.iter().map(|(index, _)| *index);
            indices
                .zip(outcomes.into_iter().map(|outcome| outcome.expect("each file is planned, and each plan is run")))
                .collect()
        });
        Ok(whole.collect())
    }

    /// Forgets that a distribution was delivered, so that delivering it again writes its files again (equal ones excepted).
    /// Returns the number of paths.
    ///
    /// # Errors
    /// [`ExchangeError::Ledger`].
    pub fn forget(&self, distribution: &DistributionId) -> Result<u64, ExchangeError> {
        let _turn = self.turn();
        self.0.ledger.forget(distribution)
    }

    /// Whether the ledger knows of anything under the name that this file of a distribution has here. Where this node has
    /// signed a receipt and it does not, the ledger was lost.
    ///
    /// # Errors
    /// [`ExchangeError::Ledger`].
    pub fn knows(
        &self,
        sender: &EndpointId,
        id: &DistributionId,
        index: u32,
        file_count: u64,
        entry: &FileEntry,
    ) -> Result<bool, ExchangeError> {
        // In whatever layout: that the layout was changed is no loss.
        let paths = [Layout::Shared, Layout::Origin].map(|layout| name::place(layout, sender, id, index, file_count, entry));
        Ok(self.0.ledger.records(paths.iter().map(|path| path.as_str()))?.iter().any(Option::is_some))
    }

    /// The first file that came and was not seen to yet, with a number for [`Inbox::arrival_done`]. Nothing where the policy does
    /// not say that somebody asks.
    ///
    /// # Errors
    /// [`ExchangeError::Ledger`].
    pub fn arrival(&self) -> Result<Option<(u64, Arrival)>, ExchangeError> {
        self.0.ledger.arrival()
    }

    /// The file of this number was seen to, durably: it is not told of again.
    ///
    /// # Errors
    /// [`ExchangeError::Ledger`].
    pub fn arrival_done(&self, number: u64) -> Result<(), ExchangeError> {
        self.0.ledger.arrival_done(number)
    }

    /// How many files came and were not seen to yet.
    ///
    /// # Errors
    /// [`ExchangeError::Ledger`].
    pub fn arrivals(&self) -> Result<u64, ExchangeError> {
        self.0.ledger.arrivals()
    }

    /// Resolves when something may have arrived since this was last asked. One waits at a time.
    pub async fn arrived(&self) {
        self.0.arrived.notified().await;
    }

    /// Whether the ledger knows of no delivery at all: it is new.
    ///
    /// # Errors
    /// [`ExchangeError::Ledger`].
    pub fn is_blank(&self) -> Result<bool, ExchangeError> {
        self.0.ledger.is_blank()
    }

    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        // What a panic left half-done, the next delivery finishes like what a crash left.
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The jobs until the next barrier, no two for one path.
#[derive(Default)]
struct Batch<'a> {
    jobs: Vec<Job<'a>>,
    paths: BTreeSet<String>,
}

impl<'a> Batch<'a> {
    fn takes(&self, block: &[Job<'_>]) -> bool {
        self.jobs.is_empty()
            || self.jobs.len() + block.len() <= BATCH_FILES && block.iter().all(|job| !self.paths.contains(job.path.as_str()))
    }

    fn add(&mut self, block: Vec<Job<'a>>) {
        self.paths.extend(block.iter().map(|job| job.path.as_str().to_owned()));
        self.jobs.extend(block);
    }
}

/// Gives each file its path, and settles what the delivery says twice: of two files under one path the later one counts; of
/// a file and a directory of one name the file fails, and with it all when they are delivered together. Both may go.
fn plan<'a>(layout: Layout, at: usize, delivery: &'a Delivery, outcomes: &mut [Option<Outcome>]) -> Vec<Job<'a>> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut jobs: Vec<Option<Job<'a>>> = Vec::with_capacity(delivery.files.len());
    for (slot, (index, entry)) in delivery.files.iter().enumerate() {
        let path = name::place(layout, &delivery.sender, &delivery.id, *index, delivery.file_count, entry);
        let mut loser = None;
        places
            .entry(path.as_str().to_owned())
            .and_modify(|there| {
                loser = Some(if delivery.files[*there].0 <= *index { std::mem::replace(there, slot) } else { slot });
            })
            .or_insert(slot);
        jobs.push(Some(Job { slot: (at, slot), delivery, index: *index, entry, path }));
        if let Some(loser) = loser {
            jobs[loser] = None;
            outcomes[loser] = Some(Outcome::Superseded);
        }
    }
    let mut clashes = 0;
    for (path, slot) in places.iter().filter(|_| !delivery.removes) {
        let beneath = format!("{path}/");
        let next = places.range::<str, _>((Bound::Included(beneath.as_str()), Bound::Unbounded)).next();
        if next.is_some_and(|(next, _)| next.starts_with(&beneath)) {
            jobs[*slot] = None;
            outcomes[*slot] = Some(Outcome::failed(ExchangeError::Clash { path: path.clone() }));
            clashes += 1;
        }
    }
    let jobs = jobs.into_iter().flatten();
    if clashes == 0 || !delivery.together {
        return jobs.collect();
    }
    for job in jobs {
        let error = ExchangeError::HeldBack { path: job.path.to_string(), failed: clashes };
        outcomes[job.slot.1] = Some(Outcome::Failed { error, retry: false });
    }
    Vec::new()
}
