//! What a daemon has to survive, over real processes.

mod damage;
mod kills;
mod power;
mod room;
mod victim;
