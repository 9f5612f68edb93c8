//! Each fault that a machine may have, and the line that tells of it.

use super::tests::{NIC, Tree};

/// A change to the good machine, and the line that tells of it.
type Case = (&'static str, fn(&Tree), &'static str);

pub(super) const CASES: &[Case] = &[
    (
        "no huge pages",
        |tree| tree.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0"),
        "wrong huge pages: none is reserved -> echo 256 | sudo tee /proc/sys/vm/nr_hugepages",
    ),
    (
        "huge pages taken",
        |tree| {
            tree.write(
                "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                "5",
            );
        },
        "wrong huge pages: 10 of 2048 MiB free, and the configuration needs about 159 -> echo 1099 | sudo tee /proc/sys/vm/nr_hugepages",
    ),
    (
        "huge pages taken, and others by default",
        |tree| {
            tree.write("proc/meminfo", "Hugepagesize:    1048576 kB\n");
            tree.write(
                "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                "5",
            );
        },
        "wrong huge pages: 10 of 2048 MiB free, and the configuration needs about 159 -> echo 1099 | sudo tee /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
    ),
    (
        "huge pages on the other node",
        |tree| {
            tree.write(
                "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages",
                "0",
            );
        },
        "wrong huge pages: none is free on NUMA node 0, where port wan is -> echo 592 | sudo tee /sys/devices/system/node/node0/",
    ),
    (
        "hugetlbfs not mounted",
        |tree| tree.write("proc/mounts", "tmpfs /dev/shm tmpfs rw 0 0\n"),
        "ok huge pages: not mounted; weir needs no mount",
    ),
    (
        "little memory may be locked",
        |tree| {
            tree.write(
                "proc/self/limits",
                "Max locked memory  8388608  8388608  bytes\n",
            );
        },
        "warn locked memory: limited to 8388608 bytes; NICs and AF_XDP lock what they use -> ulimit -l unlimited",
    ),
    (
        "little memory may be locked, but by root",
        |tree| {
            tree.write(
                "proc/self/limits",
                "Max locked memory  8388608  8388608  bytes\n",
            );
            tree.write("proc/self/status", "Uid:\t0\t0\t0\t0\n");
        },
        "ok locked memory: limited, but not for root",
    ),
    (
        "no /dev/shm",
        |tree| tree.remove("dev/shm"),
        "wrong /dev/shm: it is not there, and the segment has no place -> sudo mkdir -p /dev/shm && sudo mount",
    ),
    (
        "/dev/shm closed",
        |tree| tree.mode("dev/shm", 0o755),
        "wrong /dev/shm: its mode is 0755; only its owner can make a segment -> sudo chmod 1777 /dev/shm",
    ),
    (
        "/dev/shm on a disk",
        |tree| tree.write("proc/mounts", "/dev/sda1 /dev/shm ext4 rw 0 0\n"),
        "warn /dev/shm: not in memory but on ext4",
    ),
    (
        "no IOMMU",
        |tree| tree.remove("sys/kernel/iommu_groups"),
        "wrong iommu: off, so that vfio-pci takes no NIC -> echo 'GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on iommu=pt\"' | sudo tee /etc/default/grub.d/weir-iommu.cfg && sudo update-grub",
    ),
    (
        "vfio without IOMMU",
        |tree| {
            tree.remove("sys/kernel/iommu_groups");
            tree.write(
                "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
                "Y\n",
            );
        },
        "warn iommu: off; vfio works without, and the NIC may write anywhere in memory -> echo 'GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on iommu=pt\"' | sudo tee /etc/default/grub.d/weir-iommu.cfg && sudo update-grub",
    ),
    (
        "a shared IOMMU group",
        |tree| {
            tree.link(
                &format!("sys/bus/pci/devices/{NIC}/iommu_group/devices/0000:3b:00.1"),
                "x",
            );
            tree.link("sys/bus/pci/devices/0000:3b:00.1/driver", "drivers/ixgbe");
        },
        "wrong iommu: port wan shares its group with 0000:3b:00.1, which the kernel holds -> sudo dpdk-devbind.py --bind=vfio-pci 0000:3b:00.1",
    ),
    (
        "the kernel's driver",
        |tree| {
            tree.link(
                &format!("sys/bus/pci/devices/{NIC}/driver"),
                "drivers/ixgbe",
            );
        },
        "wrong driver: port wan: 0000:3b:00.0 belongs to the kernel's driver ixgbe -> sudo modprobe vfio-pci && sudo dpdk-devbind.py --bind=vfio-pci 0000:3b:00.0",
    ),
    (
        "no driver",
        |tree| tree.remove(&format!("sys/bus/pci/devices/{NIC}/driver")),
        "wrong driver: port wan: 0000:3b:00.0 has no driver -> sudo modprobe vfio-pci",
    ),
    (
        "an old driver",
        |tree| {
            tree.link(
                &format!("sys/bus/pci/devices/{NIC}/driver"),
                "drivers/igb_uio",
            );
        },
        "warn driver: port wan: 0000:3b:00.0 is bound to igb_uio, which knows no IOMMU -> sudo",
    ),
    (
        "a driver that shares",
        |tree| {
            tree.link(
                &format!("sys/bus/pci/devices/{NIC}/driver"),
                "drivers/mlx5_core",
            );
        },
        "ok driver: port wan: 0000:3b:00.0 works beside mlx5_core",
    ),
    (
        "no such NIC",
        |tree| tree.remove(&format!("sys/bus/pci/devices/{NIC}")),
        "wrong driver: port wan: there is no PCI device 0000:3b:00.0 -> lspci -D",
    ),
    (
        "a NIC on another node",
        |tree| tree.write(&format!("sys/bus/pci/devices/{NIC}/numa_node"), "1\n"),
        "warn numa: port wan is on node 1, and cores 2-3 are not -> choose [engine] workers among cores 4-7",
    ),
    (
        "no interface",
        |tree| tree.remove("sys/class/net/eth1"),
        "wrong link: port lan: there is no interface eth1 -> ip -brief link",
    ),
    (
        "an interface that is down",
        |tree| tree.write("sys/class/net/eth1/flags", "0x1002\n"),
        "wrong link: port lan: eth1 is down -> sudo ip link set eth1 up",
    ),
    (
        "no carrier",
        |tree| tree.write("sys/class/net/eth1/carrier", "0\n"),
        "wrong link: port lan: eth1 has no carrier: cable, module, or the other end -> ethtool eth1",
    ),
    (
        "too few queues",
        |tree| tree.remove("sys/class/net/eth1/queues/rx-1"),
        "wrong queues: port lan: eth1 has 1, and there are 2 workers; frames of the others are lost or not spread -> sudo ethtool -L eth1 combined 2",
    ),
    (
        "merged frames",
        |tree| {
            tree.write("ethtool/eth1", "generic-receive-offload: on\ntx-checksumming: on\nlarge-receive-offload: on [fixed]\n");
        },
        "warn offloads: port lan: eth1 merges frames or leaves checksums to a wire (gro, tx) -> sudo ethtool -K eth1 gro off tx off",
    ),
    (
        "a wire that checksums are left to",
        |tree| {
            tree.write("ethtool/eth1", "tx-checksumming: on\n");
            tree.write("sys/class/net/eth1/device/vendor", "0x8086\n");
        },
        "ok offloads: port lan: eth1 leaves frames as they are",
    ),
    (
        "no ethtool",
        |tree| tree.remove("ethtool/eth1"),
        "warn offloads: port lan: what eth1 offloads is not known -> sudo apt install ethtool",
    ),
    (
        "a core that is gone",
        |tree| tree.write("sys/devices/system/cpu/online", "0-2\n"),
        "wrong cores: core 3 is not online -> choose [engine] workers and control_core among 0-2",
    ),
    (
        "cores not isolated",
        |tree| tree.write("sys/devices/system/cpu/isolated", "\n"),
        "warn cores: cores 2-3 are not isolated: other threads take packets' time -> echo 'GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT isolcpus=2-3 nohz_full=2-3 rcu_nocbs=2-3\"' | sudo tee /etc/default/grub.d/weir-cores.cfg && sudo update-grub",
    ),
    (
        "ticks",
        |tree| tree.remove("sys/devices/system/cpu/nohz_full"),
        "warn ticks: the timer interrupts cores 2-3 up to 1,000 times a second -> echo 'GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT isolcpus=2-3 nohz_full=2-3 rcu_nocbs=2-3\"' | sudo tee /etc/default/grub.d/weir-cores.cfg && sudo update-grub",
    ),
    (
        "one physical core",
        |tree| {
            tree.write(
                "sys/devices/system/cpu/cpu2/topology/thread_siblings_list",
                "2-3\n",
            );
        },
        "warn cores: workers on cores 2 and 3 share one physical core -> lscpu",
    ),
    (
        "slow cores",
        |tree| {
            tree.write(
                "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor",
                "powersave\n",
            );
        },
        "warn governor: cores 3 are governed by powersave -> sudo cpupower -c 3 frequency-set -g performance",
    ),
    (
        "an old processor",
        |tree| tree.write("proc/cpuinfo", "flags : fpu sse2\n"),
        "wrong processor: no SSE 4.2, which DPDK needs -> lscpu",
    ),
    (
        "no AVX2",
        |tree| tree.write("proc/cpuinfo", "flags : sse4_2 aes\n"),
        "warn processor: no AVX2: the packet path takes its slower form -> lscpu",
    ),
    (
        "no AES",
        |tree| tree.write("proc/cpuinfo", "flags : sse4_2 avx2\n"),
        "warn processor: no AES: services with encrypted connection IDs are slow -> lscpu",
    ),
    (
        "a slow clock",
        |tree| {
            tree.write(
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
                "hpet\n",
            );
        },
        "warn clock: hpet, which is slow to read, though there is tsc -> echo tsc | sudo tee",
    ),
    (
        "a clock that is not trusted",
        |tree| {
            tree.write(
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
                "hpet\n",
            );
            tree.write(
                "sys/devices/system/clocksource/clocksource0/available_clocksource",
                "hpet\n",
            );
        },
        "warn clock: hpet: the kernel does not trust the processor's counter -> sudo dmesg",
    ),
];
