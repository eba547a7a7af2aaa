//! An upstream that cuts, stalls and lies, and what those who read through us see of it.

mod claimed;
mod fake;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fake::{Fake, Manner};

use super::{Location, Upstream, Upstreams, Watching};
use crate::clock::SystemClock;
use crate::content::{Content, Options};
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::registry::{Elsewhere as _, Found, Gift, Rank, Registry, RegistryError, Thing, Wanted};

const SIZE: usize = 3_000_000;
const WITHHELD: u64 = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(30);

struct Place {
    registry: Registry,
    upstreams: Arc<Upstreams>,
    dir: tempfile::TempDir,
}

fn location(fake: &Fake) -> Location {
    Location { host: fake.address.to_string(), insecure: true, credentials: None }
}

fn place(fakes: &[&Fake], keep: Option<Duration>) -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(SystemClock);
    let content =
        Content::open(&dir.path().join("content"), Options { quota: None, reserve: 0 }, clock.clone()).expect("a store");
    let registry = Registry::open(&dir.path().join("registry.redb"), content, clock).expect("a catalog");
    let locations = fakes.iter().map(|fake| location(fake)).collect();
    let upstream = Upstream::new(Some("up".to_owned()), locations, Duration::from_millis(500)).expect("an upstream");
    let upstreams = Arc::new(Upstreams::new(&registry, vec![upstream], keep));
    registry.add_elsewhere(Rank::Upstream, upstreams.clone());
    Place { registry, upstreams, dir }
}

fn repository(name: &str) -> Repository {
    name.parse().expect("a name")
}

impl Place {
    async fn find(&self, repository: &Repository, digest: &Digest) -> Option<Found> {
        tokio::time::timeout(DEADLINE, self.registry.find(repository, digest)).await.expect("an answer").expect("a catalog")
    }

    async fn read(&self, digest: &Digest, found: &Found, range: Range<u64>) -> Result<Vec<u8>, RegistryError> {
        let (mut read, within) = (Vec::new(), repository("up/a"));
        while range.start + (read.len() as u64) < range.end {
            let rest = range.start + read.len() as u64..range.end;
            let some = self.registry.read_found(&within, digest, found, rest, 100_000);
            read.extend(tokio::time::timeout(DEADLINE, some).await.expect("bytes, or an error")?);
        }
        Ok(read)
    }

    fn held(&self, name: &str, digest: &Digest) -> bool {
        self.registry.blob(&repository(name), digest).expect("a catalog").is_some()
    }

    async fn no_slots(&self) {
        let gone = async {
            while self.upstreams.streamer.slots() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, gone).await.expect("no slot is left behind");
    }
}

#[tokio::test]
async fn many_readers_with_their_own_offsets_cost_one_get_and_a_slow_one_delays_nobody() {
    let fake = Fake::new(Manner::Gated).await;
    let (place, a) = (place(&[&fake], None), repository("up/a"));
    let (layer, digest) = fake.layer();
    let slow = place.find(&a, &digest).await.expect("it is there");
    assert!(matches!(slow, Found::Streamed(_)) && slow.size() == SIZE as u64);
    // The first bytes are here before the rest has come.
    fake.let_through(200_000);
    assert_eq!(place.read(&digest, &slow, 0..100_000).await.expect("bytes"), layer[..100_000]);
    // From here on `slow` reads nothing.
    let mut readers = tokio::task::JoinSet::new();
    let place = Arc::new(place);
    for reader in 0..5_u64 {
        let (place, layer) = (Arc::clone(&place), layer.clone());
        readers.spawn(async move {
            let found = place.find(&repository("up/a"), &digest).await.expect("it is there");
            let start = reader * 100_000;
            let read = place.read(&digest, &found, start..SIZE as u64).await.expect("bytes");
            assert!(read == layer[start as usize..], "reader {reader}");
        });
    }
    fake.let_through(SIZE);
    while let Some(read) = readers.join_next().await {
        read.expect("it read");
    }
    assert_eq!(place.read(&digest, &slow, 100_000..SIZE as u64).await.expect("bytes"), layer[100_000..]);
    assert_eq!(fake.gets(&digest), 1);
    assert!(place.held("up/a", &digest));
    place.no_slots().await;
}

#[tokio::test]
async fn the_end_is_withheld_until_the_digest_is_right() {
    let fake = Fake::new(Manner::Gated).await;
    let (place, a) = (place(&[&fake], None), repository("up/a"));
    let (layer, digest) = fake.layer();
    let found = place.find(&a, &digest).await.expect("it is there");
    fake.let_through(SIZE - 1);
    let before = SIZE as u64 - WITHHELD;
    assert_eq!(place.read(&digest, &found, before - 10..before).await.expect("bytes").len(), 10);
    let mut end = Box::pin(place.read(&digest, &found, before..before + 10));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut end).await.is_err(), "all but a byte of it is here");
    fake.let_through(SIZE);
    assert_eq!(end.await.expect("bytes"), layer[before as usize..before as usize + 10]);
}

#[tokio::test]
async fn what_fails_its_digest_is_never_kept_and_its_readers_get_an_error() {
    let fake = Fake::new(Manner::Lies).await;
    let (place, a) = (place(&[&fake], None), repository("up/a"));
    let (_, digest) = fake.layer();
    let found = place.find(&a, &digest).await.expect("it says that it has it");
    let error = place.read(&digest, &found, 0..SIZE as u64).await.expect_err("it lies");
    assert!(matches!(error, RegistryError::DigestDiffers { .. }), "{error}");
    assert!(!place.held("up/a", &digest));
    assert_eq!(place.registry.content().usage().expect("a store").bytes, 0);
    place.no_slots().await;
    // Another mirror is asked then.
    let honest = Fake::new(Manner::Honest).await;
    let place = self::place(&[&fake, &honest], None);
    let found = place.find(&a, &digest).await.expect("it says that it has it");
    place.read(&digest, &found, 0..SIZE as u64).await.expect_err("it lies");
    let found = place.find(&a, &digest).await.expect("the other has it");
    assert_eq!(place.read(&digest, &found, 0..SIZE as u64).await.expect("bytes"), honest.layer().0);
    assert_eq!(honest.gets(&digest), 1);
}

#[tokio::test]
async fn cuts_are_healed_by_ranges_unseen_by_readers() {
    for manner in [Manner::Cuts(700_000), Manner::CutsOnceWithoutRanges] {
        let fake = Fake::new(manner).await;
        let (place, a) = (place(&[&fake], None), repository("up/a"));
        let (layer, digest) = fake.layer();
        let found = place.find(&a, &digest).await.expect("it is there");
        assert_eq!(place.read(&digest, &found, 0..SIZE as u64).await.expect("bytes"), layer);
        let ranges = fake.ranges();
        match manner {
            Manner::Cuts(_) => assert_eq!(ranges, [0, 700_000, 1_400_000, 2_100_000, 2_800_000]),
            _ => assert_eq!(ranges, [0, 1_000_000]),
        }
    }
}

#[tokio::test]
async fn a_stall_switches_to_the_next_mirror_and_goes_on_there() {
    let (stalls, honest) = (Fake::new(Manner::Stalls).await, Fake::new(Manner::Honest).await);
    let (place, a) = (place(&[&stalls, &honest], None), repository("up/a"));
    let (layer, digest) = honest.layer();
    let found = place.find(&a, &digest).await.expect("it is there");
    assert_eq!(place.read(&digest, &found, 0..SIZE as u64).await.expect("bytes"), layer);
    assert_eq!((stalls.gets(&digest), honest.ranges()), (1, vec![fake::BEFORE_STALL as u64]));
    // One that gives nothing more is given up, and its readers hear of it.
    let cuts = Fake::new(Manner::Cuts(0)).await;
    let place = self::place(&[&cuts], None);
    let found = place.find(&a, &digest).await.expect("it is there");
    let read = place.read(&digest, &found, 0..SIZE as u64).await;
    assert!(matches!(&read, Err(RegistryError::NotComing { .. })), "{:?}", read.map(|bytes| bytes.len()));
    place.no_slots().await;
}

#[tokio::test]
async fn a_reader_names_a_repository_that_the_upstream_serves_it_for() {
    let fake = Fake::new(Manner::Honest).await;
    let place = place(&[&fake], None);
    let (_, digest) = fake.layer();
    let found = place.find(&repository("up/a"), &digest).await.expect("it is there");
    place.read(&digest, &found, 0..SIZE as u64).await.expect("bytes");
    for other in ["up/secret", "a", "upper/a", "up"] {
        assert!(place.find(&repository(other), &digest).await.is_none(), "{other}");
        assert!(!place.held(other, &digest), "{other}");
    }
    place.no_slots().await;
}

#[tokio::test]
async fn a_failed_start_leaves_no_slot_and_a_reader_that_leaves_ends_nothing() {
    let fake = Fake::new(Manner::Gated).await;
    let (place, a) = (place(&[&fake], None), repository("up/a"));
    let (_, digest) = fake.layer();
    let unknown: Digest = format!("sha256:{}", "ab".repeat(32)).parse().expect("a digest");
    assert!(place.find(&a, &unknown).await.is_none());
    place.no_slots().await;
    // Whoever asked first is gone before there was an answer, and the next one before there was a byte.
    fake.hold_heads(true);
    assert!(tokio::time::timeout(Duration::from_millis(100), place.registry.find(&a, &digest)).await.is_err());
    fake.hold_heads(false);
    drop(place.find(&a, &digest).await.expect("it is there"));
    fake.let_through(SIZE);
    let come = async {
        while !place.held("up/a", &digest) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, come).await.expect("it comes all the same");
    assert_eq!(fake.gets(&digest), 1);
    let closed = place.registry.clone();
    let gone = Fake::new(Manner::Gated).await;
    let place = self::place(&[&gone], None);
    let found = place.find(&a, &digest).await.expect("it is there");
    place.registry.set_elsewhere(None);
    drop(closed);
    let Place { registry, upstreams, dir: _dir } = place;
    drop(upstreams);
    let error = tokio::time::timeout(DEADLINE, registry.read_found(&a, &digest, &found, 0..10, 10)).await.expect("it ends");
    assert!(matches!(error, Err(RegistryError::NotComing { .. })), "{error:?}");
}

#[tokio::test]
async fn an_image_is_kept_once_it_is_whole_and_its_tag_outlives_the_upstream() {
    let tag: Tag = "v1".parse().expect("a tag");
    for keep in [None, Some(Duration::from_secs(3600))] {
        let fake = Fake::new(Manner::Honest).await;
        let (place, a) = (place(&[&fake], keep), repository("up/a"));
        let elsewhere = place.registry.elsewhere().expect("it asks");
        let named = elsewhere.resolve(&a, &tag).await.expect("a tag");
        assert!(!elsewhere.is_unsure(&a));
        let found = place.registry.find_manifest(&a, &named.digest).await.expect("a catalog").expect("it is there");
        assert!(matches!(&found, Found::Here(held, _) if held.size == named.size));
        for digest in fake.parts() {
            let found = place.find(&a, &digest).await.expect("it is there");
            place.registry.settle_found(&a, &digest, &found).await.expect("it comes");
        }
        let whole = place.registry.manifest(&a, &named.digest).expect("a catalog").is_some();
        let tagged = place.registry.tag(&a, &tag).expect("a catalog").map(|named| named.digest);
        assert_eq!((whole, tagged), (keep.is_none(), keep.is_none().then_some(named.digest)));
        place.no_slots().await;
        fake.stop().await;
        assert_eq!(elsewhere.resolve(&a, &tag).await.expect("the last known").digest, named.digest);
        assert!(elsewhere.is_unsure(&a));
        assert!(place.registry.find_manifest(&a, &named.digest).await.expect("a catalog").is_some(), "it is here");
        // What is kept for a while is not collected meanwhile.
        place.registry.content().gc_all().expect("a store");
        assert!(fake.parts().iter().all(|digest| place.held("up/a", digest)));
    }
}

#[tokio::test]
async fn requests_to_an_upstream_say_that_they_are_passed_on() {
    let fake = Fake::new(Manner::Honest).await;
    let place = place(&[&fake], None);
    let (_, digest) = fake.layer();
    place.find(&repository("up/a"), &digest).await.expect("it is there");
    assert!(fake.heads().iter().all(|head| head.contains("peat-blob-passed-on: 1")));
}

#[tokio::test]
async fn a_watch_brings_what_is_new_and_writes_nothing_where_nothing_is() {
    let fake = Fake::new(Manner::Honest).await;
    for keep in [None, Some(Duration::from_secs(3600))] {
        let place = place(&[&fake], keep);
        let watched = vec!["up/a:v*".parse().expect("a pattern"), "up/b".parse().expect("a pattern")];
        let mut watching = place.upstreams.watch(watched, Duration::from_millis(10));
        let after = async |watching: &mut Watching, looks: u64| {
            let looked = async { while watching.status().looks < looks && watching.changed().await {} };
            tokio::time::timeout(DEADLINE, looked).await.expect("it looks");
            watching.status()
        };
        let status = after(&mut watching, 1).await;
        assert_eq!(status.brought, 1);
        assert!(status.problem.is_some_and(|problem| problem.starts_with("up/b:")), "what is not there keeps nothing else away");
        let (a, tag) = (repository("up/a"), "v1".parse::<Tag>().expect("a tag"));
        let named = place.registry.tag(&a, &tag).expect("a catalog").expect("it is set");
        assert!(place.registry.describe(&a, &named.digest).expect("a catalog").is_some());
        let catalog = || std::fs::read(place.dir.path().join("registry.redb")).expect("readable");
        let (before, gets) = (catalog(), fake.ranges().len());
        assert_eq!(after(&mut watching, status.looks + 3).await.brought, 1);
        assert!(catalog() == before && fake.ranges().len() == gets, "nothing is new");
    }
}

#[tokio::test]
async fn what_came_without_the_rest_before_is_completed_by_a_watch() {
    let fake = Fake::new(Manner::Honest).await;
    let (place, a, tag) = (place(&[&fake], None), repository("up/a"), "v1".parse::<Tag>().expect("a tag"));
    let named = place.registry.resolve(&a, &tag).await.expect("a catalog").expect("the upstream has it");
    let found = place.registry.find_manifest(&a, &named.digest).await.expect("a catalog").expect("the upstream has it");
    place.registry.settle_found(&a, &named.digest, &found).await.expect("it comes");
    assert!(place.registry.describe(&a, &named.digest).expect("a catalog").is_none(), "its layer is not here");
    let mut watching = place.upstreams.watch(vec!["up/a".parse().expect("a pattern")], Duration::from_millis(10));
    let brought = async { while watching.status().brought == 0 && watching.changed().await {} };
    tokio::time::timeout(DEADLINE, brought).await.expect("it is brought");
    assert!(place.registry.describe(&a, &named.digest).expect("a catalog").is_some());
}

#[tokio::test]
async fn what_was_deleted_here_is_given_to_no_other_node_and_stays_away() {
    let fake = Fake::new(Manner::Honest).await;
    let (place, a, tag) = (place(&[&fake], None), repository("up/a"), "v1".parse::<Tag>().expect("a tag"));
    let digest = place.registry.resolve(&a, &tag).await.expect("a catalog").expect("the upstream has it").digest;
    place.registry.bring_image(&a, &digest, None).await.expect("it comes");
    place.registry.delete_manifest(&a, &Reference::Digest(digest)).expect("a catalog");
    for thing in [Thing::Manifest(digest), Thing::Blob(digest, 0)] {
        let gift = place.upstreams.give(&Wanted { repository: a.clone(), thing }).await;
        assert!(matches!(gift, Gift::Nothing), "{gift:?}");
    }
    assert!(place.registry.is_blocked(&a, &digest).expect("a catalog"));
}
