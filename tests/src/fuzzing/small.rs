//! Paths and hints.

use std::path::{Component, Path};

use peat_blobcore::document::{Hint, HintError, MAX_HINT_BYTES};
use peat_blobcore::model::{MAX_COMPONENT_BYTES, MAX_PATH_BYTES, RelativePath};

use super::fixture::Author;

/// A path that is let through stays beneath the directory that it is joined to, and is the bytes that came.
///
/// # Panics
/// When it does not.
pub fn path(bytes: &[u8]) {
    let Ok(path) = RelativePath::parse(bytes) else { return };
    assert_eq!(path.as_str().as_bytes(), bytes);
    assert!(bytes.len() <= MAX_PATH_BYTES && !bytes.contains(&0));
    assert!(path.components().all(|component| component.len() <= MAX_COMPONENT_BYTES));
    let root = Path::new("/inbox");
    let joined = root.join(path.as_str());
    let beneath = joined.strip_prefix(root).expect("it stays beneath the root");
    assert!(beneath.components().all(|component| matches!(component, Component::Normal(_))));
    assert!(beneath.components().map(|component| component.as_os_str()).eq(path.components().map(std::ffi::OsStr::new)));
}

/// A hint opens only with its author's signature, and what opens is sealed to the same again.
///
/// # Panics
/// When a law is broken.
pub fn hint(payload: &[u8]) {
    assert!(Hint::open(&[&[0; 64], payload].concat()).is_err(), "zeros sign for nobody");
    let author = Author::named(0);
    let signature = author.key.sign(&[b"peat-blob hint v1", payload].concat());
    let sealed = [&signature, payload].concat();
    match Hint::open(&sealed) {
        Ok(hint) => {
            assert_eq!(hint.author, author.id());
            assert!(sealed.len() <= MAX_HINT_BYTES);
            match hint.seal(author.key.as_iroh()) {
                Ok(again) => assert_eq!(Hint::open(&again).expect("what is sealed opens"), hint),
                Err(error) => assert!(matches!(error, HintError::TooLarge(_))),
            }
        }
        Err(HintError::TooLarge(length)) => assert!(length > MAX_HINT_BYTES),
        Err(HintError::Malformed(_) | HintError::Signature) => {}
    }
    let _ = Hint::open(payload);
}
