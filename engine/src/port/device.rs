//! A device as DPDK knows it: found or plugged in, asked what it can do, closed at the end.

// Calls of DPDK's control path, each with a port number that DPDK gave.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, PoisonError};

use weir_dpdk_sys as sys;

use super::error::PortError;
use crate::eal::{Eal, Errno, is_pci_address};

/// Ports that are open in this process, by DPDK's number.
static OPEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// What a driver says of its device.
#[derive(Debug, Clone)]
pub(super) struct Info {
    pub(super) driver: String,
    pub(super) mac: [u8; 6],
    pub(super) queues: u16,
    pub(super) max_mtu: u16,
    pub(super) reta_size: u16,
    pub(super) rss_key_size: u8,
    pub(super) has_rss: bool,
    pub(super) is_pci: bool,
}

/// A device, claimed for one port; stopped, closed and (if it was plugged in here) unplugged on
/// drop, which gives the buffers in its rings back to their pools.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: u16,
    plugged: bool,
    /// Keeps DPDK up.
    _eal: Eal,
}

impl Device {
    /// Finds the device among those that EAL knows, or plugs it in, and claims it.
    pub(super) fn claim(eal: &Eal, port: &str, device: &str) -> Result<Self, PortError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, plugged) = find_or_plug(port, device)?;
        if open.contains(&id) {
            let (port, device) = (port.to_owned(), device.to_owned());
            return Err(PortError::AlreadyOpen { port, device });
        }
        open.push(id);
        Ok(Self {
            id,
            plugged,
            _eal: eal.clone(),
        })
    }

    pub(super) fn info(&self) -> Result<Info, Errno> {
        let mut raw = sys::weir_port_info::default();
        // SAFETY: `raw` is a struct to write to.
        let ret = unsafe { sys::weir_port_info(self.id, &raw mut raw) };
        if ret != 0 {
            return Err(Errno::of(ret));
        }
        Ok(Info {
            driver: text(&raw.driver),
            mac: raw.mac,
            queues: raw.max_rx_queues.min(raw.max_tx_queues),
            max_mtu: raw.max_mtu,
            reta_size: raw.reta_size,
            rss_key_size: raw.rss_key_size,
            has_rss: raw.rss_types != 0,
            is_pci: raw.is_pci != 0,
        })
    }

    pub(super) fn numa_node(&self) -> Option<u32> {
        // SAFETY: a number in, a number out; negative for "any".
        u32::try_from(unsafe { sys::rte_eth_dev_socket_id(self.id) }).ok()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: every queue handle of the port is gone (they hold this device), so no thread
        // polls it. Nothing can be done about a driver that fails here.
        unsafe { sys::weir_port_close(self.id, i32::from(self.plugged)) };
        open.retain(|&id| id != self.id);
    }
}

/// The NUMA node of a NIC that EAL knows.
pub(super) fn numa_node_of(_eal: &Eal, device: &str) -> Result<Option<u32>, PortError> {
    let (id, _) = find_or_plug(device, device)?;
    // SAFETY: as in `Device::numa_node`.
    Ok(u32::try_from(unsafe { sys::rte_eth_dev_socket_id(id) }).ok())
}

/// The port's number, and whether it was plugged in now.
fn find_or_plug(port: &str, device: &str) -> Result<(u16, bool), PortError> {
    let c_string = |text: String| match CString::new(text) {
        Ok(c_text) if !device.is_empty() => Ok(c_text),
        _ => Err(PortError::DeviceName {
            port: port.to_owned(),
            device: device.to_owned(),
        }),
    };
    let name = c_string(bus_name(device))?;
    if let Some(id) = find(&name) {
        return Ok((id, false));
    }
    let arguments = c_string(device.to_owned())?;
    // SAFETY: NUL-terminated; DPDK copies it.
    let ret = unsafe { sys::rte_dev_probe(arguments.as_ptr()) };
    find(&name)
        .map(|id| (id, true))
        .ok_or_else(|| PortError::NotFound {
            port: port.to_owned(),
            device: device.to_owned(),
            reason: if ret < 0 {
                Errno::of(ret).to_string()
            } else {
                "it has no Ethernet port".into()
            },
        })
}

fn find(name: &CStr) -> Option<u16> {
    // SAFETY: NUL-terminated; DPDK only compares it.
    let id = unsafe { sys::weir_port_find(name.as_ptr()) };
    (id != sys::WEIR_NO_PORT).then_some(id)
}

/// The device's name without its arguments, as its bus writes it.
fn bus_name(device: &str) -> String {
    let name = device.split(',').next().unwrap_or_default();
    if is_pci_address(name) && name.bytes().filter(|&b| b == b':').count() == 1 {
        format!("0000:{name}").to_ascii_lowercase()
    } else if is_pci_address(name) {
        name.to_ascii_lowercase()
    } else {
        name.to_owned()
    }
}

fn text(raw: &[c_char]) -> String {
    let bytes: Vec<u8> = raw.iter().map(|&c| c as u8).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map(|s| s.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_looked_for_by_its_bus_name() {
        assert_eq!(bus_name("net_null0,size=64"), "net_null0");
        assert_eq!(bus_name("3B:00.0"), "0000:3b:00.0");
        assert_eq!(bus_name("0000:3b:00.0,arg=1"), "0000:3b:00.0");
    }
}
