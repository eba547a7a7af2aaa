//! Repositories of an upstream that are watched: what is new there is here before anybody asks. The upstream is another daemon's
//! registry.

use std::time::Duration;

use peat_blob_tests::fleet::eventually;
use peat_blobd::config::UpstreamAt;

use crate::images::{MANIFEST, descriptor, image, push_image, put_manifest, sha256};
use crate::{Served, serve, serve_with};

/// What the registry has by itself, nobody else being asked.
async fn has(served: &Served, path: &str, content: &str) -> bool {
    let answer = served.client.send("GET", path, &[("peat-blob-passed-on", "1")], b"").await;
    answer.status == 200 && answer.body == content.as_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_in_an_upstream_is_here_before_anybody_asks() {
    let above = serve().await;
    let (first, _) = push_image(&above.client, "team/app", "v1", 1).await;
    push_image(&above.client, "team/app", "latest", 3).await;
    let host = above.running.registry_addresses()[0].to_string();
    let served = serve_with(|config| {
        config.registry_upstream = vec![UpstreamAt { name: Some("up".to_owned()), hosts: vec![(host, true)] }];
        config.registry_watch = vec!["up/team/app:v*".parse().expect("a pattern")];
        config.registry_watch_interval = Duration::from_millis(50);
    });
    let served = served.await;
    eventually("the image is here", || has(&served, "/v2/up/team/app/manifests/v1", &first)).await;

    let (second, layer) = push_image(&above.client, "team/app", "v2", 5).await;
    eventually("what is new is here too", || has(&served, "/v2/up/team/app/manifests/v2", &second)).await;
    let tags = served.client.get("/v2/up/team/app/tags/list").await.text();
    assert!(tags.contains(r#"["v1","v2"]"#), "only what is meant: {tags}");

    // A signature comes behind what it signs, which has not changed.
    let subject = format!(r#","subject":{}"#, descriptor(MANIFEST, first.as_bytes()));
    let signature = image(&crate::images::bytes(5, 100), &layer, &subject);
    assert_eq!(put_manifest(&above.client, "team/app", &sha256(signature.as_bytes()), &signature).await.status, 201);
    let path = format!("/v2/up/team/app/manifests/{}", sha256(signature.as_bytes()));
    eventually("the signature is here", || has(&served, &path, &signature)).await;

    // What the upstream sets anew is set anew; what was deleted here stays away.
    put_manifest(&above.client, "team/app", "v1", &second).await;
    eventually("the tag has moved", || has(&served, "/v2/up/team/app/manifests/v1", &second)).await;
    let deleted = format!("/v2/up/team/app/manifests/{}", sha256(second.as_bytes()));
    assert_eq!(served.client.delete(&deleted).await.status, 202);
    let (third, _) = push_image(&above.client, "team/app", "v3", 7).await;
    eventually("a later look is over", || has(&served, "/v2/up/team/app/manifests/v3", &third)).await;
    assert_eq!(served.client.get("/v2/up/team/app/manifests/v2").await.status, 404);

    above.running.stop().await;
    assert!(has(&served, "/v2/up/team/app/manifests/v3", &third).await, "it is here without the upstream");
    served.running.stop().await;
}
