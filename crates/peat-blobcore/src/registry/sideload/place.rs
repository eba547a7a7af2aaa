//! The files that patterns speak of: found, opened and told from themselves after a change. Reads only, and follows no link
//! beneath a pattern's root, so that nobody who may write there can have another file of the machine served.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};

use super::pattern::Pattern;

/// The file that makes a directory a layout.
pub(super) const INDEX_FILE: &str = "index.json";
/// Names of directories that are looked at in one scan.
const MAX_LOOKED_AT: usize = 1_000_000;
/// How deep `<name...>` is looked for.
const MAX_DEPTH: usize = 16;

/// What tells a file from itself after somebody wrote to it, or from another in its place.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct Stamp {
    /// Its name within a layout; none for the archive itself.
    #[n(0)]
    pub(super) name: String,
    #[n(1)]
    pub(super) size: u64,
    /// Nanoseconds since the Unix epoch.
    #[n(2)]
    mtime: i64,
    #[n(3)]
    pub(super) ctime: i64,
    #[n(4)]
    inode: u64,
    #[n(5)]
    device: u64,
}

impl Stamp {
    pub(super) fn of(name: &str, metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            name: name.to_owned(),
            size: metadata.len(),
            mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }
}

/// What is at a path.
pub(super) enum Opened {
    /// A file: an archive.
    File(File),
    /// A directory: a layout.
    Directory(OwnedFd),
}

/// Opens what is at a path beneath a root.
pub(super) fn open(root: &Path, beneath: &str) -> io::Result<Opened> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    open_in(&root, beneath)
}

fn open_in(directory: &OwnedFd, path: &str) -> io::Result<Opened> {
    let strict = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (parents, last) = path.rsplit_once('/').map_or((None, path), |(parents, last)| (Some(parents), last));
    let mut at: Option<OwnedFd> = None;
    for name in parents.into_iter().flat_map(|parents| parents.split('/')) {
        let next = openat(at.as_ref().unwrap_or(directory).as_fd(), name, strict | OFlags::DIRECTORY, Mode::empty())?;
        at = Some(next);
    }
    let at = at.as_ref().unwrap_or(directory).as_fd();
    // Before it is opened: opening a device can do something.
    match FileType::from_raw_mode(statat(at, last, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) {
        FileType::Directory => Ok(Opened::Directory(openat(at, last, strict | OFlags::DIRECTORY, Mode::empty())?)),
        FileType::RegularFile => {
            let file = File::from(openat(at, last, strict | OFlags::NONBLOCK, Mode::empty())?);
            if file.metadata()?.is_file() { Ok(Opened::File(file)) } else { Err(other()) }
        }
        _ => Err(other()),
    }
}

fn other() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a directory; links are not followed")
}

/// The file of a layout, if there is a regular one.
pub(super) fn file_of(layout: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    match open_in(layout, name) {
        Ok(Opened::File(file)) => Ok(Some(file)),
        Ok(Opened::Directory(_)) => Ok(None),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether all is as it was when these stamps were taken.
pub(super) fn is_as_before(root: &Path, beneath: &str, stamps: &[Stamp]) -> bool {
    let same = || -> io::Result<bool> {
        let opened = open(root, beneath)?;
        for stamp in stamps {
            let now = match &opened {
                Opened::File(file) if stamp.name.is_empty() => Stamp::of("", &file.metadata()?),
                Opened::Directory(layout) if !stamp.name.is_empty() => match file_of(layout, &stamp.name)? {
                    Some(file) => Stamp::of(&stamp.name, &file.metadata()?),
                    None => return Ok(false),
                },
                _ => return Ok(false),
            };
            if now != *stamp {
                return Ok(false);
            }
        }
        Ok(true)
    };
    same().unwrap_or(false)
}

/// Calls `found` with each path beneath a pattern's root that matches it; whether all of the root was looked at.
pub(super) fn walk(pattern: &Pattern, found: &mut dyn FnMut(&str)) -> bool {
    let mut looked_at = 0;
    let mut waiting = vec![String::new()];
    while let Some(directory) = waiting.pop() {
        // What has gone or cannot be read has nothing that matches.
        let Ok(entries) = fs::read_dir(pattern.root().join(&directory)) else { continue };
        for entry in entries.flatten() {
            looked_at += 1;
            if looked_at > MAX_LOOKED_AT {
                return false;
            }
            let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let matches = pattern.read(&path).is_some();
            if matches && (kind.is_file() || (kind.is_dir() && entry.path().join(INDEX_FILE).is_file())) {
                found(&path);
            } else if kind.is_dir() {
                let (least, more) = pattern.depth();
                let depth = path.split('/').count();
                if depth < least || (more && depth < MAX_DEPTH) {
                    waiting.push(path);
                }
            }
        }
    }
    true
}
