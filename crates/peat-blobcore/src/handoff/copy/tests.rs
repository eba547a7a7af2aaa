use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::ErrorKind;
use crate::handoff::image::tests::{Fixture, fixture, gzip, image, push};
use crate::handoff::tests::{directory, file, sha256};
use crate::handoff::varlink::{Client, ClientOptions, RemoteStore, Service, ServiceOptions, WhichRepository};
use crate::oci::{Manifest, Reference, Repository, media_type};
use crate::registry::Registry;

fn name(text: &str) -> ImageReference {
    text.parse().expect("a name")
}

/// Two layers, one of which is large, and a signature.
fn filled() -> (Fixture, Digest) {
    let fixture = fixture();
    let layers = [gzip(&[1; 50_000]), (0..300_000_u32).flat_map(u32::to_le_bytes).collect()];
    let digest = image(&fixture.registry, &fixture.repository, &layers, &[sha256(&[1; 50_000]), sha256(&layers[1])]);
    let empty = push(&fixture.registry, &fixture.repository, b"{}");
    let about = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"a/signature","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{empty}","size":2}},"layers":[],"subject":{{"mediaType":"{0}","digest":"{digest}","size":{}}}}}"#,
        media_type::OCI_MANIFEST,
        fixture.registry.manifest(&fixture.repository, &digest).expect("readable").expect("there").bytes.len()
    );
    let reference = Reference::Digest(sha256(about.as_bytes()));
    fixture.registry.put_manifest(&fixture.repository, &reference, None, about.as_bytes()).expect("put");
    (fixture, digest)
}

fn store(fixture: &Fixture) -> RegistryStore {
    RegistryStore::new(fixture.registry.clone())
}

fn run(
    from: &mut dyn ImageStore,
    to: &mut dyn ImageStore,
    image: &str,
    as_: &str,
    options: CopyOptions,
) -> Result<Copied, CopyError> {
    copy(from, to, (&name(image), &name(as_)), options, &mut |_, _| ())
}

/// The bytes of everything that belongs to an image and what is about it.
fn all(registry: &Registry, repository: &str, digest: &Digest) -> BTreeSet<Vec<u8>> {
    let repository: Repository = repository.parse().expect("a name");
    let mut roots = vec![*digest];
    roots.extend(registry.referrers(&repository, digest, None, None, 10).expect("readable").items.iter().map(|it| it.digest));
    let mut bytes = BTreeSet::new();
    for root in roots {
        let (_, parts) = registry.package(&repository, &root).expect("whole");
        bytes.extend(parts.iter().map(|part| registry.content().read_blob(&part.hash, part.size).expect("readable")));
    }
    bytes
}

fn total(copied: &Copied) -> u64 {
    copied.parts.values().map(|count| count.parts).sum()
}

#[test]
fn an_image_and_what_is_about_it_are_the_same_in_another_store_and_come_once() {
    let ((a, digest), b) = (filled(), fixture());
    let options = CopyOptions::default();
    let copied = run(&mut store(&a), &mut store(&b), "team/app:v1", "other/app:2", options).expect("copied");
    // Two manifests, two configurations, two layers.
    assert_eq!((copied.digest, total(&copied), copied.count(Came::Present).parts), (digest, 6, 0));
    assert_eq!(all(&b.registry, "other/app", &digest), all(&a.registry, "team/app", &digest));
    let tag = b.registry.tag(&"other/app".parse().expect("a name"), &"2".parse().expect("a tag")).expect("readable");
    assert_eq!(tag.map(|named| named.digest), Some(digest));
    let again = run(&mut store(&a), &mut store(&b), "team/app:v1", "other/app:2", options).expect("copied");
    assert_eq!((again.count(Came::Present).parts, total(&again)), (6, 6));
    // Into another repository of the same store: the blobs are there, the manifests are not its yet.
    let mounted = run(&mut store(&a), &mut store(&b), "team/app:v1", "third/app:2", options).expect("copied");
    assert_eq!((mounted.count(Came::Present).parts, total(&mounted)), (4, 6));
}

#[test]
fn through_a_layout_it_stays_the_same_and_a_name_points_to_one_image() {
    let ((a, digest), b, dir) = (filled(), fixture(), directory());
    let path = dir.path().join("layout");
    let options = CopyOptions::default();
    for _ in 0..2 {
        let mut layout = LayoutStore::create(&path).expect("a layout");
        run(&mut store(&a), &mut layout, "team/app:v1", "team/app:v1", options).expect("copied");
    }
    let index = Manifest::parse(&fs::read(path.join("index.json")).expect("there"), None).expect("an index");
    assert_eq!(index.manifests.len(), 2, "the image and its signature, however often");
    run(&mut LayoutStore::open(&path).expect("a layout"), &mut store(&b), "team/app:v1", "team/app:v1", options).expect("copied");
    let found = LayoutStore::open(&path).expect("a layout").find(&name("any/name:v1"));
    assert!(matches!(found, Err(CopyError::NoImage(_))), "the tag is another's: {found:?}");
    // Another image of the same tag, and one without: all stay.
    run(&mut store(&a), &mut LayoutStore::create(&path).expect("a layout"), "team/app:v1", "other/app:v1", options)
        .expect("copied");
    let by_digest = format!("team/app@{digest}");
    run(&mut store(&a), &mut LayoutStore::create(&path).expect("a layout"), &by_digest, &by_digest, options).expect("copied");
    for name in ["team/app:v1", "other/app:v1", &by_digest] {
        run(&mut LayoutStore::open(&path).expect("a layout"), &mut store(&b), name, "team/app:v1", options).expect(name);
    }
    assert_eq!(all(&b.registry, "team/app", &digest), all(&a.registry, "team/app", &digest));
    let error =
        run(&mut LayoutStore::open(&path).expect("a layout"), &mut store(&b), "team/app:v2", "a:1", options).expect_err("no");
    assert!(matches!(error, CopyError::NoImage(_)) && error.kind() == ErrorKind::NotFound, "{error}");
}

#[test]
fn nothing_is_copied_that_was_not_to_be() {
    let ((a, digest), b, dir) = (filled(), fixture(), directory());
    let only = CopyOptions { sharing: Sharing::Only, ..CopyOptions::default() };
    // All are beneath one directory of this machine: the file system shares extents, or one more name does.
    let copied = run(&mut store(&a), &mut store(&b), "team/app:v1", "team/app:v1", only).expect("shared");
    let shared = [Shared::Reflinked, Shared::HardLinked].map(|by| copied.count(Came::By(by)).bytes);
    assert_eq!(shared.iter().sum::<u64>(), 1_200_000, "{copied:?}");
    assert_eq!(all(&b.registry, "team/app", &digest), all(&a.registry, "team/app", &digest));
    let path = dir.path().join("layout");
    run(&mut store(&a), &mut LayoutStore::create(&path).expect("made"), "team/app:v1", "team/app:v1", only).expect("shared");

    // Between file systems nothing is shared, so nothing comes, and nothing has a name.
    let device = |path: &Path| fs::metadata(path).expect("there").dev();
    let elsewhere = ["/dev/shm", "/tmp", "/var/tmp", env!("CARGO_MANIFEST_DIR")].into_iter().find_map(|place| {
        let made = tempfile::tempdir_in(place).ok()?;
        (device(made.path()) != device(a._dir.path())).then_some(made)
    });
    let elsewhere = elsewhere.expect("there are two file systems");
    let path = elsewhere.path().join("layout");
    let mut layout = LayoutStore::create(&path).expect("made");
    let error = run(&mut store(&a), &mut layout, "team/app:v1", "team/app:v1", only).expect_err("it would be a copy");
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("different file systems"), "{error}");
    assert!(error.to_string().starts_with("sha256:"), "it says what: {error}");
    assert!(LayoutStore::open(&path).expect("a layout").find(&name("team/app:v1")).is_err());
    let copied = run(&mut store(&a), &mut layout, "team/app:v1", "team/app:v1", CopyOptions::default()).expect("copied");
    assert_eq!(copied.count(Came::By(Shared::Copied)).parts + copied.count(Came::Present).parts, 6);
}

#[test]
fn what_is_not_what_it_is_called_is_not_taken_and_nothing_is_left() {
    let ((a, digest), b, dir) = (filled(), fixture(), directory());
    let path = dir.path().join("layout");
    let options = CopyOptions::default();
    run(&mut store(&a), &mut LayoutStore::create(&path).expect("made"), "team/app:v1", "team/app:v1", options).expect("copied");
    let (_, parts) = a.registry.package(&a.repository, &digest).expect("whole");
    let large = parts.iter().max_by_key(|part| part.size).expect("some");
    let file = path.join("blobs/sha256").join(large.digest.hex());
    let mut bytes = fs::read(&file).expect("there");
    bytes[70_000] ^= 1;
    // Another file: the old one may be shared with the store.
    fs::remove_file(&file).expect("removed");
    fs::write(&file, &bytes).expect("written");
    let target = dir.path().join("target");
    let layout = || LayoutStore::open(&path).expect("a layout");
    for to in [&mut store(&b) as &mut dyn ImageStore, &mut LayoutStore::create(&target).expect("made")] {
        let error = run(&mut layout(), to, "team/app:v1", "team/app:v1", options).expect_err("it is damaged");
        assert!(matches!(error, CopyError::Mismatch(_)) && error.kind() == ErrorKind::Integrity, "{error}");
        assert!(to.find(&name("team/app:v1")).is_err());
    }
    let left = |path: &Path| fs::read_dir(path).expect("there").map(|it| it.expect("there").file_name()).collect::<Vec<_>>();
    assert!(!left(&target.join("blobs/sha256")).iter().any(|name| name.to_string_lossy().starts_with('.')), "no part is left");
    fs::remove_file(&file).expect("removed");
    let error = run(&mut layout(), &mut store(&b), "team/app:v1", "team/app:v1", options).expect_err("it is not there");
    assert!(matches!(error, CopyError::Missing(_)), "{error}");
    // What a killed copy left of it is no hindrance.
    fs::write(target.join("blobs/sha256").join(format!(".{}.part", large.digest.hex())), b"half").expect("written");
    run(&mut store(&a), &mut LayoutStore::create(&target).expect("made"), "team/app:v1", "team/app:v1", options).expect("copied");
}

#[test]
fn digests_of_another_function_name_the_same_bytes() {
    let ((a, digest), b, c) = (filled(), fixture(), fixture());
    let by = |algorithm| CopyOptions { algorithm: Some(algorithm), ..CopyOptions::default() };
    let to512 = run(&mut store(&a), &mut store(&b), "team/app:v1", "team/app:v1", by(Algorithm::Sha512)).expect("copied");
    assert_eq!((to512.digest.algorithm(), total(&to512)), (Algorithm::Sha512, 6));
    let (manifest, _) = b.registry.package(&b.repository, &to512.digest).expect("whole");
    assert!(manifest.references().all(|part| part.digest.algorithm() == Algorithm::Sha512), "{manifest:?}");
    let about = b.registry.referrers(&b.repository, &to512.digest, None, None, 10).expect("readable").items;
    assert_eq!(about.len(), 1, "what is about it is about it still");
    // What is damaged is not called right by another function.
    let dir = directory();
    run(
        &mut store(&a),
        &mut LayoutStore::create(dir.path()).expect("made"),
        "team/app:v1",
        "team/app:v1",
        CopyOptions::default(),
    )
    .expect("copied");
    let (_, parts) = a.registry.package(&a.repository, &digest).expect("whole");
    let large = parts.iter().max_by_key(|part| part.size).expect("some");
    let file = dir.path().join("blobs/sha256").join(large.digest.hex());
    let mut bytes = fs::read(&file).expect("there");
    bytes[70_000] ^= 1;
    fs::remove_file(&file).expect("removed");
    fs::write(&file, &bytes).expect("written");
    let mut layout = LayoutStore::open(dir.path()).expect("a layout");
    let error = run(&mut layout, &mut store(&c), "team/app:v1", "team/app:v1", by(Algorithm::Sha512)).expect_err("it is damaged");
    assert!(matches!(error, CopyError::Mismatch(_)), "{error}");
    // Nor is it taken for there by who has it under that name.
    let mut layout = LayoutStore::create(dir.path()).expect("a layout");
    let again = run(&mut store(&a), &mut layout, "team/app:v1", "team/app:v1", CopyOptions::default()).expect("mended");
    assert_eq!(again.parts.values().map(|count| count.parts).sum::<u64>() - again.count(Came::Present).parts, 1);
    assert_ne!(fs::read(&file).expect("there"), bytes);
    // What is by the function already stays as it is, byte for byte.
    let same = run(&mut store(&a), &mut store(&c), "team/app:v1", "team/app:v1", by(Algorithm::Sha256)).expect("copied");
    assert_eq!(same.digest, digest);
    let layers = |registry: &Registry, digest: &Digest| {
        let (manifest, _) = registry.package(&a.repository, digest).expect("whole");
        let hash = |part: &Descriptor| registry.blob(&a.repository, &part.digest).expect("readable").expect("there").hash;
        manifest.layers.iter().map(hash).collect::<Vec<_>>()
    };
    assert_eq!(layers(&b.registry, &to512.digest), layers(&a.registry, &digest));
}

#[test]
fn a_layout_is_written_to_by_one_and_what_is_none_is_said_to_be_none() {
    let dir = directory();
    let held = LayoutStore::create(&dir.path().join("layout")).expect("made");
    assert!(matches!(LayoutStore::create(&dir.path().join("layout")), Err(CopyError::InUse(_))));
    drop(held);
    LayoutStore::create(&dir.path().join("layout")).expect("free again");
    fs::create_dir(dir.path().join("other")).expect("made");
    fs::write(dir.path().join("other/file"), b"mine").expect("written");
    for path in ["other", "none"] {
        assert!(matches!(LayoutStore::open(&dir.path().join(path)), Err(CopyError::NotALayout { .. })), "{path}");
    }
    assert!(matches!(LayoutStore::create(&dir.path().join("other")), Err(CopyError::NotALayout { .. })));
    assert_eq!(fs::read(dir.path().join("other/file")).expect("there"), b"mine");
}

/// The registry of a fixture as another process has it.
struct Served {
    service: Service,
    store: RemoteStore,
}

impl Served {
    fn of(fixture: &Fixture) -> Self {
        let service = serve(fixture);
        let store = RemoteStore::open(client(&service)).expect("it has blobs");
        Self { service, store }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        assert!(self.service.stop(Duration::from_secs(30)), "a thread is left");
    }
}

fn serve(fixture: &Fixture) -> Service {
    let options = ServiceOptions::new(fixture._dir.path());
    Service::new(fixture.registry.clone(), fixture.cache.clone(), options).expect("descriptors")
}

fn client(service: &Service) -> Client {
    let (here, there) = UnixStream::pair().expect("a pair");
    service.serve(there).expect("let in");
    Client::over(here, ClientOptions::default())
}

#[test]
fn an_image_goes_from_process_to_process_as_it_is() {
    let ((a, digest), b, dir) = (filled(), fixture(), directory());
    let only = CopyOptions { sharing: Sharing::Only, ..CopyOptions::default() };
    let (mut from, mut to) = (Served::of(&a), Served::of(&b));
    let copied = run(&mut from.store, &mut to.store, "team/app:v1", "other/app:2", only).expect("shared");
    assert_eq!((copied.digest, total(&copied)), (digest, 6));
    assert!(copied.count(Came::By(Shared::Copied)).bytes < 16 * 1024, "{copied:?}");
    assert_eq!(all(&b.registry, "other/app", &digest), all(&a.registry, "team/app", &digest));
    let again = run(&mut from.store, &mut to.store, "team/app:v1", "other/app:2", only).expect("there");
    assert_eq!(again.count(Came::Present).parts, 6);
    // Into a layout and back.
    let path = dir.path().join("layout");
    run(&mut to.store, &mut LayoutStore::create(&path).expect("made"), "other/app:2", "other/app:2", only).expect("shared");
    run(&mut LayoutStore::open(&path).expect("made"), &mut to.store, "other/app:2", "third/app:2", only).expect("shared");
    let error = run(&mut from.store, &mut to.store, "team/none:1", "other/app:2", only).expect_err("there is none");
    assert!(matches!(error, CopyError::NoImage(_)), "{error}");
}

#[test]
fn what_is_given_for_a_blob_and_is_none_is_refused_and_the_connection_goes_on() {
    let (b, dir) = (fixture(), directory());
    let mut to = Served::of(&b);
    let repository: Repository = "team/app".parse().expect("a name");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), [7; 40_000]).expect("written");
    let part = Descriptor::new(media_type::OCI_LAYER, sha256(&[7; 40_000]), 40_000);
    rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::from_raw_mode(0o600)).expect("a pipe");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let open = |name: &str| File::from(rustix::fs::open(path(name), flags, rustix::fs::Mode::empty()).expect("it opens"));
    let other = Descriptor { digest: sha256(b"other"), ..part.clone() };
    let longer = Descriptor { size: 40_001, ..part.clone() };
    let null = || File::open("/dev/null").expect("it opens");
    let bad: [(File, &Descriptor); 6] = [
        (open("pipe"), &part),
        (null(), &part),
        (File::open(dir.path()).expect("it opens"), &part),
        (open("file"), &longer),
        (open("file"), &other),
        // It may be written to, and not be read.
        (File::options().write(true).open(path("file")).expect("it opens"), &part),
    ];
    for (file, part) in bad {
        let put = to.store.put(&repository, part, Opened::File(file, None), Sharing::WherePossible);
        assert!(matches!(put, Err(CopyError::Varlink(_) | CopyError::Mismatch(_))), "{put:?}");
        assert!(!to.store.has(&repository, part).expect("it goes on"));
    }
    to.store.put(&repository, &part, Opened::File(open("file"), None), Sharing::WherePossible).expect("it is one");
    assert!(to.store.has(&repository, &part).expect("it goes on"));
}

#[test]
fn layers_are_relayed_between_services_and_come_once() {
    let ((a, _), b) = (filled(), fixture());
    // Layers that are archives, plain, so that the image can be the same.
    let layers: Vec<_> = [1, 2].map(|byte| [file("own", &[byte; 30_000]), vec![0; 1024]].concat()).into();
    let ids: Vec<_> = layers.iter().map(|layer| sha256(layer)).collect();
    let digest = image(&a.registry, &"team/plain".parse().expect("a name"), &layers, &ids);
    let (from, to) = (serve(&a), serve(&b));
    let open = |service: &Service| LayerStore::open(client(service), &WhichRepository::Only).expect("one");
    let mut told = 0;
    let mut go = |name: &str| relay(&mut open(&from), &mut open(&to), ("team/plain:v1", name), false, &mut |_| told += 1);
    let relayed = go("other/plain:1").expect("relayed");
    assert_eq!((relayed.layers_present, relayed.reflinked + relayed.hard_linked + relayed.copied + relayed.present), (0, 2));
    let again = go("other/plain:2").expect("relayed");
    assert_eq!((again.layers_present, again.digest), (2, relayed.digest));
    assert_eq!(told, 4);
    let bytes = |registry: &Registry, name: &str, digest: &Digest| {
        let (manifest, _) = registry.package(&name.parse().expect("a name"), digest).expect("whole");
        manifest.layers.iter().map(|part| part.digest).collect::<Vec<_>>()
    };
    assert_eq!(bytes(&b.registry, "other/plain", &relayed.digest), bytes(&a.registry, "team/plain", &digest));
    for service in [from, to] {
        assert!(service.stop(Duration::from_secs(30)), "a thread is left");
    }
}
