//! What is fuzzed: each function takes bytes that anyone may have made and panics when a law is broken. `fuzz/` calls them
//! with bytes that libFuzzer makes up, the test `corpora` with those that were kept. Must stay total and deterministic: one
//! input, one outcome.

mod archive;
mod certificate;
mod document;
mod envelope;
mod fixture;
mod handoff;
mod insider;
mod manifest;
mod parcel;
mod registry;
pub mod seeds;
mod small;
mod stock;
mod varlink;
mod wire;

pub use archive::archive;
pub use certificate::certificate;
pub use envelope::envelope;
pub use handoff::{layer, stream};
pub use manifest::manifest;
pub use parcel::parcel;
pub use registry::{image, request, upload};
pub use small::{hint, path};
pub use stock::stock;
pub use varlink::varlink;
pub use wire::wire;

/// What is run with each input.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Target); 15] = [
    ("archive", archive),
    ("certificate", certificate),
    ("envelope", envelope),
    ("hint", hint),
    ("image", image),
    ("layer", layer),
    ("manifest", manifest),
    ("parcel", parcel),
    ("path", path),
    ("request", request),
    ("stock", stock),
    ("stream", stream),
    ("upload", upload),
    ("varlink", varlink),
    ("wire", wire),
];
