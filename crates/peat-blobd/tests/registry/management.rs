//! Content Management: distribution-spec 1.1, "Deleting tags", "Deleting Manifests" and "Deleting Blobs".

use crate::images::{push_blob, push_image, put_manifest, sha256};
use crate::{Table, serve, serve_with};

#[tokio::test(flavor = "multi_thread")]
async fn tags_manifests_and_blobs_are_deleted() {
    let served = serve().await;
    let (client, mut table) = (&served.client, Table::default());
    let (manifest, layer) = push_image(client, "a", "v1", 1).await;
    put_manifest(client, "a", "v2", &manifest).await;
    put_manifest(client, "a", "v3", &manifest).await;
    let (digest, blob) = (sha256(manifest.as_bytes()), sha256(&layer));

    let section = "Deleting tags";
    table.row(section, "DELETE is 202", client.delete("/v2/a/manifests/v1").await.status == 202);
    table.row(section, "the tag is gone", client.get("/v2/a/manifests/v1").await.is_error(404, "MANIFEST_UNKNOWN"));
    table.row(section, "it is not listed", client.get("/v2/a/tags/list").await.text().contains(r#"["v2","v3"]"#));
    table.row(section, "the manifest stays", client.get(&format!("/v2/a/manifests/{digest}")).await.status == 200);
    table.row(section, "again is 404", client.delete("/v2/a/manifests/v1").await.is_error(404, "MANIFEST_UNKNOWN"));

    let section = "Deleting Manifests";
    let path = format!("/v2/a/manifests/{digest}");
    table.row(section, "DELETE is 202", client.delete(&path).await.status == 202);
    table.row(section, "it is gone", client.get(&path).await.is_error(404, "MANIFEST_UNKNOWN"));
    table.row(section, "its tags too", client.get("/v2/a/manifests/v2").await.is_error(404, "MANIFEST_UNKNOWN"));
    table.row(section, "the list is empty", client.get("/v2/a/tags/list").await.text().contains("[]"));
    table.row(section, "again is 404", client.delete(&path).await.is_error(404, "MANIFEST_UNKNOWN"));
    let elsewhere = client.delete(&format!("/v2/b/manifests/{digest}")).await;
    table.row(section, "of an unknown repository 404", elsewhere.is_error(404, "MANIFEST_UNKNOWN"));

    let section = "Deleting Blobs";
    push_blob(client, "b", &layer).await;
    let path = format!("/v2/a/blobs/{blob}");
    table.row(section, "DELETE is 202", client.delete(&path).await.status == 202);
    table.row(section, "it is gone", client.get(&path).await.is_error(404, "BLOB_UNKNOWN"));
    table.row(section, "again is 404", client.delete(&path).await.is_error(404, "BLOB_UNKNOWN"));
    table.row(section, "another repository keeps it", client.get(&format!("/v2/b/blobs/{blob}")).await.body == layer);
    push_image(client, "a", "v1", 1).await;
    table.row(section, "it can be pushed again", client.get("/v2/a/manifests/v1").await.body == manifest.as_bytes());
    table.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_read_only_takes_and_deletes_nothing() {
    let served = serve_with(|config| config.registry_read_only = true).await;
    let registry = served.running.node().registry().clone();
    let bytes = b"content";
    tokio::task::spawn_blocking(move || {
        let hash = registry.content().ingest_bytes(bytes).expect("room").hash;
        let (repository, digest) = ("a".parse().expect("a name"), sha256(bytes).parse().expect("a digest"));
        registry.adopt_blob(&repository, &digest, &hash).expect("it is what it says");
    })
    .await
    .expect("it ends");
    let (client, path) = (&served.client, format!("/v2/a/blobs/{}", sha256(bytes)));
    for (method, path) in
        [("POST", "/v2/a/blobs/uploads/"), ("PUT", "/v2/a/manifests/v1"), ("DELETE", "/v2/a/manifests/v1"), ("DELETE", &path)]
    {
        let answer = client.send(method, path, &[], b"").await;
        assert!(answer.is_error(405, "UNSUPPORTED") && answer.header("allow") == Some("GET, HEAD"), "{method} {path}");
    }
    assert_eq!(client.get(&path).await.body, bytes);
}
