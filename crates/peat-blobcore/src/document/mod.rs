//! Between the model and what is replicated: distributions as Automerge documents, registers, and the signed envelopes that
//! both travel in. Pure, and total on hostile bytes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod change;
mod change_reader;
mod declaration;
mod distribution;
#[expect(clippy::module_inception, reason = "the document is what the module is named after")]
mod document;
mod envelope;
mod hint;
mod history;
mod projection;
#[cfg(test)]
mod tests;
mod writer;

pub use change::ChangeError;
pub use declaration::{retirement, revocation};
pub use distribution::{Distribution, Section};
pub use document::{Document, Entry, Inserted, Verdict};
pub use envelope::{
    Body, Envelope, EnvelopeError, Kind, MAX_CHANGE_BYTES, MAX_ENVELOPE_BYTES, MAX_REGISTER_BYTES, MAX_SENDER_CHANGE_BYTES,
};
pub use hint::{Hint, HintError, MAX_HINT_BYTES, News};
pub use writer::{Edit, first_change};
