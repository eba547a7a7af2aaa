//! The harness that tests of more than one node share. Nothing here is used outside tests.

pub mod filesystem;
pub mod fixture;
pub mod fleet;
pub mod fuzzing;
pub mod raw;
pub mod scale;
pub mod simulation;
