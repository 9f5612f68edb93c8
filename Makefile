# Everything a contributor or a CI machine types. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Where the scripts and the end-to-end tests look for weir, weirctl and weir-pktgen.
export WEIR_BIN_DIR ?= $(TARGET_DIR)/release

# End-to-end tests make network namespaces; without root, cargo runs the test binaries through sudo.
ifneq ($(shell id -u),0)
SUDO := sudo -E
E2E_ENV := CARGO_TARGET_$(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER="sudo -E"
endif

.PHONY: help setup setup-system setup-tools build release demo benches bench ratio instructions bless test \
        fmt lint check-fmt unit doctest deny audit doc no-dpdk e2e clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: setup-system setup-tools ## install whatever is missing (system packages, cargo tools); quick when nothing is

setup-system:
	@scripts/setup system

setup-tools:
	@scripts/setup tools

build: setup-system ## debug build of every crate
	cargo build --workspace --all-targets

# Not incrementally, whatever the environment says: that changes code, and with it what is counted and measured.
release: setup-system ## release build of weir, weirctl and weir-pktgen
	CARGO_INCREMENTAL=0 cargo build --release -p weir -p weirctl -p weir-pktgen

demo: release ## balance real HTTP traffic between network namespaces, pool changes included
	scripts/demo

benches: release
	CARGO_INCREMENTAL=0 cargo build --release -p weir-benches

bench: benches ## measure, beside yardsticks in the same run, and write docs/performance.md (FIGURES="A B": only these)
	$(SUDO) scripts/bench $(FIGURES)

ratio: benches ## a short comparison with testpmd, which fails when weir is far slower than it should be (root)
	$(SUDO) $(WEIR_BIN_DIR)/weir-benches ratio

instructions: benches ## instructions of each stage of the packet path beside those on record; fails when one grew by 3 %
	$(WEIR_BIN_DIR)/weir-benches instructions

bless: benches ## put the instruction counts of this tree on record
	$(WEIR_BIN_DIR)/weir-benches instructions --bless

test: setup ## everything CI checks
	@scripts/test

fmt: ## format the code
	cargo fmt --all

check-fmt: ## fail if the code is not formatted
	cargo fmt --all --check

lint: ## clippy on every target, warnings are errors
	cargo clippy --workspace --all-targets -- -D warnings

unit: ## unit and property tests
	cargo nextest run --workspace --no-fail-fast -E 'not package(weir-e2e)'

doctest: ## examples in the documentation
	cargo test --workspace --doc --quiet

deny: ## licences, bans and sources of every dependency
	cargo deny --log-level error check licenses bans sources

audit: ## known advisories (downloads a database, so it is not part of `make test`)
	cargo deny check advisories

doc: ## documentation without warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

no-dpdk: ## the parts that must build on a machine without DPDK
	cargo check -p weir --no-default-features
	cargo check -p weirctl

e2e: release ## end-to-end tests of the release binaries, in network namespaces (root)
	$(E2E_ENV) cargo nextest run --workspace --no-fail-fast -E 'package(weir-e2e)'

clean: ## remove build output
	cargo clean
