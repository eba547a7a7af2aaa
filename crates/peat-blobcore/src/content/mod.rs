//! Bytes at rest: what comes in is hashed, kept under its hash, and verified again whenever it is read.
//!
//! Bulk blobs are files with an outboard each, blobs up to 16 KiB live in the index ([`Content`] says how it is used).
//! Everything here may block on the disk: call it on blocking threads. What is called whole has been fsynced, and no byte
//! leaves the store that was not held against its hash. Nothing here knows of peers, documents or inboxes.
//!
//! - in: `ingest` hashes a file once; `spool` takes what comes piece by piece, `share` what another file has; `assembly` takes verified blocks in any order until
//!   a blob is whole; all end in `commit`, the one place where bytes become a blob
//! - out: `reader` reads and encodes what it has verified against the outboard (`tree`), `export` gives a whole file; `small` does
//!   both for several small blobs at once, `selection` encodes chunks for clients of other make, and `stock` says which blobs
//!   these may have
//! - likeness: a `recipe` says of which chunks a blob consists, and `similar` which blobs here have some of them
//! - upkeep: `keep` pins and collects, `remove` takes one blob out, `check` finds damage and orphans, `recover` runs at start
mod assemble;
mod assembly;
mod check;
mod commit;
mod discard;
mod distributions;
mod error;
mod export;
mod groups;
mod hurried;
mod index;
mod ingest;
mod keep;
mod layout;
mod listing;
mod reader;
mod recipe;
mod recover;
mod registry;
mod remove;
mod selection;
mod share;
mod similar;
mod small;
mod spool;
mod stock;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub(crate) use assembly::Draft;
pub use assembly::{Assembly, Taken};
pub use check::CheckReport;
pub use error::ContentError;
pub use export::Exported;
pub(crate) use groups::Groups;
pub use ingest::Batch;
pub use keep::{Collected, GcReport, Pin, PinRole};
pub use listing::Listed;
pub use reader::BlobReader;
pub use recipe::{Chunk, Cutter, RECIPE_SIZES, Recipe, Segment};
pub use remove::Release;
pub use selection::Chunks;
pub(crate) use share::share;
pub use share::{Shared, Sharing};
pub use spool::{Hashed, Spool, SpoolReader, Spooled};
pub(crate) use stock::{MAX_SEQUENCE_BYTES, put_varint};
pub use tree::Known;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::fault;
use crate::model::{BlobHash, Sha256Digest};

/// Bytes of a chunk group: what is verified as one.
pub const GROUP_BYTES: u64 = 16 * 1024;
/// Most bytes of a blob that one block covers; the hashes that come along are not counted.
pub const MAX_BLOCK_BYTES: u64 = 1024 * 1024;
/// Blobs up to this size live in the index: a file each would cost more than its bytes.
pub const MAX_INLINE_BYTES: u64 = GROUP_BYTES;

/// What is called with the bytes done so far, now and then; `Break` ends the call with [`ContentError::Stopped`].
pub type Progress<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// How much the store may take.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes above which [`Content::gc`] drops what is not pinned; `None` is without limit.
    pub quota: Option<u64>,
    /// Bytes of the file system that are left to others: what would go below is refused with [`ContentError::NoSpace`].
    pub reserve: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { quota: None, reserve: 64 * 1024 * 1024 }
    }
}

/// A blob that was hashed here, from its first byte to its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingested {
    /// What names it.
    pub hash: BlobHash,
    /// Its SHA-256.
    pub sha256: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// How much of a blob is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobStatus {
    /// Nothing.
    Absent,
    /// Some of it, in an assembly.
    Partial {
        /// Its size in bytes, as somebody claimed it.
        size: u64,
        /// Bytes that were verified. (After a restart: that are claimed to be, until the assembly is opened.)
        held: u64,
    },
    /// All of it, durably.
    Held {
        /// Its size in bytes.
        size: u64,
    },
    /// All of it was here, and some of it is wrong now. [`Content::assemble`] heals it.
    Damaged,
}

/// What the store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs that are held or damaged.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of disk that assemblies take.
    pub assembly_bytes: u64,
    /// Bytes of the file system that are free, the reserve included.
    pub free: u64,
}

/// The store of one node: a cheap handle, to be cloned. One process at a time can have a directory open.
///
/// [`Content::close`] it in the end: without that nothing is lost, and the next start verifies what became whole last.
#[derive(Clone)]
pub struct Content(Arc<Inner>);

struct Inner {
    layout: layout::Layout,
    options: Options,
    clock: Arc<dyn Clock>,
    index: index::Index,
    /// Held while files get or lose their final names together with the index, so that nobody sees one without the other.
    names: Mutex<()>,
    /// Held for reading while blobs are here that nothing pins yet, for writing while garbage is collected.
    unpinned: RwLock<()>,
    commits: commit::Queue,
    assemblies: registry::Registry,
    /// How many readers each blob has.
    readers: Mutex<BTreeMap<BlobHash, usize>>,
    /// What was found damaged or gone and nobody was told of yet.
    lost: Mutex<BTreeSet<BlobHash>>,
    collected: Mutex<Collected>,
    /// Touched whenever more of any blob is here.
    arrivals: watch::Sender<()>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Content").field(&self.0.layout.dir()).finish()
    }
}

impl Content {
    /// Opens the store in `dir`, which is made if it is missing. After an unclean end this takes as long as it takes to read
    /// what became whole in the minute before it.
    ///
    /// # Errors
    /// When the directory cannot be used, another process has it open, or its format is unknown.
    pub fn open(dir: &Path, options: Options, clock: Arc<dyn Clock>) -> Result<Self, ContentError> {
        let layout = layout::Layout::create(dir)?;
        let (index, unclean) = index::Index::open(&layout.index(), dir)?;
        fault::point("content.open.marked");
        let inner = Inner {
            layout,
            options,
            clock,
            index,
            names: Mutex::default(),
            unpinned: RwLock::default(),
            commits: commit::Queue::default(),
            assemblies: registry::Registry::default(),
            readers: Mutex::default(),
            lost: Mutex::default(),
            collected: Mutex::default(),
            arrivals: watch::Sender::default(),
        };
        inner.recover(unclean)?;
        Ok(Self(Arc::new(inner)))
    }

    /// Closes the store. Everything that is asked of it or its handles from then on fails with [`ContentError::Closed`], and
    /// the directory can be opened again. Assemblies stay, to be continued.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn close(&self) -> Result<(), ContentError> {
        let live = self.0.assemblies.live();
        live.iter().try_for_each(|assembly| assembly.sync())?;
        let _names = lock(&self.0.names);
        self.0.index.close()?;
        fault::point("content.close.marked");
        Ok(())
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        self.0.layout.dir()
    }

    /// Has these bytes of a blob that is being put together asked for before the rest, if anybody is at it. May block.
    pub(crate) fn hurry(&self, hash: &BlobHash, range: &Range<u64>) {
        if let Some(assembly) = self.0.assemblies.open(hash) {
            assembly.hurry(range);
        }
    }

    /// Changes whenever more of any blob is here: for who waits for some of one.
    pub(crate) fn arrivals(&self) -> watch::Receiver<()> {
        self.0.arrivals.subscribe()
    }

    /// What was found damaged or gone since this was asked last.
    pub(crate) fn take_lost(&self) -> BTreeSet<BlobHash> {
        std::mem::take(&mut lock(&self.0.lost))
    }

    /// How much of a blob is here.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn status(&self, hash: &BlobHash) -> Result<BlobStatus, ContentError> {
        let row = self.0.index.row(hash)?;
        if let Some(row) = row.as_ref().filter(|row| !row.damaged) {
            return Ok(BlobStatus::Held { size: row.size });
        }
        Ok(match (self.0.assemblies.greatest(hash), row) {
            (Some((size, held)), _) => BlobStatus::Partial { size, held },
            (None, Some(_)) => BlobStatus::Damaged,
            (None, None) => BlobStatus::Absent,
        })
    }

    /// Whether all of a blob is here.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn holds(&self, hash: &BlobHash) -> Result<bool, ContentError> {
        Ok(self.size(hash)?.is_some())
    }

    /// The size in bytes of a blob that is held.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn size(&self, hash: &BlobHash) -> Result<Option<u64>, ContentError> {
        Ok(self.0.index.row(hash)?.filter(|row| !row.damaged).map(|row| row.size))
    }

    /// The blob with this SHA-256, if it was hashed here and is still known.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn digest(&self, sha256: &Sha256Digest) -> Result<Option<BlobHash>, ContentError> {
        self.0.index.digest(sha256)
    }

    /// The SHA-256 of a blob that was hashed here and is still known.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn sha256_of(&self, hash: &BlobHash) -> Result<Option<Sha256Digest>, ContentError> {
        Ok(self.0.index.row(hash)?.map(|row| row.sha256))
    }

    /// What the store takes. Reads the whole index.
    ///
    /// # Errors
    /// When the index or the file system cannot be read.
    pub fn usage(&self) -> Result<Usage, ContentError> {
        let mut usage = Usage { free: self.0.layout.free()?, ..Usage::default() };
        self.0.each_blob(&mut |_, row| {
            usage.blobs += 1;
            usage.bytes += row.size;
            Ok(())
        })?;
        usage.assembly_bytes = self.0.assemblies.names().iter().map(|(hash, size)| self.0.assembly_bytes(hash, *size)).sum();
        Ok(usage)
    }

    /// What was collected since the store was opened.
    #[must_use]
    pub fn collected(&self) -> Collected {
        *lock(&self.0.collected)
    }

    /// Bytes that may still be taken in: free, not promised to assemblies, and not left to others.
    ///
    /// # Errors
    /// When the file system cannot be read.
    pub fn room(&self) -> Result<u64, ContentError> {
        Ok(self.0.unpromised()?.saturating_sub(self.0.options.reserve))
    }
}

impl Inner {
    /// Calls `f` with each blob in the order of the hashes, without keeping the index from others meanwhile.
    fn each_blob(&self, f: &mut dyn FnMut(BlobHash, index::Row) -> Result<(), ContentError>) -> Result<(), ContentError> {
        const PAGE: usize = 1024;
        let mut after = None;
        loop {
            let page = self.index.page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (hash, row) in page {
                f(hash, row)?;
            }
        }
    }

    /// Bytes that are free and not promised to assemblies.
    fn unpromised(&self) -> Result<u64, ContentError> {
        Ok(self.layout.free()?.saturating_sub(self.assemblies.promised()))
    }

    /// Whether `wanted` more bytes fit beside what is promised to assemblies and what is left to others.
    fn ensure_free(&self, wanted: u64) -> Result<(), ContentError> {
        let reserve = self.options.reserve;
        let free = self.unpromised()?;
        if wanted.saturating_add(reserve) <= free {
            return Ok(());
        }
        Err(ContentError::NoSpace { dir: self.layout.dir().to_owned(), wanted, free, reserve })
    }
}

/// Takes a lock. Nothing that is kept in one here is left half-changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
