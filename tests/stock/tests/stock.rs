//! A stock client of iroh-blobs fetches from a node that lets it, and gets nothing else.

use bytes::Bytes;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{Connection, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr};
use iroh_blobs::api::Store;
use iroh_blobs::api::remote::GetProgress;
use iroh_blobs::format::collection::Collection;
use iroh_blobs::get::request::get_hash_seq_and_sizes;
use iroh_blobs::protocol::{ChunkRanges, ChunkRangesExt, GetManyRequest, GetRequest, PushRequest};
use iroh_blobs::store::mem::MemStore;
use iroh_blobs::ticket::BlobTicket;
use iroh_blobs::{BlobFormat, HashAndFormat};
use peat_blob_tests::fleet::Fleet;
use peat_blobcore::content::Content;
use peat_blobcore::model::{BlobHash, EndpointId};
use peat_blobcore::{Node, SendRequest};

const SIZE: usize = 5 * 1024 * 1024 + 4321;

/// A client that is no member.
struct Client {
    endpoint: Endpoint,
    store: MemStore,
}

impl Client {
    async fn new() -> Self {
        let builder = Endpoint::builder(presets::Minimal).secret_key(SecretKey::generate()).relay_mode(RelayMode::Disabled);
        let endpoint = builder.address_lookup(MemoryLookup::new()).bind().await.expect("it binds");
        Self { endpoint, store: MemStore::new() }
    }

    fn id(&self) -> EndpointId {
        EndpointId::from_bytes(*self.endpoint.id().as_bytes())
    }

    async fn connect(&self, node: &Node) -> Result<Connection, String> {
        let id = iroh::EndpointId::from_bytes(node.id().as_bytes()).expect("a key");
        let address = EndpointAddr::from_parts(id, node.listening_on().into_iter().map(TransportAddr::Ip));
        self.endpoint.connect(address, iroh_blobs::ALPN).await.map_err(|error| error.to_string())
    }

    async fn bytes(&self, hash: iroh_blobs::Hash) -> Bytes {
        self.store.get_bytes(hash).await.expect("it is whole")
    }
}

async fn fetch(store: &Store, connection: &Connection, what: HashAndFormat) -> Result<u64, String> {
    let progress: GetProgress = store.remote().fetch(connection.clone(), what);
    progress.complete().await.map(|stats| stats.payload_bytes_read).map_err(|error| error.to_string())
}

fn noise(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(size)
    .collect()
}

fn raw(hash: &BlobHash) -> HashAndFormat {
    HashAndFormat::raw(iroh_blobs::Hash::from_bytes(*hash.as_bytes()))
}

fn take_in(content: &Content, bytes: &[u8]) -> BlobHash {
    content.ingest_bytes(bytes).expect("it is taken in").hash
}

/// A node that serves these clients.
async fn node(fleet: &Fleet, clients: &[&Client]) -> Node {
    fleet.enroll("alpha", &[]);
    let mut builder = Node::builder(fleet.path("alpha")).listen("127.0.0.1:0".parse().expect("an address"));
    for client in clients {
        builder = builder.serve_stock(client.id());
    }
    builder.start().await.expect("it starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_client_fetches_what_was_named_resumes_and_gets_nothing_else() {
    let (fleet, client) = (Fleet::new(), Client::new().await);
    let node = node(&fleet, &[&client]).await;
    let (large, small) = (noise(SIZE, 1), noise(700, 2));
    let [large_hash, small_hash, other] = [&large, &small, &noise(300_000, 3)].map(|bytes| take_in(node.content(), bytes));
    for hash in [large_hash, small_hash] {
        node.allow_stock_blob(hash).await.expect("allowed");
    }
    let connection = client.connect(&node).await.expect("the gate lets it through");

    // Some chunks that are no whole groups, and the last one, which proves the size.
    let some = ChunkRanges::chunks(3..1100) | ChunkRanges::chunk(2001) | ChunkRanges::last_chunk();
    let request = GetRequest::blob_ranges(raw(&large_hash).hash, some);
    let stats = client.store.remote().execute_get(connection.clone(), request).complete().await.expect("served");
    // The last chunk is a short one.
    assert_eq!(stats.payload_bytes_read, 1098 * 1024 + SIZE as u64 % 1024);
    // The rest of it, and no more than that.
    let rest = fetch(&client.store, &connection, raw(&large_hash)).await.expect("served");
    assert!(rest < SIZE as u64 - 1000 * 1024, "{rest} bytes again");
    assert_eq!(client.bytes(raw(&large_hash).hash).await, large);
    fetch(&client.store, &connection, raw(&small_hash)).await.expect("served");
    assert_eq!(client.bytes(raw(&small_hash).hash).await, small);

    // What is here and was not named is refused like what is not here; so are other kinds of requests.
    for hash in [other, BlobHash::from_bytes([9; 32])] {
        assert!(fetch(&client.store, &connection, raw(&hash)).await.is_err());
    }
    let many = GetManyRequest::new(vec![raw(&small_hash).hash], iroh_blobs::protocol::ChunkRangesSeq::all());
    assert!(client.store.remote().execute_get_many(connection.clone(), many).complete().await.is_err());
    let mine = client.store.add_slice(b"of the client").await.expect("added").hash;
    let push = PushRequest::new(mine, iroh_blobs::protocol::ChunkRangesSeq::root());
    let _ = client.store.remote().execute_push(connection.clone(), push).complete().await;
    assert!(!node.content().holds(&BlobHash::from_bytes(*mine.as_bytes())).expect("readable"));

    // What is forbidden again is refused on the same connection.
    node.forbid_stock(small_hash).await.expect("forbidden");
    let empty = MemStore::new();
    assert!(fetch(&empty, &connection, raw(&small_hash)).await.is_err());
    fetch(&empty, &connection, raw(&large_hash)).await.expect("still served");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_fetches_a_distribution_as_a_collection_with_its_names() {
    let (fleet, client) = (Fleet::new(), Client::new().await);
    let node = node(&fleet, &[&client]).await;
    let files = [("a/plan.txt", noise(40_000, 4)), ("b.bin", noise(300_000, 5)), ("empty", Vec::new())];
    for (name, bytes) in &files {
        let path = fleet.path("outbox").join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(path, bytes).expect("written");
    }
    let sent = node.send(SendRequest::new(fleet.path("outbox"))).await.expect("sent");
    let named = node.allow_stock(sent.distribution).await.expect("allowed");
    let ticket: BlobTicket = named.ticket.parse().expect("a ticket of iroh-blobs");
    assert_eq!((ticket.format(), ticket.hash().as_bytes()), (BlobFormat::HashSeq, named.hash.as_bytes()));
    let connection = client.endpoint.connect(ticket.addr().clone(), iroh_blobs::ALPN).await.expect("where it says");
    // As sendme does.
    let (hashes, sizes) = get_hash_seq_and_sizes(&connection, &ticket.hash(), 1024 * 1024, None).await.expect("served");
    assert_eq!((hashes.len(), sizes.iter().skip(1).sum::<u64>()), (4, 340_000));
    fetch(&client.store, &connection, ticket.hash_and_format()).await.expect("served");
    let collection = Collection::load(ticket.hash(), &*client.store).await.expect("a collection");
    for ((name, hash), (expected, bytes)) in collection.into_iter().zip(&files) {
        assert_eq!((name.as_str(), client.bytes(hash).await.as_ref()), (*expected, bytes.as_slice()));
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_by_default_everybody_is() {
    let (fleet, listed, stranger) = (Fleet::new(), Client::new().await, Client::new().await);
    let one = node(&fleet, &[&listed]).await;
    let small = take_in(one.content(), b"small");
    one.allow_stock_blob(small).await.expect("allowed");
    let refused = async |client: &Client, node: &Node| match client.connect(node).await {
        // The gate closes it right after the handshake, which the client may have seen end.
        Ok(connection) => fetch(&client.store, &connection, raw(&small)).await.is_err(),
        Err(_) => true,
    };
    assert!(refused(&stranger, &one).await);
    assert!(!refused(&listed, &one).await);
    one.shutdown().await;

    let fleet = Fleet::new();
    let silent = node(&fleet, &[]).await;
    take_in(silent.content(), b"small");
    silent.allow_stock_blob(small).await.expect("allowed");
    let error = listed.connect(&silent).await.expect_err("the protocol is not spoken");
    assert!(error.contains("application protocol") || error.contains("peer"), "{error}");
    silent.shutdown().await;
}
