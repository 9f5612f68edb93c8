//! NICs: the IOMMU, what they are bound to, and their NUMA node against the workers' cores.

use super::machine::{Machine, boot_with, ranges};
use super::subject::{Device, Subject};
use super::{Finding, ok, warn, wrong};

/// Drivers with which DPDK works beside the kernel.
const SHARED: [&str; 3] = ["mlx4_core", "mlx5_core", "mana"];

pub(super) fn iommu(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const AREA: &str = "iommu";
    let groups = machine.names("/sys/kernel/iommu_groups").len();
    if subject.nics().next().is_none() {
        let text = match groups {
            0 => "off; not needed, no port is a PCI device".to_owned(),
            _ => format!("on, {groups} groups; no port is a PCI device"),
        };
        return vec![ok(AREA, text)];
    }
    if groups == 0 {
        let unsafe_mode = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
        let allowed = machine
            .text(unsafe_mode)
            .is_some_and(|text| text == "Y" || text == "1");
        // AMD's is on unless it is turned off, and ignores the word for Intel's.
        let mend = boot_with("iommu", "intel_iommu=on iommu=pt");
        return vec![if allowed {
            warn(
                AREA,
                "off; vfio works without, and the NIC may write anywhere in memory",
                mend,
            )
        } else {
            wrong(
                AREA,
                "off, so that vfio-pci takes no NIC",
                format!(
                    "{mend}; a machine that has none: sudo modprobe vfio && echo Y | sudo tee {unsafe_mode}"
                ),
            )
        }];
    }
    let mut findings = vec![ok(AREA, format!("on, {groups} groups"))];
    for (port, address) in subject.nics() {
        let folder = format!("/sys/bus/pci/devices/{address}/iommu_group/devices");
        let others: Vec<String> = machine
            .names(&folder)
            .into_iter()
            .filter(|other| other != address)
            .filter(|other| {
                let driver = machine.link(&format!("/sys/bus/pci/devices/{other}/driver"));
                driver.is_some_and(|driver| driver != "vfio-pci" && driver != "pcieport")
            })
            .collect();
        if !others.is_empty() {
            findings.push(wrong(
                AREA,
                format!(
                    "port {port} shares its group with {}, which the kernel holds",
                    others.join(", ")
                ),
                format!("sudo dpdk-devbind.py --bind=vfio-pci {}", others.join(" ")),
            ));
        }
    }
    findings
}

pub(super) fn binding(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const AREA: &str = "driver";
    let mut findings = Vec::new();
    for (port, address) in subject.nics() {
        let device = format!("/sys/bus/pci/devices/{address}");
        let bind =
            format!("sudo modprobe vfio-pci && sudo dpdk-devbind.py --bind=vfio-pci {address}");
        let driver = machine.link(&format!("{device}/driver"));
        findings.push(match driver.as_deref() {
            _ if !machine.exists(&device) => wrong(
                AREA,
                format!("port {port}: there is no PCI device {address}"),
                "lspci -D | grep -i ethernet      # lists those there are",
            ),
            Some("vfio-pci") => ok(AREA, format!("port {port}: {address} is bound to vfio-pci")),
            Some(shared) if SHARED.contains(&shared) => ok(
                AREA,
                format!("port {port}: {address} works beside {shared}"),
            ),
            Some(uio @ ("igb_uio" | "uio_pci_generic")) => warn(
                AREA,
                format!("port {port}: {address} is bound to {uio}, which knows no IOMMU"),
                bind,
            ),
            Some(other) => wrong(
                AREA,
                format!("port {port}: {address} belongs to the kernel's driver {other}"),
                bind,
            ),
            None => wrong(AREA, format!("port {port}: {address} has no driver"), bind),
        });
    }
    if findings.is_empty() {
        findings.push(ok(AREA, "no port is a PCI device"));
    }
    findings
}

pub(super) fn numa(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const AREA: &str = "numa";
    let nodes = machine.names("/sys/devices/system/node");
    let nodes = nodes.iter().filter(|name| {
        let number = name.strip_prefix("node");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    });
    if nodes.count() < 2 {
        return vec![ok(AREA, "one node, everything is near")];
    }
    let mut findings = Vec::new();
    for port in &subject.ports {
        let folder = match &port.device {
            Device::Pci(address) => format!("/sys/bus/pci/devices/{address}"),
            Device::Interface { name, .. } => format!("/sys/class/net/{name}/device"),
            Device::Virtual(_) => continue,
        };
        let node = machine.number(&format!("{folder}/numa_node"));
        let Some(node) = node.filter(|node| *node >= 0) else {
            continue;
        };
        let near = machine.list(&format!("/sys/devices/system/node/node{node}/cpulist"));
        let far: Vec<usize> = subject
            .workers
            .iter()
            .copied()
            .filter(|core| !near.contains(core))
            .collect();
        findings.push(if far.is_empty() {
            ok(
                AREA,
                format!("port {} and all workers are on node {node}", port.name),
            )
        } else {
            warn(
                AREA,
                format!(
                    "port {} is on node {node}, and cores {} are not",
                    port.name,
                    ranges(&far)
                ),
                format!(
                    "choose [engine] workers among cores {} and restart weir",
                    ranges(&near)
                ),
            )
        });
    }
    if findings.is_empty() {
        findings.push(ok(AREA, "no port belongs to a node"));
    }
    findings
}
