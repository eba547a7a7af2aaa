//! Data directories that a daemon cannot use: it says why and what to do, ends, and has changed nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use peat_blob_tests::filesystem::FileSystem;
use peat_blob_tests::fleet::{Fleet, contents};

use crate::victim::steady;

/// What a daemon that cannot use this data directory says as it ends, and its exit code.
fn turned_away(data: &Path) -> (Option<i32>, String) {
    let before = contents(data);
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_peat-blobd"));
    daemon.env_clear().env("PEAT_BLOBD_DATA_DIR", data).env("PEAT_BLOBD_IROH_LISTEN", "127.0.0.1:0").stdin(Stdio::null());
    let output = daemon.output().expect("it runs");
    assert!(contents(data) == before, "nothing was changed");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A node that has run before, in a directory of its own or on this file system.
async fn lived(fleet: &Fleet, disk: Option<&FileSystem>) -> PathBuf {
    let data = fleet.path("alpha");
    if let Some(disk) = disk {
        std::os::unix::fs::symlink(disk.path(), &data).expect("a link");
    }
    fleet.enroll("alpha", &[]);
    steady(fleet, "alpha").await.stop().await;
    data.canonicalize().expect("it is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_newer_version_is_left_alone() {
    let fleet = Fleet::new();
    let data = lived(&fleet, None).await;
    std::fs::write(data.join("format"), "peat-blob data 2\n").expect("written");
    let (code, told) = turned_away(&data);
    assert!(code == Some(8) && told.contains("peat-blob data 2") && told.contains("newer"), "{code:?}: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_the_key_of_another_node_is_refused() {
    let fleet = Fleet::new();
    let data = lived(&fleet, None).await;
    fleet.enroll("bravo", &[]);
    std::fs::copy(fleet.path("bravo/identity/node.key"), data.join("identity/node.key")).expect("copied");
    let (code, told) = turned_away(&data);
    assert!(code == Some(8) && told.contains("certificate"), "{code:?}: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_written_to_is_refused() {
    let Some(disk) = FileSystem::tmpfs(64) else { return };
    let fleet = Fleet::new();
    let data = lived(&fleet, Some(&disk)).await;
    disk.remount("ro");
    let (code, told) = turned_away(&data);
    assert!(code == Some(8) && told.contains("Read-only"), "{code:?}: {told}");
}
