//! Nodes that find each other on the local network. These want a machine whose default interface passes multicast; where none
//! does they say so and end.

use peat_blob_tests::fleet::{Fleet, connected, contents, eventually};
use peat_blobcore::{NodeBuilder, SendRequest};

/// Whether multicast comes back to this machine by the way that mDNS takes.
fn multicast_works() -> bool {
    let group = std::net::Ipv4Addr::new(224, 0, 0, 251);
    let any = std::net::Ipv4Addr::UNSPECIFIED;
    let attempt = || -> std::io::Result<()> {
        let receiver = std::net::UdpSocket::bind((any, 0))?;
        receiver.join_multicast_v4(&group, &any)?;
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
        let sender = std::net::UdpSocket::bind((any, 0))?;
        sender.send_to(b"?", (group, receiver.local_addr()?.port()))?;
        receiver.recv(&mut [0; 1]).map(drop)
    };
    attempt().inspect_err(|error| eprintln!("no multicast on this machine ({error}): nothing is tested")).is_ok()
}

fn on_the_lan(fleet: &Fleet, name: &str) -> NodeBuilder {
    fleet.enroll(name, &[]);
    fleet.describe(name).mdns(true)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_on_one_network_find_each_other_and_strangers_are_left_alone() {
    if !multicast_works() {
        return;
    }
    let (fleet, others) = (Fleet::new(), Fleet::new());
    let alpha = on_the_lan(&fleet, "alpha").start().await.expect("alpha starts");
    let stranger = on_the_lan(&others, "stranger").start().await.expect("a stranger starts");
    let quiet = fleet.start("quiet", &[]).await;
    let bravo = on_the_lan(&fleet, "bravo").start().await.expect("bravo starts");
    connected(&alpha, bravo.id()).await;
    let root = fleet.write("outbox", &[("file", b"content")]);
    alpha.send(SendRequest::new(&root)).await.expect("sent");
    eventually("it is delivered", || async { contents(&fleet.inbox("bravo")) == contents(&root) }).await;
    assert_eq!(alpha.peers(), [bravo.id()], "neither the stranger nor who does not announce itself");
    assert!(stranger.peers().is_empty() && quiet.peers().is_empty());
    for node in [alpha, bravo, stranger, quiet] {
        node.shutdown().await;
    }
}
