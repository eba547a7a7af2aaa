//! A layer that is being split: its stream, the list of its objects, and those that are new.
//!
//! Must never give an object its name before its bytes are durable, and leaves those that are there as they are.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::HandoffError;
use super::frame::{FileChunk, Inline, inline_head};
use super::keep::{self, Keep, ObjectName};

/// Objects that get their names together: one `syncfs` makes the bytes of all of them durable.
const BATCH: usize = 1024;
/// Only what begins at a multiple of this can be shared with the file that it is in: in a tar archive, one file of eight.
const SHARED_BLOCK: u64 = 4096;
const STEP_BYTES: usize = 128 * 1024;

/// A build. There is one at a time.
pub(super) struct Build<'a> {
    keep: &'a Keep,
    stream: BufWriter<File>,
    list: BufWriter<File>,
    /// Objects that have their bytes, and no names yet.
    new: BTreeSet<ObjectName>,
    /// The file with the plain layer, on a file system that shares parts of files.
    origin: Option<&'a File>,
}

impl<'a> Build<'a> {
    /// Begins one. `origin` is the file that the bytes are read from, if it has them as they are.
    pub(super) fn begin(keep: &'a Keep, origin: Option<&'a File>) -> Result<Self, HandoffError> {
        let stream = BufWriter::with_capacity(STEP_BYTES, create(&keep.building_stream())?);
        let list = BufWriter::new(create(&keep.building_list())?);
        let probe = keep.temp("probe");
        let shares = |origin: &File| create(&probe).is_ok_and(|probe| rustix::fs::ioctl_ficlone(probe, origin).is_ok());
        let origin = origin.filter(|origin| shares(origin));
        let _ = fs::remove_file(&probe);
        Ok(Self { keep, stream, list, new: BTreeSet::new(), origin })
    }

    /// Headers and padding.
    pub(super) fn metadata(&mut self, bytes: &[u8]) -> Result<(), HandoffError> {
        self.inline(Inline::Metadata, bytes)
    }

    /// The content of a small file.
    pub(super) fn content(&mut self, bytes: &[u8]) -> Result<(), HandoffError> {
        self.inline(Inline::Content, bytes)
    }

    /// A large file: `first`, and then `rest` if that was not all. Both lie one behind the other in the origin, from `at` on. Whether it
    /// was not there before.
    pub(super) fn object(&mut self, first: &[u8], rest: Option<&mut dyn Read>, at: u64) -> Result<bool, HandoffError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(first);
        let mut length = first.len() as u64;
        let shared = self.origin.filter(|_| at.is_multiple_of(SHARED_BLOCK));
        match (rest, shared) {
            (None, _) => {}
            (Some(rest), Some(_)) => length += feed(rest, &mut hasher, &mut io::sink())?,
            (Some(rest), None) => return self.large(first, rest, hasher),
        }
        let name = ObjectName::from(hasher.finalize());
        let new = !self.has(&name, length);
        if new {
            self.reserve(length)?;
            let path = self.keep.temp_object(&name);
            let file = create(&path)?;
            match shared {
                Some(origin) => share(origin, at, length, &file, &name)?,
                None => (&file).write_all(first).map_err(HandoffError::io("write", path.display()))?,
            }
            self.placed(name)?;
        }
        self.named(&name, length)?;
        Ok(new)
    }

    /// A file of the system, all of which becomes an object that shares its blocks; `None` where these cannot be shared. `seen` is given
    /// its bytes, as the object has them. Whether it was not there before.
    pub(super) fn clone_of(
        &mut self,
        file: &File,
        length: u64,
        seen: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<bool>, HandoffError> {
        let path = self.keep.temp("taken");
        let _ = fs::remove_file(&path);
        let own = create(&path)?;
        if rustix::fs::ioctl_ficlone(&own, file).is_err() {
            fs::remove_file(&path).map_err(HandoffError::io("remove", path.display()))?;
            return Ok(None);
        }
        // Nobody changes it from here on, whatever becomes of the other.
        let (mut hasher, mut piece, mut read) = (blake3::Hasher::new(), vec![0; STEP_BYTES], 0);
        loop {
            match std::os::unix::fs::FileExt::read_at(&own, &mut piece, read) {
                Ok(0) => break,
                Ok(some) => {
                    hasher.update(&piece[..some]);
                    seen(&piece[..some]);
                    read += some as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(HandoffError::io("read", path.display())(error)),
            }
        }
        if read != length {
            return Err(HandoffError::WrongLength { name: "a file".to_owned(), stated: length, actual: read });
        }
        let name = ObjectName::from(hasher.finalize());
        let new = !self.has(&name, length);
        if new {
            self.reserve(length)?;
            let to = self.keep.temp_object(&name);
            fs::rename(&path, &to).map_err(HandoffError::io("name", to.display()))?;
            self.placed(name)?;
        } else {
            fs::remove_file(&path).map_err(HandoffError::io("remove", path.display()))?;
        }
        self.named(&name, length)?;
        Ok(Some(new))
    }

    /// Names an object if it is there.
    pub(super) fn known(&mut self, name: ObjectName, length: u64) -> Result<bool, HandoffError> {
        let there = self.has(&name, length);
        if there {
            self.named(&name, length)?;
        }
        Ok(there)
    }

    /// A file that is too large to be looked for before it is written.
    fn large(&mut self, first: &[u8], rest: &mut dyn Read, mut hasher: blake3::Hasher) -> Result<bool, HandoffError> {
        let path = self.keep.temp("large");
        let file = create(&path)?;
        let mut writer = Reserving { build: self, file: &file, failed: None };
        let written = writer.write_all(first).map_err(HandoffError::io("write", path.display()));
        let written = written.and_then(|()| feed(rest, &mut hasher, &mut writer));
        let length = match writer.failed.take() {
            Some(error) => return Err(error),
            None => first.len() as u64 + written?,
        };
        let name = ObjectName::from(hasher.finalize());
        let new = !self.has(&name, length);
        if !new {
            fs::remove_file(&path).map_err(HandoffError::io("remove", path.display()))?;
            self.keep.give_back(length);
        } else {
            let to = self.keep.temp_object(&name);
            fs::rename(&path, &to).map_err(HandoffError::io("name", to.display()))?;
            self.placed(name)?;
        }
        self.named(&name, length)?;
        Ok(new)
    }

    /// Makes everything durable but the stream's name, which makes the layer one that there is.
    pub(super) fn finish(mut self) -> Result<(), HandoffError> {
        self.stream.flush().map_err(HandoffError::io("write", "a split stream"))?;
        self.list.flush().map_err(HandoffError::io("write", "a list of objects"))?;
        self.name_new()?;
        // Names, too.
        self.keep.sync()
    }

    fn inline(&mut self, kind: Inline, bytes: &[u8]) -> Result<(), HandoffError> {
        let head = inline_head(kind, bytes.len() as u64)?;
        self.reserve((head.len() + bytes.len()) as u64)?;
        self.stream
            .write_all(&head)
            .and_then(|()| self.stream.write_all(bytes))
            .map_err(HandoffError::io("write", "a split stream"))
    }

    /// Whether an object is there already.
    fn has(&self, name: &ObjectName, length: u64) -> bool {
        let there = |path: PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == length);
        self.new.contains(name) || there(self.keep.object(name))
    }

    /// An object has its bytes.
    fn placed(&mut self, name: ObjectName) -> Result<(), HandoffError> {
        self.new.insert(name);
        if self.new.len() < BATCH { Ok(()) } else { self.name_new() }
    }

    fn name_new(&mut self) -> Result<(), HandoffError> {
        if !self.new.is_empty() {
            self.keep.sync()?;
        }
        for name in std::mem::take(&mut self.new) {
            let to = self.keep.object(&name);
            fs::rename(self.keep.temp_object(&name), &to).map_err(HandoffError::io("name", to.display()))?;
        }
        Ok(())
    }

    /// The chunk of an object.
    fn named(&mut self, name: &ObjectName, length: u64) -> Result<(), HandoffError> {
        let mut chunk = Vec::new();
        FileChunk { length, directory: 0, name: name.path().into_bytes() }.encode(&mut chunk)?;
        self.list.write_all(name.as_bytes()).map_err(HandoffError::io("write", "a list of objects"))?;
        self.reserve((chunk.len() + name.as_bytes().len()) as u64)?;
        self.stream.write_all(&chunk).map_err(HandoffError::io("write", "a split stream"))
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), HandoffError> {
        if self.keep.fits(bytes)? {
            return Ok(());
        }
        // What the list names stays.
        self.list.flush().map_err(HandoffError::io("write", "a list of objects"))?;
        self.keep.make_room(bytes)
    }
}

/// Writes to a file what there is room for.
struct Reserving<'b, 'a> {
    build: &'b mut Build<'a>,
    file: &'b File,
    failed: Option<HandoffError>,
}

impl Write for Reserving<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.build.reserve(bytes.len() as u64) {
            self.failed = Some(error);
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut file = self.file;
        file.write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes and writes what is left of a file, and says how much it was.
fn feed(rest: &mut dyn Read, hasher: &mut blake3::Hasher, out: &mut dyn Write) -> Result<u64, HandoffError> {
    let (mut piece, mut length) = (vec![0; STEP_BYTES], 0);
    loop {
        match rest.read(&mut piece) {
            Ok(0) => return Ok(length),
            Ok(read) => {
                hasher.update(&piece[..read]);
                out.write_all(&piece[..read]).map_err(HandoffError::io("write", "an object"))?;
                length += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(HandoffError::source(error)),
        }
    }
}

/// Makes a file what a part of another is, with the other's blocks as far as they are its own. What came of it is read back: it is
/// the object's bytes, or none.
fn share(origin: &File, at: u64, length: u64, file: &File, name: &ObjectName) -> Result<(), HandoffError> {
    let fail = || HandoffError::io("copy", "a part of the layer");
    let (mut from, mut done) = (at, 0);
    while done < length {
        let most = usize::try_from(length - done).unwrap_or(usize::MAX);
        // File systems that can share blocks do, for this call.
        match rustix::fs::copy_file_range(origin, Some(&mut from), file, Some(&mut done), most) {
            Ok(0) => return Err(fail()(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(fail()(errno.into())),
        }
    }
    match keep::hash_of(file).map_err(fail())? == *name {
        true => Ok(()),
        false => Err(fail()(io::Error::new(io::ErrorKind::InvalidData, "it changed while it was read"))),
    }
}

/// A new file of ours, which others may link to and nobody is to write to.
fn create(path: &Path) -> Result<File, HandoffError> {
    let made = File::options().read(true).write(true).create_new(true).mode(0o444).open(path);
    made.map_err(HandoffError::io("create", path.display()))
}
