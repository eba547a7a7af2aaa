//! Layers as split streams, made when they are first asked for and kept as long as there is room: a cache, rebuilt at will.
//!
//! Must never hand out a layer that this process has not put together again and held against its digest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::HandoffError;
use super::build::Build;
use super::frame::{FileChunk, inline_head};
use super::keep::Keep;
use super::reader::{Part, SplitReader, expect};
use super::resolve::Directories;
use super::split::{Source, split};
use crate::clock::Clock;
use crate::oci::{Digest, DigestHasher};

/// What a cache of split layers may take, and what it takes apart.
#[derive(Debug, Clone, Copy)]
pub struct CacheOptions {
    /// Most bytes of everything in it. What was used longest ago goes first; what is in use stays.
    pub quota: u64,
    /// Bytes of the file system that are left to others.
    pub reserve: u64,
    /// Files of at least so many bytes become objects, from 1 to [`CacheOptions::MAX_THRESHOLD`].
    pub threshold: u64,
    /// Most bytes of one layer, unpacked.
    pub layer_limit: u64,
}

impl CacheOptions {
    /// Smaller files than this are held in memory while they are split off.
    pub const MAX_THRESHOLD: u64 = 1024 * 1024;
}

impl Default for CacheOptions {
    /// 8 GiB, of which a layer may come to all; and files of 4 KiB: from there on a block at least is shared with who takes it, and of
    /// an operating system's files a third has 98 % of the bytes.
    fn default() -> Self {
        Self { quota: 8 << 30, reserve: 64 << 20, threshold: 4096, layer_limit: 1 << 40 }
    }
}

/// What a layer is made of when it is not in the cache.
pub struct LayerSource<'a> {
    /// The plain tar archive.
    pub tar: Box<dyn Read + 'a>,
    /// The file that has just these bytes, if there is one: where the file system can, objects share its blocks.
    pub file: Option<&'a File>,
}

/// A cache of split layers in a directory: a cheap handle, to be cloned. One process at a time can have it open. Everything may
/// block on the disk: call it on blocking threads.
#[derive(Clone)]
pub struct LayerCache(Arc<Inner>);

struct Inner {
    keep: Keep,
    options: CacheOptions,
    clock: Arc<dyn Clock>,
    /// Held while a layer is made.
    building: Mutex<()>,
}

impl std::fmt::Debug for LayerCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LayerCache").field(&self.0.keep).finish()
    }
}

impl LayerCache {
    /// Opens the cache in `dir`, which is made if it is missing. What a crash left half-made is removed.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process has it open.
    pub fn open(dir: &Path, mut options: CacheOptions, clock: Arc<dyn Clock>) -> Result<Self, HandoffError> {
        options.threshold = options.threshold.clamp(1, CacheOptions::MAX_THRESHOLD);
        let keep = Keep::open(dir, options)?;
        Ok(Self(Arc::new(Inner { keep, options, clock, building: Mutex::default() })))
    }

    /// Bytes of everything in it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.keep.bytes()
    }

    /// A layer, if it is in the cache. The first time it is read as a whole.
    ///
    /// # Errors
    /// When the cache cannot be read. A layer that is damaged is forgotten, and is not there.
    pub fn get(&self, diff_id: &Digest) -> Result<Option<SplitLayer>, HandoffError> {
        let keep = &self.0.keep;
        let name = name_of(diff_id);
        let Some((lease, verified)) = keep.take(&name, self.0.clock.now()) else { return Ok(None) };
        let layer = self.opened(diff_id, &name, Arc::clone(&lease));
        let checked = layer.and_then(|layer| if verified { Ok(layer) } else { layer.copy_to(&mut io::sink()).map(|_| layer) });
        match checked {
            Ok(layer) => {
                keep.verified(&name);
                Ok(Some(layer))
            }
            Err(error) if !error.is_damage() => Err(error),
            Err(error) => {
                let _building = self.building();
                // Somebody may have found it damaged too, and made it again since.
                if keep.is_kept(&name, &lease) {
                    tracing::warn!(layer = %diff_id, %error, "a layer in the cache is damaged: it is made again when it is asked for");
                    keep.forget(&name)?;
                    keep.scrub()?;
                    keep.sweep()?;
                }
                Ok(None)
            }
        }
    }

    /// A layer, made of what `open` gives if it is not in the cache. Of several who ask for one, one makes it; `open` is called at most
    /// twice.
    ///
    /// # Errors
    /// What `open` or reading its tar archive fails with, `DiffersFromDiffId` when that is another layer, or `NoRoom`: then nothing
    /// is kept.
    pub fn layer<'a>(
        &self,
        diff_id: &Digest,
        mut open: impl FnMut() -> Result<LayerSource<'a>, HandoffError>,
    ) -> Result<SplitLayer, HandoffError> {
        self.layer_of(diff_id, &mut || open().and_then(|source| self.build(diff_id, source)))
    }

    /// A layer, which `build` makes if it is not in the cache.
    pub(super) fn layer_of(
        &self,
        diff_id: &Digest,
        build: &mut dyn FnMut() -> Result<(), HandoffError>,
    ) -> Result<SplitLayer, HandoffError> {
        if let Some(layer) = self.get(diff_id)? {
            return Ok(layer);
        }
        // What it shares with others may be found damaged: then it is made once more.
        for _ in 0..2 {
            let _lease = self.make(diff_id, build)?;
            if let Some(layer) = self.get(diff_id)? {
                return Ok(layer);
            }
        }
        Err(HandoffError::io("keep", diff_id)(io::ErrorKind::InvalidData.into()))
    }

    /// Makes a layer unless it is there; in use from the moment that it is.
    fn make(
        &self,
        diff_id: &Digest,
        build: &mut dyn FnMut() -> Result<(), HandoffError>,
    ) -> Result<Option<(Arc<()>, bool)>, HandoffError> {
        let (keep, name) = (&self.0.keep, name_of(diff_id));
        let _building = self.building();
        if let Some(made) = keep.take(&name, self.0.clock.now()) {
            return Ok(Some(made));
        }
        let kept = build().and_then(|()| keep.put(&name, self.0.clock.now()));
        keep.forget_build()?;
        match kept {
            Ok(()) => Ok(keep.take(&name, self.0.clock.now())),
            Err(error) => keep.sweep().and(Err(error)),
        }
    }

    fn build(&self, diff_id: &Digest, LayerSource { mut tar, file }: LayerSource<'_>) -> Result<(), HandoffError> {
        let Inner { keep, options, .. } = &*self.0;
        let mut source = Source::new(&mut *tar, DigestHasher::new(diff_id.algorithm()), options.layer_limit);
        let mut build = Build::begin(keep, file)?;
        split(&mut source, options.threshold, &mut build)?;
        expect(source.hasher, diff_id)?;
        build.finish()
    }

    fn opened(&self, diff_id: &Digest, name: &str, lease: Arc<()>) -> Result<SplitLayer, HandoffError> {
        let open = |path: &Path| File::open(path).map_err(HandoffError::io("open", path.display()));
        let (stream, objects) = (open(&self.0.keep.stream(name))?, open(&self.0.keep.objects())?);
        let limit = self.0.options.layer_limit;
        Ok(SplitLayer { diff_id: *diff_id, stream, objects: Directories::new(vec![objects.into()]), limit, _lease: lease })
    }

    /// Takes so many bytes for a stream that comes. Where layers have to go for it, none is made meanwhile.
    pub(super) fn room_for_coming(&self, bytes: u64) -> Result<(), HandoffError> {
        let keep = &self.0.keep;
        if keep.fits_coming(bytes)? {
            return Ok(());
        }
        let _building = self.building();
        keep.make_room_for_coming(bytes)
    }

    pub(super) fn keep(&self) -> &Keep {
        &self.0.keep
    }

    /// The device number of the file system that objects are on, and of no other.
    ///
    /// # Errors
    /// When the directory cannot be looked at.
    pub fn device(&self) -> Result<u64, HandoffError> {
        let objects = self.0.keep.objects();
        let stat = rustix::fs::stat(&objects).map_err(|errno| HandoffError::io("look at", objects.display())(errno.into()))?;
        Ok(stat.st_dev)
    }

    pub(super) fn options(&self) -> &CacheOptions {
        &self.0.options
    }

    fn building(&self) -> std::sync::MutexGuard<'_, ()> {
        self.0.building.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer as a split stream. It stays in the cache as long as this is held: whoever is given the directory may still open files
/// by the names in the stream.
#[derive(Debug)]
pub struct SplitLayer {
    diff_id: Digest,
    stream: File,
    objects: Directories,
    limit: u64,
    _lease: Arc<()>,
}

impl SplitLayer {
    /// The digest of the plain tar archive.
    #[must_use]
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// The directory that all files of the stream are in.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.objects.get(0).expect("a layer is opened with its directory")
    }

    /// The parts of the layer, with its files open.
    pub fn parts(&self) -> SplitReader<'_, impl Read> {
        SplitReader::new(Positioned { file: &self.stream, at: 0 }, &self.objects, self.limit)
    }

    /// Writes the stream, with files in the directory of that index.
    ///
    /// # Errors
    /// When the stream cannot be read, or `out` written to.
    pub fn write_stream(&self, directory: u32, out: &mut dyn Write) -> Result<(), HandoffError> {
        let failed = || HandoffError::io("write", "a split stream");
        let (mut parts, mut head) = (self.parts(), Vec::new());
        while let Some(part) = parts.next_part()? {
            match part {
                Part::Begin { kind, length } => out.write_all(&inline_head(kind, length.into())?).map_err(failed())?,
                Part::Bytes(bytes) => out.write_all(bytes).map_err(failed())?,
                Part::File { chunk, .. } => {
                    head.clear();
                    FileChunk { directory, ..chunk }.encode(&mut head)?;
                    out.write_all(&head).map_err(failed())?;
                }
            }
        }
        Ok(())
    }

    /// Writes the plain tar archive, and says how many bytes it has.
    ///
    /// # Errors
    /// When the cache is damaged (then what was written is to be thrown away), or `out` cannot be written to.
    pub fn copy_to(&self, out: &mut dyn Write) -> Result<u64, HandoffError> {
        self.parts().copy_to(&self.diff_id, out)
    }
}

/// Reads a file from its beginning, wherever others read it.
pub(super) struct Positioned<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn name_of(diff_id: &Digest) -> String {
    format!("{}-{}", diff_id.algorithm().as_str(), diff_id.hex())
}
