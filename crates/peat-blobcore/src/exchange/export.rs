//! One blob into one file beneath a root, which is there whole and durable or not at all. Never replaces what is there.

use std::fs::File;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::Dirs;
use super::error::ExchangeError;
use super::look;
use super::name;
use crate::Error;
use crate::content::{Content, Exported};
use crate::model::{BlobHash, RelativePath};

/// How a blob got to where it was to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// Its bytes were written, or are shared with the store.
    New(Exported),
    /// A file with these bytes was there.
    Present,
}

/// Writes a blob to `path` beneath the directory `root`; directories on the way are made. Blocks.
///
/// # Errors
/// [`ExchangeError::Taken`] where something else has the name, else what the store or the file system fails with. Nothing is left
/// behind then.
pub fn export(content: &Content, blob: &BlobHash, root: &Path, path: &RelativePath) -> Result<Placed, Error> {
    let path = path.as_str();
    let io = |what| move |error: Errno| ExchangeError::io(path, what, error);
    let taken = || Error::from(ExchangeError::Taken { path: path.to_owned() });
    let size = content.open_blob(blob)?.size();
    let mut dirs = Dirs::open(root)?;
    let dir = dirs.make(path)?;
    let (_, last) = name::split(path);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match fs::openat(&dir.fd, last, flags, Mode::empty()) {
        Ok(there) => {
            let same = look::hash(&File::from(there), size).is_ok_and(|found| found == Some(*blob));
            return if same { Ok(Placed::Present) } else { Err(taken()) };
        }
        Err(Errno::NOENT) => {}
        Err(_) => return Err(taken()),
    }
    // Of two exports of the same the later begins anew.
    let part = format!(".{}.part", blob.short());
    dir.remove(&part).map_err(io("clear its place"))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = File::from(fs::openat(&dir.fd, &part, flags, Mode::from_raw_mode(0o644)).map_err(io("make it"))?);
    let written = (|| {
        let exported = content.export(blob, &file, Path::new(path))?;
        file.sync_all().map_err(|error| ExchangeError::io(path, "write it", error))?;
        match dir.rename_new(&part, last) {
            Err(Errno::EXIST) => Err(taken()),
            Err(error) => Err(io("name it")(error).into()),
            Ok(()) => Ok::<_, Error>(exported),
        }
    })();
    if written.is_err() {
        // What failed says more than that this could not be cleared away.
        let _ = dir.remove(&part);
    }
    let exported = written?;
    dirs.touch(path);
    dirs.sync()?;
    Ok(Placed::New(exported))
}
