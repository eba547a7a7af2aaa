//! What the inbox asks of the store of bytes.

use std::fs::File;
use std::io;

use crate::model::BlobHash;

/// How a blob's bytes got into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// The file shares the store's extents.
    Reflinked,
    /// The bytes were written again.
    Copied,
}

/// What is called while a file is filled.
pub type Written<'a> = dyn FnMut(u64) -> io::Result<()> + 'a;

/// The store as the inbox sees it.
pub trait Blobs {
    /// The size in bytes of a blob that is whole here; `None` when it is not.
    ///
    /// # Errors
    /// When the store cannot be asked.
    fn size(&self, blob: &BlobHash) -> io::Result<Option<u64>>;

    /// Fills `dest`, an empty file open for reading and writing, with the blob. The inbox reads back and hashes what it got,
    /// so nothing needs to be verified or synced here. `written` may be called with the number of bytes that `dest` has so far.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when the blob is not whole here; anything else as the file systems report it, and what
    /// `written` fails with.
    fn export(&self, blob: &BlobHash, dest: &File, written: &mut Written<'_>) -> io::Result<Export>;

    /// Asked when what `export` gave was not the blob: the store looks at its own bytes, and marks them if they are wrong.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when they are.
    fn verify(&self, blob: &BlobHash) -> io::Result<()>;
}
