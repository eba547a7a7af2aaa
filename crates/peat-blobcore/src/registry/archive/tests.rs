//! Archives as tools make them and as nobody should, read from outside; and what is written, read again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256, Sha512};

use super::pack::TarWriter;
use super::{
    ArchiveError, Export, Format, ImportOptions, Imported, Lies, Limits, Origin, Source, Surveyed, export, export_to, import,
    survey,
};
use crate::clock::SystemClock;
use crate::content::{Content, Options};
use crate::oci::{Digest, Platform, media_type};

/// A store in a directory that goes with it.
struct Store {
    content: Content,
    dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let content = Content::open(&dir.path().join("store"), Options { quota: None, reserve: 0 }, Arc::new(SystemClock));
        Self { content: content.expect("a store"), dir }
    }

    fn import(&self, bytes: &[u8]) -> Result<Imported, ArchiveError> {
        self.import_with(bytes, &ImportOptions::default())
    }

    fn import_with(&self, bytes: &[u8], options: &ImportOptions) -> Result<Imported, ArchiveError> {
        // A byte at a time now and then, as streams come.
        let (first, rest) = bytes.split_at(bytes.len().min(700));
        let stream = Cursor::new(first.to_vec()).chain(Cursor::new(rest.to_vec()));
        import(&self.content, Origin::Stream(Box::new(stream)), options, &mut |_| ControlFlow::Continue(()))
    }

    fn import_path(&self, path: &Path) -> Result<Imported, ArchiveError> {
        import(&self.content, Origin::Path(path), &ImportOptions::default(), &mut |_| ControlFlow::Continue(()))
    }

    fn export(&self, imported: &Imported, format: Format) -> Result<Vec<u8>, ArchiveError> {
        let known: BTreeMap<_, _> = imported.blobs.iter().map(|blob| (blob.digest, blob.blob.hash)).collect();
        export_to(&self.content, &|digest| known.get(digest).copied(), &images(imported), format, Vec::new())
    }

    fn export_path(&self, imported: &Imported, format: Format, path: &Path) -> Result<(), ArchiveError> {
        let known: BTreeMap<_, _> = imported.blobs.iter().map(|blob| (blob.digest, blob.blob.hash)).collect();
        export(&self.content, &|digest| known.get(digest).copied(), &images(imported), format, path)
    }

    fn blobs(&self) -> u64 {
        self.content.usage().expect("an index").blobs
    }
}

fn images(imported: &Imported) -> Vec<Export> {
    let export = |root: &super::Root| Export { descriptor: root.descriptor.clone(), names: root.names.clone() };
    imported.roots.iter().map(export).collect()
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)))
}

fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", data_encoding::HEXLOWER.encode(&Sha512::digest(bytes)))
}

pub(in crate::registry) fn noise(seed: u8, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

pub(in crate::registry) type Entries = Vec<(String, Vec<u8>)>;

pub(in crate::registry) fn tar(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (name, bytes) in entries {
        tar.file(name, bytes.len() as u64, bytes.as_slice()).expect("memory");
    }
    tar.finish().expect("memory")
}

pub(in crate::registry) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(plain, flate2::Compression::fast()).read_to_end(&mut packed).expect("memory");
    packed
}

pub(in crate::registry) fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; zstd_safe::compress_bound(plain.len())];
    let length = zstd_safe::compress(frame.as_mut_slice(), plain, 3).expect("it fits");
    frame.truncate(length);
    frame
}

/// A layout that is put together.
#[derive(Default)]
pub(in crate::registry) struct LayoutMaker {
    blobs: BTreeMap<String, Vec<u8>>,
    entries: Vec<String>,
}

impl LayoutMaker {
    fn blob_by(&mut self, digest: String, media_type: &str, bytes: &[u8]) -> String {
        let text = format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, bytes.len());
        self.blobs.insert(digest, bytes.to_vec());
        text
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> String {
        self.blob_by(sha256(bytes), media_type, bytes)
    }

    /// An image of one large and one small layer for a processor.
    pub(in crate::registry) fn image(&mut self, architecture: &str, seed: u8) -> String {
        let layers = [noise(seed, 300_000), noise(seed.wrapping_add(1), 100)];
        let diff_ids: Vec<_> = layers.iter().map(|layer| format!("\"{}\"", sha256(layer))).collect();
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        let config = self.blob(media_type::OCI_CONFIG, config.as_bytes());
        let layers = [self.blob(media_type::OCI_LAYER_GZIP, &gzip(&layers[0])), self.blob(media_type::OCI_LAYER, &layers[1])];
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
        self.blob(media_type::OCI_MANIFEST, text.as_bytes())
    }

    pub(in crate::registry) fn name(&mut self, descriptor: &str, name: &str) {
        let annotations = format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#);
        self.entries.push(with(descriptor, &annotations[..annotations.len() - 1]));
    }

    pub(in crate::registry) fn files(&self) -> Entries {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, self.entries.join(","));
        let mut files = vec![
            ("index.json".to_owned(), index.into_bytes()),
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ];
        files.extend(self.blobs.iter().map(|(digest, bytes)| (format!("blobs/{}", digest.replace(':', "/")), bytes.clone())));
        files
    }
}

/// A descriptor with something more before its last brace.
fn with(descriptor: &str, more: &str) -> String {
    format!("{}{more}}}", &descriptor[..descriptor.len() - 1])
}

fn for_platform(descriptor: &str, architecture: &str) -> String {
    with(descriptor, &format!(r#","platform":{{"architecture":"{architecture}","os":"linux"}}"#))
}

/// An index of two platforms, with a signature of it, and an artifact by SHA-512.
pub(in crate::registry) fn rich() -> LayoutMaker {
    let mut maker = LayoutMaker::default();
    let (amd, arm) = (maker.image("amd64", 1), maker.image("arm64", 3));
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}]}}"#,
        media_type::OCI_INDEX,
        for_platform(&amd, "amd64"),
        for_platform(&arm, "arm64")
    );
    let index = maker.blob(media_type::OCI_INDEX, index.as_bytes());
    maker.name(&index, "v1");
    maker.name(&index, "latest");
    let empty = maker.blob(media_type::OCI_EMPTY, b"{}");
    let signature = maker.blob("application/x-signature", b"signed");
    let about = format!(
        r#"{{"schemaVersion":2,"artifactType":"application/x-sig","config":{empty},"layers":[{signature}],"subject":{index}}}"#
    );
    let about = maker.blob(media_type::OCI_MANIFEST, about.as_bytes());
    maker.entries.push(about);
    let (chart, bytes) = (noise(9, 70_000), noise(9, 70_000));
    let chart = maker.blob_by(sha512(&chart), "application/x-chart", &bytes);
    let artifact = format!(r#"{{"schemaVersion":2,"config":{empty},"layers":[{chart}]}}"#);
    let artifact = maker.blob_by(sha512(artifact.as_bytes()), media_type::OCI_MANIFEST, artifact.as_bytes());
    maker.name(&artifact, "chart");
    maker
}

/// A docker-archive as Nix makes it, or with the names that Docker gives.
pub(in crate::registry) fn docker(layers: &[Vec<u8>], tags: &str) -> Entries {
    let plain = |layer: &Vec<u8>| match layer.first() {
        Some(0x1f) => {
            let mut all = Vec::new();
            flate2::read::GzDecoder::new(layer.as_slice()).read_to_end(&mut all).expect("gzip");
            all
        }
        _ => layer.clone(),
    };
    let diff_ids: Vec<_> = layers.iter().map(|layer| format!("\"{}\"", sha256(&plain(layer)))).collect();
    let config =
        format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, diff_ids.join(","));
    let config_name = format!("{}.json", &sha256(config.as_bytes())[7..]);
    let names: Vec<_> = (0..layers.len()).map(|at| format!("{at}/layer.tar")).collect();
    let quoted: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let list = format!(r#"[{{"Config":"{config_name}","RepoTags":{tags},"Layers":[{}]}}]"#, quoted.join(","));
    let mut entries: Entries = names.into_iter().zip(layers.iter().cloned()).collect();
    entries.push((config_name, config.into_bytes()));
    entries.push(("manifest.json".to_owned(), list.into_bytes()));
    entries
}

/// A name in an archive, and its bytes.
type Entry = (String, Vec<u8>);

#[test]
fn a_layout_comes_in_whole_in_any_order_and_however_it_is_packed() {
    let maker = rich();
    let plain = tar(&maker.files());
    let mut reversed = maker.files();
    reversed.reverse();
    let directory = tempfile::tempdir().expect("a directory");
    for (name, bytes) in maker.files() {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    let first = Store::new().import(&plain).expect("a layout");
    let names: Vec<_> = first.roots.iter().map(|root| root.names.join(" ")).collect();
    assert_eq!(names, ["v1 latest", "", "chart"]);
    assert_eq!(first.blobs.len(), maker.blobs.len(), "all of it is named");
    assert!(first.roots[2].descriptor.digest.sha256().is_none());
    for again in [tar(&reversed), gzip(&plain), zstd(&plain)] {
        assert_eq!(Store::new().import(&again).expect("the same"), first);
    }
    let store = Store::new();
    assert_eq!(store.import_path(directory.path()).expect("the same"), first);
    for blob in &first.blobs {
        let bytes = store.content.read_blob(&blob.blob.hash, 1 << 20).expect("held");
        assert_eq!(bytes, maker.blobs[&blob.digest.to_string()], "{}", blob.digest);
    }
    // Again: nothing is new.
    assert_eq!(store.import_path(directory.path()).expect("the same"), first);
    assert_eq!(store.blobs(), first.blobs.len() as u64);
}

#[test]
fn of_several_platforms_the_one_that_is_asked_for_is_taken_and_others_may_be_missing() {
    let maker = rich();
    let arm = Platform { architecture: "arm64".to_owned(), os: "linux".to_owned(), variant: None };
    let options = ImportOptions { platform: Some(arm.clone()), ..ImportOptions::default() };
    let taken = Store::new().import_with(&tar(&maker.files()), &options).expect("it has one");
    assert_eq!(taken.roots[0].platform.as_ref().map(|platform| platform.architecture.as_str()), Some("arm64"));
    assert_eq!(taken.roots[0].names, ["v1", "latest"]);
    assert_eq!(taken.roots.len(), 2, "the signature is about what was not taken");
    // Without the other platform's manifest and layers.
    let wanted: Vec<_> = taken.blobs.iter().map(|blob| blob.digest.to_string()).collect();
    let index = taken_index(&maker);
    let mut few = rich();
    few.blobs.retain(|digest, _| wanted.contains(digest) || *digest == index);
    few.entries.retain(|entry| entry.contains("ref.name"));
    assert_eq!(Store::new().import_with(&tar(&few.files()), &options).expect("it has one").roots, taken.roots);
    let error = Store::new().import(&tar(&few.files())).expect_err("all are wanted");
    assert!(matches!(&error, ArchiveError::Missing { count: 1, first } if first[0].contains("sha256:")), "{error}");
    let other = Platform { architecture: "riscv64".to_owned(), ..arm };
    few.entries.pop();
    let error = Store::new().import_with(&tar(&few.files()), &ImportOptions { platform: Some(other), ..options });
    assert!(matches!(error, Err(ArchiveError::NoSuchPlatform(_))));
}

fn taken_index(maker: &LayoutMaker) -> String {
    let imported = Store::new().import(&tar(&maker.files())).expect("a layout");
    imported.roots[0].descriptor.digest.to_string()
}

#[test]
fn missing_layers_are_named_and_those_that_are_here_already_are_not_missing() {
    let maker = rich();
    let store = Store::new();
    let whole = store.import(&tar(&maker.files())).expect("a layout");
    let layer = whole.blobs.iter().find(|blob| blob.media_type == media_type::OCI_LAYER_GZIP).expect("a layer").digest;
    let mut without = rich();
    without.blobs.remove(&layer.to_string());
    let bytes = tar(&without.files());
    let error = Store::new().import(&bytes).expect_err("it is missing").to_string();
    assert!(error.contains(&layer.to_string()), "{error}");
    assert_eq!(store.import(&bytes).expect("the store has it"), whole);
}

#[test]
fn a_byte_that_is_wrong_is_found_and_nothing_of_it_is_kept() {
    let maker = rich();
    for digest in maker.blobs.keys() {
        let mut changed = rich();
        changed.blobs.get_mut(digest).expect("it is there")[0] ^= 1;
        let store = Store::new();
        let error = store.import(&tar(&changed.files())).expect_err("it is not what its name says");
        assert!(matches!(&error, ArchiveError::Mismatch { digest: found, .. } if found.to_string() == *digest), "{error}");
        assert_eq!(store.blobs(), 0);
    }
    let mut sized = rich();
    sized.entries[0] = sized.entries[0].replacen("\"size\":", "\"size\":1", 1);
    assert!(matches!(Store::new().import(&tar(&sized.files())), Err(ArchiveError::SizeDiffers { .. })));
}

#[test]
fn docker_archives_get_a_manifest_that_is_always_the_same() {
    let layers = [noise(1, 200_000), noise(2, 1000)];
    let entries = docker(&layers, r#"["app:1","app:latest"]"#);
    let store = Store::new();
    let first = store.import(&gzip(&tar(&entries))).expect("an archive");
    assert_eq!(first.roots[0].names, ["app:1", "app:latest"]);
    assert_eq!(first.roots[0].descriptor.media_type, media_type::DOCKER_MANIFEST);
    assert_eq!(first.roots[0].platform.as_ref().map(|platform| platform.os.as_str()), Some("linux"));
    assert_eq!(first.blobs.len(), 4);
    let mut reversed = entries.clone();
    reversed.reverse();
    assert_eq!(Store::new().import(&tar(&reversed)).expect("the same").roots, first.roots);
    // Compressed layers are known by what they unpack to.
    let packed = [gzip(&layers[0]), layers[1].clone()];
    let packed = Store::new().import(&tar(&docker(&packed, "null"))).expect("an archive");
    assert!(packed.roots[0].names.is_empty());
    let text = packed.blobs.iter().map(|blob| blob.media_type.as_str()).collect::<Vec<_>>();
    assert!(text.contains(&media_type::DOCKER_LAYER_GZIP), "{text:?}");
}

#[test]
fn a_docker_archive_that_contradicts_itself_is_refused() {
    let entries = docker(&[noise(1, 50_000)], "[]");
    let change = |at: usize, f: &dyn Fn(&mut Entry)| {
        let mut changed = entries.clone();
        f(&mut changed[at]);
        Store::new().import(&tar(&changed)).expect_err("it is refused")
    };
    assert!(matches!(change(0, &|entry| entry.1[0] ^= 1), ArchiveError::Mismatch { .. }));
    assert!(matches!(change(0, &|entry| entry.0.push('x')), ArchiveError::Missing { .. }));
    assert!(matches!(change(1, &|entry| entry.1.push(b' ')), ArchiveError::Mismatch { .. }));
    assert!(matches!(change(2, &|entry| entry.1.truncate(9)), ArchiveError::Malformed(_)));
    let outside = |entry: &mut (String, Vec<u8>)| {
        entry.1 = String::from_utf8(entry.1.clone()).expect("text").replace("0/layer.tar", "../../layer.tar").into_bytes();
    };
    assert!(matches!(change(2, &outside), ArchiveError::Refused { .. }));
}

/// One header as it may come, with a right sum.
pub(in crate::registry) fn raw_header(name: &str, kind: u8, size: &str, target: &str) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..124 + size.len()].copy_from_slice(size.as_bytes());
    header[156] = kind;
    header[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header[257..263].copy_from_slice(b"ustar\0");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[test]
fn layers_that_are_links_to_each_other_are_followed_within_the_archive_alone() {
    let layer = noise(1, 30_000);
    let entries = docker(&[layer.clone(), layer], "[]");
    let rest = tar(&[entries[0].clone(), entries[2].clone(), entries[3].clone()]);
    for (kind, target) in [(b'2', "../0/layer.tar"), (b'1', "0/layer.tar")] {
        let linked = [raw_header("1/layer.tar", kind, "0", target), rest.clone()].concat();
        assert_eq!(Store::new().import(&linked).expect("it is there").blobs.len(), 3);
    }
    let hostile = [
        (b'2', "../../etc/passwd", "out of the archive"),
        (b'2', "/etc/passwd", "out of the archive"),
        (b'1', "/etc/passwd", "out of the archive"),
        (b'2', "layer.tar", "from link to link"),
        (b'2', "../2/layer.tar", "missing"),
        (b'3', "", "device"),
        (b'4', "", "device"),
        (b'6', "", "pipe"),
        (b'S', "", "holes"),
        (b'Z', "", "kind"),
    ];
    for (kind, target, why) in hostile {
        let archive = [raw_header("1/layer.tar", kind, "0", target), rest.clone()].concat();
        let error = Store::new().import(&archive).expect_err("it is refused").to_string();
        assert!(error.contains(why), "{error}");
    }
    for name in ["/etc/passwd", "../x", "a/../../x"] {
        let error = Store::new().import(&[raw_header(name, b'0', "0", ""), rest.clone()].concat()).expect_err("refused");
        assert!(matches!(error, ArchiveError::Refused { .. }), "{error}");
    }
}

#[test]
fn long_names_and_large_sizes_are_read_as_both_standards_write_them() {
    let entries = docker(&[noise(1, 3000)], "[]");
    let long = "n".repeat(180);
    let rest = tar(&entries);
    let gnu_name = [raw_header("././@LongLink", b'L', "265", ""), {
        let mut b = vec![0; 512];
        b[..180].copy_from_slice(long.as_bytes());
        b
    }];
    let gnu = [gnu_name.concat(), raw_header("nn", b'0', "0", ""), rest.clone()].concat();
    Store::new().import(&gnu).expect("a long name");
    // The writer's own.
    let mut with_long = entries.clone();
    with_long.insert(0, (long, noise(1, 10)));
    Store::new().import(&tar(&with_long)).expect("a long name");
    // GNU's binary size.
    let mut header = raw_header("x", b'0', "0", "");
    header[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Store::new().import(&[header, vec![7; 512], rest.clone()].concat()).expect("five bytes");
    let pax = |records: &str| {
        let mut block = vec![0; records.len().next_multiple_of(512)];
        block[..records.len()].copy_from_slice(records.as_bytes());
        [
            raw_header("pax", b'x', &format!("{:o}", records.len()), ""),
            block,
            raw_header("x", b'0', "5", ""),
            vec![7; 512],
            rest.clone(),
        ]
        .concat()
    };
    Store::new().import(&pax("8 size=5")).expect_err("no newline");
    Store::new().import(&pax("9 size=5\n")).expect("five bytes");
    for bad in ["9 size=5\n9 size=5\n", "99 size=5\n", "9 size=x\n", "2 \n", "22 GNU.sparse.major=1\n", "0 \n", "9 size=-\n"] {
        Store::new().import(&pax(bad)).expect_err(bad);
    }
}

#[test]
fn what_is_too_much_is_given_up() {
    let plain = tar(&rich().files());
    let with = |limits| ImportOptions { limits, ..ImportOptions::default() };
    let few = with(Limits { entries: 3, ..Limits::default() });
    assert!(matches!(Store::new().import_with(&plain, &few), Err(ArchiveError::OverLimit(_))));
    let small = with(Limits { bytes: 100_000, ..Limits::default() });
    assert!(matches!(Store::new().import_with(&gzip(&plain), &small), Err(ArchiveError::OverLimit(_))));
    let huge = [raw_header("index.json", b'0', "77777777777", "")].concat();
    assert!(matches!(Store::new().import(&huge), Err(ArchiveError::OverLimit(_))));
    let long = [raw_header("x", b'L', "77777777777", "")].concat();
    assert!(matches!(Store::new().import(&long), Err(ArchiveError::OverLimit(_))));
    // A billion bytes that compress to nothing, of which nobody wants any.
    let mut bomb = raw_header("bomb", b'0', "7777777777", "");
    bomb.resize(300 << 20, 0);
    let store = Store::new();
    assert!(matches!(store.import(&zstd(&bomb)), Err(ArchiveError::OverLimit(_))));
    assert_eq!(store.blobs(), 0);
}

fn surveyed(bytes: &[u8]) -> Result<Surveyed, ArchiveError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("archive");
    fs::write(&path, bytes).expect("written");
    survey(Source::File(Arc::new(fs::File::open(path).expect("it is there"))), Limits::default())
}

#[test]
fn what_is_listed_lies_where_it_is_said_to() {
    let docker = tar(&docker(&[noise(1, 300_000), noise(2, 1000)], r#"["app:1"]"#));
    let layout = tar(&rich().files());
    for plain in [docker, layout] {
        let imported = Store::new().import(&plain).expect("good");
        for packed in [plain.clone(), gzip(&plain), zstd(&plain)] {
            let listed = surveyed(&packed).expect("good");
            assert_eq!(listed.roots, imported.roots);
            assert_eq!(listed.compressed, packed != plain);
            assert_eq!(listed.blobs.len(), imported.blobs.len());
            for (blob, lies) in &listed.blobs {
                assert!(imported.blobs.contains(blob));
                let bytes = match lies {
                    Lies::At(at) => &plain[*at as usize..][..blob.blob.size as usize],
                    Lies::Here(bytes) => bytes,
                    Lies::In(_) => panic!("it is an archive"),
                };
                assert_eq!(Sha256::digest(bytes)[..], blob.blob.sha256.as_bytes()[..]);
            }
        }
    }
}

#[test]
fn what_is_no_archive_is_told_so() {
    for bytes in [&b""[..], b"PK\x03\x04", b"BZh91", b"\xfd7zXZ\0", &[0; 2048], &tar(&[("a".to_owned(), Vec::new())])] {
        assert!(matches!(Store::new().import(bytes), Err(ArchiveError::Unrecognised(_))), "{bytes:?}");
    }
    let store = Store::new();
    let directory = store.dir.path().join("empty");
    fs::create_dir(&directory).expect("made");
    assert!(matches!(store.import_path(&directory), Err(ArchiveError::Unrecognised(_))));
    assert!(matches!(store.import_path(Path::new("/dev/null")), Err(ArchiveError::Unrecognised(_))));
    assert!(matches!(store.import_path(&directory.join("x")), Err(ArchiveError::Unreadable { .. })));
}

#[test]
fn what_is_written_is_read_again_and_is_always_the_same() {
    let store = Store::new();
    let imported = store.import(&tar(&rich().files())).expect("a layout");
    let archive = store.export(&imported, Format::OciArchive).expect("written");
    assert_eq!(archive, store.export(&imported, Format::OciArchive).expect("written"));
    let again = Store::new().import(&archive).expect("read again");
    assert_eq!(again.roots, imported.roots);
    assert_eq!(again.blobs.len(), imported.blobs.len());
    let paths = tempfile::tempdir().expect("a directory");
    let (layout, file) = (paths.path().join("layout"), paths.path().join("image.tar"));
    for _ in 0..2 {
        // The second time it is added to, and nothing is new.
        store.export_path(&imported, Format::OciLayout, &layout).expect("written");
        assert_eq!(Store::new().import_path(&layout).expect("read again").roots, imported.roots);
    }
    store.export_path(&imported, Format::OciArchive, &file).expect("written");
    assert_eq!(fs::read(&file).expect("it is there"), archive);
    let error = store.export_path(&imported, Format::OciArchive, &file).expect_err("it is somebody's");
    assert!(matches!(error, ArchiveError::Write { .. }), "{error}");
    let left: Vec<_> = fs::read_dir(paths.path()).expect("listed").map(|entry| entry.expect("one").file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_layout_is_added_to_and_a_name_moves_to_what_got_it_last() {
    let store = Store::new();
    let of = |seed, name: &str| {
        let mut maker = LayoutMaker::default();
        let image = maker.image("amd64", seed);
        maker.name(&image, name);
        store.import(&tar(&maker.files())).expect("a layout")
    };
    let paths = tempfile::tempdir().expect("a directory");
    let layout = paths.path().join("layout");
    for imported in [of(1, "a"), of(5, "b"), of(9, "a")] {
        store.export_path(&imported, Format::OciLayout, &layout).expect("written");
    }
    let read = Store::new().import_path(&layout).expect("a layout");
    let digests: BTreeMap<_, _> = read.roots.iter().map(|root| (root.names.join(" "), root.descriptor.digest)).collect();
    let expected = [of(9, "a"), of(5, "b")].map(|it| (it.roots[0].names[0].clone(), it.roots[0].descriptor.digest));
    assert_eq!(digests, BTreeMap::from(expected));
}

#[test]
fn a_docker_archive_has_images_of_one_platform_with_their_layers_unpacked() {
    let store = Store::new();
    let mut maker = LayoutMaker::default();
    let image = maker.image("amd64", 1);
    maker.name(&image, "app:1");
    let imported = store.import(&tar(&maker.files())).expect("a layout");
    let archive = store.export(&imported, Format::DockerArchive).expect("written");
    let read = Store::new().import(&archive).expect("read again");
    assert_eq!(read.roots[0].names, ["app:1"]);
    let config = |imported: &Imported| {
        let config =
            imported.blobs.iter().find(|blob| blob.media_type.contains("config") || blob.media_type.contains("container.image"));
        config.expect("it has one").digest
    };
    assert_eq!(config(&read), config(&imported), "an image's id is the digest of its configuration");
    let read_store = Store::new();
    let read = read_store.import(&archive).expect("read again");
    assert_eq!(read_store.export(&read, Format::DockerArchive).expect("written"), archive);
    let many = store.import(&tar(&rich().files())).expect("a layout");
    assert!(matches!(store.export(&many, Format::DockerArchive), Err(ArchiveError::NotExpressible(_))));
    let lookup = |_: &Digest| None;
    let error = export_to(&store.content, &lookup, &images(&imported), Format::OciArchive, Vec::new());
    assert!(matches!(error, Err(ArchiveError::Missing { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn an_archive_with_changed_bytes_is_refused_or_the_same(
        is_docker in any::<bool>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<prop::sample::Index>(), cuts in any::<bool>(),
    ) {
        let mut small = LayoutMaker::default();
        let config = small.blob(media_type::OCI_CONFIG, b"{}");
        let image = small.blob(media_type::OCI_MANIFEST, format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#).as_bytes());
        small.name(&image, "a");
        let good = if is_docker { tar(&docker(&[noise(1, 700)], "[\"a:1\"]")) } else { tar(&small.files()) };
        let mut bad = good.clone();
        for (at, value) in changes {
            let at = at.index(bad.len());
            bad[at] = value;
        }
        if cuts {
            bad.truncate(cut.index(bad.len()));
        }
        let store = Store::new();
        let imported = store.import(&bad);
        // What is listed where it lies is what would be taken in.
        match (&imported, surveyed(&bad)) {
            (Ok(imported), Ok(listed)) => {
                prop_assert_eq!(&listed.roots, &imported.roots);
                let blobs: Vec<_> = listed.blobs.iter().map(|(blob, _)| blob.clone()).collect();
                prop_assert_eq!(&blobs, &imported.blobs);
            }
            (Err(_), Err(_)) => {}
            (imported, listed) => prop_assert!(false, "{:?} and {:?}", imported, listed),
        }
        match imported {
            // What is in it is bound to digests, but for the names and the media types beside them.
            Ok(imported) => {
                let whole = Store::new().import(&good).expect("good");
                let digests = |imported: &Imported| imported.blobs.iter().map(|blob| blob.blob.sha256).collect::<std::collections::BTreeSet<_>>();
                prop_assert!(digests(&imported).is_subset(&digests(&whole)));
            }
            Err(_) => prop_assert_eq!(store.blobs(), 0),
        }
    }
}
