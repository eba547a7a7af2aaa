//! Takes a split stream apart again: the tar archive that it is, or its chunks with their files open.
//!
//! Memory is one buffer and one name. Must never call a layer good that was not held against its digest as a whole: nothing in the
//! stream says where it ends, or what it came to.

use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;

use super::HandoffError;
use super::frame::{Decoder, Event, FileChunk, FrameError, Inline};
use super::resolve::{self, Directories};
use crate::oci::{Digest, DigestHasher};

/// Bytes that are read at a time.
const STEP_BYTES: usize = 128 * 1024;

/// What a stream has next.
#[derive(Debug)]
pub enum Part<'a> {
    /// A chunk begins whose bytes follow.
    Begin {
        /// What they are.
        kind: Inline,
        /// How many.
        length: u32,
    },
    /// The next bytes of that chunk.
    Bytes(&'a [u8]),
    /// A file, whose whole content comes next.
    File {
        /// What was said of it.
        chunk: FileChunk,
        /// The file: a regular one, which had that length when it was opened.
        file: std::fs::File,
    },
}

/// Reads the parts of a split stream.
#[derive(Debug)]
pub struct SplitReader<'a, R> {
    source: R,
    directories: &'a Directories,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// What of the buffer was read and not decoded.
    start: usize,
    end: usize,
    /// Bytes that the layer may still come to, and how many it might in all.
    left: u64,
    limit: u64,
    /// Chunks without bytes.
    empty: u64,
}

impl<'a, R: Read> SplitReader<'a, R> {
    /// Reads a layer of at most `limit` bytes.
    pub fn new(source: R, directories: &'a Directories, limit: u64) -> Self {
        let (decoder, buffer) = (Decoder::default(), vec![0; STEP_BYTES]);
        Self { source, directories, decoder, buffer, start: 0, end: 0, left: limit, limit, empty: 0 }
    }

    /// The next part, none at the end.
    ///
    /// # Errors
    /// When it is no split stream, or a file is not what it stands for. Then nothing of the layer is to be kept.
    pub fn next_part(&mut self) -> Result<Option<Part<'_>>, HandoffError> {
        let length = loop {
            if self.start == self.end {
                (self.start, self.end) = (0, self.fill()?);
                if self.end == 0 {
                    self.decoder.finish()?;
                    return Ok(None);
                }
            }
            let mut input = &self.buffer[self.start..self.end];
            let event = self.decoder.next(&mut input)?;
            self.start = self.end - input.len();
            match event {
                None => {}
                Some(Event::Begin { kind, length }) => {
                    self.spend(length.into())?;
                    return Ok(Some(Part::Begin { kind, length }));
                }
                Some(Event::File(chunk)) => {
                    self.spend(chunk.length)?;
                    let file = self.directories.open(&chunk)?;
                    return Ok(Some(Part::File { chunk, file }));
                }
                Some(Event::Bytes(bytes)) => break bytes.len(),
            }
        };
        Ok(Some(Part::Bytes(&self.buffer[self.start - length..self.start])))
    }

    /// Writes the layer out as the tar archive that it is, and says how many bytes that has.
    ///
    /// # Errors
    /// Those of [`SplitReader::next_part`], or `DiffersFromDiffId`: then what was written is to be thrown away.
    pub fn copy_to(mut self, diff_id: &Digest, out: &mut dyn Write) -> Result<u64, HandoffError> {
        let (mut hasher, mut piece) = (DigestHasher::new(diff_id.algorithm()), vec![0; STEP_BYTES]);
        let mut give = |bytes: &[u8]| {
            hasher.update(bytes);
            out.write_all(bytes).map_err(HandoffError::io("write", "the layer"))
        };
        loop {
            match self.next_part()? {
                None => break,
                Some(Part::Begin { .. }) => {}
                Some(Part::Bytes(bytes)) => give(bytes)?,
                Some(Part::File { chunk, file }) => {
                    let mut at = 0;
                    while at < chunk.length {
                        let most = piece.len().min(usize::try_from(chunk.length - at).unwrap_or(usize::MAX));
                        match file.read_at(&mut piece[..most], at) {
                            Ok(0) => return Err(resolve::wrong_length(&chunk, at)),
                            Ok(read) => {
                                give(&piece[..read])?;
                                at += read as u64;
                            }
                            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                            Err(error) => return Err(HandoffError::io("read", resolve::shown(&chunk.name))(error)),
                        }
                    }
                }
            }
        }
        expect(hasher, diff_id)?;
        Ok(self.limit - self.left)
    }

    fn fill(&mut self) -> Result<usize, HandoffError> {
        loop {
            match self.source.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(HandoffError::io("read", "the split stream")),
            }
        }
    }

    fn spend(&mut self, bytes: u64) -> Result<(), HandoffError> {
        if bytes == 0 {
            // A file without bytes has a header of 512 in the archive all the same; without that rule a stream could go on for ever.
            self.empty += 1;
            if self.empty > 1 + (self.limit - self.left) / 512 {
                return Err(FrameError::Empty.into());
            }
        }
        self.left = self.left.checked_sub(bytes).ok_or(HandoffError::OverLimit(self.limit))?;
        Ok(())
    }
}

/// Whether what was hashed is that layer.
pub(super) fn expect(hasher: DigestHasher, expected: &Digest) -> Result<(), HandoffError> {
    match hasher.finish() {
        actual if actual == *expected => Ok(()),
        actual => Err(HandoffError::DiffersFromDiffId { expected: *expected, actual: Box::new(actual) }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::frame::inline_head;
    use super::*;
    use crate::oci::Algorithm;

    fn inline(kind: Inline, bytes: &[u8]) -> Vec<u8> {
        [&inline_head(kind, bytes.len() as u64).expect("it is short")[..], bytes].concat()
    }

    fn file(length: u64, directory: u32, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        FileChunk { length, directory, name: name.into() }.encode(&mut bytes).expect("a good name");
        bytes
    }

    fn sha256(bytes: &[u8]) -> Digest {
        Digest::of(Algorithm::Sha256, bytes)
    }

    fn fixture() -> (tempfile::TempDir, Directories) {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("large"), vec![7; 300_000]).expect("a file");
        let directories = Directories::new(vec![File::open(dir.path()).expect("a directory").into()]);
        (dir, directories)
    }

    /// Gives so many bytes at a time.
    struct Dripping<'a>(&'a [u8], usize);

    impl Read for Dripping<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let most = into.len().min(self.1);
            self.0.read(&mut into[..most])
        }
    }

    fn copy(stream: &[u8], directories: &Directories, diff_id: &Digest, limit: u64) -> Result<Vec<u8>, HandoffError> {
        let mut out = Vec::new();
        let size = SplitReader::new(Dripping(stream, 1000), directories, limit).copy_to(diff_id, &mut out)?;
        assert_eq!(size, out.len() as u64);
        Ok(out)
    }

    #[test]
    fn chunks_come_together_to_the_layer_and_only_to_the_one_that_was_asked_for() {
        let (_dir, directories) = fixture();
        let stream = [inline(Inline::Metadata, b"head"), file(300_000, 0, "large"), inline(Inline::Content, &[1; 9000])].concat();
        let whole = [&b"head"[..], &[7; 300_000], &[1; 9000]].concat();
        assert!(copy(&stream, &directories, &sha256(&whole), u64::MAX).expect("whole") == whole);
        let sha512 = Digest::Sha512(<sha2::Sha512 as sha2::Digest>::digest(&whole).into());
        assert!(copy(&stream, &directories, &sha512, u64::MAX).expect("whole") == whole);
        let other = copy(&stream, &directories, &sha256(b"other"), u64::MAX);
        assert!(matches!(other, Err(HandoffError::DiffersFromDiffId { actual, .. }) if *actual == sha256(&whole)));
        let cut_between = copy(&stream[..9], &directories, &sha256(&whole), u64::MAX);
        assert!(matches!(cut_between, Err(HandoffError::DiffersFromDiffId { .. })), "a clean end is no proof");
        let cut_within = copy(&stream[..stream.len() - 1], &directories, &sha256(&whole), u64::MAX);
        assert!(matches!(cut_within, Err(HandoffError::Frame(FrameError::Truncated))));
    }

    #[test]
    fn what_a_stream_claims_is_held_against_the_limit_before_it_is_read() {
        let (_dir, directories) = fixture();
        let stream = [inline(Inline::Metadata, b"head"), file(300_000, 0, "large")].concat();
        let whole = [&b"head"[..], &[7; 300_000]].concat();
        assert!(copy(&stream, &directories, &sha256(&whole), 300_004).is_ok());
        assert!(matches!(copy(&stream, &directories, &sha256(&whole), 300_003), Err(HandoffError::OverLimit(300_003))));
        for stream in [file(u64::MAX, 0, "large"), [file(300_000, 0, "large"), file(u64::MAX, 0, "large")].concat()] {
            assert!(matches!(copy(&stream, &directories, &sha256(b""), 1 << 40), Err(HandoffError::OverLimit(_))));
        }
    }

    #[test]
    fn chunks_without_bytes_do_not_go_on_for_ever() {
        let (dir, directories) = fixture();
        std::fs::write(dir.path().join("empty"), []).expect("a file");
        for nothing in [inline(Inline::Metadata, b""), inline(Inline::Content, b""), file(0, 0, "empty")] {
            struct Endless(Vec<u8>, usize);
            impl Read for Endless {
                fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                    into.iter_mut().for_each(|byte| (*byte, self.1) = (self.0[self.1], (self.1 + 1) % self.0.len()));
                    Ok(into.len())
                }
            }
            let failed =
                SplitReader::new(Endless(nothing.clone(), 0), &directories, 1 << 40).copy_to(&sha256(b""), &mut io::sink());
            assert!(matches!(failed, Err(HandoffError::Frame(FrameError::Empty))), "{failed:?}");
            // One for each header of a file there may be.
            let many: Vec<u8> = (0..100).flat_map(|_| [inline(Inline::Metadata, &[1; 512]), nothing.clone()].concat()).collect();
            assert!(copy(&many, &directories, &sha256(&[1; 51_200]), u64::MAX).is_ok());
        }
    }

    #[test]
    fn a_chunk_that_claims_the_most_takes_no_memory_for_it() {
        let (_dir, directories) = fixture();
        let head = inline_head(Inline::Content, u64::from(super::super::frame::MAX_INLINE_BYTES)).expect("the most");
        let endless = head.as_slice().chain(io::repeat(3).take(1 << 20));
        let mut reader = SplitReader::new(endless, &directories, u64::MAX);
        let failed = loop {
            match reader.next_part() {
                Ok(Some(Part::Bytes(bytes))) => assert!(bytes.len() <= STEP_BYTES),
                Ok(part) => assert!(part.is_some(), "it is cut"),
                Err(error) => break error,
            }
        };
        assert!(matches!(failed, HandoffError::Frame(FrameError::Truncated)));
        assert!(reader.buffer.len() == STEP_BYTES);
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let (dir, directories) = fixture();
        struct Shrinking(std::path::PathBuf);
        impl Write for Shrinking {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                File::options().write(true).open(&self.0)?.set_len(10)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let stream = file(300_000, 0, "large");
        let mut out = Shrinking(dir.path().join("large"));
        let failed = SplitReader::new(&*stream, &directories, u64::MAX).copy_to(&sha256(b""), &mut out);
        assert!(matches!(failed, Err(HandoffError::WrongLength { stated: 300_000, .. })), "{failed:?}");
    }
}
