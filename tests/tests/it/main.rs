//! Every test of more than one node, in one binary.

mod nodes;
mod simulation;
mod starts;
