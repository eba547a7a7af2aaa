//! What the ledger forgets, so that it does not grow with every path that there ever was: what was delivered and is there no more,
//! once nothing older can come any more; and what times were given to paths, but for the greatest of them all.

use std::ops::Bound;
use std::time::Duration;

use redb::ReadableTable as _;
use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use super::beneath::Dirs;
use super::error::ExchangeError;
use super::inbox::Inbox;
use super::ledger::{DELIVERED, FORGOTTEN, Ledger, Record, STAMPED, parse};
use super::name;
use crate::model::Timestamp;

/// How long after its last expiry a path is remembered, and how long what time it was given: longer than envelopes are taken after
/// theirs, and than clocks differ.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Rows of each table that are looked at at a time.
const ROWS: usize = 4096;

/// Goes through a ledger, again and again, a part at a time.
#[derive(Debug)]
pub(crate) struct Forgetting {
    ledger: Ledger,
    inbox: Option<Inbox>,
    /// The last rows that were looked at.
    delivered: Option<String>,
    stamped: Option<Vec<u8>>,
}

impl Forgetting {
    pub(crate) fn new(ledger: Ledger, inbox: Option<Inbox>) -> Self {
        Self { ledger, inbox, delivered: None, stamped: None }
    }

    /// Looks at the next rows, and forgets what it may by a clock that can be believed. How many paths of the inbox that were.
    ///
    /// # Errors
    /// [`ExchangeError`] when the ledger or the inbox cannot be read, or the ledger not be written: nothing is forgotten then.
    pub(crate) fn some(&mut self, now: Timestamp) -> Result<usize, ExchangeError> {
        let before = now.minus(KEPT);
        let inbox = self.inbox.clone();
        // Nothing is delivered between the look at a path and that it is forgotten.
        let _turn = inbox.as_ref().map(Inbox::turn);
        let paths = match &inbox {
            // It would be made. One that is away, a mount perhaps, says nothing of what is in it.
            Some(inbox) if inbox.directory().is_dir() => self.gone(inbox, before)?,
            _ => Vec::new(),
        };
        let stamps = self.past(before)?;
        if paths.is_empty() && stamps.is_empty() {
            return Ok(0);
        }
        self.ledger.write(|write| {
            let (mut delivered, mut stamped) = (write.open_table(DELIVERED)?, write.open_table(STAMPED)?);
            for path in &paths {
                delivered.remove(path.as_str())?;
            }
            let mut greatest = stamped.get(FORGOTTEN)?.map_or(0, |millis| millis.value());
            for path in &stamps {
                greatest = greatest.max(stamped.remove(path.as_slice())?.map_or(0, |millis| millis.value()));
            }
            stamped.insert(FORGOTTEN, greatest)?;
            Ok(())
        })?;
        Ok(paths.len())
    }

    /// Paths whose last expiry is past, and under which nothing is.
    fn gone(&mut self, inbox: &Inbox, before: Timestamp) -> Result<Vec<String>, ExchangeError> {
        let (expired, last) = self.ledger.read(|read| {
            let (delivered, mut expired, mut last) = (read.open_table(DELIVERED)?, Vec::new(), None);
            let from = self.delivered.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            for row in delivered.range::<&str>((from, Bound::Unbounded))?.take(ROWS) {
                let (path, bytes) = row?;
                let record: Record = parse(bytes.value())?;
                if record.expiry() < before {
                    expired.push((path.value().to_owned(), record));
                }
                last = Some(path.value().to_owned());
            }
            Ok((expired, last))
        })?;
        self.delivered = last;
        let mut dirs = Dirs::open(inbox.directory())?;
        // Of what was removed for its sender whatever lies there is the user's.
        let gone = expired.into_iter().filter(|(path, record)| record.is_nothing() || is_free(&mut dirs, path));
        Ok(gone.map(|(path, _)| path).collect())
    }

    /// Paths that were given no time of late.
    fn past(&mut self, before: Timestamp) -> Result<Vec<Vec<u8>>, ExchangeError> {
        let (past, last) = self.ledger.read(|read| {
            let (stamped, mut past, mut last) = (read.open_table(STAMPED)?, Vec::new(), None);
            let from = Bound::Excluded(self.stamped.as_deref().unwrap_or(FORGOTTEN));
            for row in stamped.range::<&[u8]>((from, Bound::Unbounded))?.take(ROWS) {
                let (path, millis) = row?;
                if Timestamp::from_millis(millis.value()) < before {
                    past.push(path.value().to_vec());
                }
                last = Some(path.value().to_vec());
            }
            Ok((past, last))
        })?;
        self.stamped = last;
        Ok(past)
    }
}

/// Whether nothing has this name. Where that cannot be said, something has.
fn is_free(dirs: &mut Dirs, path: &str) -> bool {
    match dirs.find(path) {
        Ok(Some(dir)) => fs::statat(&dir.fd, name::split(path).1, AtFlags::SYMLINK_NOFOLLOW).err() == Some(Errno::NOENT),
        Ok(None) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, NOW, sender};
    use super::super::{Delivery, InboxPolicy};
    use super::*;
    use crate::model::{BlobHash, DistributionId};

    const DAY: Duration = Duration::from_secs(24 * 3600);
    /// When what the bench makes has expired long enough.
    const LATER: Timestamp = Timestamp::from_millis(NOW.as_millis() + 8 * 24 * 3_600_000 + 1);

    /// Until the expiry of `delivery`, a day from now.
    fn for_a_day(delivery: Delivery) -> Delivery {
        Delivery { expiry: NOW.plus(DAY), ..delivery }
    }

    fn forget(bench: &Bench, now: Timestamp) -> usize {
        let forgotten = Forgetting::new(bench.ledger.clone(), Some(bench.inbox.clone())).some(now).expect("a ledger");
        if bench.path("").exists() {
            bench.assert_clean();
        }
        forgotten
    }

    #[test]
    fn what_a_user_removed_is_forgotten_when_it_can_come_no_more_and_what_is_there_is_not() {
        let bench = Bench::under(InboxPolicy { sidecar: true, ..InboxPolicy::default() });
        let sent = for_a_day(bench.make(1, 10, &[(b"a", "a"), (b"b", "b"), (b"d/c", "c"), (b"e/f", "f")]));
        assert_eq!(bench.deliver(&sent), ["delivered"; 4]);
        for removed in ["a", "a.peat.json", "d/c"] {
            std::fs::remove_file(bench.path(removed)).expect("removed");
        }
        std::fs::remove_dir_all(bench.path("e")).expect("removed");
        assert_eq!(forget(&bench, LATER.minus(Duration::from_millis(1))), 0, "it may yet come");
        assert_eq!(bench.deliver(&sent), ["already there"; 4]);
        assert_eq!(forget(&bench, LATER), 5, "a and its sidecar, d/c, e/f and its sidecar");
        assert_eq!(forget(&bench, LATER), 0);
        assert_eq!(bench.deliver(&sent), ["delivered", "already there", "delivered", "delivered"]);
    }

    #[test]
    fn a_path_is_known_until_all_that_came_under_it_has_expired() {
        let bench = Bench::new();
        let long = Delivery { expiry: NOW.plus(DAY * 30), ..bench.make(1, 10, &[(b"a", "one"), (b"b", "b")]) };
        let short = for_a_day(bench.make(2, 20, &[(b"a", "two")]));
        assert_eq!(bench.deliver(&long), ["delivered"; 2]);
        assert_eq!(bench.deliver(&short), ["delivered"]);
        std::fs::remove_file(bench.path("a")).expect("removed");
        let removal = for_a_day(bench.unmake(3, 30, &["b"]));
        assert_eq!(bench.deliver(&removal), ["removed"]);
        bench.write("b", "made here");
        assert_eq!(forget(&bench, LATER), 0);
        assert_eq!(bench.deliver(&long), ["superseded"; 2]);
        assert_eq!(forget(&bench, LATER.plus(DAY * 29)), 2, "what lies where something was removed is the user's");
    }

    #[test]
    fn an_inbox_that_is_away_makes_nothing_forgotten() {
        let bench = Bench::new();
        assert_eq!(bench.deliver(&for_a_day(bench.make(1, 10, &[(b"a", "a")]))), ["delivered"]);
        std::fs::rename(bench.path(""), bench.dir.path().join("away")).expect("moved");
        assert_eq!(forget(&bench, LATER), 0);
        assert!(!bench.path("").exists(), "it is not made");
        std::fs::rename(bench.dir.path().join("away"), bench.path("")).expect("moved");
        std::fs::create_dir(bench.path("real")).expect("a directory");
        assert_eq!(bench.deliver(&for_a_day(bench.make(2, 10, &[(b"d/a", "a")]))), ["delivered"]);
        std::fs::rename(bench.path("d"), bench.path("moved")).expect("moved");
        std::os::unix::fs::symlink("real", bench.path("d")).expect("a link");
        assert_eq!(forget(&bench, LATER), 0, "what is behind a link is not known");
    }

    #[test]
    fn a_long_ledger_is_gone_through_in_parts_and_then_from_its_beginning() {
        let bench = Bench::new();
        let record = |n: usize| Record {
            made_at: NOW,
            distribution: DistributionId::from_bytes([1; 32]),
            index: 0,
            blob: BlobHash::from_bytes([1; 32]),
            size: 1,
            sender: sender(1),
            print: None,
            sidecar: None,
            expiry: n.is_multiple_of(2).then_some(NOW),
        };
        let records: Vec<_> = (0..2 * ROWS + 10).map(|n| (format!("{n:06}"), record(n))).collect();
        bench.ledger.removed(&records, &[]).expect("a ledger");
        let mut forgetting = Forgetting::new(bench.ledger.clone(), Some(bench.inbox.clone()));
        let parts: Vec<_> = (0..6).map(|_| forgetting.some(LATER).expect("a ledger")).collect();
        assert_eq!(parts, [ROWS / 2, ROWS / 2, 5, 0, 0, 0], "the first half first, and those without an expiry stay");
        let after_a_year = LATER.plus(crate::model::Manifest::MAX_LIFETIME);
        let parts: usize = (0..3).map(|_| forgetting.some(after_a_year).expect("a ledger")).sum();
        assert_eq!(parts, ROWS + 5);
        assert!(bench.ledger.is_blank().expect("a ledger"));
    }

    #[test]
    fn a_clock_that_is_set_back_gives_no_path_an_older_time_than_those_that_were_forgotten() {
        let bench = Bench::new();
        let given = bench.ledger.stamp(&[b"a"], NOW).expect("a ledger");
        let late = bench.ledger.stamp(&[b"b"], LATER).expect("a ledger");
        assert_eq!(forget(&bench, LATER), 0);
        assert!(bench.ledger.stamp(&[b"a"], NOW.minus(DAY)).expect("a ledger") > given);
        assert!(bench.ledger.stamp(&[b"never sent"], NOW.minus(DAY)).expect("a ledger") > given);
        assert!(bench.ledger.stamp(&[b"b"], NOW).expect("a ledger") > late);
        let kept = bench.ledger.read(|read| Ok(read.open_table(STAMPED)?.iter()?.count())).expect("a ledger");
        assert_eq!(kept, 4, "b, the two since, and what stands for those that were forgotten");
    }
}
