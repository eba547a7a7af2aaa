//! Split streams as other processes send them, and layers as they are taken apart.

use std::fs::File;
use std::sync::{Arc, LazyLock};

use peat_blobcore::clock::SystemClock;
use peat_blobcore::handoff::frame::{Decoder, Event, FileChunk, FrameError, Inline, MAX_INLINE_BYTES, check_name, inline_head};
use peat_blobcore::handoff::{CacheOptions, Directories, LayerCache, LayerSource, Part, SplitReader};
use peat_blobcore::model::Sha256Digest;
use peat_blobcore::oci::Digest;
use sha2::{Digest as _, Sha256};

fn directory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a temporary directory")
}

/// A device, and a directory with two files and what is none.
static DIRECTORIES: LazyLock<(tempfile::TempDir, Directories)> = LazyLock::new(|| {
    let dir = directory();
    std::fs::create_dir(dir.path().join("d")).expect("a directory");
    std::fs::write(dir.path().join("a"), b"four").expect("a file");
    std::fs::write(dir.path().join("d/b"), [7; 300]).expect("a file");
    std::os::unix::fs::symlink("a", dir.path().join("l")).expect("a link");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("p"), mode).expect("a pipe");
    let open = |path: &std::path::Path| File::open(path).expect("it opens").into();
    let directories = Directories::new(vec![open("/dev/null".as_ref()), open(dir.path())]);
    (dir, directories)
});

/// Most bytes that a stream of [`stream`] may come to.
const LIMIT: u64 = 4096;

/// Bytes as a split stream, in pieces as long as the first byte says: how they come does not matter, what they mean is written as it
/// was read, and what is opened is one of two files.
///
/// # Panics
/// When a law is broken.
pub fn stream(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let (events, outcome) = decode(bytes, usize::from(*step) + 1);
    let (whole, at_once) = decode(bytes, usize::MAX);
    assert_eq!((&events, outcome), (&whole, at_once));
    let mut again = Vec::new();
    for event in &events {
        match event {
            Found::Begin(kind, length) => {
                assert!(*length <= MAX_INLINE_BYTES);
                again.extend(inline_head(*kind, u64::from(*length)).expect("it was read"));
            }
            Found::Bytes(bytes) => again.extend(bytes),
            Found::File(file) => {
                assert!(check_name(&file.name).is_ok());
                file.encode(&mut again).expect("it was read");
            }
        }
    }
    assert!(bytes.starts_with(&again));
    let mut parts = SplitReader::new(bytes, &DIRECTORIES.1, LIMIT);
    let mut claimed = 0;
    while let Ok(Some(part)) = parts.next_part() {
        match part {
            Part::Begin { length, .. } => claimed += u64::from(length),
            Part::Bytes(bytes) => assert!(!bytes.is_empty()),
            Part::File { chunk, file } => {
                claimed += chunk.length;
                assert!(file.metadata().is_ok_and(|metadata| metadata.is_file()));
                assert!(chunk.directory == 1 && [4, 300].contains(&chunk.length));
            }
        }
        assert!(claimed <= LIMIT);
    }
}

#[derive(Debug, PartialEq)]
enum Found {
    Begin(Inline, u32),
    Bytes(Vec<u8>),
    File(FileChunk),
}

/// What is found in pieces of so many bytes, and how it ends.
fn decode(bytes: &[u8], step: usize) -> (Vec<Found>, Result<(), FrameError>) {
    let (mut decoder, mut found) = (Decoder::default(), Vec::new());
    for mut piece in bytes.chunks(step) {
        loop {
            match decoder.next(&mut piece) {
                Err(error) => return (found, Err(error)),
                Ok(None) => break,
                Ok(Some(Event::Begin { kind, length })) => found.push(Found::Begin(kind, length)),
                Ok(Some(Event::File(file))) => found.push(Found::File(file)),
                Ok(Some(Event::Bytes(bytes))) => match found.last_mut() {
                    Some(Found::Bytes(known)) => known.extend(bytes),
                    _ => found.push(Found::Bytes(bytes.to_vec())),
                },
            }
        }
    }
    (found, decoder.finish())
}

/// A cache that inputs share, which throws out what it has as they come.
static CACHE: LazyLock<(tempfile::TempDir, LayerCache)> = LazyLock::new(|| {
    let dir = directory();
    let options = CacheOptions { quota: 1 << 20, reserve: 0, threshold: 300, ..CacheOptions::default() };
    let cache = LayerCache::open(dir.path(), options, Arc::new(SystemClock)).expect("a cache");
    (dir, cache)
});

/// Bytes as the tar archive of a layer: they come out again as they went in.
///
/// # Panics
/// When they do not.
pub fn layer(bytes: &[u8]) {
    let diff_id = Digest::Sha256(Sha256Digest::from_bytes(Sha256::digest(bytes).into()));
    let layer = CACHE.1.layer(&diff_id, || Ok(LayerSource { tar: Box::new(bytes), file: None })).expect("it can be any");
    let mut out = Vec::new();
    assert_eq!(layer.copy_to(&mut out).expect("it is whole"), bytes.len() as u64);
    assert_eq!(out, bytes);
}

pub(super) fn streams() -> Vec<Vec<u8>> {
    let inline = |kind, bytes: &[u8]| [&inline_head(kind, bytes.len() as u64).expect("it is short")[..], bytes].concat();
    let file = |length, directory, name: &str| {
        let mut bytes = Vec::new();
        FileChunk { length, directory, name: name.into() }.encode(&mut bytes).expect("a good name");
        bytes
    };
    let good = [
        inline(Inline::Metadata, &[1; 40]),
        file(4, 1, "a"),
        inline(Inline::Content, b""),
        file(300, 1, "./d//b"),
        inline(Inline::Content, b"small"),
    ];
    let bad = [file(4, 0, "a"), file(4, 2, "a"), file(5, 1, "a"), file(4, 1, "l"), file(0, 1, "p"), file(0, 1, "d"), vec![3]];
    let most = inline_head(Inline::Content, u64::from(MAX_INLINE_BYTES)).expect("the most").to_vec();
    let streams = [vec![good.concat()], bad.map(|bad| [&good[0][..], &bad].concat()).into(), vec![most]].concat();
    streams.iter().enumerate().map(|(at, stream)| [&[at as u8 * 7][..], stream].concat()).collect()
}

pub(super) fn layers() -> Vec<Vec<u8>> {
    let header = |name: &str, kind: u8, size: usize| {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header.to_vec()
    };
    let entry = |name: &str, kind: u8, content: &[u8]| {
        let mut entry = [header(name, kind, content.len()), content.to_vec()].concat();
        entry.resize(entry.len().next_multiple_of(512), 0);
        entry
    };
    let files =
        [entry("d/", b'5', b""), entry("d/a", b'0', &[1; 299]), entry("d/b", b'0', &[2; 300]), entry("d/c", b'0', &[3; 900])];
    let end = vec![0; 1024];
    let sized = [entry("x", b'x', b"12 size=600\n"), header("y", b'0', 0), vec![4; 1024], files[2].clone()];
    let long = [entry("l", b'L', &[b'n'; 700]), files[2].clone()];
    let sparse = [files[2].clone(), entry("s", b'S', &[5; 600]), files[3].clone()];
    let cut = files.concat()[..2200].to_vec();
    vec![
        [files.concat(), end.clone()].concat(),
        sized.concat(),
        long.concat(),
        sparse.concat(),
        cut,
        [end, files.concat()].concat(),
    ]
}
