//! A blob that only another registry has, pulled by five clients at once: how soon its first byte is with them after it has come from
//! there, how often it is fetched, and how long all of it takes; and the same through Debian's `docker-registry` as a cache, where
//! that is installed. The other registry is a socket of this process, which says at what instant it gave which byte.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use peat_blob_tests::fleet::Fleet;
use peat_blobd::config::UpstreamAt;
use peat_blobd::{Config, Running};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::streams::runtime;
use crate::table::Row;
use crate::{Options, Outcome, Spread};

const READERS: usize = 5;
/// Bytes of the blob at most.
const MOST: u64 = 100 << 20;
/// What the other registry writes first of each body, and at a time.
const PIECE: usize = 64 * 1024;
/// The goal for the first byte, in milliseconds after the other registry's.
const GOAL: f64 = 10.0;
/// How long the other cache may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one pull by all readers came to.
#[derive(Default)]
struct Measured {
    /// Milliseconds from the other registry's first byte to the first and the last reader's.
    first: Vec<f64>,
    last: Vec<f64>,
    /// Fetches by the cache.
    gets: Vec<f64>,
    /// Seconds until every reader has all of it.
    seconds: Vec<f64>,
}

/// Measures ours, and theirs if it is there, by turns.
pub(crate) fn run(options: &Options) -> Outcome<Vec<Row>> {
    let directory = options.temporary()?;
    let size = usize::try_from(options.large.min(MOST))?;
    runtime()?.block_on(async {
        let origin = Origin::start().await?;
        let fleet = Fleet::new();
        fleet.enroll("alpha", &[]);
        let loopback: SocketAddr = ([127, 0, 0, 1], 0).into();
        let host = (origin.address.to_string(), true);
        let running = Running::start(Config {
            iroh_listen: vec![loopback],
            registry_listen: vec![loopback],
            gossip: false,
            registry_upstream: vec![UpstreamAt { name: Some("up".to_owned()), hosts: vec![host] }],
            ..Config::new(fleet.path("alpha"))
        })
        .await?;
        let our_address = running.registry_addresses()[0];
        let cache = Cache::start(directory.path(), origin.address).await?;
        let (mut ours, mut theirs, mut direct) = (Measured::default(), Measured::default(), Vec::new());
        for run in 0..options.runs {
            let digest = origin.offer(run, 0, size);
            origin.pull(our_address, &format!("/v2/up/a/blobs/{digest}"), READERS, &mut ours).await?;
            if let Some(cache) = &cache {
                let digest = origin.offer(run, 1, size);
                origin.pull(cache.address, &format!("/v2/a/blobs/{digest}"), READERS, &mut theirs).await?;
            }
            let digest = origin.offer(run, 2, size);
            let mut plain = Measured::default();
            origin.pull(origin.address, &format!("/v2/a/blobs/{digest}"), READERS, &mut plain).await?;
            direct.extend(plain.seconds);
        }
        running.stop().await;
        let goal = vec![GOAL; ours.first.len()];
        let what = format!("first byte of {} MiB to the first of {READERS} readers, after its upstream's", size >> 20);
        let mut rows = vec![
            Row::pairs(what, "ms", &ours.first, "goal", &goal),
            Row::pairs("the same, to the last of them", "ms", &ours.last, "goal", &goal),
            Row::pairs("fetches from the upstream for them", "GETs", &ours.gets, "goal", &vec![1.0; ours.gets.len()]),
            Row::pairs("all of it at all of them", "s", &ours.seconds, "each from the upstream itself", &direct),
        ];
        if cache.is_some() {
            let first = format!("docker-registry, first byte {:.0} ms", Spread::new(theirs.first).median());
            rows.push(Row::pairs("fetches from the upstream", "GETs", &ours.gets, &first, &theirs.gets));
            rows.push(Row::pairs("all of it at all of them", "s", &ours.seconds, "docker-registry", &theirs.seconds));
        }
        Ok(rows)
    })
}

/// A registry that has what it was told last, and notes when it gave the first byte of it and how often.
struct Origin {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    digest: String,
    blob: Arc<Vec<u8>>,
    began: Option<Instant>,
    gets: usize,
}

impl Origin {
    async fn start() -> Outcome<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, shared) = (listener.local_addr()?, Arc::<Mutex<Shared>>::default());
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, Arc::clone(&serving)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, shared })
    }

    /// Has another blob from now on; its digest.
    fn offer(&self, run: usize, whose: u8, size: usize) -> String {
        let mut blob = vec![0; size];
        let mut seed = Sha256::digest(format!("{run} {whose}")).to_vec();
        for piece in blob.chunks_mut(PIECE) {
            let length = seed.len().min(piece.len());
            piece[..length].copy_from_slice(&seed[..length]);
            seed = Sha256::digest(&seed).to_vec();
        }
        let digest: String = Sha256::digest(&blob).iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = format!("sha256:{digest}");
        *self.shared() = Shared { digest: digest.clone(), blob: Arc::new(blob), ..Shared::default() };
        digest
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().expect("nothing panics while it holds it")
    }

    /// Has so many clients at once pull it from somewhere.
    async fn pull(&self, from: SocketAddr, path: &str, readers: usize, measured: &mut Measured) -> Outcome<()> {
        let blob = Arc::clone(&self.shared().blob);
        let (started, mut pulls) = (Instant::now(), tokio::task::JoinSet::new());
        for _ in 0..readers {
            pulls.spawn(get(from, path.to_owned(), Arc::clone(&blob)));
        }
        let mut firsts = Vec::new();
        while let Some(pulled) = pulls.join_next().await {
            firsts.push(pulled??);
        }
        measured.seconds.push(started.elapsed().as_secs_f64());
        let (began, gets) = {
            let shared = self.shared();
            (shared.began.ok_or("the upstream was not asked")?, shared.gets)
        };
        firsts.sort();
        let after = |first: &Instant| first.saturating_duration_since(began).as_secs_f64() * 1000.0;
        measured.first.extend(firsts.first().map(after));
        measured.last.extend(firsts.last().map(after));
        measured.gets.push(gets as f64);
        Ok(())
    }
}

/// Answers what caches ask for, one request a connection.
async fn answer(mut stream: TcpStream, shared: Arc<Mutex<Shared>>) {
    let Ok(head) = read_head(&mut stream).await else { return };
    let (method, path) = head.split_once(' ').unwrap_or_default();
    let path = path.split(' ').next().unwrap_or_default();
    let blob = {
        let mut shared = shared.lock().expect("nothing panics while it holds it");
        let is_blob = path.ends_with(&shared.digest);
        shared.gets += usize::from(is_blob && method == "GET");
        is_blob.then(|| (Arc::clone(&shared.blob), shared.digest.clone()))
    };
    let (status, body, more) = match &blob {
        Some((blob, digest)) => ("200 OK", blob.as_slice(), format!("docker-content-digest: {digest}\r\n")),
        None if path == "/v2/" => ("200 OK", b"{}".as_slice(), String::new()),
        None => ("404 Not Found", b"{}".as_slice(), String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\nconnection: close\r\n{more}\r\n",
        body.len()
    );
    if stream.write_all(head.as_bytes()).await.is_err() || method == "HEAD" {
        return;
    }
    if blob.is_some() {
        shared.lock().expect("nothing panics while it holds it").began.get_or_insert_with(Instant::now);
    }
    for piece in body.chunks(PIECE) {
        if stream.write_all(piece).await.is_err() {
            return;
        }
    }
}

async fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Pulls a blob and holds it against what it is to be; when its first byte came.
async fn get(from: SocketAddr, path: String, blob: Arc<Vec<u8>>) -> Outcome<Instant> {
    let mut stream = TcpStream::connect(from).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {from}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let head = read_head(&mut stream).await?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(format!("{from} answered {}", head.lines().next().unwrap_or_default()).into());
    }
    let (mut piece, mut at) = (vec![0; 256 * 1024], 0);
    let mut first = None;
    loop {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        first.get_or_insert_with(Instant::now);
        if blob.get(at..at + read) != Some(&piece[..read]) {
            return Err(format!("{from} gave other bytes than the upstream").into());
        }
        at += read;
    }
    if at != blob.len() {
        return Err(format!("{from} gave {at} of {} bytes", blob.len()).into());
    }
    first.ok_or_else(|| "the blob is empty".into())
}

/// Debian's registry as a cache of the other.
struct Cache {
    child: Child,
    address: SocketAddr,
}

impl Cache {
    async fn start(directory: &std::path::Path, origin: SocketAddr) -> Outcome<Option<Self>> {
        let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let (config, root) = (directory.join("cache.yml"), directory.join("cache"));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\nproxy: {{remoteurl: 'http://{origin}'}}\n",
            root.display()
        );
        std::fs::write(&config, text)?;
        let started =
            Command::new("docker-registry").arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = started else {
            eprintln!("docker-registry is not installed: nothing to hold it against");
            return Ok(None);
        };
        let (cache, until) = (Self { child, address }, Instant::now() + PATIENCE);
        while TcpStream::connect(address).await.is_err() {
            if Instant::now() > until {
                return Err("docker-registry does not come up".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Some(cache))
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
