//! Requests of 100 MiB, as the body or as the head: refused as soon as that can be said, and never in memory.

use std::io::{Read as _, Write as _};

use crate::subject::Subject;
use crate::wire;

const FLOOD: usize = 100 << 20;
/// What one may add to the daemon's memory: the longest request, as it comes and as it is read, and what is on its way.
const MEMORY: u64 = 48 << 20;

/// What the memory has grown by at its highest while `during`.
fn bounded(subject: &Subject, what: &str, during: impl FnOnce()) {
    subject.forget_peak();
    let before = subject.memory("VmRSS");
    during();
    let grown = subject.memory("VmHWM").saturating_sub(before);
    assert!(grown < MEMORY, "{what}: {} MiB more at its highest", grown >> 20);
    subject.call("peat.blob.v1.BlobService/GetNode", "{}");
}

#[test]
fn a_request_of_a_hundred_mebibytes_is_refused_and_never_in_memory() {
    let subject = Subject::start("");
    let files = subject.files();
    let send = |method: &str, kind: &str, body: &[u8]| {
        let head = wire::head(method, kind, body.len(), "");
        wire::exchange(&subject.address, &head, body)
    };
    let attach = "peat.sidecar.v1.PeatSidecar/ImportBlob";
    bounded(&subject, "JSON", || {
        let body = [&b"{\"data\":\""[..], &vec![b'A'; FLOOD], b"\"}"].concat();
        // Its answer is lost where the system tells first that the connection is closed.
        if let Some(answer) = send(attach, "application/json", &body) {
            assert_eq!(answer.error().unwrap_or_default().0, "resource_exhausted", "{answer:?}");
        }
    });
    let long = wire::envelope(0, &vec![0; FLOOD]);
    for method in [attach, "peat.blob.v1.StoreService/ImportBlob"] {
        bounded(&subject, "gRPC", || {
            let answer = send(method, "application/grpc-web+proto", &long);
            assert!(
                answer.is_none_or(|answer| String::from_utf8_lossy(&answer.body).contains("grpc-status: 8")
                    || answer.head.contains("grpc-status: 8")),
                "{method}"
            );
        });
    }
    bounded(&subject, "a stream", || {
        if let Some(answer) = send("peat.blob.v1.BlobService/ImportParcel", "application/connect+proto", &long) {
            assert_eq!(answer.error().unwrap_or_default().0, "resource_exhausted", "{answer:?}");
        }
    });
    bounded(&subject, "a head", || {
        let mut stream = wire::connect(&subject.address);
        let line = format!("x: {}\r\n", "a".repeat(1 << 16));
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n");
        // Until it is refused, which is long before the end.
        let sent = (0..FLOOD >> 16).take_while(|_| stream.write_all(line.as_bytes()).is_ok()).count();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(sent < FLOOD >> 16, "all of it was read");
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    });
    subject.settles(files);
}
