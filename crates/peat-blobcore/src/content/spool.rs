//! Bytes that come piece by piece, nobody knows how many: they go straight into a file of the store, and are hashed there once
//! all have come. They are nobody's until a batch has taken them: dropped before, they are gone.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use sha2::{Digest as _, Sha512};

use super::commit::{Staged, StagedBytes};
use super::ingest::stage_inline;
use super::layout::StagedPath;
use super::{Batch, Content, ContentError, Ingested, Inner, MAX_INLINE_BYTES};

const READ_BYTES: usize = 256 * 1024;

impl Content {
    /// Begins to take in bytes that come piece by piece.
    ///
    /// # Errors
    /// `NoSpace`, or what the store's own files fail with.
    pub fn spool(&self) -> Result<Spool, ContentError> {
        let (file, data) = self.0.layout.temp()?;
        Ok(Spool { content: self.clone(), file, spooled: Spooled { data, size: 0 } })
    }
}

/// Bytes that are coming.
#[derive(Debug)]
pub struct Spool {
    content: Content,
    file: File,
    spooled: Spooled,
}

impl Spool {
    /// Adds the next bytes.
    ///
    /// # Errors
    /// `NoSpace`, or what the store's own files fail with.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        let (store, spooled, more) = (&self.content.0, &mut self.spooled, bytes.len() as u64);
        store.ensure_free(more)?;
        store.write_at(&self.file, &spooled.data.path, bytes, spooled.size)?;
        spooled.size += more;
        Ok(())
    }

    /// Bytes that have come so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.spooled.size
    }

    /// What reads them while more come, and afterwards whatever becomes of them.
    ///
    /// # Errors
    /// What the store's own files fail with.
    pub fn reader(&self) -> Result<SpoolReader, ContentError> {
        let path = self.spooled.data.path.clone();
        let file = File::open(&path).map_err(ContentError::io("open", &path))?;
        Ok(SpoolReader { file, path })
    }

    /// All have come: no descriptor is held for them any more.
    #[must_use]
    pub fn end(self) -> Spooled {
        self.spooled
    }
}

/// Reads bytes that are spooled. Nobody has verified them yet: whoever gives them on answers for that.
#[derive(Debug)]
pub struct SpoolReader {
    file: File,
    path: PathBuf,
}

impl SpoolReader {
    /// Reads so many bytes, which have come.
    ///
    /// # Errors
    /// What the store's own files fail with.
    pub fn read_at(&self, start: u64, length: usize) -> Result<Vec<u8>, ContentError> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start).map_err(ContentError::io("read", &self.path))?;
        Ok(bytes)
    }
}

/// Bytes that have come.
#[derive(Debug)]
pub struct Spooled {
    data: StagedPath,
    size: u64,
}

impl Spooled {
    /// Their SHA-512, for who must know it before they are taken.
    ///
    /// # Errors
    /// What the store's own files fail with.
    pub fn sha512(&self) -> Result<[u8; 64], ContentError> {
        let read = |source| ContentError::io("read", &self.data.path)(source);
        let mut file = File::open(&self.data.path).map_err(ContentError::io("open", &self.data.path))?;
        let (mut hasher, mut buffer) = (Sha512::new(), vec![0; READ_BYTES]);
        loop {
            match file.read(&mut buffer).map_err(read)? {
                0 => return Ok(hasher.finalize().into()),
                more => hasher.update(&buffer[..more]),
            }
        }
    }

    /// How many they are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads the first `most` of them, which the caller has found reasonable.
    ///
    /// # Errors
    /// What the store's own files fail with.
    pub fn read_first(&self, most: u64) -> Result<Vec<u8>, ContentError> {
        let file = File::open(&self.data.path).map_err(ContentError::io("open", &self.data.path))?;
        let mut bytes = vec![0; usize::try_from(self.size.min(most)).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0).map_err(ContentError::io("read", &self.data.path))?;
        Ok(bytes)
    }
}

/// Bytes that have come and were hashed, so that it is known what they are before they are kept. They are nobody's yet, as
/// [`Spooled`].
#[derive(Debug)]
pub struct Hashed(Staged);

impl Hashed {
    /// What they are.
    #[must_use]
    pub fn blob(&self) -> Ingested {
        self.0.blob
    }

    /// Reads them from the first on.
    ///
    /// # Errors
    /// What the store's own files fail with.
    pub fn open(&self) -> Result<Box<dyn Read + '_>, ContentError> {
        Ok(match &self.0.bytes {
            StagedBytes::Inline(bytes) => Box::new(Cursor::new(bytes)),
            StagedBytes::Files { data, .. } => Box::new(File::open(&data.path).map_err(ContentError::io("open", &data.path))?),
        })
    }
}

impl Content {
    /// Hashes bytes that were spooled here: best while they are in the cache still.
    ///
    /// # Errors
    /// `NoSpace`, or what the store's own files fail with.
    pub fn hash_spooled(&self, spooled: Spooled) -> Result<Hashed, ContentError> {
        self.0.stage_spooled(spooled).map(Hashed)
    }
}

impl Batch {
    /// Adds bytes that were hashed in the same store.
    ///
    /// # Errors
    /// `NoSpace`, or what the store's own files fail with.
    pub fn add_hashed(&mut self, hashed: Hashed) -> Result<Ingested, ContentError> {
        self.add(hashed.0)
    }

    /// Adds bytes that were spooled in the same store.
    ///
    /// # Errors
    /// `NoSpace`, or what the store's own files fail with.
    pub fn add_spooled(&mut self, spooled: Spooled) -> Result<Ingested, ContentError> {
        let staged = self.store().stage_spooled(spooled)?;
        self.add(staged)
    }
}

impl Inner {
    fn stage_spooled(&self, Spooled { data, size }: Spooled) -> Result<Staged, ContentError> {
        let file = File::open(&data.path).map_err(ContentError::io("open", &data.path))?;
        let mut read = |at: u64, buffer: &mut [u8]| file.read_exact_at(buffer, at).map_err(ContentError::io("read", &data.path));
        if size <= MAX_INLINE_BYTES {
            let mut bytes = vec![0; usize::try_from(size).expect("a small size")];
            read(0, &mut bytes)?;
            return Ok(stage_inline(bytes));
        }
        let (blob, outboard) = self.hash_large(size, &mut read)?;
        Ok(Staged { blob, bytes: StagedBytes::Files { data, outboard } })
    }
}
