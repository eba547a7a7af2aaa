//! The daemons of these tests: one that stays, and one that is killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use peat_blob_tests::fleet::{Fleet, eventually};
use peat_blobd::config::StaticPeer;
use peat_blobd::{Config, Running};

/// A daemon within this process, which is not killed.
pub(crate) async fn steady(fleet: &Fleet, name: &str) -> Running {
    let config = Config {
        iroh_listen: vec![([127, 0, 0, 1], 0).into()],
        inbox: Some(fleet.inbox(name)),
        gossip: false,
        ..Config::new(fleet.path(name))
    };
    Running::start(config).await.expect("it starts")
}

pub(crate) fn peer(daemon: &Running) -> StaticPeer {
    let hosts = daemon.node().listening_on().iter().map(ToString::to_string).collect();
    StaticPeer { id: daemon.node().id(), hosts }
}

/// A daemon in a process of its own, whose log is beside its data directory.
pub(crate) struct Victim(Child);

impl Victim {
    /// Starts the node of a data directory.
    pub(crate) fn start(data: &Path, inbox: &Path, peers: &[StaticPeer]) -> Self {
        let peers: Vec<String> =
            peers.iter().flat_map(|peer| peer.hosts.iter().map(|host| format!("{}@{host}", peer.id))).collect();
        Self::spawn(data, |daemon| daemon.env("PEAT_BLOBD_INBOX", inbox).env("PEAT_BLOBD_PEERS", peers.join(",")))
    }

    /// Starts a node that has no identity of its own, as in a data directory that is new.
    pub(crate) fn start_derived(data: &Path) -> Self {
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        Self::spawn(data, |daemon| daemon.env("PEAT_BLOBD_NODE_ID", "bravo").env("PEAT_BLOBD_SHARED_KEY", key))
    }

    fn spawn(data: &Path, tell: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let log = std::fs::File::create(data.with_extension("log")).expect("a log");
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_peat-blobd"));
        let daemon = tell(daemon.env_clear())
            .env("PEAT_BLOBD_DATA_DIR", data)
            .env("PEAT_BLOBD_IROH_LISTEN", "127.0.0.1:0")
            .env("PEAT_BLOBD_GOSSIP", "false")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        Self(daemon.expect("it starts"))
    }

    /// Waits until it serves, or has ended: with which exit code, and what it said.
    pub(crate) async fn begins(&mut self, data: &Path) -> Result<(), (Option<i32>, String)> {
        let mut ended = None;
        eventually("it serves, or has ended", || {
            ended = self.0.try_wait().expect("it can be asked");
            let serves = std::os::unix::net::UnixStream::connect(data.join("api.sock")).is_ok();
            async move { serves || ended.is_some() }
        })
        .await;
        let log = || std::fs::read_to_string(data.with_extension("log")).expect("a log");
        ended.map_or(Ok(()), |status| Err((status.code(), log())))
    }

    /// Kills it without a warning.
    pub(crate) fn kill(&mut self) {
        assert_eq!(self.0.try_wait().expect("it can be asked"), None, "it has not ended by itself");
        self.0.kill().expect("it runs");
        self.0.wait().expect("it has ended");
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It has ended already, unless the test goes wrong.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
