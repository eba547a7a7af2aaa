//! What a daemon has to survive, over real processes.

mod kills;
mod power;
mod room;
mod victim;
