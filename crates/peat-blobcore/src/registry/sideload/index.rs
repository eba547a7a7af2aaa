//! What was found in files, kept over restarts in one redb file, so that an archive is read again only after it has changed; and
//! what of it others were told. Must never be believed about a file that was not looked at since: its stamps say whether it is
//! the same.

use std::path::{Path, PathBuf};

use redb::{ReadableTable as _, TableDefinition};

use super::place::Stamp;
use crate::database::Database;
use crate::model::{BlobHash, Sha256Digest, decode_whole, encode};
use crate::registry::RegistryError;

/// Path to [`FileRow`].
const FILES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("files v1");
/// (repository, digest, tag) of which others were told.
const TOLD: TableDefinition<'_, (&str, &str, &str), ()> = TableDefinition::new("told v1");
/// Memory for pages of the index.
const CACHE_BYTES: usize = 1024 * 1024;

/// A file that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct FileRow {
    #[n(0)]
    pub(super) stamps: Vec<Stamp>,
    #[n(1)]
    pub(super) found: Found,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) enum Found {
    /// Not to be served, and why.
    #[n(0)]
    Refused(#[n(0)] String),
    /// An image.
    #[n(1)]
    Image(#[n(0)] ImageRow),
}

/// An image of a file.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct ImageRow {
    /// The image first, then what is about it.
    #[n(0)]
    pub(super) roots: Vec<RootRow>,
    #[n(1)]
    pub(super) blobs: Vec<BlobRow>,
    /// Whether the file is compressed as a whole.
    #[n(2)]
    pub(super) compressed: bool,
}

/// A manifest that nothing above it names.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct RootRow {
    #[n(0)]
    pub(super) digest: String,
    #[n(1)]
    pub(super) media_type: String,
    #[n(2)]
    pub(super) size: u64,
    #[n(3)]
    pub(super) subject: Option<String>,
    #[n(4)]
    pub(super) artifact_type: Option<String>,
}

/// A blob, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct BlobRow {
    #[n(0)]
    pub(super) digest: String,
    #[n(1)]
    pub(super) hash: BlobHash,
    #[n(2)]
    pub(super) sha256: Sha256Digest,
    #[n(3)]
    pub(super) size: u64,
    #[n(4)]
    pub(super) media_type: String,
    #[n(5)]
    pub(super) lies: LiesRow,
}

/// Where a blob lies.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(super) enum LiesRow {
    /// From this byte of the archive on, as it is when unpacked.
    #[n(0)]
    At(#[n(0)] u64),
    /// In this file of a layout.
    #[n(1)]
    In(#[n(0)] String),
    /// Here: it is a manifest, or was made of what is there.
    #[n(2)]
    Here(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
}

pub(super) struct Index(Database);

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self, RegistryError> {
        let index = Self(Database::open(path, CACHE_BYTES)?);
        index.0.commit(|txn| {
            txn.open_table(FILES)?;
            txn.open_table(TOLD)?;
            Ok::<_, RegistryError>(())
        })?;
        Ok(index)
    }

    pub(super) fn close(&self) {
        self.0.close();
    }

    /// Every file. A row that cannot be read is left out: its file is read again.
    pub(super) fn files(&self) -> Result<Vec<(PathBuf, FileRow)>, RegistryError> {
        self.0.read(|txn| {
            let mut files = Vec::new();
            for entry in txn.open_table(FILES)?.iter()? {
                let (path, row) = entry?;
                if let (Ok(path), Ok(row)) = (std::str::from_utf8(path.value()), decode_whole(row.value())) {
                    files.push((PathBuf::from(path), row));
                }
            }
            Ok(files)
        })
    }

    pub(super) fn put(&self, path: &Path, row: &FileRow) -> Result<(), RegistryError> {
        self.0.commit(|txn| {
            txn.open_table(FILES)?.insert(path.as_os_str().as_encoded_bytes(), encode(row).as_slice())?;
            Ok(())
        })
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), RegistryError> {
        self.0.commit(|txn| {
            txn.open_table(FILES)?.remove(path.as_os_str().as_encoded_bytes())?;
            Ok(())
        })
    }

    /// What others were told of: repository, digest and tag.
    pub(super) fn told(&self) -> Result<Vec<(String, String, String)>, RegistryError> {
        self.0.read(|txn| {
            let table = txn.open_table(TOLD)?;
            let rows = table.iter()?.map(|entry| {
                let (key, _) = entry?;
                let (repository, digest, tag) = key.value();
                Ok((repository.to_owned(), digest.to_owned(), tag.to_owned()))
            });
            rows.collect()
        })
    }

    pub(super) fn note_told(&self, repository: &str, digest: &str, tag: &str) -> Result<(), RegistryError> {
        self.0.commit(|txn| {
            txn.open_table(TOLD)?.insert((repository, digest, tag), ())?;
            Ok(())
        })
    }

    pub(super) fn forget_told(&self, repository: &str, digest: &str, tag: &str) -> Result<(), RegistryError> {
        self.0.commit(|txn| {
            txn.open_table(TOLD)?.remove((repository, digest, tag))?;
            Ok(())
        })
    }
}
