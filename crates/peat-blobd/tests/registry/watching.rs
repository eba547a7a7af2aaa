//! Images looked at from another node, and what happens to them as it happens.

use std::collections::BTreeSet;
use std::time::Duration;

use connectrpc::ErrorCode;
use connectrpc::client::HttpClient;
use peat_blob_tests::fleet::{DEADLINE, Fleet};
use peat_blobapi::blob::oneof::pull_image_response::Part;
use peat_blobapi::blob::oneof::watch_packages_response::Event;
use peat_blobapi::blob::{self, ImagePartState, ImageServiceClient};
use peat_blobcore::PackageEvent;
use peat_blobcore::oci::{Digest, Reference, Repository};
use peat_blobd::config::{Listen, StaticPeer};
use peat_blobd::{Config, Running};
use tokio::sync::mpsc;

use crate::client::Client;
use crate::images::{CONFIG, MANIFEST, bytes, descriptor, image, push_blob, push_image, put_manifest, sha256};
use crate::outward::images;

/// One of two daemons.
struct Side {
    running: Running,
    client: Client,
}

/// Two daemons that know each other.
async fn two() -> (Fleet, Side, Side) {
    let fleet = Fleet::new();
    let start = async |name: &str, peers: Vec<StaticPeer>| {
        fleet.enroll(name, &[]);
        let loopback = ([127, 0, 0, 1], 0).into();
        let config = Config {
            listen: vec![Listen::Tcp(loopback)],
            iroh_listen: vec![loopback],
            registry_listen: vec![loopback],
            gossip: false,
            peers,
            ..Config::new(fleet.path(name))
        };
        let running = Running::start(config).await.expect("it starts");
        let client = Client::new(running.registry_addresses()[0]);
        Side { running, client }
    };
    let alpha = start("alpha", Vec::new()).await;
    let hosts = alpha.running.node().listening_on().iter().map(ToString::to_string).collect();
    let peer = StaticPeer { id: alpha.running.node().id(), hosts };
    let bravo = start("bravo", vec![peer]).await;
    (fleet, alpha, bravo)
}

/// What comes of a watch, checked for gaps.
struct Watched {
    events: mpsc::UnboundedReceiver<blob::WatchPackagesResponse>,
    next: u64,
}

impl Watched {
    async fn begin(client: &ImageServiceClient<HttpClient>, repository: &str, only_new: bool) -> Self {
        let request = blob::WatchPackagesRequest { repository: repository.to_owned(), only_new, ..Default::default() };
        let mut stream = client.watch_packages(request).await.expect("watched");
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(event)) = stream.message().await
                && sender.send(event.to_owned_message()).is_ok()
            {}
        });
        Self { events, next: 0 }
    }

    /// Reads until one is as wanted, and gives all that were read.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut read = Vec::new();
        let reading = async {
            loop {
                let next = self.events.recv().await.expect("it goes on");
                assert_eq!(next.sequence, self.next);
                self.next += 1;
                let event = next.event.expect("of a known kind");
                let is_it = wanted(&event);
                read.push(event);
                if is_it {
                    return;
                }
            }
        };
        if tokio::time::timeout(DEADLINE, reading).await.is_err() {
            panic!("{what} was never told, but {read:?}");
        }
        read
    }
}

/// Pulls an image, and gives its digest and what was told of its parts.
async fn pull(client: &ImageServiceClient<HttpClient>, image: &str) -> (String, Vec<blob::ImageProgress>) {
    let request = blob::PullImageRequest { image: image.to_owned(), ..Default::default() };
    let mut answers = client.pull_image(request).await.expect("asked");
    let mut parts = Vec::new();
    while let Some(told) = answers.message().await.expect("it comes") {
        match told.to_owned_message().part.expect("of a known kind") {
            Part::Progress(part) => parts.push(*part),
            Part::Report(report) => return (report.digest, parts),
        }
    }
    panic!("no report, but {parts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_package_is_told_at_another_node() {
    let (_fleet, alpha, bravo) = two().await;
    let client = images(&bravo.running);
    let mut watched = Watched::begin(&client, "", false).await;
    let (manifest, _) = push_image(&alpha.client, "team/app", "1", 1).await;
    let digest = sha256(manifest.as_bytes());
    let (a, b) = (alpha.running.node().id().to_string(), bravo.running.node().id().to_string());
    let is_tag = |digest: &str| {
        let digest = digest.to_owned();
        move |event: &Event| matches!(event, Event::Tag(it) if it.tag == "1" && it.digest == digest)
    };
    let told = watched.until("the tag", is_tag(&digest)).await;
    let claimed = |event: &Event| matches!(event, Event::Claimed(it) if it.package.digest == digest && it.package.repository == "team/app" && it.importer == a && it.bytes > 100_000);
    if !told.iter().any(claimed) {
        watched.until("who has it", claimed).await;
    }

    let (pulled, parts) = pull(&client, "team/app:1").await;
    assert_eq!(pulled, digest);
    // The manifest, its configuration and its layer, each to its end.
    let ended = |part: &&blob::ImageProgress| part.bytes == part.size && part.state == ImagePartState::IMAGE_PART_STATE_DONE;
    let done: BTreeSet<_> = parts.iter().filter(ended).map(|part| part.digest.clone()).collect();
    assert!(done.len() == 3 && done.contains(&digest), "{parts:?}");
    let is_here = |here: bool| {
        let digest = digest.clone();
        move |event: &Event| matches!(event, Event::Here(it) if it.digest == digest && it.here == here)
    };
    let is_held = |event: &Event| matches!(event, Event::State(it) if it.endpoint_id == b && it.state == "held" && it.package.digest == digest);
    let told = watched.until("that it is here", is_here(true)).await;
    if !told.iter().any(is_held) {
        watched.until("that it is held", is_held).await;
    }

    // Who comes later is told the same, and who wants what is new alone is not.
    let mut later = Watched::begin(&client, "team/app", false).await;
    let told = later.until("the state", is_here(true)).await;
    assert!(told.iter().any(claimed) && told.iter().any(is_held) && told.iter().any(is_tag(&digest)), "{told:?}");
    let mut new = Watched::begin(&client, "", true).await;
    let mut other = Watched::begin(&client, "team/other", false).await;

    let delete = blob::DeleteImageRequest { image: format!("team/app@{digest}"), ..Default::default() };
    client.delete_image(delete).await.expect("deleted");
    watched.until("that it is gone", is_here(false)).await;
    let told = new.until("that it is gone", is_here(false)).await;
    assert!(!told.iter().any(claimed) && !told.iter().any(is_tag(&digest)) && !told.iter().any(is_here(true)), "{told:?}");

    let delete = blob::DeleteImageRequest { image: "team/app:1".into(), ..Default::default() };
    images(&alpha.running).delete_image(delete).await.expect("deleted");
    watched.until("that the tag is gone", is_tag("")).await;
    let (next, _) = push_image(&alpha.client, "team/other", "1", 7).await;
    let told = other.until("the other", is_tag(&sha256(next.as_bytes()))).await;
    assert!(!told.iter().any(claimed), "of one repository alone: {told:?}");
    let error = client.watch_packages(blob::WatchPackagesRequest { repository: "NO".into(), ..Default::default() }).await;
    let error = match error {
        Err(error) => error,
        Ok(mut stream) => stream.message().await.expect_err("no name"),
    };
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{error:?}");
    alpha.running.stop().await;
    bravo.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_looked_at_from_another_node_and_no_layer_comes_for_that() {
    let (_fleet, alpha, bravo) = two().await;
    let client = images(&bravo.running);
    let mut watched = Watched::begin(&client, "", false).await;
    let config = br#"{"architecture":"arm64","os":"linux","config":{}}"#;
    let layer = bytes(1, 300_000);
    push_blob(&alpha.client, "team/app", config).await;
    push_blob(&alpha.client, "team/app", &layer).await;
    let manifest = image(config, &layer, "");
    assert_eq!(put_manifest(&alpha.client, "team/app", "1", &manifest).await.status, 201);
    let about = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","artifactType":"a/signature","config":{},"layers":[],"subject":{}}}"#,
        descriptor(CONFIG, config),
        descriptor(MANIFEST, manifest.as_bytes()),
    );
    let about_digest = sha256(about.as_bytes());
    assert_eq!(put_manifest(&alpha.client, "team/app", &about_digest, &about).await.status, 201);
    watched.until("the tag", |event| matches!(event, Event::Tag(_))).await;

    let inspect = async |image: &str| {
        client.inspect_image(blob::InspectImageRequest { image: image.to_owned(), ..Default::default() }).await
    };
    let found = inspect("team/app:1").await.expect("looked at").into_owned();
    let digest = sha256(manifest.as_bytes());
    assert_eq!((found.image.digest.as_str(), found.image.here), (digest.as_str(), false));
    assert_eq!((found.manifest.as_slice(), found.config.as_slice()), (manifest.as_bytes(), &config[..]));
    assert_eq!(found.image.holders, [alpha.running.node().id().to_string()]);
    let parts: Vec<_> = found.parts.iter().map(|part| (part.digest.clone(), part.size)).collect();
    assert_eq!(parts, [(sha256(config), config.len() as u64), (sha256(&layer), 300_000)]);
    let layer_digest: Digest = sha256(&layer).parse().expect("a digest");
    let known = bravo.running.node().blob_of(layer_digest.sha256().expect("by SHA-256")).await.expect("readable");
    assert_eq!(known, None, "the layer has not come");

    let found = inspect(&format!("team/app@{digest}")).await.expect("looked at").into_owned();
    assert!(found.referrers.iter().any(|it| it.digest == about_digest && it.artifact_type == "a/signature"), "{found:?}");
    pull(&client, "team/app:1").await;
    let found = inspect("team/app:1").await.expect("looked at").into_owned();
    assert!(found.image.here && found.parts.iter().all(|part| part.here), "{found:?}");
    for (image, code) in [("team/none:1", ErrorCode::NotFound), ("NO", ErrorCode::InvalidArgument)] {
        assert_eq!(inspect(image).await.expect_err("there is none").code, code);
    }
    alpha.running.stop().await;
    bravo.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_is_told_how_much_he_missed_and_then_what_is() {
    /// More than wait for a listener.
    const MANY: u64 = 300;
    let (_fleet, alpha, bravo) = two().await;
    push_blob(&alpha.client, "team/app", b"{}").await;
    let mut slow = alpha.running.node().package_events(true).await.expect("readable");
    let registry = alpha.running.node().registry().clone();
    let put = move || {
        let repository: Repository = "team/app".parse().expect("a name");
        for number in 0..MANY {
            let manifest = format!(
                r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[],"annotations":{{"n":"{number}"}}}}"#,
                descriptor(CONFIG, b"{}"),
            );
            let digest: Digest = sha256(manifest.as_bytes()).parse().expect("a digest");
            registry.put_manifest(&repository, &Reference::Digest(digest), None, manifest.as_bytes()).expect("taken");
        }
    };
    tokio::task::spawn_blocking(put).await.expect("put");
    let first = tokio::time::timeout(Duration::from_secs(60), slow.next()).await.expect("told").expect("readable");
    assert!(matches!(first, Some(PackageEvent::Missed(missed)) if missed >= MANY - 256), "{first:?}");
    let mut here = 0;
    while here < MANY {
        match tokio::time::timeout(Duration::from_secs(60), slow.next()).await.expect("told").expect("readable") {
            Some(PackageEvent::Here { here: true, .. }) => here += 1,
            other => panic!("{other:?}"),
        }
    }
    alpha.running.stop().await;
    let end = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            match slow.next().await {
                Ok(Some(_)) => {}
                end => return end,
            }
        }
    });
    assert!(matches!(end.await, Ok(Ok(None))), "it ends with the node");
    bravo.running.stop().await;
}
