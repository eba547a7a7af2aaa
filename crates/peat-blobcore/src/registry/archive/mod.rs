//! Images in files: OCI layouts in directories, oci-archives (the same in a tar archive), and docker-archives (what `docker save`
//! and Nix's dockerTools make), each archive possibly in gzip or zstd.
//!
//! What comes in is told by what it contains, never by its name; it is read once, in whatever order its entries come, and hashed
//! once. Nothing becomes a blob of the store before it belongs to an image whose closure is whole, and every digest was held
//! against the bytes. Must never write outside the store, whatever an archive names.
//!
//! Sources: image-spec 1.1 (`image-layout.md`, `annotations.md`), Docker's "Docker Image Specification v1.2.0" ("Combined Image
//! JSON + Filesystem Changeset Format").

mod compression;
mod docker;
mod error;
mod export;
mod intake;
mod keep;
mod layout;
mod pack;
mod survey;
mod tar;
#[cfg(test)]
pub(super) mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

pub(crate) use compression::{Compression, plain};
pub use error::ArchiveError;
pub use export::{Export, Format, Lookup, export, export_to};
pub(super) use survey::{Lies, Source, Surveyed, read_at, survey};
pub(crate) use tar::{BLOCK, stated, stated_size};

use crate::content::{Content, Ingested};
use crate::oci::{Descriptor, Digest, Platform};
use crate::registry::PartStep;
use compression::read_up_to;
use intake::{Directory, Entries};
use keep::Keep;

/// The file that says that a directory is an OCI layout.
pub(crate) const LAYOUT_FILE: &str = "oci-layout";
/// The file that names a layout's manifests.
pub(crate) const INDEX_FILE: &str = "index.json";
/// The file that names a docker-archive's images.
const MANIFEST_FILE: &str = "manifest.json";
/// An annotation of a layout's index: the name of a manifest (image-spec, `annotations.md`).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The same as containerd and Docker write it: the whole name, of which the other has the tag.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Where an archive is.
pub enum Origin<'a> {
    /// A directory with an OCI layout, or a file.
    Path(&'a Path),
    /// The bytes of a file.
    Stream(Box<dyn Read + 'a>),
}

impl std::fmt::Debug for Origin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// What an archive may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes that it comes to when unpacked. (Free space bounds it in any case.)
    pub bytes: u64,
    /// Most bytes that each of its bytes unpacks to, beyond the first [`Limits::FREE_RATIO_BYTES`].
    pub ratio: u64,
    /// Most entries.
    pub entries: usize,
}

impl Limits {
    /// So many bytes may come of any archive.
    pub const FREE_RATIO_BYTES: u64 = 64 * 1024 * 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1 << 40, ratio: 200, entries: 50_000 }
    }
}

/// What is wanted of an archive.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The platform whose images are taken; without one everything is, and has to be there.
    pub platform: Option<Platform>,
    /// What it may cost.
    pub limits: Limits,
}

/// What came of an archive. It is all held, durably; nothing pins it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The images and artifacts, in the order of the archive.
    pub roots: Vec<Root>,
    /// Each blob of theirs once.
    pub blobs: Vec<ImportedBlob>,
}

/// An image or artifact: a manifest or index that nothing above it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Its digest, media type and size.
    pub descriptor: Descriptor,
    /// What it is called there: names with tags, or tags alone. Nobody has checked that they are names.
    pub names: Vec<String>,
    /// What it runs on, if it is one image and says so.
    pub platform: Option<Platform>,
}

/// A blob of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedBlob {
    /// What the images call it.
    pub digest: Digest,
    /// What the store calls it.
    pub blob: Ingested,
    /// Its media type, as the first that named it says.
    pub media_type: String,
}

/// How far a file of an archive is taken.
#[derive(Debug, Clone, Copy)]
pub struct Taken<'a> {
    /// What the archive calls it.
    pub name: &'a str,
    /// The digest that it has by its name, in a layout.
    pub digest: Option<Digest>,
    /// Its size in bytes, unpacked.
    pub size: u64,
    /// How far it is.
    pub step: PartStep,
}

/// Who hears of each step; `Break` ends the import.
pub type Taking<'a> = dyn FnMut(&Taken<'_>) -> ControlFlow<()> + 'a;

/// Takes in what an archive has. `progress` hears of each file that is taken. The caller keeps the blobs from being
/// collected ([`Content::keep_unpinned`]) until it has pinned them. Blocks.
///
/// # Errors
/// [`ArchiveError`]; then nothing of it is pinned, and hardly anything held.
pub fn import(
    content: &Content,
    origin: Origin<'_>,
    options: &ImportOptions,
    progress: &mut Taking<'_>,
) -> Result<Imported, ArchiveError> {
    let source: Box<dyn Read + '_> = match origin {
        Origin::Path(path) if path.is_dir() => {
            let mut directory = Directory::new(content, path, options.limits, progress);
            return from_files(Keep::new(content, &mut directory), options);
        }
        Origin::Path(path) => Box::new(open(path)?),
        Origin::Stream(stream) => stream,
    };
    let (_, whole) = plain_tar(source, options.limits)?;
    let mut entries = Entries::read(content, whole, options.limits, progress)?;
    from_files(Keep::new(content, &mut entries), options)
}

/// The plain bytes of a tar archive, and how it is compressed.
fn plain_tar<'a>(source: impl Read + 'a, limits: Limits) -> Result<(Compression, impl Read + 'a), ArchiveError> {
    let (compression, mut plain) = compression::plain(source, limits)?;
    let mut first = [0; tar::BLOCK];
    let known = read_up_to(&mut plain, &mut first).map_err(ArchiveError::read("the archive"))?;
    if !tar::is_header(&first[..known]) {
        return Err(ArchiveError::Unrecognised("it is no tar archive".to_owned()));
    }
    Ok((compression, io::Cursor::new(first).chain(plain)))
}

fn from_files<'a>(keep: Keep<'a>, options: &'a ImportOptions) -> Result<Imported, ArchiveError> {
    // What Docker writes since its version 25 is both; a layout says more.
    if keep.files.has(INDEX_FILE) {
        return layout::import(keep, options);
    }
    if keep.files.has(MANIFEST_FILE) {
        return docker::import(keep, options);
    }
    let why = if keep.files.has("repositories") {
        "it is a docker-archive of before version 1.10"
    } else {
        "it has neither index.json nor manifest.json"
    };
    Err(ArchiveError::Unrecognised(why.to_owned()))
}

/// Opens a file; a named pipe is not waited for.
fn open(path: &Path) -> Result<File, ArchiveError> {
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("open flags fit an int");
    let unreadable = |source| ArchiveError::Unreadable { what: path.display().to_string(), source };
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    match file.metadata().map_err(unreadable)?.is_file() {
        true => Ok(file),
        false => Err(ArchiveError::Unrecognised(format!("{} is neither a file nor a directory", path.display()))),
    }
}
