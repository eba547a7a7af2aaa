//! Watched outboxes: what is put into a directory is sent without anybody asking, each version of a file once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, mpsc, watch};

use super::looks::Looks;
use super::send::{Job, Terms, entry};
use super::{Node, blocking};
use crate::clock::Clock;
use crate::driver::Request;
use crate::exchange::{Collected, Notices, SentFile, Watcher};
use crate::model::{Carry, DistributionId, FileEntry, Manifest, Priority, Scope};
use crate::replica::Accepted;
use crate::{Error, ErrorKind, Watched};

/// How long a watch rests after the disk was full.
const REST: Duration = Duration::from_secs(30);

/// What to watch, and how what is found there is sent. [`OutboxOptions::new`] sends everything to all; the fields say otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxOptions {
    /// The directory.
    pub root: PathBuf,
    /// What receivers are told that it is called. What was sent is remembered under this name.
    pub root_name: String,
    /// Whom its files are for.
    pub scope: Scope,
    /// How urgent they are.
    pub priority: Priority,
    /// How long they are tried; at most [`Manifest::MAX_LIFETIME`].
    pub lifetime: Duration,
    /// Who may hold them for others.
    pub carry: Carry,
    /// The largest file that is sent, in bytes. Larger ones wait, and are told of.
    pub max_file_bytes: Option<u64>,
    /// How long a file's size and times have been the same before it is sent.
    pub stable: Duration,
    /// Whether files that are removed there are to go from the inboxes that they were delivered into.
    pub deletions: bool,
    /// How often the directory is looked at; less often if a look takes more than a tenth of that.
    pub interval: Duration,
    /// Whether it is looked at sooner when the kernel tells that something was put there (inotify).
    pub notices: bool,
}

impl OutboxOptions {
    /// Sends what is beneath `root` to all members, as routine, for 30 days, two seconds after it was last written to.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>, root_name: impl Into<String>) -> Self {
        Self {
            root: root.into(),
            root_name: root_name.into(),
            scope: Scope::All,
            priority: Priority::Routine,
            lifetime: Manifest::DEFAULT_LIFETIME,
            carry: Carry::Members,
            max_file_bytes: None,
            stable: Duration::from_secs(2),
            deletions: false,
            interval: Duration::from_secs(2),
            notices: true,
        }
    }
}

/// How a watched outbox is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Files that wait until nobody writes to them, or for their turn.
    pub waiting: u64,
    /// Files that were sent since the watch began.
    pub sent: u64,
    /// The distributions that they became.
    pub distributions: u64,
    /// Files whose removal was told since the watch began.
    pub removed: u64,
    /// What keeps files from being sent, if something does.
    pub problem: Option<String>,
    /// Why files that are missed are not taken for removed, if that is so.
    pub held: Option<String>,
    /// Why what is put there is found by polls alone ([`OutboxOptions::interval`]), if that is so.
    pub polled: Option<String>,
}

/// Who watches the outbox of a name, one at a time.
pub(super) type Turns = std::sync::Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>;

/// A watched outbox. What it has sent stays sent.
pub type WatchedOutbox = Watched<OutboxStatus>;

impl Node {
    /// Watches a directory and sends what is put there. Not sent are symbolic links, hidden files (`.name`, also what is in a hidden
    /// directory), `*.part` and `*~`: write under such a name and rename. A file that changes is sent again, one that stays the
    /// same never, not even after a restart.
    ///
    /// One that is removed stays where it was delivered, unless [`OutboxOptions::deletions`] says otherwise. Then it goes from the
    /// inboxes of those in its scope, where it is as it was delivered, once it was missed for as long as files are to be still. Nothing
    /// counts as removed while the root is empty or another directory or file system than when all was there, nor what lay
    /// beneath a mount within it that is not there: [`OutboxStatus::held`] says so.
    ///
    /// Files that are ready together are one distribution, of 4096 files at most; each appears at its receivers as it comes. A second
    /// watch of the same `root_name` begins when the first has ended, with what it was at: this waits for that.
    ///
    /// # Errors
    /// When the ledger cannot be read. A root that is not there (yet) is waited for, see [`OutboxStatus::problem`].
    pub async fn watch_outbox(&self, options: OutboxOptions) -> Result<WatchedOutbox, Error> {
        let turn = {
            let mut turns = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(options.root_name.clone()).or_default())
        };
        let turn = turn.lock_owned().await;
        self.finish_interrupted(&options.root_name).await?;
        let (sender, status) = watch::channel(OutboxStatus::default());
        let watcher = Watcher::new(&options.root, &options.root_name, self.ledger.clone(), options.stable, options.deletions);
        let watching = Watching {
            job: self.job(),
            clock: Arc::clone(&self.clock),
            requests: self.requests.clone(),
            options,
            status: sender,
        };
        let looks = Looks::new(&watching.options, Arc::clone(&self.watches));
        let task = tokio::spawn(watching.run(looks, watcher, turn));
        Ok(Watched::new(status, task))
    }

    /// What was about to be sent when the process ended has been, if there is a distribution of it.
    async fn finish_interrupted(&self, root: &str) -> Result<(), Error> {
        let unfinished = self.ledger.unfinished_sending(root)?;
        if unfinished.is_empty() {
            return Ok(());
        }
        let mut found = BTreeSet::new();
        for id in self.distributions() {
            let distribution = self.distribution(id).await?;
            if distribution.manifest.sender == self.id() && unfinished.contains(&distribution.manifest.bundle) {
                found.insert(distribution.manifest.bundle.clone());
            }
        }
        for bundle in unfinished {
            self.ledger.end_sending(root, &bundle, found.contains(&bundle))?;
        }
        Ok(())
    }
}

/// One watch, as it runs.
struct Watching {
    job: Job,
    clock: Arc<dyn Clock>,
    requests: mpsc::Sender<Request>,
    options: OutboxOptions,
    status: watch::Sender<OutboxStatus>,
}

/// What came of what was ready.
#[derive(Default)]
struct Round {
    sent: u64,
    distributions: u64,
    waiting: u64,
    removed: u64,
    more: bool,
    /// Whether something waits until it was still for long enough.
    waits: bool,
    problem: Option<String>,
    held: Option<String>,
}

impl Watching {
    /// `turn` goes where the watcher goes: a round that has begun ends though the task was ended, and nobody may watch before.
    /// `looks` comes first, and so goes last: the kernel takes its time to end notices, and the ledger is to be free before that.
    async fn run(self, mut looks: Looks, mut watcher: Watcher, mut turn: OwnedMutexGuard<()>) {
        let watching = Arc::new(self);
        loop {
            let (this, mut moved, mut moved_looks) = (Arc::clone(&watching), watcher, looks);
            let round = move || {
                let (now, notices) = moved_looks.begin();
                let outcome = this.round(&mut moved, notices, now);
                let options = &this.options;
                let (waits, rest) = match &outcome {
                    // What comes one by one is sent together.
                    Ok(round) if round.sent > 0 => (round.waits, options.stable.min(options.interval)),
                    Ok(round) => (round.waits, Duration::ZERO),
                    Err(error) if error.kind() == ErrorKind::NoSpace => (true, REST),
                    Err(_) => (true, Duration::ZERO),
                };
                moved_looks.end(now, waits, rest);
                (outcome, moved, turn, moved_looks)
            };
            let Ok((outcome, back, kept, back_looks)) = blocking(round).await else { return };
            (watcher, looks, turn) = (back, back_looks, kept);
            let round = match outcome {
                Ok(round) => round,
                Err(Error::Stopped) => return,
                Err(error) => {
                    let (waiting, held) = (watching.status.borrow().waiting, watching.status.borrow().held.clone());
                    Round { problem: Some(error.to_string()), waiting, held, ..Round::default() }
                }
            };
            let goes_on = round.more && round.problem.is_none();
            watching.tell(round, looks.polled());
            if goes_on {
                continue;
            }
            tokio::select! {
                () = looks.next() => {}
                () = watching.requests.closed() => return,
            }
        }
    }

    /// Notes what came of a round, and logs what is new of what is amiss.
    fn tell(&self, round: Round, polled: Option<&str>) {
        let root = &self.options.root_name;
        if let Some(problem) = round.problem.as_ref().filter(|_| self.status.borrow().problem != round.problem) {
            tracing::warn!(root, %problem, "files of a watched outbox are not sent");
        }
        if let Some(held) = round.held.as_ref().filter(|_| self.status.borrow().held != round.held) {
            tracing::warn!(root, %held, "files of a watched outbox are not taken for removed");
        }
        if let Some(why) = polled.filter(|why| self.status.borrow().polled.as_deref() != Some(*why)) {
            tracing::info!(root, why, "what is put into a watched outbox is found by polls alone");
        }
        self.status.send_if_modified(|status| {
            let before = status.clone();
            status.waiting = round.waiting;
            status.sent += round.sent;
            status.distributions += round.distributions;
            status.removed += round.removed;
            status.problem = round.problem;
            status.held = round.held;
            status.polled = polled.map(str::to_owned);
            *status != before
        });
    }

    /// Looks once, sends what is ready, and tells then what has gone: a file that was renamed is there under its new name first.
    fn round(&self, watcher: &mut Watcher, notices: Option<&mut Notices>, now: Duration) -> Result<Round, Error> {
        let date = self.clock.now();
        let looked = watcher.look(now, date, notices)?;
        let (waiting, more, waits, held) = (looked.unsettled as u64, looked.more, looked.waits, looked.held.clone());
        let mut round = Round { waiting, more, waits, held, ..Round::default() };
        let job = Job { now: date, ..self.job.clone() };
        if !looked.ready.is_empty() {
            self.send_ready(&job, watcher, &looked.ready, now, &mut round)?;
        }
        if !looked.gone.is_empty() {
            self.tell_gone(&job, looked.gone, &mut round)?;
            watcher.told();
        }
        Ok(round)
    }

    fn send_ready(
        &self,
        job: &Job,
        watcher: &mut Watcher,
        ready: &[Collected],
        now: Duration,
        round: &mut Round,
    ) -> Result<(), Error> {
        let (taken, failed) = {
            // From the first byte that is taken in until it is pinned.
            let _no_collection = job.content.keep_unpinned();
            let (taken, failed) = self.take_in(job, ready)?;
            self.send(job, &taken, round)?;
            (taken, failed)
        };
        watcher.settled(taken.iter().map(|taken| taken.path.as_slice()));
        for Unread { path, why } in failed {
            watcher.put_off(&path, now);
            (round.waiting, round.waits) = (round.waiting + 1, true);
            round.problem.get_or_insert(why);
        }
        Ok(())
    }

    /// Makes a distribution that has files removed. What another root of the same path still has is not removed for this one.
    fn tell_gone(&self, job: &Job, gone: Vec<(Vec<u8>, SentFile)>, round: &mut Round) -> Result<(), Error> {
        let (root, ledger) = (&self.options.root_name, &job.ledger);
        let (mut told, mut files, mut elsewhere) = (Vec::new(), Vec::new(), Vec::new());
        for (path, file) in gone {
            if ledger.is_sent_from_another(root, &path)? {
                elsewhere.push((path, None));
                continue;
            }
            files.push(FileEntry::removed(root.clone(), path.clone()));
            told.push((path, file.as_gone(job.now)));
        }
        ledger.note_sent(root, &elsewhere)?;
        if files.is_empty() {
            return Ok(());
        }
        let bundle = format!("{root} removed {} {}", job.me.short(), job.now.as_millis());
        let id = {
            let _no_collection = job.content.keep_unpinned();
            self.announce(job, bundle, &told, |terms| job.withdraw(&files, terms))?
        };
        tracing::info!(root, distribution = %id.short(), files = files.len(), "files were removed from a watched outbox");
        round.removed = files.len() as u64;
        round.distributions += 1;
        Ok(())
    }

    /// Makes a distribution, and remembers these files as what it says of them. What a crash leaves of it is ended by
    /// [`Node::finish_interrupted`].
    fn announce(
        &self,
        job: &Job,
        bundle: String,
        files: &[(Vec<u8>, SentFile)],
        make: impl FnOnce(&Terms) -> Result<(DistributionId, Accepted), Error>,
    ) -> Result<DistributionId, Error> {
        let (root, ledger, options) = (&self.options.root_name, &job.ledger, &self.options);
        ledger.begin_sending(root, &bundle, files)?;
        let made = make(&Terms {
            bundle: bundle.clone(),
            scope: options.scope.clone(),
            priority: options.priority,
            lifetime: options.lifetime,
            carry: options.carry.clone(),
            together: false,
        });
        ledger.end_sending(root, &bundle, made.is_ok())?;
        let (id, accepted) = made?;
        self.requests.blocking_send(Request::Wrote(accepted)).map_err(|_| Error::Stopped)?;
        Ok(id)
    }

    /// Takes files into the store. A file that cannot be read, or is written to meanwhile, holds up no other: it comes back with
    /// the reason.
    fn take_in(&self, job: &Job, ready: &[Collected]) -> Result<(Vec<TakenFile>, Vec<Unread>), Error> {
        let (mut taken, mut failed) = (Vec::new(), Vec::new());
        let mut batch = job.content.batch();
        for file in ready {
            if let Some(cap) = self.options.max_file_bytes.filter(|cap| file.size > *cap) {
                let name = String::from_utf8_lossy(&file.path);
                let why = format!("{name:?} has {} bytes, over the cap of {cap} bytes", file.size);
                failed.push(Unread { path: file.path.clone(), why });
                continue;
            }
            match entry(&mut batch, file, &self.options.root, &self.options.root_name) {
                Ok(entry) => taken.push(TakenFile { path: file.path.clone(), sent: file.as_sent(entry.blob), entry }),
                Err(error) if error.kind() == ErrorKind::NoSpace => return Err(error),
                Err(error) => failed.push(Unread { path: file.path.clone(), why: error.to_string() }),
            }
        }
        batch.commit()?;
        Ok((taken, failed))
    }

    /// Makes a distribution of the files that are not as they were sent before.
    fn send(&self, job: &Job, taken: &[TakenFile], round: &mut Round) -> Result<(), Error> {
        let (root, ledger) = (&self.options.root_name, &job.ledger);
        let before = ledger.sent_files(root, taken.iter().map(|file| file.path.as_slice()))?;
        let (mut same, mut new, mut files) = (Vec::new(), Vec::new(), Vec::new());
        for (file, before) in taken.iter().zip(before) {
            if before.is_some_and(|before| before.blob == file.sent.blob) {
                same.push((file.path.clone(), Some(file.sent.clone())));
            } else {
                new.push((file.path.clone(), file.sent.clone()));
                files.push(file.entry.clone());
            }
        }
        ledger.note_sent(root, &same)?;
        if files.is_empty() {
            return Ok(());
        }
        let bundle = format!("{root} {} {}", job.me.short(), job.now.as_millis());
        let id = self.announce(job, bundle, &new, |terms| job.distribute(&files, terms, None))?;
        tracing::info!(root, distribution = %id.short(), files = files.len(), "a watched outbox has sent files");
        round.sent = files.len() as u64;
        round.distributions += 1;
        Ok(())
    }
}

/// A file that is not in the store, and why.
struct Unread {
    path: Vec<u8>,
    why: String,
}

/// A file in the store, and how it is to be remembered.
struct TakenFile {
    path: Vec<u8>,
    entry: FileEntry,
    sent: SentFile,
}
