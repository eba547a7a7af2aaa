//! Images to push, and pushing them.

use sha2::{Digest as _, Sha256, Sha512};

use crate::client::Client;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

/// Bytes that do not repeat.
pub(crate) fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#, sha256(content), content.len())
}

/// A manifest of a configuration and a layer; `more` are further fields, each with a comma before it.
pub(crate) fn image(config: &[u8], layer: &[u8], more: &str) -> String {
    let (config, layer) = (descriptor(CONFIG, config), descriptor("application/vnd.oci.image.layer.v1.tar", layer));
    format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layer}]{more}}}"#)
}

pub(crate) async fn push_blob(client: &Client, repository: &str, content: &[u8]) -> String {
    let digest = sha256(content);
    let answer = client.send("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), &[], content).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    digest
}

pub(crate) async fn put_manifest(client: &Client, repository: &str, reference: &str, manifest: &str) -> crate::client::Answer {
    let path = format!("/v2/{repository}/manifests/{reference}");
    client.send("PUT", &path, &[("content-type", MANIFEST)], manifest.as_bytes()).await
}

/// Pushes an image, and gives its manifest and its layer.
pub(crate) async fn push_image(client: &Client, repository: &str, tag: &str, seed: u64) -> (String, Vec<u8>) {
    let (config, layer) = (bytes(seed, 100), bytes(seed + 1, 100_000));
    push_blob(client, repository, &config).await;
    push_blob(client, repository, &layer).await;
    let manifest = image(&config, &layer, "");
    let answer = put_manifest(client, repository, tag, &manifest).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    (manifest, layer)
}
