//! Every test of more than one node, in one binary.

mod admission;
mod corpora;
mod delta;
mod forgotten;
mod hostile;
mod idle;
mod lan;
mod limits;
mod naming;
mod nodes;
mod outbox;
mod packages;
mod parcels;
mod reflink;
mod relay;
mod replication;
mod sharing;
mod simulation;
mod small;
mod starts;
mod versions;
