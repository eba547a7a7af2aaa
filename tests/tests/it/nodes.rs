//! Real nodes on loopback: files go in at one and come out at the others.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use peat_blob_tests::fleet::{DEADLINE, Fleet, completed, connected, contents, eventually};
use peat_blobcore::model::{Carry, DistributionState, NodeRef, Scope, TargetState};
use peat_blobcore::{Error, Node, SendRequest};

fn to(node: &Node) -> Scope {
    Scope::Nodes(vec![NodeRef::Id(node.id())])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_odd_names_arrives_as_it_was_and_a_receipt_comes_back() {
    let fleet = Fleet::new();
    let long = "ü".repeat(127) + "a";
    let deep = "d/".repeat(100) + "bottom";
    let files: Vec<(&str, &[u8])> = vec![
        ("empty", b""),
        ("-rf", b"a dash"),
        (" spaces  here ", b"spaces"),
        ("日本語/ファイル", b"unicode"),
        ("new\nline", b"newline"),
        ("case", b"lower"),
        ("CASE", b"upper"),
        (".hidden", b"hidden"),
        (&long, b"255 bytes"),
        (&deep, b"deep"),
    ];
    let root = fleet.write("outbox", &files);
    std::fs::set_permissions(root.join("-rf"), std::fs::Permissions::from_mode(0o751)).expect("a mode");
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    assert_eq!(sent.files.len(), files.len());
    completed(&alpha, sent.distribution).await;
    assert_eq!(contents(&fleet.inbox("bravo")), contents(&root));
    let metadata = std::fs::metadata(fleet.inbox("bravo").join("-rf")).expect("delivered");
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o751);
    let record = alpha.status(sent.distribution).await.expect("known").targets[&bravo.id()].record.clone();
    assert_eq!(record.expect("a receipt").state, TargetState::Delivered);
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_enough_that_either_side_dials() {
    for sender_dials in [true, false] {
        let fleet = Fleet::new();
        let root = fleet.write("outbox", &[("file", b"content")]);
        fleet.enroll("alpha", &[]);
        fleet.enroll("bravo", &[]);
        let (alpha, bravo) = if sender_dials {
            let bravo = fleet.restart("bravo", &[]).await;
            (fleet.restart("alpha", &[&bravo]).await, bravo)
        } else {
            let alpha = fleet.restart("alpha", &[]).await;
            let bravo = fleet.restart("bravo", &[&alpha]).await;
            (alpha, bravo)
        };
        let sent = alpha.send(SendRequest { scope: to(&bravo), ..SendRequest::new(&root) }).await.expect("sent");
        completed(&alpha, sent.distribution).await;
        assert_eq!(contents(&fleet.inbox("bravo")), contents(&root));
        alpha.shutdown().await;
        bravo.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nobody_there_it_has_no_targets_and_who_joins_later_gets_it() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("file", b"content")]);
    let alpha = fleet.start("alpha", &[]).await;
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    let status = alpha.status(sent.distribution).await.expect("known");
    assert_eq!(status.state, DistributionState::NoTargets);
    let bravo = fleet.start("bravo", &[&alpha]).await;
    completed(&alpha, sent.distribution).await;
    let charlie = fleet.start("charlie", &[&alpha]).await;
    eventually("a late joiner is delivered and shown", || async {
        let status = alpha.status(sent.distribution).await.expect("known");
        assert_eq!(status.state, DistributionState::Completed, "completed is for good");
        status.targets.get(&charlie.id()).and_then(|target| target.record.as_ref()).is_some_and(|it| it.state.is_receipt())
    })
    .await;
    assert_eq!(contents(&fleet.inbox("charlie")), contents(&root));
    for node in [alpha, bravo, charlie] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_carries_to_a_target_that_its_sender_never_met() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("file", &[7; 300_000])]);
    let identity = fleet.enroll("charlie", &[]);
    let impatient = peat_blobcore::reconcile::Policy {
        patience: peat_blobcore::reconcile::Patience {
            carry_after: Duration::from_millis(100),
            ..peat_blobcore::reconcile::Policy::default().patience
        },
        ..peat_blobcore::reconcile::Policy::default()
    };
    fleet.enroll("alpha", &[]);
    fleet.enroll("bravo", &[]);
    let alpha = fleet.describe("alpha").start().await.expect("alpha starts");
    let bravo =
        fleet.describe("bravo").peer(alpha.id(), alpha.addresses()).policy(impatient).start().await.expect("bravo starts");
    let scope = Scope::Nodes(vec![NodeRef::Id(identity.id())]);
    let sent = alpha.send(SendRequest { scope, carry: Carry::Members, ..SendRequest::new(&root) }).await.expect("sent");
    eventually("bravo holds it for charlie", || async {
        let status = alpha.status(sent.distribution).await.expect("known");
        status.distribution.carriers.get(&bravo.id()).is_some_and(|record| record.state == TargetState::Held)
    })
    .await;
    alpha.shutdown().await;
    let charlie = fleet.restart("charlie", &[&bravo]).await;
    eventually("charlie has it", || async { contents(&fleet.inbox("charlie")) == contents(&root) }).await;
    assert!(contents(&fleet.inbox("bravo")).is_empty(), "a carrier delivers nothing to itself");
    let alpha = fleet.restart("alpha", &[&bravo]).await;
    completed(&alpha, sent.distribution).await;
    for node in [alpha, bravo, charlie] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_restarts_of_both_nothing_is_sent_or_delivered_twice() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("kept", b"1"), ("removed", b"2"), ("edited", b"3")]);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    completed(&alpha, sent.distribution).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
    let inbox = fleet.inbox("bravo");
    std::fs::remove_file(inbox.join("removed")).expect("removed");
    std::fs::write(inbox.join("edited"), "mine").expect("edited");
    let alpha = fleet.restart("alpha", &[]).await;
    let bravo = fleet.restart("bravo", &[&alpha]).await;
    assert_eq!(alpha.status(sent.distribution).await.expect("known after a restart").state, DistributionState::Completed);
    // A second distribution is the proof that the first had its chance.
    let more = fleet.write("more", &[("new", b"4")]);
    let second = alpha.send(SendRequest::new(&more)).await.expect("sent");
    completed(&alpha, second.distribution).await;
    let expected = [("edited", "mine"), ("kept", "1"), ("new", "4")];
    let expected = expected.map(|(path, content)| (PathBuf::from(path), content.as_bytes().to_vec()));
    assert_eq!(contents(&inbox), expected.into_iter().collect());
    bravo.redeliver(sent.distribution).await.expect("known");
    eventually("what the user asks for again comes again", || async { inbox.join("removed").exists() }).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_are_one_distribution_and_all_arrive() {
    let fleet = Fleet::new();
    let contents_of: Vec<(String, Vec<u8>)> =
        (0..10_000_u32).map(|number| (format!("{:02}/file-{number}", number % 100), number.to_le_bytes().repeat(1024))).collect();
    let files: Vec<(&str, &[u8])> = contents_of.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
    let root = fleet.write("outbox", &files);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    assert_eq!(sent.files.len(), 10_000);
    completed(&alpha, sent.distribution).await;
    assert!(contents(&fleet.inbox("bravo")) == contents(&root), "every file is there and equal");
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_choose_their_targets_and_nobody_else_gets_a_byte() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("file", b"for the edge")]);
    fleet.enroll("alpha", &[]);
    fleet.enroll("bravo", &[("role", "edge"), ("region", "a")]);
    fleet.enroll("charlie", &[("role", "hub")]);
    let alpha = fleet.restart("alpha", &[]).await;
    let bravo = fleet.restart("bravo", &[&alpha]).await;
    let charlie = fleet.restart("charlie", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    connected(&alpha, charlie.id()).await;
    let scope = Scope::Labels("role=edge,region in (a,b)".parse().expect("a selector"));
    let request = SendRequest { scope, carry: Carry::None, ..SendRequest::new(&root) };
    let sent = alpha.send(request).await.expect("sent");
    completed(&alpha, sent.distribution).await;
    assert_eq!(contents(&fleet.inbox("bravo")), contents(&root));
    assert!(contents(&fleet.inbox("charlie")).is_empty());
    let blob = sent.files[0].blob;
    assert!(!charlie.content().holds(&blob).expect("the index can be read"));
    for node in [alpha, bravo, charlie] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_reported_and_does_not_stop_the_others() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("good", b"content")]);
    std::os::unix::fs::symlink("/etc/hostname", root.join("link")).expect("a link");
    std::os::unix::net::UnixListener::bind(root.join("socket")).expect("a socket");
    let alpha = fleet.start("alpha", &[]).await;
    let paths = ["good", "link", "socket", "vanished"].map(PathBuf::from).to_vec();
    let everything = alpha.send(SendRequest::new(&root)).await.expect("the good one is sent");
    assert_eq!(everything.files.len(), 1);
    assert_eq!(everything.skipped.len(), 2, "{:?}", everything.skipped);
    let named = alpha.send(SendRequest { paths, ..SendRequest::new(&root) }).await.expect("the good one is sent");
    assert_eq!(named.files.len(), 1);
    assert!(named.skipped.iter().any(|skipped| skipped.path == b"vanished"), "{:?}", named.skipped);
    let nothing = SendRequest { paths: vec!["vanished".into()], ..SendRequest::new(&root) };
    let error = alpha.send(nothing).await.expect_err("nothing is left");
    assert!(matches!(error, Error::NothingToSend(_)) && error.hint().is_some(), "{error}");
    alpha.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_leave_the_inbox_never_do() {
    let fleet = Fleet::new();
    let outside = fleet.write("outside", &[("canary", b"untouched")]);
    std::fs::create_dir_all(fleet.inbox("bravo").join("taken")).expect("a directory where a file should go");
    std::os::unix::fs::symlink(&outside, fleet.inbox("bravo").join("escape")).expect("a link");
    let root = fleet.write("outbox", &[("escape/canary", b"overwritten"), ("taken", b"a file"), ("fine", b"fine")]);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    let sent = alpha.send(SendRequest { together: false, ..SendRequest::new(&root) }).await.expect("sent");
    eventually("what can be delivered is", || async { fleet.inbox("bravo").join("fine").exists() }).await;
    eventually("the sender learns why the rest is not", || async {
        let status = alpha.status(sent.distribution).await.expect("known");
        assert_ne!(status.state, DistributionState::Completed);
        status.targets.get(&bravo.id()).and_then(|it| it.record.as_ref()).is_some_and(|record| record.error.is_some())
    })
    .await;
    assert_eq!(contents(&outside), [(PathBuf::from("canary"), b"untouched".to_vec())].into_iter().collect());
    assert!(fleet.inbox("bravo").join("taken").is_dir());
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_whose_caller_has_gone_is_sent_all_the_same() {
    let fleet = Fleet::new();
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    connected(&alpha, bravo.id()).await;
    for round in 0..10 {
        let root = fleet.write(&format!("outbox-{round}"), &[(&format!("file-{round}"), b"content")]);
        let known = alpha.distributions();
        tokio::select! {
            biased;
            _ = alpha.send(SendRequest { scope: to(&bravo), ..SendRequest::new(&root) }) => panic!("it cannot be that fast"),
            () = std::future::ready(()) => {}
        }
        eventually("it is a distribution", || async { alpha.distributions().len() > known.len() }).await;
        let sent = alpha.distributions().into_iter().find(|id| !known.contains(id)).expect("it is new");
        completed(&alpha, sent).await;
    }
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_distribution_is_not_delivered_to_who_comes_later() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("file", b"content")]);
    let identity = fleet.enroll("bravo", &[]);
    let alpha = fleet.start("alpha", &[]).await;
    let scope = Scope::Nodes(vec![NodeRef::Id(identity.id())]);
    let sent = alpha.send(SendRequest { scope, ..SendRequest::new(&root) }).await.expect("sent");
    alpha.cancel(sent.distribution).await.expect("it is ours");
    assert_eq!(alpha.wait(sent.distribution, DEADLINE).await.expect("ended").state, DistributionState::Cancelled);
    let bravo = fleet.restart("bravo", &[&alpha]).await;
    let more = fleet.write("more", &[("proof", b"that bravo had its chance")]);
    let second = alpha.send(SendRequest { scope: to(&bravo), ..SendRequest::new(&more) }).await.expect("sent");
    completed(&alpha, second.distribution).await;
    assert_eq!(contents(&fleet.inbox("bravo")), contents(&more));
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_disk_gets_again_what_it_had_signed_for() {
    let fleet = Fleet::new();
    let few = fleet.write("few", &[("one", b"1"), ("two", b"2")]);
    let many: Vec<(String, Vec<u8>)> = (0..300).map(|number| (format!("many-{number}"), vec![number as u8; 40])).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
    let many = fleet.write("many", &many);
    let alpha = fleet.start("alpha", &[]).await;
    let bravo = fleet.start("bravo", &[&alpha]).await;
    for root in [&few, &many] {
        let sent = alpha.send(SendRequest::new(root)).await.expect("sent");
        completed(&alpha, sent.distribution).await;
    }
    bravo.shutdown().await;
    let kept = std::fs::metadata(fleet.inbox("bravo").join("one")).expect("delivered");
    std::fs::remove_file(fleet.inbox("bravo").join("two")).expect("lost with the disk");
    std::fs::remove_file(fleet.inbox("bravo").join("many-7")).expect("lost with the disk");
    std::fs::remove_dir_all(fleet.path("bravo").join("content")).expect("lost");
    for name in ["replica.redb", "exchange.redb"] {
        std::fs::remove_file(fleet.path("bravo").join(name)).expect("lost");
    }
    let bravo = fleet.restart("bravo", &[&alpha]).await;
    eventually("everything is there again", || async {
        let inbox = contents(&fleet.inbox("bravo"));
        inbox.len() == 302 && ["two", "many-7"].iter().all(|path| inbox.contains_key(&PathBuf::from(path)))
    })
    .await;
    let still = std::fs::metadata(fleet.inbox("bravo").join("one")).expect("delivered");
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&still), std::os::unix::fs::MetadataExt::ino(&kept), "not written again");
    alpha.shutdown().await;
    bravo.shutdown().await;
}
