//! A client of HTTP/1.1 that shows all that a server says, a body that was cut off included. One connection a request.

use std::net::SocketAddr;

use peat_blob_tests::fleet::DEADLINE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    /// Headers of every request.
    pub(crate) headers: Vec<(String, String)>,
}

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as it should.
    pub(crate) is_whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is(&self, status: u16, header: &str, value: &str) -> bool {
        self.status == status && self.header(header) == Some(value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether it is an error in the form of the specification.
    pub(crate) fn is_error(&self, status: u16, code: &str) -> bool {
        let form = self.text().starts_with(r#"{"errors":[{"#) && self.header("content-type") == Some("application/json");
        self.status == status && self.is_whole && form && self.text().contains(&format!(r#""code":"{code}""#))
    }

    pub(crate) fn location(&self) -> String {
        self.header("location").expect("a location").to_owned()
    }
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, headers: Vec::new() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], b"").await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], b"").await
    }

    pub(crate) async fn range(&self, path: &str, range: &str) -> Answer {
        self.send("GET", path, &[("range", &format!("bytes={range}"))], b"").await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.begin(method, path, headers, body.len(), body).await;
        let mut raw = Vec::new();
        // A reset is a body that was cut off.
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut raw)).await.expect("an answer in time");
        parse(&raw, method == "HEAD", read.is_ok())
    }

    /// Sends a request that says that so many bytes follow, and some of them.
    pub(crate) async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: usize,
        body: &[u8],
    ) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in headers.iter().copied().chain(own) {
            head += &format!("{name}: {value}\r\n");
        }
        if length > 0 || !matches!(method, "GET" | "HEAD" | "DELETE") {
            head += &format!("content-length: {length}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("it reads");
        // A server may have answered and gone before it has read all.
        let _ = stream.write_all(body).await;
        stream
    }
}

pub(crate) fn parse(raw: &[u8], head: bool, ended_well: bool) -> Answer {
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {raw:?}"));
    let text = String::from_utf8_lossy(&raw[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").map_or((line, ""), |(name, value)| (name, value)))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let body = raw[end + 4..].to_vec();
    let said = headers.iter().find(|(name, _)| name == "content-length").map(|(_, length)| length.parse::<usize>());
    let bodiless = head || matches!(status, Some(204 | 304));
    let is_whole = match said {
        _ if bodiless => body.is_empty(),
        Some(length) => length.expect("a number") == body.len(),
        // Nothing of ours comes in chunks: clients want to know the length.
        None => false,
    };
    Answer { status: status.expect("a status"), headers, body, is_whole: is_whole && (ended_well || bodiless) }
}
