//! A daemon as a service manager has it: a process that says how it is.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) const KEY: &str = "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio=";
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon and its service manager.
pub(crate) struct Service {
    pub(crate) directory: tempfile::TempDir,
    manager: UnixDatagram,
    process: Child,
    status: String,
}

impl Service {
    /// Starts a daemon with this configuration file, and waits until it is ready.
    pub(crate) fn start(file: &str, variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(directory.path().join("manager")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        std::fs::write(directory.path().join("config"), file).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let meta = log.metadata().unwrap();
        let process = command(&directory)
            .env("NOTIFY_SOCKET", directory.path().join("manager"))
            .env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()))
            .envs(variables.iter().copied())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut service = Self { directory, manager, process, status: String::new() };
        service.hears("READY=1");
        service
    }

    /// Waits for a line from the daemon to its manager.
    pub(crate) fn hears(&mut self, expected: &str) {
        let mut message = [0; 4096];
        loop {
            let length = self.manager.recv(&mut message).unwrap_or_else(|error| panic!("no {expected}: {error}\n{}", self.log()));
            let text = std::str::from_utf8(&message[..length]).unwrap();
            if let Some(status) = text.lines().find_map(|line| line.strip_prefix("STATUS=")) {
                status.clone_into(&mut self.status);
            }
            if text.lines().any(|line| line.starts_with(expected)) {
                return;
            }
        }
    }

    /// The TCP address at which it says that it serves.
    pub(crate) fn tcp(&self) -> &str {
        self.status.rsplit_once("tcp://").expect("it serves on TCP").1
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.process.id());
        let sent = Command::new("sh").args(["-c", &kill]).status().unwrap();
        assert!(sent.success());
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    /// Waits for the end, and returns the exit code.
    pub(crate) fn ends(&mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already, unless the test fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn command(directory: &tempfile::TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peat-blobd"));
    command
        .env_clear()
        .env("PEAT_BLOBD_CONFIG", directory.path().join("config"))
        .env("PEAT_BLOBD_DATA_DIR", directory.path().join("data"))
        .env("PEAT_BLOBD_IROH_LISTEN", "127.0.0.1:0")
        .env("PEAT_BLOBD_NODE_ID", "node-a")
        .env("PEAT_BLOBD_SHARED_KEY", KEY)
        .stdin(Stdio::null());
    command
}
