//! Daemons within this process, spoken to over their sockets as clients do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use connectrpc::client::{ClientConfig, HttpClient};
use connectrpc::{ConnectError, ErrorCode, Protocol};
use peat_blob_tests::fleet::{DEADLINE, Fleet, contents, eventually};
use peat_blobapi::KIND_HEADER;
use peat_blobapi::blob::{self, BlobServiceClient, oneof};
use peat_blobapi::health::health_check_response::ServingStatus;
use peat_blobapi::health::{self, HealthClient};
use peat_blobapi::reflection;
use peat_blobapi::sidecar::{self, PeatSidecarClient};
use peat_blobcore::model::EndpointId;
use peat_blobd::config::{Listen, StaticPeer, Token};
use peat_blobd::{Config, Running};
use sha2::Digest as _;

fn config(fleet: &Fleet, name: &str) -> Config {
    let loopback = ([127, 0, 0, 1], 0).into();
    Config {
        listen: vec![Listen::Tcp(loopback)],
        iroh_listen: vec![loopback],
        inbox: Some(fleet.inbox(name)),
        outbox: BTreeMap::from([("out".to_owned(), fleet.path("outbox"))]),
        gossip: false,
        ..Config::new(fleet.path(name))
    }
}

async fn start(fleet: &Fleet, name: &str, peers: &[&Running]) -> Running {
    if !fleet.path(name).exists() {
        fleet.enroll(name, &[]);
    }
    let peer = |peer: &&Running| StaticPeer {
        id: peer.node().id(),
        hosts: peer.node().listening_on().iter().map(ToString::to_string).collect(),
    };
    let config = Config { peers: peers.iter().map(peer).collect(), ..config(fleet, name) };
    Running::start(config).await.expect("it starts")
}

fn authority(daemon: &Running) -> String {
    let Listen::Tcp(address) = &daemon.addresses()[0] else { panic!("it listens on TCP") };
    address.to_string()
}

fn client(daemon: &Running, protocol: Protocol) -> (ClientConfig, HttpClient) {
    let uri = format!("http://{}", authority(daemon)).parse().expect("an address");
    let http = if protocol == Protocol::Grpc { HttpClient::plaintext_http2_only() } else { HttpClient::plaintext() };
    (ClientConfig::new(uri).with_protocol(protocol).with_default_timeout(DEADLINE), http)
}

fn native(daemon: &Running, protocol: Protocol) -> BlobServiceClient<HttpClient> {
    let (config, http) = client(daemon, protocol);
    BlobServiceClient::new(http, config)
}

fn attachments(daemon: &Running) -> PeatSidecarClient<HttpClient> {
    let (config, http) = client(daemon, Protocol::Connect);
    PeatSidecarClient::new(http, config.json())
}

fn to(node: EndpointId) -> blob::Scope {
    let nodes = blob::scope::Nodes { nodes: vec![node.to_string()], ..Default::default() };
    blob::Scope { scope: Some(nodes.into()), ..Default::default() }
}

async fn completed(client: &BlobServiceClient<HttpClient>, id: &str) -> blob::GetDistributionResponse {
    eventually("it is completed", || async {
        let request = blob::GetDistributionRequest { distribution_id: id.to_owned(), ..Default::default() };
        let found = client.get_distribution(request).await.expect("known").into_owned();
        found.distribution.state == blob::DistributionState::DISTRIBUTION_STATE_COMPLETED
    })
    .await;
    let request = blob::GetDistributionRequest { distribution_id: id.to_owned(), files: true, ..Default::default() };
    client.get_distribution(request).await.expect("known").into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_sent_through_the_api_arrives_over_each_protocol() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("a", b"one"), ("d/b", b"two"), ("empty", b"")]);
    let alpha = start(&fleet, "alpha", &[]).await;
    let bravo = start(&fleet, "bravo", &[&alpha]).await;
    for protocol in [Protocol::Connect, Protocol::Grpc, Protocol::GrpcWeb] {
        let client = native(&alpha, protocol);
        let options = blob::SendOptions { scope: to(bravo.node().id()).into(), ..Default::default() };
        let request = blob::SendPathRequest { root: root.display().to_string(), options: options.into(), ..Default::default() };
        let sent = client.send_path(request).await.expect("sent").into_owned();
        assert_eq!((sent.file_count, sent.bytes, sent.skipped.len()), (3, 6, 0), "{protocol:?}");
        let done = completed(&client, &sent.distribution_id).await;
        assert!(done.targets[0].receipt && done.targets[0].name == "bravo", "{done:?}");
        assert!(done.files.iter().all(|file| file.held), "{done:?}");
        // The beginning of an id will do.
        completed(&client, &sent.distribution_id[..8]).await;
        let node = client.get_node(blob::GetNodeRequest::default()).await.expect("it answers").into_owned();
        assert_eq!((node.name.as_str(), node.connected_peers, node.enrolled), ("alpha", 1, true));
    }
    assert_eq!(contents(&fleet.inbox("bravo")), contents(&root));
    let client = native(&alpha, Protocol::Connect);
    let page = |limit, after: &str| blob::ListDistributionsRequest { limit, after: after.to_owned(), ..Default::default() };
    let first = client.list_distributions(page(2, "")).await.expect("listed").into_owned();
    assert_eq!((first.distributions.len(), first.total), (2, 3));
    let rest = client.list_distributions(page(0, &first.next)).await.expect("listed").into_owned();
    assert_eq!((rest.distributions.len(), rest.next.as_str()), (1, ""));
    alpha.stop().await;
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_files_arrive_and_can_be_read_back_where_they_are_held() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, "alpha", &[]).await;
    let bravo = start(&fleet, "bravo", &[&alpha]).await;
    let large = [1, 2, 3, 4, 5, 6, 7].repeat(200_000);
    let part = |part| blob::SendStreamRequest { part: Some(part), ..Default::default() };
    let file = |path: &str| blob::StreamedFile { path: path.into(), mode: 0o640, mtime: 1_000_000, ..Default::default() };
    let options = blob::SendOptions { scope: to(bravo.node().id()).into(), ..Default::default() };
    let mut parts = vec![part(options.into()), part(file("a/large").into())];
    parts.extend(large.chunks(1 << 20).map(|chunk| part(oneof::send_stream_request::Part::Chunk(chunk.to_vec()))));
    parts.push(part(blob::StreamedFile { content_type: "text/plain".to_owned(), ..file("small") }.into()));
    parts.push(part(oneof::send_stream_request::Part::Chunk(b"small".to_vec())));
    let sent = native(&alpha, Protocol::Connect).send_stream(n0_future::stream::iter(parts)).await.expect("sent").into_owned();
    assert_eq!(sent.file_count, 2);
    completed(&native(&alpha, Protocol::Connect), &sent.distribution_id).await;
    let inbox = contents(&fleet.inbox("bravo"));
    assert!(inbox[Path::new("a/large")] == large && inbox[Path::new("small")] == b"small");
    let id = sent.distribution_id.parse().expect("an id");
    let told = bravo.node().files(id).await.expect("known").expect("listed").into_iter().map(|file| file.content_type);
    assert_eq!(told.collect::<Vec<_>>(), [None, Some("text/plain".to_owned())]);
    let modified = std::fs::metadata(fleet.inbox("bravo").join("small")).expect("delivered").modified().expect("a time");
    assert_eq!(modified, std::time::UNIX_EPOCH + Duration::from_secs(1000));
    assert_eq!(contents(&fleet.path("alpha/content/tmp")), BTreeMap::new(), "what was streamed waits nowhere any more");
    let blob = sent.files[0].blob.clone();
    let reader = native(&bravo, Protocol::Grpc);
    let mut stream = reader.read_blob(blob::ReadBlobRequest { blob, ..Default::default() }).await.expect("held");
    let mut read = Vec::new();
    while let Some(message) = stream.message().await.expect("intact") {
        read.extend_from_slice(&message.to_owned_message().chunk);
    }
    assert!(read == large);
    alpha.stop().await;
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_names_a_path_outside_or_ends_early_sends_nothing() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, "alpha", &[]).await;
    let client = native(&alpha, Protocol::Connect);
    let part = |part| blob::SendStreamRequest { part: Some(part), ..Default::default() };
    let all = blob::Scope { scope: Some(blob::scope::All::default().into()), ..Default::default() };
    let options = || part(blob::SendOptions { scope: all.clone().into(), ..Default::default() }.into());
    for path in ["../outside", "/absolute", "", "a//b"] {
        let file = part(blob::StreamedFile { path: path.into(), ..Default::default() }.into());
        let error = client.send_stream(n0_future::stream::iter(vec![options(), file])).await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{path:?}: {error}");
    }
    for parts in [vec![], vec![options()], vec![part(oneof::send_stream_request::Part::Chunk(vec![1]))]] {
        client.send_stream(n0_future::stream::iter(parts)).await.expect_err("refused");
    }
    assert!(alpha.node().distributions().is_empty() && !fleet.path("alpha").join("outside").exists());
    let file = |path: &str| part(blob::StreamedFile { path: path.into(), ..Default::default() }.into());
    for (one, other) in [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/b/c", "a")] {
        let error =
            client.send_stream(n0_future::stream::iter(vec![options(), file(one), file(other)])).await.expect_err("refused");
        assert!(error.message.as_deref().is_some_and(|message| message.starts_with("file.path")), "{one} {other}: {error}");
    }
    // A caller who goes in the middle of a file.
    let chunk = part(oneof::send_stream_request::Part::Chunk(vec![7; 100_000]));
    let begun = n0_future::stream::iter(vec![options(), file("a"), chunk]);
    let sending = client.send_stream(n0_future::StreamExt::chain(begun, n0_future::stream::pending()));
    tokio::select! {
        sent = sending => panic!("it waits for the rest: {:?}", sent.map(|_| ())),
        () = eventually("it is written", || async { !contents(&fleet.path("alpha/content/tmp")).is_empty() }) => {}
    }
    eventually("it is gone", || async { contents(&fleet.path("alpha/content/tmp")).is_empty() }).await;
    assert_eq!(alpha.node().content().usage().expect("usage").blobs, 0, "nothing of it is kept");
    assert!(alpha.node().distributions().is_empty());
    alpha.stop().await;
}

fn spec(path: &str, content: &[u8]) -> sidecar::FileSpec {
    sidecar::FileSpec {
        root_name: "out".to_owned(),
        relative_path: path.to_owned(),
        size_bytes: content.len() as u64,
        sha256: sha2::Sha256::digest(content).to_vec(),
        ..Default::default()
    }
}

fn all_nodes() -> sidecar::DistributionScopeSpec {
    sidecar::DistributionScopeSpec { scope: Some(sidecar::AllNodes::default().into()), ..Default::default() }
}

fn attach(files: Vec<sidecar::FileSpec>, bundle: &str) -> sidecar::SendAttachmentsRequest {
    let bundle_id = Some(bundle.to_owned());
    sidecar::SendAttachmentsRequest { files, scope: all_nodes().into(), bundle_id, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn attachments_arrive_one_distribution_a_file_and_the_same_call_is_answered_the_same_after_a_restart() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("a", b"one"), ("d/b", b"two")]);
    let alpha = start(&fleet, "alpha", &[]).await;
    let call = || attach(vec![spec("a", b"one"), spec("d/b", b"two")], "bundle");
    let sent = attachments(&alpha).send_attachments(call()).await.expect("sent").into_owned();
    assert_eq!((sent.bundle_id.as_str(), sent.handles.len(), sent.handles[1].file_index), ("bundle", 2, 1));
    // Nobody is there: that is not completed, and says why.
    let ask = |id: &str| sidecar::GetAttachmentDistributionRequest { distribution_id: id.to_owned(), ..Default::default() };
    let first = sent.handles[0].distribution_id.clone();
    let waits = attachments(&alpha).get_attachment_distribution(ask(&first)).await.expect("known").into_owned();
    assert_eq!(waits.status, sidecar::DistributionStatus::DISTRIBUTION_STATUS_PENDING);
    assert!(waits.error.is_some_and(|error| error.starts_with("no targets")));
    alpha.stop().await;
    let alpha = start(&fleet, "alpha", &[]).await;
    let bravo = start(&fleet, "bravo", &[&alpha]).await;
    let mut stream = attachments(&alpha)
        .subscribe_attachment_bundle(sidecar::SubscribeAttachmentBundleRequest {
            bundle_id: "bundle".into(),
            ..Default::default()
        })
        .await
        .expect("known");
    let mut last = BTreeMap::new();
    while let Some(frame) = stream.message().await.expect("it ends well") {
        let frame = frame.to_owned_message();
        last.insert(frame.distribution_id, frame.status);
    }
    assert_eq!(last.len(), 2);
    assert!(last.values().all(|status| *status == sidecar::DistributionStatus::DISTRIBUTION_STATUS_COMPLETED), "{last:?}");
    assert_eq!(contents(&fleet.inbox("bravo")), contents(&root));
    let again = attachments(&alpha).send_attachments(call()).await.expect("answered").into_owned();
    assert_eq!(again.handles, sent.handles);
    let other = attach(vec![spec("a", b"one")], "bundle");
    let error = attachments(&alpha).send_attachments(other).await.expect_err("another list");
    assert_eq!(error.code, ErrorCode::AlreadyExists);
    let cancel = sidecar::CancelAttachmentDistributionRequest { distribution_id: first, ..Default::default() };
    let cancelled = attachments(&alpha).cancel_attachment_distribution(cancel).await.expect("known").into_owned();
    assert!(!cancelled.was_cancelled, "it had ended before");
    alpha.stop().await;
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_that_is_not_what_is_claimed_stops_the_whole_call() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("a", b"one"), ("d/b", b"two")]);
    std::fs::write(fleet.path("secret"), "secret").expect("written");
    std::os::unix::fs::symlink(fleet.path("secret"), root.join("link")).expect("made");
    let alpha = start(&fleet, "alpha", &[]).await;
    let client = attachments(&alpha);
    let wrong = |change: fn(&mut sidecar::FileSpec)| {
        let mut spec = spec("d/b", b"two");
        change(&mut spec);
        attach(vec![self::spec("a", b"one"), spec], "bundle")
    };
    let cases: [(sidecar::SendAttachmentsRequest, ErrorCode, &str); 9] = [
        (wrong(|file| file.root_name = "other".into()), ErrorCode::InvalidArgument, "files[1].root_name"),
        (wrong(|file| file.relative_path = "../secret".into()), ErrorCode::InvalidArgument, "files[1].relative_path"),
        (wrong(|file| file.relative_path = "link".into()), ErrorCode::InvalidArgument, "files[1].relative_path"),
        (wrong(|file| file.relative_path = "d".into()), ErrorCode::InvalidArgument, "files[1].relative_path"),
        (wrong(|file| file.size_bytes = 4), ErrorCode::InvalidArgument, "files[1].size_bytes"),
        (wrong(|file| file.sha256[0] ^= 1), ErrorCode::InvalidArgument, "files[1].sha256"),
        (wrong(|file| file.sha256.truncate(31)), ErrorCode::InvalidArgument, "files[1].sha256"),
        (attach(vec![], "bundle"), ErrorCode::InvalidArgument, "files"),
        (
            sidecar::SendAttachmentsRequest { files: vec![spec("a", b"one")], ..Default::default() },
            ErrorCode::InvalidArgument,
            "scope",
        ),
    ];
    for (request, code, field) in cases {
        let error: ConnectError = client.send_attachments(request).await.expect_err("refused");
        assert_eq!(error.code, code, "{field}: {error}");
        assert!(error.message.as_deref().is_some_and(|message| message.starts_with(field)), "{field}: {error}");
    }
    assert!(alpha.node().distributions().is_empty(), "nothing was sent");
    let unknown = sidecar::GetAttachmentDistributionRequest { distribution_id: "00".repeat(32), ..Default::default() };
    assert_eq!(client.get_attachment_distribution(unknown).await.expect_err("unknown").code, ErrorCode::NotFound);
    alpha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_connected_listed_left_alone_and_connected_again() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, "alpha", &[]).await;
    let bravo = start(&fleet, "bravo", &[]).await;
    let client = native(&alpha, Protocol::Connect);
    let endpoint_id = bravo.node().id().to_string();
    let addresses: Vec<String> = bravo.node().listening_on().iter().map(|at| format!("localhost:{}", at.port())).collect();
    let is_connected = || async {
        let peers = client.list_peers(blob::ListPeersRequest::default()).await.expect("listed").into_owned().peers;
        peers.iter().any(|peer| peer.endpoint_id == endpoint_id && peer.connected)
    };
    for _ in 0..2 {
        let connect =
            blob::ConnectPeerRequest { endpoint_id: endpoint_id.clone(), addresses: addresses.clone(), ..Default::default() };
        client.connect_peer(connect).await.expect("it can be dialled");
        eventually("connected", is_connected).await;
        let disconnect = blob::DisconnectPeerRequest { endpoint_id: endpoint_id.clone(), ..Default::default() };
        assert!(client.disconnect_peer(disconnect).await.expect("told").into_owned().was_connected);
        eventually("left alone", || async { !is_connected().await }).await;
    }
    let nonsense = blob::ConnectPeerRequest { endpoint_id: "bravo".into(), addresses, ..Default::default() };
    let error = client.connect_peer(nonsense).await.expect_err("no id");
    assert_eq!(error.response_headers()[KIND_HEADER], "usage");
    alpha.stop().await;
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_behind_a_relay_is_dialled_only_where_the_node_uses_it() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, "alpha", &[]).await;
    let stranger = fleet.enroll("bravo", &[]).id();
    let connect = |relay_url: &str| sidecar::ConnectPeerRequest {
        endpoint_id: stranger.to_string(),
        relay_url: relay_url.into(),
        ..Default::default()
    };
    for (relay, code) in [
        ("", ErrorCode::InvalidArgument),
        ("relay.example", ErrorCode::InvalidArgument),
        ("https://relay.example", ErrorCode::FailedPrecondition),
    ] {
        let error = attachments(&alpha).connect_peer(connect(relay)).await.expect_err(relay);
        assert_eq!(error.code, code, "{error}");
    }
    alpha.stop().await;
    let relays = vec!["https://relay.example".parse().expect("a relay")];
    let alpha = Running::start(Config { relays, ..config(&fleet, "alpha") }).await.expect("it starts");
    attachments(&alpha).connect_peer(connect("https://relay.example/")).await.expect("it is dialled from now on");
    alpha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_watched_until_the_daemon_ends() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, "alpha", &[]).await;
    let client = native(&alpha, Protocol::Connect);
    let mut stream = client.watch(blob::WatchRequest::default()).await.expect("watched");
    let bravo = start(&fleet, "bravo", &[&alpha]).await;
    let (mut told, mut sequence) = (Vec::new(), None);
    loop {
        let event = stream.message().await.expect("it goes on").expect("it goes on").to_owned_message();
        assert_eq!(event.sequence, *sequence.get_or_insert(event.sequence), "none is left out");
        sequence = sequence.map(|sequence| sequence + 1);
        told.push(event.clone());
        if event.event == Some(oneof::watch_response::Event::PeerUp(bravo.node().id().to_string())) {
            break;
        }
    }
    // Whoever was away reads on from where he was, and is told the same.
    for after in 0..told.len() - 1 {
        let request = blob::WatchRequest { after: Some(told[after].sequence), ..Default::default() };
        let mut again = client.watch(request).await.expect("watched");
        for event in &told[after + 1..] {
            let heard = again.message().await.expect("it goes on").expect("it goes on").to_owned_message();
            assert_eq!(heard, *event);
        }
    }
    // Of another life nothing is kept, and that is said.
    let request = blob::WatchRequest { after: Some(1), ..Default::default() };
    let heard = client.watch(request).await.expect("watched").message().await.expect("told").expect("told").to_owned_message();
    assert_eq!(heard.event, Some(oneof::watch_response::Event::Missed(0)));
    // The watcher does not keep the daemon from ending.
    alpha.stop().await;
    while stream.message().await.expect("it ends well").is_some() {}
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_a_token_is_needed_where_there_is_one_and_browsers_are_kept_out_where_there_is_none() {
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    let alpha = Running::start(Config { token: Some(Token::new("secret")), ..config(&fleet, "alpha") }).await.expect("it starts");
    let (plain, http) = client(&alpha, Protocol::Connect);
    let ask = async |config: ClientConfig| {
        BlobServiceClient::new(http.clone(), config).get_node(blob::GetNodeRequest::default()).await.map(|_| ())
    };
    assert_eq!(ask(plain.clone()).await.expect_err("refused").code, ErrorCode::Unauthenticated);
    let wrong = plain.clone().with_default_header("authorization", "Bearer secre");
    assert_eq!(ask(wrong).await.expect_err("refused").code, ErrorCode::Unauthenticated);
    ask(plain.clone().with_default_header("authorization", "Bearer secret")).await.expect("let in");
    alpha.stop().await;
    fleet.enroll("bravo", &[]);
    let bravo = start(&fleet, "bravo", &[]).await;
    let (plain, http) = client(&bravo, Protocol::Connect);
    let page = plain.clone().with_default_header("origin", "http://example.org");
    let ask = BlobServiceClient::new(http.clone(), page).get_node(blob::GetNodeRequest::default()).await;
    assert_eq!(ask.map(|_| ()).expect_err("refused").code, ErrorCode::Unauthenticated);
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_as_grpc_has_it_to_all_and_watched_until_the_end() {
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    let alpha = Running::start(Config { token: Some(Token::new("secret")), ..config(&fleet, "alpha") }).await.expect("it starts");
    let (plain, http) = client(&alpha, Protocol::Grpc);
    let request = |service: &str| health::HealthCheckRequest { service: service.to_owned(), ..Default::default() };
    // Without the token: whether the daemon lives is for all to know.
    let stranger = HealthClient::new(http.clone(), plain.clone());
    for service in ["", "peat.blob.v1.BlobService", "peat.sidecar.v1.PeatSidecar"] {
        let answer = stranger.check(request(service)).await.expect("answered").into_owned();
        assert!(answer.status == ServingStatus::SERVING, "{service}: {answer:?}");
    }
    assert_eq!(stranger.check(request("peat.blob.v1.Blob")).await.map(|_| ()).expect_err("unknown").code, ErrorCode::NotFound);
    let client = HealthClient::new(http, plain.with_default_header("authorization", "Bearer secret"));
    let mut unknown = client.watch(request("peat.blob.v1.Blob")).await.expect("watched");
    let mut watched = client.watch(request("")).await.expect("watched");
    let mut states = Vec::new();
    for stream in [&mut unknown, &mut watched] {
        states.push(stream.message().await.expect("told").expect("told").to_owned_message().status);
    }
    alpha.stop().await;
    states.push(watched.message().await.expect("told").expect("told").to_owned_message().status);
    assert_eq!(
        states.iter().map(|state| state.to_i32()).collect::<Vec<_>>(),
        [ServingStatus::SERVICE_UNKNOWN, ServingStatus::SERVING, ServingStatus::NOT_SERVING].map(|state| state as i32)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_told_to_clients_that_do_not_have_it() {
    use reflection::v1::oneof::server_reflection_request::MessageRequest;
    use reflection::v1::oneof::server_reflection_response::MessageResponse;
    let fleet = Fleet::new();
    let alpha = start(&fleet, "alpha", &[]).await;
    let (config, http) = client(&alpha, Protocol::Grpc);
    let mut stream = reflection::v1::ServerReflectionClient::new(http, config).server_reflection_info().await.expect("served");
    let mut ask = async |message: MessageRequest| {
        let request = reflection::v1::ServerReflectionRequest { message_request: Some(message), ..Default::default() };
        stream.send(request).await.expect("asked");
        stream.message().await.expect("answered").expect("answered").to_owned_message().message_response.expect("an answer")
    };
    let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())).await else {
        panic!("services were asked for")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names.len(), 7, "{names:?}");
    for symbol in names.into_iter().chain(["peat.blob.v1.Scope.Nodes", "peat.blob.v1.Priority", "peat.blob.v1.BlobService.Watch"])
    {
        let MessageResponse::FileDescriptorResponse(found) = ask(MessageRequest::FileContainingSymbol(symbol.to_owned())).await
        else {
            panic!("{symbol} is in the contract")
        };
        assert!(!found.file_descriptor_proto[0].is_empty(), "{symbol}");
    }
    let MessageResponse::ErrorResponse(error) = ask(MessageRequest::FileContainingSymbol("peat.blob.v1".to_owned())).await else {
        panic!("a package is no symbol")
    };
    assert_eq!(error.error_code, 5);
    // Who has not ended asking hears that the daemon ends.
    let told = async move { stream.message().await.expect("it ends well").is_none() };
    assert!(tokio::join!(told, alpha.stop()).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_whose_socket_is_taken_ends_and_leaves_its_data_to_the_next() {
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address");
    let config = Config { listen: vec![Listen::Tcp(address)], ..config(&fleet, "alpha") };
    let Err(error) = Running::start(config.clone()).await else { panic!("the port is taken") };
    assert!(error.to_string().contains(&address.to_string()) && error.hint().is_some(), "{error}");
    drop(taken);
    Running::start(config).await.expect("nothing holds the data directory").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_where_the_socket_should_be_is_left_alone_and_a_socket_of_a_dead_daemon_is_not() {
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    let path = fleet.path("api.sock");
    std::fs::write(&path, "somebody's").expect("written");
    let config = Config { listen: vec![Listen::Unix(path.clone())], ..config(&fleet, "alpha") };
    assert!(Running::start(config.clone()).await.is_err(), "the place is taken");
    assert_eq!(std::fs::read(&path).expect("still there"), b"somebody's");
    std::fs::remove_file(&path).expect("removed");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket that nobody serves any more"));
    Running::start(config).await.expect("it is taken over").stop().await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_is_sent_under_its_own_name_and_its_directorys() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("one", b"1"), ("two", b"2")]);
    let alpha = start(&fleet, "alpha", &[]).await;
    let all = blob::Scope { scope: Some(blob::scope::All::default().into()), ..Default::default() };
    let options = blob::SendOptions { scope: all.into(), ..Default::default() };
    let root = root.join("one").display().to_string();
    let client = native(&alpha, Protocol::Connect);
    let sent = client.send_path(blob::SendPathRequest { root, options: options.into(), ..Default::default() });
    let sent = sent.await.expect("sent").into_owned();
    assert_eq!((sent.files.len(), sent.files[0].path.as_slice()), (1, b"one".as_slice()));
    let request = blob::GetDistributionRequest { distribution_id: sent.distribution_id, ..Default::default() };
    let found = client.get_distribution(request).await.expect("known").into_owned();
    assert_eq!(found.distribution.root_name, "outbox");
    alpha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_warns_of_a_store_that_has_no_room_and_of_no_other() {
    let fleet = Fleet::new();
    for (name, store_reserve, warns) in [("alpha", 0, false), ("bravo", u64::MAX, true)] {
        fleet.enroll(name, &[]);
        let daemon = Running::start(Config { store_reserve, ..config(&fleet, name) }).await.expect("it starts");
        let node =
            native(&daemon, Protocol::Connect).get_node(blob::GetNodeRequest::default()).await.expect("known").into_owned();
        assert_eq!(node.warnings.iter().any(|warning| warning.contains("no room")), warns, "{name}: {:?}", node.warnings);
        daemon.stop().await;
    }
}

fn beneath(path: &str) -> sidecar::RootPath {
    sidecar::RootPath { root_name: "out".into(), relative_path: path.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_taken_in_given_out_looked_at_and_listed() {
    use sidecar::oneof::{export_blob_request as export, get_blob_status_request as status, import_blob_request as import};
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("file", &[7; 100_000]), ("taken", b"something else"), ("directory/one", b"only")]);
    std::os::unix::fs::symlink("huge", root.join("link")).expect("a link");
    std::fs::File::create(root.join("huge")).expect("a file").set_len(2_000_000).expect("a hole");
    fleet.enroll("alpha", &[]);
    let limited = Config { max_file_bytes: Some(1_000_000), ..config(&fleet, "alpha") };
    let alpha = Running::start(limited).await.expect("it starts");
    let client = attachments(&alpha);
    let import = |source: import::Source, digest: Option<&str>, pin: Option<&str>| {
        client.import_blob(sidecar::ImportBlobRequest {
            source: Some(source),
            expected_digest: digest.map(str::to_owned),
            pin_name: pin.map(str::to_owned),
            ..Default::default()
        })
    };
    let digest = |bytes: &[u8]| {
        format!("sha256:{}", sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };

    let bytes =
        import(import::Source::Data(b"bytes".to_vec()), Some(&digest(b"bytes")), Some("mine")).await.expect("taken").into_owned();
    assert_eq!((bytes.digest.as_str(), bytes.size_bytes, bytes.already_present), (digest(b"bytes").as_str(), 5, false));
    let again = import(import::Source::Data(b"bytes".to_vec()), None, None).await.expect("taken").into_owned();
    assert!(again.already_present && again.blob_token == bytes.blob_token);
    let file = import(import::Source::RootPath(Box::new(beneath("file"))), None, None).await.expect("taken").into_owned();
    assert_eq!((file.digest.as_str(), file.size_bytes), (digest(&[7; 100_000]).as_str(), 100_000));
    for (path, expected, code) in [
        ("directory", None, ErrorCode::InvalidArgument),
        ("taken", Some(digest(b"another")), ErrorCode::InvalidArgument),
        ("link", None, ErrorCode::ResourceExhausted),
        ("nothing", None, ErrorCode::InvalidArgument),
    ] {
        let refused = import(import::Source::RootPath(Box::new(beneath(path))), expected.as_deref(), None).await;
        assert_eq!(refused.expect_err("refused").code, code, "{path}");
    }

    let status =
        |blob: status::Blob| client.get_blob_status(sidecar::GetBlobStatusRequest { blob: Some(blob), ..Default::default() });
    let found = status(status::Blob::BlobToken(bytes.blob_token.clone())).await.expect("told").into_owned();
    assert_eq!((found.state.to_i32(), found.size_bytes, found.bytes_held), (3, 5, 5));
    assert!(found.pins.contains(&"user:mine".to_owned()), "{:?}", found.pins);
    let found = status(status::Blob::Digest(digest(b"never"))).await.expect("told").into_owned();
    assert_eq!((found.state.to_i32(), found.pins.len(), found.holders.len()), (1, 0, 0));
    for refused in [b"something else".as_slice(), b"only"] {
        let found = status(status::Blob::Digest(digest(refused))).await.expect("told").into_owned();
        assert_eq!(found.state.to_i32(), 1, "what was refused is not here");
    }
    let sha512 = format!("sha512:{}", "0".repeat(128));
    assert_eq!(status(status::Blob::Digest(sha512)).await.expect_err("not known by that").code, ErrorCode::InvalidArgument);

    let export = |blob: &str, path: &str| {
        client.export_blob(sidecar::ExportBlobRequest {
            blob: Some(export::Blob::BlobToken(blob.to_owned())),
            target: Some(export::Target::RootPath(Box::new(beneath(path)))),
            ..Default::default()
        })
    };
    let written = export(&file.blob_token, "new/copy").await.expect("given out").into_owned();
    assert!(written.bytes_written == 100_000 && [1, 2].contains(&written.method.to_i32()), "{written:?}");
    assert_eq!(std::fs::read(root.join("new/copy")).expect("there"), [7; 100_000]);
    assert_eq!(export(&file.blob_token, "new/copy").await.expect("there").into_owned().method.to_i32(), 4);
    let error = export(&file.blob_token, "taken").await.expect_err("it is something else");
    assert_eq!(error.code, ErrorCode::FailedPrecondition, "{error:?}");
    assert_eq!(std::fs::read(root.join("taken")).expect("there"), b"something else");
    assert_eq!(contents(&root.join("new")).len(), 1, "nothing unfinished is left");

    let list = |request: sidecar::ListBlobsRequest| client.list_blobs(request);
    let pinned = sidecar::ListBlobsRequest { pin_prefix: Some("user:".into()), ..Default::default() };
    let listed = list(pinned).await.expect("listed").into_owned();
    assert_eq!(listed.blobs.iter().map(|blob| blob.blob_token.as_str()).collect::<Vec<_>>(), [bytes.blob_token.as_str()]);
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(sidecar::ListBlobsRequest { page_size: 1, page_token: token, ..Default::default() })
            .await
            .expect("listed")
            .into_owned();
        seen.extend(page.blobs.iter().map(|blob| blob.digest.clone()));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert!(seen.len() == 2 && seen.contains(&digest(b"bytes")) && seen.contains(&digest(&[7; 100_000])), "{seen:?}");

    // What makes no sense is said, by field, and changes nothing.
    let refused = [
        import(import::Source::Data(vec![0; (4 << 20) + 1]), None, None).await.expect_err("too much"),
        import(import::Source::Data(b"bytes".to_vec()), Some("sha256:00"), None).await.expect_err("no digest"),
        import(import::Source::Data(b"x".to_vec()), Some(&digest(b"y")), None).await.expect_err("another digest"),
        import(import::Source::Data(b"x".to_vec()), None, Some("")).await.expect_err("no name"),
        import(import::Source::RootPath(Box::new(beneath("../file"))), None, None).await.expect_err("outside"),
        import(import::Source::RootPath(Box::new(beneath("missing"))), None, None).await.expect_err("not there"),
        client.import_blob(sidecar::ImportBlobRequest::default()).await.expect_err("nothing"),
        client.export_blob(sidecar::ExportBlobRequest::default()).await.expect_err("nothing"),
        export("zz", "copy").await.expect_err("no hash"),
        export(&file.blob_token, "../copy").await.expect_err("outside"),
        list(sidecar::ListBlobsRequest { page_token: "zz".into(), ..Default::default() }).await.expect_err("no token"),
    ];
    for error in refused {
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{error:?}");
    }
    alpha.stop().await;
}
