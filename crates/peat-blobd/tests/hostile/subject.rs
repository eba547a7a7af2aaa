//! The daemon that all this is sent to: a process, with something in its store and in its outbox.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sha2::Digest as _;

use crate::service::Service;
use crate::wire::{self, Answer, DEADLINE};

/// What is in the store, kept under the name `kept`.
pub(crate) const KEPT: &[u8] = b"this was there before";
/// A public key that is nobody's here (RFC 8032, 7.1, test 1).
const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

pub(crate) struct Subject {
    pub(crate) service: Service,
    root: tempfile::TempDir,
    pub(crate) address: String,
    pub(crate) words: Vec<(&'static str, String)>,
}

impl Subject {
    pub(crate) fn start(settings: &str) -> Self {
        Self::start_with(settings, &[])
    }

    pub(crate) fn start_with(settings: &str, variables: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("file"), "file").unwrap();
        std::fs::write(root.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink(root.path(), out.join("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, out.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let at = root.path().display();
        let file = format!(
            "listen = ['unix://{at}/api.sock', 'tcp://127.0.0.1:0']\ninbox = '{at}/inbox'\ngossip = false\n{settings}\n\
             [outbox]\nout = '{at}/out'\n"
        );
        let service = Service::start(&file, variables);
        let address = service.tcp().to_owned();
        let base64 = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
        let words = vec![
            ("$ROOT", at.to_string()),
            ("$ID", "ab".repeat(32)),
            ("$KEY", KEY.to_owned()),
            ("$BLOB", blake3::hash(KEPT).to_string()),
            ("$SHA", base64(&[7; 32])),
            ("$TRUE", base64(&sha2::Sha256::digest(b"file"))),
            ("$LONG", "a".repeat(1 << 20)),
        ];
        Self { service, root, address, words }
    }

    /// The socket of the API that is a file.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("api.sock")
    }

    /// A file of the daemon's surroundings.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Calls as a good client does.
    pub(crate) fn call(&self, method: &str, message: &str) -> Answer {
        let head = wire::head(method, "application/json", message.len(), "");
        let answer = wire::exchange(&self.address, &head, message.as_bytes());
        let answer = answer.unwrap_or_else(|| panic!("{method} is not answered: {}", self.service.log()));
        assert_eq!(answer.status, 200, "{method}: {answer:?}");
        answer
    }

    /// Puts into the store what must be there in the end.
    pub(crate) fn keep(&self) {
        let chunk = format!(r#"{{"data":"{}","pinName":"kept"}}"#, data_encoding::BASE64.encode(KEPT));
        self.call("peat.sidecar.v1.PeatSidecar/ImportBlob", &chunk);
    }

    /// What the store and the documents hold.
    pub(crate) fn holds(&self) -> String {
        let blobs = self.call("peat.blob.v1.StoreService/ListBlobs", r#"{"pinPrefix":"user:"}"#);
        let sent = self.call("peat.blob.v1.BlobService/ListDistributions", "{}");
        let limits = self.call("peat.blob.v1.BlobService/GetLimits", "{}");
        [blobs, sent, limits].map(|answer| String::from_utf8(answer.body).unwrap()).join("\n")
    }

    /// Open files of the process.
    pub(crate) fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.service.id())).unwrap().count()
    }

    /// A figure of `/proc/PID/status`, in bytes.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.service.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Has the highest memory counted from now on.
    pub(crate) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.service.id()), "5").unwrap();
    }

    /// Waits until there are no more open files than there were.
    pub(crate) fn settles(&self, before: usize) {
        wait(&format!("no more than {before} open files"), || self.files() <= before);
    }
}

/// Waits for a condition.
pub(crate) fn wait(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < DEADLINE, "{what}: not within the deadline");
        std::thread::sleep(Duration::from_millis(20));
    }
}
