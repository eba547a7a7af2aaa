//! The form of splitdirfdstream, version `splitdirfdstream-v0`: a tar archive in chunks, of which some say "the whole of that file".
//!
//! Little-endian; no head, no end and no sum: chunks follow each other until the stream ends where one would begin. `0x00` is what
//! a tar archive has between files and `0x01` the content of one file, each with a length (u32) and so many bytes; `0x02` is the
//! content of a file elsewhere: its length (u64), the index of a directory (u32), the length of a name (u32), and the name.
//!
//! Pure: what is decoded comes in as bytes and goes out as borrowed pieces of them, so that memory is taken for one name and nothing
//! else, whatever a stream says of itself. Must never give a name on that was not checked.
//!
//! Source: the crate `composefs-splitdirfdstream`, 0.9.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// The version of the form, as two sides that agree on it call it.
pub const VERSION: &str = "splitdirfdstream-v0";
/// Most bytes of one chunk that carries its bytes itself.
pub const MAX_INLINE_BYTES: u32 = 256 * 1024 * 1024;
/// Longest name of a file, in bytes.
pub const MAX_NAME_BYTES: usize = 4096;

const METADATA: u8 = 0;
const CONTENT: u8 = 1;
const FILE: u8 = 2;

/// What the bytes of a chunk are that carries them itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inline {
    /// What lies between files: headers and padding.
    Metadata,
    /// The whole content of one file.
    Content,
}

/// A chunk that stands for the whole of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChunk {
    /// Bytes of the file.
    pub length: u64,
    /// Which of the directories that come with the stream.
    pub directory: u32,
    /// The name in it, which may go over several directories. Checked by [`check_name`].
    pub name: Vec<u8>,
}

/// What a decoder finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// A chunk begins whose bytes follow.
    Begin {
        /// What they are.
        kind: Inline,
        /// How many.
        length: u32,
    },
    /// The next bytes of that chunk. Never none.
    Bytes(&'a [u8]),
    /// A file.
    File(FileChunk),
}

/// Why bytes are no splitdirfdstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A chunk of a kind that this version does not have.
    #[error("a chunk of the kind {0:#04x} is not known")]
    UnknownKind(u8),
    /// A chunk carries more than one may.
    #[error("a chunk carries {0} bytes, and at most {MAX_INLINE_BYTES} are allowed")]
    TooLong(u64),
    /// A file's name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// More chunks without bytes than a layer can have files.
    #[error("the stream has chunks without bytes for which the layer has no files")]
    Empty,
    /// It ends within a chunk.
    #[error("the stream ends within a chunk")]
    Truncated,
}

/// Why a file's name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no bytes.
    #[error("a file has an empty name")]
    Empty,
    /// It is longer than the system knows paths.
    #[error("a file's name has {0} bytes, and at most {MAX_NAME_BYTES} are allowed")]
    TooLong(u64),
    /// It has a NUL.
    #[error("a file's name has a NUL")]
    Nul,
    /// It begins at the root.
    #[error("a file's name is absolute")]
    Absolute,
    /// It has a part that is `..`.
    #[error("a file's name leads upwards")]
    Upwards,
}

/// Whether a name stays beneath the directory that it is in, as far as a name can tell.
///
/// # Errors
/// When it does not.
pub fn check_name(name: &[u8]) -> Result<(), NameError> {
    match name {
        [] => Err(NameError::Empty),
        _ if name.len() > MAX_NAME_BYTES => Err(NameError::TooLong(name.len() as u64)),
        _ if name.contains(&0) => Err(NameError::Nul),
        [b'/', ..] => Err(NameError::Absolute),
        _ if name.split(|byte| *byte == b'/').any(|part| part == b"..") => Err(NameError::Upwards),
        _ => Ok(()),
    }
}

/// The head of a chunk whose bytes follow. (One of [`Inline::Metadata`] without bytes is not to be written at all.)
///
/// # Errors
/// When there are more of them than a chunk may carry.
pub fn inline_head(kind: Inline, length: u64) -> Result<[u8; 5], FrameError> {
    let fits = u32::try_from(length).ok().filter(|length| *length <= MAX_INLINE_BYTES);
    let length = fits.ok_or(FrameError::TooLong(length))?.to_le_bytes();
    let kind = match kind {
        Inline::Metadata => METADATA,
        Inline::Content => CONTENT,
    };
    Ok([kind, length[0], length[1], length[2], length[3]])
}

impl FileChunk {
    /// Adds the chunk to bytes that are to be sent.
    ///
    /// # Errors
    /// When its name is none.
    pub fn encode(&self, into: &mut Vec<u8>) -> Result<(), NameError> {
        check_name(&self.name)?;
        let length = u32::try_from(self.name.len()).map_err(|_| NameError::TooLong(self.name.len() as u64))?;
        into.push(FILE);
        into.extend(self.length.to_le_bytes());
        into.extend(self.directory.to_le_bytes());
        into.extend(length.to_le_bytes());
        into.extend(&self.name);
        Ok(())
    }
}

/// Finds the chunks of a stream that comes in pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The head of a chunk as far as it has come, and behind that of a file its name.
    head: Vec<u8>,
    /// Bytes of the current chunk that have not come.
    left: u32,
}

/// Bytes of the heads, the one that says the kind included.
const INLINE_HEAD: usize = 5;
const FILE_HEAD: usize = 17;

impl Decoder {
    /// The next that `input` has, and takes from it what that is made of. `None` once all of it is taken, and more is wanted.
    ///
    /// # Errors
    /// When it is no such stream. Then nothing more is to be decoded.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, FrameError> {
        loop {
            if self.left > 0 {
                let length = input.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                let (bytes, rest) = input.split_at(length);
                *input = rest;
                self.left -= u32::try_from(length).expect("it was at most a u32");
                return Ok((length > 0).then_some(Event::Bytes(bytes)));
            }
            let Some((kind, _)) = self.head.split_first().or(input.split_first()) else { return Ok(None) };
            let wanted = match *kind {
                METADATA | CONTENT => INLINE_HEAD,
                FILE if self.head.len() < FILE_HEAD => FILE_HEAD,
                FILE => FILE_HEAD + name_length(&self.head)?,
                other => return Err(FrameError::UnknownKind(other)),
            };
            let (bytes, rest) = input.split_at(input.len().min(wanted - self.head.len()));
            self.head.extend(bytes);
            *input = rest;
            if self.head.len() < wanted {
                return Ok(None);
            }
            match self.head[0] {
                // The length of the name has come; now the name.
                FILE if wanted == FILE_HEAD && name_length(&self.head)? > 0 => {}
                FILE => return self.file().map(|file| Some(Event::File(file))),
                kind => {
                    let kind = if kind == METADATA { Inline::Metadata } else { Inline::Content };
                    let length = u32_at(&self.head, 1);
                    if length > MAX_INLINE_BYTES {
                        return Err(FrameError::TooLong(u64::from(length)));
                    }
                    self.head.clear();
                    self.left = length;
                    return Ok(Some(Event::Begin { kind, length }));
                }
            }
        }
    }

    /// Whether the stream may end here.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when it may not.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.left == 0 && self.head.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }

    fn file(&mut self) -> Result<FileChunk, FrameError> {
        let length = self.head[1..9].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte));
        let (directory, name) = (u32_at(&self.head, 9), self.head[FILE_HEAD..].to_vec());
        check_name(&name)?;
        self.head.clear();
        Ok(FileChunk { length, directory, name })
    }
}

/// The length of the name that follows a whole head.
fn name_length(head: &[u8]) -> Result<usize, FrameError> {
    let length = u32_at(head, 13);
    let fits = usize::try_from(length).ok().filter(|length| *length <= MAX_NAME_BYTES);
    fits.ok_or(FrameError::Name(NameError::TooLong(u64::from(length))))
}

fn u32_at(head: &[u8], at: usize) -> u32 {
    head[at..at + 4].iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A chunk, with its bytes.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Chunk {
        Inline(Inline, Vec<u8>),
        File(FileChunk),
    }

    fn encode(chunks: &[Chunk]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for chunk in chunks {
            match chunk {
                Chunk::Inline(kind, content) => {
                    bytes.extend(inline_head(*kind, content.len() as u64).expect("it is short"));
                    bytes.extend(content);
                }
                Chunk::File(file) => file.encode(&mut bytes).expect("a good name"),
            }
        }
        bytes
    }

    /// Decodes pieces of these lengths, over and over.
    fn decode(bytes: &[u8], lengths: &[usize]) -> Result<Vec<Chunk>, FrameError> {
        let (mut decoder, mut chunks, mut rest) = (Decoder::default(), Vec::new(), bytes);
        for length in lengths.iter().cycle() {
            let (mut piece, behind) = rest.split_at(rest.len().min(*length));
            while let Some(event) = decoder.next(&mut piece)? {
                match event {
                    Event::Begin { kind, .. } => chunks.push(Chunk::Inline(kind, Vec::new())),
                    Event::File(file) => chunks.push(Chunk::File(file)),
                    Event::Bytes(bytes) => match chunks.last_mut() {
                        Some(Chunk::Inline(_, content)) => content.extend(bytes),
                        other => panic!("bytes behind {other:?}"),
                    },
                }
            }
            assert!(piece.is_empty(), "all of it is taken");
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        decoder.finish().map(|()| chunks)
    }

    fn chunk() -> impl Strategy<Value = Chunk> {
        let kind = prop_oneof![Just(Inline::Metadata), Just(Inline::Content)];
        let inline = (kind, vec(any::<u8>(), 0..40)).prop_map(|(kind, bytes)| Chunk::Inline(kind, bytes));
        let name = "[a-z.]{0,3}[a-z](/[a-z]{1,4}){0,3}".prop_map(String::into_bytes);
        let file = (any::<u64>(), any::<u32>(), name)
            .prop_map(|(length, directory, name)| Chunk::File(FileChunk { length, directory, name }));
        prop_oneof![inline, file]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_in_pieces_of_any_size(chunks in vec(chunk(), 0..12), lengths in vec(1..50_usize, 1..5)) {
            prop_assert_eq!(decode(&encode(&chunks), &lengths), Ok(chunks));
        }

        #[test]
        fn a_stream_that_is_cut_ends_between_two_chunks_or_in_an_error(chunks in vec(chunk(), 1..6), at in any::<prop::sample::Index>()) {
            let bytes = encode(&chunks);
            let cut = &bytes[..at.index(bytes.len())];
            match decode(cut, &[7]) {
                Ok(some) => prop_assert!(encode(&some) == cut && chunks.starts_with(&some)),
                Err(error) => prop_assert_eq!(error, FrameError::Truncated),
            }
        }

        #[test]
        fn what_is_no_stream_ends_alike_in_pieces_of_any_size(bytes in vec(prop_oneof![4 => 0_u8..4, 1 => any::<u8>()], 0..80), lengths in vec(1..9_usize, 1..4)) {
            prop_assert_eq!(decode(&bytes, &lengths), decode(&bytes, &[usize::MAX]));
        }
    }

    fn file_head(name_length: u32) -> Vec<u8> {
        let mut head = vec![FILE];
        head.extend(1_u64.to_le_bytes());
        head.extend(0_u32.to_le_bytes());
        head.extend(name_length.to_le_bytes());
        head
    }

    fn named(name: &[u8]) -> Result<Vec<Chunk>, FrameError> {
        let bytes = [file_head(u32::try_from(name.len()).expect("short")), name.to_vec()].concat();
        let decoded = decode(&bytes, &[3]);
        let chunk = FileChunk { length: 1, directory: 0, name: name.to_vec() };
        assert_eq!(chunk.encode(&mut Vec::new()).is_ok(), decoded.is_ok(), "what is refused is not written either");
        decoded
    }

    #[test]
    fn names_that_could_lead_out_are_refused_before_anything_is_opened() {
        for (name, why) in [
            (&b""[..], NameError::Empty),
            (b"a\0b", NameError::Nul),
            (b"/etc/passwd", NameError::Absolute),
            (b"..", NameError::Upwards),
            (b"a/../b", NameError::Upwards),
            (b"a/..", NameError::Upwards),
            (&[b'a'; MAX_NAME_BYTES + 1], NameError::TooLong(4097)),
        ] {
            assert_eq!(named(name), Err(FrameError::Name(why)), "{name:?}");
        }
        for name in [&b"..."[..], b"a..b/..c", b".a", b"a/./b", &[b'a'; MAX_NAME_BYTES]] {
            assert!(named(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn lengths_over_the_limits_are_refused_at_the_head() {
        let over = (MAX_INLINE_BYTES + 1).to_le_bytes();
        for kind in [METADATA, CONTENT] {
            let head = [&[kind][..], &over].concat();
            assert_eq!(decode(&head, &[1]), Err(FrameError::TooLong(u64::from(MAX_INLINE_BYTES) + 1)));
            let head = [&[kind][..], &MAX_INLINE_BYTES.to_le_bytes()].concat();
            assert_eq!(decode(&head, &[1]), Err(FrameError::Truncated));
        }
        assert!(inline_head(Inline::Content, u64::from(MAX_INLINE_BYTES) + 1).is_err());
        assert_eq!(decode(&file_head(u32::MAX), &[1]), Err(FrameError::Name(NameError::TooLong(u64::from(u32::MAX)))));
    }

    #[test]
    fn kinds_that_are_not_known_are_refused() {
        for kind in 3..=u8::MAX {
            assert_eq!(decode(&[kind], &[1]), Err(FrameError::UnknownKind(kind)));
        }
    }

    #[test]
    fn bytes_are_as_the_format_says() {
        let chunks = [
            Chunk::Inline(Inline::Metadata, b"ab".to_vec()),
            Chunk::Inline(Inline::Content, Vec::new()),
            Chunk::File(FileChunk { length: 0x0102, directory: 3, name: b"x/y".to_vec() }),
        ];
        let bytes = b"\x00\x02\0\0\0ab\x01\0\0\0\0\x02\x02\x01\0\0\0\0\0\0\x03\0\0\0\x03\0\0\0x/y";
        assert_eq!(encode(&chunks), bytes);
        assert_eq!(decode(bytes, &[1]), Ok(chunks.into()));
    }
}
