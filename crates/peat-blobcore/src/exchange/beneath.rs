//! Directories beneath the inbox, by fd. Never follows a symbolic link below the inbox's own path, and never resolves a name
//! that could leave it: callers hand in checked [`RelativePath`](crate::model::RelativePath)s only.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::ExchangeError;
use super::name;
use crate::fault;
use crate::model::Timestamp;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory of the inbox.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    /// The file system it is on.
    pub(super) dev: u64,
}

/// The inbox's directories, and which of them have changes that are not durable yet. Keeps two fds, whatever the number of
/// directories.
#[derive(Debug)]
pub(super) struct Dirs {
    root: Rc<Dir>,
    last: Option<(String, Rc<Dir>)>,
    changed: BTreeSet<String>,
}

impl Dirs {
    /// Opens the inbox's directory, which is the operator's to name, and makes it if it is not there.
    pub(super) fn open(root: &Path) -> Result<Self, ExchangeError> {
        let describe = |error: io::Error| ExchangeError::io(&root.to_string_lossy(), "open the inbox's directory", error);
        let open = || fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let fd = match open() {
            Err(Errno::NOENT) => {
                std::fs::create_dir_all(root).map_err(describe)?;
                open()
            }
            opened => opened,
        };
        let root = Rc::new(Dir::new(fd.map_err(|error| describe(error.into()))?).map_err(|error| describe(error.into()))?);
        Ok(Self { root, last: None, changed: BTreeSet::new() })
    }

    /// The inbox's own directory.
    pub(super) fn root(&self) -> &Dir {
        &self.root
    }

    /// The directory that `path` is in, if it exists.
    pub(super) fn find(&mut self, path: &str) -> Result<Option<Rc<Dir>>, ExchangeError> {
        self.resolve(path, name::split(path).0, false)
    }

    /// The directory that `path` is in, made if need be.
    pub(super) fn make(&mut self, path: &str) -> Result<Rc<Dir>, ExchangeError> {
        let found = self.resolve(path, name::split(path).0, true)?;
        Ok(found.expect("a walk that makes directories finds one or fails"))
    }

    fn resolve(&mut self, path: &str, directory: &str, make: bool) -> Result<Option<Rc<Dir>>, ExchangeError> {
        if directory.is_empty() {
            return Ok(Some(Rc::clone(&self.root)));
        }
        if let Some((known, dir)) = &self.last
            && known == directory
        {
            return Ok(Some(Rc::clone(dir)));
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        // Kernels and sandboxes without openat2, and everything out of the ordinary, take the walk, which is as safe and slower.
        let fd = match fs::openat2(&self.root.fd, directory, DIRECTORY, Mode::empty(), resolve) {
            Ok(fd) => Some(fd),
            Err(_) => self.walk(path, directory, make)?,
        };
        let Some(fd) = fd else { return Ok(None) };
        let dir = Rc::new(Dir::new(fd).map_err(|error| ExchangeError::io(path, "look at its directory", error))?);
        self.last = Some((directory.to_owned(), Rc::clone(&dir)));
        Ok(Some(dir))
    }

    fn walk(&mut self, path: &str, directory: &str, make: bool) -> Result<Option<OwnedFd>, ExchangeError> {
        let mut at = fs::openat(&self.root.fd, ".", DIRECTORY, Mode::empty())
            .map_err(|error| ExchangeError::io(path, "open the inbox's directory", error))?;
        let mut end = 0;
        for component in directory.split('/') {
            let parent = &directory[..end];
            end += component.len() + usize::from(end > 0);
            let way = &directory[..end];
            let open = || fs::openat(&at, component, DIRECTORY, Mode::empty());
            let next = match open() {
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(Errno::NOENT) => {
                    match fs::mkdirat(&at, component, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(ExchangeError::io(path, "make its directory", error)),
                    }
                    self.changed.insert(parent.to_owned());
                    fault::point("exchange.directory");
                    open()
                }
                opened => opened,
            };
            at = match next {
                Ok(fd) => fd,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let (path, way) = (path.to_owned(), way.to_owned());
                    let link = fs::statat(&at, component, AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
                    return Err(if link {
                        ExchangeError::SymlinkInTheWay { path, way }
                    } else {
                        ExchangeError::FileInTheWay { path, way }
                    });
                }
                Err(error) => return Err(ExchangeError::io(path, "open its directory", error)),
            };
        }
        Ok(Some(at))
    }

    /// Notes that names in the directory of `path` changed, or must be durable before they are acknowledged.
    pub(super) fn touch(&mut self, path: &str) {
        let (directory, _) = name::split(path);
        if !self.changed.contains(directory) {
            self.changed.insert(directory.to_owned());
        }
    }

    /// Makes the names in all changed directories durable, one fsync a directory. One that is gone has no names left.
    pub(super) fn sync(&mut self) -> Result<(), ExchangeError> {
        for directory in std::mem::take(&mut self.changed) {
            if let Some(dir) = self.resolve(&directory, &directory, false)? {
                fs::fsync(&dir.fd).map_err(|error| ExchangeError::io(&directory, "make the directory durable", error))?;
            }
        }
        Ok(())
    }
}

impl Dir {
    fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let dev = fs::fstat(&fd)?.st_dev;
        Ok(Self { fd, dev })
    }

    /// Removes a name that is ours; that it is gone already is fine.
    pub(super) fn remove(&self, name: &str) -> Result<(), Errno> {
        match fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }

    /// Gives what is called `name` a conflict name that nothing has.
    pub(super) fn move_aside(&self, name: &str, now: Timestamp) -> Result<(), Errno> {
        for attempt in 0.. {
            let aside = name::conflict(name, now, attempt);
            match self.rename_new(name, &aside) {
                Err(Errno::EXIST) => {}
                done => return done,
            }
        }
        unreachable!("2^32 conflict names of one millisecond")
    }

    /// Gives what is called `name` another name, unless something has that: [`Errno::EXIST`].
    pub(super) fn rename_new(&self, name: &str, new: &str) -> Result<(), Errno> {
        match fs::renameat_with(&self.fd, name, &self.fd, new, RenameFlags::NOREPLACE) {
            // Not every file system knows the flag.
            Err(Errno::INVAL | Errno::NOSYS) => match fs::statat(&self.fd, new, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => fs::renameat(&self.fd, name, &self.fd, new),
                Err(error) => Err(error),
                Ok(_) => Err(Errno::EXIST),
            },
            done => done,
        }
    }
}
