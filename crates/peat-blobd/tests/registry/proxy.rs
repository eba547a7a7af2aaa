//! Debian's `docker-registry` in a process of its own, and a proxy before it that cuts bodies off, stalls, lies, and wants to know who
//! asks.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use peat_blob_tests::fleet::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::images::{MANIFEST, bytes, image, put_manifest, sha256};

/// `user:pass`, in lower case as the proxy compares it.
const BASIC: &str = "authorization: basic dxnlcjpwyxnz";
const BEARER: &str = "authorization: bearer abc.d";
/// Which byte of a body the proxy changes.
const CHANGED: usize = 1_000_000;

/// How the bodies of blobs come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Each is cut off after so many bytes.
    Cuts(usize),
    /// Of each so many bytes come, and then none, for as long as the client is there.
    Stalls(usize),
    /// A byte of each is another.
    Lies,
}

/// Who is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    Nobody,
    /// Who shows `user:pass`.
    Password,
    /// Who shows a token, which is given for `user:pass`.
    Token,
}

pub(crate) struct DockerRegistry {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DockerRegistry {
    /// Starts it; nothing where it is not installed.
    pub(crate) async fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let address = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("an address");
        let config = dir.path().join("config.yml");
        let root = dir.path().join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            root.display()
        );
        std::fs::write(&config, text).expect("written");
        let child = Command::new("docker-registry").arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = child else {
            eprintln!("not tested: docker-registry is not installed");
            return None;
        };
        let registry = Self { child, address, _dir: dir };
        eventually("the registry is up", || async { TcpStream::connect(address).await.is_ok() }).await;
        Some(registry)
    }

    /// Pushes an image with a layer of 3 MB as `team/a:v1`; its manifest and its layer.
    pub(crate) async fn push(&self) -> (String, Vec<u8>) {
        let client = Client::new(self.address);
        let (config, layer) = (bytes(1, 100), bytes(2, 3_000_000));
        for blob in [&config, &layer] {
            let begun = client.send("POST", "/v2/team/a/blobs/uploads/", &[], b"").await;
            let location = begun.location();
            let path = location.split_once("://").and_then(|(_, rest)| rest.split_once('/')).expect("an address").1;
            let put = client.send("PUT", &format!("/{path}&digest={}", sha256(blob)), &[], blob).await;
            assert_eq!(put.status, 201, "{}", put.text());
        }
        let manifest = image(&config, &layer, "");
        let put = put_manifest(&client, "team/a", "v1", &manifest).await;
        assert_eq!(put.status, 201, "{MANIFEST}: {}", put.text());
        (manifest, layer)
    }
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    requests: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn before(registry: &DockerRegistry, manner: Manner, wants: Wants) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let (address, registry) = (listener.local_addr().expect("an address"), registry.address);
        let (manner, requests) = (Arc::new(Mutex::new(manner)), Arc::<Mutex<Vec<String>>>::default());
        let (how, log) = (Arc::clone(&manner), Arc::clone(&requests));
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (how, log) = (Arc::clone(&how), Arc::clone(&log));
                connections.spawn(async move {
                    // Whichever side has gone: the other sees it.
                    let _ = pass(client, address, registry, &how, wants, &log).await;
                });
            }
        });
        Self { address, manner, requests, serving }
    }

    pub(crate) fn be(&self, manner: Manner) {
        *self.manner.lock().expect("no panic") = manner;
    }

    /// Ends every connection, and takes no more.
    pub(crate) async fn stop(&self) {
        self.serving.abort();
        eventually("nobody listens", || async { TcpStream::connect(self.address).await.is_err() }).await;
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    /// How often a blob was asked for from its first byte on, and how often from a later one.
    pub(crate) fn gets(&self, digest: &str) -> (usize, usize) {
        let requests = self.requests();
        let of = requests.iter().filter(|head| head.starts_with("get ") && head.contains(&format!("/blobs/{digest} ")));
        let (ranges, whole): (Vec<_>, Vec<_>) = of.partition(|head| head.contains("\r\nrange: "));
        (whole.len(), ranges.len())
    }
}

async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

/// Passes one request on, and its answer back.
async fn pass(
    mut client: TcpStream,
    own: SocketAddr,
    registry: SocketAddr,
    manner: &Mutex<Manner>,
    wants: Wants,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut request = read_head(&mut client).await?;
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    log.lock().expect("no panic").push(head.clone());
    if head.starts_with("get /token?") {
        let (status, body) = match head.contains(BASIC) && head.contains("scope=repository%3ateam%2fa%3apull") {
            true => ("200 OK", r#"{"token":"abc.d"}"#),
            false => ("401 no", "{}"),
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        return client.write_all(answer.as_bytes()).await;
    }
    let challenge = match wants {
        Wants::Password if !head.contains(BASIC) => Some("Basic realm=\"r\"".to_owned()),
        Wants::Token if !head.contains(BEARER) => Some(format!("Bearer realm=\"http://{own}/token\",service=\"s\"")),
        _ => None,
    };
    if let Some(challenge) = challenge {
        let answer =
            format!("HTTP/1.1 401 no\r\nwww-authenticate: {challenge}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return client.write_all(answer.as_bytes()).await;
    }
    let mut there = TcpStream::connect(registry).await?;
    request.truncate(request.len() - 2);
    request.extend_from_slice(b"connection: close\r\n\r\n");
    there.write_all(&request).await?;
    let answer = read_head(&mut there).await?;
    client.write_all(&answer).await?;
    let manner = match head.contains("/blobs/") {
        true => *manner.lock().expect("no panic"),
        false => Manner::Honest,
    };
    let (mut passed, mut buffer) = (0, vec![0; 16 * 1024]);
    loop {
        let read = there.read(&mut buffer).await?;
        if read == 0 {
            return client.shutdown().await;
        }
        let piece = &mut buffer[..read];
        match manner {
            Manner::Cuts(after) | Manner::Stalls(after) if passed + read > after => {
                client.write_all(&piece[..after - passed]).await?;
                if matches!(manner, Manner::Stalls(_)) {
                    client.read_u8().await?;
                }
                return Ok(());
            }
            Manner::Lies if (passed..passed + read).contains(&CHANGED) => piece[CHANGED - passed] ^= 1,
            _ => {}
        }
        passed += read;
        client.write_all(piece).await?;
    }
}
