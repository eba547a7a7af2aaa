//! The files of an archive or a directory, by their names. What an archive has is spooled as it comes, since nobody knows yet what
//! will name it; what nothing names is dropped in the end.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use sha2::{Digest as _, Sha512};

use super::survey::Seen;
use super::tar::{Entry, EntryKind, TarReader};
use super::{ArchiveError, INDEX_FILE, LAYOUT_FILE, Limits, MANIFEST_FILE, Taken, Taking, open};
use crate::content::{Content, ContentError, Hashed, MAX_INLINE_BYTES, Spooled};
use crate::model::Sha256Digest;
use crate::oci::{Algorithm, Digest, MAX_MANIFEST_BYTES};
use crate::registry::PartStep;

/// Bytes that are read at a time.
const STEP_BYTES: usize = 256 * 1024;
/// Most links that are followed from one name.
const MAX_LINKS: usize = 16;
/// Where a layout's blobs are.
const BLOBS: &str = "blobs";

/// A file that came.
pub(super) enum Held {
    /// Small: it is hashed when somebody wants it, so that a million of them take no memory.
    Spooled(Spooled, Option<[u8; 64]>),
    /// Hashed while it was in the cache; by SHA-512 as well if its name says so.
    Hashed(Hashed, Option<[u8; 64]>),
    /// Its name is the digest of a blob that is in the store: its bytes were not looked at.
    Here,
    /// Hashed where it lies, and not taken.
    Seen(Seen),
}

/// Files with names.
pub(super) trait Files {
    /// Whether there is a file of this name.
    fn has(&self, name: &str) -> bool;
    /// The bytes of a small file.
    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError>;
    /// What a name leads to, where it is that of a link.
    fn resolve(&self, name: &str) -> Result<String, ArchiveError>;
    /// The file itself, once.
    fn take(&mut self, name: &str) -> Result<Option<Held>, ArchiveError>;
}

/// Where a layout has a blob.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("{BLOBS}/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// The blob that a layout has there.
pub(super) fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix(BLOBS)?.strip_prefix('/')?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// The files of a tar archive, all of which were read.
pub(super) struct Entries<'a> {
    content: &'a Content,
    files: BTreeMap<String, Held>,
    /// What says what the rest is, in memory.
    documents: BTreeMap<String, Vec<u8>>,
    links: BTreeMap<String, String>,
}

impl<'a> Entries<'a> {
    pub(super) fn read(
        content: &'a Content,
        source: impl Read,
        limits: Limits,
        progress: &mut Taking<'_>,
    ) -> Result<Self, ArchiveError> {
        let mut entries = Self { content, files: BTreeMap::new(), documents: BTreeMap::new(), links: BTreeMap::new() };
        let mut taking = Intake { content, progress, taken: 0 };
        let mut tar = TarReader::new(source);
        let mut count = 0;
        while let Some(entry) = tar.next_entry()? {
            count += 1;
            if count > limits.entries {
                return Err(ArchiveError::OverLimit(format!("more than {} entries", limits.entries)));
            }
            entries.add(entry, &mut tar, &mut taking)?;
        }
        tar.finish()?;
        Ok(entries)
    }

    fn add(&mut self, entry: Entry, tar: &mut impl Read, taking: &mut Intake<'_, '_>) -> Result<(), ArchiveError> {
        let Entry { name, kind } = entry;
        match kind {
            EntryKind::Directory => return Ok(()),
            _ if self.knows(&name) => {
                return match digest_of(&name) {
                    // One content cannot differ from itself, and the first was held against its digest or will be.
                    Some(_) => Ok(()),
                    None => Err(ArchiveError::Refused { name, why: "the archive has two of that name" }),
                };
            }
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
            EntryKind::File(size) => {
                let digest = digest_of(&name);
                let here = match digest.and_then(|digest| digest.sha256()) {
                    Some(sha256) => here(self.content, &sha256)? == Some(size),
                    None => false,
                };
                let held = match here {
                    true => {
                        taking.tell(&name, size, PartStep::Present)?;
                        Held::Here
                    }
                    false => taking.take(tar, &name, size, digest)?,
                };
                self.files.insert(name, held);
            }
        }
        Ok(())
    }

    fn knows(&self, name: &str) -> bool {
        self.files.contains_key(name) || self.documents.contains_key(name) || self.links.contains_key(name)
    }
}

/// The size of the blob with this SHA-256, if it is in the store.
fn here(content: &Content, sha256: &Sha256Digest) -> Result<Option<u64>, ArchiveError> {
    match content.digest(sha256)? {
        Some(hash) => Ok(content.size(&hash)?),
        None => Ok(None),
    }
}

impl Files for Entries<'_> {
    fn has(&self, name: &str) -> bool {
        self.knows(name)
    }

    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let name = self.resolve(name)?;
        if let Some(bytes) = self.documents.get(&name) {
            return Ok(Some(bytes.clone()));
        }
        // One byte more than may be, for who compares.
        let most = MAX_MANIFEST_BYTES as u64 + 1;
        match self.files.get(&name) {
            None => Ok(None),
            Some(Held::Spooled(spooled, _)) => Ok(Some(spooled.read_first(most)?)),
            Some(Held::Hashed(hashed, _)) => {
                let mut bytes = Vec::new();
                hashed.open()?.take(most).read_to_end(&mut bytes).map_err(ArchiveError::read(&name))?;
                Ok(Some(bytes))
            }
            Some(Held::Here | Held::Seen(_)) => {
                let hash = match digest_of(&name).and_then(|digest| digest.sha256()) {
                    Some(sha256) => self.content.digest(&sha256)?,
                    None => None,
                };
                hash.map(|hash| self.content.read_blob(&hash, most)).transpose().map_err(Into::into)
            }
        }
    }

    fn resolve(&self, name: &str) -> Result<String, ArchiveError> {
        follow(&self.links, name)
    }

    fn take(&mut self, name: &str) -> Result<Option<Held>, ArchiveError> {
        let name = self.resolve(name)?;
        Ok(self.files.remove(&name))
    }
}

/// The name that an archive's links lead to from this one.
pub(super) fn follow(links: &BTreeMap<String, String>, name: &str) -> Result<String, ArchiveError> {
    let mut at = name;
    for _ in 0..MAX_LINKS {
        match links.get(at) {
            Some(next) => at = next,
            None => return Ok(at.to_owned()),
        }
    }
    Err(ArchiveError::Refused { name: name.to_owned(), why: "it leads from link to link" })
}

/// A directory with a layout. What its own links lead to is read as well: whoever names a directory may lay it out with links,
/// and only what its digest names is taken.
pub(super) struct Directory<'a, 'b> {
    path: &'a Path,
    taking: Intake<'a, 'b>,
    limits: Limits,
}

impl<'a, 'b> Directory<'a, 'b> {
    pub(super) fn new(content: &'a Content, path: &'a Path, limits: Limits, progress: &'a mut Taking<'b>) -> Self {
        Self { path, taking: Intake { content, progress, taken: 0 }, limits }
    }
}

impl Files for Directory<'_, '_> {
    fn has(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        if !self.has(name) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let file = open(&self.path.join(name))?;
        file.take(MAX_MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(ArchiveError::read(name))?;
        Ok(Some(bytes))
    }

    fn resolve(&self, name: &str) -> Result<String, ArchiveError> {
        Ok(name.to_owned())
    }

    fn take(&mut self, name: &str) -> Result<Option<Held>, ArchiveError> {
        if !self.has(name) {
            return Ok(None);
        }
        let mut file = open(&self.path.join(name))?;
        let size = file.metadata().map_err(ArchiveError::read(name))?.len();
        if self.taking.taken.saturating_add(size) > self.limits.bytes {
            return Err(ArchiveError::OverLimit(format!("more than {} bytes", self.limits.bytes)));
        }
        self.taking.take(&mut (&mut file).take(size), name, size, digest_of(name)).map(Some)
    }
}

/// Takes files into the store's own directory, as they come.
struct Intake<'a, 'b> {
    content: &'a Content,
    progress: &'a mut Taking<'b>,
    taken: u64,
}

impl Intake<'_, '_> {
    /// `Break` ends it all.
    fn tell(&mut self, name: &str, size: u64, step: PartStep) -> Result<(), ArchiveError> {
        match (self.progress)(&Taken { name, digest: digest_of(name), size, step }).is_break() {
            true => Err(ContentError::Stopped.into()),
            false => Ok(()),
        }
    }

    fn take(&mut self, source: &mut dyn Read, name: &str, size: u64, digest: Option<Digest>) -> Result<Held, ArchiveError> {
        let mut sha512 = digest.filter(|digest| digest.algorithm() == Algorithm::Sha512).map(|_| Sha512::new());
        let mut spool = self.content.spool()?;
        let (mut buffer, before) = (vec![0; STEP_BYTES], self.taken);
        loop {
            let read = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ArchiveError::read(name)(error)),
            };
            spool.write(&buffer[..read])?;
            if let Some(sha512) = &mut sha512 {
                sha512.update(&buffer[..read]);
            }
            self.taken += read as u64;
            self.tell(name, size, PartStep::Moved(self.taken - before))?;
        }
        let sha512 = sha512.map(|sha512| sha512.finalize().into());
        let spooled = spool.end();
        let held = match spooled.size() <= MAX_INLINE_BYTES {
            true => Held::Spooled(spooled, sha512),
            false => Held::Hashed(self.content.hash_spooled(spooled)?, sha512),
        };
        self.tell(name, size, PartStep::Done)?;
        Ok(held)
    }
}
