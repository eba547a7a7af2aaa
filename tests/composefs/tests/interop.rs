//! Split streams to and from the crate of composefs, in both directions.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use composefs_splitdirfdstream::{
    Chunk, SplitdirfdstreamReader, SplitdirfdstreamWriter, build_layer_fd_layout, reconstruct, split_fds_into_frames,
};
use peat_blob_composefs_tests::{content, diff_id, tar};
use peat_blobcore::clock::SystemClock;
use peat_blobcore::handoff::{CacheOptions, Directories, HandoffError, LayerCache, LayerSource, SplitLayer, SplitReader};

fn split(dir: &std::path::Path, tar: &[u8]) -> SplitLayer {
    let options = CacheOptions { reserve: 0, ..CacheOptions::default() };
    let cache = LayerCache::open(dir, options, Arc::new(SystemClock)).expect("a cache");
    cache.layer(&diff_id(tar), || Ok(LayerSource { tar: Box::new(tar), file: None })).expect("split")
}

/// The descriptors of a layer as a server sends them, with dummies about: what reads the stream, the directories, and where the
/// real one is among them.
fn layout(real: BorrowedFd<'_>, seed: u64) -> (Vec<OwnedFd>, u32) {
    let (read, _write) = rustix::pipe::pipe().expect("a pipe");
    let layout = build_layer_fd_layout(read, vec![real.try_clone_to_owned().expect("a descriptor")], seed).expect("a layout");
    let frames = split_fds_into_frames(layout.fds_all, seed, true).expect("with `more` there is no limit");
    let mut all: Vec<_> = frames.into_iter().flatten().collect();
    let count = usize::try_from(layout.dir_count).expect("few");
    (all.drain(1..=count).collect(), layout.real_indices[0])
}

#[test]
fn they_put_our_layers_together() {
    let (dir, tar) = (tempfile::tempdir().expect("a directory"), tar());
    let layer = split(dir.path(), &tar);
    for seed in 0..20 {
        let (directories, index) = layout(layer.directory(), seed);
        let mut stream = Vec::new();
        layer.write_stream(index, &mut stream).expect("memory");
        let borrowed: Vec<_> = directories.iter().map(AsFd::as_fd).collect();
        let mut out = Vec::new();
        assert_eq!(reconstruct(&*stream, &borrowed, &mut out).expect("theirs reads it"), tar.len() as u64);
        assert!(out == tar, "seed {seed}");
    }
}

#[test]
fn they_find_the_content_of_each_file_in_a_chunk_of_its_own() {
    let (dir, tar) = (tempfile::tempdir().expect("a directory"), tar());
    let mut stream = Vec::new();
    split(dir.path(), &tar).write_stream(7, &mut stream).expect("memory");
    let (mut reader, mut files) = (SplitdirfdstreamReader::new(&*stream), Vec::new());
    while let Some(chunk) = reader.next_chunk().expect("a chunk") {
        match chunk {
            Chunk::Metadata(bytes) => assert!(!bytes.is_empty()),
            Chunk::InlineData(bytes) => {
                assert!(bytes == content(bytes.len()));
                files.push((bytes.len(), false));
            }
            Chunk::FileBackedData { dirfd_index, length, filename } => {
                let path = dir.path().join("objects").join(std::str::from_utf8(filename).expect("text"));
                let length = usize::try_from(length).expect("it fits");
                assert!(dirfd_index == 7 && std::fs::read(path).expect("an object") == content(length));
                files.push((length, true));
            }
        }
    }
    assert_eq!(files, [(1, false), (4095, false), (4096, true), (3 << 20, true), (4096, true)]);
}

#[test]
fn we_put_their_layers_together() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("diff")).expect("a directory");
    for size in [0, 5, 300_000] {
        std::fs::write(dir.path().join(format!("diff/{size}")), content(size)).expect("a file");
    }
    let real = File::open(dir.path()).expect("a directory");
    let mut whole = content(600);
    for part in [content(300_000), content(700), content(0), content(5), content(0)] {
        whole.extend(part);
    }
    for seed in 0..20 {
        let (directories, index) = layout(real.as_fd(), seed);
        let mut writer = SplitdirfdstreamWriter::new(Vec::new());
        writer.write_metadata(&content(600)).expect("memory");
        writer.write_file_backed_data(index, 300_000, b"diff/300000").expect("memory");
        writer.write_inline_data(&content(700)).expect("memory");
        writer.write_metadata(b"").expect("memory");
        writer.write_inline_data(b"").expect("memory");
        writer.write_file_backed_data(index, 5, b"./diff//5").expect("memory");
        writer.write_file_backed_data(index, 0, b"diff/0").expect("memory");
        let stream = writer.finish().expect("memory");
        let directories = Directories::new(directories);
        let mut out = Vec::new();
        let read = SplitReader::new(&*stream, &directories, 1 << 20).copy_to(&diff_id(&whole), &mut out);
        assert_eq!(read.expect("ours reads it"), whole.len() as u64);
        assert!(out == whole, "seed {seed}");
        // Wherever it is cut, neither takes it for whole.
        for cut in [1, stream.len() / 2, stream.len() - 1] {
            let ours = SplitReader::new(&stream[..cut], &directories, 1 << 20).copy_to(&diff_id(&whole), &mut io::sink());
            assert!(matches!(ours, Err(HandoffError::Frame(_) | HandoffError::DiffersFromDiffId { .. })), "{ours:?}");
        }
    }
}

/// What both refuse, and what only we do.
#[test]
fn we_refuse_what_they_refuse_and_more() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("file"), b"four").expect("a file");
    std::os::unix::fs::symlink("file", dir.path().join("link")).expect("a link");
    let open = || OwnedFd::from(File::open(dir.path()).expect("a directory"));
    let (theirs, ours) = (open(), Directories::new(vec![open()]));
    let chunk = |length: u64, index: u32, name: &[u8]| {
        let mut stream = vec![2];
        stream.extend(length.to_le_bytes());
        stream.extend(index.to_le_bytes());
        stream.extend(u32::try_from(name.len()).expect("short").to_le_bytes());
        stream.extend(name);
        stream
    };
    let refused = |stream: &[u8]| {
        let theirs = reconstruct(stream, &[theirs.as_fd()], &mut io::sink()).is_err();
        let mut parts = SplitReader::new(stream, &ours, 1 << 20);
        let ours = loop {
            match parts.next_part() {
                Ok(Some(_)) => {}
                end => break end.is_err(),
            }
        };
        (theirs, ours)
    };
    let hostile = [
        chunk(4, 0, b""),
        chunk(4, 0, b"/etc/hosts"),
        chunk(4, 0, b"../file"),
        chunk(4, 0, b"fi\0le"),
        chunk(4, 0, &[b'a'; 4097]),
        chunk(4, 1, b"file"),
        chunk(5, 0, b"file"),
        chunk(4, 0, b"none"),
        vec![3],
        vec![0, 255, 255, 255, 255],
        vec![1, 4, 0, 0, 0, 9],
        chunk(4, 0, b"file")[..20].to_vec(),
    ];
    for stream in &hostile {
        assert_eq!(refused(stream), (true, true), "{stream:?}");
    }
    for stream in [chunk(4, 0, b"link"), chunk(3, 0, b"file")] {
        assert_eq!(refused(&stream), (false, true), "{stream:?}");
    }
    assert_eq!(refused(&chunk(4, 0, b"file")), (false, false));
    let mut read = String::new();
    File::open(dir.path().join("file")).and_then(|mut file| file.read_to_string(&mut read)).expect("it is as it was");
    assert_eq!(read, "four");
}
