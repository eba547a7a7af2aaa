//! What an archive, or a layer, is compressed with, told by its first bytes; and the bound on what it may come to.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::{ArchiveError, Limits};

/// Bytes that are read from the source at a time.
const STEP_BYTES: usize = 128 * 1024;
/// Most memory that a frame of zstd may ask for, as a power of two: 128 MiB, which is what zstd itself allows by default.
const WINDOW_LOG: u32 = 27;

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// By the first bytes, of which six suffice.
    pub(super) fn of(first: &[u8]) -> Result<Self, ArchiveError> {
        match first {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => {
                Err(ArchiveError::Unrecognised("bzip2 is not read here, use gzip or zstd".to_owned()))
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                Err(ArchiveError::Unrecognised("xz is not read here, use gzip or zstd".to_owned()))
            }
            _ => Ok(Self::Plain),
        }
    }
}

/// The plain bytes of a source, bounded by the limits.
pub(crate) fn plain<'a>(mut source: impl Read + 'a, limits: Limits) -> Result<(Compression, Box<dyn Read + 'a>), ArchiveError> {
    let mut first = [0; 6];
    let known = read_up_to(&mut source, &mut first).map_err(ArchiveError::read("the archive"))?;
    let compression = Compression::of(&first[..known])?;
    let taken = Rc::new(Cell::new(0));
    let source = Counted { source: Cursor::new(first).take(known as u64).chain(source), taken: Rc::clone(&taken) };
    let buffered = BufReader::with_capacity(STEP_BYTES, source);
    let decoded: Box<dyn Read + 'a> = match compression {
        Compression::Plain => Box::new(buffered),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Compression::Zstd => Box::new(Zstd::new(buffered)),
    };
    Ok((compression, Box::new(Bounded { source: decoded, given: 0, taken, limits })))
}

/// Fills the buffer, or as much of it as there is.
pub(super) fn read_up_to(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match source.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Counts what was taken from a source.
struct Counted<R> {
    source: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.taken.set(self.taken.get() + read as u64);
        Ok(read)
    }
}

/// Ends with an error where more comes than may.
struct Bounded<R> {
    source: R,
    given: u64,
    /// Bytes that were taken from what it is compressed in.
    taken: Rc<Cell<u64>>,
    limits: Limits,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.given += read as u64;
        let Limits { bytes, ratio, .. } = self.limits;
        if self.given > bytes {
            return Err(io::Error::other(ArchiveError::OverLimit(format!("more than {bytes} bytes"))));
        }
        let most = Limits::FREE_RATIO_BYTES.saturating_add(self.taken.get().saturating_mul(ratio));
        if self.given > most {
            let why = format!("{} bytes unpack to more than {ratio} times as many", self.taken.get());
            return Err(io::Error::other(ArchiveError::OverLimit(why)));
        }
        Ok(read)
    }
}

/// Unpacks frames of zstd.
struct Zstd<R> {
    source: R,
    context: DCtx<'static>,
    begun: bool,
    /// Within a frame: an end here is too early.
    within: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        Self { source, context: DCtx::create(), begun: false, within: false }
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fail = |code| io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code));
        if !self.begun {
            self.context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(fail)?;
            self.begun = true;
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let source = self.source.fill_buf()?;
            let at_end = source.is_empty();
            if at_end && !self.within {
                return Ok(0);
            }
            let mut output = OutBuffer::around(&mut *buffer);
            let mut input = InBuffer::around(source);
            // A frame that is all read may still have bytes to give.
            let hint = self.context.decompress_stream(&mut output, &mut input).map_err(fail)?;
            let (written, taken) = (output.pos(), input.pos());
            self.source.consume(taken);
            self.within = hint > 0;
            if written > 0 {
                return Ok(written);
            }
            if at_end && self.within {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        (0_u32..50_000).flat_map(|line| format!("{line} is a line\n").into_bytes()).collect()
    }

    pub(crate) fn zstd(plain: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; zstd_safe::compress_bound(plain.len())];
        let length = zstd_safe::compress(frame.as_mut_slice(), plain, 3).expect("it fits");
        frame.truncate(length);
        frame
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::read::GzEncoder::new(plain, flate2::Compression::fast());
        let mut packed = Vec::new();
        encoder.read_to_end(&mut packed).expect("memory");
        packed
    }

    fn unpack(packed: &[u8], limits: Limits) -> Result<Vec<u8>, ArchiveError> {
        let mut all = Vec::new();
        plain(packed, limits)?.1.read_to_end(&mut all).map_err(ArchiveError::read("it"))?;
        Ok(all)
    }

    #[test]
    fn what_is_compressed_comes_out_as_it_was_also_in_several_parts() {
        let text = text();
        let (first, rest) = text.split_at(100_000);
        for pack in [gzip, zstd] {
            assert!(unpack(&pack(&text), Limits::default()).expect("whole") == text);
            assert!(unpack(&[pack(first), pack(rest)].concat(), Limits::default()).expect("whole") == text);
        }
        assert!(unpack(&text, Limits::default()).expect("plain") == text);
        assert!(unpack(b"", Limits::default()).expect("empty").is_empty());
    }

    #[test]
    fn a_cut_is_an_error_wherever_it_is() {
        for pack in [gzip, zstd] {
            let packed = pack(&text());
            for cut in [7, 20, packed.len() / 2, packed.len() - 1] {
                assert!(matches!(unpack(&packed[..cut], Limits::default()), Err(ArchiveError::Truncated(_))), "{cut}");
            }
        }
    }

    #[test]
    fn a_bomb_is_given_up_at_its_limit() {
        let bomb = zstd(&vec![0; 8 << 20]);
        let limits = Limits { bytes: 1 << 20, ..Limits::default() };
        assert!(matches!(unpack(&bomb, limits), Err(ArchiveError::OverLimit(_))));
        let mut small = Bounded { source: io::repeat(0), given: 0, taken: Rc::new(Cell::new(100)), limits: Limits::default() };
        let error = io::copy(&mut small, &mut io::sink()).expect_err("it never ends");
        assert!(error.to_string().contains("times as many"), "{error}");
        assert!(small.given < 2 * Limits::FREE_RATIO_BYTES);
    }

    #[test]
    fn a_frame_that_wants_too_much_memory_is_refused() {
        // A frame header with a window of 2^31 bytes.
        let packed = [0x28, 0xb5, 0x2f, 0xfd, 0, (31 - 10) << 3, 1, 0, 0];
        assert!(unpack(&packed, Limits::default()).is_err());
    }
}
