//! What can go wrong with a port, told so that an operator can act on it.

use crate::eal::Errno;

/// A port could not be opened, asked or closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// A device string that cannot be passed to C.
    #[error("port {port}: device {device:?} is empty or contains a NUL byte")]
    DeviceName {
        /// The port's name.
        port: String,
        /// The device string.
        device: String,
    },
    /// No such device, or its driver refused it.
    #[error(
        "port {port}: DPDK finds no device {device}: {reason}; a device is the PCI address of a \
         NIC bound to vfio-pci (0000:3b:00.0; see dpdk-devbind.py --status), or a virtual device \
         with its arguments (net_af_xdp0,iface=eth1)"
    )]
    NotFound {
        /// The port's name.
        port: String,
        /// The device string.
        device: String,
        /// DPDK's reason.
        reason: String,
    },
    /// Another port of this process has the device.
    #[error("port {port}: device {device} is already open in this process")]
    AlreadyOpen {
        /// The port's name.
        port: String,
        /// The device string.
        device: String,
    },
    /// A configuration without queues.
    #[error("port {port}: 0 queues asked for; at least 1 is needed")]
    NoQueues {
        /// The port's name.
        port: String,
    },
    /// The device has fewer queues than there are workers.
    #[error(
        "port {port}: {asked} queues asked for, one a worker, but device {device} has {available}; \
         use at most {available} workers, or a device with more queues"
    )]
    TooFewQueues {
        /// The port's name.
        port: String,
        /// The device string.
        device: String,
        /// Queues asked for.
        asked: u16,
        /// Queues that the device has.
        available: u16,
    },
    /// An RSS key was asked for and the device cannot have it.
    #[error("port {port}: {problem}")]
    Rss {
        /// The port's name.
        port: String,
        /// What is wrong.
        problem: String,
    },
    /// An MTU was asked for and cannot be.
    #[error(
        "port {port}: MTU {asked} is not possible on device {device}: {problem}; \
         leave mtu out to use the device's own"
    )]
    Mtu {
        /// The port's name.
        port: String,
        /// The device string.
        device: String,
        /// The MTU asked for, in bytes.
        asked: u16,
        /// What is wrong.
        problem: String,
    },
    /// A MAC address was asked for and cannot be.
    #[error("port {port}: MAC address {mac} is not possible on device {device}: {problem}")]
    Mac {
        /// The port's name.
        port: String,
        /// The device string.
        device: String,
        /// The address asked for.
        mac: String,
        /// What is wrong.
        problem: String,
    },
    /// Another call into the driver failed.
    #[error("port {port}: device {device}: {action}: {reason}")]
    Device {
        /// The port's name.
        port: String,
        /// The device string.
        device: String,
        /// What was being done.
        action: &'static str,
        /// DPDK's reason.
        reason: String,
    },
    /// Queue handles are still out; the port closes when the last of them is dropped.
    #[error("port {port}: {handles} queue handles are still in use; it closes when they are gone")]
    InUse {
        /// The port's name.
        port: String,
        /// How many.
        handles: usize,
    },
}

impl PortError {
    pub(super) fn device(port: &str, device: &str, action: &'static str, errno: Errno) -> Self {
        Self::Device {
            port: port.to_owned(),
            device: device.to_owned(),
            action,
            reason: errno.to_string(),
        }
    }
}

/// A MAC address as text.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
