//! Blocks between two endpoints on this machine: what crosses when they are compressed and when they are not, and what is done
//! with answers of which that is not true.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, PortmapperConfig, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, TransportAddr};
use tokio::task::JoinSet;

use super::fetch::request;
use super::sources_tests::Store;
use super::{BlockBytes, Entitlement, FetchError, Limiter, Traffic, Turns, serve};
use crate::clock::SystemClock;
use crate::content::{Assembly, ContentError};
use crate::model::{BlobHash, EndpointId, Priority};
use crate::network::compression::compress;
use crate::network::wire::{ALPN, BlockFrame, BlockRequest, GROUP_BYTES, Request, read_frame};

const SIZE: usize = 4_000_000;
const PATIENCE: Duration = Duration::from_secs(30);

struct Everyone;

impl Entitlement for Everyone {
    fn entitle(&self, _: &EndpointId, blobs: &[BlobHash]) -> Vec<Option<Priority>> {
        vec![Some(Priority::Routine); blobs.len()]
    }
}

/// A count, and no limits.
fn traffic() -> Arc<Traffic> {
    Arc::new(Traffic::new(Limiter::new(Arc::new(SystemClock), Box::new(|_| None))))
}

async fn endpoint() -> Endpoint {
    Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .alpns(vec![ALPN.to_vec()])
        .clear_ip_transports()
        .bind_addr(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("an address")
        .bind()
        .await
        .expect("a free port")
}

/// A node that asks, and its connection with one that answers each request as it is told.
struct Asker {
    store: Store,
    connection: Connection,
    _endpoint: Endpoint,
    _answering: JoinSet<()>,
}

impl Asker {
    async fn of<F: Future<Output = ()> + Send + 'static>(answer: impl Fn(SendStream, RecvStream) -> F + Send + 'static) -> Self {
        let (holder, asker) = (endpoint().await, endpoint().await);
        let address = EndpointAddr::from_parts(holder.id(), holder.bound_sockets().into_iter().map(TransportAddr::Ip));
        let mut answering = JoinSet::new();
        answering.spawn(async move {
            let connection = holder.accept().await.expect("it is open").await.expect("connected");
            while let Ok((send, recv)) = connection.accept_bi().await {
                answer(send, recv).await;
            }
        });
        let connection = asker.connect(address, ALPN).await.expect("connected");
        Self { store: Store::new(), connection, _endpoint: asker, _answering: answering }
    }

    fn assemble(&self, bytes: &[u8]) -> Assembly {
        let blob = BlobHash::from_bytes(*blake3::hash(bytes).as_bytes());
        self.store.content.assemble(&blob, bytes.len() as u64).expect("an assembly")
    }

    /// Asks for what is missing, up to sixteen groups of it.
    async fn ask(&self, assembly: &Assembly, compression: Option<u8>, traffic: &Arc<Traffic>) -> Option<Result<(), FetchError>> {
        let taken = assembly.take(16 * GROUP_BYTES)?;
        let (blob, range) = (assembly.hash(), taken.range());
        let order = BlockRequest { blob, start: range.start, end: range.end, block: 2 * GROUP_BYTES, compression, pairs: 0 };
        let pace = traffic.limiter.down(EndpointId::from_bytes([2; 32]), Priority::Routine);
        let (connection, traffic) = (self.connection.clone(), Arc::clone(traffic));
        Some(request(connection, assembly.clone(), order, PATIENCE, traffic, pace, Arc::default()).await.map(drop))
    }
}

/// Fetches a blob, and says what has crossed in the eyes of both.
async fn fetched(bytes: Vec<u8>, compression: Option<u8>) -> BlockBytes {
    let source = Store::new();
    source.content.ingest_bytes(&bytes).expect("ingested");
    let (served, received) = (traffic(), traffic());
    let (content, traffic, turns) = (source.content.clone(), Arc::clone(&served), Arc::new(Turns::new()));
    let asker = Asker::of(move |send, recv| {
        let peer = EndpointId::from_bytes([1; 32]);
        let (content, traffic, turns) = (content.clone(), Arc::clone(&traffic), Arc::clone(&turns));
        async move { serve(peer, content, Arc::new(Everyone), traffic, turns, send, recv).await.expect("answered") }
    })
    .await;
    let assembly = asker.assemble(&bytes);
    while let Some(outcome) = asker.ask(&assembly, compression, &received).await {
        outcome.expect("it came");
    }
    assembly.finish().expect("it is whole");
    assert_eq!(asker.store.content.read_blob(&assembly.hash(), u64::MAX).expect("it is here"), bytes);
    let (served, received) = (served.bytes(), received.bytes());
    assert_eq!((served.served, served.saved), (received.received, received.saved));
    received
}

fn text() -> Vec<u8> {
    let lines = (0_u32..).map(|line| format!("{line:08} {:08x} is a line of a log\n", line.wrapping_mul(0x9e37_79b9)));
    lines.flat_map(String::into_bytes).take(SIZE).collect()
}

fn noise() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn text_crosses_in_a_fraction_of_its_size_and_noise_as_it_is() {
    let text = fetched(text(), Some(9)).await;
    assert!(text.received * 5 < SIZE as u64 * 2, "{text:?}");
    assert!(text.received + text.saved >= SIZE as u64, "{text:?}");
    let (asked, not_asked) = (fetched(noise(), Some(9)).await, fetched(noise(), None).await);
    assert_eq!(asked, not_asked);
    // One pair of hashes above each two blocks.
    assert!(asked.received <= SIZE as u64 + 64 * (SIZE as u64 / (2 * GROUP_BYTES)), "{asked:?}");
}

#[tokio::test]
async fn who_does_not_ask_for_compressed_blocks_gets_none() {
    let text = fetched(text(), None).await;
    assert!(text.received >= SIZE as u64 && text.saved == 0, "{text:?}");
}

#[tokio::test]
async fn compressed_blocks_that_are_not_what_they_should_be_are_refused_and_nothing_of_them_is_kept() {
    let text = text();
    let right = text[..2 * GROUP_BYTES as usize].to_vec();
    let other = text[1..=2 * GROUP_BYTES as usize].to_vec();
    let frame = compress(&right, 3).expect("text");
    let lies = [
        ("a bomb", compress(&vec![0; 1 << 26], 1).expect("zeros")),
        ("longer than the range", compress(&text[..3 * GROUP_BYTES as usize], 3).expect("text")),
        ("other bytes", compress(&other, 3).expect("text")),
        ("the right bytes without a hash above them", frame.clone()),
        ("a part of a frame", frame[..frame.len() / 2].to_vec()),
        ("a byte after the frame", [&frame[..], &[0]].concat()),
        ("no frame", right),
        ("nothing", Vec::new()),
    ];
    for (lie, bytes) in lies {
        let frame = BlockFrame::Compressed(bytes);
        let asker = Asker::of(move |mut send, mut recv| {
            let frame = frame.clone();
            async move {
                let asked = read_frame(&mut recv, Request::MAX_BYTES).await.expect("a request");
                Request::decode(&asked).expect("a request");
                // Who has heard enough may be gone.
                let _ = frame.write(&mut send, PATIENCE).await;
                let _ = send.stopped().await;
            }
        })
        .await;
        let (assembly, traffic) = (asker.assemble(&text), traffic());
        let outcome = asker.ask(&assembly, Some(3), &traffic).await.expect("something is missing");
        assert!(matches!(outcome, Err(FetchError::Content(ContentError::Corrupt(_)))), "{lie}: {outcome:?}");
        let outcome = asker.ask(&assembly, None, &traffic).await.expect("something is missing");
        assert!(matches!(outcome, Err(FetchError::Protocol(_))), "{lie}, which was not asked for: {outcome:?}");
        assert_eq!(assembly.held(), 0, "{lie}");
    }
}
