//! An image's configuration, as far as it says what its layers are unpacked (image-spec, `config.md`, "rootfs").

use serde::Deserialize;

use super::{Digest, DigestError};

/// Why bytes are no configuration of an image.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON of the expected shape.
    #[error("the image's configuration cannot be read: {0}")]
    Malformed(String),
    /// It names a layer by what is no digest.
    #[error("the image's configuration names a layer by a bad digest: {0}")]
    Digest(#[from] DigestError),
}

/// The digests of an image's layers as plain tar archives, the lowest first.
///
/// # Errors
/// When the bytes are no configuration of an image.
pub fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, ConfigError> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Vec<String>,
    }
    let Config { rootfs } = serde_json::from_slice(config).map_err(|error| ConfigError::Malformed(error.to_string()))?;
    rootfs.diff_ids.iter().map(|id| Ok(id.parse()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_in_their_order_and_what_is_no_configuration_is_refused() {
        let digests = ["aa", "bb"].map(|byte| format!("sha256:{}", byte.repeat(32)));
        let config = format!(r#"{{"os":"linux","rootfs":{{"type":"layers","diff_ids":["{}","{}"]}}}}"#, digests[0], digests[1]);
        let read = diff_ids(config.as_bytes()).expect("a configuration");
        assert!(read.iter().map(ToString::to_string).eq(digests.clone()));
        assert!(diff_ids(br#"{"rootfs":{}}"#).expect("a configuration").is_empty());
        for bad in ["", "{}", r#"{"rootfs":{"diff_ids":[1]}}"#] {
            assert!(matches!(diff_ids(bad.as_bytes()), Err(ConfigError::Malformed(_))), "{bad}");
        }
        let bad = config.replace("aaaa", "AAAA");
        assert!(matches!(diff_ids(bad.as_bytes()), Err(ConfigError::Digest(_))));
    }
}
