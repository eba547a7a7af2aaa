//! Layers that others give as split streams, into the cache: files share their blocks with the giver's where the file system can.
//!
//! A stream comes as a whole before anything is made of it: who stalls holds up nobody else. Must never keep what was not held against
//! the layer's digest as a whole, nor link to another's file, which its owner could change.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::os::unix::fs::FileExt as _;

use super::build::Build;
use super::cache::Positioned;
use super::frame::{FileChunk, Inline};
use super::keep::{Keep, ObjectName};
use super::reader::expect;
use super::resolve;
use super::{CacheOptions, Directories, HandoffError, LayerCache, Part, SplitLayer, SplitReader};
use crate::content::Sharing;
use crate::oci::{Digest, DigestHasher};

const STEP_BYTES: usize = 128 * 1024;

/// A layer that was taken, and what became of its objects.
#[derive(Debug)]
pub struct TakenLayer {
    /// The layer. It stays as long as this is held.
    pub layer: SplitLayer,
    /// Whether it was there before; then nothing was made.
    pub was_there: bool,
    /// Objects that share their blocks with the files that were given.
    pub reflinked: u64,
    /// Objects that were copied.
    pub copied: u64,
    /// Objects that were there before.
    pub known: u64,
}

impl LayerCache {
    /// Takes a layer whose stream and directories somebody gives. The stream is read to its end also where the layer is there.
    ///
    /// # Errors
    /// When it is no stream or not this layer, `CannotShare`, or `NoRoom`: then nothing is kept.
    pub fn take(
        &self,
        diff_id: &Digest,
        stream: &mut dyn Read,
        directories: &Directories,
        sharing: Sharing,
    ) -> Result<TakenLayer, HandoffError> {
        let limit = self.options().layer_limit;
        if let Some(layer) = self.get(diff_id)? {
            let drained = io::copy(&mut stream.take(limit), &mut io::sink());
            drained.map_err(HandoffError::io("read", "the split stream"))?;
            return Ok(TakenLayer { layer, was_there: true, reflinked: 0, copied: 0, known: 0 });
        }
        let came = Coming::read(self, stream)?;
        let mut counts = Counts::default();
        let layer = self.layer_of(diff_id, &mut || {
            counts = Counts::default();
            let source = SplitReader::new(Positioned { file: &came.file, at: 0 }, directories, limit);
            let mut taking = Taking {
                build: Build::begin(self.keep(), None)?,
                hasher: DigestHasher::new(diff_id.algorithm()),
                threshold: self.options().threshold,
                sharing,
                counts: &mut counts,
            };
            taking.all(source)?;
            let Taking { build, hasher, .. } = taking;
            expect(hasher, diff_id)?;
            build.finish()
        })?;
        let Counts { reflinked, copied, known } = counts;
        Ok(TakenLayer { layer, was_there: false, reflinked, copied, known })
    }
}

/// A stream that has come.
struct Coming<'a> {
    file: File,
    keep: &'a Keep,
    bytes: u64,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.keep.forget_coming(self.bytes);
    }
}

impl<'a> Coming<'a> {
    fn read(cache: &'a LayerCache, stream: &mut dyn Read) -> Result<Self, HandoffError> {
        let keep = cache.keep();
        let mut coming = Self { file: keep.coming()?, keep, bytes: 0 };
        let mut piece = vec![0; STEP_BYTES];
        loop {
            let read = match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(HandoffError::io("read", "the split stream")(error)),
            };
            cache.room_for_coming(read as u64)?;
            coming.bytes += read as u64;
            coming.file.write_all(&piece[..read]).map_err(HandoffError::io("write", "the split stream"))?;
        }
        coming.file.rewind().map_err(HandoffError::io("read", "the split stream"))?;
        Ok(coming)
    }
}

#[derive(Debug, Default)]
struct Counts {
    reflinked: u64,
    copied: u64,
    known: u64,
}

impl Counts {
    fn copy(&mut self, new: bool) {
        match new {
            true => self.copied += 1,
            false => self.known += 1,
        }
    }
}

/// A layer that is being made of what came.
struct Taking<'a, 'b> {
    build: Build<'b>,
    hasher: DigestHasher,
    threshold: u64,
    sharing: Sharing,
    counts: &'a mut Counts,
}

impl Taking<'_, '_> {
    fn all<R: Read>(&mut self, mut source: SplitReader<'_, R>) -> Result<(), HandoffError> {
        enum Next {
            Inline(Inline, u64),
            File(FileChunk, File),
        }
        loop {
            let next = match source.next_part()? {
                None => return Ok(()),
                Some(Part::Begin { kind, length }) => Next::Inline(kind, length.into()),
                Some(Part::File { chunk, file }) => Next::File(chunk, file),
                Some(Part::Bytes(bytes)) => {
                    self.hasher.update(bytes);
                    self.build.metadata(bytes)?;
                    continue;
                }
            };
            match next {
                // Its bytes come as parts.
                Next::Inline(Inline::Metadata, _) => {}
                Next::Inline(Inline::Content, length) => {
                    self.bytes(&mut ChunkBytes { source: &mut source, rest: Vec::new(), at: 0, left: length }, length)?;
                }
                Next::File(chunk, file) => self.file(&chunk, &file)?,
            }
        }
    }

    /// The content of a file, of which there are just the bytes.
    fn bytes(&mut self, content: &mut dyn Read, length: u64) -> Result<(), HandoffError> {
        if self.sharing == Sharing::Only && length >= self.threshold {
            let name = "a file in the stream".to_owned();
            return Err(HandoffError::CannotShare { name, why: "its bytes are in the stream".to_owned() });
        }
        self.copied(content, length)
    }

    fn copied(&mut self, content: &mut dyn Read, length: u64) -> Result<(), HandoffError> {
        let mut content = Hashed { inner: content, hasher: &mut self.hasher };
        let mut first = Vec::new();
        content.by_ref().take(CacheOptions::MAX_THRESHOLD).read_to_end(&mut first).map_err(HandoffError::source)?;
        if length < self.threshold {
            return self.build.content(&first);
        }
        let is_longer = length > CacheOptions::MAX_THRESHOLD;
        let new = self.build.object(&first, is_longer.then_some(&mut content as &mut dyn Read), 0)?;
        self.counts.copy(new);
        Ok(())
    }

    fn file(&mut self, chunk: &FileChunk, file: &File) -> Result<(), HandoffError> {
        let length = chunk.length;
        if length >= self.threshold {
            let hasher = &mut self.hasher;
            if let Some(new) = self.build.clone_of(file, length, &mut |bytes| hasher.update(bytes))? {
                match new {
                    true => self.counts.reflinked += 1,
                    false => self.counts.known += 1,
                }
                return Ok(());
            }
            if self.sharing == Sharing::Only {
                return self.known(chunk, file);
            }
        }
        self.copied(&mut Exactly { chunk, file, at: 0 }, length)
    }

    /// A file that cannot be shared: it is there, or the layer is refused.
    fn known(&mut self, chunk: &FileChunk, file: &File) -> Result<(), HandoffError> {
        let (mut object, mut piece) = (blake3::Hasher::new(), vec![0; STEP_BYTES]);
        let mut content = Exactly { chunk, file, at: 0 };
        loop {
            match content.read(&mut piece).map_err(HandoffError::source)? {
                0 => break,
                read => {
                    object.update(&piece[..read]);
                    self.hasher.update(&piece[..read]);
                }
            }
        }
        match self.build.known(ObjectName::from(object.finalize()), chunk.length)? {
            true => {
                self.counts.known += 1;
                Ok(())
            }
            false => Err(HandoffError::CannotShare {
                name: resolve::shown(&chunk.name),
                why: "the two directories are not on one file system that shares blocks".to_owned(),
            }),
        }
    }
}

/// The bytes of the chunk that has begun.
struct ChunkBytes<'s, 'd, R> {
    source: &'s mut SplitReader<'d, R>,
    /// Of the part that came last.
    rest: Vec<u8>,
    at: usize,
    left: u64,
}

impl<R: Read> Read for ChunkBytes<'_, '_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.rest.len() {
            if self.left == 0 {
                return Ok(0);
            }
            match self.source.next_part().map_err(io::Error::other)? {
                Some(Part::Bytes(bytes)) => {
                    self.rest.clear();
                    self.rest.extend_from_slice(bytes);
                    (self.at, self.left) = (0, self.left.saturating_sub(bytes.len() as u64));
                }
                // The decoder gives all of a chunk before anything else.
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let most = into.len().min(self.rest.len() - self.at);
        into[..most].copy_from_slice(&self.rest[self.at..self.at + most]);
        self.at += most;
        Ok(most)
    }
}

/// All of a file, which has as many bytes as its chunk says, or is an error.
struct Exactly<'a> {
    chunk: &'a FileChunk,
    file: &'a File,
    at: u64,
}

impl Read for Exactly<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.chunk.length - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut into[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::Error::other(resolve::wrong_length(self.chunk, self.at)));
        }
        self.at += read as u64;
        Ok(read)
    }
}

struct Hashed<'a> {
    inner: &'a mut dyn Read,
    hasher: &'a mut DigestHasher,
}

impl Read for Hashed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}
