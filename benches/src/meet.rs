//! Two nodes that have the same documents meet: what it takes to find that nothing is to be sent.
//!
//! Counted twice. Exactly, with two real replicas and every frame that a session writes, as the wire encodes it. And from
//! outside, as the UDP payload of two real nodes (handshake, path probes and all), against two nodes without documents.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use peat_blobcore::Node;
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::identity::admission::{Initiator, Responder, Terms, VERSIONS};
use peat_blobcore::network::wire::Message;
use peat_blobcore::replica::{Clocks, Session, Side};

use crate::documents::{self, NAMES, Pair};
use crate::streams::runtime;
use crate::table::{Row, Spread};
use crate::{Options, Outcome};

const GOAL_BYTES: f64 = 4096.0;
const GOAL_ROUND_TRIPS: f64 = 2.0;
/// After so long without a byte a meeting is over.
const QUIET: Duration = Duration::from_millis(500);

/// Counts both ways.
pub(crate) fn run(options: &Options) -> Outcome<Vec<Row>> {
    let directory = options.temporary()?;
    let (full, empty) = (directory.path().join("full"), directory.path().join("empty"));
    let count = options.documents;
    let talk = talk(&documents::make(&full, count)?)?;
    documents::make(&empty, 0)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first meeting of each pair is not counted: the nodes' own records are news then.
    for _ in 0..=options.runs {
        theirs.push(datagrams(&empty)?);
        ours.push(datagrams(&full)?);
    }
    let what = format!("payload when two nodes with {count} equal documents meet");
    Ok(vec![
        Row {
            what: what.clone(),
            ours: format!("{} bytes in {} frames", talk.bytes, talk.frames),
            against: format!("goal: {GOAL_BYTES} bytes"),
            ratio: Spread::new(vec![talk.bytes as f64 / GOAL_BYTES]),
        },
        Row {
            what: "round trips of the same, admission included".to_owned(),
            ours: talk.round_trips.to_string(),
            against: format!("goal: {GOAL_ROUND_TRIPS}"),
            ratio: Spread::new(vec![talk.round_trips as f64 / GOAL_ROUND_TRIPS]),
        },
        Row::pairs("UDP bytes both ways of the same", "bytes", &ours[1..], "two nodes without documents", &theirs[1..]),
    ])
}

/// What was said on our one stream.
#[derive(Debug, Default)]
struct Talk {
    bytes: usize,
    frames: usize,
    round_trips: usize,
}

impl Talk {
    /// A frame with its length in front.
    fn frame(&mut self, content: usize) {
        self.bytes += 4 + content;
        self.frames += 1;
    }

    fn message(&mut self, message: &Message) {
        self.frame(message.encode().len());
    }
}

/// All that a connection's control stream carries from its first byte until both sides know that they have the same.
fn talk(pair: &Pair) -> Outcome<Talk> {
    let mut talk = Talk::default();
    let [alpha, bravo] = &pair.identities;
    let now = SystemClock.now();
    let terms = |identity: &std::sync::Arc<_>, peer| Terms {
        identity: std::sync::Arc::clone(identity),
        versions: VERSIONS,
        peer,
        exporter: [7; 32],
        now,
    };
    let (initiator, hello) = Initiator::new(terms(alpha, bravo.id()));
    let (_, answer) = Responder::new(terms(bravo, alpha.id())).receive(&hello, |_| false)?;
    initiator.finish(&answer, |_| false)?;
    talk.frame(hello.len());
    talk.frame(answer.len());
    talk.message(&Message::Start(u64::MAX));
    talk.message(&Message::Start(u64::MAX));
    talk.round_trips += 1;
    let clocks = Clocks { ours: now, theirs: now };
    let [ours, theirs] = &pair.replicas;
    let (mut asking, mut question) = Session::start(ours, &bravo.id(), clocks, Side::Initiator)?;
    let (mut answering, _) = Session::start(theirs, &alpha.id(), clocks, Side::Responder)?;
    while let Some(message) = question {
        talk.message(&Message::Question(message.clone()));
        let answer = answering.answer(&message)?.reply.ok_or("who is asked answers")?;
        talk.message(&Message::Answer(answer.clone()));
        talk.round_trips += 1;
        let step = asking.answer(&answer)?;
        if !step.send.is_empty() || !step.need.is_empty() {
            return Err("the two do not have the same".into());
        }
        question = step.reply;
    }
    talk.message(&Message::Reconciled);
    talk.message(&Message::Reconciled);
    Ok(talk)
}

/// Starts both nodes, lets them meet and counts until they are silent.
fn datagrams(directory: &Path) -> Outcome<f64> {
    runtime()?.block_on(async {
        let start =
            |name: &str, port: u16| Node::builder(directory.join(name)).listen((Ipv4Addr::LOCALHOST, port).into()).gossip(false);
        let alpha = start(NAMES[0], port(directory, NAMES[0])?).start().await?;
        let builder = start(NAMES[1], port(directory, NAMES[1])?).peer(alpha.id(), alpha.listening_on());
        let bravo = builder.start().await?;
        let mut before = 0;
        let bytes = loop {
            tokio::time::sleep(QUIET).await;
            let now = alpha.peer_stats().iter().map(|peer| peer.sent_bytes + peer.received_bytes).sum();
            if now > 0 && now == before {
                break now;
            }
            before = now;
        };
        bravo.shutdown().await;
        alpha.shutdown().await;
        Ok(bytes as f64)
    })
}

/// The port of a node of this directory: the same each time, or its record would be news.
fn port(directory: &Path, name: &str) -> Outcome<u16> {
    let path = directory.join(format!("{name}.port"));
    if let Ok(port) = std::fs::read_to_string(&path) {
        return Ok(port.parse()?);
    }
    let port = UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?.local_addr()?.port();
    std::fs::write(&path, port.to_string())?;
    Ok(port)
}
