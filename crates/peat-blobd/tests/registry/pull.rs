//! Pull: distribution-spec 1.1, "Pull" and "Endpoints"; RFC 9110 for ranges and conditions.

use crate::client::Client;
use crate::images::{DOCKER, INDEX, MANIFEST, bytes, image, push_blob, push_image, sha256, sha512};
use crate::{Table, serve};

#[tokio::test(flavor = "multi_thread")]
async fn manifests_and_blobs_are_pulled_as_they_were_pushed() {
    let served = serve().await;
    let (client, mut table) = (&served.client, Table::default());
    let (manifest, layer) = push_image(client, "a/b", "v1", 1).await;
    let (digest, blob) = (sha256(manifest.as_bytes()), sha256(&layer));

    let section = "Determining Support";
    let base = client.get("/v2/").await;
    table.row(section, "GET /v2/ is answered with 200", base.status == 200 && base.is_whole);
    table.row(section, "the version of the API is said", base.header("docker-distribution-api-version") == Some("registry/2.0"));

    let section = "Pulling manifests";
    for reference in ["v1", &digest] {
        let answer = client.get(&format!("/v2/a/b/manifests/{reference}")).await;
        table.row(section, "a manifest is 200", answer.status == 200 && answer.is_whole);
        table.row(section, "the bytes are those that were pushed", answer.body == manifest.as_bytes());
        table.row(section, "Content-Type is the manifest's media type", answer.header("content-type") == Some(MANIFEST));
        table.row(section, "Docker-Content-Digest is its digest", answer.header("docker-content-digest") == Some(&digest));
    }
    for reference in ["v2", &sha256(b"x"), ".INVALID_MANIFEST_NAME", "sha256:1"] {
        let answer = client.get(&format!("/v2/a/b/manifests/{reference}")).await;
        table.row(section, &format!("{reference} is not found"), answer.is_error(404, "MANIFEST_UNKNOWN"));
    }
    let other = client.get(&format!("/v2/a/manifests/{digest}")).await;
    table.row(section, "another repository does not have it", other.is_error(404, "MANIFEST_UNKNOWN"));
    let mirrored = client.get(&format!("/v2/a/b/manifests/{digest}?ns=registry.example")).await;
    table.row(section, "a mirror is told whom it stands for", mirrored.status == 200);

    let section = "Pulling blobs";
    let path = format!("/v2/a/b/blobs/{blob}");
    let answer = client.get(&path).await;
    table.row(section, "a blob is 200", answer.status == 200 && answer.is_whole);
    table.row(section, "the bytes are those that were pushed", answer.body == layer);
    table.row(section, "Docker-Content-Digest is its digest", answer.header("docker-content-digest") == Some(&blob));
    let answer = client.get(&format!("/v2/a/b/blobs/{}", sha256(b"x"))).await;
    table.row(section, "another blob is not found", answer.is_error(404, "BLOB_UNKNOWN"));
    let answer = client.get("/v2/a/b/blobs/sha256:1").await;
    table.row(section, "a malformed digest is refused", answer.is_error(400, "DIGEST_INVALID"));
    let answer = client.get(&format!("/v2/a/blobs/{blob}")).await;
    table.row(section, "another repository does not have it", answer.is_error(404, "BLOB_UNKNOWN"));
    let encoded = client.send("GET", &path, &[("accept-encoding", "gzip")], b"").await;
    table.row(section, "a blob is never encoded anew", encoded.body == layer && encoded.header("content-encoding").is_none());

    let section = "Checking if content exists in the registry";
    for (path, size) in [
        ("/v2/a/b/manifests/v1".to_owned(), manifest.len()),
        (format!("/v2/a/b/manifests/{digest}"), manifest.len()),
        (path.clone(), layer.len()),
    ] {
        let answer = client.head(&path).await;
        table.row(section, "HEAD is 200 without a body", answer.status == 200 && answer.is_whole);
        table.row(section, "Content-Length is the size", answer.header("content-length") == Some(&size.to_string()));
        table.row(section, "the digest is said", answer.header("docker-content-digest").is_some());
    }
    for path in ["/v2/a/b/manifests/v2".to_owned(), format!("/v2/a/b/blobs/{}", sha256(b"x"))] {
        table.row(section, "HEAD of what is not there is 404", client.head(&path).await.status == 404);
    }

    let section = "RFC 9110, conditions";
    for path in ["/v2/a/b/manifests/v1", &path] {
        let etag = client.get(path).await.header("etag").expect("an etag").to_owned();
        for tag in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
            let known = client.send("GET", path, &[("if-none-match", &tag)], b"").await;
            table.row(section, &format!("{tag} is known"), known.status == 304 && known.is_whole && known.body.is_empty());
        }
        table.row(section, "another is not", client.send("GET", path, &[("if-none-match", "\"x\"")], b"").await.status == 200);
    }
    table.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_answered_as_rfc_9110_has_them() {
    let served = serve().await;
    let (client, mut table, section) = (&served.client, Table::default(), "RFC 9110, ranges");
    let content = bytes(1, 2048);
    let path = format!("/v2/a/blobs/{}", push_blob(client, "a", &content).await);
    for (asked, range) in [("500-1499", 500..1500), ("500-", 500..2048), ("-500", 1548..2048), ("2000-5000", 2000..2048)] {
        let answer = client.range(&path, asked).await;
        let said = format!("bytes {}-{}/2048", range.start, range.end - 1);
        table.row(section, &format!("{asked} is 206"), answer.is(206, "content-range", &said) && answer.is_whole);
        table.row(section, &format!("{asked} has the right bytes"), answer.body == content[range]);
    }
    for asked in ["500-0", "5000-10000", "2048-", "-0"] {
        let answer = client.range(&path, asked).await;
        table.row(section, &format!("{asked} is 416"), answer.is_error(416, "RANGE_INVALID"));
        table.row(section, "the size is said", answer.header("content-range") == Some("bytes */2048"));
    }
    for asked in ["a-b", "0-1,5-6", ""] {
        let answer = client.range(&path, asked).await;
        table.row(section, "a range that is not understood is ignored", answer.status == 200 && answer.body == content);
    }
    let changed = client.send("GET", &path, &[("range", "bytes=0-1"), ("if-range", "\"other\"")], b"").await;
    table.row(section, "a range of other content is everything", changed.status == 200 && changed.body == content);
    let large = bytes(2, 3_000_000);
    let path = format!("/v2/a/blobs/{}", push_blob(client, "a", &large).await);
    let answer = client.range(&path, "1000001-2999998").await;
    table.row(section, "across pieces", answer.status == 206 && answer.is_whole && answer.body == large[1_000_001..2_999_999]);
    table.row(section, "accepted ranges are said", client.head(&path).await.header("accept-ranges") == Some("bytes"));
    let empty = format!("/v2/a/blobs/{}", push_blob(client, "a", b"").await);
    let answer = client.get(&empty).await;
    table.row(section, "an empty blob", answer.is(200, "content-length", "0") && answer.is_whole);
    table.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn types_are_negotiated_over_all_headers_and_docker_has_its_own() {
    let served = serve().await;
    let (client, mut table, section) = (&served.client, Table::default(), "Pulling manifests");
    let (config, layer) = (b"config".to_vec(), b"layer".to_vec());
    for content in [&config, &layer] {
        push_blob(client, "a", content).await;
    }
    let docker = image(&config, &layer, "").replace(MANIFEST, DOCKER);
    let put = client.send("PUT", "/v2/a/manifests/docker", &[("content-type", DOCKER)], docker.as_bytes()).await;
    table.row(section, "Docker's manifest is taken", put.status == 201);
    // As skopeo and podman ask: a header for each.
    let lines = [("accept", MANIFEST), ("accept", "application/vnd.docker.distribution.manifest.v1+json"), ("accept", DOCKER)];
    let answer = client.send("GET", "/v2/a/manifests/docker", &lines, b"").await;
    table.row(
        section,
        "several headers are one list",
        answer.is(200, "content-type", DOCKER) && answer.body == docker.as_bytes(),
    );
    for accept in [&format!("{MANIFEST}, {DOCKER};q=0.5"), "*/*", "application/*"] {
        let answer = client.send("GET", "/v2/a/manifests/docker", &[("accept", accept)], b"").await;
        table.row(section, accept, answer.status == 200);
    }
    let answer = client.send("GET", "/v2/a/manifests/docker", &[("accept", MANIFEST), ("accept", INDEX)], b"").await;
    table.row(section, "what is not accepted is not found", answer.is_error(404, "MANIFEST_UNKNOWN"));
    let text = image(&config, &layer, "");
    let digest = sha512(text.as_bytes());
    let put = crate::images::put_manifest(client, "a", &digest, &text).await;
    table.row(section, "a manifest by SHA-512 is taken", put.is(201, "docker-content-digest", &digest));
    let answer = client.get(&format!("/v2/a/manifests/{digest}")).await;
    table.row(section, "and given", answer.is(200, "docker-content-digest", &digest) && answer.body == text.as_bytes());
    table.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_keep_nobody_waiting() {
    let served = serve().await;
    let client = &served.client;
    let content = bytes(1, 8 << 20);
    let path = format!("/v2/a/blobs/{}", push_blob(client, "a", &content).await);
    let mut idle = Vec::new();
    // More than there are threads that may block.
    for _ in 0..600 {
        idle.push(client.begin("GET", &path, &[], 0, b"").await);
    }
    assert_eq!(client.get(&path).await.body, content);
    push_blob(client, "b", &bytes(2, 1 << 20)).await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_on_disk_never_ends_cleanly() {
    let served = serve().await;
    let client = &served.client;
    let content = bytes(1, 3 << 20);
    let path = format!("/v2/a/blobs/{}", push_blob(client, "a", &content).await);
    let name = blake3::hash(&content).to_hex().to_string();
    let file = served.fleet.path("alpha/content/blobs").join(&name[..2]).join(&name);
    let mut damaged = std::fs::read(&file).expect("its file");
    damaged[2 << 20] ^= 1;
    std::fs::write(&file, damaged).expect("written");
    let answer = client.get(&path).await;
    assert!(answer.status == 200 && !answer.is_whole && content.starts_with(&answer.body), "{} bytes", answer.body.len());
    assert!(client.get(&path).await.is_error(404, "BLOB_UNKNOWN"), "it is known to be damaged now");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_path_of_the_protocol_is_refused_in_its_form() {
    let served = serve().await;
    let client: &Client = &served.client;
    for path in ["/", "/v1/", "/v2/a", "/v2/a/tags/lists", "/livez"] {
        assert!(client.get(path).await.is_error(404, "UNSUPPORTED"), "{path}");
    }
    assert!(client.get("/v2/A/tags/list").await.is_error(400, "NAME_INVALID"));
    for (method, path) in
        [("PUT", "/v2/"), ("POST", "/v2/a/manifests/v1"), ("PATCH", "/v2/a/blobs/uploads/"), ("GET", "/v2/a/blobs/uploads/")]
    {
        let answer = client.send(method, path, &[], b"").await;
        assert!(answer.is_error(405, "UNSUPPORTED") && answer.header("allow").is_some(), "{method} {path}");
    }
}
