//! Nodes that never meet and have only a file between them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use peat_blob_tests::fleet::{Fleet, completed, connected, contents, eventually};
use peat_blob_tests::raw::TestClock;
use peat_blobcore::clock::{Clock as _, SystemClock};
use peat_blobcore::identity::AuthorityKey;
use peat_blobcore::model::{Carry, NodeRef, Scope};
use peat_blobcore::parcel::{Header, ParcelWriter};
use peat_blobcore::reconcile::Policy;
use peat_blobcore::{Error, ErrorKind, Node, ParcelReport, ParcelSelection, SendRequest};

async fn export(node: &Node, what: ParcelSelection, to: &Path) -> ParcelReport {
    let file = std::fs::File::create(to).expect("a file");
    let report = node.export_parcel(what, file).await.expect("exported");
    assert_eq!(report.bytes, std::fs::metadata(to).expect("written").len());
    report
}

async fn import(node: &Node, from: &Path) -> Result<ParcelReport, Error> {
    node.import_parcel(std::fs::File::open(from).expect("a parcel")).await
}

/// Parcels tell nodes each other's addresses. These take no connections with each other all the same.
async fn apart(nodes: &[&Node]) {
    for node in nodes {
        for other in nodes.iter().filter(|other| other.id() != node.id()) {
            node.remove_peer(other.id()).await;
        }
    }
}

fn lacking(node: &Node) -> ParcelSelection {
    ParcelSelection::Nodes(BTreeSet::from([node.id()]))
}

fn many() -> Vec<(String, Vec<u8>)> {
    (0..300_u32).map(|number| (format!("d{}/f{number}", number % 7), number.to_le_bytes().repeat(number as usize))).collect()
}

fn borrowed(files: &[(String, Vec<u8>)]) -> Vec<(&str, &[u8])> {
    files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_and_the_receipt_comes_back_between_nodes_that_never_meet() {
    let fleet = Fleet::new();
    let large: Vec<u8> = (0..5_000_000_u32).map(|number| (number / 7) as u8).collect();
    let few = fleet.write("few", &[("empty", b""), ("small", b"small"), ("large", &large), ("again", b"small")]);
    let list = many();
    let list = fleet.write("list", &borrowed(&list));
    let (alpha, bravo) = (fleet.start("alpha", &[]).await, fleet.start("bravo", &[]).await);
    apart(&[&alpha, &bravo]).await;
    // One for an id, which alpha knows by hearsay alone, and one for all: it closes that roster when it hears of bravo.
    let scope = Scope::Nodes(vec![NodeRef::Id(bravo.id())]);
    let first = alpha.send(SendRequest { scope, carry: Carry::None, ..SendRequest::new(&few) }).await.expect("sent");
    let second = alpha.send(SendRequest::new(&list)).await.expect("sent");

    let (there, back) = (fleet.path("there"), fleet.path("back"));
    let written = export(&alpha, ParcelSelection::Everything, &there).await;
    assert_eq!((written.distributions, written.withheld_distributions, written.skipped_blobs), (2, 0, 0));
    let taken = import(&bravo, &there).await.expect("imported");
    assert_eq!((taken.blobs, taken.skipped_blobs, taken.known_blobs), (written.blobs, 0, 0));
    assert_eq!((taken.exporter, taken.envelopes, taken.bytes), (Some(alpha.id()), written.envelopes, written.bytes));
    let mut expected = contents(&few);
    expected.extend(contents(&list));
    eventually("bravo has the files", || async { contents(&fleet.inbox("bravo")) == expected }).await;
    for sent in [&first, &second] {
        eventually("bravo has signed", || async {
            let status = bravo.status(sent.distribution).await.expect("known");
            status.targets[&bravo.id()].record.as_ref().is_some_and(|record| record.state.is_receipt())
        })
        .await;
    }

    let receipts = export(&bravo, lacking(&alpha), &back).await;
    assert_eq!(receipts.blobs, 0, "alpha has every blob");
    import(&alpha, &back).await.expect("imported");
    completed(&alpha, first.distribution).await;
    eventually("bravo is on the roster", || async {
        let status = alpha.status(second.distribution).await.expect("known");
        status.distribution.roster.is_some()
    })
    .await;
    completed(&alpha, second.distribution).await;
    assert_eq!((alpha.peers(), bravo.peers()), (Vec::new(), Vec::new()));

    let again = import(&bravo, &there).await.expect("imported");
    assert_eq!((again.blobs, again.new_envelopes), (0, 0), "nothing is taken in twice");
    assert_eq!(again.known_blobs, written.blobs);
    let left = export(&alpha, lacking(&bravo), &back).await;
    assert_eq!((left.distributions, left.blobs), (0, 0), "bravo lacks nothing");
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_is_carried_on_by_a_member_that_is_not_meant() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("file", &[7; 300_000])]);
    let alpha = fleet.start("alpha", &[]).await;
    let (bravo, charlie) = (fleet.start("bravo", &[]).await, fleet.start("charlie", &[]).await);
    apart(&[&alpha, &bravo, &charlie]).await;
    let scope = Scope::Nodes(vec![NodeRef::Id(charlie.id())]);
    let sent = alpha.send(SendRequest { scope: scope.clone(), ..SendRequest::new(&root) }).await.expect("sent");
    let (first, second) = (fleet.path("first"), fleet.path("second"));
    export(&alpha, ParcelSelection::Distributions(BTreeSet::from([sent.distribution])), &first).await;
    assert_eq!(import(&bravo, &first).await.expect("imported").blobs, 1);
    assert!(contents(&fleet.inbox("bravo")).is_empty(), "a carrier delivers nothing to itself");
    bravo.gc().await.expect("collected");
    bravo.shutdown().await;
    let bravo = fleet.restart("bravo", &[]).await;
    bravo.gc().await.expect("collected");
    assert_eq!(export(&bravo, lacking(&charlie), &second).await.blobs, 1, "it is kept for charlie");
    import(&charlie, &second).await.expect("imported");
    eventually("charlie has it", || async { contents(&fleet.inbox("charlie")) == contents(&root) }).await;
    for node in [alpha, bravo, charlie] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_does_not_want_or_has_no_room_for_is_left_in_the_parcel() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("file", &[7; 30_000])]);
    let alpha = fleet.start("alpha", &[]).await;
    for name in ["bravo", "charlie"] {
        fleet.enroll(name, &[]);
    }
    let no_room = Policy { carry_quota_bytes: 100, quota_bytes: Some(100), ..Policy::default() };
    let bravo = fleet.describe("bravo").policy(no_room).start().await.expect("it starts");
    let charlie = fleet.restart("charlie", &[]).await;
    apart(&[&alpha, &bravo, &charlie]).await;
    let to = |node: &Node| Scope::Nodes(vec![NodeRef::Id(node.id())]);
    let for_charlie = SendRequest { scope: to(&charlie), ..SendRequest::new(&root) };
    let kept = alpha.send(SendRequest { carry: Carry::None, ..for_charlie.clone() }).await.expect("sent");
    alpha.send(for_charlie).await.expect("sent");
    alpha.send(SendRequest { scope: to(&bravo), ..SendRequest::new(&root) }).await.expect("sent");
    let parcel = fleet.path("parcel");
    export(&alpha, ParcelSelection::Everything, &parcel).await;
    let taken = import(&bravo, &parcel).await.expect("imported");
    assert_eq!((taken.blobs, taken.skipped_blobs), (0, 1));
    assert_eq!(bravo.distributions().len(), 3, "documents go to all members");

    // Who is neither its sender nor writes for its target hands on no blob that nobody may carry.
    import(&charlie, &parcel).await.expect("imported");
    eventually("charlie has it", || async { contents(&fleet.inbox("charlie")) == contents(&root) }).await;
    let only = ParcelSelection::Distributions(BTreeSet::from([kept.distribution]));
    let withheld = export(&charlie, only, &parcel).await;
    assert_eq!((withheld.withheld_distributions, withheld.blobs), (1, 0));
    for node in [alpha, bravo, charlie] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_that_is_cut_off_or_altered_is_an_error_and_what_was_verified_stays() {
    let fleet = Fleet::new();
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| (number / 3) as u8).collect();
    let root = fleet.write("outbox", &[("large", &large), ("small", b"small")]);
    let (alpha, bravo) = (fleet.start("alpha", &[]).await, fleet.start("bravo", &[]).await);
    apart(&[&alpha, &bravo]).await;
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    let path = fleet.path("parcel");
    export(&alpha, ParcelSelection::Everything, &path).await;
    let parcel = std::fs::read(&path).expect("written");

    let cut = fleet.path("cut");
    std::fs::write(&cut, &parcel[..parcel.len() / 2]).expect("written");
    let error = import(&bravo, &cut).await.expect_err("cut off");
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    assert!(error.to_string().contains("cut off after") && error.hint().is_some(), "{error}");
    let blob = sent.files.iter().find(|file| file.path == b"large").expect("sent").blob;
    let held = bravo.content().status(&blob).expect("the index can be read");
    assert!(matches!(held, peat_blobcore::content::BlobStatus::Partial { held, .. } if held >= 1 << 20), "{held:?}");

    // Not one of these is taken for a good parcel, wherever it is altered: in its head, envelopes, blocks, its end.
    for at in [0, 17, 30, 400, parcel.len() / 3, parcel.len() - 60, parcel.len() - 1] {
        let mut altered = parcel.clone();
        altered[at] ^= 0x10;
        std::fs::write(&cut, &altered).expect("written");
        let error = import(&bravo, &cut).await.expect_err("altered");
        assert!(error.hint().is_some(), "at {at}: {error}");
    }
    // All blobs have come by now: a delivery may be under way, in temporary files.
    let mut delivered =
        contents(&fleet.inbox("bravo")).into_iter().filter(|(path, _)| !path.to_string_lossy().contains(".peat-"));
    assert!(delivered.all(|(_, content)| content == large || content == b"small"));
    import(&bravo, &path).await.expect("imported");
    eventually("bravo has the files", || async { contents(&fleet.inbox("bravo")) == contents(&root) }).await;
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parcel_of_another_formation_is_refused_before_anything_of_it_is_taken_in() {
    let (fleet, other) = (Fleet::new(), Fleet::new());
    let (alpha, bravo) = (fleet.start("alpha", &[]).await, other.start("bravo", &[]).await);
    let parcel = fleet.path("parcel");
    export(&alpha, ParcelSelection::Everything, &parcel).await;
    let error = import(&bravo, &parcel).await.expect_err("of another formation");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!bravo.members().iter().any(|(id, _)| *id == alpha.id()));
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_travels_in_every_parcel() {
    let fleet = Fleet::new();
    let (alpha, bravo) = (fleet.start("alpha", &[]).await, fleet.start("bravo", &[]).await);
    apart(&[&alpha, &bravo]).await;
    let lost = fleet.enroll("lost", &[]);
    alpha.revoke(lost.id(), "captured", &fleet.authority).await.expect("revoked");
    let parcel = fleet.path("parcel");
    export(&alpha, ParcelSelection::Nodes(BTreeSet::new()), &parcel).await;
    import(&bravo, &parcel).await.expect("imported");
    let known = export(&bravo, ParcelSelection::Nodes(BTreeSet::new()), &parcel).await;
    assert_eq!(known.envelopes, 3, "both members and the revocation");
    alpha.shutdown().await;
    bravo.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_authority_signed_away_from_any_node_counts_unless_it_is_from_the_future_or_anothers() {
    let fleet = Fleet::new();
    let lost = fleet.enroll("lost", &[]).id();
    fleet.enroll("alpha", &[]);
    let now = SystemClock.now();
    let behind = now.minus(Duration::from_secs(3 * 24 * 3600));
    let alpha = fleet.describe("alpha").clock(TestClock::at(behind)).start().await.expect("it starts");
    let signed = |authority: &AuthorityKey, time| {
        let header = Header { formation: fleet.formation.id(), exporter: authority.id(), made_at: time };
        let mut parcel = Vec::new();
        let mut writer = ParcelWriter::begin(&mut parcel, &header).expect("memory");
        writer.envelope(&authority.revoke(&lost, Some("lost"), "captured", time).expect("a short reason")).expect("memory");
        writer.finish().expect("memory");
        std::io::Cursor::new(parcel)
    };
    let figures = |report: ParcelReport| (report.new_envelopes, report.held_envelopes, report.refused_envelopes);
    let import = async |parcel| figures(alpha.import_parcel(parcel).await.expect("a whole parcel"));
    assert_eq!(import(signed(&AuthorityKey::generate(), behind)).await, (0, 0, 1));
    assert_eq!(import(signed(&fleet.authority, now)).await, (0, 1, 0));
    assert!(alpha.gone().revoked.is_empty());
    assert_eq!(import(signed(&fleet.authority, behind)).await, (1, 0, 0));
    let revoked = alpha.gone().revoked;
    assert_eq!(revoked.into_iter().map(|(id, what)| (id, what.name)).collect::<Vec<_>>(), [(lost, Some("lost".to_owned()))]);
    let known = alpha.stats().accepted;
    alpha.revoke(lost, "again", &fleet.authority).await.expect("it is so already");
    assert_eq!(alpha.stats().accepted, known, "nothing is written");
    alpha.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_whose_caller_has_gone_and_is_passed_on_to_peers() {
    let fleet = Fleet::new();
    let root = fleet.write("outbox", &[("file", b"content")]);
    let alpha = fleet.start("alpha", &[]).await;
    let sent = alpha.send(SendRequest::new(&root)).await.expect("sent");
    let parcel = fleet.path("parcel");
    export(&alpha, ParcelSelection::Everything, &parcel).await;
    alpha.shutdown().await;
    let bravo = fleet.start("bravo", &[]).await;
    let charlie = fleet.start("charlie", &[&bravo]).await;
    connected(&bravo, charlie.id()).await;
    tokio::select! {
        biased;
        _ = import(&bravo, &parcel) => panic!("it cannot be that fast"),
        () = std::future::ready(()) => {}
    }
    for name in ["bravo", "charlie"] {
        eventually("it is delivered", || async { contents(&fleet.inbox(name)) == contents(&root) }).await;
    }
    assert_eq!(charlie.distributions(), [sent.distribution]);
    bravo.shutdown().await;
    charlie.shutdown().await;
}
