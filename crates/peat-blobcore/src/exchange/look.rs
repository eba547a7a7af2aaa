//! What is under a name of the inbox now, held against what we put there and what is to come. Reads only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::beneath::Dir;
use super::ledger::Record;
use crate::model::BlobHash;

/// What a file's metadata was when its content was last known. Any write changes it, so while it is the same the content
/// need not be read; when it differs, the content decides.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) struct Print {
    #[n(0)]
    pub(super) inode: u64,
    #[n(1)]
    size: u64,
    #[n(2)]
    mtime: (i64, u64),
    #[n(3)]
    ctime: (i64, u64),
}

impl Print {
    #[allow(clippy::useless_conversion, reason = "the widths differ between platforms")]
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino.into(),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mtime: (stat.st_mtime.into(), stat.st_mtime_nsec.into()),
            ctime: (stat.st_ctime.into(), stat.st_ctime_nsec.into()),
        }
    }
}

/// What is there.
#[derive(Debug)]
pub(super) enum There {
    /// The name is free.
    Nothing,
    /// What the last delivery put there, untouched.
    Ours,
    /// The content that is to come. `durable` when the ledger vouches for it; else it may be a rename that a crash cut short,
    /// and its name has still to be made durable (its content has been).
    Equal {
        /// Its metadata.
        print: Print,
        /// Whether nothing needs to be synced.
        durable: bool,
    },
    /// A directory.
    Directory,
    /// Anything else: edited, put there by the user, a link, a pipe, unreadable. Never replaced, only moved aside.
    Theirs,
}

/// Looks at `name`. `last` is what the ledger knows of it, `size` and `blob` what is to come.
pub(super) fn look(dir: &Dir, name: &str, last: Option<&Record>, size: u64, blob: &BlobHash) -> io::Result<There> {
    let stat = match fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(There::Nothing),
        Err(error) => return Err(error.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Ok(There::Directory),
        FileType::RegularFile => {}
        _ => return Ok(There::Theirs),
    }
    let print = Print::of(&stat);
    if let Some(last) = last
        && last.print.as_ref() == Some(&print)
    {
        return Ok(if last.blob == *blob { There::Equal { print, durable: true } } else { There::Ours });
    }
    let could_be_equal = print.size == size;
    if !could_be_equal && last.is_none_or(|last| last.size != print.size) {
        return Ok(There::Theirs);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(fd) = fs::openat(&dir.fd, name, flags, Mode::empty()) else { return Ok(There::Theirs) };
    let file = File::from(fd);
    let Ok(Some(found)) = hash(&file, print.size) else { return Ok(There::Theirs) };
    if could_be_equal && found == *blob {
        fs::fsync(&file)?;
        return Ok(There::Equal { print, durable: false });
    }
    Ok(if last.is_some_and(|last| last.blob == found) { There::Ours } else { There::Theirs })
}

/// The hash of a file that has exactly `size` bytes; `None` when it has more or fewer.
pub(super) fn hash(file: &File, size: u64) -> io::Result<Option<BlobHash>> {
    ReadBack::new(file, size).hash()
}

/// A file that is read from its first byte on, as far as it was written, and hashed.
pub(super) struct ReadBack<'a> {
    file: &'a File,
    size: u64,
    at: u64,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl<'a> ReadBack<'a> {
    /// `size` is what the file is to have in the end.
    pub(super) fn new(file: &'a File, size: u64) -> Self {
        let buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).clamp(1, 256 * 1024)];
        Self { file, size, at: 0, buffer, hasher: blake3::Hasher::new() }
    }

    /// Reads up to `end`, or to where the file ends.
    pub(super) fn follow(&mut self, end: u64) -> io::Result<()> {
        while self.at < end {
            let most = self.buffer.len().min(usize::try_from(end - self.at).unwrap_or(usize::MAX));
            match self.file.read_at(&mut self.buffer[..most], self.at) {
                Ok(0) => break,
                Ok(read) => {
                    self.at += read as u64;
                    self.hasher.update(&self.buffer[..read]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads the rest; the hash, or `None` when the file has more or fewer bytes than it should.
    pub(super) fn hash(mut self) -> io::Result<Option<BlobHash>> {
        self.follow(self.size.saturating_add(1))?;
        Ok((self.at == self.size).then(|| BlobHash::from_bytes(*self.hasher.finalize().as_bytes())))
    }
}
