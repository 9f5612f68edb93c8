//! Finds libdpdk, builds the C shim and generates the bindings.
//!
//! pkg-config is asked twice: the crate checks the version and emits the link lines, but it hands on
//! include paths only, and DPDK's headers also need `-include rte_config.h` and `-march=…`, so the
//! compiler flags are taken a second time as raw text. The link is against the shared libraries:
//! EAL then loads every installed driver from its plug-in folder by itself, and no list of drivers
//! is kept here.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

/// The oldest release whose names and behaviour the shim is written for.
const OLDEST: &str = "22.11";

/// Functions of DPDK's stable ABI that are called as they are; everything else is in the shim.
const FUNCTIONS: &[&str] = &[
    "rte_dev_probe",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eal_init",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_allmulticast_enable",
    "rte_eth_promiscuous_disable",
    "rte_eth_promiscuous_enable",
    "rte_socket_count",
    "rte_socket_id_by_idx",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
];

fn main() {
    for file in ["build.rs", "shim.c", "shim.h"] {
        println!("cargo:rerun-if-changed={file}");
    }
    if let Err(error) = pkg_config::Config::new()
        .atleast_version(OLDEST)
        .probe("libdpdk")
    {
        fail(&format!(
            "libdpdk {OLDEST} or newer was not found by pkg-config.\n\
             Install it (Debian, Ubuntu: apt install dpdk libdpdk-dev pkg-config libclang-dev), or\n\
             point PKG_CONFIG_PATH at the folder of libdpdk.pc, or build without DPDK:\n\
             cargo build --no-default-features\n\n{error}"
        ));
    }
    let flags = compiler_flags();

    let mut shim = cc::Build::new();
    shim.file("shim.c")
        .opt_level(3)
        .warnings(true)
        .extra_warnings(true);
    for flag in &flags {
        shim.flag(flag);
    }
    // DPDK's own headers trip these; the shim itself is clean.
    shim.flag_if_supported("-Wno-deprecated-declarations");
    shim.compile("weir_dpdk_shim");

    let mut bindings = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(&flags)
        .allowlist_function("weir_.*")
        .allowlist_type("weir_.*")
        .allowlist_var("WEIR_.*")
        .layout_tests(true)
        .derive_default(true)
        .generate_comments(false)
        .use_core();
    for function in FUNCTIONS {
        bindings = bindings.allowlist_function(function);
    }
    let bindings = match bindings.generate() {
        Ok(bindings) => bindings,
        Err(error) => fail(&format!(
            "bindgen could not read DPDK's headers: {error}\n\
             It needs libclang (Debian, Ubuntu: apt install libclang-dev)."
        )),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&out) {
        fail(&format!("{}: {error}", out.display()));
    }
}

/// All of `pkg-config --cflags libdpdk`, system include paths included.
fn compiler_flags() -> Vec<String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    match Command::new(&program)
        .args(["--cflags", "libdpdk"])
        .output()
    {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        Ok(output) => fail(&format!(
            "{program} --cflags libdpdk: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => fail(&format!("{program}: {error}")),
    }
}

fn fail(message: &str) -> ! {
    eprintln!("\nerror: {message}\n");
    exit(1);
}
