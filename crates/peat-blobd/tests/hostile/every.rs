//! What is hostile to any call: it is answered with an error of the caller's, if at all, and never with one of the daemon's.

use std::io::Write as _;
use std::net::Shutdown;

use crate::table::TABLES;
use crate::wire;

/// Something that is sent to a call.
struct Sent {
    what: &'static str,
    kind: &'static str,
    more: &'static str,
    body: Vec<u8>,
    /// Codes of Connect, or statuses of HTTP; empty where it may also be well.
    wanted: &'static [&'static str],
}

/// Sends all of it to every call; what is wrong with the answers.
pub(crate) fn run(address: &str) -> Vec<String> {
    let (mut wrong, mut done) = (Vec::new(), std::collections::BTreeSet::new());
    for (service, rows) in TABLES {
        for row in rows {
            let method = format!("{service}/{}", row.call);
            if done.insert(method.clone()) {
                let sent = if row.is_stream() { to_stream() } else { to_one() };
                wrong.extend(sent.into_iter().filter_map(|sent| send(address, &method, &sent)));
                wrong.extend(breaks_off(address, &method));
            }
        }
    }
    wrong
}

fn send(address: &str, method: &str, sent: &Sent) -> Option<String> {
    let head = wire::head(method, sent.kind, sent.body.len(), sent.more);
    // What may be well may also have no end.
    let answer =
        if sent.wanted.is_empty() { wire::opens(address, &head, &sent.body) } else { wire::exchange(address, &head, &sent.body) };
    let Some(answer) = answer else { return Some(format!("{method}, {}: no answer", sent.what)) };
    let (status, code) = (answer.status.to_string(), answer.error().unwrap_or_default().0);
    let grpc =
        answer.head.lines().chain(std::str::from_utf8(answer.body.get(5..).unwrap_or_default()).unwrap_or_default().lines());
    let grpc = grpc.filter_map(|line| line.strip_prefix("grpc-status:")).next_back().unwrap_or_default().trim().to_owned();
    let is_wanted = |wanted: &&str| [&status, &code, &grpc].into_iter().any(|got| got == wanted);
    let well = if sent.wanted.is_empty() { answer.status < 500 } else { sent.wanted.iter().any(is_wanted) };
    (!well).then(|| format!("{method}, {}: wanted {:?}, got {status} {code:?} grpc {grpc:?}", sent.what, sent.wanted))
}

/// Says that more comes than does.
fn breaks_off(address: &str, method: &str) -> Option<String> {
    let mut stream = wire::connect(address);
    let head = wire::head(method, "application/connect+proto", 1000, "");
    let sent = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&[0, 0, 0, 1, 0]))
        .and_then(|()| stream.shutdown(Shutdown::Both));
    sent.err().map(|error| format!("{method}, broken off: {error}"))
}

/// Nested so deeply that who follows it runs out of stack.
fn deep() -> Vec<u8> {
    [br#"{"x":"#.to_vec(), vec![b'['; 1_000_000], vec![b']'; 1_000_000], b"}".to_vec()].concat()
}

fn to_one() -> Vec<Sent> {
    let (json, proto) = ("application/json", "application/proto");
    vec![
        Sent { what: "no kind that is known", kind: "text/html", more: "", body: b"{}".to_vec(), wanted: &["415"] },
        Sent { what: "nothing", kind: json, more: "", body: Vec::new(), wanted: &[] },
        Sent { what: "half of JSON", kind: json, more: "", body: b"{\"a".to_vec(), wanted: &["invalid_argument"] },
        Sent { what: "no UTF-8", kind: json, more: "", body: b"{\"\xff\xfe\":1}".to_vec(), wanted: &["invalid_argument"] },
        Sent { what: "deep JSON", kind: json, more: "", body: deep(), wanted: &[] },
        Sent { what: "half of a message", kind: proto, more: "", body: vec![0x0a, 0x7f, 0], wanted: &["invalid_argument"] },
        Sent {
            what: "a length without end",
            kind: proto,
            more: "",
            body: [[0x0a].as_slice(), &[0xff; 11]].concat(),
            wanted: &["invalid_argument"],
        },
        Sent { what: "deep groups", kind: proto, more: "", body: vec![0x0b; 100_000], wanted: &["invalid_argument"] },
        Sent { what: "fields that are unknown", kind: proto, more: "", body: [0xf8, 0x7f, 0].repeat(1_000_000), wanted: &[] },
        Sent { what: "a field a million times", kind: proto, more: "", body: [0x0a, 0].repeat(1_000_000), wanted: &[] },
        Sent {
            what: "compressed",
            kind: json,
            more: "content-encoding: gzip\r\n",
            body: vec![0x1f, 0x8b, 8],
            wanted: &["unimplemented"],
        },
        Sent {
            what: "time without end",
            kind: json,
            more: "connect-timeout-ms: 99999999999999999999\r\n",
            body: b"{}".to_vec(),
            wanted: &[],
        },
        Sent { what: "too long", kind: json, more: "", body: vec![b' '; 7 << 20], wanted: &["resource_exhausted"] },
        Sent {
            what: "gRPC, longer than can be",
            kind: "application/grpc-web+proto",
            more: "",
            body: vec![0, 0xff, 0xff, 0xff, 0xff, 0],
            wanted: &["3", "8"],
        },
        Sent {
            what: "gRPC, compressed by nothing",
            kind: "application/grpc-web+proto",
            more: "",
            body: wire::envelope(1, b"xx"),
            wanted: &["3", "12", "13"],
        },
        Sent { what: "gRPC, no message", kind: "application/grpc-web+proto", more: "", body: Vec::new(), wanted: &["3", "12"] },
    ]
}

fn to_stream() -> Vec<Sent> {
    let (json, proto) = ("application/connect+json", "application/connect+proto");
    vec![
        Sent { what: "no kind that is known", kind: "text/html", more: "", body: b"{}".to_vec(), wanted: &["415"] },
        Sent {
            what: "a message that is none",
            kind: json,
            more: "",
            body: wire::envelope(0, b"{\"a"),
            wanted: &["invalid_argument"],
        },
        Sent { what: "deep JSON", kind: json, more: "", body: wire::envelope(0, &deep()), wanted: &[] },
        Sent {
            what: "half of a message",
            kind: proto,
            more: "",
            body: wire::envelope(0, &[0x0a, 0x7f, 0]),
            wanted: &["invalid_argument"],
        },
        Sent { what: "half of an envelope", kind: proto, more: "", body: vec![0, 0, 0, 1], wanted: &["invalid_argument"] },
        Sent {
            what: "longer than can be",
            kind: proto,
            more: "",
            body: vec![0, 0xff, 0xff, 0xff, 0xff, 0],
            wanted: &["resource_exhausted"],
        },
        Sent { what: "flags that are unknown", kind: proto, more: "", body: wire::envelope(0xfc, b""), wanted: &[] },
        Sent {
            what: "compressed",
            kind: json,
            more: "connect-content-encoding: gzip\r\n",
            body: wire::envelope(1, b"xx"),
            wanted: &["unimplemented"],
        },
        Sent {
            what: "compressed by nothing",
            kind: json,
            more: "",
            body: wire::envelope(1, b"xx"),
            wanted: &["invalid_argument", "internal"],
        },
        Sent {
            what: "a field a million times",
            kind: proto,
            more: "",
            body: wire::envelope(0, &[0x0a, 0].repeat(1_000_000)),
            wanted: &[],
        },
        Sent {
            what: "too long",
            kind: json,
            more: "",
            body: wire::envelope(0, &vec![b' '; 7 << 20]),
            wanted: &["resource_exhausted"],
        },
    ]
}
