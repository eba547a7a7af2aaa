//! Archives of images, as anyone may have made them.

use std::io::Cursor;
use std::ops::ControlFlow;

use peat_blobcore::oci::Digest;
use peat_blobcore::registry::archive::{ImportOptions, Limits, Origin, import};
use sha2::{Digest as _, Sha256};

use super::registry::shared;

/// An archive is refused, or all of what it names is in the store and is what its digest says.
///
/// # Panics
/// When a law is broken.
pub fn archive(bytes: &[u8]) {
    let content = shared().content();
    let options = ImportOptions { platform: None, limits: Limits { bytes: 4 << 20, ratio: 200, entries: 200 } };
    let origin = Origin::Stream(Box::new(Cursor::new(bytes)));
    let imported = match import(content, origin, &options, &mut |_| ControlFlow::Continue(())) {
        Ok(imported) => imported,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for root in &imported.roots {
        assert!(imported.blobs.iter().any(|blob| blob.digest == root.descriptor.digest));
    }
    for blob in &imported.blobs {
        let read = content.read_blob(&blob.blob.hash, 4 << 20).expect("it is held");
        assert_eq!(read.len() as u64, blob.blob.size);
        if let Digest::Sha256(sha256) = blob.digest {
            assert_eq!(Sha256::digest(&read)[..], sha256.as_bytes()[..]);
        }
    }
}

/// One file of a tar archive.
fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend_from_slice(content);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn archives() -> Vec<Vec<u8>> {
    let layer = b"a layer";
    let config =
        format!(r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#, hex(layer));
    let config_name = format!("{}.json", hex(config.as_bytes()));
    let list = format!(r#"[{{"Config":"{config_name}","RepoTags":["a:1"],"Layers":["0/layer.tar"]}}]"#);
    let docker =
        [entry("0/layer.tar", layer), entry(&config_name, config.as_bytes()), entry("manifest.json", list.as_bytes())].concat();
    let part = |kind: &str, content: &[u8]| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{}","size":{}}}"#,
            hex(content),
            content.len()
        )
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        part("config.v1+json", config.as_bytes()),
        part("layer.v1.tar", layer)
    );
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, part("manifest.v1+json", manifest.as_bytes()));
    let blob = |content: &[u8]| entry(&format!("blobs/sha256/{}", hex(content)), content);
    let layout = [
        entry("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        entry("index.json", index.as_bytes()),
        blob(manifest.as_bytes()),
        blob(config.as_bytes()),
        blob(layer),
    ]
    .concat();
    let mut linked = docker.clone();
    linked[156] = b'2';
    let cut = layout[..layout.len() / 2].to_vec();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packed, &docker).expect("memory takes all");
    vec![docker, layout, linked, cut, packed.finish().expect("memory takes all")]
}
