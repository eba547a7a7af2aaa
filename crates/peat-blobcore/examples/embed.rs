//! Two nodes in one program and a file from one to the other: `cargo run -p peat-blobcore --example embed`.

use std::error::Error;
use std::time::Duration;

use peat_blobcore::exchange::InboxPolicy;
use peat_blobcore::identity::{AuthorityKey, FormationKey, files};
use peat_blobcore::model::{DistributionState, Labels};
use peat_blobcore::{Node, SendRequest};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);

    // A formation: a key that its members share, and an authority that says who is a member.
    let (formation, authority) = (FormationKey::generate(), AuthorityKey::generate());
    for name in ["alpha", "bravo"] {
        files::create_member(&path(name), &formation, &authority, name, Labels::new())?;
    }

    // Two nodes on loopback. One of them knows where the other is; either way round is enough.
    let alpha = Node::builder(path("alpha")).listen("127.0.0.1:0".parse()?).start().await?;
    let bravo = Node::builder(path("bravo"))
        .listen("127.0.0.1:0".parse()?)
        .inbox(path("inbox"), InboxPolicy::default())
        .peer(alpha.id(), alpha.addresses())
        .start()
        .await?;

    // A file for everybody.
    std::fs::create_dir(path("outbox"))?;
    std::fs::write(path("outbox").join("orders.txt"), "hold the bridge\n")?;
    let sent = alpha.send(SendRequest::new(path("outbox"))).await?;

    // Completed is a fact: bravo has written the file, synced it, and signed a receipt.
    let status = alpha.wait(sent.distribution, Duration::from_secs(30)).await?;
    assert_eq!(status.state, DistributionState::Completed);
    assert_eq!(std::fs::read_to_string(path("inbox").join("orders.txt"))?, "hold the bridge\n");
    println!("{} is {}", sent.distribution, status.state);

    alpha.shutdown().await;
    bravo.shutdown().await;
    Ok(())
}
