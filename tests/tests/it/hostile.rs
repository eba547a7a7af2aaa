//! Members that lie, stall or ask for too much, strangers in crowds, and the accidents of connections.

use std::time::Duration;

use iroh::endpoint::{Connection, ConnectionError};
use peat_blob_tests::fleet::{DEADLINE, Fleet, completed, connected, contents, eventually};
use peat_blob_tests::raw::{Joined, RawMember, address_of, endpoint, soon};
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::document::Kind;
use peat_blobcore::identity::NodeKey;
use peat_blobcore::model::{BlobHash, EnvelopeId, NodeRef, Scope, TargetState};
use peat_blobcore::network::wire::{
    ALPN, BlockFrame, BlockRequest, MAX_FRAME_BYTES, MAX_WANTED, Message, Request, read_frame, write_frame,
};
use peat_blobcore::{Node, SendRequest, Sent};
use tokio::sync::mpsc;

async fn member(fleet: &Fleet, name: &str) -> RawMember {
    RawMember::new(fleet, fleet.identity_until(name, SystemClock.now().plus(Duration::from_secs(3600)))).await
}

/// Alpha sends to bravo and to a false holder, goes away, and the false holder says that it has everything: bravo has nobody
/// else to ask until alpha is back.
async fn with_a_false_holder(fleet: &Fleet, holder: &RawMember, stall: Duration) -> (Node, Sent, Joined) {
    let bravo = fleet.enroll("bravo", &[]);
    let root = fleet.write("outbox", &[("file", [1, 2, 3, 4, 5].repeat(100_000).as_slice())]);
    let alpha = fleet.start("alpha", &[]).await;
    let mut with_alpha = holder.join(&alpha).await;
    with_alpha.reconcile(holder).await;
    let scope = Scope::Nodes(vec![NodeRef::Id(bravo.id()), NodeRef::Id(holder.id())]);
    let sent = alpha.send(SendRequest { scope, ..SendRequest::new(&root) }).await.expect("sent");
    with_alpha.learn(holder, &sent.distribution).await;
    alpha.shutdown().await;
    let bravo = fleet.describe("bravo").stall(stall).start().await.expect("it starts");
    let mut with_bravo = holder.join(&bravo).await;
    with_bravo.reconcile(holder).await;
    let claim = holder.claim(&sent.distribution, TargetState::Delivered, sent.files[0].size);
    with_bravo.push(holder, &claim).await;
    (bravo, sent, with_bravo)
}

/// How a false holder answers.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// Bytes of the right number that are not the blob's.
    WrongBytes,
    /// A frame that says that it is longer than any may be.
    Oversized,
    /// A frame of no known kind.
    Unknown,
    /// The begin of a block, and then nothing.
    Stalls,
}

/// Answers every request with a lie, and tells of each. Streams that stall stay open.
async fn lie(connection: Connection, lie: Lie, told: mpsc::UnboundedSender<BlockRequest>) {
    let mut open = Vec::new();
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let Ok(frame) = read_frame(&mut recv, Request::MAX_BYTES).await else { continue };
        // Before anybody says that it has all, it is asked which parts it has.
        let Ok(Request::Blocks(request)) = Request::decode(&frame) else { continue };
        let _ = told.send(request);
        let bytes = match lie {
            Lie::WrongBytes => {
                let _ = BlockFrame::Block(vec![0x55; 128 * 1024 + 7 * 64]).write(&mut send, DEADLINE).await;
                Vec::new()
            }
            Lie::Oversized => vec![0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3],
            Lie::Unknown => vec![7, 1, 0, 0, 0, 9],
            Lie::Stalls => vec![0, 0, 0, 1, 0, 1, 2, 3],
        };
        let _ = send.write_all(&bytes).await;
        match lie {
            Lie::Stalls => open.push(send),
            _ => drop(send.finish()),
        }
    }
}

async fn another_holder_helps_against(kind: Lie) {
    let fleet = Fleet::new();
    let holder = member(&fleet, "holder").await;
    // Whoever lies is asked again once it is taken to have stalled, which on a busy machine an honest answer would be too.
    let stall = if matches!(kind, Lie::Stalls) { Duration::from_millis(300) } else { DEADLINE };
    let (bravo, sent, mut with_bravo) = with_a_false_holder(&fleet, &holder, stall).await;
    let blob = sent.files[0].blob;
    let (told, mut asked) = mpsc::unbounded_channel();
    let mut lying = tokio::task::JoinSet::new();
    lying.spawn(lie(with_bravo.connection.clone(), kind, told));
    // Keeps the connection alive as a peer that reads.
    lying.spawn(async move { while with_bravo.hear().await.is_ok() {} });
    let first = soon("bravo asks the only holder it knows", asked.recv()).await.expect("the liar lives");
    assert_eq!(first.blob, blob);
    let alpha = fleet.restart("alpha", &[&bravo]).await;
    eventually("bravo has it from alpha", || async { contents(&fleet.inbox("bravo")) == contents(&fleet.path("outbox")) }).await;
    assert!(bravo.peers().contains(&holder.id()), "{kind:?}: a lie about a blob ends no connection");
    let check = bravo.check().await.expect("checked");
    assert!(check.damaged.is_empty(), "{kind:?}: {check:?}");
    if !matches!(kind, Lie::Stalls) {
        let mut requests = 1;
        while asked.try_recv().is_ok() {
            requests += 1;
        }
        // A fetch has two requests under way. Seldom, on a busy disk, the first fetch ends in another way and is begun once more:
        // docs/left.md. Without a ban there is no end to it while alpha starts.
        assert!(requests <= 4, "{kind:?}: asked {requests} times");
    }
    lying.shutdown().await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_wrong_bytes_is_not_asked_again_and_nothing_of_them_is_kept() {
    another_holder_helps_against(Lie::WrongBytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_an_oversized_block_is_not_asked_again() {
    another_holder_helps_against(Lie::Oversized).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_no_known_frame_is_not_asked_again() {
    another_holder_helps_against(Lie::Unknown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stalls_in_mid_block_is_left_for_another_holder() {
    another_holder_helps_against(Lie::Stalls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_breaks_the_protocol_loses_its_connection_and_nobody_else_notices() {
    let fleet = Fleet::new();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    let rude = member(&fleet, "rude").await;
    let too_long = [&u32::try_from(MAX_FRAME_BYTES + 1).expect("short").to_le_bytes()[..], &[0; 100]].concat();
    let framed = |bytes: &[u8]| [&u32::try_from(bytes.len()).expect("short").to_le_bytes(), bytes].concat();
    for (what, bytes) in [
        ("an oversized frame", too_long),
        ("a second start", framed(&Message::Start(2).encode())),
        ("no message", framed(&[0xff; 64])),
        ("an answer to no question", framed(&Message::Answer(vec![1, 2, 3]).encode())),
        ("a question of garbage", framed(&Message::Question(vec![0xff; 1000]).encode())),
        ("too many wishes", framed(&Message::Want(vec![EnvelopeId::from_bytes([1; 32]); MAX_WANTED + 1]).encode())),
    ] {
        let mut joined = rude.join(&alpha).await;
        joined.send.write_all(&bytes).await.expect("written");
        let end = soon(what, joined.connection.closed()).await;
        assert!(matches!(end, ConnectionError::ApplicationClosed(_)), "{what}: {end}");
    }
    assert!(alpha.peers().contains(&bravo.id()));
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_wants_without_end_and_reads_nothing_costs_others_nothing() {
    let fleet = Fleet::new();
    let alpha = fleet.start("alpha", &[]).await;
    let greedy = member(&fleet, "greedy").await;
    let mut joined = greedy.join(&alpha).await;
    joined.reconcile(&greedy).await;
    // The largest envelope that there can be, over and over, and ids of nothing.
    let names: Vec<_> = (0..200).map(|number| format!("{}/{number}", "long/".repeat(200))).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"x".as_slice())).collect();
    let wanted = alpha.send(SendRequest::new(fleet.write("many", &files))).await.expect("sent").distribution;
    joined.learn(&greedy, &wanted).await;
    let envelopes = greedy.replica.envelopes_of(Kind::Distribution, wanted.as_bytes()).expect("readable");
    assert!(envelopes[0].1.len() > 200_000);
    let flood = tokio::spawn(async move {
        let mut number = 0_u32;
        loop {
            number += 1;
            let mut nothing = [0; 32];
            nothing[..4].copy_from_slice(&number.to_be_bytes());
            let wishes = Message::Want(vec![envelopes[0].0, EnvelopeId::from_bytes(nothing)]);
            if write_frame(&mut joined.send, &wishes.encode()).await.is_err() {
                break;
            }
        }
    });
    let root = fleet.write("outbox", &[("file", b"content")]);
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let sent = alpha.send(SendRequest { scope: Scope::Nodes(vec![NodeRef::Id(bravo.id())]), ..SendRequest::new(&root) }).await;
    completed(&alpha, sent.expect("sent").distribution).await;
    flood.abort();
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_opens_every_stream_and_reads_none_does_not_stop_the_node() {
    let fleet = Fleet::new();
    let mut greedy = Vec::new();
    for name in ["one", "two", "three", "four", "five"] {
        greedy.push(member(&fleet, name).await);
    }
    let large = vec![7; 8 * 1024 * 1024];
    let root = fleet.write("outbox", &[("large", large.as_slice())]);
    let alpha = fleet.start("alpha", &[]).await;
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    let mut held = Vec::new();
    for member in &greedy {
        let mut joined = member.join(&alpha).await;
        joined.reconcile(member).await;
        // All that it may have but the one for control, which is open.
        for _ in 1..128 {
            held.push(joined.request(sent.files[0].blob, sent.files[0].size).await.expect("a stream"));
        }
        tokio::spawn(async move { while joined.hear().await.is_ok() {} });
    }
    let bravo = fleet.start("bravo", &[&alpha]).await;
    eventually("bravo is served all the same", || async { contents(&fleet.inbox("bravo")) == contents(&root) }).await;
    drop(held);
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_strangers_that_never_finish_do_not_keep_a_member_out() {
    let fleet = Fleet::new();
    let alpha = fleet.start("alpha", &[]).await;
    let address = address_of(&alpha);
    let crowd = endpoint(NodeKey::generate().as_iroh().clone(), &[ALPN]).await;
    let mut silent = Vec::new();
    let mut refused = 0;
    for _ in 0..20 {
        let dials = (0..100).map(|_| {
            let (crowd, address) = (crowd.clone(), address.clone());
            tokio::spawn(async move { crowd.connect(address, ALPN).await })
        });
        for dial in dials.collect::<Vec<_>>() {
            match dial.await.expect("a dial does not panic") {
                Ok(connection) => silent.push(connection),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(silent.len() > 1000, "{} came through, {refused} were refused", silent.len());
    eventually("only a share of one address waits", || async {
        silent.iter().filter(|connection| connection.close_reason().is_none()).count() <= 64
    })
    .await;
    let root = fleet.write("outbox", &[("file", b"content")]);
    let since = tokio::time::Instant::now();
    let bravo = fleet.start("bravo", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    assert!(since.elapsed() < Duration::from_secs(18), "{:?}", since.elapsed());
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    completed(&alpha, sent.distribution).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_connection_was_cut_is_acted_upon() {
    let fleet = Fleet::new();
    let bravo = fleet.start("bravo", &[]).await;
    let sender = member(&fleet, "sender").await;
    let mut joined = sender.join(&bravo).await;
    joined.reconcile(&sender).await;
    for _ in 0..50 {
        let (id, sent) = sender.create(bravo.id());
        joined.push(&sender, &sent).await;
        // An answer that is given beside: by then bravo is busy with what came before, in most rounds.
        joined.ask(BlobHash::from_bytes([7; 32]), 7).await.expect("an answer");
        joined.connection.close(0u32.into(), b"");
        joined = sender.join(&bravo).await;
        joined.reconcile(&sender).await;
        eventually("bravo acts upon it", || async {
            bravo.status(id).await.is_ok_and(|status| status.targets[&bravo.id()].why != "it has just arrived")
        })
        .await;
    }
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_dial_each_other_at_once_keep_one_connection_and_deliver() {
    let fleet = Fleet::new();
    fleet.enroll("alpha", &[]);
    fleet.enroll("bravo", &[]);
    for round in 0..20 {
        let root = fleet.write(&format!("outbox-{round}"), &[(&format!("file-{round}"), b"content")]);
        let alpha = fleet.restart("alpha", &[]).await;
        let bravo = fleet.restart("bravo", &[]).await;
        tokio::join!(alpha.add_peer(bravo.id(), bravo.listening_on()), bravo.add_peer(alpha.id(), alpha.listening_on()));
        let sent = alpha.send(SendRequest { scope: Scope::Nodes(vec![NodeRef::Id(bravo.id())]), ..SendRequest::new(&root) });
        completed(&alpha, sent.await.expect("sent").distribution).await;
        assert_eq!((alpha.peers(), bravo.peers()), (vec![bravo.id()], vec![alpha.id()]), "round {round}");
        tokio::join!(alpha.shutdown(), bravo.shutdown());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_killed_and_started_again_is_reached_at_once() {
    let fleet = Fleet::new();
    fleet.enroll("bravo", &[]);
    let alpha = fleet.start("alpha", &[]).await;
    for round in 0..3 {
        let bravo = fleet.restart("bravo", &[&alpha]).await;
        connected(&alpha, bravo.id()).await;
        connected(&bravo, alpha.id()).await;
        // No farewell: alpha believes for half a minute that the connection stands.
        drop(bravo);
        assert_eq!(alpha.peers().len(), 1, "alpha has not noticed");
        let since = tokio::time::Instant::now();
        let bravo = loop {
            let builder = fleet.describe("bravo").peer(alpha.id(), alpha.listening_on());
            match builder.start().await {
                Ok(bravo) => break bravo,
                // What the dropped node was doing on threads ends in its own time.
                Err(error) => assert!(since.elapsed() < DEADLINE, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        let root = fleet.write(&format!("outbox-{round}"), &[(&format!("file-{round}"), b"content")]);
        let sent = alpha.send(SendRequest { scope: Scope::Nodes(vec![NodeRef::Id(bravo.id())]), ..SendRequest::new(&root) });
        completed(&alpha, sent.await.expect("sent").distribution).await;
        assert!(since.elapsed() < Duration::from_secs(18), "{:?}", since.elapsed());
        bravo.shutdown().await;
    }
    alpha.shutdown().await;
}
