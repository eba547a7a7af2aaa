//! Peers whose connections are let go over thin links: they are in reach, and dialled by whichever side has something to say.

use std::time::Duration;

use peat_blob_tests::fleet::{Fleet, completed, connected, contents, eventually};
use peat_blobcore::model::{DistributionId, DistributionState, EndpointId, NodeRef, Scope};
use peat_blobcore::{IdleLinks, Node, NodeEvent, SendRequest};

/// Every link is thin, and nobody looks by itself for as long as a test takes.
const THIN: IdleLinks = IdleLinks { thin: Duration::ZERO, after: Duration::from_millis(400), look: Duration::from_secs(3600) };

async fn start(fleet: &Fleet, name: &str, peers: &[&Node], idle: IdleLinks) -> Node {
    fleet.enroll(name, &[]);
    restart(fleet, name, peers, idle).await
}

/// With gossip: what is said over thin links needs none.
async fn restart(fleet: &Fleet, name: &str, peers: &[&Node], idle: IdleLinks) -> Node {
    let builder = fleet.describe(name).gossip(true).idle_links(idle);
    let described = peers.iter().fold(builder, |builder, peer| builder.peer(peer.id(), peer.addresses()));
    described.start().await.expect("the node starts")
}

async fn idle(node: &Node, peer: EndpointId) {
    eventually("its connection was let go", || async { node.idle_peers().contains(&peer) }).await;
    assert!(node.peers().contains(&peer), "who is idle is in reach");
}

async fn send(fleet: &Fleet, from: &Node, name: &str, to: &Node) -> DistributionId {
    let root = fleet.write(&format!("{name}.d"), &[(name, name.as_bytes())]);
    let request = SendRequest { scope: Scope::Nodes(vec![NodeRef::Id(to.id())]), ..SendRequest::new(root) };
    from.send(request).await.expect("it is sent").distribution
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_dials_an_idle_peer_when_it_has_something_to_say() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, "alpha", &[], THIN).await;
    let bravo = start(&fleet, "bravo", &[&alpha], THIN).await;
    idle(&alpha, bravo.id()).await;
    let mut events = alpha.events();
    let mut last = None;
    for (name, from, to) in [("first", &alpha, &bravo), ("second", &bravo, &alpha), ("third", &alpha, &bravo)] {
        idle(&alpha, bravo.id()).await;
        idle(&bravo, alpha.id()).await;
        let id = send(&fleet, from, name, to).await;
        completed(from, id).await;
        last = Some(id);
    }
    assert_eq!(contents(&fleet.inbox("bravo")).len(), 2);
    assert_eq!(contents(&fleet.inbox("alpha")).len(), 1);
    loop {
        match events.next().await.expect("alpha runs") {
            NodeEvent::Distribution { id, state: DistributionState::Completed } if Some(id) == last => break,
            event => assert!(!matches!(event, NodeEvent::PeerDown(_)), "who is idle has not gone"),
        }
    }
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_peer_that_does_not_answer_is_out_of_reach_and_comes_back_by_itself() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, "alpha", &[], THIN).await;
    let bravo = start(&fleet, "bravo", &[&alpha], THIN).await;
    idle(&alpha, bravo.id()).await;
    idle(&bravo, alpha.id()).await;
    let id = send(&fleet, &alpha, "first", &bravo).await;
    completed(&alpha, id).await;
    idle(&alpha, bravo.id()).await;
    let gone = bravo.id();
    bravo.shutdown().await;
    assert_eq!(alpha.peers(), [gone], "nothing has told alpha");
    let root = fleet.write("second.d", &[("second", b"second")]);
    let request = SendRequest { scope: Scope::Nodes(vec![NodeRef::Id(gone)]), ..SendRequest::new(root) };
    let id = alpha.send(request).await.expect("it is sent").distribution;
    eventually("alpha has noticed", || async { alpha.peers().is_empty() }).await;
    let bravo = restart(&fleet, "bravo", &[&alpha], THIN).await;
    completed(&alpha, id).await;
    assert_eq!(contents(&fleet.inbox("bravo")).len(), 2);
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_elsewhere_is_passed_on_to_an_idle_peer() {
    let fleet = Fleet::new();
    let alpha = start(&fleet, "alpha", &[], THIN).await;
    let bravo = start(&fleet, "bravo", &[&alpha], THIN).await;
    idle(&alpha, bravo.id()).await;
    idle(&bravo, alpha.id()).await;
    let charlie = start(&fleet, "charlie", &[&alpha], THIN).await;
    let id = send(&fleet, &charlie, "news", &bravo).await;
    completed(&charlie, id).await;
    assert_eq!(contents(&fleet.inbox("bravo")).len(), 1);
    for node in [alpha, bravo, charlie] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_not_thin_keeps_its_connection() {
    let fleet = Fleet::new();
    let fast = IdleLinks { thin: Duration::from_secs(60), after: Duration::from_millis(1), ..THIN };
    let alpha = start(&fleet, "alpha", &[], fast).await;
    let bravo = start(&fleet, "bravo", &[&alpha], fast).await;
    connected(&alpha, bravo.id()).await;
    let id = send(&fleet, &alpha, "news", &bravo).await;
    completed(&alpha, id).await;
    assert!(alpha.idle_peers().is_empty() && bravo.idle_peers().is_empty());
    alpha.shutdown().await;
    bravo.shutdown().await;
}
