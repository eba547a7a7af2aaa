//! Which files of a watched outbox have gone for good, and what speaks against believing it: a root or a file system within it that
//! is away must never look like files that were removed. Reads, and remembers which directory the root is; sends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redb::TableDefinition;
use rustix::fs::{self, FileType, OFlags};
use rustix::io::Errno;

use super::error::ExchangeError;
use super::ledger::{Ledger, parse};
use super::outbox::{Outbox, STRICT};
use super::sent::SentFile;
use crate::model::encode;

/// Root to [`Identity`].
pub(super) const ROOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("roots v1");
/// Files that are missed at a time, and told of together. More wait until these have been told of.
const MAX_MISSED: usize = 4096;

/// What tells a directory from another that comes to have its name, also after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct Identity {
    /// The id of the file system, of which some have none.
    #[n(0)]
    filesystem: u64,
    #[n(1)]
    inode: u64,
}

/// A root as it is now. The device is good for one life of the machine only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    identity: Identity,
    device: u64,
}

impl Place {
    pub(super) fn of(outbox: &Outbox) -> Result<Self, ExchangeError> {
        let look = || -> Result<Self, Errno> {
            let stat = fs::fstat(&outbox.0)?;
            let identity = Identity { filesystem: fs::fstatvfs(&outbox.0)?.f_fsid, inode: stat.st_ino };
            Ok(Self { identity, device: stat.st_dev })
        };
        look().map_err(|error| ExchangeError::io("", "look at the root", error))
    }
}

/// Whether a file that was sent is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    There,
    /// Its name is free, or a directory's, beneath a mount if it lay beneath one and else not.
    Gone,
    /// It cannot be looked at, or what was mounted is away.
    Unknown,
}

fn whereabouts(outbox: &Outbox, path: &[u8], sent: &SentFile) -> Whereabouts {
    match outbox.resolve(path, OFlags::PATH, STRICT).and_then(|fd| fs::fstat(&fd)) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => return Whereabouts::There,
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
        Err(_) => return Whereabouts::Unknown,
    }
    // The directory that it would be in, or the nearest one that there is.
    let mut end = path.len();
    let mounted = loop {
        end = path[..end].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        match outbox.is_mounted(&path[..end]) {
            Ok(mounted) => break mounted,
            Err(Errno::NOENT | Errno::NOTDIR) if end > 0 => {}
            Err(_) => return Whereabouts::Unknown,
        }
    };
    if sent.mounted == Some(mounted) { Whereabouts::Gone } else { Whereabouts::Unknown }
}

/// Files that are missed, and since when.
#[derive(Debug, Default)]
pub(super) struct Missed {
    since: BTreeMap<Vec<u8>, Duration>,
    /// Where the root was when nothing was missed last, in this life of the process.
    place: Option<Place>,
}

/// What a look found of the root as a whole.
pub(super) struct Seen<'a> {
    pub(super) place: Place,
    /// Whether there is any file, whether it is one to send or not.
    pub(super) anything: bool,
    /// The files that wait to be sent, by their inodes.
    pub(super) waiting: &'a BTreeSet<u64>,
    pub(super) now: Duration,
}

/// What a look at the files that were sent came to.
#[derive(Debug, Default)]
pub(super) struct Absent {
    /// Those that have been gone for long enough.
    pub(super) gone: Vec<(Vec<u8>, SentFile)>,
    /// Why files that are missed are not taken for removed.
    pub(super) held: Option<String>,
    /// How many are missed.
    pub(super) all: u64,
    /// Whether some have not been gone for long enough yet.
    pub(super) waits: bool,
}

impl Missed {
    /// Looks after all that were sent and are not known to have gone. `window` is how long a file is missed before that counts.
    pub(super) fn look(
        &mut self,
        ledger: &Ledger,
        root: &str,
        outbox: &Outbox,
        seen: &Seen<'_>,
        window: Duration,
    ) -> Result<Absent, ExchangeError> {
        let (mut missed, mut unknown, mut total) = (Vec::new(), 0_u64, 0_u64);
        ledger.each_sent(root, |path, file| {
            if file.gone.is_some() {
                return;
            }
            match whereabouts(outbox, path, &file) {
                Whereabouts::There => {}
                Whereabouts::Unknown => unknown += 1,
                Whereabouts::Gone => {
                    total += 1;
                    if missed.len() < MAX_MISSED {
                        missed.push((path.to_vec(), file));
                    }
                }
            }
        })?;
        let all = total + unknown;
        if all == 0 {
            self.settle(ledger, root, seen.place)?;
            return Ok(Absent::default());
        }
        let before = std::mem::take(&mut self.since);
        let why = match (self.is_same(ledger, root, seen.place)?, seen.anything) {
            (false, _) => Some("the root is another directory or file system than it was"),
            (true, false) => Some("the root is empty; any file in it, also a hidden one, says that it is to be"),
            (true, true) => None,
        };
        if let Some(why) = why {
            return Ok(Absent { gone: Vec::new(), held: Some(format!("{all} files are missed, and {why}")), all, waits: false });
        }
        let away = "in directories that cannot be looked at, or that were mounts and are not";
        let held = (unknown > 0).then(|| format!("{unknown} files are missed {away}"));
        let mut gone = Vec::new();
        for (path, file) in missed {
            let since = before.get(&path).copied();
            if since.is_some_and(|since| seen.now >= since.saturating_add(window)) && !seen.waiting.contains(&file.print.inode) {
                gone.push((path.clone(), file));
            }
            self.since.insert(path, since.unwrap_or(seen.now));
        }
        let waits = self.since.len() > gone.len() || total > self.since.len() as u64;
        Ok(Absent { gone, held, all, waits })
    }

    /// Nothing is missed: this is the root.
    pub(super) fn settle(&mut self, ledger: &Ledger, root: &str, place: Place) -> Result<(), ExchangeError> {
        if self.place != Some(place) {
            ledger.remember_root(root, place.identity)?;
            self.place = Some(place);
        }
        self.since.clear();
        Ok(())
    }

    fn is_same(&self, ledger: &Ledger, root: &str, place: Place) -> Result<bool, ExchangeError> {
        match self.place {
            Some(before) => Ok(before == place),
            None => Ok(ledger.root(root)? == Some(place.identity)),
        }
    }
}

impl Ledger {
    fn root(&self, root: &str) -> Result<Option<Identity>, ExchangeError> {
        self.read(|read| read.open_table(ROOTS)?.get(root)?.map(|bytes| parse(bytes.value())).transpose())
    }

    fn remember_root(&self, root: &str, identity: Identity) -> Result<(), ExchangeError> {
        if self.root(root)? == Some(identity) {
            return Ok(());
        }
        self.write(|write| {
            write.open_table(ROOTS)?.insert(root, &*encode(&identity))?;
            Ok(())
        })
    }
}
