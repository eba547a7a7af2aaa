//! Blobs and images out of a node by its API: as bytes, into files, into another registry; and what keeps them.

use connectrpc::client::{ClientConfig, HttpClient};
use connectrpc::{ErrorCode, Protocol};
use peat_blob_tests::fleet::DEADLINE;
use peat_blobapi::blob::oneof::{export_blob_request::Target, export_blob_response, import_blob_request, push_image_response};
use peat_blobapi::blob::{self, BlobState, ExportMethod, ImageServiceClient, StoreServiceClient};
use peat_blobd::Running;
use peat_blobd::config::Listen;

use crate::images::{bytes, push_image, sha256};
use crate::{Served, serve, serve_with};

/// A daemon with an outbox and an API.
async fn with_api() -> Served {
    let loopback = ([127, 0, 0, 1], 0).into();
    serve_with(|config| {
        let outbox = config.data_dir.with_file_name("outbox");
        std::fs::create_dir(&outbox).expect("a directory");
        config.outbox.insert("out".to_owned(), outbox);
        config.listen = vec![Listen::Tcp(loopback)];
    })
    .await
}

fn client(running: &Running) -> (ClientConfig, HttpClient) {
    let Listen::Tcp(address) = &running.addresses()[0] else { panic!("it listens on TCP") };
    let uri = format!("http://{address}").parse().expect("an address");
    (ClientConfig::new(uri).with_protocol(Protocol::Connect).with_default_timeout(DEADLINE), HttpClient::plaintext())
}

fn store(running: &Running) -> StoreServiceClient<HttpClient> {
    let (config, http) = client(running);
    StoreServiceClient::new(http, config)
}

pub(crate) fn images(running: &Running) -> ImageServiceClient<HttpClient> {
    let (config, http) = client(running);
    ImageServiceClient::new(http, config)
}

fn part(part: impl Into<import_blob_request::Part>) -> blob::ImportBlobRequest {
    blob::ImportBlobRequest { part: Some(part.into()), ..Default::default() }
}

fn options(digest: &str, pin: &str) -> blob::ImportBlobRequest {
    let options = blob::ImportBlobOptions { expected_digest: digest.into(), pin_name: pin.into(), ..Default::default() };
    part(import_blob_request::Part::Options(Box::new(options)))
}

fn chunks(content: &[u8]) -> Vec<blob::ImportBlobRequest> {
    content.chunks(200_000).map(|chunk| part(import_blob_request::Part::Chunk(chunk.to_vec()))).collect()
}

fn beneath(path: &str) -> blob::RootPath {
    blob::RootPath { root_name: "out".into(), relative_path: path.into(), ..Default::default() }
}

/// The bytes that came, and the report.
async fn export(
    client: &StoreServiceClient<HttpClient>,
    blob: &str,
    target: Option<Target>,
) -> Result<(Vec<u8>, blob::ExportBlobReport), connectrpc::ConnectError> {
    let mut stream = client.export_blob(blob::ExportBlobRequest { blob: blob.to_owned(), target, ..Default::default() }).await?;
    let mut came = Vec::new();
    while let Some(part) = stream.message().await? {
        match part.to_owned_message().part {
            Some(export_blob_response::Part::Chunk(chunk)) => came.extend(chunk),
            Some(export_blob_response::Part::Report(report)) => return Ok((came, *report)),
            _ => {}
        }
    }
    panic!("a stream that ends well ends with a report")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_comes_in_as_a_stream_and_goes_out_as_it_was() {
    let served = with_api().await;
    let client = store(&served.running);
    let content = bytes(7, 1_000_000);
    let mut requests = vec![options(&sha256(&content), "mine")];
    requests.extend(chunks(&content));
    let taken = client.import_blob(n0_future::stream::iter(requests)).await.expect("taken").into_owned();
    assert_eq!((taken.digest.as_str(), taken.size, taken.already_present), (sha256(&content).as_str(), 1_000_000, false));
    assert_eq!(taken.blob, blake3::hash(&content).to_hex().as_str());
    for name in [&taken.blob, &taken.digest] {
        let (came, report) = export(&client, name, None).await.expect("given out");
        assert!(came == content && report.blob == taken.blob && report.bytes_written == 1_000_000);
    }

    let path = || Some(Target::RootPath(Box::new(beneath("new/copy"))));
    let (_, report) = export(&client, &taken.blob, path()).await.expect("written");
    assert!([1, 2].contains(&report.method.to_i32()) && report.bytes_written == 1_000_000);
    assert_eq!(std::fs::read(served.fleet.path("outbox/new/copy")).expect("there"), content);
    let (_, report) = export(&client, &taken.blob, path()).await.expect("there");
    assert_eq!((report.method, report.bytes_written), (ExportMethod::EXPORT_METHOD_PRESENT.into(), 0));

    let file = blob::ImportBlobOptions { root_path: beneath("new/copy").into(), ..Default::default() };
    let again = client.import_blob(n0_future::stream::iter([part(import_blob_request::Part::Options(Box::new(file)))])).await;
    let again = again.expect("taken").into_owned();
    assert!(again.already_present && again.blob == taken.blob);

    // What is not what it was to be leaves nothing, and the empty blob is one like any other.
    let mut wrong = vec![options(&sha256(b"another"), "")];
    wrong.extend(chunks(b"something"));
    let error = client.import_blob(n0_future::stream::iter(wrong)).await.expect_err("another digest");
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{error:?}");
    let status = async |blob: &str| {
        let request = blob::GetBlobStatusRequest { blob: blob.to_owned(), ..Default::default() };
        client.get_blob_status(request).await.expect("told").into_owned()
    };
    assert_eq!(status(&sha256(b"something")).await.blob.state, BlobState::BLOB_STATE_ABSENT);
    let empty = client.import_blob(n0_future::stream::iter([options("", "")])).await.expect("taken").into_owned();
    assert_eq!(export(&client, &empty.blob, None).await.expect("given out").0, b"");
    served.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_not_deleted_and_the_refusal_says_by_what() {
    let served = with_api().await;
    let client = store(&served.running);
    let mut requests = vec![options("", "mine")];
    requests.extend(chunks(b"kept"));
    let kept = client.import_blob(n0_future::stream::iter(requests)).await.expect("taken").into_owned().blob;
    let (manifest, layer) = push_image(&served.client, "team/app", "1", 1).await;
    let delete = async |blob: &str, pins: &[&str], leases: bool| {
        let pin_names = pins.iter().map(|name| (*name).to_owned()).collect();
        let request = blob::DeleteBlobRequest { blob: blob.to_owned(), pin_names, leases, ..Default::default() };
        client.delete_blob(request).await.map(|gone| gone.into_owned().freed)
    };
    let layer_digest = sha256(&layer);
    for (blob, pins, leases, kept_by) in
        [(&kept, vec![], true, "user:mine"), (&layer_digest, vec!["mine"], true, "package:team/app@sha256:")]
    {
        let error = delete(blob, &pins, leases).await.expect_err("it is kept");
        assert_eq!(error.code, ErrorCode::FailedPrecondition, "{error:?}");
        assert!(error.message.as_deref().is_some_and(|message| message.contains(kept_by)), "{error:?}");
    }
    assert_eq!(served.client.get(&format!("/v2/team/app/blobs/{layer_digest}")).await.body, layer, "nothing is lost");
    assert_eq!(delete(&kept, &["mine"], false).await.expect("given up"), 4);
    assert_eq!(delete(&kept, &["mine"], false).await.expect_err("it is gone").code, ErrorCode::NotFound);

    // Page by page, and by what keeps them.
    let list = async |request: blob::ListBlobsRequest| client.list_blobs(request).await.expect("listed").into_owned();
    let of_package = blob::ListBlobsRequest { pin_prefix: "package:team/app".into(), ..Default::default() };
    let mut found: Vec<_> = list(of_package.clone()).await.blobs.into_iter().map(|blob| blob.digest).collect();
    let mut expected = vec![sha256(manifest.as_bytes()), layer_digest.clone(), sha256(&bytes(1, 100))];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let (mut seen, mut after) = (0, String::new());
    loop {
        let page = list(blob::ListBlobsRequest { limit: 1, after, ..of_package.clone() }).await;
        seen += page.blobs.len();
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(seen, 3);
    served.running.stop().await;
}

/// The parts as they ended, and the report.
async fn push(
    client: &ImageServiceClient<HttpClient>,
    image: &str,
    target: blob::RegistryTarget,
) -> Result<(Vec<blob::ImageProgress>, blob::PushReport), connectrpc::ConnectError> {
    let request = blob::PushImageRequest { image: image.to_owned(), target: target.into(), ..Default::default() };
    let mut stream = client.push_image(request).await?;
    let mut parts = Vec::new();
    while let Some(part) = stream.message().await? {
        match part.to_owned_message().part {
            Some(push_image_response::Part::Progress(progress)) => parts.push(*progress),
            Some(push_image_response::Part::Report(report)) => return Ok((parts, *report)),
            None => {}
        }
    }
    panic!("a stream that ends well ends with a report")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pushed_into_another_registry_where_nothing_crosses_twice() {
    let (here, there) = (with_api().await, serve().await);
    let host = there.running.registry_addresses()[0].to_string();
    let (manifest, layer) = push_image(&here.client, "team/app", "1", 1).await;
    let about = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"a/signature","config":{},"layers":[],"subject":{}}}"#,
        crate::images::MANIFEST,
        crate::images::descriptor(crate::images::CONFIG, &bytes(1, 100)),
        crate::images::descriptor(crate::images::MANIFEST, manifest.as_bytes()),
    );
    let about_digest = sha256(about.as_bytes());
    assert_eq!(crate::images::put_manifest(&here.client, "team/app", &about_digest, &about).await.status, 201);
    let target = |name: &str| blob::RegistryTarget { reference: format!("{host}/{name}"), insecure: true, ..Default::default() };

    let images = images(&here.running);
    let (parts, report) = push(&images, "team/app:1", target("team/app")).await.expect("pushed");
    assert_eq!((report.sent, report.mounted, report.present), (4, 0, 1), "the configuration of the signature is there by then");
    assert_eq!(report.digest, sha256(manifest.as_bytes()));
    assert!(parts.iter().any(|part| part.digest == sha256(&layer) && part.size == 100_000 && part.bytes == 100_000));
    assert_eq!(there.client.get("/v2/team/app/manifests/1").await.body, manifest.as_bytes());
    assert_eq!(there.client.get(&format!("/v2/team/app/blobs/{}", sha256(&layer))).await.body, layer);
    let referrers = there.client.get(&format!("/v2/team/app/referrers/{}", sha256(manifest.as_bytes()))).await;
    assert!(referrers.text().contains(&about_digest), "what is about it comes along: {}", referrers.text());

    let (_, again) = push(&images, "team/app:1", target("team/app:1")).await.expect("pushed");
    assert_eq!((again.sent, again.present), (1, 4), "the tag alone");
    let (_, mounted) = push(&images, "team/app:1", target("other/name:2")).await.expect("pushed");
    assert_eq!((mounted.sent, mounted.mounted), (2, 2), "the manifests alone: the blobs were pushed to another repository there");
    assert_eq!(there.client.get(&format!("/v2/other/name/blobs/{}", sha256(&layer))).await.body, layer);
    let from = blob::RegistryTarget { mount_from: vec!["other/name".into()], ..target("third:1") };
    assert_eq!(push(&images, "team/app:1", from).await.expect("pushed").1.mounted, 2);

    // The export of the manifest as a blob is the same.
    let to = Some(Target::Registry(Box::new(target("as/blob:1"))));
    let (_, report) = export(&store(&here.running), &sha256(manifest.as_bytes()), to).await.expect("pushed");
    assert_eq!(report.method, ExportMethod::EXPORT_METHOD_PUSHED);
    assert_eq!(there.client.get("/v2/as/blob/manifests/1").await.body, manifest.as_bytes());

    for (image, reference, code) in [
        ("team/app:1", "no/host:1".to_owned(), ErrorCode::InvalidArgument),
        ("team/none:1", format!("{host}/a:1"), ErrorCode::NotFound),
        ("team/app:1", "127.0.0.1:1/a:1".to_owned(), ErrorCode::Unavailable),
    ] {
        let target = blob::RegistryTarget { reference, insecure: true, ..Default::default() };
        let error = push(&images, image, target).await.expect_err("it cannot be");
        assert_eq!(error.code, code, "{error:?}");
    }
    let to = Some(Target::Registry(Box::new(target("as/layer:1"))));
    let error = export(&store(&here.running), &sha256(&layer), to).await.expect_err("a layer is no image");
    assert_eq!(error.code, ErrorCode::NotFound, "{error:?}");
    here.running.stop().await;
    there.running.stop().await;
}
