//! Files that a pattern names, pulled from another node as clients do.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use peat_blob_tests::fleet::{Fleet, connected, eventually};
use peat_blobd::config::StaticPeer;
use peat_blobd::{Config, Running};

use crate::client::Client;
use crate::images::{DOCKER, bytes, hex, sha256};

/// Writes a docker-archive as Nix's dockerTools do, in gzip; its layer.
fn write_archive(dir: &Path, name: &str, seed: u64) -> Vec<u8> {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("0")).expect("a directory");
    let layer = bytes(seed, 3_000_000);
    std::fs::write(tree.join("0/layer.tar"), &layer).expect("written");
    let config =
        format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#, sha256(&layer));
    let config_name = format!("{}.json", &sha256(config.as_bytes())[7..]);
    std::fs::write(tree.join(&config_name), &config).expect("written");
    let list = format!(r#"[{{"Config":"{config_name}","RepoTags":["within:1"],"Layers":["0/layer.tar"]}}]"#);
    std::fs::write(tree.join("manifest.json"), list).expect("written");
    let store = dir.join("store");
    std::fs::create_dir_all(&store).expect("a directory");
    let made = Command::new("tar").arg("-C").arg(&tree).arg("-czf").arg(dir.join("made")).arg(".").status();
    assert!(made.expect("tar runs").success());
    std::fs::rename(dir.join("made"), store.join(name)).expect("renamed");
    layer
}

async fn start(fleet: &Fleet, name: &str, configure: impl FnOnce(&mut Config)) -> (Running, Client) {
    let loopback = ([127, 0, 0, 1], 0).into();
    let mut config =
        Config { iroh_listen: vec![loopback], registry_listen: vec![loopback], gossip: false, ..Config::new(fleet.path(name)) };
    configure(&mut config);
    let running = Running::start(config).await.expect("it starts");
    let client = Client::new(running.registry_addresses()[0]);
    (running, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_in_a_folder_is_pulled_from_another_node_until_it_is_taken_away() {
    let fleet = Fleet::new();
    for name in ["alpha", "bravo"] {
        fleet.enroll(name, &[]);
    }
    let files = tempfile::tempdir().expect("a directory");
    let layer = write_archive(files.path(), "0a1b2c-team-app.tar.gz", 1);
    let pattern = format!("{}/store/<ref>-<name>.tar.gz", files.path().display());
    let (alpha, alpha_client) = start(&fleet, "alpha", |config| {
        config.sideload = vec![pattern.parse().expect("a pattern")];
        config.sideload_interval = Duration::from_secs(1);
    })
    .await;
    let peer = StaticPeer { id: alpha.node().id(), hosts: alpha.node().addresses().iter().map(ToString::to_string).collect() };
    let (bravo, client) = start(&fleet, "bravo", |config| config.peers = vec![peer]).await;
    connected(bravo.node(), alpha.node().id()).await;
    let path = "/v2/team-app/manifests/0a1b2c";
    eventually("bravo hears of the tag", || async { client.get(path).await.status == 200 }).await;
    let blobs = |running: &Running| {
        let content = running.node().registry().content().clone();
        content.usage().expect("it can be read").blobs
    };
    // Its manifest was asked for, and nothing else.
    assert_eq!(blobs(&alpha), 1);
    let manifest = client.get(path).await;
    assert!(manifest.is(200, "content-type", DOCKER), "{}", manifest.text());
    assert_eq!(manifest.body, alpha_client.get(path).await.body);
    let blob = format!("/v2/team-app/blobs/{}", sha256(&layer));
    let got = client.get(&blob).await;
    assert_eq!((got.status, hex(&got.body) == hex(&layer)), (200, true));
    assert_eq!(client.get("/v2/within/manifests/1").await.status, 404);

    // Another in its place: the tag follows.
    let changed = write_archive(files.path(), "0a1b2c-team-app.tar.gz", 2);
    let changed_blob = format!("/v2/team-app/blobs/{}", sha256(&changed));
    eventually("bravo hears of the change", || async {
        let now = client.get(path).await;
        now.status == 200 && now.body != manifest.body
    })
    .await;
    assert_eq!(client.get(&changed_blob).await.body.len(), changed.len());

    std::fs::remove_file(files.path().join("store/0a1b2c-team-app.tar.gz")).expect("removed");
    eventually("bravo hears that it is gone", || async { client.get(path).await.status == 404 }).await;
    assert_eq!(alpha_client.get(path).await.status, 404);
    bravo.stop().await;
    alpha.stop().await;
}
