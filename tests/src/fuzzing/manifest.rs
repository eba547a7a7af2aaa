//! Manifests, the lists that stand for their files, and selectors.

use peat_blobcore::document::{Document, Verdict, first_change};
use peat_blobcore::model::{FileEntry, FileList, Files, Manifest, ManifestError, Selector};

use super::fixture::Author;

/// What decodes is within the limits, can be sent on, and makes a document that others accept.
///
/// # Panics
/// When a law is broken.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        assert!(manifest.file_count() > 0 && manifest.expiry > manifest.made_at);
        let _ = manifest.total_bytes();
        if let Files::Inline(files) = &manifest.files {
            list(files);
        }
        send(manifest);
    }
    if let Ok(files) = minicbor::decode::<Vec<FileEntry>>(bytes) {
        list(&files);
    }
    if let Ok(selector) = std::str::from_utf8(bytes).unwrap_or_default().parse::<Selector>() {
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }
}

/// A list agrees with the figures that were taken from it and with no others.
fn list(files: &[FileEntry]) {
    for file in files {
        super::path(&file.path);
        let _ = file.relative_path();
    }
    let Some(sum) = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.size)) else { return };
    let (list, count) = (FileList(files.to_vec()), files.len() as u64);
    let encoded = list.encode();
    match FileList::decode(&encoded, count, sum) {
        Ok(read) => assert_eq!(read, list),
        Err(error) => assert!(matches!(error, ManifestError::TextTooLong), "{error}"),
    }
    assert!(FileList::decode(&encoded, count + 1, sum).is_err());
    assert!(FileList::decode(&encoded, count, sum.wrapping_add(1)).is_err());
}

fn send(manifest: Manifest) {
    let author = Author::named(0);
    let manifest = Manifest { sender: author.id(), ..manifest };
    let (id, change) = match first_change(&manifest, &author.incarnation) {
        Ok(first) => first,
        // Another encoding of it may have been a few bytes shorter.
        Err(error) => return assert!(matches!(error, ManifestError::TooLarge(_)), "{error}"),
    };
    let mut envelope = author.envelope(id, change);
    envelope.expiry = manifest.expiry;
    let mut document = Document::new(id);
    let Ok(Verdict::Fits(entry)) = document.judge(&envelope) else { panic!("what may be sent makes a document") };
    assert_eq!(entry.manifest(), Some(&manifest));
    document.insert(peat_blobcore::document::Envelope::id_of(&envelope.seal(author.key.as_iroh())), *entry);
    assert_eq!(document.distribution().expect("it has a first change").manifest, manifest);
}
