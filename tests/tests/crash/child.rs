//! A node in a process of its own, which can be killed. The parent speaks to it through the environment and its standard
//! input, whose end asks it to shut down; it answers in lines on its standard output.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use peat_blob_tests::fleet::{DEADLINE, Fleet, connected, describe, eventually};
use peat_blobcore::model::{DistributionId, DistributionState, EndpointId, FileEntry, Files, NodeRef, Scope};
use peat_blobcore::reconcile::{Patience, Policy};
use peat_blobcore::{Node, SendRequest};
use tokio::sync::{mpsc, oneshot};

const DIRECTORY: &str = "PEAT_BLOB_TEST_DIRECTORY";
const NAME: &str = "PEAT_BLOB_TEST_NAME";
const PEERS: &str = "PEAT_BLOB_TEST_PEERS";
const ORDERS: &str = "PEAT_BLOB_TEST_ORDERS";
const CRASH_AT: &str = "PEAT_BLOB_CRASH_AT";
/// The signal that a process which aborts dies of.
const ABORTED: i32 = 6;
/// How much of each blob is read.
const BLOCK: u64 = 1024 * 1024;
/// What the child's lines begin with, among those of the test runner.
const SIGN: &str = "child: ";

/// What the child does once it runs and is connected with its peers; then it says "done".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Takes in a file that nothing pins, and collects garbage.
    Tidy,
    /// Reads blobs, has every distribution delivered again, and says "mended" when it has all of it.
    Heal,
    /// Carries for others without patience.
    Carry,
    /// Sends `outbox` to this target unless it did so in an earlier life, and says "completed" when it is.
    Send(EndpointId),
}

impl Order {
    fn encode(self) -> String {
        match self {
            Self::Tidy => "tidy".to_owned(),
            Self::Heal => "heal".to_owned(),
            Self::Carry => "carry".to_owned(),
            Self::Send(target) => target.to_string(),
        }
    }

    fn decode(text: &str) -> Self {
        match text {
            "tidy" => Self::Tidy,
            "heal" => Self::Heal,
            "carry" => Self::Carry,
            target => Self::Send(target.parse().expect("an endpoint id")),
        }
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It shut down.
    Clean,
    /// It died where it was told to.
    Died,
}

/// The parent's side of a child.
pub(crate) struct Child {
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
    heard: Vec<String>,
}

impl Child {
    /// Starts the node `name` of the fleet, with these peers, to die at `crash_at`.
    pub(crate) fn start(fleet: &Fleet, name: &str, peers: &[&Node], orders: &[Order], crash_at: Option<&str>) -> Self {
        let encode = |node: &&Node| {
            let addresses = node.listening_on().iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            format!("{}@{addresses}", node.id())
        };
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command
            .args(["child::node", "--exact", "--ignored", "--nocapture"])
            .env(DIRECTORY, fleet.path(""))
            .env(NAME, name)
            .env(PEERS, peers.iter().map(encode).collect::<Vec<_>>().join(" "))
            .env(ORDERS, orders.iter().map(|order| order.encode()).collect::<Vec<_>>().join(" "))
            .env(CRASH_AT, crash_at.unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().expect("a child");
        let (stdin, stdout) = (process.stdin.take(), process.stdout.take().expect("it was piped"));
        let (said, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            for line in lines.filter_map(|line| Some(line.split_once(SIGN)?.1.to_owned())) {
                // The parent may not care.
                let _ = said.send(line);
            }
        });
        Self { process, stdin, lines, heard: Vec::new() }
    }

    /// Waits until the child has said this, or has ended.
    pub(crate) async fn says(&mut self, wanted: &str) {
        let said = async { while !self.heard.iter().any(|line| line == wanted) && self.hear().await {} };
        tokio::time::timeout(DEADLINE, said).await.unwrap_or_else(|_| panic!("the child never says {wanted:?}"));
    }

    /// Waits until the child has ended by itself. May be dropped and called again.
    pub(crate) async fn ended(&mut self) {
        while self.hear().await {}
    }

    async fn hear(&mut self) -> bool {
        let line = self.lines.recv().await;
        self.heard.extend(line.clone());
        line.is_some()
    }

    /// Lets the child shut down, if it has not died yet, and says how it ended.
    pub(crate) async fn stop(mut self) -> Ending {
        self.stdin = None;
        tokio::time::timeout(DEADLINE, self.ended()).await.expect("the child shuts down");
        let status = self.process.wait().expect("it can be waited for");
        match status.signal() {
            Some(signal) => {
                assert_eq!(signal, ABORTED, "killed by another signal than its own");
                Ending::Died
            }
            None => {
                assert!(status.success(), "the child failed: {status}");
                Ending::Clean
            }
        }
    }

    /// Kills the child wherever it is.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("it can be waited for");
    }
}

fn say(what: &str) {
    // Begins on a line of its own whatever the test runner has printed.
    println!("\n{SIGN}{what}");
}

/// The child's side.
#[test]
#[ignore = "run by the other tests, in processes of their own"]
fn node() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    let value = |name: &str| std::env::var(name).expect("only the other tests run this");
    let (directory, name) = (value(DIRECTORY), value(NAME));
    let directory = Path::new(&directory);
    let orders: Vec<Order> = value(ORDERS).split_whitespace().map(Order::decode).collect();
    let mut node = describe(directory, &name);
    let mut peers = Vec::new();
    for peer in value(PEERS).split_whitespace() {
        let (id, addresses) = peer.split_once('@').expect("an id and addresses");
        let addresses: Vec<SocketAddr> = addresses.split(',').map(|address| address.parse().expect("an address")).collect();
        let id = id.parse().expect("an endpoint id");
        peers.push(id);
        node = node.peer(id, addresses);
    }
    if orders.contains(&Order::Carry) {
        let patience = Patience { carry_after: Duration::from_millis(50), ..Policy::default().patience };
        node = node.policy(Policy { patience, ..Policy::default() });
    }
    let node = node.start().await.expect("the node starts after whatever happened to it");
    let (stop, stopped) = oneshot::channel();
    std::thread::spawn(move || {
        // An error ends the input as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = stop.send(());
    });
    let work = async {
        for peer in peers {
            connected(&node, peer).await;
        }
        for order in orders {
            match order {
                Order::Tidy => tidy(&node, directory).await,
                Order::Heal => heal(&node).await,
                Order::Carry => {}
                Order::Send(target) => send(&node, directory, target).await,
            }
        }
        say("done");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        stopped = stopped => stopped.expect("the thread sends before it ends"),
    }
    node.shutdown().await;
}

async fn tidy(node: &Node, directory: &Path) {
    let content = node.content().clone();
    let unwanted = directory.join("unwanted");
    let taken = tokio::task::spawn_blocking(move || content.ingest_path(&unwanted, &mut |_| std::ops::ControlFlow::Continue(())));
    let taken = taken.await.expect("it does not panic").expect("taken in");
    node.gc().await.expect("collected");
    assert!(!node.content().holds(&taken.hash).expect("the index can be read"), "nothing pins it");
}

async fn heal(node: &Node) {
    for id in node.distributions() {
        let content = node.content().clone();
        let files = files(node, id).await;
        // Damage is noticed when a blob is read, and is no reason to end here.
        let read = move || files.iter().for_each(|file| drop(content.encode_block(&file.blob, 0..file.size.min(BLOCK))));
        tokio::task::spawn_blocking(read).await.expect("it does not panic");
        node.check().await.expect("everything can be read");
        node.redeliver(id).await.expect("it is known");
        eventually("all blobs are whole again", || async { holds_all(node, id).await }).await;
    }
    say("mended");
}

async fn holds_all(node: &Node, id: DistributionId) -> bool {
    files(node, id).await.iter().all(|file| node.content().holds(&file.blob).expect("the index can be read"))
}

async fn files(node: &Node, id: DistributionId) -> Vec<FileEntry> {
    let status = node.status(id).await.expect("it is known");
    let Files::Inline(files) = &status.distribution.manifest.files else { panic!("there are few files") };
    files.clone()
}

async fn send(node: &Node, directory: &Path, target: EndpointId) {
    let id = match node.distributions()[..] {
        [] => {
            let scope = Scope::Nodes(vec![NodeRef::Id(target)]);
            let request = SendRequest { scope, ..SendRequest::new(directory.join("outbox")) };
            node.send(request).await.expect("it can be sent").distribution
        }
        [id] => id,
        ref more => panic!("one was sent, and there are {}", more.len()),
    };
    assert!(holds_all(node, id).await, "a distribution is whole or not there at all");
    let status = node.wait(id, DEADLINE).await.expect("it ends");
    assert_eq!(status.state, DistributionState::Completed, "{:?}", status.targets);
    say("completed");
}
