//! A registry of one image in the repository `a`, whose layer comes as the test wants.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::SIZE;
use crate::model::Sha256Digest;
use crate::oci::{Digest, media_type};
use crate::registry::remote::tests::read_head;

pub(super) const BEFORE_STALL: usize = 500_000;

/// How the layer comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// As far as the test has let it.
    Gated,
    /// Each answer is cut off after so many bytes.
    Cuts(usize),
    /// The first is cut off, and the rest is not to be had without it.
    CutsOnceWithoutRanges,
    /// Says nothing after some bytes.
    Stalls,
    /// Changes a byte.
    Lies,
}

pub(super) struct Fake {
    pub(super) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    gate: watch::Sender<usize>,
    holds_heads: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

fn layer() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    blake3::Hasher::new().update(b"layer").finalize_xof().fill(&mut bytes);
    bytes
}

const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux"}"#;

fn digest(bytes: &[u8]) -> Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into()).into()
}

fn manifest() -> Vec<u8> {
    let part =
        |kind: &str, bytes: &[u8]| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, digest(bytes), bytes.len());
    let (config, layer) = (part(media_type::OCI_CONFIG, CONFIG), part(media_type::OCI_LAYER, &layer()));
    format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{layer}]}}"#, media_type::OCI_MANIFEST)
        .into_bytes()
}

impl Fake {
    pub(super) async fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let (heads, gate, holds_heads) = (Arc::<Mutex<Vec<String>>>::default(), watch::Sender::new(0), watch::Sender::new(false));
        let (log, open, held) = (Arc::clone(&heads), gate.subscribe(), holds_heads.subscribe());
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, manner, Arc::clone(&log), open.clone(), held.clone()));
            }
        });
        Self { address, heads, gate, holds_heads, serving }
    }

    /// It is gone: connections are refused from now on.
    pub(super) async fn stop(&self) {
        self.serving.abort();
        while TcpStream::connect(self.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn layer(&self) -> (Vec<u8>, Digest) {
        let layer = layer();
        let digest = digest(&layer);
        (layer, digest)
    }

    pub(super) fn parts(&self) -> [Digest; 2] {
        [digest(CONFIG), digest(&layer())]
    }

    pub(super) fn let_through(&self, bytes: usize) {
        self.gate.send_replace(bytes);
    }

    pub(super) fn hold_heads(&self, hold: bool) {
        self.holds_heads.send_replace(hold);
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }

    pub(super) fn gets(&self, digest: &Digest) -> usize {
        self.heads().iter().filter(|head| head.starts_with(&format!("get /v2/a/blobs/{digest}"))).count()
    }

    /// Where each answer with the layer was to begin.
    pub(super) fn ranges(&self) -> Vec<u64> {
        self.heads().iter().filter(|head| head.contains("/blobs/")).map(|head| begin(head).unwrap_or(0) as u64).collect()
    }
}

fn begin(head: &str) -> Option<usize> {
    head.split("range: bytes=").nth(1)?.split('-').next()?.parse().ok()
}

async fn answer(
    mut stream: TcpStream,
    manner: Manner,
    log: Arc<Mutex<Vec<String>>>,
    mut open: watch::Receiver<usize>,
    mut held: watch::Receiver<bool>,
) {
    let Some((head, path)) = read_head(&mut stream).await else { return };
    log.lock().expect("no panic").push(head.clone());
    if held.wait_for(|held| !held).await.is_err() {
        return;
    }
    let (manifest, mut layer) = (manifest(), layer());
    let is = |bytes: &[u8], kind: &str| path == format!("/v2/a/{kind}/{}", digest(bytes));
    let is_layer = is(&layer, "blobs");
    let (kind, bytes) = match &path {
        _ if is(&manifest, "manifests") || path == "/v2/a/manifests/v1" => (media_type::OCI_MANIFEST, manifest.clone()),
        _ if path.starts_with("/v2/a/tags/list") => ("application/json", br#"{"name":"a","tags":["v1","w1","?"]}"#.to_vec()),
        _ if is(CONFIG, "blobs") => (media_type::OCTET_STREAM, CONFIG.to_vec()),
        _ if is_layer => {
            if manner == Manner::Lies {
                layer[1_000_000] ^= 1;
            }
            (media_type::OCTET_STREAM, layer)
        }
        _ => {
            let _ = stream.write_all(b"HTTP/1.1 404 no\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            return;
        }
    };
    let begin = begin(&head).filter(|_| manner != Manner::CutsOnceWithoutRanges);
    let (status, start) = begin.map_or(("200 OK", 0), |begin| ("206 part", begin));
    let range =
        begin.map_or_else(String::new, |begin| format!("content-range: bytes {begin}-{}/{}\r\n", bytes.len() - 1, bytes.len()));
    let rest = &bytes[start..];
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: {kind}\r\ndocker-content-digest: {}\r\nconnection: close\r\n{range}\r\n",
        rest.len(),
        digest(&bytes)
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    if head.starts_with("head") {
        return;
    }
    let until = match manner {
        Manner::Cuts(after) if is_layer => after.min(rest.len()),
        Manner::CutsOnceWithoutRanges if is_layer && !head.contains("range:") => 1_000_000,
        Manner::Stalls if is_layer => BEFORE_STALL.min(rest.len()),
        _ => rest.len(),
    };
    if manner == Manner::Gated && is_layer {
        let mut sent = 0;
        while sent < rest.len() {
            let Ok(open) = open.wait_for(|open| *open > sent).await.map(|open| *open) else { return };
            let _ = stream.write_all(&rest[sent..open.min(rest.len())]).await;
            sent = open.min(rest.len());
        }
        return;
    }
    let _ = stream.write_all(&rest[..until]).await;
    if manner == Manner::Stalls && is_layer {
        let _ = stream.read_u8().await;
    }
}
