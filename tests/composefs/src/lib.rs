//! What both sides of the tests stand on: a layer of all sorts of files in a tar archive, an image of it, and our service.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use peat_blobcore::clock::SystemClock;
use peat_blobcore::content::{Content, Options};
use peat_blobcore::handoff::varlink::wire::LayerRef;
use peat_blobcore::handoff::varlink::{Client, ClientOptions, Service, ServiceOptions, WhichRepository};
use peat_blobcore::handoff::{CacheOptions, LayerCache, LayerSource};
use peat_blobcore::model::Sha256Digest;
use peat_blobcore::oci::Digest;
use peat_blobcore::registry::Registry;
use sha2::{Digest as _, Sha256};

/// A service of ours over a new store.
pub struct Ours {
    /// Where it all lies.
    pub dir: tempfile::TempDir,
    /// The images.
    pub registry: Registry,
    service: Service,
}

/// One with no image yet.
#[must_use]
pub fn ours() -> Ours {
    let (dir, clock) = (tempfile::tempdir().expect("a directory"), Arc::new(SystemClock));
    let content =
        Content::open(&dir.path().join("content"), Options { quota: None, reserve: 0 }, clock.clone()).expect("a store");
    let registry = Registry::open(&dir.path().join("catalog"), content, clock.clone()).expect("a registry");
    let cache = LayerCache::open(&dir.path().join("layers"), CacheOptions::default(), clock).expect("a cache");
    let service = Service::new(registry.clone(), cache, ServiceOptions::new(dir.path())).expect("a service");
    Ours { dir, registry, service }
}

impl Ours {
    /// A connection to it.
    #[must_use]
    pub fn socket(&self) -> UnixStream {
        let (here, there) = UnixStream::pair().expect("sockets");
        self.service.serve(there).expect("served");
        here
    }

    /// Their client, connected to it.
    #[must_use]
    pub fn connect(&self) -> zlink::tokio::unix::Connection {
        let socket = self.socket();
        socket.set_nonblocking(true).expect("a socket");
        let socket = tokio::net::UnixStream::from_std(socket).expect("a socket");
        zlink::Connection::new(zlink::tokio::unix::Stream::try_from(socket).expect("a socket"))
    }

    /// Puts an image of that layer as our own client does, and gives its manifest and configuration.
    pub fn image(&self, tar: &[u8], name: &str) -> (String, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = LayerCache::open(dir.path(), CacheOptions::default(), Arc::new(SystemClock)).expect("a cache");
        let layer = cache.layer(&diff_id(tar), || Ok(LayerSource { tar: Box::new(tar), file: None })).expect("split");
        let mut client = Client::over(self.socket(), ClientOptions::default());
        let handle = client.open_repository(&WhichRepository::Only).expect("opened").handle;
        let put = client.put_split_layer(handle, &layer, false).expect("put");
        let (manifest, config) = image(tar);
        let layers = [LayerRef { diff_id: diff_id(tar).to_string(), layer_verity: put.layer_verity }];
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

/// A tar archive with empty, small and large files, a directory, and a link.
#[must_use]
pub fn tar() -> Vec<u8> {
    let mut tar = Vec::new();
    // Without it composefs makes no image.
    add(&mut tar, "usr/", b'5', b"");
    add(&mut tar, "dir/", b'5', b"");
    for (name, size) in [("empty", 0), ("one", 1), ("small", 4095), ("block", 4096), ("large", 3 << 20), ("again", 4096)] {
        add(&mut tar, &format!("dir/{name}"), b'0', &content(size));
    }
    add(&mut tar, "link", b'2', b"");
    tar.extend([0; 1024]);
    tar
}

/// Bytes that depend on their number alone.
#[must_use]
pub fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + size) as u8).collect()
}

/// What a layer is called.
#[must_use]
pub fn diff_id(tar: &[u8]) -> Digest {
    Digest::Sha256(Sha256Digest::from_bytes(Sha256::digest(tar).into()))
}

fn add(tar: &mut Vec<u8>, name: &str, kind: u8, content: &[u8]) {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend(header);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}
