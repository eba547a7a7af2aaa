//! One blob into one file beneath a root, which is there whole and durable or not at all. Never replaces what is there.

use std::fs::File;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::batch::random;
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

/// Writes a blob to `path` beneath the directory `root`; directories on the way are made. It has a hidden name that ends in `.part` until
/// all of it is durable. Blocks.
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
    // A name of its own: two exports of one blob know nothing of each other, and nobody's file is in the way. A crash leaves it.
    let part = format!(".{}-{:016x}.part", blob.short(), random()?);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::SystemClock;
    use crate::content::Options;

    #[test]
    fn exports_of_one_blob_into_one_directory_at_once_are_whole_each() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { quota: None, reserve: 0 };
        let content = Content::open(&dir.path().join("content"), options, Arc::new(SystemClock)).unwrap();
        let bytes: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let hash = content.ingest_bytes(&bytes).unwrap().hash;
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (content, root) = (&content, &root);
                let path: RelativePath = RelativePath::parse(format!("file{number}").as_bytes()).unwrap();
                scope.spawn(move || assert!(matches!(export(content, &hash, root, &path), Ok(Placed::New(_)))));
            }
        });
        let names: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names.len(), 8, "{names:?}");
        assert!(names.iter().all(|name| std::fs::read(name).unwrap() == bytes));
    }
}
