//! Manifests, tags, what they keep and what is deleted.

use super::*;
use crate::content::Pin;

#[test]
fn an_image_is_given_back_as_it_came_and_keeps_what_it_names() {
    let (mut place, here) = (Place::new(), repository("a/b"));
    let (put, layer) = place.push_image(&here, "v1", 1);
    place.advance(Duration::from_secs(30 * 24 * 60 * 60));
    assert_eq!(place.collect(), 0);
    place.crash();
    assert_eq!(place.collect(), 0);
    let named = place.tag(&here, &tag("v1")).unwrap().unwrap();
    assert_eq!((named.digest, named.media_type.as_str()), (put.digest, media_type::OCI_MANIFEST));
    let stored = place.manifest(&here, &put.digest).unwrap().unwrap();
    assert_eq!(sha256(&stored.bytes), put.digest);
    assert!(place.open_blob(&here, &layer).is_ok());
    assert_eq!(place.tag(&here, &tag("v2")).unwrap(), None);
    assert_eq!(place.tag(&repository("a"), &tag("v1")).unwrap(), None);
    assert_eq!(place.manifest(&repository("a"), &put.digest).unwrap(), None);
}

#[test]
fn a_manifest_is_refused_that_names_what_is_not_here_or_is_wrong_about_it() {
    let (place, here) = (Place::new(), repository("a"));
    let config = place.push_blob(&here, b"config");
    let elsewhere = place.push_blob(&repository("b"), b"layer");
    let error = place.put(&here, "v1", &image(&[(config, 6), (elsewhere, 5), (sha256(b"x"), 1)], None)).unwrap_err();
    assert!(matches!(&error, RegistryError::Missing(missing) if *missing == [elsewhere, sha256(b"x")]), "{error}");
    let error = place.put(&here, "v1", &image(&[(config, 7)], None)).unwrap_err();
    assert!(matches!(error, RegistryError::SizeDiffers { claimed: 7, actual: 6, .. }), "{error}");
    let error = place.put(&here, &sha256(b"other").to_string(), &image(&[(config, 6)], None)).unwrap_err();
    assert!(matches!(error, RegistryError::DigestDiffers { .. }), "{error}");
    assert!(matches!(place.put(&here, "v1", "{}").unwrap_err(), RegistryError::Manifest(_)));
    assert_eq!(place.tag(&here, &tag("v1")).unwrap(), None);
    assert!(!place.content().pins().unwrap().iter().any(|pin| matches!(pin, Pin::Package { .. })));
    place.put(&here, "v1", &image(&[(config, 6)], None)).unwrap();
}

#[test]
fn a_manifest_can_be_named_by_sha512() {
    let (place, here) = (Place::new(), repository("a"));
    let text = image(&[(place.push_blob(&here, b"config"), 6)], None);
    let digest = sha512(text.as_bytes());
    assert_eq!(place.put(&here, &digest.to_string(), &text).unwrap().digest, digest);
    assert_eq!(place.manifest(&here, &digest).unwrap().unwrap().bytes, text.as_bytes());
}

#[test]
fn an_index_keeps_what_its_manifests_name_after_they_were_deleted() {
    let (place, here) = (Place::new(), repository("a"));
    let (child, layer) = place.push_image(&here, "v1", 1);
    let size = place.describe(&here, &child.digest).unwrap().unwrap().size as usize;
    assert!(matches!(place.put(&here, "all", &index(&[(sha256(b"x"), 1)])), Err(RegistryError::Missing(_))));
    let put = place.put(&here, "all", &index(&[(child.digest, size)])).unwrap();
    place.delete_manifest(&here, &Reference::Digest(child.digest)).unwrap();
    assert_eq!(place.tag(&here, &tag("v1")).unwrap(), None, "its tags are gone with it");
    place.advance(Duration::from_secs(2 * 24 * 60 * 60));
    assert_eq!(place.collect(), 0);
    assert!(place.open_blob(&here, &layer).is_ok());
    place.delete_manifest(&here, &Reference::Digest(put.digest)).unwrap();
    assert_eq!(place.collect(), 4);
    assert!(place.open_blob(&here, &layer).is_err());
}

#[test]
fn what_was_deleted_is_blocked_until_it_is_put_again() {
    let (place, here) = (Place::new(), repository("a"));
    let (put, _) = place.push_image(&here, "v1", 1);
    place.set_tag(&here, &tag("v2"), &put.digest).unwrap();
    place.delete_manifest(&here, &by_tag("v2")).unwrap();
    assert!(place.is_blocked(&here, &tag("v2")).unwrap() && !place.is_blocked(&here, &put.digest).unwrap());
    assert!(place.tag(&here, &tag("v1")).unwrap().is_some());
    assert!(matches!(place.delete_manifest(&here, &by_tag("v2")), Err(RegistryError::NoManifest { .. })));
    place.delete_manifest(&here, &Reference::Digest(put.digest)).unwrap();
    assert!(place.is_blocked(&here, &put.digest).unwrap());
    assert!(matches!(place.set_tag(&here, &tag("v1"), &put.digest), Err(RegistryError::NoManifest { .. })));
    let (again, _) = place.push_image(&here, "v2", 1);
    assert_eq!(again.digest, put.digest);
    assert!(!place.is_blocked(&here, &tag("v2")).unwrap() && !place.is_blocked(&here, &put.digest).unwrap());
}

#[test]
fn pins_and_catalog_are_set_right_when_it_is_opened() {
    let (mut place, here) = (Place::new(), repository("a"));
    let (put, _) = place.push_image(&here, "v1", 1);
    let reason = Pin::Package { repository: "a".to_owned(), digest: put.digest.to_string() };
    let stray = Pin::Package { repository: "a".to_owned(), digest: sha256(b"x").to_string() };
    place.content().unpin(&reason).unwrap();
    let lost = place.content().ingest_bytes(b"nobody names it").unwrap().hash;
    place.content().pin(&stray, &[lost]).unwrap();
    place.crash();
    place.advance(Duration::from_secs(2 * 24 * 60 * 60));
    assert_eq!(place.collect(), 1, "only what the stray pin kept");
    let pins = place.content().pins().unwrap();
    assert_eq!(pins, [reason]);
}

#[test]
fn manifests_within_each_other_are_bounded() {
    let (place, here) = (Place::new(), repository("a"));
    let mut text = image(&[(place.push_blob(&here, b"config"), 6)], None);
    let mut depth = 0;
    let error = loop {
        match place.put(&here, "v1", &text) {
            Ok(put) => {
                text = index(&[(put.digest, text.len())])
                    .replace("image.manifest", if depth == 0 { "image.manifest" } else { "image.index" })
            }
            Err(error) => break error,
        }
        depth += 1;
        assert!(depth < 100);
    };
    assert!(matches!(error, RegistryError::TooDeep), "{error}");
}
