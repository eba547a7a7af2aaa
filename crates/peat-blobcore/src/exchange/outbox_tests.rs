//! What a walk finds, what it leaves out and says so, and what it never does.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Collected, Found, Outbox, SkipReason, Walk};

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (path, text) in [("root/b/2", "two"), ("root/b/1", "one"), ("root/a", "a"), ("root/.hidden/.x", "x"), ("outside", "no")] {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("beneath")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }
    dir
}

fn open(dir: &tempfile::TempDir) -> Outbox {
    Outbox::open(&dir.path().join("root")).expect("a root")
}

/// `path` for a file, `path: reason` for what is skipped.
fn words(walk: Walk<'_>) -> Vec<String> {
    walk.map(|found| match found {
        Found::File(file) => String::from_utf8_lossy(&file.path).into_owned(),
        Found::Skipped { path, reason } => format!("{}: {reason}", String::from_utf8_lossy(&path)),
    })
    .collect()
}

fn only(mut walk: Walk<'_>) -> Collected {
    let found = walk.next();
    assert!(walk.next().is_none());
    let Some(Found::File(file)) = found else { panic!("{found:?}") };
    file
}

#[test]
fn a_whole_root_is_walked_in_order_hidden_files_too() {
    let dir = tree();
    assert_eq!(words(open(&dir).everything()), [".hidden/.x", "a", "b/1", "b/2"]);
}

#[test]
fn named_paths_keep_their_order_and_none_is_sent_twice() {
    let dir = tree();
    assert_eq!(words(open(&dir).paths(&[b"b", b"a", b"b/1", b"a", b".hidden"])), ["b/1", "b/2", "a", ".hidden/.x"]);
}

#[test]
fn size_mode_and_time_are_those_of_the_file() {
    let dir = tree();
    let path = dir.path().join("root/a");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4750)).expect("a mode");
    let time = SystemTime::UNIX_EPOCH - Duration::from_millis(1);
    std::fs::File::options().write(true).open(&path).expect("a file").set_modified(time).expect("a time");
    let file = only(open(&dir).paths(&[b"a"]));
    assert_eq!((file.size, file.mode, file.mtime), (1, 0o4750, -1));
}

#[test]
fn links_pipes_sockets_and_devices_are_skipped_by_name() {
    let dir = tree();
    let root = dir.path().join("root");
    symlink("a", root.join("link")).expect("a link");
    symlink("..", root.join("up")).expect("a link");
    assert!(std::process::Command::new("mkfifo").arg(root.join("pipe")).status().expect("coreutils").success());
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("a socket");
    assert_eq!(
        words(open(&dir).everything()),
        [
            ".hidden/.x",
            "a",
            "b/1",
            "b/2",
            "link: it is a symbolic link",
            "pipe: it is a pipe, not a file",
            "socket: it is a socket, not a file",
            "up: it is a symbolic link",
        ]
    );
    assert_eq!(words(open(&dir).paths(&[b"pipe"])), ["pipe: it is a pipe, not a file"], "and does not block");
}

#[test]
fn paths_that_are_not_beneath_the_root_are_refused_and_the_others_found() {
    let dir = tree();
    symlink("../outside", dir.path().join("root/out")).expect("a link");
    symlink("b/1", dir.path().join("root/within")).expect("a link");
    let found =
        words(open(&dir).paths(&[b"", b"/etc/passwd", b"../outside", b"b/../a", b"b//1", b"nul\0", b"out", b"gone", b"within"]));
    let expected = [
        "\"\" is not a path beneath the root: it is empty",
        "\"/etc/passwd\" is not a path beneath the root: it is absolute",
        "\"../outside\" is not a path beneath the root: it has an empty",
        "\"b/../a\" is not a path beneath the root: it has an empty",
        "\"b//1\" is not a path beneath the root: it has an empty",
        "\"nul\\0\" is not a path beneath the root: it contains a NUL byte",
        "\"out\" is not a path beneath the root: a symbolic link leads out of the root",
        "\"gone\": cannot look at it: No such file",
        "within",
    ];
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found} | {expected}");
    }
}

#[test]
fn a_name_that_is_not_text_is_found_with_its_bytes() {
    let dir = tree();
    std::fs::write(dir.path().join("root/b").join(OsStr::from_bytes(b"\xff")), "odd").expect("a file");
    let paths: Vec<Vec<u8>> = open(&dir)
        .paths(&[b"b"])
        .map(|found| match found {
            Found::File(file) => file.path,
            Found::Skipped { path, .. } => panic!("{path:?}"),
        })
        .collect();
    assert_eq!(paths, [&b"b/1"[..], b"b/2", b"b/\xff"]);
}

#[test]
fn a_file_that_changes_vanishes_or_becomes_something_else_is_an_error() {
    let dir = tree();
    let outbox = open(&dir);
    let path = dir.path().join("root/a");
    let file = only(outbox.paths(&[b"a"]));
    let mut handle = file.open().expect("unchanged so far");
    let mut text = String::new();
    handle.read_to_string(&mut text).expect("a text");
    file.check(&handle).expect("unchanged so far");
    std::fs::write(&path, "longer").expect("a file");
    assert_eq!(file.check(&handle).expect_err("changed").to_string(), "\"a\" changed while it was read");
    assert!(file.open().is_err());
    let file = only(outbox.paths(&[b"a"]));
    std::fs::remove_file(&path).expect("a file");
    assert!(file.open().expect_err("gone").to_string().contains("No such file"));
    assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("coreutils").success());
    assert!(file.open().expect_err("a pipe").to_string().contains("changed"), "and does not block");
    std::fs::remove_file(&path).expect("the pipe");
    symlink("../outside", &path).expect("a link");
    assert!(file.open().is_err(), "never read through a link that leads out");
}

#[test]
fn what_vanishes_during_the_walk_does_not_stop_it() {
    let dir = tree();
    let mut walk = open(&dir).everything();
    assert!(matches!(walk.next(), Some(Found::File(file)) if file.path == b".hidden/.x"));
    std::fs::remove_dir_all(dir.path().join("root/b")).expect("a directory");
    let rest = words(walk);
    assert_eq!(rest[0], "a");
    assert!(rest[1].starts_with("b: \"b\": cannot look at it: No such file"), "{rest:?}");
}

#[test]
fn a_root_that_is_none_is_an_error() {
    let dir = tree();
    assert!(Outbox::open(Path::new("/nonexistent/root")).is_err());
    assert!(Outbox::open(&dir.path().join("outside")).expect_err("a file").to_string().contains("cannot open the root"));
}

#[test]
fn a_deep_and_wide_tree_is_walked_with_few_open_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut path = dir.path().join("root");
    for _ in 0..200 {
        std::fs::create_dir(&path).expect("a directory");
        std::fs::write(path.join("z"), "").expect("a file");
        path.push("d");
    }
    // Other tests of this process open files too.
    let beneath = |fd: &std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(dir.path()));
    let open_files = || std::fs::read_dir("/proc/self/fd").expect("procfs").flatten().filter(beneath).count();
    let mut walk = Outbox::open(&dir.path().join("root")).expect("a root").everything();
    let first = walk.next();
    assert!(matches!(&first, Some(Found::File(file)) if file.path.len() == 2 * 199 + 1), "{first:?}");
    assert!((1..150).contains(&open_files()), "{}", open_files());
    assert_eq!(walk.filter(|found| matches!(found, Found::File(_))).count(), 199);
    assert!(matches!(SkipReason::Special("pipe").to_string().as_str(), "it is a pipe, not a file"));
}
