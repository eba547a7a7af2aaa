//! The outbox: a directory that files may be sent from. Finds files, opens them late, and notices when they change; never
//! leads out of its root.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::error::ExchangeError;
use super::look::Print;
use super::notices::Notices;
use super::walk::Walk;

/// Links are not followed.
pub(super) const STRICT: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// Links are followed as far as they stay beneath the root.
pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// A root that files are sent from. Clones share one fd.
#[derive(Debug, Clone)]
pub struct Outbox(pub(super) Arc<OwnedFd>);

impl Outbox {
    /// Opens the directory `root`, which is the operator's to name.
    ///
    /// # Errors
    /// [`ExchangeError::Io`] when it is no directory or cannot be opened.
    pub fn open(root: &Path) -> Result<Self, ExchangeError> {
        let fd = fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| ExchangeError::io(&root.to_string_lossy(), "open the root", error))?;
        Ok(Self(Arc::new(fd)))
    }

    /// All files beneath the root, hidden ones too, in the order of their names.
    #[must_use]
    pub fn everything(&self) -> Walk<'static> {
        Walk::everything(self.clone(), None)
    }

    /// The same, and each directory is watched before it is listed.
    pub(super) fn watched<'n>(&self, notices: Option<&'n mut Notices>) -> Walk<'n> {
        Walk::everything(self.clone(), notices)
    }

    /// The files at these paths, and all files beneath those that are directories, in the order given. A path that was given
    /// twice, or lies beneath another one, is walked once. Unlike a link that a walk meets, one that is named is followed, as
    /// long as it stays beneath the root.
    #[must_use]
    pub fn paths(&self, paths: &[&[u8]]) -> Walk<'static> {
        Walk::paths(self.clone(), paths)
    }

    /// Opens `path`, which is checked, beneath the root.
    pub(super) fn resolve(&self, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        match fs::openat2(&self.0, path, flags, Mode::empty(), resolve) {
            // Kernels and sandboxes without openat2: component by component, and no link at all.
            Err(Errno::NOSYS | Errno::PERM) => {}
            opened => return opened,
        }
        let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        let (last, parents) = components.split_last().expect("splitting gives one part at least");
        let mut at: Option<OwnedFd> = None;
        for component in parents {
            let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            at = Some(fs::openat(at.as_ref().unwrap_or(&self.0).as_fd(), *component, directory, Mode::empty())?);
        }
        fs::openat(at.as_ref().unwrap_or(&self.0).as_fd(), *last, flags | OFlags::NOFOLLOW, Mode::empty())
    }
}

impl Outbox {
    /// Whether what is at `path`, which is checked, lies beneath a mount that is beneath the root: bind mounts of the same file system
    /// among them.
    pub(super) fn is_mounted(&self, path: &[u8]) -> Result<bool, Errno> {
        let named = if path.is_empty() { b"." } else { path };
        match fs::openat2(&self.0, named, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), STRICT | ResolveFlags::NO_XDEV) {
            Ok(_) => Ok(false),
            Err(Errno::XDEV) => Ok(true),
            // Kernels and sandboxes without openat2, where a bind mount of the same file system looks like a directory.
            Err(Errno::NOSYS | Errno::PERM) => {
                let fd = self.resolve(path, OFlags::PATH, STRICT)?;
                Ok(fs::fstat(&fd)?.st_dev != fs::fstat(&self.0)?.st_dev)
            }
            Err(error) => Err(error),
        }
    }
}

/// A regular file that was found. It is not open: see [`Collected::open`].
#[derive(Debug, Clone)]
pub struct Collected {
    /// Its path beneath the root. Bytes, since names on disk need not be UTF-8; such a name is unsafe where it arrives, and
    /// the file goes by its distribution's id there.
    pub path: Vec<u8>,
    /// Its size in bytes.
    pub size: u64,
    /// Its permission bits, `0o7777` at most.
    pub mode: u32,
    /// When it was last modified, in milliseconds since the Unix epoch.
    pub mtime: i64,
    pub(super) print: Print,
    outbox: Outbox,
    resolve: ResolveFlags,
}

impl Collected {
    pub(super) fn new(path: Vec<u8>, stat: &Stat, outbox: Outbox, resolve: ResolveFlags) -> Self {
        #[allow(clippy::useless_conversion, reason = "the widths differ between platforms")]
        let (seconds, nanoseconds) = (i64::from(stat.st_mtime), u64::from(stat.st_mtime_nsec));
        let millis = i64::try_from(nanoseconds / 1_000_000).unwrap_or_default();
        Self {
            path,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mode: stat.st_mode & 0o7777,
            mtime: seconds.saturating_mul(1000).saturating_add(millis),
            print: Print::of(stat),
            outbox,
            resolve,
        }
    }

    /// Opens the file that was found, for reading.
    ///
    /// # Errors
    /// [`ExchangeError::Changed`] when another or a changed file is there, [`ExchangeError::Io`] when none is or it cannot be
    /// read.
    pub fn open(&self) -> Result<File, ExchangeError> {
        // Not blocking: a pipe may have taken the file's place.
        let fd = self
            .outbox
            .resolve(&self.path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, self.resolve)
            .map_err(|error| ExchangeError::io(&self.text(), "open it", error))?;
        let file = File::from(fd);
        self.check(&file)?;
        Ok(file)
    }

    /// Whether the open file is still as it was found. To be asked after the last byte was read.
    ///
    /// # Errors
    /// [`ExchangeError::Changed`] when somebody wrote to it.
    pub fn check(&self, file: &File) -> Result<(), ExchangeError> {
        let stat = fs::fstat(file).map_err(|error| ExchangeError::io(&self.text(), "look at it", error))?;
        let same = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && Print::of(&stat) == self.print;
        if same { Ok(()) } else { Err(ExchangeError::Changed { path: self.text() }) }
    }

    /// Whether it lies beneath a mount that is beneath the root, if that can be told.
    pub(super) fn is_mounted(&self) -> Option<bool> {
        self.outbox.is_mounted(&self.path).ok()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Why something that was found, or named, is not sent.
#[derive(Debug, thiserror::Error)]
pub enum SkipReason {
    /// It is a symbolic link, which is not followed.
    #[error("it is a symbolic link")]
    Symlink,
    /// It is a socket, a pipe or a device.
    #[error("it is a {0}, not a file")]
    Special(&'static str),
    /// It cannot be reached or read, or must not be.
    #[error(transparent)]
    Failed(#[from] ExchangeError),
}
