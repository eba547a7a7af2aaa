//! Watching an outbox by looking at it: which of its files are to be sent next. Metadata decides whether a file is looked into;
//! nothing is sent or written here but what is known of files that are gone.
//!
//! Looking works on every file system, mounts from other hosts included, and misses nothing while the process is down. Notices of
//! the kernel only say that it is time to look.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use super::error::ExchangeError;
use super::gone::{Absent, Missed, Place, Seen};
use super::ledger::Ledger;
use super::look::Print;
use super::notices::Notices;
use super::outbox::{Collected, Outbox, STRICT, SkipReason};
use super::sent::SentFile;
use super::walk::Found;
use crate::ErrorKind;
use crate::model::{BlobHash, Timestamp};

/// Files that are sent together, and the sum of their sizes at which no more are added.
const MAX_TOGETHER: usize = 4096;
const MAX_BYTES_TOGETHER: u64 = 1 << 30;
/// Files that wait to be still. More wait until these are sent.
const MAX_UNSETTLED: usize = 1 << 16;
/// How long a file that could not be sent is left alone.
const RETRY: Duration = Duration::from_secs(30);
/// How long what was sent is remembered after its file has gone: a mount that is away for a while makes nothing new.
const REMEMBERED: Duration = Duration::from_secs(90 * 24 * 3600);

/// A root and what is known of its files.
#[derive(Debug)]
pub(crate) struct Watcher {
    root: PathBuf,
    name: String,
    ledger: Ledger,
    window: Duration,
    /// Whether somebody is to be told of files that have gone, and which have.
    missed: Option<Missed>,
    /// Files to be sent once they are still: what they were, and since when that is so.
    unsettled: BTreeMap<Vec<u8>, (Print, Duration)>,
    /// Files that were sent and are there, once it is known how many.
    present: Option<u64>,
}

/// What a look at the root came to.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Files to send now, and how many bytes they have.
    pub(crate) ready: Vec<Collected>,
    /// Files that wait until they are still.
    pub(crate) unsettled: usize,
    /// Whether there are more that are ready.
    pub(crate) more: bool,
    /// Files that were sent and have been removed since, where somebody is to be told.
    pub(crate) gone: Vec<(Vec<u8>, SentFile)>,
    /// Why files that are missed are not taken for removed, if that is so.
    pub(crate) held: Option<String>,
    /// Whether files wait until they are still, or were missed for long enough.
    pub(crate) waits: bool,
}

impl Watcher {
    /// `window` is how long a file's size and times are the same before it is sent, and how long one that was sent is missed before
    /// it counts as removed, where `deletions` says that this is of interest.
    pub(crate) fn new(root: &Path, name: &str, ledger: Ledger, window: Duration, deletions: bool) -> Self {
        let missed = deletions.then(Missed::default);
        let (root, name) = (root.to_owned(), name.to_owned());
        Self { root, name, ledger, window, missed, unsettled: BTreeMap::new(), present: None }
    }

    /// Looks at every file, and has `notices` tell of what comes later. `now` is on any clock that never goes back, `date` is the wall's.
    ///
    /// # Errors
    /// When the root or the ledger cannot be read. Single files that cannot be looked at are left for the next time.
    pub(crate) fn look(
        &mut self,
        now: Duration,
        date: Timestamp,
        mut notices: Option<&mut Notices>,
    ) -> Result<Looked, ExchangeError> {
        let outbox = match (Outbox::open(&self.root), &mut notices) {
            (Err(error), Some(notices)) if error.kind() == ErrorKind::NotFound => {
                notices.wait_for(&self.root);
                // It may have come before that.
                Outbox::open(&self.root)?
            }
            (opened, _) => opened?,
        };
        let (place, mut anything) = (Place::of(&outbox)?, false);
        let present = match self.present {
            Some(present) => present,
            None => self.ledger.count_sent(&self.name)?,
        };
        let (mut looked, mut bytes, mut known) = (Looked::default(), 0_u64, 0_u64);
        let mut unsettled = BTreeMap::new();
        let mut back = Vec::new();
        let mut files = outbox.watched(notices.as_deref_mut()).filter_map(|found| {
            anything |= !matches!(found, Found::Skipped { reason: SkipReason::Failed(_), .. });
            match found {
                Found::File(file) if is_wanted(&file.path) => Some(file),
                _ => None,
            }
        });
        loop {
            let some: Vec<Collected> = files.by_ref().take(MAX_TOGETHER).collect();
            if some.is_empty() {
                break;
            }
            let sent = self.ledger.sent_files(&self.name, some.iter().map(|file| file.path.as_slice()))?;
            for (file, sent) in some.into_iter().zip(sent) {
                if let Some(sent) = sent {
                    known += u64::from(sent.gone.is_none());
                    if sent.print == file.print {
                        if sent.gone.is_some() || sent.mounted.is_none() {
                            let mounted = file.is_mounted();
                            back.push((file.path, Some(SentFile { gone: None, mounted, ..sent })));
                        }
                        continue;
                    }
                }
                let before = self.unsettled.get(&file.path).filter(|(print, _)| *print == file.print);
                let since = before.map_or(now, |(_, since)| *since);
                if now >= since.saturating_add(self.window) && before.is_some() {
                    if looked.ready.len() < MAX_TOGETHER && (bytes < MAX_BYTES_TOGETHER || looked.ready.is_empty()) {
                        bytes = bytes.saturating_add(file.size);
                        unsettled.insert(file.path.clone(), (file.print.clone(), since));
                        looked.ready.push(file);
                        continue;
                    }
                    looked.more = true;
                }
                if unsettled.len() < MAX_UNSETTLED {
                    unsettled.insert(file.path, (file.print, since));
                }
            }
        }
        looked.unsettled = unsettled.len() - looked.ready.len();
        drop(files);
        if let Some(notices) = notices {
            notices.looked();
        }
        self.unsettled = unsettled;
        let absent = if known < present {
            self.find_gone(&outbox, place, anything, now, date)?
        } else {
            if let Some(missed) = &mut self.missed {
                missed.settle(&self.ledger, &self.name, place)?;
            }
            Absent::default()
        };
        self.ledger.note_sent(&self.name, &back)?;
        self.present = if back.is_empty() { Some(known + absent.all) } else { None };
        looked.waits = looked.unsettled > 0 || absent.waits;
        (looked.gone, looked.held) = (absent.gone, absent.held);
        Ok(looked)
    }

    /// Looks after the files that were sent, some of which were not come across: says which have gone, or remembers that they have.
    fn find_gone(
        &mut self,
        outbox: &Outbox,
        place: Place,
        anything: bool,
        now: Duration,
        date: Timestamp,
    ) -> Result<Absent, ExchangeError> {
        self.remember_gone(outbox, date)?;
        let Some(missed) = &mut self.missed else { return Ok(Absent::default()) };
        let waiting: BTreeSet<u64> = self.unsettled.values().map(|(print, _)| print.inode).collect();
        missed.look(&self.ledger, &self.name, outbox, &Seen { place, anything, waiting: &waiting, now }, self.window)
    }

    /// Forgets what has gone long ago. Where nobody is to be told, remembers also what has gone since, so that a mount that is back
    /// makes nothing new.
    fn remember_gone(&self, outbox: &Outbox, date: Timestamp) -> Result<(), ExchangeError> {
        let mut changed = Vec::new();
        self.ledger.each_sent(&self.name, |path, file| match file.gone {
            Some(gone) if date > gone.plus(REMEMBERED) => changed.push((path.to_vec(), None)),
            None if self.missed.is_none() && outbox.resolve(path, OFlags::PATH, STRICT).is_err() => {
                changed.push((path.to_vec(), Some(SentFile { gone: Some(date), ..file })));
            }
            _ => {}
        })?;
        self.ledger.note_sent(&self.name, &changed)
    }

    /// The files have been sent, or need not be.
    pub(crate) fn settled<'a>(&mut self, paths: impl Iterator<Item = &'a [u8]>) {
        for path in paths {
            self.unsettled.remove(path);
            self.present = None;
        }
    }

    /// It was told which files have gone.
    pub(crate) fn told(&mut self) {
        self.present = None;
    }

    /// The file could not be read: it is left alone for a while.
    pub(crate) fn put_off(&mut self, path: &[u8], now: Duration) {
        if let Some((_, since)) = self.unsettled.get_mut(path) {
            *since = now.saturating_add(RETRY);
        }
    }
}

impl Collected {
    /// What is to be remembered once it was sent.
    pub(crate) fn as_sent(&self, blob: BlobHash) -> SentFile {
        SentFile { print: self.print.clone(), blob, gone: None, mounted: self.is_mounted() }
    }
}

impl SentFile {
    /// What is to be remembered of a file that has gone, until it was told.
    pub(crate) fn as_gone(&self, date: Timestamp) -> Self {
        Self { gone: Some(date), ..self.clone() }
    }
}

/// Whether a file is meant to be sent: not what is hidden, what is being written by those who say so, or what an editor left.
pub(super) fn is_wanted(path: &[u8]) -> bool {
    !is_hidden(path) && !path.ends_with(b".part") && !path.ends_with(b"~")
}

/// Whether it is hidden, or in a hidden directory.
pub(super) fn is_hidden(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part.starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(2);
    const DATE: Timestamp = Timestamp::from_millis(1_000_000);

    struct Bench {
        dir: tempfile::TempDir,
        watcher: Watcher,
        now: Duration,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            fs::create_dir(dir.path().join("root")).expect("a root");
            let ledger = Ledger::open(&dir.path().join("ledger.redb")).expect("a ledger");
            let watcher = Watcher::new(&dir.path().join("root"), "box", ledger, WINDOW, false);
            Self { dir, watcher, now: Duration::from_secs(100) }
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.dir.path().join("root").join(path);
            fs::create_dir_all(path.parent().expect("beneath the root")).expect("a directory");
            fs::write(path, text).expect("a file");
        }

        fn look(&mut self, after: u64) -> Vec<String> {
            self.now += Duration::from_secs(after);
            let looked = self.watcher.look(self.now, DATE, None).expect("looked");
            looked.ready.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect()
        }

        /// What a sender does with what is ready.
        fn send(&mut self, bundle: &str) -> usize {
            let ready = self.watcher.look(self.now, DATE, None).expect("looked").ready;
            let files: Vec<_> =
                ready.iter().map(|file| (file.path.clone(), file.as_sent(BlobHash::from_bytes([1; 32])))).collect();
            self.watcher.ledger.begin_sending("box", bundle, &files).expect("noted");
            self.watcher.ledger.end_sending("box", bundle, true).expect("noted");
            self.watcher.settled(ready.iter().map(|file| file.path.as_slice()));
            ready.len()
        }

        /// The same after a restart.
        fn restart(&mut self) {
            let ledger = self.watcher.ledger.clone();
            self.watcher = Watcher::new(&self.dir.path().join("root"), "box", ledger, WINDOW, false);
        }
    }

    #[test]
    fn a_file_is_ready_once_it_is_still_and_never_again_until_it_changes() {
        let mut bench = Bench::new();
        bench.write("a/one", "1");
        assert!(bench.look(0).is_empty(), "seen for the first time");
        assert!(bench.look(1).is_empty(), "not for long enough");
        bench.write("a/one", "12");
        assert!(bench.look(1).is_empty(), "it was written to");
        assert_eq!(bench.look(2), ["a/one"]);
        assert_eq!(bench.send("b"), 1);
        assert!(bench.look(60).is_empty());
        bench.restart();
        assert!(bench.look(0).is_empty());
        assert!(bench.look(60).is_empty(), "nor after a restart");
        bench.write("a/one", "123");
        assert!(bench.look(1).is_empty());
        assert_eq!(bench.look(2), ["a/one"]);
    }

    #[test]
    fn hidden_unfinished_and_left_over_files_and_links_are_not_sent() {
        let mut bench = Bench::new();
        for path in [".hidden", ".dir/file", "sub/.x", "film.mkv.part", "text~", "kept.party", "sent"] {
            bench.write(path, "x");
        }
        std::os::unix::fs::symlink("sent", bench.dir.path().join("root/link")).expect("a link");
        bench.look(0);
        assert_eq!(bench.look(2), ["kept.party", "sent"]);
    }

    #[test]
    fn what_does_not_fit_one_send_waits_its_turn_and_nothing_is_left_out() {
        let mut bench = Bench::new();
        for index in 0..MAX_TOGETHER + 10 {
            bench.write(&format!("{index:05}"), "x");
        }
        bench.look(0);
        bench.now += WINDOW;
        let looked = bench.watcher.look(bench.now, DATE, None).expect("looked");
        assert_eq!((looked.ready.len(), looked.unsettled, looked.more), (MAX_TOGETHER, 10, true));
        assert_eq!([bench.send("1"), bench.send("2"), bench.send("3")], [MAX_TOGETHER, 10, 0]);
    }

    #[test]
    fn a_root_that_is_away_for_a_while_makes_nothing_new_and_an_old_memory_is_forgotten() {
        let mut bench = Bench::new();
        bench.write("one", "1");
        bench.look(0);
        bench.look(2);
        assert_eq!(bench.send("b"), 1);
        let (root, away) = (bench.dir.path().join("root"), bench.dir.path().join("away"));
        fs::rename(root.join("one"), &away).expect("moved");
        assert!(bench.look(1).is_empty());
        // A rename sets the time of change, as another mount may: the content decides then, which is the sender's to see.
        fs::rename(&away, root.join("one")).expect("moved");
        assert!(bench.look(1).is_empty());
        assert_eq!(bench.look(2), ["one"]);
        let remembered = bench.watcher.ledger.sent_files("box", [&b"one"[..]].into_iter()).expect("read");
        assert_eq!(remembered[0].as_ref().map(|file| file.blob), Some(BlobHash::from_bytes([1; 32])));
        fs::remove_file(root.join("one")).expect("removed");
        bench.write("two", "2");
        bench.look(1);
        bench.look(2);
        bench.send("c");
        let later = DATE.plus(REMEMBERED + WINDOW);
        fs::remove_file(root.join("two")).expect("removed");
        bench.watcher.look(bench.now, later, None).expect("looked");
        let mut known = Vec::new();
        bench.watcher.ledger.each_sent("box", |path, _| known.push(path.to_vec())).expect("read");
        assert_eq!(known, [b"two"]);
    }

    #[test]
    fn what_was_about_to_be_sent_is_known_after_a_crash_and_ends_either_way() {
        let mut bench = Bench::new();
        bench.write("one", "1");
        bench.look(0);
        bench.now += WINDOW;
        let ready = bench.watcher.look(bench.now, DATE, None).expect("looked").ready;
        let files = [(b"one".to_vec(), ready[0].as_sent(BlobHash::from_bytes([1; 32])))];
        let ledger = bench.watcher.ledger.clone();
        ledger.begin_sending("box", "b1", &files).expect("noted");
        ledger.begin_sending("box", "b2", &files).expect("noted");
        ledger.begin_sending("other", "b3", &files).expect("noted");
        bench.restart();
        assert_eq!(ledger.unfinished_sending("box").expect("read"), ["b1", "b2"]);
        ledger.end_sending("box", "b1", false).expect("ended");
        bench.look(0);
        assert_eq!(bench.look(2), ["one"], "it was not sent");
        ledger.end_sending("box", "b2", true).expect("ended");
        assert!(bench.look(2).is_empty(), "it was");
        assert_eq!(ledger.unfinished_sending("other").expect("read"), ["b3"]);
    }

    #[test]
    fn a_file_that_could_not_be_read_is_tried_again_later() {
        let mut bench = Bench::new();
        bench.write("one", "1");
        bench.look(0);
        assert_eq!(bench.look(2), ["one"]);
        bench.watcher.put_off(b"one", bench.now);
        assert!(bench.look(2).is_empty());
        assert_eq!(bench.look(RETRY.as_secs()), ["one"]);
    }
}
