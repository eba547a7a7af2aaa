//! A daemon before Debian's `docker-registry`, through a proxy that does to it what links and liars do; and nodes that cannot reach
//! it, which have it asked by one that can.

use std::time::Duration;

use peat_blob_tests::fleet::{Fleet, connected, eventually};
use peat_blobd::config::{StaticPeer, UpstreamAt};
use peat_blobd::{Config, Running};

use crate::client::{Answer, Client};
use crate::images::{MANIFEST, bytes, push_blob, put_manifest, sha256};
use crate::proxy::{DockerRegistry, Manner, Proxy, Wants};

const STALL: Duration = Duration::from_millis(500);

async fn start(fleet: &Fleet, name: &str, configure: impl FnOnce(&mut Config)) -> (Running, Client) {
    fleet.enroll(name, &[]);
    let loopback = ([127, 0, 0, 1], 0).into();
    let mut config =
        Config { iroh_listen: vec![loopback], registry_listen: vec![loopback], gossip: false, ..Config::new(fleet.path(name)) };
    config.registry_upstream_stall = STALL;
    configure(&mut config);
    let running = Running::start(config).await.expect("it starts");
    let client = Client::new(running.registry_addresses()[0]);
    (running, client)
}

/// As one of the configuration, whose repositories are beneath `up`.
fn upstream(proxy: &Proxy) -> Vec<UpstreamAt> {
    vec![UpstreamAt { name: Some("up".to_owned()), hosts: vec![(proxy.address.to_string(), true)] }]
}

fn peer(running: &Running) -> StaticPeer {
    StaticPeer { id: running.node().id(), hosts: running.node().addresses().iter().map(ToString::to_string).collect() }
}

/// Several at once.
async fn all_get(clients: &[&Client], path: &str) -> Vec<Answer> {
    let mut readers = tokio::task::JoinSet::new();
    for client in clients {
        let (client, path) = (Client::new(client.address), path.to_owned());
        readers.spawn(async move { client.get(&path).await });
    }
    readers.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn five_readers_cost_one_get_and_see_nothing_of_cuts_and_stalls() {
    let Some(registry) = DockerRegistry::start().await else { return };
    let (_, layer) = registry.push().await;
    let digest = sha256(&layer);
    for manner in [Manner::Honest, Manner::Cuts(700_000), Manner::Stalls(1_100_000)] {
        let (fleet, proxy) = (Fleet::new(), Proxy::before(&registry, manner, Wants::Nobody).await);
        let (running, client) = start(&fleet, "alpha", |config| config.registry_upstream = upstream(&proxy)).await;
        for answer in all_get(&[&client; 5], &format!("/v2/up/team/a/blobs/{digest}")).await {
            assert_eq!((answer.status, answer.is_whole, answer.body == layer), (200, true, true), "{manner:?}");
        }
        let resumed = match manner {
            Manner::Cuts(_) => 4,
            Manner::Stalls(_) => 2,
            _ => 0,
        };
        assert_eq!(proxy.gets(&digest), (1, resumed), "{manner:?}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_liar_gives_never_ends_well_and_is_not_kept() {
    let Some(registry) = DockerRegistry::start().await else { return };
    let (_, layer) = registry.push().await;
    let (digest, fleet) = (sha256(&layer), Fleet::new());
    let proxy = Proxy::before(&registry, Manner::Lies, Wants::Nobody).await;
    let (running, client) = start(&fleet, "alpha", |config| config.registry_upstream = upstream(&proxy)).await;
    let path = format!("/v2/up/team/a/blobs/{digest}");
    for answer in all_get(&[&client; 5], &path).await {
        assert!(!answer.is_whole && answer.body.len() < layer.len(), "{} bytes", answer.body.len());
    }
    assert_eq!(running.node().registry().content().usage().expect("a store").bytes, 0);
    proxy.be(Manner::Honest);
    let answer = client.get(&path).await;
    assert!(answer.is_whole && answer.body == layer);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_to_know_who_asks_is_told_and_nobody_else() {
    let Some(registry) = DockerRegistry::start().await else { return };
    let (manifest, layer) = registry.push().await;
    let blob = format!("/v2/up/team/a/blobs/{}", sha256(&layer));
    for (wants, shown, is_let_in) in [
        (Wants::Nobody, None, true),
        (Wants::Password, Some("user:pass"), true),
        (Wants::Password, Some("user:other"), false),
        (Wants::Password, None, false),
        (Wants::Token, Some("user:pass"), true),
        (Wants::Token, Some("user:other"), false),
        (Wants::Token, Some("abc.d"), true),
        (Wants::Token, Some("abc.e"), false),
    ] {
        let (fleet, proxy) = (Fleet::new(), Proxy::before(&registry, Manner::Honest, wants).await);
        let (running, client) = start(&fleet, "alpha", |config| {
            config.registry_upstream = upstream(&proxy);
            if let Some(shown) = shown {
                let path = fleet.path("credentials");
                std::fs::write(&path, shown).expect("written");
                config.registry_upstream_credentials = [(proxy.address.to_string(), path)].into();
            }
        })
        .await;
        let named = client.get("/v2/up/team/a/manifests/v1").await;
        let got = client.get(&blob).await;
        match is_let_in {
            true => assert!(named.body == manifest.as_bytes() && got.is_whole && got.body == layer, "{wants:?} {shown:?}"),
            false => assert_eq!((named.status, got.status), (404, 404), "{wants:?} {shown:?}"),
        }
        let showing = proxy.requests().iter().filter(|head| head.contains("\r\nauthorization: ")).count();
        assert!(wants != Wants::Nobody || showing == 0, "nobody asked");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_has_that_is_gone_comes_from_the_upstream() {
    let Some(registry) = DockerRegistry::start().await else { return };
    let (manifest, layer) = registry.push().await;
    let (fleet, proxy) = (Fleet::new(), Proxy::before(&registry, Manner::Honest, Wants::Nobody).await);
    let (alpha, alpha_client) = start(&fleet, "alpha", |_| {}).await;
    let (bravo, client) = start(&fleet, "bravo", |config| {
        config.peers = vec![peer(&alpha)];
        config.registry_upstream = upstream(&proxy);
    })
    .await;
    connected(bravo.node(), alpha.node().id()).await;
    // The same image, by hand.
    for blob in [&bytes(1, 100), &layer] {
        push_blob(&alpha_client, "up/team/a", blob).await;
    }
    assert_eq!(put_manifest(&alpha_client, "up/team/a", "v1", &manifest).await.status, 201);
    let digest = sha256(manifest.as_bytes()).parse().expect("a digest");
    let repository = "up/team/a".parse().expect("a name");
    eventually("bravo hears of it", || async { !bravo.node().claims().of(&repository, &digest).is_empty() }).await;
    let id = alpha.node().id();
    alpha.stop().await;
    eventually("alpha is gone", || async { !bravo.node().peers().contains(&id) }).await;
    let got = client.get(&format!("/v2/up/team/a/manifests/{digest}")).await;
    assert_eq!((got.status, got.body == manifest.as_bytes()), (200, true), "{}", got.text());
    let path = format!("/v2/up/team/a/blobs/{}", sha256(&layer));
    for answer in all_get(&[&client; 5], &path).await {
        assert_eq!((answer.status, answer.is_whole, answer.body == layer), (200, true, true));
    }
    assert_eq!(proxy.gets(&sha256(&layer)), (1, 0));
    bravo.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_asks_the_upstream_for_those_that_cannot() {
    let Some(registry) = DockerRegistry::start().await else { return };
    let (manifest, layer) = registry.push().await;
    let (fleet, proxy) = (Fleet::new(), Proxy::before(&registry, Manner::Cuts(1_000_000), Wants::Nobody).await);
    let gone = Proxy::before(&registry, Manner::Honest, Wants::Nobody).await;
    gone.stop().await;
    let (alpha, alpha_client) = start(&fleet, "alpha", |config| config.registry_upstream = upstream(&proxy)).await;
    // One has no upstream, and one has lost it.
    let (bravo, bravo_client) = start(&fleet, "bravo", |config| config.peers = vec![peer(&alpha)]).await;
    let (charlie, charlie_client) = start(&fleet, "charlie", |config| {
        config.peers = vec![peer(&alpha)];
        config.registry_upstream = upstream(&gone);
    })
    .await;
    let clients = [&alpha_client, &bravo_client, &charlie_client];
    let nodes = [&alpha, &bravo, &charlie];
    for running in [&bravo, &charlie] {
        connected(running.node(), alpha.node().id()).await;
    }
    let digest = sha256(manifest.as_bytes());
    let (blob, named) = (format!("/v2/up/team/a/blobs/{}", sha256(&layer)), "/v2/up/team/a/manifests/v1");
    // All but the first have to hear of it that alpha asks for others.
    for client in clients {
        eventually("the tag is known", || async { client.head(named).await.status == 200 }).await;
    }
    for answer in all_get(&clients, &blob).await {
        assert_eq!((answer.status, answer.is_whole, answer.body == layer), (200, true, true));
    }
    assert_eq!(proxy.gets(&sha256(&layer)), (1, 2), "one fetch, cut twice");
    for client in clients {
        for path in [named.to_owned(), format!("/v2/up/team/a/manifests/{digest}")] {
            let got = client.get(&path).await;
            assert!(got.is(200, "content-type", MANIFEST) && got.body == manifest.as_bytes(), "{path}: {}", got.text());
            assert_eq!(got.header("warning"), None, "alpha has asked the upstream");
        }
        assert_eq!(client.get("/v2/up/team/a/manifests/v2").await.status, 404);
        assert_eq!(client.get("/v2/other/team/a/manifests/v1").await.status, 404);
        let absent = format!("/v2/up/team/a/blobs/{}", sha256(b"absent"));
        assert_eq!(client.get(&absent).await.status, 404);
    }
    assert!(proxy.requests().iter().all(|head| !head.contains("/v2/other/")), "of other repositories it is not asked");
    // When nobody can be asked, what was last known counts.
    proxy.stop().await;
    for (client, running) in clients.iter().zip(nodes) {
        let got = client.get(named).await;
        assert!(got.body == manifest.as_bytes() && got.header("warning").is_some(), "{}", running.node().identity().name());
    }
    for running in [alpha, bravo, charlie] {
        running.stop().await;
    }
}
