//! Files as they lie about, and as nobody should have them lie about, asked for as the registry asks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::oci::Reference;
use crate::registry::Elsewhere as _;
use crate::registry::archive::tests::{LayoutMaker, docker, gzip, noise, rich, tar, zstd};
use crate::registry::tests::{Place, repository, tag};

/// A registry beside a directory that images lie in.
struct Scene {
    place: Place,
    files: tempfile::TempDir,
    patterns: Vec<Pattern>,
    sideload: Sideload,
}

impl Scene {
    fn new(patterns: &[&str]) -> Self {
        let (place, files) = (Place::new(), tempfile::tempdir().unwrap());
        let patterns: Vec<Pattern> =
            patterns.iter().map(|pattern| format!("{}/{pattern}", files.path().display()).parse().unwrap()).collect();
        let sideload = Self::open(&place, patterns.clone());
        Self { place, files, patterns, sideload }
    }

    fn open(place: &Place, patterns: Vec<Pattern>) -> Sideload {
        let index = place.dir.path().join("sideload.redb");
        let sideload = Sideload::open(&index, Registry::clone(place), EndpointId::from_bytes([1; 32]), patterns).unwrap();
        place.set_elsewhere(Some(Arc::new(sideload.clone())));
        sideload
    }

    /// Ends and begins again.
    fn restart(&mut self) {
        self.place.set_elsewhere(None);
        self.sideload.close();
        self.sideload = Self::open(&self.place, self.patterns.clone());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn scan(&self) {
        self.sideload.scan().unwrap();
    }

    fn images(&self) -> Vec<String> {
        self.sideload.images().iter().map(|image| format!("{}:{}", image.repository, image.tag)).collect()
    }

    /// Why the one file that is refused is.
    fn refusal(&self) -> String {
        let refused = self.sideload.refused();
        assert_eq!(refused.len(), 1, "{refused:?}");
        refused[0].reason.clone()
    }

    /// Pulls an image as a client does; the bytes of its blobs by their digests.
    async fn pull(&self, name: &str, reference: &str) -> Result<Vec<Digest>, RegistryError> {
        let name = repository(name);
        let digest = match reference.parse().unwrap() {
            Reference::Digest(digest) => digest,
            Reference::Tag(tag) => {
                self.place.resolve(&name, &tag).await?.map(|named| named.digest).ok_or(RegistryError::Stopped)?
            }
        };
        let bring = self.place.bring_image(&name, &digest, None);
        tokio::time::timeout(Duration::from_secs(60), bring).await.expect("it comes")?;
        let (_, parts) = self.place.package(&name, &digest)?;
        Ok(parts.into_iter().map(|part| part.digest).collect())
    }

    fn blobs(&self) -> u64 {
        self.place.content().usage().unwrap().blobs
    }
}

fn an_archive(seed: u8) -> Vec<u8> {
    tar(&docker(&[noise(seed, 300_000), noise(seed + 1, 1000)], r#"["some/other:name"]"#))
}

#[tokio::test]
async fn an_archive_is_served_as_its_path_says_and_nothing_is_copied_before_it_is_asked_for() {
    let scene = Scene::new(&["store/<ref>-<name>.tar.gz"]);
    scene.write("store/0a1b-team-app.tar.gz", &gzip(&an_archive(1)));
    scene.write("store/0a1b-team-app.tar", &an_archive(3));
    scene.write("other/0a1b-team-app.tar.gz", &gzip(&an_archive(5)));
    scene.scan();
    assert_eq!(scene.images(), ["team-app:0a1b"]);
    assert_eq!(scene.blobs(), 0);
    let (name, reference) = (repository("team-app"), tag("0a1b"));
    assert_eq!(scene.place.repositories(None, 10).unwrap().items, std::slice::from_ref(&name));
    assert_eq!(scene.place.tags(&name, None, 10).unwrap().items, std::slice::from_ref(&reference));
    let named = scene.place.resolve(&name, &reference).await.unwrap().unwrap();
    assert_eq!(scene.blobs(), 0);
    // A manifest alone brings nothing else.
    let arriving = scene.place.find(&name, &named.digest).await.unwrap().unwrap();
    scene.place.settle_found(&name, &named.digest, &arriving).await.unwrap();
    assert_eq!(scene.blobs(), 1);
    assert_eq!(scene.pull("team-app", "0a1b").await.unwrap().len(), 4);
    assert_eq!(scene.blobs(), 4);
    assert!(scene.pull("some/other", "name").await.is_err(), "the names within count for nothing");
    assert!(scene.pull("team-app", "0a1c").await.is_err());
}

#[tokio::test]
async fn every_form_is_served_and_the_file_may_go_once_it_was_pulled() {
    let scene = Scene::new(&["<name...>/<ref>.image"]);
    let mut maker = LayoutMaker::default();
    let image = maker.image("amd64", 7);
    maker.name(&image, "1");
    let layout = tar(&maker.files());
    let forms = [("plain", layout.clone()), ("gz", gzip(&layout)), ("zst", zstd(&layout)), ("a/docker", an_archive(9))];
    for (name, bytes) in &forms {
        scene.write(&format!("{name}/1.image"), bytes);
    }
    for (name, bytes) in maker.files() {
        scene.write(&format!("a/b/dir/1.image/{name}"), &bytes);
    }
    scene.scan();
    assert_eq!(scene.images().len(), 5, "{:?}", scene.sideload.refused());
    let mut pulled = Vec::new();
    for name in ["plain", "gz", "zst", "a/docker", "a/b/dir"] {
        pulled.push(scene.pull(name, "1").await.unwrap());
        assert_eq!(pulled.last().unwrap().len(), 4, "{name}");
        let path = scene.path(&format!("{name}/1.image"));
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
    assert_eq!(pulled[0], pulled[4]);
    scene.scan();
    assert_eq!(scene.images(), [""; 0]);
    let (_, parts) = scene.place.package(&repository("gz"), &pulled[0][0]).unwrap();
    assert_eq!(parts.len(), 4);
}

#[tokio::test]
async fn what_is_about_an_image_comes_with_it_and_what_else_is_in_the_file_does_not() {
    let scene = Scene::new(&["<name>-<ref>.tar"]);
    scene.write("app-v1.tar", &tar(&rich().files()));
    scene.scan();
    let image = scene.sideload.images().pop().unwrap();
    assert_eq!(image.about.len(), 1);
    let found = scene.place.referrers(&repository("app"), &image.digest, None, None, 10).unwrap().items;
    assert_eq!(found.iter().map(|found| found.digest).collect::<Vec<_>>(), image.about);
    assert_eq!(scene.pull("app", &image.about[0].to_string()).await.unwrap().len(), 3);
    let chart = rich().files().into_iter().find(|(name, _)| name.contains("sha512")).unwrap().0;
    let chart = chart.trim_start_matches("blobs/").replace('/', ":").parse().unwrap();
    assert!(!scene.sideload.has(&repository("app"), &chart));
    assert!(scene.pull("app", "v1").await.unwrap().len() > 5);
    // Named by neither.
    scene.write("app-v2.tar", &tar(&rich().files()));
    scene.scan();
    assert!(scene.refusal().contains("none is called app:v2"), "{}", scene.refusal());
}

#[tokio::test]
async fn a_new_file_is_found_by_its_name_at_once_and_a_changed_or_removed_one_is_noticed() {
    let scene = Scene::new(&["<name>/<ref>.tar"]);
    scene.write("app/1.tar", &an_archive(1));
    let first = scene.place.resolve(&repository("app"), &tag("1")).await.unwrap().unwrap();
    // Another in its place, of the same size.
    scene.write("app/1.tar", &an_archive(3));
    let second = scene.place.resolve(&repository("app"), &tag("1")).await.unwrap().unwrap();
    assert_ne!(first.digest, second.digest);
    assert!(scene.place.find(&repository("app"), &first.digest).await.unwrap().is_none());
    assert!(scene.place.find(&repository("app"), &second.digest).await.unwrap().is_some());
    fs::remove_file(scene.path("app/1.tar")).unwrap();
    assert!(scene.place.find(&repository("app"), &second.digest).await.unwrap().is_none());
    assert!(scene.place.resolve(&repository("app"), &tag("1")).await.unwrap().is_none());
    assert_eq!(scene.images(), [""; 0]);
}

#[tokio::test]
async fn the_index_outlives_a_restart_and_is_not_believed_about_what_changed_meanwhile() {
    let mut scene = Scene::new(&["<name>/<ref>.tar"]);
    for name in ["app/1.tar", "app/2.tar", "app/3.tar"] {
        scene.write(name, &an_archive(1));
    }
    scene.scan();
    scene.write("app/2.tar", &an_archive(3));
    fs::remove_file(scene.path("app/3.tar")).unwrap();
    let before = scene.sideload.images()[0].clone();
    scene.restart();
    assert_eq!(scene.sideload.images()[0], before, "known before anything was read");
    scene.scan();
    assert_eq!(scene.images(), ["app:1", "app:2"]);
    assert_ne!(scene.sideload.images()[1].digest, before.digest);
    // What no pattern matches any more is not known any more.
    scene.patterns = vec![format!("{}/<name>/<ref>.tgz", scene.files.path().display()).parse().unwrap()];
    scene.restart();
    assert_eq!(scene.images(), [""; 0]);
}

#[tokio::test]
async fn what_was_deleted_here_stays_away_though_others_of_its_file_are_taken() {
    let scene = Scene::new(&["<name>-<ref>.tar.gz"]);
    scene.write("app-1.tar.gz", &gzip(&an_archive(1)));
    let pulled = scene.pull("app", "1").await.unwrap();
    let (gone, kept) = (&pulled[1], &pulled[2]);
    scene.place.delete_blob(&repository("app"), gone).unwrap();
    scene.place.delete_blob(&repository("app"), kept).unwrap();
    assert!(scene.place.find(&repository("app"), gone).await.unwrap().is_none());
    let entry = scene.sideload.known().entries().next().unwrap().clone();
    assert!(scene.sideload.take(&entry, *gone).await.is_err());
    assert!(scene.place.is_blocked(&repository("app"), gone).unwrap());
    assert!(scene.place.is_blocked(&repository("app"), kept).unwrap());
}

#[tokio::test]
async fn links_and_what_is_no_file_are_not_served() {
    let scene = Scene::new(&["in/<name...>/<ref>.tar"]);
    scene.write("out/secret.tar", &an_archive(1));
    scene.write("out/1.tar", &an_archive(1));
    fs::create_dir_all(scene.path("in/app")).unwrap();
    symlink(scene.path("out/secret.tar"), scene.path("in/app/1.tar")).unwrap();
    symlink(scene.path("out"), scene.path("in/linked")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, scene.path("in/app/2.tar"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    fs::create_dir_all(scene.path("in/app/3.tar")).unwrap();
    scene.scan();
    assert!(scene.images().is_empty() && scene.sideload.refused().is_empty());
    for (name, reference) in [("app", "1"), ("app", "2"), ("app", "3"), ("linked", "1"), ("linked", "secret")] {
        assert!(scene.place.resolve(&repository(name), &tag(reference)).await.unwrap().is_none(), "{name}:{reference}");
    }
    // Of a layout neither.
    for (name, bytes) in rich().files() {
        scene.write(&format!("out/layout/{name}"), &bytes);
    }
    fs::create_dir_all(scene.path("in/app/v1.tar")).unwrap();
    fs::copy(scene.path("out/layout/index.json"), scene.path("in/app/v1.tar/index.json")).unwrap();
    symlink(scene.path("out/layout/blobs"), scene.path("in/app/v1.tar/blobs")).unwrap();
    scene.scan();
    assert!(scene.images().is_empty());
    assert!(scene.refusal().contains("missing") || scene.refusal().contains("cannot read"), "{}", scene.refusal());
}

#[tokio::test]
async fn a_hostile_archive_is_refused_with_a_reason_and_stops_no_other() {
    use crate::registry::archive::tests::raw_header;
    let scene = Scene::new(&["<name>-<ref>.tar"]);
    let good = an_archive(1);
    let mut changed = good.clone();
    changed[600] ^= 1;
    let mut bomb = raw_header("bomb", b'0', "7777777777", "");
    bomb.resize(200 << 20, 0);
    let many: Vec<_> = (0..60_000).flat_map(|at| raw_header(&format!("{at}"), b'0', "0", "")).collect();
    let twice = tar(&docker(&[gzip(&noise(1, 300_000))], "[]"));
    let hostile = [
        ("bomb", zstd(&bomb), "unpack to more than"),
        ("outside", [raw_header("../x", b'0', "0", ""), good.clone()].concat(), "leads out"),
        ("absolute", [raw_header("/etc/passwd", b'0', "0", ""), good.clone()].concat(), "absolute"),
        ("link", [raw_header("a", b'2', "0", "/etc/passwd"), good.clone()].concat(), "out of the archive"),
        ("device", [raw_header("a", b'3', "0", ""), good.clone()].concat(), "device"),
        ("cut", good[..good.len() / 2].to_vec(), "cut off"),
        ("cutgz", gzip(&good)[..1000].to_vec(), "cut off"),
        ("many", gzip(&many), "more than 50000 entries"),
        ("digest", changed, "is not what"),
        ("huge", raw_header("index.json", b'0', "77777777777", ""), "at most"),
        ("twice", gzip(&twice), "compressed twice"),
        ("text", b"no archive".to_vec(), "no tar archive"),
    ];
    for (name, bytes, why) in hostile {
        scene.write(&format!("{name}-1.tar"), &bytes);
        scene.write("good-1.tar", &good);
        scene.scan();
        assert_eq!(scene.images(), ["good:1"], "{name}");
        assert!(scene.refusal().contains(why), "{name}: {}", scene.refusal());
        assert_eq!(scene.blobs(), 0);
        fs::remove_file(scene.path(&format!("{name}-1.tar"))).unwrap();
        fs::remove_file(scene.path("good-1.tar")).unwrap();
    }
    // A plain one is never unpacked: its layers are what they are.
    scene.write("twice-1.tar", &twice);
    assert_eq!(scene.pull("twice", "1").await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_blob_that_is_not_what_it_was_is_not_taken() {
    let scene = Scene::new(&["<name>-<ref>.tar"]);
    scene.write("app-1.tar", &an_archive(1));
    scene.scan();
    let entry = scene.sideload.known().entries().next().unwrap().clone();
    let layer = *entry.image.as_ref().unwrap().blobs.iter().find(|(_, blob)| blob.size == 300_000).unwrap().0;
    // Somebody writes between the look and the reading.
    let mut bytes = an_archive(1);
    bytes[1000] ^= 1;
    scene.write("app-1.tar", &bytes);
    let error = scene.sideload.take(&entry, layer).await.unwrap_err();
    assert!(error.to_string().contains("is not what"), "{error}");
    assert_eq!(scene.blobs(), 0);
}

#[tokio::test]
async fn blobs_go_when_their_lease_ends_and_come_again_from_the_file() {
    let scene = Scene::new(&["<name>-<ref>.tar.gz"]);
    scene.write("app-1.tar.gz", &gzip(&an_archive(1)));
    scene.scan();
    let image = scene.sideload.images()[0].clone();
    let layer = {
        let known = scene.sideload.known();
        let entry = known.entries().next().unwrap();
        *entry.image.as_ref().unwrap().blobs.iter().find(|(_, blob)| blob.size == 300_000).unwrap().0
    };
    for _ in 0..2 {
        let arriving = scene.place.find(&image.repository, &layer).await.unwrap().unwrap();
        scene.place.settle_found(&image.repository, &layer, &arriving).await.unwrap();
        scene.place.collect();
        assert!(scene.place.blob(&image.repository, &layer).unwrap().is_some());
        scene.place.advance(Duration::from_secs(25 * 60 * 60));
        assert!(scene.place.collect() > 0);
        assert!(scene.place.blob(&image.repository, &layer).unwrap().is_none());
    }
}
