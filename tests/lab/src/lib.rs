//! A laboratory of links on one machine: hosts in network namespaces, joined by a medium in user space.
//!
//! Each host is a network namespace with one TUN device. One thread holds all the devices, and carries each IP packet as the
//! links on its way allow: their rate, delay, jitter, loss, queue and partitions. Any program runs in a host. Data flows
//!
//! ```text
//! program -> TUN of host a -> pump (clock, files, threads) -> Medium (pure: packets and times) -> pump -> TUN of host b
//! ```
//!
//! [`Medium`] decides and knows no clock; what happened when is the same for the same packets at the same times with the same
//! seed. [`Lab`] is the rest: namespaces, devices, processes. It must leave nothing behind, also where an earlier run was
//! killed. Root is needed, and nothing of the kernel but TUN and namespaces. `docs/lab.md` says what is modelled and what not.
mod capture;
mod counts;
mod daemons;
mod error;
mod host;
mod lab;
mod link;
mod medium;
mod namespace;
mod profile;
mod pump;
mod random;

pub use counts::{Counts, Pair, Tally};
pub use daemons::{Daemons, Peering, Seat, ended, programs};
pub use error::LabError;
pub use host::Host;
pub use lab::Lab;
pub use link::{Duty, Link, Reorder};
pub use medium::{Arrival, Medium};
pub use profile::{Direction, MAX_HOSTS, Partition, Profile, Shape, host_index, host_name};
