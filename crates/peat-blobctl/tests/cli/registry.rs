//! `registry serve`, as clients of images see it.
#![allow(clippy::unwrap_used, reason = "in a test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{ctl, program};

const CONFIG: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) struct Serving {
    child: Child,
    pub(crate) listen: String,
}

impl Serving {
    pub(crate) fn start(directory: &Path, more: &[&str]) -> Self {
        let mut arguments = vec!["--output", "json", "registry", "serve", "images", "--listen", "127.0.0.1:0"];
        arguments.extend(more);
        let mut child = program(directory, &arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        Self { child, listen: told["listen"].as_str().unwrap().to_owned() }
    }

    /// The status line, head included, and the body of an answer.
    pub(crate) fn ask(&self, method: &str, path: &str, head: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.listen).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n{head}\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// Ends it as a service manager does; gives its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_pushed_is_served_again_after_a_restart_and_read_only_takes_nothing() {
    let work = tempfile::tempdir().unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{CONFIG}","size":2}},"layers":[]}}"#
    );
    let kind = format!("Content-Type: {MANIFEST_TYPE}\r\n");
    let serving = Serving::start(work.path(), &[]);
    let (head, _) = serving.ask("PUT", "/v2/team/app/manifests/1", &kind, &manifest);
    assert!(!head.starts_with("HTTP/1.1 201"), "its parts are not here: {head}");
    let bytes = "Content-Type: application/octet-stream\r\n";
    let (head, _) = serving.ask("POST", &format!("/v2/team/app/blobs/uploads/?digest={CONFIG}"), bytes, "{}");
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    let (head, _) = serving.ask("PUT", "/v2/team/app/manifests/1", &kind, &manifest);
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    let (head, _) = serving.ask("GET", "/v2/", "Origin: http://elsewhere\r\n", "");
    assert!(head.starts_with("HTTP/1.1 401"), "a page of a browser: {head}");
    let second = ctl(work.path(), &["registry", "serve", "images", "--listen", "127.0.0.1:0"]);
    assert_ne!(second.code, Some(0), "one at a time has a directory");
    assert_eq!(serving.terminate(), Some(0));

    let serving = Serving::start(work.path(), &["--read-only"]);
    let (head, body) = serving.ask("GET", "/v2/team/app/manifests/1", &format!("Accept: {MANIFEST_TYPE}\r\n"), "");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, manifest);
    let (_, body) = serving.ask("GET", &format!("/v2/team/app/blobs/{CONFIG}"), "", "");
    assert_eq!(body, "{}");
    for (method, path) in [("PUT", "/v2/team/app/manifests/2"), ("DELETE", "/v2/team/app/manifests/1")] {
        let (head, _) = serving.ask(method, path, &kind, &manifest);
        assert!(head.starts_with("HTTP/1.1 405"), "{method}: {head}");
    }
    assert_eq!(serving.terminate(), Some(0));
}

#[test]
fn what_others_could_change_or_a_node_has_is_not_served() {
    let work = tempfile::tempdir().unwrap();
    let run = ctl(work.path(), &["registry", "serve", "images", "--listen", "0.0.0.0:0"]);
    assert_eq!(run.code, Some(8), "{}", run.err);
    assert!(!work.path().join("images").exists());
    let run = ctl(work.path(), &["registry", "serve", "images", "--listen", "127.0.0.1:0", "--read-only"]);
    assert_eq!(run.code, Some(4), "{}", run.err);
    assert!(!work.path().join("images").exists());
    std::fs::create_dir(work.path().join("node")).unwrap();
    std::fs::write(work.path().join("node/replica.redb"), "").unwrap();
    let run = ctl(work.path(), &["registry", "serve", "node", "--listen", "127.0.0.1:0"]);
    assert_eq!(run.code, Some(8), "{}", run.err);
    assert!(!work.path().join("node/registry.redb").exists());
}
