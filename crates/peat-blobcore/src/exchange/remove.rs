//! Files that their sender has removed go from the inbox. Only what was delivered for that sender goes, and only while it is
//! what was delivered: never what a user made or edited, nor what another sender sent.
//!
//! That a path was removed is remembered like a version of it, so that an older version that comes later does not bring it back. The
//! name goes first and is remembered then: after a crash between the two the same is done again, and finds nothing there.

use std::cmp::Ordering;

use super::batch::Job;
use super::beneath::Dirs;
use super::error::ExchangeError;
use super::inbox::{Outcome, Owner};
use super::ledger::{Ledger, Record};
use super::look::{There, look};
use super::{name, sidecar};
use crate::fault;

/// Removes the files of these jobs, no two of one path. Says what became of each, in their order, once that is durable.
///
/// # Errors
/// When directories or the ledger are out of order: nothing is acknowledged then.
pub(super) fn run(dirs: &mut Dirs, ledger: &Ledger, owner: Owner, jobs: &[Job<'_>]) -> Result<Vec<Outcome>, ExchangeError> {
    let last = ledger.records(jobs.iter().map(|job| job.path.as_str()))?;
    let beside: Vec<String> = jobs.iter().map(|job| format!("{}{}", job.path.as_str(), sidecar::SUFFIX)).collect();
    let beside_last = ledger.records(beside.iter().map(String::as_str))?;
    let (mut records, mut sidecars, mut outcomes) = (Vec::new(), Vec::new(), Vec::with_capacity(jobs.len()));
    for ((job, last), (beside, beside_last)) in jobs.iter().zip(last).zip(beside.into_iter().zip(beside_last)) {
        let removed = remove(dirs, owner, job, last).unwrap_or_else(|error| (Outcome::failed(error), None));
        if matches!(removed.0, Outcome::Removed)
            && let Some(record) = beside_last.filter(|record| record.sidecar.is_some())
            && let Ok(Outcome::Removed | Outcome::AlreadyThere) = unlink(dirs, &beside, &record)
        {
            sidecars.push(beside);
        }
        outcomes.push(removed.0);
        records.extend(removed.1.map(|record| (job.path.to_string(), record)));
        fault::point("exchange.remove");
    }
    dirs.sync()?;
    ledger.removed(&records, &sidecars)?;
    fault::point("exchange.removed");
    Ok(outcomes)
}

/// What became of one file, and what is to be remembered of its path.
fn remove(
    dirs: &mut Dirs,
    owner: Owner,
    job: &Job<'_>,
    last: Option<Record>,
) -> Result<(Outcome, Option<Record>), ExchangeError> {
    let record = job.record(None);
    let Some(last) = last else { return Ok((Outcome::AlreadyThere, Some(record.nothing()))) };
    let theirs = last.sender != record.sender;
    if theirs && owner == Owner::Sender {
        return Ok((Outcome::Kept, None));
    }
    // A sidecar is no version of anything, and yields to all.
    if last.sidecar.is_none() {
        match last.order().cmp(&record.order()) {
            Ordering::Greater => return Ok((Outcome::Superseded, None)),
            Ordering::Equal => return Ok((Outcome::AlreadyThere, None)),
            Ordering::Less => {}
        }
    }
    if last.is_nothing() {
        return Ok((Outcome::AlreadyThere, Some(record.nothing())));
    }
    // What is there stays known for what it is, and no version from before this one may come any more.
    let (made_at, distribution, index) = record.order();
    let stays = |last: Record| Record { made_at, distribution, index, expiry: last.expiry.max(record.expiry), ..last };
    if theirs && last.sidecar.is_none() {
        return Ok((Outcome::Kept, Some(stays(last))));
    }
    match unlink(dirs, job.path.as_str(), &last)? {
        Outcome::Kept => Ok((Outcome::Kept, Some(stays(last)))),
        outcome => Ok((outcome, Some(record.nothing()))),
    }
}

/// Removes a name that shows what the record says.
fn unlink(dirs: &mut Dirs, path: &str, record: &Record) -> Result<Outcome, ExchangeError> {
    let dir = match dirs.find(path) {
        Ok(Some(dir)) => dir,
        // What has taken a directory's place is nobody's to remove.
        Ok(None) | Err(ExchangeError::FileInTheWay { .. } | ExchangeError::SymlinkInTheWay { .. }) => {
            return Ok(Outcome::AlreadyThere);
        }
        Err(error) => return Err(error),
    };
    let fail = |error| ExchangeError::io(path, "remove it", error);
    let (_, name) = name::split(path);
    // That the name is gone is to be durable also where it was gone before.
    dirs.touch(path);
    match look(&dir, name, Some(record), record.size, &record.blob).map_err(fail)? {
        There::Nothing | There::Directory => Ok(Outcome::AlreadyThere),
        There::Equal { .. } => {
            dir.remove(name).map_err(|error| fail(error.into()))?;
            Ok(Outcome::Removed)
        }
        There::Ours | There::Theirs => Ok(Outcome::Kept),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, sender};
    use super::super::{Delivery, InboxPolicy, Layout, Owner};

    #[test]
    fn what_its_sender_removed_goes_with_its_sidecar_and_comes_back_with_a_newer_version_alone() {
        let bench = Bench::under(InboxPolicy { sidecar: true, ..InboxPolicy::default() });
        let old = bench.make(1, 10, &[(b"a", "one"), (b"d/b", "b")]);
        assert_eq!(bench.deliver(&old), ["delivered"; 2]);
        let removal = bench.unmake(2, 20, &["a", "d/b", "never came"]);
        assert_eq!(bench.deliver(&removal), ["removed", "removed", "already there"]);
        assert_eq!(bench.names(), ["d/"]);
        assert_eq!(bench.deliver(&removal), ["already there"; 3]);
        let bench = bench.reopen();
        assert_eq!(bench.deliver(&old), ["superseded"; 2], "what was removed is not brought back");
        assert_eq!(bench.inbox.forget(&old.id).expect("a ledger"), 0);
        assert_eq!(bench.deliver(&old), ["superseded"; 2], "nor when it is asked for");
        assert_eq!(bench.deliver(&bench.make(3, 30, &[(b"a", "two")])), ["delivered"]);
        assert_eq!(bench.deliver(&removal), ["superseded", "already there", "already there"]);
        assert_eq!(bench.names(), ["a", "a.peat.json", "d/"]);
    }

    #[test]
    fn what_a_user_edited_made_or_put_in_its_place_stays_and_is_moved_aside_later_as_ever() {
        let bench = Bench::new();
        bench.write("mine", "made here");
        assert_eq!(
            bench.deliver(&bench.make(1, 10, &[(b"a", "one"), (b"b", "b"), (b"c/d", "d"), (b"e", "e")])),
            ["delivered"; 4]
        );
        bench.write("a", "edited");
        std::fs::remove_file(bench.path("b")).expect("removed");
        std::os::unix::fs::symlink("a", bench.path("b")).expect("a link");
        std::fs::rename(bench.path("c"), bench.path("moved")).expect("moved");
        bench.write("c", "in the way");
        std::fs::remove_file(bench.path("e")).expect("removed");
        let removal = bench.unmake(2, 20, &["a", "b", "c/d", "e", "mine"]);
        assert_eq!(bench.deliver(&removal), ["kept", "kept", "already there", "already there", "already there"]);
        let texts = ["a", "b", "c", "moved/d", "mine"].map(|path| bench.read(path).expect("it stays"));
        assert_eq!(texts, ["edited", "edited", "in the way", "d", "made here"]);
        bench.write("e", "e");
        assert_eq!(bench.deliver(&bench.make(3, 30, &[(b"a", "two"), (b"mine", "theirs"), (b"e", "new")])), ["delivered"; 3]);
        let aside = bench.names().into_iter().filter(|name| name.contains(".conflict-"));
        let aside: Vec<_> = aside.filter_map(|name| bench.read(&name)).collect();
        assert_eq!(aside, ["edited", "e", "made here"]);
    }

    #[test]
    fn a_sender_has_its_own_files_removed_alone() {
        for owner in [Owner::Shared, Owner::Sender] {
            let bench = Bench::with(owner);
            assert_eq!(bench.deliver(&bench.make(1, 10, &[(b"a", "one")])), ["delivered"]);
            let of_another = Delivery { sender: sender(2), ..bench.unmake(2, 20, &["a"]) };
            assert_eq!(bench.deliver(&of_another), ["kept"], "{owner:?}");
            let late = Delivery { sender: sender(2), ..bench.make(3, 15, &[(b"a", "late")]) };
            let word = if owner == Owner::Shared { "superseded" } else { "failed for good" };
            assert!(bench.deliver(&late)[0].starts_with(word), "{owner:?}");
            assert_eq!(bench.read("a").as_deref(), Some("one"), "{owner:?}");
            assert_eq!(bench.deliver(&bench.unmake(4, 30, &["a"])), ["removed"], "{owner:?}");
        }
        let bench = Bench::under(InboxPolicy { layout: Layout::Origin, ..InboxPolicy::default() });
        let theirs = Delivery { sender: sender(2), ..bench.make(2, 10, &[(b"a", "two")]) };
        assert_eq!([bench.deliver(&bench.make(1, 10, &[(b"a", "one")])), bench.deliver(&theirs)], [["delivered"]; 2]);
        assert_eq!(bench.deliver(&bench.unmake(3, 20, &["a"])), ["removed"]);
        assert_eq!(bench.read(&format!("{}/a", sender(2))).as_deref(), Some("two"));
    }

    #[test]
    fn an_untouched_copy_with_other_times_goes_and_a_sidecar_that_was_edited_stays() {
        let bench = Bench::under(InboxPolicy { sidecar: true, ..InboxPolicy::default() });
        assert_eq!(bench.deliver(&bench.make(1, 10, &[(b"a", "one")])), ["delivered"]);
        // As after a restore from a backup.
        std::fs::remove_file(bench.path("a")).expect("removed");
        bench.write("a", "one");
        bench.write("a.peat.json", "notes");
        assert_eq!(bench.deliver(&bench.unmake(2, 20, &["a"])), ["removed"]);
        assert_eq!(bench.names(), ["a.peat.json"]);
    }
}
