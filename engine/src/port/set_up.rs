//! What opening a port sets on its device, one function a setting: asked for explicitly, it is had
//! or refused with the reason.

// Calls of DPDK's control path, each with the number of a port that this process has claimed.
#![allow(unsafe_code)]

use weir_dpdk_sys as sys;

use super::device::Info;
use super::error::mac_text;
use super::{PortConfig, PortError};
use crate::eal::Errno;
use crate::mempool::Mempool;
use crate::rss::SYMMETRIC_KEY;

pub(super) fn failed(config: &PortConfig, action: &'static str, errno: Errno) -> PortError {
    PortError::device(&config.name, &config.device, action, errno)
}

pub(super) fn check(config: &PortConfig, action: &'static str, ret: i32) -> Result<(), PortError> {
    if ret == 0 {
        Ok(())
    } else {
        Err(failed(config, action, Errno::of(ret)))
    }
}

fn is_unsupported(ret: i32) -> bool {
    ret == -libc::ENOTSUP || ret == -libc::ENOSYS
}

/// Takes in frames to all groups: neighbour discovery asks by multicast (RFC 4861), and which groups
/// that are depends on addresses that change at run time. Devices without the call filter nothing.
pub(super) fn take_groups(id: u16, config: &PortConfig) -> Result<(), PortError> {
    // SAFETY: a number in, a number out.
    let ret = unsafe { sys::rte_eth_allmulticast_enable(id) };
    if is_unsupported(ret) {
        Ok(())
    } else {
        check(config, "taking in multicast frames", ret)
    }
}

pub(super) fn promiscuous(id: u16, on: bool) -> i32 {
    // SAFETY: a number in, a number out.
    unsafe {
        if on {
            sys::rte_eth_promiscuous_enable(id)
        } else {
            sys::rte_eth_promiscuous_disable(id)
        }
    }
}

/// The key to program: none with one queue or without RSS, the one asked for, or the symmetric one
/// at the device's length.
pub(super) fn rss_key(config: &PortConfig, info: &Info) -> Result<Option<Vec<u8>>, PortError> {
    let refuse = |problem: String| {
        Err(PortError::Rss {
            port: config.name.clone(),
            problem,
        })
    };
    // 0: the driver does not say; 40 bytes are what every driver takes.
    let length = match info.rss_key_size {
        0 => SYMMETRIC_KEY.len(),
        size => usize::from(size),
    };
    match &config.rss {
        Some(_) if !info.has_rss => refuse(format!(
            "an RSS key was asked for, but device {} (driver {}) has no RSS",
            config.device, info.driver
        )),
        Some(rss) if rss.key.len() != length || length > sys::WEIR_RSS_KEY_MAX as usize => {
            refuse(format!(
                "the RSS key has {} bytes; device {} takes {length}",
                rss.key.len(),
                config.device
            ))
        }
        Some(rss) => Ok(Some(rss.key.clone())),
        None if !info.has_rss || config.queues == 1 => Ok(None),
        None => Ok(Some(
            SYMMETRIC_KEY.into_iter().cycle().take(length).collect(),
        )),
    }
}

pub(super) fn set_up_queues(
    id: u16,
    config: &PortConfig,
    key: Option<&[u8]>,
    pool: &Mempool,
) -> Result<(), PortError> {
    let mut settings = sys::weir_port_settings {
        queues: config.queues,
        rx_descriptors: config.rx_descriptors,
        tx_descriptors: config.tx_descriptors,
        ..Default::default()
    };
    if let Some(key) = key
        && let Some(into) = settings.rss_key.get_mut(..key.len())
    {
        into.copy_from_slice(key);
        settings.rss_key_length = key.len() as u8;
    }
    // SAFETY: `settings` is a struct to read and write.
    let ret = unsafe { sys::weir_port_configure(id, &raw mut settings) };
    check(config, "configuring its queues", ret)?;
    for queue in 0..config.queues {
        // SAFETY: the pool is live, and the port holds it until the device is closed.
        let ret =
            unsafe { sys::weir_rx_queue_setup(id, queue, settings.rx_descriptors, pool.raw()) };
        check(config, "setting up a receive queue", ret)?;
        // SAFETY: numbers only.
        let ret = unsafe { sys::weir_tx_queue_setup(id, queue, settings.tx_descriptors) };
        check(config, "setting up a send queue", ret)?;
    }
    Ok(())
}

/// Bytes of a frame around its MTU: Ethernet header, two VLAN tags.
const FRAME_OVERHEAD: u32 = 14 + 2 * 4;

/// Sets the MTU if one is asked for; returns the one in force.
pub(super) fn set_mtu(
    id: u16,
    config: &PortConfig,
    info: &Info,
    pool: &Mempool,
) -> Result<u16, PortError> {
    let mut own = 0;
    // SAFETY: `own` is an integer to write to.
    check(config, "reading its MTU", unsafe {
        sys::rte_eth_dev_get_mtu(id, &raw mut own)
    })?;
    let Some(asked) = config.mtu else {
        return Ok(own);
    };
    let refuse = |problem: String| {
        let (port, device) = (config.name.clone(), config.device.clone());
        Err(PortError::Mtu {
            port,
            device,
            asked,
            problem,
        })
    };
    let room = u32::from(pool.config().frame_room);
    if u32::from(asked) + FRAME_OVERHEAD > room {
        return refuse(format!(
            "its frames do not fit the pool's buffers of {room} bytes (at most {})",
            room.saturating_sub(FRAME_OVERHEAD)
        ));
    }
    if asked == own {
        return Ok(asked);
    }
    // SAFETY: numbers only.
    match unsafe { sys::rte_eth_dev_set_mtu(id, asked) } {
        0 => Ok(asked),
        ret if is_unsupported(ret) && asked <= own => Ok(asked),
        ret if is_unsupported(ret) => {
            refuse(format!("its own is {own}, and the driver cannot change it"))
        }
        ret => {
            let most = info.max_mtu;
            refuse(format!("{}; it takes at most {most}", Errno::of(ret)))
        }
    }
}

/// Sets the MAC address if one is asked for; returns the one in force.
pub(super) fn set_mac(id: u16, config: &PortConfig, info: &Info) -> Result<[u8; 6], PortError> {
    let Some(asked) = config.mac else {
        return Ok(info.mac);
    };
    let refuse = |problem: String| {
        let (port, device) = (config.name.clone(), config.device.clone());
        Err(PortError::Mac {
            port,
            device,
            mac: mac_text(asked),
            problem,
        })
    };
    if asked[0] & 1 != 0 || asked == [0; 6] {
        return refuse("it is not a unicast address".to_owned());
    }
    if asked == info.mac {
        return Ok(asked);
    }
    // SAFETY: reads six bytes.
    match unsafe { sys::weir_port_set_mac(id, asked.as_ptr()) } {
        0 => Ok(asked),
        // The address is ours in software, provided that frames to it come in: an interface below
        // a virtual device may filter, and then has promiscuous mode.
        ret if is_unsupported(ret) => match promiscuous(id, true) {
            0 => Ok(asked),
            ret if is_unsupported(ret) && !info.is_pci => Ok(asked),
            ret => refuse(format!(
                "the driver can neither set it nor take in all frames ({})",
                Errno::of(ret)
            )),
        },
        ret => refuse(Errno::of(ret).to_string()),
    }
}

/// Programs the redirection table where there is one; returns its size.
pub(super) fn set_table(
    id: u16,
    config: &PortConfig,
    info: &Info,
) -> Result<Option<u16>, PortError> {
    if info.reta_size == 0 {
        return Ok(None);
    }
    // SAFETY: numbers only.
    match unsafe { sys::weir_port_set_reta(id, info.reta_size, config.queues) } {
        0 => Ok(Some(info.reta_size)),
        ret if is_unsupported(ret) => Ok(None),
        ret => Err(failed(config, "setting its RSS table", Errno::of(ret))),
    }
}
