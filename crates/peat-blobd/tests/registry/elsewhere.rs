//! What others have, through the registry: streamed while it comes, and never more than was verified.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use peat_blob_tests::fleet::{DEADLINE, eventually};
use peat_blobcore::clock::SystemClock;
use peat_blobcore::content::{Assembly, Content, MAX_BLOCK_BYTES, Options};
use peat_blobcore::model::{EndpointId, Timestamp};
use peat_blobcore::oci::{Descriptor, Digest, Repository, Tag};
use peat_blobcore::registry::{Answer, Arrival, Arriving, Change, Elsewhere, Found, Named};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use crate::client::parse;
use crate::images::{MANIFEST, bytes, image, push_image, put_manifest, sha256};
use crate::{Served, serve};

/// Others with what a test gives them.
struct Others {
    here: Content,
    there: Content,
    _dir: tempfile::TempDir,
    coming: Mutex<BTreeMap<(Repository, Digest), Arc<Coming>>>,
    tags: Mutex<BTreeMap<(Repository, Tag), Named>>,
    hurried: Mutex<Vec<Range<u64>>>,
    disproved: Mutex<Vec<Digest>>,
}

/// A blob on its way.
struct Coming {
    there: Content,
    assembly: Assembly,
    media_type: String,
    progress: watch::Sender<Arrival>,
}

impl Coming {
    fn send(&self, range: Range<u64>) {
        for start in range.clone().step_by(MAX_BLOCK_BYTES as usize) {
            let block = start..(start + MAX_BLOCK_BYTES).min(range.end);
            let encoded = self.there.encode_block(&self.assembly.hash(), block.clone()).expect("it is there");
            self.assembly.write_block(block, &encoded).expect("it is right");
        }
        self.progress.send_replace(Arrival::Coming);
    }

    fn finish(&self) {
        self.send(0..self.assembly.size());
        self.assembly.finish().expect("it is whole");
        self.progress.send_replace(Arrival::Whole);
    }

    fn fail(&self) {
        self.progress.send_replace(Arrival::Failed("the holder is gone".to_owned()));
    }
}

impl Others {
    /// Gives the registry others that it can ask.
    fn of(served: &Served) -> Arc<Self> {
        let registry = served.running.node().registry();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let there = Content::open(dir.path(), Options { quota: None, reserve: 0 }, Arc::new(SystemClock)).expect("a store");
        let others = Arc::new(Self {
            here: registry.content().clone(),
            there,
            _dir: dir,
            coming: Mutex::default(),
            tags: Mutex::default(),
            hurried: Mutex::default(),
            disproved: Mutex::default(),
        });
        registry.set_elsewhere(Some(others.clone()));
        others
    }

    /// They claim to have this content under this digest.
    fn offer(&self, repository: &str, digest: &str, content: &[u8], media_type: &str) -> Arc<Coming> {
        let hash = self.there.ingest_bytes(content).expect("room").hash;
        let assembly = self.here.assemble(&hash, content.len() as u64).expect("room");
        let progress = watch::Sender::new(Arrival::Coming);
        let coming = Arc::new(Coming { there: self.there.clone(), assembly, media_type: media_type.to_owned(), progress });
        let key = (repository.parse().expect("a name"), digest.parse().expect("a digest"));
        self.coming.lock().expect("unharmed").insert(key, coming.clone());
        coming
    }

    fn offer_blob(&self, repository: &str, content: &[u8]) -> (String, Arc<Coming>) {
        let digest = sha256(content);
        (format!("/v2/{repository}/blobs/{digest}"), self.offer(repository, &digest, content, "application/octet-stream"))
    }

    fn offer_tag(&self, repository: &str, tag: &str, manifest: &str, set_at: Timestamp) {
        let digest = sha256(manifest.as_bytes()).parse().expect("a digest");
        let named = Named { digest, media_type: MANIFEST.to_owned(), size: manifest.len() as u64, set_at };
        let key = (repository.parse().expect("a name"), tag.parse().expect("a tag"));
        self.tags.lock().expect("unharmed").insert(key, named);
    }
}

impl Elsewhere for Others {
    fn resolve<'a>(&'a self, repository: &'a Repository, tag: &'a Tag) -> Answer<'a, Option<Named>> {
        let named = self.tags.lock().expect("unharmed").get(&(repository.clone(), tag.clone())).cloned();
        Box::pin(async move { named })
    }

    fn find<'a>(&'a self, repository: &'a Repository, digest: &'a Digest) -> Answer<'a, Option<Found>> {
        let coming = self.coming.lock().expect("unharmed").get(&(repository.clone(), *digest)).cloned();
        let arriving = coming.map(|coming| Arriving {
            hash: coming.assembly.hash(),
            size: coming.assembly.size(),
            media_type: coming.media_type.clone(),
            claimed_by: EndpointId::from_bytes([1; 32]),
            progress: coming.progress.subscribe(),
        });
        Box::pin(async move { arriving.map(Found::Claimed) })
    }

    fn size(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        let coming = self.coming.lock().expect("unharmed");
        coming.get(&(repository.clone(), *digest)).map(|coming| coming.assembly.size())
    }

    fn hurry(&self, _: &Arriving, range: Range<u64>) {
        self.hurried.lock().expect("unharmed").push(range);
    }

    fn disprove(&self, _: &Repository, digest: &Digest, _: &Arriving) {
        self.disproved.lock().expect("unharmed").push(*digest);
    }

    fn repositories(&self) -> Vec<Repository> {
        self.tags.lock().expect("unharmed").keys().map(|(repository, _)| repository.clone()).collect()
    }

    fn tags(&self, repository: &Repository) -> Vec<Tag> {
        let tags = self.tags.lock().expect("unharmed");
        tags.keys().filter(|(name, _)| name == repository).map(|(_, tag)| tag.clone()).collect()
    }

    fn referrers(&self, _: &Repository, _: &Digest) -> Vec<Descriptor> {
        Vec::new()
    }

    fn changed(&self, _: &Change) {}
}

const SIZE: usize = 3_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_streamed_while_it_comes_and_its_end_waits_for_its_digest() {
    let served = serve().await;
    let others = Others::of(&served);
    let content = bytes(1, SIZE);
    let (path, coming) = others.offer_blob("a", &content);
    let head = served.client.head(&path).await;
    assert!(head.is(200, "content-length", &SIZE.to_string()) && head.is_whole, "its size is what others say");
    coming.send(0..1_048_576);
    let mut stream = served.client.begin("GET", &path, &[], 0, b"").await;
    let mut raw = vec![0; 1_000_000];
    let first = tokio::time::timeout(DEADLINE, stream.read_exact(&mut raw)).await;
    first.expect("it leaves before the rest has come").expect("it leaves");
    eventually("the rest is hurried", || async { !others.hurried.lock().expect("unharmed").is_empty() }).await;
    // All of it is here, and its digest is not known yet: the last 64 KiB stay.
    coming.send(0..SIZE as u64);
    let most = SIZE - 65_536;
    while raw.len() < most {
        let mut more = vec![0; 100_000];
        let read = tokio::time::timeout(DEADLINE, stream.read(&mut more)).await.expect("it leaves").expect("it leaves");
        raw.extend_from_slice(&more[..read]);
    }
    coming.finish();
    let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut raw)).await.expect("it ends").is_ok();
    let answer = parse(&raw, false, ended);
    assert!(answer.status == 200 && answer.is_whole && answer.body == content);
    served.running.node().registry().set_elsewhere(None);
    assert_eq!(served.client.get(&path).await.body, content, "it is here now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_an_unfinished_blob_waits_for_that_range_alone() {
    let served = serve().await;
    let others = Others::of(&served);
    let content = bytes(1, SIZE);
    let (path, coming) = others.offer_blob("a", &content);
    let send = async {
        eventually("it is hurried", || async { others.hurried.lock().expect("unharmed").contains(&(2_000_003..2_000_103)) })
            .await;
        coming.send(1_998_848..2_015_232);
    };
    let (answer, ()) = tokio::join!(served.client.range(&path, "2000003-2000102"), send);
    assert!(answer.is(206, "content-range", "bytes 2000003-2000102/3000000") && answer.is_whole);
    assert_eq!(answer.body, content[2_000_003..2_000_103]);
    assert!(served.client.range(&path, "3000000-").await.is_error(416, "RANGE_INVALID"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_claimed_never_ends_cleanly_and_is_not_kept() {
    let served = serve().await;
    let others = Others::of(&served);
    let (content, digest) = (bytes(1, SIZE), sha256(b"something else"));
    let coming = others.offer("a", &digest, &content, "application/octet-stream");
    coming.finish();
    let path = format!("/v2/a/blobs/{digest}");
    let answer = served.client.get(&path).await;
    assert!(answer.status == 200 && !answer.is_whole && answer.body.len() <= SIZE - 65_536, "{}", answer.body.len());
    assert_eq!(others.disproved.lock().expect("unharmed").len(), 1);
    served.running.node().registry().set_elsewhere(None);
    assert!(served.client.get(&path).await.is_error(404, "BLOB_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_what_ceases_to_come_get_an_error_and_others_are_not_kept() {
    let served = serve().await;
    let others = Others::of(&served);
    let (path, coming) = others.offer_blob("a", &bytes(1, SIZE));
    coming.send(0..1_048_576);
    let failing = async {
        eventually("somebody waits", || async { !others.hurried.lock().expect("unharmed").is_empty() }).await;
        coming.fail();
    };
    let (answer, ()) = tokio::join!(served.client.get(&path), failing);
    assert!(answer.status == 200 && !answer.is_whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_that_others_have_and_what_is_passed_on_is_answered_from_here() {
    let served = serve().await;
    let (client, others) = (&served.client, Others::of(&served));
    let (config, layer) = (bytes(1, 100), bytes(2, 1000));
    let manifest = image(&config, &layer, "");
    let digest = sha256(manifest.as_bytes());
    others.offer_tag("a", "v1", &manifest, Timestamp::from_millis(1));
    others.offer("a", &digest, manifest.as_bytes(), MANIFEST).finish();
    let (path, coming) = others.offer_blob("a", &layer);
    coming.finish();
    for reference in ["v1", &digest] {
        let target = format!("/v2/a/manifests/{reference}");
        let answer = client.send("GET", &target, &[("peat-blob-passed-on", "1")], b"").await;
        assert!(answer.is_error(404, "MANIFEST_UNKNOWN"), "{target}");
        let head = client.head(&target).await;
        assert!(
            head.is(200, "docker-content-digest", &digest) && head.header("content-length") == Some(&manifest.len().to_string())
        );
        let answer = client.get(&target).await;
        assert!(answer.is(200, "content-type", MANIFEST) && answer.body == manifest.as_bytes(), "{target}");
    }
    let passed_on = client.send("GET", &path, &[("peat-blob-passed-on", "1")], b"").await;
    assert!(passed_on.is_error(404, "BLOB_UNKNOWN"));
    assert_eq!(client.get(&path).await.body, layer);
    assert!(client.get("/v2/a/tags/list").await.text().contains(r#"["v1"]"#));
    // Deleted here, it does not come back from them.
    assert_eq!(client.delete("/v2/a/manifests/v1").await.status, 202);
    assert!(client.get("/v2/a/manifests/v1").await.is_error(404, "MANIFEST_UNKNOWN"));
    assert!(client.get("/v2/a/tags/list").await.text().contains("[]"));
    assert_eq!(client.delete(&path).await.status, 202);
    assert!(client.get(&path).await.is_error(404, "BLOB_UNKNOWN"));
    assert_eq!(client.delete(&format!("/v2/a/manifests/{digest}")).await.status, 202);
    assert!(client.get(&format!("/v2/a/manifests/{digest}")).await.is_error(404, "MANIFEST_UNKNOWN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_tag_the_later_counts_and_the_earlier_is_given_marked_where_that_cannot_be_had() {
    let served = serve().await;
    let (client, others) = (&served.client, Others::of(&served));
    let (here, _) = push_image(client, "a", "v1", 1).await;
    let there = image(&bytes(8, 10), &bytes(9, 10), "");
    others.offer_tag("a", "v1", &there, Timestamp::from_millis(1));
    let answer = client.get("/v2/a/manifests/v1").await;
    assert!(answer.body == here.as_bytes() && answer.header("warning").is_none());
    others.offer_tag("a", "v1", &there, Timestamp::from_millis(u64::MAX));
    let answer = client.get("/v2/a/manifests/v1").await;
    let warning = answer.header("warning").unwrap_or_default();
    assert!(answer.body == here.as_bytes() && warning.starts_with("299 - \"") && warning.ends_with('"'), "{}", answer.text());
    others.offer("a", &sha256(there.as_bytes()), there.as_bytes(), MANIFEST).finish();
    let answer = client.get("/v2/a/manifests/v1").await;
    assert!(answer.body == there.as_bytes() && answer.header("warning").is_none(), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_pushed_brings_what_it_names() {
    let served = serve().await;
    let (client, others) = (&served.client, Others::of(&served));
    let (config, layer) = (bytes(1, 100), bytes(2, 200_000));
    let manifest = image(&config, &layer, "");
    for content in [&config, &layer] {
        others.offer_blob("a", content).1.finish();
    }
    let answer = put_manifest(client, "a", "v1", &manifest).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    served.running.node().registry().set_elsewhere(None);
    assert_eq!(client.get(&format!("/v2/a/blobs/{}", sha256(&layer))).await.body, layer);
    // An index of a manifest that others have, with all that it names.
    let others = Others::of(&served);
    others.offer("b", &sha256(manifest.as_bytes()), manifest.as_bytes(), MANIFEST).finish();
    for content in [&config, &layer] {
        others.offer_blob("b", content).1.finish();
    }
    let child = crate::images::descriptor(MANIFEST, manifest.as_bytes());
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{child}]}}"#, crate::images::INDEX);
    let put = client.send("PUT", "/v2/b/manifests/all", &[("content-type", crate::images::INDEX)], index.as_bytes()).await;
    assert_eq!(put.status, 201, "{}", put.text());
    served.running.node().registry().set_elsewhere(None);
    assert_eq!(client.get(&format!("/v2/b/manifests/{}", sha256(manifest.as_bytes()))).await.body, manifest.as_bytes());
    assert_eq!(client.get(&format!("/v2/b/blobs/{}", sha256(&layer))).await.body, layer);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pushes_is_told_what_could_not_be_had_so_that_he_pushes_it() {
    let served = serve().await;
    let (client, others) = (&served.client, Others::of(&served));
    let (config, layer) = (bytes(1, 100), bytes(2, 200_000));
    let manifest = image(&config, &layer, "");
    others.offer_blob("a", &config).1.finish();
    let (path, coming) = others.offer_blob("a", &layer);
    assert_eq!(client.head(&path).await.status, 200);
    let passed_on = client.send("HEAD", &path, &[("peat-blob-passed-on", "1")], b"").await;
    assert_eq!(passed_on.status, 404, "who passes it on is told what is here");
    coming.fail();
    let put = put_manifest(client, "a", "v1", &manifest).await;
    assert!(put.is_error(503, "BLOB_UNKNOWN"), "{}", put.text());
    assert_eq!(client.head(&path).await.status, 404);
    crate::images::push_blob(client, "a", &layer).await;
    assert_eq!(put_manifest(client, "a", "v1", &manifest).await.status, 201);
    assert_eq!(client.head(&path).await.status, 200);
}
