//! What an archive or a layout has, and where, found by one reading and without copying anything: what lies there is read again
//! when somebody asks for it. Limits and checks are those of taking it in. Must never look into the store: what a file is listed
//! with is in the file.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::sync::Arc;

use sha2::{Digest as _, Sha256, Sha512};

use super::compression::{self, Compression, read_up_to};
use super::intake::{Files, Held, digest_of, follow};
use super::keep::{Documents, Keep};
use super::tar::{Entry, EntryKind, TarReader};
use super::{
    ArchiveError, INDEX_FILE, ImportOptions, Imported, ImportedBlob, LAYOUT_FILE, Limits, MANIFEST_FILE, Root, from_files,
    plain_tar,
};
use crate::content::Ingested;
use crate::model::{BlobHash, Sha256Digest};
use crate::oci::{Algorithm, MAX_MANIFEST_BYTES};

/// Bytes that are read at a time.
const STEP_BYTES: usize = 256 * 1024;
/// Most bytes of manifests and the like that are remembered while an archive is read; others are read again.
const REMEMBERED_BYTES: usize = 16 * 1024 * 1024;

/// Where what is surveyed lies.
pub(in crate::registry) enum Source<'a> {
    /// An archive.
    File(Arc<File>),
    /// A directory with a layout: gives the file of a name, if there is a regular one.
    Directory(&'a dyn Fn(&str) -> io::Result<Option<File>>),
}

/// Where a blob lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) enum Lies {
    /// From this byte of the archive on, as it is when unpacked.
    At(u64),
    /// In a file of this name.
    In(String),
    /// Here: manifests, and what was made of what is there.
    Here(Vec<u8>),
}

/// What was found.
#[derive(Debug)]
pub(in crate::registry) struct Surveyed {
    /// The images and artifacts, in the order of the archive.
    pub(in crate::registry) roots: Vec<Root>,
    /// Each blob of theirs, and where it lies.
    pub(in crate::registry) blobs: Vec<(ImportedBlob, Lies)>,
    /// Whether the archive is compressed as a whole.
    pub(in crate::registry) compressed: bool,
}

/// A file that was hashed where it lies.
pub(super) struct Seen {
    pub(super) blob: Ingested,
    pub(super) sha512: Option<[u8; 64]>,
    pub(super) bytes: Again,
}

/// Finds out what an archive or a layout has. Blocks for as long as it takes to read it.
///
/// # Errors
/// Those of [`super::import`].
pub(in crate::registry) fn survey(source: Source<'_>, limits: Limits) -> Result<Surveyed, ArchiveError> {
    let options = ImportOptions { platform: None, limits };
    let mut documents = Documents::default();
    match source {
        Source::File(file) => {
            let mut entries = SeenEntries::read(&file, limits)?;
            let imported = from_files(Keep::listing(&mut entries, &mut documents), &options)?;
            placed(imported, entries.compressed, documents, &|sha256| entries.places.get(sha256).map(|at| Lies::At(*at)))
        }
        Source::Directory(open) => {
            if !matches!(open(INDEX_FILE), Ok(Some(_))) {
                return Err(ArchiveError::Unrecognised(format!("a directory without {INDEX_FILE}")));
            }
            let mut directory = SeenDirectory { open, limits, read: 0, places: BTreeMap::new() };
            let imported = from_files(Keep::listing(&mut directory, &mut documents), &options)?;
            placed(imported, false, documents, &|sha256| directory.places.get(sha256).cloned().map(Lies::In))
        }
    }
}

fn placed(
    imported: Imported,
    compressed: bool,
    mut documents: Documents,
    place: &dyn Fn(&Sha256Digest) -> Option<Lies>,
) -> Result<Surveyed, ArchiveError> {
    let placed = |blob: ImportedBlob| {
        let lies = documents.bytes.remove(&blob.digest).map(Lies::Here).or_else(|| place(&blob.blob.sha256));
        let lies = lies.ok_or_else(|| ArchiveError::Missing { count: 1, first: vec![blob.digest.to_string()] })?;
        Ok((blob, lies))
    };
    let blobs = imported.blobs.into_iter().map(placed).collect::<Result<_, ArchiveError>>()?;
    Ok(Surveyed { roots: imported.roots, blobs, compressed })
}

/// The bytes of a file from one place on.
struct Reading {
    file: Arc<File>,
    at: u64,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Reads some bytes of an archive again. Of one that is compressed all before them would be unpacked again, for each who asks.
fn again(file: &Arc<File>, compressed: bool, at: u64, size: u64) -> Result<impl Read + use<>, ArchiveError> {
    if compressed {
        return Err(ArchiveError::OverLimit("it is compressed twice, or has too many manifests to be read in one go".to_owned()));
    }
    Ok(Reading { file: Arc::clone(file), at }.take(size))
}

/// The bytes of a file of an archive, read again from the archive only when the first of them were read.
pub(super) struct Again {
    first: Cursor<Vec<u8>>,
    rest: Rest,
}

enum Rest {
    None,
    Unopened { file: Arc<File>, compressed: bool, at: u64, size: u64 },
    Open(Box<dyn Read>),
}

impl Read for Again {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.rest {
                _ if self.first.position() < self.first.get_ref().len() as u64 => return self.first.read(buffer),
                Rest::None => return Ok(0),
                Rest::Open(open) => return open.read(buffer),
                Rest::Unopened { file, compressed, at, size } => {
                    let rest = again(file, *compressed, *at, *size).map_err(io::Error::other)?;
                    self.rest = Rest::Open(Box::new(rest));
                }
            }
        }
    }
}

/// What a reading has found out about a file.
struct Look {
    blob: Ingested,
    sha512: Option<[u8; 64]>,
    first: Vec<u8>,
    /// All of it, if it may be a manifest.
    remembered: Option<Vec<u8>>,
}

/// Hashes what comes; `most` bytes of what may be a manifest are remembered.
fn look(source: &mut dyn Read, name: &str, most: usize) -> Result<Look, ArchiveError> {
    let digest = digest_of(name);
    let mut sha512 = digest.filter(|digest| digest.algorithm() == Algorithm::Sha512).map(|_| Sha512::new());
    let (mut sha256, mut blake3, mut size) = (Sha256::new(), blake3::Hasher::new(), 0);
    let (mut first, mut remembered) = (Vec::new(), Some(Vec::new()));
    let mut buffer = vec![0; STEP_BYTES];
    loop {
        let read = read_up_to(&mut &mut *source, &mut buffer).map_err(ArchiveError::read(name))?;
        let bytes = &buffer[..read];
        if size == 0 {
            first = bytes[..read.min(6)].to_vec();
        }
        size += read as u64;
        if first.first() != Some(&b'{') || size > most.min(MAX_MANIFEST_BYTES) as u64 {
            remembered = None;
        } else if let Some(remembered) = &mut remembered {
            remembered.extend_from_slice(bytes);
        }
        sha256.update(bytes);
        blake3.update(bytes);
        if let Some(sha512) = &mut sha512 {
            sha512.update(bytes);
        }
        if read < buffer.len() {
            break;
        }
    }
    let blob = Ingested {
        hash: BlobHash::from_bytes(*blake3.finalize().as_bytes()),
        sha256: Sha256Digest::from_bytes(sha256.finalize().into()),
        size,
    };
    Ok(Look { blob, sha512: sha512.map(|sha512| sha512.finalize().into()), first, remembered })
}

/// The files of a tar archive, all of which were read.
struct SeenEntries {
    file: Arc<File>,
    compressed: bool,
    files: BTreeMap<String, (u64, Look)>,
    /// What says what the rest is.
    documents: BTreeMap<String, Vec<u8>>,
    links: BTreeMap<String, String>,
    places: BTreeMap<Sha256Digest, u64>,
    remembered: usize,
}

impl SeenEntries {
    fn read(file: &Arc<File>, limits: Limits) -> Result<Self, ArchiveError> {
        let (compression, plain) = plain_tar(Reading { file: Arc::clone(file), at: 0 }, limits)?;
        let mut entries = Self {
            file: Arc::clone(file),
            compressed: compression != Compression::Plain,
            files: BTreeMap::new(),
            documents: BTreeMap::new(),
            links: BTreeMap::new(),
            places: BTreeMap::new(),
            remembered: 0,
        };
        let at = Rc::new(Cell::new(0));
        let mut tar = TarReader::new(Counted { source: plain, at: Rc::clone(&at) });
        let mut count = 0;
        while let Some(entry) = tar.next_entry()? {
            count += 1;
            if count > limits.entries {
                return Err(ArchiveError::OverLimit(format!("more than {} entries", limits.entries)));
            }
            entries.add(entry, at.get(), &mut tar)?;
        }
        tar.finish()?;
        Ok(entries)
    }

    fn add(&mut self, Entry { name, kind }: Entry, at: u64, tar: &mut dyn Read) -> Result<(), ArchiveError> {
        match kind {
            EntryKind::Directory => {}
            _ if self.has(&name) && digest_of(&name).is_some() => {}
            _ if self.has(&name) => return Err(ArchiveError::Refused { name, why: "the archive has two of that name" }),
            EntryKind::Link(target) => drop(self.links.insert(name, target)),
            EntryKind::File(size) if [LAYOUT_FILE, INDEX_FILE, MANIFEST_FILE].contains(&&*name) => {
                if size > MAX_MANIFEST_BYTES as u64 {
                    return Err(ArchiveError::OverLimit(format!(
                        "{name} of {size} bytes, and at most {MAX_MANIFEST_BYTES} are read"
                    )));
                }
                let mut bytes = Vec::new();
                tar.read_to_end(&mut bytes).map_err(ArchiveError::read(&name))?;
                self.documents.insert(name, bytes);
            }
            EntryKind::File(_) => {
                let look = look(tar, &name, REMEMBERED_BYTES - self.remembered)?;
                self.remembered += look.remembered.as_ref().map_or(0, Vec::len);
                self.places.entry(look.blob.sha256).or_insert(at);
                self.files.insert(name, (at, look));
            }
        }
        Ok(())
    }
}

impl Files for SeenEntries {
    fn has(&self, name: &str) -> bool {
        self.files.contains_key(name) || self.documents.contains_key(name) || self.links.contains_key(name)
    }

    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let name = self.resolve(name)?;
        if let Some(bytes) = self.documents.get(&name) {
            return Ok(Some(bytes.clone()));
        }
        let Some((at, look)) = self.files.get(&name) else { return Ok(None) };
        if let Some(bytes) = &look.remembered {
            return Ok(Some(bytes.clone()));
        }
        // One byte more than may be, for who compares.
        let most = look.blob.size.min(MAX_MANIFEST_BYTES as u64 + 1);
        let mut bytes = Vec::new();
        again(&self.file, self.compressed, *at, most)?.read_to_end(&mut bytes).map_err(ArchiveError::read(&name))?;
        Ok(Some(bytes))
    }

    fn resolve(&self, name: &str) -> Result<String, ArchiveError> {
        follow(&self.links, name)
    }

    fn take(&mut self, name: &str) -> Result<Option<Held>, ArchiveError> {
        let name = self.resolve(name)?;
        let Some((at, Look { blob, sha512, first, .. })) = self.files.remove(&name) else { return Ok(None) };
        let begun = first.len() as u64;
        let rest =
            Rest::Unopened { file: Arc::clone(&self.file), compressed: self.compressed, at: at + begun, size: blob.size - begun };
        Ok(Some(Held::Seen(Seen { blob, sha512, bytes: Again { first: Cursor::new(first), rest } })))
    }
}

/// A directory with a layout, of which only what is asked for is read.
struct SeenDirectory<'a> {
    open: &'a dyn Fn(&str) -> io::Result<Option<File>>,
    limits: Limits,
    read: u64,
    places: BTreeMap<Sha256Digest, String>,
}

impl SeenDirectory<'_> {
    fn open(&self, name: &str) -> Result<Option<File>, ArchiveError> {
        (self.open)(name).map_err(ArchiveError::read(name))
    }
}

impl Files for SeenDirectory<'_> {
    fn has(&self, name: &str) -> bool {
        matches!((self.open)(name), Ok(Some(_)))
    }

    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(ArchiveError::read(name))?;
        Ok(Some(bytes))
    }

    fn resolve(&self, name: &str) -> Result<String, ArchiveError> {
        Ok(name.to_owned())
    }

    fn take(&mut self, name: &str) -> Result<Option<Held>, ArchiveError> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let left = self.limits.bytes - self.read;
        let Look { blob, sha512, first, .. } = look(&mut file.take(left.saturating_add(1)), name, 0)?;
        if blob.size > left {
            return Err(ArchiveError::OverLimit(format!("more than {} bytes", self.limits.bytes)));
        }
        self.read += blob.size;
        self.places.insert(blob.sha256, name.to_owned());
        Ok(Some(Held::Seen(Seen { blob, sha512, bytes: Again { first: Cursor::new(first), rest: Rest::None } })))
    }
}

/// Counts what was taken from a source.
struct Counted<R> {
    source: R,
    at: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.at.set(self.at.get() + read as u64);
        Ok(read)
    }
}

/// Reads blobs that lie at places of an archive, which are given in their order: of what is compressed everything is unpacked once.
///
/// # Errors
/// What reading fails with, or what `each` returns.
pub(in crate::registry) fn read_at<E: From<ArchiveError>>(
    file: &Arc<File>,
    compressed: bool,
    limits: Limits,
    places: &[(u64, u64)],
    each: &mut dyn FnMut(usize, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    if !compressed {
        return places
            .iter()
            .enumerate()
            .try_for_each(|(number, (at, size))| each(number, &mut Reading { file: Arc::clone(file), at: *at }.take(*size)));
    }
    let (_, mut plain) = compression::plain(Reading { file: Arc::clone(file), at: 0 }, limits)?;
    let mut done = 0;
    for (number, (at, size)) in places.iter().enumerate() {
        let skip = at.saturating_sub(done);
        let skipped = io::copy(&mut (&mut plain).take(skip), &mut io::sink()).map_err(ArchiveError::read("the archive"))?;
        let mut blob = (&mut plain).take(*size);
        each(number, &mut blob)?;
        done += skipped + size - blob.limit();
    }
    Ok(())
}
