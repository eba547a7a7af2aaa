//! What clients of the registry say: manifests, requests, and the pieces of a blob.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use peat_blobcore::clock::SystemClock;
use peat_blobcore::content::{Content, Options};
use peat_blobcore::model::Sha256Digest;
use peat_blobcore::oci::{Digest, ImageReference, Manifest, ManifestKind, Reference, Repository};
use peat_blobcore::registry::http::{ByteRange, NoRoute, Route, content_range};
use peat_blobcore::registry::{Registry, RegistryError, UploadId};
use sha2::{Digest as _, Sha256, Sha512};

use super::fixture::Input;

/// A manifest is one thing or refused, and what it names is bounded.
///
/// # Panics
/// When a law is broken.
pub fn image(bytes: &[u8]) {
    let Ok(read) = Manifest::parse(bytes, None) else { return };
    let again = Manifest::parse(bytes, Some(&read.media_type)).expect("it is what it says");
    assert_eq!(again, read);
    assert!(Manifest::parse(bytes, Some("text/plain")).is_err());
    match read.kind {
        ManifestKind::Image => assert!(read.config.is_some() && read.manifests.is_empty()),
        ManifestKind::Index => assert!(read.config.is_none() && read.layers.is_empty()),
    }
    assert!(read.references().count() <= 10_001);
    for part in read.references() {
        assert_eq!(part.digest.to_string().parse::<Digest>(), Ok(part.digest));
        assert!(part.urls.is_empty());
    }
}

/// Paths, names, and ranges of so many bytes as the first byte says: what is read is written as it was read, and lies within.
///
/// # Panics
/// When a law is broken.
pub fn request(bytes: &[u8]) {
    let Some((size, rest)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let size = u64::from(*size);
    if let ByteRange::Part(range) = ByteRange::parse(Some(text), size) {
        assert!(range.start < range.end && range.end <= size, "{range:?} of {size}");
    }
    if let Some(range) = content_range(text) {
        let (first, last) = (range.start, range.end - 1);
        assert!(first <= last);
        assert_eq!(content_range(&format!("bytes {first}-{last}/*")), Some(range));
    }
    match Route::parse(text) {
        Ok(Route::Blob(repository, digest)) => {
            let path = format!("/v2/{repository}/blobs/{digest}");
            assert_eq!(Route::parse(&path), Ok(Route::Blob(repository, digest)));
        }
        Ok(Route::Tags(repository)) => assert!(!repository.as_str().contains("..") && !repository.as_str().starts_with('/')),
        Ok(_) | Err(NoRoute::Unknown | NoRoute::Name(_)) => {}
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
    }
    if let Ok(reference) = text.parse::<ImageReference>() {
        assert_eq!(reference.to_string(), text);
    }
}

/// A registry that inputs share: each leaves only blobs in it.
static REGISTRY: LazyLock<(tempfile::TempDir, Registry)> = LazyLock::new(|| {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a temporary directory");
    let clock = Arc::new(SystemClock);
    let content =
        Content::open(&dir.path().join("content"), Options { quota: None, reserve: 0 }, clock.clone()).expect("a store");
    let registry = Registry::open(&dir.path().join("registry.redb"), content, clock).expect("a registry");
    (dir, registry)
});

pub(super) fn shared() -> &'static Registry {
    &REGISTRY.1
}

/// The steps of [`upload`].
mod step {
    pub(super) const BEGIN: u8 = 0;
    pub(super) const APPEND: u8 = 1;
    pub(super) const FINISH: u8 = 2;
    pub(super) const CANCEL: u8 = 3;
}

/// Most uploads that one input begins.
const MOST_UPLOADS: usize = 8;

/// Uploads of two repositories, step by step, beside a model that keeps their bytes in memory: a piece is taken exactly where it
/// belongs, and a blob exactly when it is what its digest says.
///
/// # Panics
/// When a law is broken.
pub fn upload(bytes: &[u8]) {
    let registry = shared();
    let repositories: [Repository; 2] = ["a", "b/c"].map(|name| name.parse().expect("a name"));
    let mut model: BTreeMap<UploadId, (usize, Vec<u8>)> = BTreeMap::new();
    let mut begun = Vec::new();
    let mut input = Input(bytes);
    while let (Some(kind), Some(which)) = (input.byte(), input.byte()) {
        let owner = usize::from(which & 1);
        let repository = &repositories[owner];
        if kind % 4 == step::BEGIN {
            if begun.len() < MOST_UPLOADS {
                let id = registry.begin_upload(repository).expect("there are few");
                begun.push(id);
                model.insert(id, (owner, Vec::new()));
            }
            continue;
        }
        let Some(id) = begun.get(usize::from(which >> 1)) else { continue };
        let known = model.get(id).filter(|(theirs, _)| *theirs == owner).map(|(_, content)| content.clone());
        match kind % 4 {
            step::APPEND => {
                let (at, piece) = (u64::from(input.byte().unwrap_or_default()), input.bytes().unwrap_or_default());
                match (registry.append_upload(repository, id, at, piece), known) {
                    (Ok(size), Some(mut content)) => {
                        assert_eq!(at, content.len() as u64);
                        content.extend_from_slice(piece);
                        assert_eq!(size, content.len() as u64);
                        model.insert(*id, (owner, content));
                    }
                    (Err(RegistryError::OutOfOrder { has, .. }), Some(content)) => {
                        assert!(has == content.len() as u64 && has != at);
                    }
                    (Err(RegistryError::NoUpload(_)), None) => {}
                    (outcome, known) => panic!("{outcome:?} of {known:?}"),
                }
            }
            step::FINISH => {
                let how = input.byte().unwrap_or_default();
                let content = known.clone().unwrap_or_default();
                let mut named = content.clone();
                named.extend((how & 2 != 0).then_some(how));
                let digest = match how & 1 {
                    0 => Digest::Sha256(Sha256Digest::from_bytes(Sha256::digest(&named).into())),
                    _ => Digest::Sha512(Sha512::digest(&named).into()),
                };
                match (registry.finish_upload(repository, id, &digest), known) {
                    (Ok(held), Some(_)) => {
                        assert!(named == content && held.size == content.len() as u64);
                        let read = registry.open_blob(repository, &digest).and_then(|blob| Ok(blob.read_first(1 << 20)?));
                        assert_eq!(read.expect("it is here"), content);
                        model.remove(id);
                    }
                    (Err(RegistryError::DigestDiffers { .. }), Some(_)) => {
                        assert_ne!(named, content);
                        model.remove(id);
                    }
                    (Err(RegistryError::NoUpload(_)), None) => {}
                    (outcome, known) => panic!("{outcome:?} of {known:?}"),
                }
            }
            _ => {
                assert_eq!(registry.cancel_upload(repository, id).is_ok(), known.is_some());
                if known.is_some() {
                    model.remove(id);
                }
            }
        }
    }
    for (id, (owner, content)) in model {
        assert_eq!(registry.upload_size(&repositories[owner], &id).expect("it is under way"), content.len() as u64);
        registry.cancel_upload(&repositories[owner], &id).expect("it is under way");
    }
}

pub(super) fn images() -> Vec<Vec<u8>> {
    let digest = |byte: &str| format!("sha256:{}", byte.repeat(32));
    let part = |kind: &str, byte: &str| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":7}}"#, digest(byte));
    let (config, layer) =
        (part("application/vnd.oci.image.config.v1+json", "aa"), part("application/vnd.oci.image.layer.v1.tar", "bb"));
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let subject = part(manifest, "cc");
    let image = format!(r#"{{"schemaVersion":2,"mediaType":"{manifest}","config":{config},"layers":[{layer}]}}"#);
    let about = image.replace("]}", &format!(r#"],"subject":{subject},"artifactType":"a/b","annotations":{{"a":"b"}}}}"#));
    let docker = image.replace("oci.image.manifest.v1", "docker.distribution.manifest.v2");
    let foreign = image.replace(r#""size":7}]"#, r#""size":7,"urls":["https://a.example/b"]}]"#);
    let platform = subject.replace('}', r#","platform":{"architecture":"arm64","os":"linux","variant":"v8"}}"#);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{platform},{subject}]}}"#);
    let both = image.replace("]}", r#"],"manifests":[]}"#);
    let long = image.replace(&digest("bb"), &format!("sha512:{}", "dd".repeat(64)));
    [image, about, docker, foreign, index, both, long].map(String::into_bytes).into()
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let texts = [
        "bytes=5-9",
        "bytes=5-",
        "bytes=-5",
        "bytes=250-9999",
        "bytes=0-1,3-4",
        "5-9",
        "bytes 5-9/20",
        "/v2/",
        "/v2/_catalog",
        "/v2/a/b/tags/list",
        "/v2/a/b/manifests/v1",
        "/v2/a/blobs/uploads/",
        "/v2/a/blobs/uploads/00000000000000000000000000000000",
        &format!("/v2/a%2Fb/blobs/{digest}"),
        &format!("/v2/a/referrers/{digest}"),
        &digest,
        &format!("localhost:5000/a/b:v1@{digest}"),
        "registry.example/a__b/c--d",
    ];
    texts.iter().map(|text| [&[200], text.as_bytes()].concat()).collect()
}

pub(super) fn uploads() -> Vec<Vec<u8>> {
    let begin = |owner: u8| vec![step::BEGIN, owner];
    let append = |which: u8, at: u8, piece: &[u8]| {
        let mut bytes = vec![step::APPEND, which, at];
        super::fixture::push_bytes(&mut bytes, piece);
        bytes
    };
    let finish = |which: u8, how: u8| vec![step::FINISH, which, how];
    let cancel = |which: u8| vec![step::CANCEL, which];
    let steps: [Vec<Vec<u8>>; 4] = [
        vec![begin(0), append(0, 0, b"abc"), append(0, 3, b"def"), finish(0, 0)],
        vec![begin(1), append(1, 0, b"abc"), append(1, 0, b"abc"), append(1, 4, b"x"), finish(1, 1), finish(1, 1)],
        vec![begin(0), begin(1), append(0, 0, b"abc"), append(1, 0, b"x"), append(3, 0, b"x"), finish(0, 2), finish(3, 3)],
        vec![begin(0), append(0, 0, &[7; 20_000]), cancel(1), cancel(0), finish(0, 0), begin(0), finish(2, 0)],
    ];
    steps.map(|steps| steps.concat()).into()
}
