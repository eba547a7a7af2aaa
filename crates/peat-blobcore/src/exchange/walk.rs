//! Walking an outbox: lazily, sorted, with one directory open at a time. Reports what it does not send, and goes on.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Dir, FileType, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::error::ExchangeError;
use super::notices::Notices;
use super::outbox::{BENEATH, Collected, Outbox, STRICT, SkipReason};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// What a walk comes across.
#[derive(Debug)]
pub enum Found {
    /// A file to send.
    File(Collected),
    /// Something else; nothing beneath it is sent either.
    Skipped {
        /// Its path beneath the root, or the path as it was given.
        path: Vec<u8>,
        /// Why.
        reason: SkipReason,
    },
}

/// The files of an outbox, one after the other.
#[derive(Debug)]
pub struct Walk<'n> {
    outbox: Outbox,
    /// Who is to watch the directories that are listed, if somebody is.
    notices: Option<&'n mut Notices>,
    /// Found already, to be told first.
    first: Option<Found>,
    starts: std::vec::IntoIter<Vec<u8>>,
    resolve: ResolveFlags,
    stack: Vec<Level>,
}

/// A directory whose entries are being visited.
#[derive(Debug)]
struct Level {
    path: Vec<u8>,
    /// Open while it is the innermost one.
    fd: Option<OwnedFd>,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl<'n> Walk<'n> {
    pub(super) fn everything(outbox: Outbox, notices: Option<&'n mut Notices>) -> Self {
        let mut walk = Self { outbox, notices, first: None, starts: Vec::new().into_iter(), resolve: STRICT, stack: Vec::new() };
        walk.first = walk.enter(Vec::new());
        walk
    }

    pub(super) fn paths(outbox: Outbox, starts: &[&[u8]]) -> Self {
        let all: BTreeSet<&[u8]> = starts.iter().copied().collect();
        let beneath_another =
            |path: &[u8]| path.iter().enumerate().any(|(end, byte)| *byte == b'/' && end > 0 && all.contains(&path[..end]));
        let mut seen = BTreeSet::new();
        let starts: Vec<Vec<u8>> =
            starts.iter().filter(|path| !beneath_another(path) && seen.insert(**path)).map(|path| path.to_vec()).collect();
        Self { outbox, notices: None, first: None, starts: starts.into_iter(), resolve: BENEATH, stack: Vec::new() }
    }

    /// Begins with one of the paths that were given.
    fn start(&mut self, path: Vec<u8>) -> Option<Found> {
        if let Some(why) = refuse(&path) {
            return Some(failed(&path, |path| ExchangeError::NotBeneath { path, why }));
        }
        // With O_PATH nothing is opened yet: neither does a pipe block nor a device stir.
        let stat = self.outbox.resolve(&path, OFlags::PATH, self.resolve).and_then(|fd| fs::fstat(&fd));
        match stat {
            Ok(stat) => self.visit(path, &stat),
            Err(Errno::XDEV) => {
                Some(failed(&path, |path| ExchangeError::NotBeneath { path, why: "a symbolic link leads out of the root" }))
            }
            Err(error) => Some(failed(&path, |path| ExchangeError::io(&path, "look at it", error))),
        }
    }

    fn visit(&mut self, path: Vec<u8>, stat: &Stat) -> Option<Found> {
        let special = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return Some(Found::File(Collected::new(path, stat, self.outbox.clone(), self.resolve))),
            FileType::Directory => return self.enter(path),
            FileType::Symlink => return Some(Found::Skipped { path, reason: SkipReason::Symlink }),
            FileType::Socket => "socket",
            FileType::Fifo => "pipe",
            _ => "device",
        };
        Some(Found::Skipped { path, reason: SkipReason::Special(special) })
    }

    fn enter(&mut self, path: Vec<u8>) -> Option<Found> {
        let notices = self.notices.as_deref_mut();
        let listed = self.outbox.resolve(&path, DIRECTORY, self.resolve).and_then(|fd| {
            // Before it is listed: what comes later than that is told.
            if let Some(notices) = notices {
                notices.watch(&path, &fd);
            }
            Ok((list(&fd)?, fd))
        });
        match listed {
            Ok((names, fd)) => {
                if let Some(outer) = self.stack.last_mut() {
                    outer.fd = None;
                }
                self.stack.push(Level { path, fd: Some(fd), names: names.into_iter() });
                None
            }
            Err(error) => Some(failed(&path, |path| ExchangeError::io(&path, "list the directory", error))),
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let Some(level) = self.stack.last_mut() else {
                let start = self.starts.next()?;
                if let Some(found) = self.start(start) {
                    return Some(found);
                }
                continue;
            };
            let Some(name) = level.names.next() else {
                self.stack.pop();
                continue;
            };
            let path = if level.path.is_empty() { name.clone() } else { [&*level.path, b"/", &name].concat() };
            let fd = match level.fd.take() {
                Some(fd) => Ok(fd),
                None => self.outbox.resolve(&level.path, DIRECTORY, self.resolve),
            };
            let stat = fd.and_then(|fd| fs::statat(&*level.fd.insert(fd), &*name, AtFlags::SYMLINK_NOFOLLOW));
            let found = match stat {
                Ok(stat) => self.visit(path, &stat),
                Err(error) => Some(failed(&path, |path| ExchangeError::io(&path, "look at it", error))),
            };
            if found.is_some() {
                return found;
            }
        }
    }
}

/// Names in the directory, sorted.
fn list(fd: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Why a path that somebody named cannot lie beneath a root, if so.
fn refuse(path: &[u8]) -> Option<&'static str> {
    if path.is_empty() {
        return Some("it is empty");
    }
    if path[0] == b'/' {
        return Some("it is absolute");
    }
    if path.contains(&0) {
        return Some("it contains a NUL byte");
    }
    path.split(|byte| *byte == b'/')
        .any(|part| matches!(part, b"" | b"." | b".."))
        .then_some("it has an empty, `.` or `..` component")
}

fn failed(path: &[u8], error: impl FnOnce(String) -> ExchangeError) -> Found {
    let reason = SkipReason::Failed(error(String::from_utf8_lossy(path).into_owned()));
    Found::Skipped { path: path.to_vec(), reason }
}
