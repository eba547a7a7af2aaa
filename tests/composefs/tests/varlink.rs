//! Images over a socket between our service and the parts of composefs that do so: its client, its importer, its giver of layers.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use composefs::fsverity::{FsVerityHashValue, Sha256HashValue};
use composefs::repository::{ImportContext, Repository, RepositoryConfig};
use composefs_ctl::varlink::proxy::{GetLayerParams, OciProxy as _, RepositoryProxy as _};
use composefs_ctl::varlink::{layer_sync::LayerRef, oci::OciError};
use composefs_oci::layer_sync::{drain_splitdirfdstream_verified, finalize_oci_image};
use composefs_oci::layer_transport::{RepoLayerSource, serve_get_layer};
use peat_blob_composefs_tests::{diff_id, ours, tar};
use zlink::futures_util::StreamExt as _;

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
    let (ours, tar) = (self::ours(), tar());
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
