//! Images over a socket between our service and the parts of composefs that do so: its client, its importer, its giver of layers.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use composefs::fsverity::{FsVerityHashValue, Sha256HashValue};
use composefs::repository::{ImportContext, Repository, RepositoryConfig};
use composefs_oci::layer_sync::{drain_splitdirfdstream_verified, finalize_oci_image};
use composefs_oci::layer_transport::{RepoLayerSource, serve_get_layer};
use composefs_oci::varlink_types::{GetLayerParams, LayerRef, OciError, OciProxy as _};
use peat_blob_composefs_tests::{diff_id, tar};
use peat_blobcore::clock::SystemClock;
use peat_blobcore::content::{Content, Options};
use peat_blobcore::handoff::varlink::{Client, ClientOptions, Service, ServiceOptions, WhichRepository};
use peat_blobcore::handoff::{CacheOptions, LayerCache, LayerSource};
use peat_blobcore::registry::Registry;
use serde::Deserialize;
use zlink::futures_util::StreamExt as _;

#[derive(Debug, Deserialize)]
struct Opened {
    handle: u64,
    hash_algorithm: Option<String>,
    objects_device_id: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Inspected {
    manifest: String,
    config: String,
}

#[derive(Debug, zlink::ReplyError)]
#[zlink(interface = "org.composefs.Repository")]
enum RepositoryError {
    RepoNotFound { message: String },
}

// As composefs-ctl has them, whose client is in a crate with the whole of its program.
#[zlink::proxy(interface = "org.composefs.Repository")]
trait RepositoryProxy {
    async fn open_repository(
        &mut self,
        path: Option<&str>,
        user: Option<bool>,
        system: Option<bool>,
    ) -> zlink::Result<Result<Opened, RepositoryError>>;
}

#[zlink::proxy(interface = "org.composefs.Oci")]
trait ImageProxy {
    async fn inspect(&mut self, handle: u64, image: &str) -> zlink::Result<Result<Inspected, OciError>>;
    async fn tag(&mut self, handle: u64, manifest_digest: &str, name: &str) -> zlink::Result<Result<Nothing, OciError>>;
}

#[derive(Debug, Deserialize)]
struct Nothing {}

struct Ours {
    dir: tempfile::TempDir,
    registry: Registry,
    service: Service,
}

fn ours() -> Ours {
    let (dir, clock) = (tempfile::tempdir().expect("a directory"), Arc::new(SystemClock));
    let content =
        Content::open(&dir.path().join("content"), Options { quota: None, reserve: 0 }, clock.clone()).expect("a store");
    let registry = Registry::open(&dir.path().join("catalog"), content, clock.clone()).expect("a registry");
    let cache = LayerCache::open(&dir.path().join("layers"), CacheOptions::default(), clock).expect("a cache");
    let service = Service::new(registry.clone(), cache, ServiceOptions::new(dir.path())).expect("a service");
    Ours { dir, registry, service }
}

impl Ours {
    fn socket(&self) -> UnixStream {
        let (here, there) = UnixStream::pair().expect("sockets");
        self.service.serve(there).expect("served");
        here
    }

    /// Their client.
    fn connect(&self) -> zlink::tokio::unix::Connection {
        let socket = self.socket();
        socket.set_nonblocking(true).expect("a socket");
        let socket = tokio::net::UnixStream::from_std(socket).expect("a socket");
        zlink::Connection::new(zlink::tokio::unix::Stream::try_from(socket).expect("a socket"))
    }

    /// Puts an image of that layer as our own client does, and gives its manifest and configuration.
    fn image(&self, tar: &[u8], name: &str) -> (String, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = LayerCache::open(dir.path(), CacheOptions::default(), Arc::new(SystemClock)).expect("a cache");
        let layer = cache.layer(&diff_id(tar), || Ok(LayerSource { tar: Box::new(tar), file: None })).expect("split");
        let mut client = Client::over(self.socket(), ClientOptions::default());
        let handle = client.open_repository(&WhichRepository::Only).expect("opened").handle;
        let put = client.put_split_layer(handle, &layer, false).expect("put");
        let (manifest, config) = image(tar);
        let layers = [peat_blobcore::handoff::varlink::wire::LayerRef {
            diff_id: diff_id(tar).to_string(),
            layer_verity: put.layer_verity,
        }];
        client.finalize_image(handle, &manifest, &config, &layers, Some(name)).expect("an image");
        (manifest, config)
    }
}

/// The manifest and the configuration of an image of that layer.
fn image(tar: &[u8]) -> (String, String) {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[]}}"#,
        diff_id(tar)
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":{}}}]}}"#,
        diff_id(config.as_bytes()),
        config.len(),
        diff_id(tar),
        tar.len()
    );
    (manifest, config)
}

type Theirs = Arc<Repository<Sha256HashValue>>;

fn theirs(dir: &std::path::Path) -> Theirs {
    let config = RepositoryConfig::default().set_insecure();
    let (repository, _) = Repository::init_path(rustix::fs::CWD, dir.join("repo"), config).expect("a repository");
    Arc::new(repository)
}

/// The layer as their repository has it.
fn cat(repository: &Repository<Sha256HashValue>, verity: &Sha256HashValue) -> Vec<u8> {
    let mut out = Vec::new();
    repository.open_stream("", Some(verity), None).expect("a layer").cat(repository, &mut out).expect("whole");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn their_client_imports_an_image_of_ours_and_gives_it_back() {
    let (ours, tar) = (ours(), tar());
    let dir = tempfile::tempdir().expect("a directory");
    let repository = theirs(dir.path());
    let (manifest, config) = ours.image(&tar, "team/app:v1");
    let digest: composefs_oci::OciDigest = diff_id(&tar).to_string().parse().expect("a digest");
    let mut client = ours.connect();
    let path = ours.dir.path().display().to_string();
    let opened = client.open_repository(Some(&path), None, None).await.expect("an answer").expect("opened");
    assert!(opened.hash_algorithm.as_deref() == Some("blake3") && opened.objects_device_id.is_some());
    let handle = opened.handle;
    assert!(client.open_repository(Some("/"), None, None).await.expect("an answer").is_err());
    assert_eq!(client.get_info().await.expect("an answer").expect("told").features, ["splitdirfdstream-v0"]);
    let inspected = client.inspect(handle, "team/app:v1").await.expect("an answer").expect("it is there");
    assert_eq!((&inspected.manifest, &inspected.config), (&manifest, &config));
    let mut verity = None;
    for _ in 0..20 {
        let found = client.has_layer(handle, digest.as_ref()).await.expect("an answer").expect("told");
        assert!(found.present && found.layer_verity.is_some());
        let params = GetLayerParams { diff_id: Some(digest.to_string()), ..GetLayerParams::default() };
        let (mut fds, mut count) = (Vec::new(), 0);
        {
            let mut replies = std::pin::pin!(client.get_layer(handle, params).await.expect("an answer"));
            while let Some(reply) = replies.next().await {
                let (reply, some) = reply.expect("a reply");
                count = reply.expect("given").dir_count as usize;
                fds.extend(some);
            }
        }
        let lifetimes = fds.split_off(1 + count);
        let directories = fds.split_off(1);
        let stream = fds.pop().expect("a pipe");
        let (repository, digest) = (Arc::clone(&repository), digest.clone());
        let drained = tokio::task::spawn_blocking(move || {
            drain_splitdirfdstream_verified(repository, stream, directories, &digest, false, ImportContext::default())
        });
        let (taken, _, _) = drained.await.expect("it ends").expect("it is what its digest says");
        drop(lifetimes);
        verity = Some(taken);
    }
    let verity = verity.expect("taken");
    assert!(cat(&repository, &verity) == tar);
    let layers = [(digest.clone(), verity.clone())];
    let ((finalized, _), _) =
        finalize_oci_image(&repository, manifest.as_bytes(), config.as_bytes(), &layers, Some("app:v1"), None).expect("an image");
    assert_eq!(finalized.to_string(), diff_id(manifest.as_bytes()).to_string());

    // And into another of ours, as it gives its layers.
    let other = self::ours();
    let mut client = other.connect();
    let handle = client.open_repository(None, None, None).await.expect("an answer").expect("opened").handle;
    let none = client.has_layer(handle, digest.as_ref()).await.expect("an answer").expect("told");
    assert!(!none.present && none.layer_verity.is_none());
    let mut put = None;
    for seed in 0..20 {
        let source = RepoLayerSource { repo: Arc::clone(&repository), layer_verity: verity.clone() };
        let frames = serve_get_layer(source, seed, true).map_err(|error| format!("{error:?}")).expect("given");
        let mut fds: Vec<OwnedFd> = frames.batches.into_iter().flatten().collect();
        let _lifetimes = fds.split_off(1 + frames.dir_count as usize);
        let reply = client.put_layer(handle, digest.as_ref(), false, fds).await.expect("an answer").expect("taken");
        assert_eq!(reply.already_present, seed > 0);
        put = Some(reply.layer_verity);
    }
    let layers = vec![LayerRef { diff_id: digest.to_string(), layer_verity: put.expect("put") }];
    let made =
        client.finalize_image(handle, &manifest, &config, layers, Some("back:v1")).await.expect("an answer").expect("an image");
    assert_eq!(made.manifest_digest, finalized.to_string());
    client.tag(handle, &made.manifest_digest, "again:v2").await.expect("an answer").expect("named");
    let mut blob = Vec::new();
    let hash =
        other.registry.blob(&"back".parse().expect("a name"), &diff_id(&tar)).expect("the catalog").expect("it is here").hash;
    peat_blobcore::registry::BlobStream::open(other.registry.content(), &hash)
        .expect("open")
        .read_to_end(&mut blob)
        .expect("read");
    assert!(blob == tar);

    // What is wrong comes as what their client knows.
    let wrong = format!("sha256:{}", "00".repeat(32));
    let params = GetLayerParams { diff_id: Some(wrong.clone()), ..GetLayerParams::default() };
    let mut replies = std::pin::pin!(client.get_layer(handle, params).await.expect("an answer"));
    let (reply, _) = replies.next().await.expect("one").expect("a reply");
    assert!(matches!(reply, Err(OciError::NoSuchLayer { diff_id }) if diff_id == wrong));
}
