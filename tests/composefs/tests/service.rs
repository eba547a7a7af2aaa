//! The service of composefs as a process, and its own copying client between it and ours.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use composefs_ctl::varlink::proxy::{OciProxy as _, RepositoryProxy as _};
use composefs_ctl::{OciReference, copy_image};
use peat_blob_composefs_tests::{Ours, diff_id, ours, tar};
use peat_blobcore::registry::BlobStream;
use zlink::tokio::unix::Connection;

struct Theirs(Child);

impl Theirs {
    fn start(socket: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cfsctl"));
        let child = command.arg("varlink").arg("--address").arg(socket).spawn().expect("it starts");
        let begun = Instant::now();
        while !socket.exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("it ends");
    }
}

async fn open(connection: &mut Connection, path: Option<&str>) -> u64 {
    connection.open_repository(path, None, None).await.expect("an answer").expect("opened").handle
}

fn layer(ours: &Ours, repository: &str, digest: &peat_blobcore::oci::Digest) -> Vec<u8> {
    let repository = repository.parse().expect("a name");
    let hash = ours.registry.blob(&repository, digest).expect("the catalog").expect("it is here").hash;
    let mut bytes = Vec::new();
    BlobStream::open(ours.registry.content(), &hash).expect("open").read_to_end(&mut bytes).expect("read");
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn their_client_copies_an_image_of_ours_into_their_service_and_from_there_into_another_of_ours() {
    let (first, second, tar) = (ours(), ours(), tar());
    let (manifest, _) = first.image(&tar, "team/app:v1");
    let digest = diff_id(manifest.as_bytes()).to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("socket");
    let _theirs = Theirs::start(&socket);
    let mut theirs = zlink::tokio::unix::connect(&socket).await.expect("connected");
    let repo = dir.path().join("repo").display().to_string();
    theirs.init_repository(&repo, None, Some(true)).await.expect("an answer").expect("made");
    let there = open(&mut theirs, Some(&repo)).await;

    let mut from = first.connect();
    let here = open(&mut from, None).await;
    let image: OciReference = "team/app:v1".parse().expect("a reference");
    let copied = copy_image(&mut from, &mut theirs, here, there, &image, Some("app:v1"), false).await.expect("copied");
    assert_eq!(copied.manifest_digest, digest);
    let checked = theirs.oci_fsck(there, None).await.expect("an answer").expect("checked");
    assert!(checked.ok, "{checked:?}");

    let mut to = second.connect();
    let back = open(&mut to, None).await;
    let image: OciReference = "app:v1".parse().expect("a reference");
    let copied = copy_image(&mut theirs, &mut to, there, back, &image, Some("back:v1"), false).await.expect("copied");
    assert_eq!(copied.manifest_digest, digest);
    assert!(layer(&second, "back", &diff_id(&tar)) == tar);
}
