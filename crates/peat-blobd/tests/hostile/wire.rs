//! HTTP by hand: requests as no client would write them, and what comes back. One connection for each.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// How long anything may take. Nothing here waits for so long unless the daemon hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// The head of a request for a call.
pub(crate) fn head(method: &str, kind: &str, length: usize, more: &str) -> String {
    format!("POST /{method} HTTP/1.0\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{more}\r\n")
}

/// Sends a request and reads what comes, until the daemon closes the connection.
pub(crate) fn exchange(address: &str, head: &str, body: &[u8]) -> Option<Answer> {
    let mut answer = Vec::new();
    let mut stream = begin(address, head, body);
    // A daemon that has read enough closes at once, and what it said before is not always read then.
    let _ = stream.read_to_end(&mut answer);
    parse(answer)
}

/// Sends a request and reads no more than the head of the answer.
pub(crate) fn opens(address: &str, head: &str, body: &[u8]) -> Option<Answer> {
    let mut stream = begin(address, head, body);
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        answer.push(byte[0]);
    }
    parse(answer)
}

fn begin(address: &str, head: &str, body: &[u8]) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(head.as_bytes()).expect("a head is taken");
    let mut writer = stream.try_clone().expect("a handle");
    let body = body.to_vec();
    // The daemon may answer, and read no further.
    std::thread::spawn(move || writer.write_all(&body));
    stream
}

/// A connection on which nothing waits for ever.
pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream.set_write_timeout(Some(DEADLINE)).expect("a deadline");
    stream
}

fn parse(answer: Vec<u8>) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: answer[end + 4..].to_vec() })
}

impl Answer {
    /// The code and the message of the error that it is, or ends with; none where all is well. By Connect, whose errors are JSON.
    pub(crate) fn error(&self) -> Option<(String, String)> {
        let (mut rest, mut last) = (self.body.as_slice(), self.body.as_slice());
        if self.head.contains("connect+") {
            while let [flags, a, b, c, d, tail @ ..] = rest {
                let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                let message = tail.get(..length)?;
                last = if flags & 2 == 2 { message } else { b"{}" };
                rest = &tail[length..];
            }
        }
        let value: serde_json::Value = serde_json::from_slice(last).unwrap_or_default();
        let error = value.get("error").unwrap_or(&value);
        let text = |name: &str| error.get(name).and_then(|text| text.as_str()).unwrap_or_default().to_owned();
        error.get("code").map(|_| (text("code"), text("message")))
    }
}

/// A message of a stream.
pub(crate) fn envelope(flags: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[flags][..], &length.to_be_bytes(), message].concat()
}
