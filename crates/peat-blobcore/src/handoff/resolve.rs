//! Files by directory descriptor and name, as another process gives them: hostile until it is shown that they are what they stand for.
//!
//! Must never follow a link, leave the directory or its file system, wait for whoever is at the other end of a pipe, or do with less
//! than `openat2` where the system has none: any other way to the same end can be raced.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::HandoffError;
use super::frame::{FileChunk, check_name};

/// The directories that came with a stream, by index. What is no directory may lie between them, as long as no chunk is of it.
#[derive(Debug)]
pub struct Directories(Vec<Option<OwnedFd>>);

impl Directories {
    /// Takes descriptors in the order in which they came, and closes those that are none of a directory.
    #[must_use]
    pub fn new(descriptors: Vec<OwnedFd>) -> Self {
        let is_directory =
            |fd: &OwnedFd| fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        Self(descriptors.into_iter().map(|fd| Some(fd).filter(is_directory)).collect())
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<BorrowedFd<'_>> {
        self.0.get(usize::try_from(index).ok()?)?.as_ref().map(AsFd::as_fd)
    }

    /// Opens the file that a chunk stands for: a regular one, of exactly the length that the chunk says. It may change afterwards;
    /// so who reads it holds what was read against the layer's digest.
    ///
    /// # Errors
    /// [`HandoffError`], of which each check has one of its own.
    pub fn open(&self, chunk: &FileChunk) -> Result<File, HandoffError> {
        check_name(&chunk.name)?;
        let found = usize::try_from(chunk.directory).ok().and_then(|index| self.0.get(index));
        let slot = found.ok_or(HandoffError::NoDirectory { index: chunk.directory, count: self.0.len() })?;
        let directory = slot.as_ref().ok_or(HandoffError::NotADirectory(chunk.directory))?;
        // A pipe without a writer is opened at once then, and found to be no file.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let file = fs::openat2(directory, chunk.name.as_slice(), flags, Mode::empty(), resolve)
            .map_err(|errno| refused(errno, &chunk.name))?;
        let stat = fs::fstat(&file).map_err(|errno| HandoffError::io("look at", shown(&chunk.name))(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(HandoffError::NotAFile(shown(&chunk.name)));
        }
        match u64::try_from(stat.st_size) {
            Ok(actual) if actual == chunk.length => Ok(File::from(file)),
            actual => Err(wrong_length(chunk, actual.unwrap_or_default())),
        }
    }
}

pub(super) fn wrong_length(chunk: &FileChunk, actual: u64) -> HandoffError {
    HandoffError::WrongLength { name: shown(&chunk.name), stated: chunk.length, actual }
}

/// What it means that a file was not opened.
fn refused(errno: Errno, name: &[u8]) -> HandoffError {
    let name = shown(name);
    match errno {
        // Sandboxes say the second of calls that they do not allow.
        Errno::NOSYS | Errno::PERM => HandoffError::NoOpenat2,
        Errno::LOOP => HandoffError::Link(name),
        Errno::XDEV => HandoffError::Leaves(name),
        Errno::NOENT | Errno::NOTDIR => HandoffError::Missing(name),
        // Sockets, and devices without a driver.
        Errno::NXIO | Errno::NODEV => HandoffError::NotAFile(name),
        errno => HandoffError::io("open", name)(errno.into()),
    }
}

/// A name for messages.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn chunk(directory: u32, name: &[u8], length: u64) -> FileChunk {
        FileChunk { length, directory, name: name.to_vec() }
    }

    /// A dummy, a directory with all sorts of things, a dummy.
    fn fixture() -> (tempfile::TempDir, Directories) {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("in/sub")).expect("a directory");
        std::fs::write(at("outside"), b"secret").expect("a file");
        std::fs::write(at("in/file"), b"four").expect("a file");
        std::fs::write(at("in/sub/file"), b"seven..").expect("a file");
        symlink("file", at("in/beside")).expect("a link");
        symlink("../outside", at("in/out")).expect("a link");
        symlink("sub", at("in/way")).expect("a link");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("in/pipe"), Mode::from_raw_mode(0o600)).expect("a pipe");
        drop(UnixListener::bind(at("in/socket")).expect("a socket"));
        let open = |path: &std::path::Path| OwnedFd::from(File::open(path).expect("it opens"));
        let null = || open("/dev/null".as_ref());
        let directories = Directories::new(vec![null(), open(&at("in")), open(&at("outside"))]);
        (dir, directories)
    }

    #[test]
    fn a_file_is_opened_by_its_index_and_name_with_dummies_about() {
        let (_dir, directories) = fixture();
        for (name, length) in [(&b"file"[..], 4), (b"sub/file", 7), (b"./sub//file", 7)] {
            let file = directories.open(&chunk(1, name, length)).expect("it is one");
            assert_eq!(file.metadata().expect("open").len(), length);
        }
    }

    #[test]
    fn every_other_thing_has_an_error_of_its_own() {
        use HandoffError as E;
        let (_dir, directories) = fixture();
        let open = |directory, name: &[u8], length| directories.open(&chunk(directory, name, length)).expect_err("it is refused");
        assert!(matches!(open(3, b"file", 4), E::NoDirectory { index: 3, count: 3 }));
        assert!(matches!(open(u32::MAX, b"file", 4), E::NoDirectory { .. }));
        assert!(matches!(open(0, b"file", 4), E::NotADirectory(0)));
        assert!(matches!(open(2, b"file", 4), E::NotADirectory(2)));
        assert!(matches!(open(1, b"none", 4), E::Missing(_)));
        assert!(matches!(open(1, b"file/below", 4), E::Missing(_)));
        assert!(matches!(open(1, b"beside", 4), E::Link(_)), "also where it would stay within");
        assert!(matches!(open(1, b"out", 6), E::Link(_)));
        assert!(matches!(open(1, b"way/file", 7), E::Link(_)));
        assert!(matches!(open(1, b"pipe", 0), E::NotAFile(_)), "and nobody waits for its writer");
        assert!(matches!(open(1, b"socket", 0), E::NotAFile(_)));
        assert!(matches!(open(1, b"sub", 0), E::NotAFile(_)));
        assert!(matches!(open(1, b".", 0), E::NotAFile(_)));
        for length in [0, 3, 5, u64::MAX] {
            assert!(matches!(open(1, b"file", length), E::WrongLength { actual: 4, stated, .. } if stated == length));
        }
        for name in [&b""[..], b"a\0", b"/etc/hosts", b"../outside"] {
            assert!(matches!(open(1, name, 6), E::Frame(_)), "{name:?}");
        }
    }

    #[test]
    fn another_file_system_beneath_the_directory_is_not_entered() {
        let root = Directories::new(vec![File::open("/").expect("the root").into()]);
        // `/proc` is mounted wherever this runs.
        assert!(matches!(root.open(&chunk(0, b"proc/version", 0)), Err(HandoffError::Leaves(_))));
    }

    #[test]
    fn without_openat2_nothing_is_opened_in_another_way() {
        assert!(matches!(refused(Errno::NOSYS, b"file"), HandoffError::NoOpenat2));
        assert!(matches!(refused(Errno::XDEV, b"file"), HandoffError::Leaves(_)));
        assert!(refused(Errno::NOSYS, b"file").hint().is_some_and(|hint| hint.contains("openat2")));
    }
}
