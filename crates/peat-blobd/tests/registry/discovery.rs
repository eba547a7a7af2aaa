//! Content Discovery: distribution-spec 1.1, "Listing Tags" and "Listing Referrers".

use crate::images::{CONFIG, INDEX, MANIFEST, bytes, descriptor, image, push_blob, push_image, put_manifest, sha256};
use crate::{Table, serve};

#[tokio::test(flavor = "multi_thread")]
async fn tags_and_repositories_are_listed_in_pages() {
    let served = serve().await;
    let (client, mut table) = (&served.client, Table::default());
    for tag in ["b", "A", "10", "9"] {
        push_image(client, "a/b", tag, 1).await;
    }
    push_image(client, "c", "1", 1).await;

    let section = "Listing Tags";
    let path = "/v2/a/b/tags/list";
    let list = async |query: &str| client.get(&format!("{path}{query}")).await;
    let all = list("").await;
    table.row(section, "a list is 200", all.status == 200 && all.header("content-type") == Some("application/json"));
    table.row(section, "in lexical order", all.text() == r#"{"name":"a/b","tags":["10","9","A","b"]}"#);
    table.row(section, "with no other page", all.header("link").is_none());
    let two = list("?n=2").await;
    table.row(section, "n bounds it", two.text().contains(r#"["10","9"]"#));
    table.row(section, "Link is the next page", two.header("link") == Some(&format!("<{path}?n=2&last=9>; rel=\"next\"")));
    let rest = list("?n=2&last=9").await;
    table.row(section, "last is where it goes on", rest.text().contains(r#"["A","b"]"#));
    table.row(section, "the last page has no Link", rest.header("link").is_none());
    table.row(section, "last need not be a tag", list("?last=99").await.text().contains(r#"["A","b"]"#));
    let none = list("?n=0").await;
    table.row(section, "n=0 is an empty list", none.status == 200 && none.text().contains("[]") && none.header("link").is_none());
    table.row(section, "n is a number", list("?n=x").await.is_error(400, "PAGINATION_NUMBER_INVALID"));
    let unknown = client.get("/v2/a/tags/list").await;
    table.row(section, "an unknown repository is not found", unknown.is_error(404, "NAME_UNKNOWN"));

    let section = "Docker's catalog";
    let all = client.get("/v2/_catalog").await;
    table.row(section, "repositories are listed", all.text() == r#"{"repositories":["a/b","c"]}"#);
    let one = client.get("/v2/_catalog?n=1").await;
    table.row(section, "in pages", one.header("link") == Some("</v2/_catalog?n=1&last=a/b>; rel=\"next\""));
    let rest = client.get("/v2/_catalog?n=1&last=a/b").await;
    table.row(section, "to the last", rest.text() == r#"{"repositories":["c"]}"# && rest.header("link").is_none());
    table.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_are_listed_by_their_subject_and_type() {
    let served = serve().await;
    let (client, mut table, section) = (&served.client, Table::default(), "Listing Referrers");
    let (manifest, _) = push_image(client, "a", "v1", 1).await;
    let subject = sha256(manifest.as_bytes());
    let path = format!("/v2/a/referrers/{subject}");

    let empty = client.get(&path).await;
    table.row(section, "a list is 200 where there are none", empty.is(200, "content-type", INDEX));
    table.row(
        section,
        "it is an empty index",
        empty.text().contains(r#""manifests":[]"#) && empty.text().contains(r#""schemaVersion":2"#),
    );
    for path in [format!("/v2/none/referrers/{subject}"), format!("/v2/a/referrers/{}", sha256(b"x"))] {
        let answer = client.get(&path).await;
        table.row(section, "the same for what is unknown", answer.status == 200 && answer.text().contains(r#""manifests":[]"#));
    }
    let answer = client.get("/v2/a/referrers/sha256:1").await;
    table.row(section, "a malformed digest is refused", answer.is_error(400, "DIGEST_INVALID"));

    let (config, layer) = (bytes(1, 100), bytes(2, 100_000));
    let about = format!(r#","subject":{}"#, descriptor(MANIFEST, manifest.as_bytes()));
    let typed = image(&config, &layer, &format!(r#","artifactType":"sbom/example","annotations":{{"org.example":"é"}}{about}"#));
    let plain = image(&config, &layer, &about);
    for text in [&typed, &plain] {
        assert_eq!(put_manifest(client, "a", &sha256(text.as_bytes()), text).await.status, 201);
    }
    let list = client.get(&path).await.text();
    let described = |text: &str| list.contains(&sha256(text.as_bytes())) && list.contains(&format!(r#""size":{}"#, text.len()));
    table.row(section, "they are described", described(&typed) && described(&plain));
    table.row(section, "with their artifact type", list.contains(r#""artifactType":"sbom/example""#));
    table.row(section, "else the type of their configuration", list.contains(&format!(r#""artifactType":"{CONFIG}""#)));
    table.row(section, "with their annotations", list.contains(r#""annotations":{"org.example":"é"}"#));
    let filtered = client.get(&format!("{path}?artifactType=sbom%2Fexample")).await;
    table.row(
        section,
        "a filter is applied",
        filtered.text().contains(&sha256(typed.as_bytes())) && !filtered.text().contains(&sha256(plain.as_bytes())),
    );
    table.row(section, "and said to be", filtered.header("oci-filters-applied") == Some("artifactType"));
    let none = client.get(&format!("{path}?artifactType=other/type")).await;
    table.row(section, "of no such type", none.status == 200 && none.text().contains(r#""manifests":[]"#));

    push_blob(client, "a", b"{}").await;
    for number in 0..120 {
        let text = image(&config, &layer, &format!(r#","annotations":{{"number":"{number}"}}{about}"#));
        assert_eq!(put_manifest(client, "a", &sha256(text.as_bytes()), &text).await.status, 201);
    }
    let (mut next, mut digests, mut pages) = (Some(path.clone()), std::collections::BTreeSet::new(), 0);
    while let Some(path) = next.take() {
        let page = client.get(&path).await;
        pages += 1;
        digests.extend(page.text().split(r#""digest":""#).skip(1).map(|rest| rest[..71].to_owned()));
        next = page.header("link").map(|link| link[1..link.find('>').expect("a link")].to_owned());
    }
    table.row(section, "many come in pages", (digests.len(), pages) == (122, 2));
    assert_eq!(client.delete(&format!("/v2/a/manifests/{}", sha256(typed.as_bytes()))).await.status, 202);
    let gone = client.get(&format!("{path}?artifactType=sbom%2Fexample")).await;
    table.row(section, "what is deleted is not listed", gone.text().contains(r#""manifests":[]"#));
    table.end();
}
