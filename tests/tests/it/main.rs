//! Every test of more than one node, in one binary.

mod corpora;
mod forgotten;
mod nodes;
mod reflink;
mod simulation;
mod starts;
