//! Layers through the cache and back: bit by bit, whatever they are.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;

use super::frame::Inline;
use super::{CacheOptions, HandoffError, LayerCache, LayerSource, Part, SplitLayer};
use crate::clock::Clock;
use crate::model::{Sha256Digest, Timestamp};
use crate::oci::Digest;

/// Each look at it is a second later than the last.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + 1000 * self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn cache(dir: &Path, options: CacheOptions) -> LayerCache {
    LayerCache::open(dir, CacheOptions { reserve: 0, ..options }, Arc::new(Ticking::default())).expect("a cache")
}

/// In memory where there is such a directory: everything is synced.
pub(super) fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory")
}

pub(super) fn sha256(bytes: &[u8]) -> Digest {
    Digest::Sha256(Sha256Digest::from_bytes(<sha2::Sha256 as sha2::Digest>::digest(bytes).into()))
}

fn put(cache: &LayerCache, tar: &[u8]) -> Result<SplitLayer, HandoffError> {
    cache.layer(&sha256(tar), || Ok(LayerSource { tar: Box::new(tar), file: None }))
}

fn tar_of(layer: &SplitLayer) -> Vec<u8> {
    let mut tar = Vec::new();
    layer.copy_to(&mut tar).expect("it is whole");
    tar
}

/// What the chunks are: bytes of metadata, sizes of inline files, sizes of objects.
fn shape(layer: &SplitLayer) -> (u64, Vec<u64>, Vec<u64>) {
    let (mut metadata, mut inline, mut objects) = (0, Vec::new(), Vec::new());
    let mut parts = layer.parts();
    while let Some(part) = parts.next_part().expect("good parts") {
        match part {
            Part::Begin { kind: Inline::Metadata, length } => metadata += u64::from(length),
            Part::Begin { kind: Inline::Content, length } => inline.push(u64::from(length)),
            Part::Bytes(_) => {}
            Part::File { chunk, .. } => objects.push(chunk.length),
        }
    }
    (metadata, inline, objects)
}

fn objects(dir: &Path) -> Vec<PathBuf> {
    let prefixes = fs::read_dir(dir.join("objects")).expect("objects").map(|entry| entry.expect("an entry").path());
    prefixes.flat_map(|prefix| fs::read_dir(prefix).expect("a directory").map(|entry| entry.expect("an entry").path())).collect()
}

fn header(name: &str, kind: u8, size: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..124 + size.len()].copy_from_slice(size);
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    [header(name, kind, format!("{:011o}", content.len()).as_bytes()), padded(content.to_vec())].concat()
}

pub(super) fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name, b'0', content)
}

fn end() -> Vec<u8> {
    vec![0; 1024]
}

/// A file whose size only the extended header before it says.
fn pax_sized(name: &str, content: &[u8]) -> Vec<u8> {
    let record = format!("{:03} size={:020}\n", 30, content.len());
    assert_eq!(record.len(), 30);
    [entry("pax", b'x', record.as_bytes()), header(name, b'0', b"00000000000"), padded(content.to_vec())].concat()
}

/// A part of a layer, good or strange.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let content = (0..7000_usize, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
    let kinds = prop_oneof![Just(b'0'), Just(0), Just(b'7'), Just(b'L'), Just(b'S'), Just(b'5'), Just(b'1'), any::<u8>()];
    prop_oneof![
        6 => content.clone().prop_map(|content| file("a", &content)),
        3 => (kinds, content.clone()).prop_map(|(kind, content)| entry("b", kind, &content)),
        2 => content.clone().prop_map(|content| pax_sized("c", &content)),
        1 => vec(any::<u8>(), 0..80).prop_map(|records| entry("d", b'x', &records)),
        1 => vec(any::<u8>(), 0..1500),
        // A size in binary, and one that never comes.
        1 => Just(header("e", b'0', b"\x80\0\0\0\0\0\0\0\0\0\x20\0")),
        1 => Just(header("f", b'0', b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
        1 => Just(end()),
    ]
}

/// Gives so many bytes at a time.
struct Dripping<'a>(&'a [u8], Vec<usize>, usize);

impl Read for Dripping<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.2 += 1;
        let most = into.len().min(self.1[self.2 % self.1.len()]);
        self.0.read(&mut into[..most])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_in_comes_out_bit_by_bit(
        parts in vec(part(), 0..12),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
        threshold in prop_oneof![Just(1_u64), Just(512), Just(4096), Just(u64::MAX)],
        lengths in vec(1..3000_usize, 1..4),
    ) {
        let all = parts.concat();
        let tar = if whole || all.is_empty() { &all[..] } else { &all[..cut.index(all.len())] };
        let dir = directory();
        let cache = cache(dir.path(), CacheOptions { threshold, ..CacheOptions::default() });
        let source = || Ok(LayerSource { tar: Box::new(Dripping(tar, lengths.clone(), 0)), file: None });
        let made = cache.layer(&sha256(tar), source).expect("split");
        prop_assert!(tar_of(&made) == tar);
        let mut stream = Vec::new();
        made.write_stream(0, &mut stream).expect("memory");
        // How it came does not show.
        let elsewhere = directory();
        let other = self::cache(elsewhere.path(), CacheOptions { threshold, ..CacheOptions::default() });
        let mut again = Vec::new();
        put(&other, tar).expect("split").write_stream(0, &mut again).expect("memory");
        prop_assert!(stream == again);
    }
}

#[test]
fn content_is_apart_from_what_lies_about_it() {
    let dir = directory();
    let cache = cache(dir.path(), CacheOptions::default());
    let large = vec![3; 3 << 20];
    let tar = [
        entry("dir/", b'5', b""),
        file("empty", b""),
        file("small", &[1; 4095]),
        file("medium", &[2; 4096]),
        entry("link", b'1', b""),
        file("large", &large),
        entry("long", b'L', &[b'n'; 300]),
        pax_sized("sized", &[4; 5000]),
        file("old", &[5; 6000]),
        end(),
    ];
    let tar = tar.concat();
    let layer = put(&cache, &tar).expect("split");
    let (metadata, inline, objects_of) = shape(&layer);
    assert_eq!((inline, objects_of), (vec![4095], vec![4096, 3 << 20, 5000, 6000]));
    assert_eq!(metadata + 4095 + 4096 + (3 << 20) + 5000 + 6000, tar.len() as u64);
    assert!(tar_of(&layer) == tar);
    for object in objects(dir.path()) {
        let name = blake3::hash(&fs::read(&object).expect("it is there")).to_string();
        assert!(object.ends_with(format!("{}/{}", &name[..2], &name[2..])), "{}", object.display());
        assert!(fs::metadata(&object).expect("it is there").permissions().readonly());
    }
}

#[test]
fn what_readers_may_take_for_different_things_is_passed_on_as_it_is_with_all_behind_it() {
    let large = file("large", &[1; 9000]);
    let record = |text: &str| entry("pax", b'x', text.as_bytes());
    let bad_sum = || {
        let mut bad = file("bad", &[2; 9000]);
        bad[0] ^= 1;
        bad
    };
    let strange = [
        entry("link", b'1', &[2; 9000]),
        entry("dir", b'5', &[2; 9000]),
        entry("dir/", b'0', &[2; 9000]),
        entry("holes", b'S', &[2; 9000]),
        entry("volume", b'V', &[2; 9000]),
        bad_sum(),
        record("no record"),
        record("30 GNU.sparse.size=0000000009\n"),
        entry("global", b'g', b"17 size=00000009\n"),
        end(),
    ];
    for strange in strange {
        let dir = directory();
        let layer = put(&cache(dir.path(), CacheOptions::default()), &[&large[..], &strange, &large].concat()).expect("split");
        assert_eq!(shape(&layer).2, [9000], "{:?}", String::from_utf8_lossy(&strange[..8]));
    }
}

#[test]
fn what_several_layers_have_is_there_once() {
    let dir = directory();
    let cache = cache(dir.path(), CacheOptions::default());
    let shared = file("shared", &[1; 2 << 20]);
    let one = put(&cache, &[file("one", &[2; 9000]), shared.clone(), file("again", &[2; 9000])].concat()).expect("split");
    let before = cache.bytes();
    let two = put(&cache, &[file("two", &[3; 9000]), shared].concat()).expect("split");
    assert_eq!(objects(dir.path()).len(), 3);
    assert!(cache.bytes() - before < 16_000, "its own file, and little else");
    let sizes: u64 = objects(dir.path()).iter().map(|path| fs::metadata(path).expect("it is there").len()).sum();
    assert!(cache.bytes() >= sizes && cache.bytes() < sizes + 8000);
    assert_eq!((shape(&one).2.len(), shape(&two).2.len()), (3, 2));
}

#[test]
fn nothing_is_kept_of_a_layer_that_is_another_than_was_asked_for_or_that_cannot_be_read() {
    struct Cut(usize);
    impl Read for Cut {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let read = into.len().min(self.0);
            self.0 -= read;
            into[..read].fill(0);
            if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
        }
    }
    let dir = directory();
    let cache = cache(dir.path(), CacheOptions::default());
    let tar = file("large", &[1; 9000]);
    let other = cache.layer(&sha256(b"other"), || Ok(LayerSource { tar: Box::new(&*tar), file: None }));
    assert!(matches!(other, Err(HandoffError::DiffersFromDiffId { actual, .. }) if *actual == sha256(&tar)));
    let cut = cache.layer(&sha256(&tar), || Ok(LayerSource { tar: Box::new((&tar[..5000]).chain(Cut(100))), file: None }));
    assert!(matches!(cut, Err(HandoffError::Archive(_))), "{cut:?}");
    assert!(objects(dir.path()).is_empty());
    assert_eq!(cache.bytes(), 0);
    assert!(cache.get(&sha256(&tar)).expect("it can be read").is_none());
    assert!(tar_of(&put(&cache, &tar).expect("split")) == tar, "and it can still be made");
}

#[test]
fn a_layer_is_made_once_and_found_again_also_by_the_next_process() {
    let dir = directory();
    let tar = [file("large", &[1; 9000]), end()].concat();
    let made = Cell::new(0);
    let ask = |cache: &LayerCache| {
        let open = || {
            made.set(made.get() + 1);
            Ok(LayerSource { tar: Box::new(&*tar), file: None })
        };
        cache.layer(&sha256(&tar), open).expect("split")
    };
    let first = cache(dir.path(), CacheOptions::default());
    ask(&first);
    ask(&first);
    let bytes = first.bytes();
    let second = LayerCache::open(dir.path(), CacheOptions::default(), Arc::new(Ticking::default()));
    assert!(matches!(second, Err(HandoffError::InUse(_))));
    drop(first);
    let second = cache(dir.path(), CacheOptions::default());
    assert!(tar_of(&ask(&second)) == tar);
    assert_eq!((made.get(), second.bytes()), (1, bytes));
    let sha512 = Digest::Sha512(<sha2::Sha512 as sha2::Digest>::digest(&tar).into());
    let by_sha512 = second.layer(&sha512, || Ok(LayerSource { tar: Box::new(&*tar), file: None })).expect("split");
    assert!(tar_of(&by_sha512) == tar);
}

#[test]
fn what_was_used_longest_ago_goes_when_the_quota_says_so_and_what_is_in_use_stays() {
    let dir = directory();
    let tars = [0, 1, 2, 3].map(|byte| [file("own", &[byte; 100_000]), file("shared", &[9; 50_000])].concat());
    let options = CacheOptions { quota: 400_000, ..CacheOptions::default() };
    let cache = cache(dir.path(), options);
    drop(put(&cache, &tars[0]).expect("split"));
    let used = put(&cache, &tars[1]).expect("split");
    drop(put(&cache, &tars[2]).expect("split"));
    assert!(cache.get(&sha256(&tars[0])).expect("it can be read").is_some(), "used again");
    drop(put(&cache, &tars[3]).expect("split"));
    let there = |tar: &[u8]| cache.get(&sha256(tar)).expect("it can be read").is_some();
    assert_eq!([0, 1, 2, 3].map(|at| there(&tars[at])), [true, true, false, true]);
    assert!(cache.bytes() <= options.quota);
    assert_eq!(objects(dir.path()).len(), 4, "what was its alone is gone");
    assert!(tar_of(&used) == tars[1]);
    // All in use: no room, and nobody loses anything.
    let all = [0, 3].map(|at| put(&cache, &tars[at]).expect("split"));
    let more = put(&cache, &file("own", &[7; 100_000]));
    assert!(matches!(more, Err(HandoffError::NoRoom { .. })), "{more:?}");
    for (layer, at) in [(&used, 1), (&all[0], 0), (&all[1], 3)] {
        assert!(tar_of(layer) == tars[at]);
    }
    drop(all);
    assert!(put(&cache, &file("own", &[7; 100_000])).is_ok(), "now there is");
    let over = put(&cache, &file("over", &[8; 500_000]));
    assert!(matches!(over, Err(HandoffError::NoRoom { .. })), "one alone that is over the quota");
    assert!(cache.bytes() <= options.quota);
    assert!(tar_of(&used) == tars[1]);
}

#[test]
fn what_goes_for_a_layer_is_nothing_that_it_shares() {
    let dir = directory();
    let cache = cache(dir.path(), CacheOptions { quota: 400_000, ..CacheOptions::default() });
    let shared = file("shared", &[9; 50_000]);
    drop(put(&cache, &[file("own", &[1; 200_000]), shared.clone()].concat()).expect("split"));
    let tar = [shared, file("own", &[2; 300_000])].concat();
    assert!(tar_of(&put(&cache, &tar).expect("split")) == tar);
    assert_eq!(objects(dir.path()).len(), 2);
}

#[test]
fn a_layer_over_its_limit_is_given_up() {
    let dir = directory();
    let cache = cache(dir.path(), CacheOptions { layer_limit: 10_000, ..CacheOptions::default() });
    assert!(put(&cache, &file("fits", &[1; 9000])).is_ok());
    assert!(matches!(put(&cache, &file("not", &[1; 10_000])), Err(HandoffError::OverLimit(10_000))));
}

fn writable(path: &Path) -> File {
    let mut permissions = fs::metadata(path).expect("it is there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    fs::set_permissions(path, permissions).expect("ours");
    File::options().write(true).open(path).expect("it opens")
}

#[test]
fn what_is_damaged_is_not_taken_for_another_layer_either() {
    let dir = directory();
    let tars = [1, 2].map(|byte| [file("own", &[byte; 9000]), file("shared", &[9; 50_000])].concat());
    for tar in &tars {
        drop(put(&cache(dir.path(), CacheOptions::default()), tar).expect("split"));
    }
    let shared = objects(dir.path()).into_iter().find(|path| fs::metadata(path).expect("it is there").len() == 50_000);
    std::os::unix::fs::FileExt::write_all_at(&writable(&shared.expect("it is there")), b"x", 700).expect("written");
    let cache = cache(dir.path(), CacheOptions::default());
    let another = [file("own", &[3; 9000]), file("shared", &[9; 50_000])].concat();
    for tar in [&another, &tars[0], &tars[1]] {
        assert!(tar_of(&put(&cache, tar).expect("split")) == *tar);
    }
    assert_eq!(objects(dir.path()).len(), 4);
    fs::remove_dir_all(dir.path().join("layers")).and_then(|()| fs::create_dir(dir.path().join("layers"))).expect("emptied");
    assert!(tar_of(&put(&cache, &another).expect("split")) == another, "also what vanishes while the cache is open");
}

#[test]
fn what_is_damaged_on_disk_is_found_before_it_is_handed_out_and_made_again() {
    let tar = [file("large", &[1; 9000]), file("other", &[2; 9000]), end()].concat();
    type Damage<'a> = &'a dyn Fn(&Path);
    let flip = |path: &Path| std::os::unix::fs::FileExt::write_all_at(&writable(path), b"x", 700).expect("written");
    let cut = |path: &Path| writable(path).set_len(100).expect("cut");
    let remove = |path: &Path| fs::remove_file(path).expect("removed");
    for damage in [&flip as Damage<'_>, &cut, &remove] {
        for part in ["object", "stream"] {
            let dir = directory();
            drop(put(&cache(dir.path(), CacheOptions::default()), &tar).expect("split"));
            let stream = dir.path().join("layers").join(format!("sha256-{}.stream", sha256(&tar).hex()));
            damage(&if part == "object" { objects(dir.path()).remove(0) } else { stream });
            let cache = cache(dir.path(), CacheOptions::default());
            assert!(cache.get(&sha256(&tar)).expect("it can be read").is_none(), "{part}");
            assert!(tar_of(&put(&cache, &tar).expect("split")) == tar, "{part}");
        }
    }
}

#[test]
fn what_is_no_damage_has_no_layer_thrown_away() {
    let dir = directory();
    let tar = [file("large", &[1; 9000]), end()].concat();
    drop(put(&cache(dir.path(), CacheOptions::default()), &tar).expect("split"));
    let small = CacheOptions { layer_limit: 5000, ..CacheOptions::default() };
    let refused = cache(dir.path(), small).get(&sha256(&tar));
    assert!(matches!(refused, Err(HandoffError::OverLimit(5000))), "{refused:?}");
    assert!(cache(dir.path(), CacheOptions::default()).get(&sha256(&tar)).expect("it can be read").is_some(), "it stays");
}

#[test]
fn what_a_crash_left_is_removed_at_the_next_start() {
    let dir = directory();
    let tar = [file("large", &[1; 9000]), end()].concat();
    drop(put(&cache(dir.path(), CacheOptions::default()), &tar).expect("split"));
    let bytes = cache(dir.path(), CacheOptions::default()).bytes();
    // An object without a layer, a list without a stream, files of a build.
    for left in
        [&format!("objects/ab/{}", "0".repeat(62)), "layers/sha256-00.objects", "tmp/large", "tmp/objects", "objects/ab/x"]
    {
        fs::write(dir.path().join(left), [7; 64]).expect("written");
    }
    let cache = cache(dir.path(), CacheOptions::default());
    assert_eq!(cache.bytes(), bytes);
    assert_eq!(objects(dir.path()).len(), 1);
    assert!(fs::read_dir(dir.path().join("tmp")).expect("there").next().is_none());
    assert!(tar_of(&cache.get(&sha256(&tar)).expect("it can be read").expect("it is there")) == tar);
}

#[test]
fn a_stream_names_the_index_that_it_is_asked_for() {
    let dir = directory();
    let tar = [file("large", &[1; 9000]), end()].concat();
    let layer = put(&cache(dir.path(), CacheOptions::default()), &tar).expect("split");
    let mut stream = Vec::new();
    layer.write_stream(2, &mut stream).expect("memory");
    let null = || std::os::fd::OwnedFd::from(File::open("/dev/null").expect("it opens"));
    let directory = layer.directory().try_clone_to_owned().expect("a descriptor");
    let directories = super::Directories::new(vec![null(), null(), directory]);
    let mut out = Vec::new();
    super::SplitReader::new(&*stream, &directories, 1 << 20).copy_to(&sha256(&tar), &mut out).expect("whole");
    assert!(out == tar);
}
