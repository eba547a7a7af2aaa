//! A registry that cuts, stalls and lies, and what the client makes of it; and Debian's `docker-registry`, where it is installed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{Credentials, Remote, RemoteError, RemoteOptions};
use crate::clock::SystemClock;
use crate::content::{Content, Options};
use crate::oci::{Descriptor, Digest, Platform, Reference, Repository, Tag, media_type};
use crate::registry::archive::Imported;

struct Store {
    content: Content,
    _dir: tempfile::TempDir,
}

fn store() -> Store {
    let dir = tempfile::tempdir().expect("a directory");
    let content = Content::open(dir.path(), Options { quota: None, reserve: 0 }, Arc::new(SystemClock)).expect("a store");
    Store { content, _dir: dir }
}

fn noise(seed: u8, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn digest(bytes: &[u8]) -> Digest {
    crate::model::Sha256Digest::from_bytes(Sha256::digest(bytes).into()).into()
}

/// An index of one image with a large layer, by digest; the index comes first.
fn image() -> Vec<(Digest, &'static str, Vec<u8>)> {
    let (layer, config) = (noise(1, 3_000_000), br#"{"architecture":"amd64","os":"linux"}"#.to_vec());
    let part = |kind: &str, bytes: &[u8], more: &str| {
        format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}{more}}}"#, digest(bytes), bytes.len())
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media_type::OCI_MANIFEST,
        part(media_type::OCI_CONFIG, &config, ""),
        part(media_type::OCI_LAYER_GZIP, &layer, "")
    )
    .into_bytes();
    let platform = r#","platform":{"architecture":"amd64","os":"linux"}"#;
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
        media_type::OCI_INDEX,
        part(media_type::OCI_MANIFEST, &manifest, platform)
    )
    .into_bytes();
    let all = [(media_type::OCI_INDEX, index), (media_type::OCI_MANIFEST, manifest), (media_type::OCI_CONFIG, config)];
    let all = all.into_iter().chain([(media_type::OCI_LAYER_GZIP, layer)]);
    all.map(|(kind, bytes)| (digest(&bytes), kind, bytes)).collect()
}

/// How the registry behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Cuts each body of a blob after so many bytes.
    Cuts(usize),
    /// The same, and knows no ranges.
    CutsOnceWithoutRanges,
    /// Changes a byte.
    Lies,
    /// Says nothing after a few bytes.
    Stalls,
    /// Sends more than it said.
    Floods,
    /// Wants a token, which it gives for a password.
    WantsToken,
}

struct Hostile {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    served: Arc<AtomicU64>,
}

async fn hostile(manner: Manner) -> Hostile {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let (requests, served) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicU64>::default());
    let (log, count) = (Arc::clone(&requests), Arc::clone(&served));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (log, count) = (Arc::clone(&log), Arc::clone(&count));
            tokio::spawn(async move { answer(stream, address, manner, &log, &count).await });
        }
    });
    Hostile { address, requests, served }
}

/// The head of a request in lower case, and its path; nothing where the connection ends before.
pub(in crate::registry) async fn read_head(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    Some((head, path))
}

/// Answers one request of a connection, and closes it.
async fn answer(mut stream: TcpStream, address: SocketAddr, manner: Manner, log: &Mutex<Vec<String>>, served: &AtomicU64) {
    let Some((head, path)) = read_head(&mut stream).await else { return };
    log.lock().expect("no panic").push(head.clone());
    let mut send = async |status: &str, more: &str, length: usize, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(body).await;
        served.fetch_add(body.len() as u64, Ordering::Relaxed);
    };
    if path.starts_with("/token") {
        let known = head.contains("authorization: basic dxnlcjpwyxnz") && path.contains("scope=repository");
        return if known { send("200 OK", "", 17, br#"{"token":"abc.d"}"#).await } else { send("401 no", "", 0, b"").await };
    }
    if manner == Manner::WantsToken && !head.contains("authorization: bearer abc.d") {
        let wants = format!("www-authenticate: Bearer realm=\"http://{address}/token\",service=\"s\"\r\n");
        return send("401 no", &wants, 0, b"").await;
    }
    if path.contains("/referrers/") {
        // One that answers with something else is no worse than one that has none.
        let index = &image()[0].2;
        return send("200 OK", "", index.len(), index).await;
    }
    let image = image();
    let Some((digest, kind, mut bytes)) = (match path.ends_with("/manifests/v1") {
        true => image.into_iter().next(),
        false => image.into_iter().find(|(digest, ..)| path.ends_with(&digest.to_string())),
    }) else {
        return send("404 no", "", 0, b"").await;
    };
    if path.contains("/manifests/") {
        let head = format!("content-type: {kind}\r\ndocker-content-digest: {digest}\r\n");
        return send("200 OK", &head, bytes.len(), &bytes).await;
    }
    let begin = head.split("range: bytes=").nth(1).and_then(|range| range.split('-').next()?.parse::<usize>().ok());
    let large = bytes.len() > 1000;
    let (begin, status) = match (begin, manner) {
        (Some(begin), Manner::Cuts(_)) => (begin, "206 part"),
        _ => (0, "200 OK"),
    };
    let range = format!("content-range: bytes {begin}-{}/{}\r\n", bytes.len() - 1, bytes.len());
    let more = if begin > 0 { range.as_str() } else { "" };
    match manner {
        Manner::Cuts(after) if large => {
            let rest = &bytes[begin..];
            send(status, more, rest.len(), &rest[..after.min(rest.len())]).await;
        }
        Manner::CutsOnceWithoutRanges if large && !head.contains("range:") => {
            send(status, "", bytes.len(), &bytes[..1_000_000]).await
        }
        Manner::Lies if large => {
            bytes[2_000_000] ^= 1;
            send(status, "", bytes.len(), &bytes).await;
        }
        Manner::Floods if large => {
            bytes.push(0);
            send(status, "", bytes.len(), &bytes).await;
        }
        Manner::Stalls if large => {
            send(status, "", bytes.len(), &bytes[..10]).await;
            let _ = stream.read_u8().await;
        }
        _ => send(status, more, bytes.len(), &bytes).await,
    }
}

fn options() -> RemoteOptions {
    RemoteOptions { insecure: true, ..RemoteOptions::default() }
}

async fn pull_from(address: SocketAddr, store: &Store, options: RemoteOptions) -> Result<Imported, RemoteError> {
    let remote = Remote::new(&address.to_string(), options).expect("an address");
    let (repository, tag): (Repository, Tag) = ("a/b".parse().expect("a name"), "v1".parse().expect("a tag"));
    remote.pull(&store.content, &repository, (&Reference::Tag(tag), None), None, Arc::new(|_, _| ())).await
}

fn check(store: &Store, imported: &Imported) {
    for (digest, _, bytes) in image() {
        let blob = imported.blobs.iter().find(|blob| blob.digest == digest).expect("it belongs to it");
        assert_eq!(store.content.read_blob(&blob.blob.hash, 1 << 30).expect("held"), bytes);
    }
}

#[tokio::test]
async fn bodies_that_are_cut_off_go_on_where_they_ended() {
    let hostile = hostile(Manner::Cuts(500_000)).await;
    let store = store();
    let pulled = pull_from(hostile.address, &store, options()).await.expect("pulled");
    check(&store, &pulled);
    let all: u64 = image().iter().map(|(_, _, bytes)| bytes.len() as u64).sum();
    let served = hostile.served.load(Ordering::Relaxed);
    // The index came once more, as what it is not.
    let all = all + image()[0].2.len() as u64;
    assert_eq!(pulled.roots.len(), 1, "what does not refer to it is no referrer");
    assert!(served <= all + image()[1].2.len() as u64, "no byte crosses twice: {served} of {all}");
    // Again: only manifests are asked for by name.
    let before = hostile.requests.lock().expect("no panic").len();
    assert_eq!(pull_from(hostile.address, &store, options()).await.expect("pulled").roots, pulled.roots);
    let requests = hostile.requests.lock().expect("no panic");
    assert!(requests[before..].iter().all(|request| !request.contains("/blobs/")));
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_anew_and_what_came_is_left_out() {
    let (hostile, store) = (hostile(Manner::CutsOnceWithoutRanges).await, store());
    let pulled = pull_from(hostile.address, &store, options()).await.expect("pulled");
    check(&store, &pulled);
}

#[tokio::test]
async fn what_a_registry_lies_about_is_never_kept() {
    for manner in [Manner::Lies, Manner::Floods] {
        let (hostile, store) = (hostile(manner).await, store());
        let error = pull_from(hostile.address, &store, options()).await.expect_err("it lies");
        match manner {
            Manner::Lies => assert!(matches!(error, RemoteError::Mismatch { .. }), "{error}"),
            _ => assert!(matches!(error, RemoteError::Protocol { .. }), "{error}"),
        }
        let crate::oci::Digest::Sha256(layer) = image()[3].0 else { unreachable!("by SHA-256") };
        assert_eq!(store.content.digest(&layer).expect("an index"), None);
        let usage = store.content.usage().expect("an index");
        assert!(usage.bytes < 3_000_000, "{usage:?}");
    }
}

#[tokio::test]
async fn what_is_another_image_than_was_expected_is_not_taken_in() {
    let (hostile, store) = (hostile(Manner::Cuts(100)).await, store());
    let remote = Remote::new(&hostile.address.to_string(), options()).expect("an address");
    let (repository, tag): (Repository, Tag) = ("a/b".parse().expect("a name"), "v1".parse().expect("a tag"));
    let expected = format!("sha256:{}", "07".repeat(32)).parse::<Digest>().expect("a digest");
    let pulled =
        remote.pull(&store.content, &repository, (&Reference::Tag(tag), Some(&expected)), None, Arc::new(|_, _| ())).await;
    assert!(matches!(pulled, Err(RemoteError::Another { expected: of, .. }) if of == expected), "{pulled:?}");
    assert_eq!(store.content.usage().expect("readable").blobs, 0);
}

#[tokio::test]
async fn a_registry_that_says_nothing_or_cuts_forever_is_given_up() {
    let patience = Duration::from_millis(300);
    let (stalls, store) = (hostile(Manner::Stalls).await, store());
    let error = pull_from(stalls.address, &store, RemoteOptions { patience, ..options() }).await.expect_err("it stalls");
    assert!(matches!(error, RemoteError::Stalled { .. }), "{error}");
    let cuts = hostile(Manner::Cuts(0)).await;
    let error = pull_from(cuts.address, &store, options()).await.expect_err("it cuts");
    assert_eq!(error.kind(), crate::ErrorKind::Unreachable, "{error}");
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("an address");
    let error = pull_from(nobody, &store, options()).await.expect_err("nobody is there");
    assert_eq!(error.kind(), crate::ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_passwords_do_not_go_in_clear() {
    let (hostile, store) = (hostile(Manner::WantsToken).await, store());
    let credentials = Some(Credentials::Basic { user: "user".to_owned(), password: "pass".to_owned() });
    let pulled = pull_from(hostile.address, &store, RemoteOptions { credentials, ..options() }).await.expect("pulled");
    check(&store, &pulled);
    let asked = hostile.requests.lock().expect("no panic").iter().filter(|request| request.starts_with("get /token")).count();
    assert_eq!(asked, 1);
    let error = pull_from(hostile.address, &store, options()).await.expect_err("nobody asks");
    assert!(matches!(error, RemoteError::Denied { .. }), "{error}");
    for bad in ["", "a/b", "user@host", "a?b"] {
        assert!(matches!(Remote::new(bad, options()), Err(RemoteError::BadAddress(..))), "{bad}");
    }
    assert!(!format!("{:?}", Credentials::Bearer("secret".to_owned())).contains("secret"));
}

/// Debian's registry, over a directory.
struct Registry {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn registry() -> Option<Registry> {
    let dir = tempfile::tempdir().expect("a directory");
    let port = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("an address").port();
    let (address, config) = (format!("127.0.0.1:{port}"), dir.path().join("config.yml"));
    let root = dir.path().join("data");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
        root.display()
    );
    std::fs::File::create(&config).expect("made").write_all(text.as_bytes()).expect("written");
    let child =
        Command::new("docker-registry").arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    let registry = Registry { child, address, _dir: dir };
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(&registry.address).await.is_err() {
        assert!(Instant::now() < deadline, "the registry does not come up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some(registry)
}

#[tokio::test]
async fn what_is_pushed_is_pulled_again_and_nothing_is_sent_twice() {
    let Some(registry) = registry().await else {
        eprintln!("not tested: docker-registry is not installed");
        return;
    };
    let (from, image) = (store(), image());
    let known: BTreeMap<_, _> =
        image.iter().map(|(digest, _, bytes)| (*digest, from.content.ingest_bytes(bytes).expect("room").hash)).collect();
    let (digest, kind, bytes) = &image[0];
    let root = Descriptor {
        media_type: (*kind).to_owned(),
        digest: *digest,
        size: bytes.len() as u64,
        platform: None,
        artifact_type: None,
        annotations: BTreeMap::new(),
        urls: Vec::new(),
    };
    let remote = Remote::new(&registry.address, options()).expect("an address");
    let (first, second): (Repository, Repository) = ("team/a".parse().expect("a name"), "team/b".parse().expect("a name"));
    let tag = Reference::Tag("v1".parse().expect("a tag"));
    let lookup = |digest: &Digest| known.get(digest).copied();
    let push = async |to: &Repository, mount: &[Repository]| {
        let (mount, elsewhere) = (mount.to_vec(), "never/seen".parse::<Repository>().expect("a name"));
        let mounts = |_: &Digest| [vec![elsewhere.clone()], mount.clone()].concat();
        remote.push(&from.content, &lookup, &root, to, &tag, &mounts, &|_, _| ()).await.expect("pushed")
    };
    let pushed = push(&first, &[]).await;
    assert_eq!((pushed.sent, pushed.present), (4, 0));
    let again = push(&first, &[]).await;
    assert_eq!((again.sent, again.present), (1, 3), "the tag alone");
    let mounted = push(&second, std::slice::from_ref(&first)).await;
    assert_eq!((mounted.sent, mounted.mounted), (2, 2), "the manifests alone");
    let amd64 = Platform { architecture: "amd64".to_owned(), os: "linux".to_owned(), variant: None };
    for (platform, blobs) in [(None, 4), (Some(&amd64), 3)] {
        let to = store();
        let pulled = remote.pull(&to.content, &second, (&tag, None), platform, Arc::new(|_, _| ())).await.expect("pulled");
        assert_eq!(pulled.blobs.len(), blobs);
        for blob in &pulled.blobs {
            assert_eq!(known[&blob.digest], blob.blob.hash);
        }
        assert_eq!(pulled.roots[0].names, ["v1"]);
    }
    let other = Platform { architecture: "s390x".to_owned(), ..amd64 };
    let error =
        remote.pull(&store().content, &second, (&tag, None), Some(&other), Arc::new(|_, _| ())).await.expect_err("it has none");
    assert!(matches!(error, RemoteError::NoSuchPlatform(_)), "{error}");
    let missing = Reference::Tag("v2".parse().expect("a tag"));
    let error =
        remote.pull(&store().content, &second, (&missing, None), None, Arc::new(|_, _| ())).await.expect_err("it has none");
    assert!(matches!(error, RemoteError::NotFound { .. }), "{error}");
}
