//! Push: distribution-spec 1.1, "Push".

use peat_blob_tests::fleet::{contents, eventually};

use crate::images::{INDEX, MANIFEST, bytes, descriptor, image, push_blob, push_image, put_manifest, sha256, sha512};
use crate::{Table, serve};

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_pushed_at_once_or_in_pieces() {
    let served = serve().await;
    let (client, mut table) = (&served.client, Table::default());
    let uploads = "/v2/a/b/blobs/uploads/";
    let content = bytes(1, 250_000);
    let digest = sha256(&content);

    let section = "POST then PUT";
    for (content, digest) in [(&content, digest.clone()), (&content, sha512(&content)), (&Vec::new(), sha256(b""))] {
        let begun = client.send("POST", uploads, &[], b"").await;
        table.row(section, "an upload begins with 202", begun.status == 202 && begun.is_whole);
        let id = begun.header("docker-upload-uuid").unwrap_or_default();
        let is_uuid = id.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && id.as_bytes()[14] == b'4';
        table.row(section, "its Location has a UUID, which is said too", is_uuid && begun.location().ends_with(id));
        let ended = client.send("PUT", &format!("{}?digest={digest}", begun.location()), &[], content).await;
        table.row(section, "it ends with 201", ended.status == 201);
        table.row(section, "Location is the blob's", client.get(&ended.location()).await.body == *content);
        table.row(section, "the digest is said", ended.header("docker-content-digest") == Some(&digest));
    }

    let section = "Single POST";
    let other = bytes(2, 250_000);
    let answer = client.send("POST", &format!("{uploads}?digest={}", sha256(&other)), &[], &other).await;
    table.row(section, "a blob comes with its POST", answer.status == 201);
    table.row(section, "Location is the blob's", client.get(&answer.location()).await.body == other);

    let section = "Pushing a blob in chunks";
    let begun = client.send("POST", "/v2/c/blobs/uploads", &[], b"").await;
    let location = begun.location();
    let chunk = |range: &'static str, bytes: Vec<u8>| {
        let location = location.clone();
        async move {
            client
                .send("PATCH", &location, &[("content-range", range), ("content-type", "application/octet-stream")], &bytes)
                .await
        }
    };
    let answer = chunk("0-99999", content[..100_000].to_vec()).await;
    table.row(section, "a chunk is 202", answer.status == 202);
    table.row(section, "Range says what has come", answer.header("range") == Some("0-99999"));
    table.row(section, "Location is said again", answer.location() == location);
    for (range, part) in [("0-99999", 0..100_000), ("150000-249999", 150_000..250_000)] {
        let answer = chunk(range, content[part].to_vec()).await;
        table.row(section, &format!("{range} is out of order"), answer.is_error(416, "BLOB_UPLOAD_INVALID"));
        table.row(section, "Range says what has come", answer.header("range") == Some("0-99999"));
    }
    let answer = client.get(&location).await;
    table.row(section, "the status is 204", answer.is(204, "range", "0-99999") && answer.is_whole);
    table.row(section, "with a Location", answer.location() == location);
    let answer = chunk("100000-199998", content[100_000..200_000].to_vec()).await;
    table.row(section, "a range of another length is refused", answer.is_error(400, "SIZE_INVALID"));
    let answer = client.send("PATCH", &location, &[], &content[100_000..200_000]).await;
    table.row(section, "a chunk without a range is the next one", answer.is(202, "range", "0-199999"));
    let ended = client
        .send("PUT", &format!("{location}?digest={digest}"), &[("content-range", "200000-249999")], &content[200_000..])
        .await;
    table.row(section, "the last chunk ends it", ended.status == 201);
    table.row(section, "Location is the blob's", client.get(&ended.location()).await.body == content);
    table.row(section, "it is no upload any more", client.get(&location).await.is_error(404, "BLOB_UPLOAD_UNKNOWN"));
    let begun = client.send("POST", "/v2/c/blobs/uploads/", &[], b"").await;
    client.send("PATCH", &begun.location(), &[], &content).await;
    let ended = client.send("PUT", &format!("{}?digest={digest}", begun.location()), &[], b"").await;
    table.row(section, "an upload ends without a chunk, too", ended.status == 201);
    table.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_end_without_a_trace_where_they_are_wrong_or_given_up() {
    let served = serve().await;
    let (client, mut table) = (&served.client, Table::default());
    let content = bytes(1, 100_000);
    let spool = served.fleet.path("alpha/content/tmp");
    let begin = async || client.send("POST", "/v2/a/blobs/uploads/", &[], b"").await.location();

    let section = "Error Codes";
    for digest in [sha256(b"other"), sha512(b"other")] {
        let answer = client.send("PUT", &format!("{}?digest={digest}", begin().await), &[], &content).await;
        table.row(section, "another digest is refused", answer.is_error(400, "DIGEST_INVALID"));
        table.row(section, "and not kept", client.head(&format!("/v2/a/blobs/{digest}")).await.status == 404);
    }
    let true_name = format!("/v2/a/blobs/{}", sha256(&content));
    table.row(section, "not under its true name either", client.head(&true_name).await.status == 404);
    table.row(section, "nothing is left of it", contents(&spool).is_empty());
    let location = begin().await;
    for query in ["", "?digest=", "?digest=sha256:1", "?digest=md5:d41d8cd98f00b204e9800998ecf8427e"] {
        let answer = client.send("PUT", &format!("{location}{query}"), &[], &content).await;
        table.row(section, &format!("{query} is refused"), answer.is_error(400, "DIGEST_INVALID"));
    }
    let strange = client.send("PATCH", &location, &[("content-range", "x")], b"x").await;
    table.row(section, "a malformed range is refused", strange.is_error(400, "BLOB_UPLOAD_INVALID"));
    let elsewhere = location.replace("/a/", "/b/");
    table.row(section, "an upload is its repository's", client.get(&elsewhere).await.is_error(404, "BLOB_UPLOAD_UNKNOWN"));
    for id in ["x", "00000000000000000000000000000000"] {
        let answer = client.send("PATCH", &format!("/v2/a/blobs/uploads/{id}"), &[], b"x").await;
        table.row(section, "an unknown upload", answer.is_error(404, "BLOB_UPLOAD_UNKNOWN"));
    }

    let section = "Canceling an upload";
    table.row(section, "DELETE is 204", client.delete(&location).await.status == 204);
    table.row(section, "it is gone", client.get(&location).await.is_error(404, "BLOB_UPLOAD_UNKNOWN"));
    table.row(section, "DELETE again is 404", client.delete(&location).await.is_error(404, "BLOB_UPLOAD_UNKNOWN"));
    table.end();
    let wrong = client.send("POST", &format!("/v2/a/blobs/uploads/?digest={}", sha256(b"other")), &[], &content).await;
    assert!(wrong.is_error(400, "DIGEST_INVALID"));
    eventually("nothing is left of any", || async { contents(&spool).is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_broke_off_goes_on_from_what_has_come() {
    let served = serve().await;
    let client = &served.client;
    let content = bytes(1, 3_000_000);
    let location = client.send("POST", "/v2/a/blobs/uploads/", &[], b"").await.location();
    drop(client.begin("PATCH", &location, &[], content.len(), &content[..2_000_000]).await);
    let come = || async {
        let range = client.get(&location).await.header("range").expect("a range").to_owned();
        range.trim_start_matches("0-").parse::<usize>().expect("a number") + 1
    };
    eventually("most of it is there", || async { come().await > 900_000 }).await;
    let mut has = come().await;
    // What the first connection had on the way may still come.
    loop {
        let range = format!("{has}-{}", content.len() - 1);
        let answer = client.send("PATCH", &location, &[("content-range", &range)], &content[has..]).await;
        if answer.status == 202 {
            break;
        }
        assert_eq!(answer.status, 416, "{}", answer.text());
        has = come().await;
    }
    let ended = client.send("PUT", &format!("{location}?digest={}", sha256(&content)), &[], b"").await;
    assert_eq!(client.get(&ended.location()).await.body, content);
    // A blob that comes with its POST cannot be gone on with, so nothing of it stays.
    let lone = format!("/v2/a/blobs/uploads/?digest={}", sha256(b"other"));
    drop(client.begin("POST", &lone, &[], content.len(), &content[..2_000_000]).await);
    eventually("nothing is left", || async { contents(&served.fleet.path("alpha/content/tmp")).is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_mounted_from_other_repositories() {
    let served = serve().await;
    let (client, mut table, section) = (&served.client, Table::default(), "Mounting a blob from another repository");
    let content = bytes(1, 100_000);
    let digest = push_blob(client, "one", &content).await;
    let mount = async |query: &str| client.send("POST", &format!("/v2/two/blobs/uploads/?{query}"), &[], b"").await;
    let answer = mount(&format!("mount={digest}&from=three")).await;
    table.row(
        section,
        "what the other does not have is to be pushed",
        answer.status == 202 && answer.location().contains("/uploads/"),
    );
    let answer = mount(&format!("mount={}&from=one", sha256(b"x"))).await;
    table.row(section, "what nobody has is to be pushed", answer.status == 202 && answer.location().contains("/uploads/"));
    table.row(section, "nothing was mounted", client.head(&format!("/v2/two/blobs/{digest}")).await.status == 404);
    let answer = mount(&format!("mount={digest}&from=one")).await;
    table.row(section, "a mount is 201", answer.status == 201);
    table.row(section, "Location is the blob's", client.get(&answer.location()).await.body == content);
    let answer = client.send("POST", &format!("/v2/four/blobs/uploads/?mount={digest}"), &[], b"").await;
    table.row(section, "from is not needed", answer.status == 201 && client.get(&answer.location()).await.body == content);
    table.row(section, "a bad digest is refused", mount("mount=x&from=one").await.is_error(400, "DIGEST_INVALID"));
    table.row(section, "a bad name is refused", mount(&format!("mount={digest}&from=A")).await.is_error(400, "NAME_INVALID"));
    table.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_taken_with_all_that_they_name() {
    let served = serve().await;
    let (client, mut table) = (&served.client, Table::default());
    let (config, layer) = (bytes(1, 100), bytes(2, 1000));

    let section = "Pushing Manifests";
    let text = image(&config, &layer, "");
    let answer = put_manifest(client, "a", "v1", &text).await;
    let missing = answer.is_error(400, "MANIFEST_BLOB_UNKNOWN") && answer.text().contains(&sha256(&layer));
    table.row(section, "what names missing blobs is refused, with their digests", missing);
    push_blob(client, "a", &config).await;
    push_blob(client, "a", &layer).await;
    for reference in ["v1", &sha256(text.as_bytes()), &sha512(text.as_bytes())] {
        let answer = put_manifest(client, "a", reference, &text).await;
        table.row(section, "a manifest is 201", answer.status == 201);
        table.row(section, "Location is the manifest's", client.get(&answer.location()).await.body == text.as_bytes());
        let said = answer.header("docker-content-digest").unwrap_or_default();
        table.row(section, "the digest is said, that which was given", reference == "v1" || said == reference);
        table.row(section, "it is the manifest's", said == sha256(text.as_bytes()) || said == sha512(text.as_bytes()));
    }
    let answer = client
        .send("PUT", "/v2/a/manifests/v1", &[("content-type", &format!("{MANIFEST}; charset=utf-8"))], text.as_bytes())
        .await;
    table.row(section, "parameters of its type are passed over", answer.status == 201);
    table.row(section, "and are not said", client.head("/v2/a/manifests/v1").await.header("content-type") == Some(MANIFEST));
    let spaced = text.replace(',', " ,\n");
    put_manifest(client, "a", "v2", &spaced).await;
    table.row(section, "the bytes stay as they came", client.get("/v2/a/manifests/v2").await.body == spaced.as_bytes());
    table.row(section, "the other tag stays", client.get("/v2/a/manifests/v1").await.body == text.as_bytes());
    put_manifest(client, "a", "v1", &spaced).await;
    table.row(section, "a tag is set anew", client.get("/v2/a/manifests/v1").await.body == spaced.as_bytes());
    let wrong = put_manifest(client, "a", &sha256(b"x"), &text).await;
    table.row(section, "another digest is refused", wrong.is_error(400, "DIGEST_INVALID"));
    let size = text.replace(r#""size":1000"#, r#""size":1001"#);
    table.row(section, "a wrong size is refused", put_manifest(client, "a", "v3", &size).await.is_error(400, "MANIFEST_INVALID"));
    for (text, code) in [("", "MANIFEST_INVALID"), ("{}", "MANIFEST_INVALID"), ("[1]", "MANIFEST_INVALID")] {
        table.row(section, "what is no manifest is refused", put_manifest(client, "a", "v3", text).await.is_error(400, code));
    }
    let other = client.send("PUT", "/v2/a/manifests/v3", &[("content-type", INDEX)], text.as_bytes()).await;
    table.row(section, "another type than its own is refused", other.is_error(400, "MANIFEST_INVALID"));
    let tag = put_manifest(client, "a", ".v3", &text).await;
    table.row(section, "a bad tag is refused", tag.is_error(400, "TAG_INVALID"));
    let padding = 4 * 1024 * 1024 - text.len() - r#","annotations":{"x":""}"#.len();
    let largest = |more: usize| image(&config, &layer, &format!(r#","annotations":{{"x":"{}"}}"#, "y".repeat(padding + more)));
    table.row(section, "4 MiB are taken", put_manifest(client, "a", "large", &largest(0)).await.status == 201);
    let answer = put_manifest(client, "a", "larger", &largest(1)).await;
    table.row(section, "more are refused with 413", answer.is_error(413, "MANIFEST_INVALID"));
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, descriptor(MANIFEST, text.as_bytes()));
    let put = async |repository: &str| {
        client.send("PUT", &format!("/v2/{repository}/manifests/all"), &[("content-type", INDEX)], index.as_bytes()).await
    };
    table.row(section, "an index is taken", put("a").await.status == 201);
    table.row(section, "without its manifests it is refused", put("b").await.is_error(400, "MANIFEST_BLOB_UNKNOWN"));

    let section = "Pushing Manifests with Subject";
    let subject = descriptor(MANIFEST, b"not here");
    let about = image(&config, &layer, &format!(r#","subject":{subject}"#));
    let answer = put_manifest(client, "a", "about", &about).await;
    table.row(section, "a subject need not be here", answer.status == 201);
    table.row(section, "OCI-Subject is its digest", answer.header("oci-subject") == Some(&sha256(b"not here")));
    let answer = put_manifest(client, "a", "v1", &text).await;
    table.row(section, "without a subject there is none", answer.header("oci-subject").is_none());
    table.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_there_after_a_restart() {
    let served = serve().await;
    let (manifest, layer) = push_image(&served.client, "a/b", "v1", 1).await;
    let crate::Served { fleet, running, .. } = served;
    running.stop().await;
    let loopback = ([127, 0, 0, 1], 0).into();
    let config = peat_blobd::Config {
        registry_listen: vec![loopback],
        iroh_listen: vec![loopback],
        ..peat_blobd::Config::new(fleet.path("alpha"))
    };
    let running = peat_blobd::Running::start(config).await.expect("it starts");
    let client = crate::Client::new(running.registry_addresses()[0]);
    assert_eq!(client.get("/v2/a/b/manifests/v1").await.body, manifest.as_bytes());
    assert_eq!(client.get(&format!("/v2/a/b/blobs/{}", sha256(&layer))).await.body, layer);
    running.stop().await;
}
