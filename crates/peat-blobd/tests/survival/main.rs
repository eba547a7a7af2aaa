//! What a daemon has to survive, over real processes.

mod damage;
mod directories;
mod full;
mod kills;
mod power;
mod room;
mod victim;
