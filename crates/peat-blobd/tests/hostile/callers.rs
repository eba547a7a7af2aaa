//! Callers who do not go on: those who say nothing, and those who say it too slowly. There is a bounded number of places for them, on
//! each socket, and who comes after them is served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::subject::{Subject, wait};
use crate::wire::{self, DEADLINE};

/// Who comes and stays.
const CALLERS: usize = 1000;
/// The most that the daemon keeps of a socket, and some more that it works with meanwhile.
const FILES: usize = 256 + 64;
/// What they may add to its memory: less than 64 KiB for each that has a place.
const MEMORY: u64 = 32 << 20;

/// The first words of a connection of HTTP/2, of which nothing more comes.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The first byte of a handshake of TLS, or of something else.
const HANDSHAKE: &[u8] = &[0x16, 3, 1, 2, 0];

/// A connection as bytes.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// Whether a good client is served meanwhile.
fn is_served(subject: &Subject) {
    subject.call("peat.blob.v1.BlobService/GetNode", "{}");
    let mut stream = UnixStream::connect(subject.socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = wire::head("peat.blob.v1.BlobService/GetNode", "application/json", 2, "");
    stream.write_all((head + "{}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

/// Has a thousand callers say `words` on either socket and then nothing; when they are gone, nothing of them is left.
fn stay(subject: &Subject, words: &[u8]) {
    let (files, memory) = (subject.files(), subject.memory("VmRSS"));
    subject.forget_peak();
    let mut callers: Vec<Box<dyn Stream>> = Vec::new();
    for _ in 0..CALLERS {
        callers.push(Box::new(wire::connect(&subject.address)));
        callers.push(Box::new(UnixStream::connect(subject.socket()).unwrap()));
        for caller in callers.iter_mut().rev().take(2) {
            // Some have lost their places already.
            let _ = caller.write_all(words);
        }
    }
    is_served(subject);
    let open = subject.files();
    assert!(open <= files + 2 * FILES, "{open} open files, {files} before");
    let grown = subject.memory("VmHWM").saturating_sub(memory);
    assert!(grown < MEMORY, "{} MiB more at its highest", grown >> 20);
    drop(callers);
    subject.settles(files);
    is_served(subject);
}

#[test]
fn a_thousand_who_say_nothing_or_half_of_something_keep_nobody_out() {
    let subject = Subject::start("");
    is_served(&subject);
    let half = "POST /peat.blob.v1.BlobService/GetNode HTTP/1.1\r\nhost: localhost\r\nx: ";
    let body = half.replace("x: ", "content-type: application/json\r\ncontent-length: 100\r\n\r\n{");
    for words in [&b""[..], half.as_bytes(), PREFACE, body.as_bytes()] {
        stay(&subject, words);
    }
    assert!(!subject.service.log().contains("panicked"), "{}", subject.service.log());
}

#[test]
fn a_thousand_who_do_not_end_their_handshakes_keep_nobody_out() {
    let made = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (cert, secret) = (made.path().join("cert"), made.path().join("key"));
    std::fs::write(&cert, key.cert.pem()).unwrap();
    std::fs::write(&secret, key.signing_key.serialize_pem()).unwrap();
    let subject = Subject::start(&format!("tls_cert = '{}'\ntls_key = '{}'", cert.display(), secret.display()));
    let files = subject.files();
    let callers: Vec<TcpStream> = (0..CALLERS)
        .map(|_| {
            let mut caller = wire::connect(&subject.address);
            let _ = caller.write_all(HANDSHAKE);
            caller
        })
        .collect();
    let client = peat_blobapi::tls::client(&cert, None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let node = runtime.block_on(async {
        let uri: http::Uri = format!("https://{}", subject.address).parse().unwrap();
        let connection = peat_blobapi::tls::connect(uri.clone(), client).await.unwrap().shared(4);
        let config = connectrpc::client::ClientConfig::new(uri).with_default_timeout(DEADLINE);
        let client = peat_blobapi::blob::BlobServiceClient::new(connection, config);
        client.get_node(peat_blobapi::blob::GetNodeRequest::default()).await.unwrap().into_owned()
    });
    assert_eq!(node.name, "node-a");
    assert!(subject.files() <= files + FILES, "{} open files, {files} before", subject.files());
    drop((callers, runtime));
    subject.settles(files);
}

#[test]
fn who_sends_a_byte_now_and_then_is_not_cut_off_while_there_is_room() {
    let subject = Subject::start("");
    let body = b"{\"unknown\":0}";
    let mut stream = wire::connect(&subject.address);
    let head = wire::head("peat.blob.v1.BlobService/GetNode", "application/json", body.len(), "");
    for byte in head.as_bytes().iter().chain(body) {
        stream.write_all(&[*byte]).unwrap();
        is_alive(&subject);
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

fn is_alive(subject: &Subject) {
    wait("it lives", || UnixStream::connect(subject.socket()).is_ok());
}
