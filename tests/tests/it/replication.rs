//! Documents between nodes: whatever the topology, the order and the clocks, all come to have the same.

use std::time::Duration;

use peat_blob_tests::fleet::{DEADLINE, Fleet, connected, contents, eventually};
use peat_blob_tests::raw::TestClock;
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::model::{Carry, DistributionId, DistributionState, EndpointId, NodeRef, Scope, Timestamp};
use peat_blobcore::{Node, SendRequest};

/// Something that nobody but the documents' ways is tested by: for a node that is not there.
async fn send(fleet: &Fleet, node: &Node, name: &str, to: EndpointId) -> DistributionId {
    let root = fleet.write(name, &[(name, b"content")]);
    let scope = Scope::Nodes(vec![NodeRef::Id(to)]);
    let request = SendRequest { scope, carry: Carry::None, ..SendRequest::new(&root) };
    node.send(request).await.expect("sent").distribution
}

async fn knows(node: &Node, ids: &[DistributionId]) {
    eventually("the documents are there", || async { ids.iter().all(|id| node.distributions().contains(id)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_different_documents_come_to_have_the_same() {
    let fleet = Fleet::new();
    let absent = fleet.enroll("absent", &[]).id();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[]).await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(send(&fleet, &alpha, &format!("alpha-{number}"), absent).await);
        ids.push(send(&fleet, &bravo, &format!("bravo-{number}"), absent).await);
    }
    alpha.add_peer(bravo.id(), bravo.listening_on()).await;
    knows(&alpha, &ids).await;
    knows(&bravo, &ids).await;
    assert_eq!(alpha.distributions(), bravo.distributions());
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_go_along_a_chain_as_they_come_to_be_and_after_restarts() {
    let fleet = Fleet::new();
    let absent = fleet.enroll("absent", &[]).id();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    let charlie = fleet.start("charlie", &[&bravo]).await;
    connected(&bravo, charlie.id()).await;
    let live = send(&fleet, &alpha, "live", absent).await;
    knows(&charlie, &[live]).await;
    charlie.shutdown().await;
    let missed = send(&fleet, &alpha, "missed", absent).await;
    knows(&bravo, &[missed]).await;
    alpha.shutdown().await;
    let charlie = fleet.restart("charlie", &[&bravo]).await;
    knows(&charlie, &[live, missed]).await;
    bravo.shutdown().await;
    charlie.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_wrong_clock_loses_nothing_of_others_and_takes_part_once_it_is_right() {
    let far = Timestamp::from_millis(4_070_908_800_000);
    for wrong in [Timestamp::from_millis(0), far] {
        let fleet = Fleet::new();
        let absent = fleet.enroll("absent", &[]).id();
        // Certificates do not end in between: what is shown here is the clock's doing alone.
        for name in ["alpha", "bravo", "lost"] {
            fleet.enroll_until(name, far.plus(Duration::from_secs(3600)));
        }
        let alpha = fleet.restart("alpha", &[]).await;
        let bravo = fleet.restart("bravo", &[&alpha]).await;
        let before = send(&fleet, &alpha, "before", absent).await;
        knows(&bravo, &[before]).await;
        let lost = fleet.describe("lost").clock(TestClock::at(wrong)).peer(alpha.id(), alpha.listening_on());
        let lost = lost.start().await.expect("it starts");
        connected(&alpha, lost.id()).await;
        let sent = send(&fleet, &lost, "lost", absent).await;
        let after = send(&fleet, &alpha, "after", absent).await;
        knows(&bravo, &[before, after]).await;
        knows(&alpha, &[before, after]).await;
        lost.shutdown().await;
        let lost = fleet.describe("lost").clock(TestClock::at(SystemClock.now())).peer(alpha.id(), alpha.listening_on());
        let lost = lost.start().await.expect("it starts");
        knows(&lost, &[before, after]).await;
        if wrong == far {
            assert!(lost.distributions().contains(&sent), "what has not expired is still there");
        }
        let root = fleet.write("delivered", &[("file", b"content")]);
        let scope = Scope::Nodes(vec![NodeRef::Id(bravo.id())]);
        let delivered = alpha.send(SendRequest { scope, ..SendRequest::new(&root) }).await.expect("sent");
        let status = alpha.wait(delivered.distribution, DEADLINE).await.expect("it ends");
        assert_eq!(status.state, DistributionState::Completed);
        for node in [alpha, bravo, lost] {
            node.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_gossip_a_holder_beyond_the_neighbours_is_heard_of() {
    let fleet = Fleet::new();
    let mut nodes: Vec<Node> = Vec::new();
    for name in ["alpha", "bravo", "charlie"] {
        fleet.enroll(name, &[]);
        let mut builder = fleet.describe(name).gossip(true);
        if let Some(last) = nodes.last() {
            builder = builder.peer(last.id(), last.listening_on());
        }
        nodes.push(builder.start().await.expect("it starts"));
    }
    let [alpha, bravo, charlie] = nodes.try_into().expect("three");
    connected(&alpha, bravo.id()).await;
    connected(&bravo, charlie.id()).await;
    let root = fleet.write("outbox", &[("file", [7; 100_000].as_slice())]);
    let request = SendRequest { scope: Scope::Nodes(vec![NodeRef::Id(charlie.id())]), ..SendRequest::new(&root) };
    let sent = alpha.send(request).await.expect("sent");
    let status = alpha.wait(sent.distribution, Duration::from_secs(30)).await.expect("it ends");
    assert_eq!(status.state, DistributionState::Completed);
    assert_eq!(contents(&fleet.inbox("charlie")), contents(&root));
    for node in [alpha, bravo, charlie] {
        node.shutdown().await;
    }
}
