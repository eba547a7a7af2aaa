//! Nodes that know each other's ids only, and a relay of their own between them.

use std::net::SocketAddr;

use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use peat_blob_tests::fleet::{Fleet, completed, connected, contents};
use peat_blobcore::SendRequest;
use peat_blobcore::network::Relay;

async fn start() -> (Server, Relay) {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new(anywhere));
    let server = Server::spawn(config).await.expect("it starts");
    let url = format!("http://{}", server.http_addr().expect("it listens"));
    (server, url.parse().expect("a relay"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_know_no_address_of_each_other_meet_through_their_relay() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("large", [1, 2, 3, 4, 5].repeat(400_000).as_slice()), ("small", b"content")]);
    let (server, relay) = start().await;
    for name in ["alpha", "bravo"] {
        fleet.enroll(name, &[]);
    }
    let alpha = fleet.describe("alpha").relay(relay.clone()).start().await.expect("it starts");
    let bravo = fleet.describe("bravo").relay(relay).peer(alpha.id(), []).start().await.expect("it starts");
    connected(&alpha, bravo.id()).await;
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    completed(&alpha, sent.distribution).await;
    assert_eq!(contents(&fleet.inbox("bravo")), contents(&root));
    alpha.shutdown().await;
    bravo.shutdown().await;
    server.shutdown().await.expect("it ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_gone_keeps_nobody_from_a_peer_that_can_be_reached() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("file", b"content")]);
    let (server, relay) = start().await;
    server.shutdown().await.expect("it ends well");
    for name in ["alpha", "bravo"] {
        fleet.enroll(name, &[]);
    }
    let alpha = fleet.describe("alpha").relay(relay.clone()).start().await.expect("it starts");
    let bravo = fleet.describe("bravo").relay(relay).peer(alpha.id(), alpha.listening_on()).start().await.expect("it starts");
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    completed(&alpha, sent.distribution).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}
