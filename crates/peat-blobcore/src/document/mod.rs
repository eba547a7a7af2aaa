//! Between the model and what is replicated: distributions as Automerge documents, registers, and the signed envelopes that
//! both travel in. Pure, and total on hostile bytes.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod distribution;

pub use distribution::Distribution;
