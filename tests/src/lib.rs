//! The harness that tests of more than one node share. Nothing here is used outside tests.

pub mod fleet;
pub mod simulation;
