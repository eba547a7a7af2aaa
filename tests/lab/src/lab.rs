//! A whole lab: its hosts, and the medium that joins them.

use std::path::Path;
use std::time::Duration;

use crate::LabError;
use crate::capture::Capture;
use crate::counts::Counts;
use crate::host::{Host, address};
use crate::medium::Medium;
use crate::namespace::{Namespace, check_programs, sweep};
use crate::profile::{Profile, host_index, host_name};
use crate::pump::Pump;

/// Hosts that can talk to each other, as a [`Profile`] says. All of it goes when this is dropped: processes, devices, namespaces.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    // After the hosts: what runs in them is killed while packets still flow.
    pump: Pump,
}

impl Lab {
    /// Makes the hosts and joins them. Removes first what labs left behind that were killed.
    ///
    /// # Errors
    /// [`LabError`] says what is missing: root, `/dev/net/tun`, iproute2.
    pub fn new(profile: &Profile) -> Result<Self, LabError> {
        let medium = Medium::new(profile)?;
        if !rustix::process::geteuid().is_root() {
            return Err(LabError::NotRoot);
        }
        if !Path::new("/dev/net/tun").exists() {
            return Err(LabError::NoTun);
        }
        check_programs()?;
        sweep()?;
        let lab = Namespace::next_lab();
        let (mut hosts, mut devices) = (Vec::new(), Vec::new());
        for index in 0..profile.hosts {
            let namespace = Namespace::create(lab, &host_name(index))?;
            devices.push(namespace.open_device(address(index), profile.mtu)?);
            hosts.push(Host::new(index, namespace));
        }
        let pump = Pump::start(medium, devices).map_err(LabError::io("cannot start the medium"))?;
        Ok(Self { hosts, pump })
    }

    /// Removes what labs left behind whose processes were killed. [`Lab::new`] does so first.
    ///
    /// # Errors
    /// If one of them cannot be removed.
    pub fn sweep() -> Result<(), LabError> {
        sweep()
    }

    /// The host of this name.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        let host = host_index(name).and_then(|index| self.hosts.get(index));
        host.unwrap_or_else(|| panic!("no host {name:?}: a to {}", host_name(self.hosts.len() - 1)))
    }

    /// All hosts, in order.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The time since the start, on the medium's clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.pump.now()
    }

    /// What went where so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.pump.shared().medium.counts().clone()
    }

    /// From now on nothing passes between two hosts, nor over the hop between them. What is on its way is lost.
    ///
    /// # Panics
    /// Where there are no such hosts.
    pub fn cut(&self, one: &str, other: &str) {
        let (one, other) = self.pair(one, other);
        self.pump.shared().medium.cut(one, other);
    }

    /// Takes a [`cut`](Self::cut) back.
    ///
    /// # Panics
    /// Where there are no such hosts.
    pub fn join(&self, one: &str, other: &str) {
        let (one, other) = self.pair(one, other);
        self.pump.shared().medium.join(one, other);
    }

    /// Writes each packet, as its host sends it, into a pcap file from now on.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn capture(&self, path: &Path) -> Result<(), LabError> {
        let capture = Capture::create(path).map_err(LabError::io(format!("cannot write {}", path.display())))?;
        self.pump.shared().capture = Some(capture);
        Ok(())
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// If it could not be written in full.
    pub fn end_capture(&self) -> Result<(), LabError> {
        let mut shared = self.pump.shared();
        let flushed = shared.capture.take().map_or(Ok(()), |mut capture| capture.flush());
        shared.capture_error.take().map_or(flushed, Err).map_err(LabError::io("the capture is cut short"))
    }

    fn pair(&self, one: &str, other: &str) -> (usize, usize) {
        (self.host(one).index(), self.host(other).index())
    }
}
