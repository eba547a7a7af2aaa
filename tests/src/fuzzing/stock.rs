//! Requests of stock iroh-blobs clients.

use peat_blobcore::network::stock::{GetRequest, MAX_REQUEST_BYTES};

/// A request is read or refused, and what is read says something of every blob.
///
/// # Panics
/// When a law is broken.
pub fn stock(bytes: &[u8]) {
    let Some(request) = GetRequest::decode(bytes) else { return };
    assert!(bytes.len() <= MAX_REQUEST_BYTES && bytes[0] == 0);
    assert_eq!(&bytes[1..33], request.blob.as_bytes());
    assert!((0..300).chain([u64::MAX]).all(|number| request.of(number).is_none_or(|chunks| !chunks.is_empty())));
    if !request.is_for_collection() {
        assert!((1..300).chain([u64::MAX]).all(|number| request.of(number).is_none()));
    }
    // One form of each request alone is one.
    assert_eq!(GetRequest::decode(&[bytes, &[0]].concat()), None);
}
