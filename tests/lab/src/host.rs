//! One host: its name, its address, and programs that run in it.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use crate::LabError;
use crate::namespace::Namespace;
use crate::profile::host_name;

/// The network of every lab. It exists in namespaces only.
pub(crate) const NETWORK: [u8; 3] = [10, 77, 0];

/// A host of a lab.
#[derive(Debug)]
pub struct Host {
    index: usize,
    namespace: Namespace,
}

impl Host {
    pub(crate) fn new(index: usize, namespace: Namespace) -> Self {
        Self { index, namespace }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// `a` for the first.
    #[must_use]
    pub fn name(&self) -> String {
        host_name(self.index)
    }

    /// The address of this host in the lab.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        address(self.index)
    }

    /// The network namespace, as `nsenter --net=` takes it.
    #[must_use]
    pub fn namespace(&self) -> PathBuf {
        self.namespace.path()
    }

    /// A command that runs in this host: its process id is the program's own. The file system, users and processes are those
    /// of the machine. What still runs when the lab is dropped is killed.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let mut net = std::ffi::OsString::from("--net=");
        net.push(self.namespace());
        command.arg(net).arg("--").arg(program);
        command
    }

    /// Runs something in this host, in a thread of its own that is waited for. Sockets that it makes stay the host's.
    ///
    /// # Errors
    /// If the host cannot be entered.
    pub fn enter<T: Send>(&self, what: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.namespace.enter(what)
    }
}

/// The address of the host of this number.
pub(crate) fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(NETWORK[0], NETWORK[1], NETWORK[2], index as u8 + 1)
}

/// To which host an IPv4 packet goes; None for what is for nobody here (broadcasts, other networks, IPv6).
pub(crate) fn destination(packet: &[u8]) -> Option<usize> {
    match (packet.first()? >> 4, packet.get(16..20)?) {
        (4, [a, b, c, last]) if [*a, *b, *c] == NETWORK => usize::from(*last).checked_sub(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_goes_to_the_host_of_its_destination() {
        let packet = |version: u8, to: [u8; 4]| {
            let mut packet = vec![0; 20];
            packet[0] = version << 4 | 5;
            packet[16..20].copy_from_slice(&to);
            packet
        };
        assert_eq!(destination(&packet(4, address(3).octets())), Some(3));
        assert_eq!(destination(&packet(4, [10, 77, 0, 0])), None);
        assert_eq!(destination(&packet(4, [224, 0, 0, 251])), None);
        assert_eq!(destination(&packet(6, address(3).octets())), None);
        assert_eq!(destination(&[0x45; 19]), None);
        assert_eq!(destination(&[]), None);
    }
}
