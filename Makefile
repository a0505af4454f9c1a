# What a developer and the CI run. Everything lands in target/, except what the toolchains keep in their own caches.
SHELL := bash
.DEFAULT_GOAL := help
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# One selection of packages for every build, so that cargo unifies features once and builds each crate once.
WORKSPACE := --workspace --locked
KEEP ?= 0

.PHONY: help build tools demo test lint generated bench clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## The binaries, for tests: target/debug/moorgate, target/debug/moorgate-relay
	$(CARGO) build $(WORKSPACE) --bins

tools: ## Envoy (three minors) and cargo-deny, pinned by digest, into target/tools
	@tests/tools/install $(TARGET)/tools

demo: build tools ## From a git commit to an answered request on a real Envoy; KEEP=1 leaves it running
	@KEEP=$(KEEP) MOORGATE_BIN_DIR=$(abspath $(TARGET)/debug) $(TARGET)/debug/demo

test: ## Every suite, with its time; what CI runs
	@tests/tools/suites

lint: tools ## Format, clippy, dependencies
	@tests/tools/suites lint

generated: ## Checked-in data equals what its published source gives
	@tests/tools/suites generated

bench: ## Compile against bare YAML parsing, and growth from 1,000 to 100,000 routes
	$(CARGO) run --locked --release -p moorgate-tests --bin bench

clean: ## Removes target/
	$(CARGO) clean
