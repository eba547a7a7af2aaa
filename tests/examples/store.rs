//! Makes the store that is kept as a fixture: `cargo run -p peat-blob-tests --example store -- tests/fixtures/store-v1`.
//! To be run once for each release whose formats differ, into a directory that does not exist, and never again for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use peat_blob_tests::fixture::{self, Expected, NEVER};
use peat_blob_tests::fleet::{Fleet, completed, contents};
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::content::{Content, GROUP_BYTES, Options, Pin};
use peat_blobcore::{Node, SendRequest};

/// Of the large blob, half was written when it was kept.
const ASSEMBLY_BYTES: usize = 60_000;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let to = PathBuf::from(std::env::args().nth(1).expect("a directory that does not exist"));
    std::fs::create_dir(&to)?;
    let fleet = Fleet::new();
    for name in ["alpha", "bravo"] {
        fleet.enroll_until(name, NEVER);
    }
    let alpha = fleet.restart("alpha", &[]).await;
    let bravo = fleet.restart("bravo", &[&alpha]).await;
    let received = send(&fleet, &bravo, "bravo.outbox", &fixture::received()).await;
    let sent = send(&fleet, &alpha, "alpha.outbox", &fixture::sent()).await;
    let (assembly, assembly_size) = begin_assembly(&fleet, alpha.content());
    let node = alpha.id();
    alpha.shutdown().await;
    bravo.shutdown().await;
    let removed = fleet.inbox("alpha").join("removed");
    std::fs::remove_file(removed)?;

    let made_at = SystemClock.now();
    let expected = Expected { made_at, node, sent, received, assembly, assembly_size };
    std::fs::write(to.join("expected"), expected.to_string())?;
    std::fs::write(to.join("formation.key"), fleet.formation.to_base64())?;
    std::fs::write(to.join("authority.key"), fleet.authority.to_base64())?;
    copy(&fleet.path("alpha"), &to.join("data"))?;
    copy(&fleet.inbox("alpha"), &to.join("inbox"))
}

async fn send(
    fleet: &Fleet,
    node: &Node,
    root: &str,
    files: &BTreeMap<PathBuf, Vec<u8>>,
) -> peat_blobcore::model::DistributionId {
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(path, content)| (path.to_str().expect("a plain name"), content.as_slice())).collect();
    let sent = node.send(SendRequest::new(fleet.write(root, &files))).await.expect("sent");
    completed(node, sent.distribution).await;
    sent.distribution
}

/// Begins to assemble a blob of which another store has all.
fn begin_assembly(fleet: &Fleet, content: &Content) -> (peat_blobcore::model::BlobHash, u64) {
    let elsewhere =
        Content::open(&fleet.path("elsewhere"), Options::default(), std::sync::Arc::new(SystemClock)).expect("a store");
    let blob = elsewhere.ingest_bytes(&[3; ASSEMBLY_BYTES]).expect("taken in");
    content.pin(&Pin::User("fixture".to_owned()), &[blob.hash]).expect("pinned");
    let assembly = content.assemble(&blob.hash, blob.size).expect("an assembly");
    let range = 0..2 * GROUP_BYTES;
    let encoded = elsewhere.encode_block(&blob.hash, range.clone()).expect("it is there");
    assembly.write_block(range, &encoded).expect("written");
    assembly.sync().expect("synced");
    (blob.hash, blob.size)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for (path, content) in contents(from) {
        let path = to.join(path);
        std::fs::create_dir_all(path.parent().expect("beneath the directory"))?;
        std::fs::write(path, content)?;
    }
    Ok(())
}
