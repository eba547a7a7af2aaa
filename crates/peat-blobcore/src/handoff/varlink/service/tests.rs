//! Services and their clients, good and bad, over pairs of sockets.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::link::{Link, Room};
use super::super::message::{MAX_FRAME_DESCRIPTORS, encode_call, reply};
use super::super::wire::{self, LayerRef, Refusal};
use super::super::{Client, ClientOptions, OCI, REPOSITORY, SERVICE, STORE, VarlinkError, WhichRepository};
use super::{Service, ServiceOptions};
use crate::clock::SystemClock;
use crate::content::{Content, Options};
use crate::handoff::tests::{directory, file, sha256};
use crate::handoff::{CacheOptions, LayerCache, LayerSource};
use crate::oci::{Digest, Repository, media_type};
use crate::registry::Registry;

/// How long is waited for what must happen.
const DEADLINE: Duration = Duration::from_secs(60);

struct Node {
    dir: tempfile::TempDir,
    registry: Registry,
    service: Service,
}

impl Drop for Node {
    fn drop(&mut self) {
        assert!(self.service.stop(DEADLINE) || std::thread::panicking(), "every thread ends");
    }
}

fn node(change: impl FnOnce(&mut ServiceOptions)) -> Node {
    let (dir, clock) = (directory(), Arc::new(SystemClock));
    let content =
        Content::open(&dir.path().join("content"), Options { quota: None, reserve: 0 }, clock.clone()).expect("a store");
    let registry = Registry::open(&dir.path().join("catalog"), content, clock.clone()).expect("a registry");
    let options = CacheOptions { reserve: 0, ..CacheOptions::default() };
    let cache = LayerCache::open(&dir.path().join("layers"), options, clock).expect("a cache");
    let mut options = ServiceOptions { patience: DEADLINE, ..ServiceOptions::new(dir.path()) };
    change(&mut options);
    let service = Service::new(registry.clone(), cache, options).expect("a service");
    Node { dir, registry, service }
}

impl Node {
    fn socket(&self) -> UnixStream {
        let (here, there) = UnixStream::pair().expect("sockets");
        self.service.serve(there).expect("served");
        here
    }

    fn client(&self) -> (Client, u64) {
        let mut client = Client::over(self.socket(), ClientOptions { patience: DEADLINE, answer: DEADLINE });
        let handle = client.open_repository(&WhichRepository::Only).expect("opened").handle;
        (client, handle)
    }

    fn push(&self, repository: &str, bytes: &[u8]) -> Digest {
        let repository: Repository = repository.parse().expect("a name");
        let (id, digest) = (self.registry.begin_upload(&repository).expect("begun"), sha256(bytes));
        self.registry.append_upload(&repository, &id, 0, bytes).expect("appended");
        self.registry.finish_upload(&repository, &id, &digest).expect("finished");
        digest
    }

    /// Puts an image of plain layers and of layers in gzip.
    fn image(&self, repository: &str, plain: &[&[u8]], packed: &[&[u8]]) -> Digest {
        let part = |kind: &str, bytes: &[u8]| {
            let digest = self.push(repository, bytes);
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{}}}"#, bytes.len())
        };
        let ids: Vec<_> = plain.iter().chain(packed).map(|tar| format!("\"{}\"", sha256(tar))).collect();
        let config =
            format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, ids.join(","));
        let mut layers: Vec<_> = plain.iter().map(|tar| part(media_type::OCI_LAYER, tar)).collect();
        layers.extend(packed.iter().map(|tar| part(media_type::OCI_LAYER_GZIP, &gzip(tar))));
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            media_type::OCI_MANIFEST,
            part(media_type::OCI_CONFIG, config.as_bytes()),
            layers.join(",")
        );
        let repository = repository.parse().expect("a name");
        let tag = "v1".parse().expect("a tag");
        self.registry.put_manifest(&repository, &tag, None, manifest.as_bytes()).expect("put");
        sha256(manifest.as_bytes())
    }

    fn blob(&self, repository: &str, digest: &Digest) -> Vec<u8> {
        let reader = self.registry.open_blob(&repository.parse().expect("a name"), digest).expect("it is here");
        reader.read_first(u64::MAX).expect("read")
    }
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    io::copy(&mut flate2::read::GzEncoder::new(plain, flate2::Compression::fast()), &mut packed).expect("memory");
    packed
}

fn tar(seed: u8) -> Vec<u8> {
    let large: Vec<u8> = (0..2_500_000_u32).map(|at| (at * 31 / 7) as u8 ^ seed).collect();
    [file("small", &[seed; 10]), file("large", &large), file("block", &[seed; 4096]), file("shared", &[9; 9000]), vec![0; 1024]]
        .concat()
}

/// Copies an image as two services allow for, and says what became of it.
fn copy(from: &Node, to: &Node, image: &str, name: &str) -> (wire::FinalizedImage, u64) {
    let ((mut source, here), (mut target, there)) = (from.client(), to.client());
    let inspected = source.inspect(here, image).expect("it is there");
    let (mut layers, mut moved) = (Vec::new(), 0);
    for diff_id in crate::oci::diff_ids(inspected.config.as_bytes()).expect("a configuration") {
        let layer_verity = match target.has_layer(there, &diff_id).expect("asked") {
            Some(verity) => verity,
            None => {
                let layer = source.get_layer(here, &diff_id).expect("given");
                moved += 1;
                target.relay_layer(there, &diff_id, false, layer).expect("taken").layer_verity
            }
        };
        layers.push(LayerRef { diff_id: diff_id.to_string(), layer_verity });
    }
    (target.finalize_image(there, &inspected.manifest, &inspected.config, &layers, Some(name)).expect("an image"), moved)
}

#[test]
fn an_image_of_plain_layers_is_copied_byte_for_byte_and_one_that_was_packed_is_named_anew() {
    let (alpha, bravo) = (node(|_| {}), node(|_| {}));
    let tars = [tar(1), tar(2), tar(3)];
    let plain = alpha.image("plain", &[&tars[0], &tars[1]], &[]);
    let packed = alpha.image("packed", &[&tars[0]], &[&tars[2]]);
    let (copied, moved) = copy(&alpha, &bravo, "plain:v1", "team/plain:v2");
    assert_eq!((copied.manifest_digest, moved), (plain.to_string(), 2));
    let (copied, moved) = copy(&alpha, &bravo, &format!("@{packed}"), "packed:v1");
    assert_eq!(moved, 1, "one was there");
    assert_ne!(copied.manifest_digest, packed.to_string());
    for tar in &tars {
        let repository = if sha256(tar) == sha256(&tars[1]) { "team/plain" } else { "packed" };
        assert!(bravo.blob(repository, &sha256(tar)) == *tar);
    }
    // What was packed is here on the way back: the other form of the same layers is of another image all the same.
    let (again, moved) = copy(&bravo, &alpha, "packed:v1", "packed:v2");
    assert_eq!((again.manifest_digest, moved), (copied.manifest_digest.clone(), 0));
    // The same once more changes nothing.
    let (same, moved) = copy(&alpha, &bravo, "packed:v2", "packed:v1");
    assert_eq!((same.manifest_digest, moved), (copied.manifest_digest, 0));
    let (mut client, handle) = bravo.client();
    let mut names: Vec<_> = client.list_images(handle, None).expect("listed").into_iter().map(|image| image.name).collect();
    names.sort();
    assert_eq!(names, ["packed:v1", "team/plain:v2"]);
    let checked = client.check(handle, None).expect("checked");
    assert!(checked.ok && checked.images_checked == 2 && checked.repo.objects_checked >= 6, "{checked:?}");
}

#[test]
fn layers_come_with_dummies_about_in_any_number_of_replies() {
    let alpha = node(|_| {});
    let tars = [tar(1), tar(2)];
    alpha.image("a", &[&tars[0]], &[&tars[1]]);
    let (mut client, handle) = alpha.client();
    let mut slots = std::collections::BTreeSet::new();
    for round in 0..40 {
        let tar = &tars[round % 2];
        let layer = client.get_layer(handle, &sha256(tar)).expect("given");
        slots.insert(layer.slots());
        let mut out = Vec::new();
        layer.open().expect("a pipe").reader(1 << 30).copy_to(&sha256(tar), &mut out).expect("whole");
        assert!(out == *tar);
    }
    assert!(slots.len() > 2, "{slots:?}");
}

#[test]
fn what_goes_with_no_one_reply_is_not_given_in_one() {
    let alpha = node(|options| options.slots = 250);
    let tar = tar(1);
    alpha.image("a", &[&tar], &[]);
    let mut link = Link::new(Arc::new(alpha.socket()), DEADLINE, None, Room::new(0));
    let mut call = |interface: &str, method: &str, parameters: serde_json::Value| {
        link.send(&encode_call(&format!("{interface}.{method}"), false, &parameters).expect("short"), &[]).expect("sent");
        link.receive(Some(DEADLINE)).expect("received").expect("an answer")
    };
    call(REPOSITORY, "OpenRepository", serde_json::json!({}));
    let (mut given, mut refused) = (false, false);
    let asked = serde_json::json!({ "handle": 1, "params": { "diff_id": sha256(&tar).to_string() } });
    while !(given && refused) {
        let got = call(OCI, "GetLayer", asked.clone());
        match reply::<wire::Slots>(&got.bytes).expect("a reply") {
            Ok((slots, continues)) => {
                assert!(!continues && got.descriptors.len() > slots.dir_count as usize + 1);
                given = true;
            }
            Err(Refusal::FdLimitExceeded { fd_count, max_per_frame }) => {
                assert!(fd_count > max_per_frame && max_per_frame == MAX_FRAME_DESCRIPTORS as u64 && got.descriptors.is_empty());
                refused = true;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_layer_that_is_another_one_or_cannot_be_had_as_wanted_is_refused_and_nothing_stays() {
    let (alpha, bravo) = (node(|_| {}), node(|_| {}));
    let tar = tar(1);
    alpha.image("a", &[&tar], &[]);
    let ((mut source, here), (mut target, there)) = (alpha.client(), bravo.client());
    let other = sha256(b"other");
    let layer = source.get_layer(here, &sha256(&tar)).expect("given");
    let refused = target.relay_layer(there, &other, false, layer).expect_err("another");
    let VarlinkError::Refused(Refusal::DiffIdMismatch { expected, actual }) = refused else { panic!("{refused}") };
    assert_eq!((expected, actual), (other.to_string(), sha256(&tar).to_string()));
    assert_eq!(target.has_layer(there, &other).expect("asked"), None);
    // These files are in memory, which shares no blocks.
    let layer = source.get_layer(here, &sha256(&tar)).expect("given");
    match target.relay_layer(there, &sha256(&tar), true, layer) {
        Ok(report) => assert_eq!(report.objects_copied, 0),
        Err(VarlinkError::Refused(Refusal::InvalidRequest { message })) => {
            assert!(message.contains("cannot be shared"), "{message}")
        }
        Err(other) => panic!("{other}"),
    }
    let layer = source.get_layer(here, &sha256(&tar)).expect("given");
    let first = target.relay_layer(there, &sha256(&tar), false, layer).expect("taken");
    let layer = source.get_layer(here, &sha256(&tar)).expect("given");
    let again = target.relay_layer(there, &sha256(&tar), true, layer).expect("read to its end, and there already");
    assert!(again.already_present && again.layer_verity == first.layer_verity);
    let none = source.get_layer(here, &other).expect_err("there is none");
    assert!(matches!(none, VarlinkError::Refused(Refusal::NoSuchLayer { .. })));
}

#[test]
fn a_layer_of_a_cache_is_put_and_its_image_named_and_unnamed() {
    let bravo = node(|_| {});
    let (dir, tar) = (directory(), tar(5));
    let cache = LayerCache::open(dir.path(), CacheOptions { reserve: 0, ..CacheOptions::default() }, Arc::new(SystemClock))
        .expect("a cache");
    let layer = cache.layer(&sha256(&tar), || Ok(LayerSource { tar: Box::new(&*tar), file: None })).expect("split");
    let (mut client, handle) = bravo.client();
    let put = client.put_split_layer(handle, &layer, false).expect("put");
    assert_eq!((put.already_present, put.objects_copied + put.objects_reflinked), (false, 3));
    let config = format!(r#"{{"rootfs":{{"diff_ids":["{}"]}}}}"#, sha256(&tar));
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
        media_type::OCI_CONFIG,
        sha256(config.as_bytes()),
        config.len(),
        media_type::OCI_LAYER,
        sha256(&tar),
        tar.len()
    );
    let layers = [LayerRef { diff_id: sha256(&tar).to_string(), layer_verity: put.layer_verity }];
    let refused = |result: Result<wire::FinalizedImage, VarlinkError>| {
        assert!(matches!(result, Err(VarlinkError::Refused(Refusal::InvalidRequest { .. }))), "{result:?}");
    };
    refused(client.finalize_image(handle, &manifest, "{}", &layers, Some("a:v1")));
    refused(client.finalize_image(handle, &manifest, &config, &[], Some("a:v1")));
    let wrong = [LayerRef { layer_verity: "00".repeat(32), ..layers[0].clone() }];
    refused(client.finalize_image(handle, &manifest, &config, &wrong, Some("a:v1")));
    refused(client.finalize_image(handle, "{}", &config, &layers, Some("a:v1")));
    refused(client.finalize_image(handle, &manifest, &config, &layers, Some("A:v1")));
    let made = client.finalize_image(handle, &manifest, &config, &layers, None).expect("an image without a name");
    let digest = sha256(manifest.as_bytes());
    assert_eq!(made.manifest_digest, digest.to_string());
    client.tag(handle, &digest, "team/a:v1").expect("named");
    assert_eq!(client.inspect(handle, "team/a:v1").expect("it is there").manifest, manifest);
    assert_eq!(client.list_images(handle, Some("team/")).expect("listed").len(), 1);
    client.untag(handle, "team/a:v1").expect("unnamed");
    assert!(client.list_images(handle, None).expect("listed").is_empty());
    for gone in [
        client.untag(handle, "team/a:v1"),
        client.inspect(handle, "team/a:v1").map(drop),
        client.tag(handle, &sha256(b""), "a:v1"),
    ] {
        assert!(matches!(gone, Err(VarlinkError::Refused(Refusal::NoSuchImage { .. }))), "{gone:?}");
    }
}

#[test]
fn a_service_says_what_it_is_and_has_one_repository() {
    let alpha = node(|_| {});
    let (mut client, handle) = alpha.client();
    assert_eq!(client.service().expect("told").interfaces, [SERVICE, REPOSITORY, OCI, STORE]);
    for interface in [SERVICE, REPOSITORY, OCI, STORE] {
        assert!(client.description(interface).expect("told").contains(&format!("interface {interface}\n")));
    }
    assert!(client.description("org.example").is_err());
    assert_eq!(client.features().expect("told"), [wire::FEATURE]);
    let path = |path: &std::path::Path| WhichRepository::Path(path.display().to_string());
    assert_eq!(client.open_repository(&path(alpha.dir.path())).expect("it").hash_algorithm.as_deref(), Some("blake3"));
    for other in [path("/".as_ref()), path("".as_ref()), WhichRepository::User, WhichRepository::System] {
        let refused = client.open_repository(&other).expect_err("there is none");
        assert!(matches!(refused, VarlinkError::Refused(Refusal::RepoNotFound { .. })), "{refused}");
    }
    client.close_repository(handle).expect("closed");
    for refused in [client.close_repository(handle), client.list_images(handle, None).map(drop), client.check(99, None).map(drop)]
    {
        assert!(matches!(refused, Err(VarlinkError::Refused(Refusal::InvalidHandle { .. }))), "{refused:?}");
    }
}

#[test]
fn wrong_descriptors_are_refused_and_the_connection_goes_on() {
    let bravo = node(|options| options.patience = Duration::from_millis(50));
    let (mut client, handle) = bravo.client();
    let dir = directory();
    let open = |path: &std::path::Path| OwnedFd::from(File::open(path).expect("open"));
    let pipe = |bytes: &[u8]| {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(bytes).expect("it fits");
        (OwnedFd::from(reader), writer)
    };
    let named = [&[2_u8][..], &4096_u64.to_le_bytes(), &0_u32.to_le_bytes(), &4_u32.to_le_bytes(), b"file"].concat();
    let digest = sha256(b"x");
    let mut put = |stream: OwnedFd, slots: &[OwnedFd]| {
        let slots: Vec<_> = slots.iter().map(|slot| slot.as_fd()).collect();
        client.put_layer(handle, &digest, false, stream, &slots).expect_err("refused").to_string()
    };
    assert!(put(open("/dev/null".as_ref()), &[open(dir.path())]).contains("no pipe"));
    assert!(put(open(dir.path()), &[open(dir.path())]).contains("no pipe"));
    assert!(put(pipe(b"").0, &[]).contains("at least two"));
    let (stream, writer) = pipe(b"\x07");
    drop(writer);
    assert!(put(stream, &[open(dir.path())]).contains("no split stream"));
    for slot in [open("/dev/null".as_ref()), pipe(b"").0] {
        let (stream, writer) = pipe(&named);
        drop(writer);
        assert!(put(stream, &[slot]).contains("no directory"));
    }
    let (stream, writer) = pipe(&named);
    drop(writer);
    assert!(put(stream, &[open(dir.path())]).contains("is not there"));
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("file"), rustix::fs::Mode::from_raw_mode(0o600)).expect("a pipe");
    let (stream, writer) = pipe(&named);
    drop(writer);
    assert!(put(stream, &[open(dir.path())]).contains("no regular file"));
    // One who never writes is given up.
    let (stream, _writer) = pipe(&named);
    assert!(put(stream, &[open(dir.path())]).contains("neither read nor wrote"));
    assert_eq!(client.features().expect("it goes on"), [wire::FEATURE]);
}

#[test]
fn garbage_ends_a_connection_and_a_silent_one_makes_room() {
    let alpha = node(|options| options.connections = 2);
    let mut garbage = alpha.socket();
    garbage.write_all(b"garbage\0").expect("sent");
    assert_eq!(io::Read::read(&mut garbage, &mut [0]).expect("ended"), 0);
    let ended = |client: &mut Client| client.features().is_err();
    let (mut first, _) = alpha.client();
    let (mut second, _) = alpha.client();
    // A call is over for the service a moment after its reply has come.
    let at_rest = || {
        let begun = Instant::now();
        while alpha.service.connections().places.values().any(|place| place.silent.is_none()) {
            assert!(begun.elapsed() < DEADLINE, "a call is under way");
            std::thread::yield_now();
        }
    };
    at_rest();
    assert!(!ended(&mut first), "it has spoken last");
    at_rest();
    let (mut third, _) = alpha.client();
    assert!(!ended(&mut first) && !ended(&mut third) && ended(&mut second));
}

#[test]
fn layers_are_held_for_so_many_and_no_longer_than_they_are_used() {
    let alpha = node(|options| options.handed_out = 1);
    let tar = tar(1);
    alpha.image("a", &[&tar], &[]);
    let (mut client, handle) = alpha.client();
    let held = client.get_layer(handle, &sha256(&tar)).expect("given");
    let full = client.get_layer(handle, &sha256(&tar)).expect_err("one is given");
    assert!(matches!(full, VarlinkError::Refused(Refusal::InternalError { .. })), "{full}");
    drop(held);
    let begun = Instant::now();
    // The service notices in its own time.
    while let Err(error) = client.get_layer(handle, &sha256(&tar)) {
        assert!(begun.elapsed() < DEADLINE, "{error}");
        std::thread::yield_now();
    }
    let bravo = node(|options| options.put = 1);
    let (mut target, there) = bravo.client();
    let (dir, tars) = (directory(), [super::tests::tar(7), super::tests::tar(8)]);
    let cache = LayerCache::open(dir.path(), CacheOptions { reserve: 0, ..CacheOptions::default() }, Arc::new(SystemClock))
        .expect("a cache");
    for tar in &tars {
        let layer = cache.layer(&sha256(tar), || Ok(LayerSource { tar: Box::new(&**tar), file: None })).expect("split");
        target.put_split_layer(there, &layer, false).expect("put");
        assert_eq!(bravo.service.put().len(), 1, "no more than may be");
    }
}

#[test]
fn a_service_that_ends_cuts_everybody_off() {
    let alpha = node(|_| {});
    let tar = tar(1);
    alpha.image("a", &[&tar], &[]);
    let (mut client, handle) = alpha.client();
    let held = client.get_layer(handle, &sha256(&tar)).expect("given");
    assert!(alpha.service.stop(DEADLINE), "also with layers given out");
    assert!(matches!(client.features(), Err(VarlinkError::Closed)));
    let (_, there) = UnixStream::pair().expect("sockets");
    assert!(matches!(alpha.service.serve(there), Err(VarlinkError::Stopped)));
    drop(held);
}
