//! The demo as a user runs it: the real program, its output and its exit code.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the program of PEAT_BLOB_BIN_DIR where that is set (a release build, for what is large), else the one of this build.
fn demo(arguments: &[&Path]) -> Output {
    let built = std::env::var_os("PEAT_BLOB_BIN_DIR").map(|directory| Path::new(&directory).join("peat-blobctl"));
    let program = built.unwrap_or_else(|| env!("CARGO_BIN_EXE_peat-blobctl").into());
    Command::new(program).arg("demo").args(arguments).output().expect("the program runs")
}

#[test]
fn a_given_directory_arrives_and_every_byte_is_compared() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(directory.path().join("sub")).expect("a directory");
    std::fs::write(directory.path().join("sub/file"), "content").expect("written");
    std::fs::write(directory.path().join("empty"), "").expect("written");
    let output = demo(&[directory.path()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("sub/file") && text.contains("delivered"), "{text}");
    assert!(text.contains("compared on disk: 2 files, 7 bytes, all equal"), "{text}");
}

#[test]
fn a_directory_that_is_not_there_is_an_error_with_what_to_do_about_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = demo(&[&directory.path().join("missing")]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "not found: {text}");
    assert!(text.contains("error:") && text.contains("missing"), "{text}");
}

#[test]
fn an_empty_directory_is_nothing_to_send() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = demo(&[directory.path()]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("hint:"), "{text}");
}

/// Large: wants 13 GB of disk and a release build.
#[test]
#[ignore = "takes 13 GB of disk and minutes: tests/run large"]
fn four_gibibytes_arrive_in_less_than_150_mebibytes_of_memory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // A sparse file: its bytes are zero, but hashed, sent, verified and written like any others.
    let file = File::create(directory.path().join("large")).expect("created");
    file.set_len(4 << 30).expect("sparse");
    let output = demo(&[directory.path()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("4294967296 bytes, all equal"), "{text}");
    let peak = text.lines().find_map(|line| line.strip_prefix("peak memory of both nodes: ")).expect("it is printed");
    let (figure, unit) = peak.split_once(' ').expect("a figure and its unit");
    assert_eq!(unit, "MiB", "{peak}");
    assert!(figure.parse::<f64>().expect("a figure") < 150.0, "{peak}");
}
