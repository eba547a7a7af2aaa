//! Between the model and what is replicated: distributions as Automerge documents, registers, and the signed envelopes that
//! both travel in. Pure, and total on hostile bytes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod distribution;
mod envelope;
mod hint;

pub use distribution::Distribution;
pub use envelope::{
    Body, Envelope, EnvelopeError, Kind, MAX_CHANGE_BYTES, MAX_ENVELOPE_BYTES, MAX_REGISTER_BYTES, MAX_SENDER_CHANGE_BYTES,
};
pub use hint::{Hint, HintError, MAX_HINT_BYTES, News};
