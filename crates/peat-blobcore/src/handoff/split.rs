//! A tar archive in, the chunks of a split stream out: the content of files apart, everything else as it is.
//!
//! It judges nothing: what is no header that every reader takes for the same is passed on as it is, and so is all behind it, since
//! nobody knows where the next header is. So whatever comes in comes out again, bit by bit; at worst nothing of it is shared.
//!
//! The content of a file is a chunk of its own, large or small: readers take each for what one file has (those of composefs make an
//! object of it), and none but that. Memory is the beginning of one file and an extended header, of at most a mebibyte each.

use std::io::{self, Read};

use super::build::Build;
use super::{CacheOptions, HandoffError};
use crate::oci::DigestHasher;
use crate::registry::archive::{BLOCK, stated, stated_size};

/// From so many bytes of headers and padding on they are a chunk.
const METADATA_BYTES: usize = 64 * 1024;
/// Longest extended header that is looked at.
const MAX_EXTENDED_BYTES: u64 = 1024 * 1024;
/// So much of a large file is read before it is looked for among the objects: up to this size none is written to find out.
const FIRST_BYTES: u64 = CacheOptions::MAX_THRESHOLD;

/// What comes in, hashed and counted.
pub(super) struct Source<'a> {
    inner: &'a mut dyn Read,
    pub(super) hasher: DigestHasher,
    pub(super) at: u64,
    limit: u64,
}

impl<'a> Source<'a> {
    pub(super) fn new(inner: &'a mut dyn Read, hasher: DigestHasher, limit: u64) -> Self {
        Self { inner, hasher, at: 0, limit }
    }

    /// Adds up to `most` bytes to a buffer, fewer only at the end.
    fn read_to(&mut self, buffer: &mut Vec<u8>, most: u64) -> Result<u64, HandoffError> {
        let read = self.by_ref().take(most).read_to_end(buffer).map_err(HandoffError::source)?;
        Ok(read as u64)
    }
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hasher.update(&into[..read]);
        self.at += read as u64;
        match self.at > self.limit {
            true => Err(io::Error::other(HandoffError::OverLimit(self.limit))),
            false => Ok(read),
        }
    }
}

/// Splits all of a source. Files of at least `threshold` bytes become objects.
pub(super) fn split(source: &mut Source<'_>, threshold: u64, build: &mut Build<'_>) -> Result<(), HandoffError> {
    let (mut metadata, mut size_of_next) = (Vec::with_capacity(METADATA_BYTES + BLOCK), None);
    let mut content = Vec::new();
    loop {
        let begun = metadata.len();
        let read = source.read_to(&mut metadata, BLOCK as u64)?;
        let header = metadata[begun..].first_chunk::<BLOCK>();
        let Some(header) = header.and_then(stated).filter(|_| read == BLOCK as u64) else { break };
        let size = match header.kind {
            // Of the next entry, or of all: what it says of a size counts.
            b'x' | b'g' => {
                if header.size > MAX_EXTENDED_BYTES {
                    break;
                }
                let begun = metadata.len();
                let read = source.read_to(&mut metadata, header.size)?;
                let Some(size) = stated_size(&metadata[begun..]).filter(|_| read == header.size) else { break };
                match (header.kind, size) {
                    (_, None) => {}
                    (b'x', Some(_)) => size_of_next = size,
                    (_, Some(_)) => break,
                }
                source.read_to(&mut metadata, padding(header.size))?;
                flush(&mut metadata, METADATA_BYTES, build)?;
                continue;
            }
            b'L' | b'K' => {
                pass(source, header.size.saturating_add(padding(header.size)), &mut metadata, build)?;
                continue;
            }
            _ => size_of_next.take().unwrap_or(header.size),
        };
        let is_file = matches!(header.kind, 0 | b'0' | b'7') && !header.is_directory;
        if size > 0 && !is_file {
            // Whether bytes follow is for each reader to say: links and directories with a size, holes, kinds of other makes.
            break;
        }
        if size > 0 {
            content.clear();
            source.read_to(&mut content, size.min(FIRST_BYTES))?;
            flush(&mut metadata, 1, build)?;
            if (content.len() as u64) < threshold {
                build.content(&content)?;
            } else {
                let at = source.at - content.len() as u64;
                let mut rest = source.by_ref().take(size.saturating_sub(FIRST_BYTES));
                build.object(&content, (size > FIRST_BYTES).then_some(&mut rest as &mut dyn Read), at)?;
            }
            source.read_to(&mut metadata, padding(size))?;
        }
        flush(&mut metadata, METADATA_BYTES, build)?;
    }
    pass(source, u64::MAX, &mut metadata, build)?;
    flush(&mut metadata, 1, build)
}

/// Passes so many bytes on as they are, or all that there are.
fn pass(source: &mut Source<'_>, mut bytes: u64, metadata: &mut Vec<u8>, build: &mut Build<'_>) -> Result<(), HandoffError> {
    while bytes > 0 {
        flush(metadata, METADATA_BYTES, build)?;
        let read = source.read_to(metadata, bytes.min((METADATA_BYTES - metadata.len()) as u64))?;
        if read == 0 {
            break;
        }
        bytes -= read;
    }
    flush(metadata, METADATA_BYTES, build)
}

/// Makes a chunk of what there is, if it is so much.
fn flush(metadata: &mut Vec<u8>, least: usize, build: &mut Build<'_>) -> Result<(), HandoffError> {
    if metadata.len() >= least {
        build.metadata(metadata)?;
        metadata.clear();
    }
    Ok(())
}

/// Bytes behind so many up to the next block.
fn padding(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK as u64).map_or(0, |end| end - size)
}
