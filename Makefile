# Everything that a person or CI does with this repository. `make` alone explains itself.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# Two targets at once would fight over Cargo's lock and the same few cores.
.NOTPARALLEL:
.DEFAULT_GOAL := help

CARGO_TARGET_DIR ?= target
TARGET_DIR := $(abspath $(CARGO_TARGET_DIR))
HOST_TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
TAG ?= tidelock:0.1.0
BENCH ?= ../shared/bench
BENCH_PROXIES ?= tidelock,nginx,haproxy,envoy
BENCH_WORKLOADS ?= W1,W2,W3,W3s,W4,W5,W6,W7,W8,W9a,W9b,W9c,W9t,W10
# What is shipped and measured is built by a profile of itself: 8 to 19 % less CPU a request (ARCHITECTURE.md). It takes ten
# minutes and an llvm-profdata of the compiler's version (rustup component add llvm-tools); PGO=no does without.
PGO ?= yes

PYTEST := PYTHONDONTWRITEBYTECODE=1 .venv/bin/pytest -q -rs -p no:cacheprovider

say = printf '\n\033[1m== %s\033[0m\n'

.PHONY: help
help: ## This text
	@printf 'Tidelock: a load balancer for stateful HTTP workloads.\n\n'
	@printf 'First steps:\n'
	@printf '  make demo              three nodes and three endpoints here; it prints what to try (Ctrl-C ends it)\n'
	@printf '  make demo DEMO=elixir  the same with real BEAM endpoints (Debian: installs Elixir)\n'
	@printf '  make test              everything that CI runs, from a bare checkout\n\n'
	@printf 'Targets:\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# --- Setup. Each step says what it does, or that it is done already. ------------------------------------------

# Debian package names. Elixir comes with tests/elixir/setup.sh, Node and Rust are not taken from Debian 12: too old.
PACKAGES := build-essential pkg-config ca-certificates curl openssl python3 python3-venv \
            chromium nghttp2-client nghttp2-server iproute2 iptables libfaketime buildah
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: setup
setup: need-cargo need-node setup-packages setup-elixir node-modules .venv/.ready ## Install what build and tests need; skips what is there
	@echo "setup: done"

.PHONY: need-cargo
need-cargo:
	@command -v cargo >/dev/null || { \
	  echo "setup: Rust is missing. Install rustup (https://rustup.rs), then run this again."; exit 1; }
	@echo "setup: $$(cargo --version)"

.PHONY: need-node
need-node:
	@command -v node >/dev/null && command -v npm >/dev/null || { \
	  echo "setup: Node.js is missing. Install version 20.19 or newer with npm (https://nodejs.org; Debian 12's is too old)."; exit 1; }
	@node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' || { \
	  echo "setup: Node.js $$(node --version) is too old: 20.19 or newer is needed."; exit 1; }
	@echo "setup: Node.js $$(node --version)"

.PHONY: setup-packages
setup-packages:
	@missing=(); \
	if ! command -v apt-get >/dev/null; then \
	  echo "setup: no apt-get here; see to these yourself: $(PACKAGES)"; exit 0; \
	fi; \
	for package in $(PACKAGES); do \
	  [ "$$(dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null)" = installed ] || missing+=("$$package"); \
	done; \
	if [ $${#missing[@]} = 0 ]; then echo "setup: Debian packages are here"; exit 0; fi; \
	echo "setup: installing $${missing[*]}"; \
	$(AS_ROOT) apt-get update -qq; \
	$(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null

.PHONY: setup-elixir
setup-elixir:
	@tests/elixir/setup.sh

# npm writes node_modules/.package-lock.json last, so it dates a complete installation.
NODE_PROJECTS := $(patsubst %/package-lock.json,%,$(wildcard admin-ui/package-lock.json tests/browser/package-lock.json))

.PHONY: node-modules
node-modules: $(NODE_PROJECTS:%=%/node_modules/.package-lock.json)
	@echo "setup: Node packages are here"

%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	@echo "setup: npm ci in $*"
	@cd $* && npm ci --no-fund --no-audit --loglevel=error
	@touch $@

PYTHON_REQUIREMENTS := tests/deploy/requirements.txt tests/peers/requirements.txt

.venv/.ready: $(PYTHON_REQUIREMENTS)
	@echo "setup: Python packages into .venv"
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: Python 3.11 or newer is needed"; exit 1; }
	@[ -x .venv/bin/pip ] || python3 -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps $(PYTHON_REQUIREMENTS:%=-r %)
	@touch $@

# --- Build. ---------------------------------------------------------------------------------------------------

UI_SOURCES := $(shell find admin-ui -path admin-ui/node_modules -prune -o -path admin-ui/dist -prune -o -type f -print)

.PHONY: ui
ui: need-node admin-ui/dist/index.html ## Build the dashboard that the binary embeds, if its sources changed

admin-ui/dist/index.html: admin-ui/node_modules/.package-lock.json $(UI_SOURCES)
	@$(say) "dashboard"
	cd admin-ui && npm run build
	@touch $@

.PHONY: build
build: need-cargo ui ## Build target/debug/tidelock
	cargo build --locked

.PHONY: release
release: need-cargo ui ## Build target/release/tidelock, optimised (takes minutes)
	cargo build --locked --release

.PHONY: release-pgo
release-pgo: need-cargo ui ## Build target/release/tidelock by a profile of itself (two release builds, some minutes of load)
	deploy/release/pgo.sh

# Static, by the gnu target: named, so that crt-static is not applied to build scripts and procedural macros.
.PHONY: image
image: need-cargo ui ## Build the container image TAG=tidelock:0.1.0 from a static binary, as release-pgo does (PGO=no: sooner)
	export RUSTFLAGS="-C target-feature=+crt-static"; \
	if [ "$(PGO)" = no ]; then cargo build --locked --release --bin tidelock --target $(HOST_TARGET); \
	else deploy/release/pgo.sh $(HOST_TARGET); fi
	IMAGE_REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
	  deploy/container/build.sh "$(TARGET_DIR)/$(HOST_TARGET)/release/tidelock" "$(TAG)"

# --- Demo. ----------------------------------------------------------------------------------------------------

# Needs Cargo and, for the dashboard, Node; nothing else is installed for it.
DEMO ?= builtin
DEMO_ARGS ?=

.PHONY: demo
demo: need-cargo ## Run three nodes and three endpoints here (DEMO=elixir for BEAM endpoints, DEMO_ARGS=... is passed on)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory ui; else \
	  echo "demo: Node.js is missing, so there will be no dashboard"; mkdir -p admin-ui/dist; fi
	@case "$(DEMO)" in \
	  elixir) tests/elixir/setup.sh ;; \
	  builtin) ;; \
	  *) echo "demo: DEMO=$(DEMO) is not known: use builtin or elixir"; exit 2 ;; \
	esac
	@cargo run --locked --quiet --bin tidelock -- demo --endpoints $(DEMO) $(DEMO_ARGS)

# --- Test. ----------------------------------------------------------------------------------------------------

.PHONY: test
test: setup test-format test-ui test-lint test-rust test-deploy test-elixir test-peers ## All of CI: setup, format, lint, and every test
	@$(say) "all passed"

.PHONY: test-format
test-format: need-cargo ## cargo fmt --check
	@$(say) "format"
	cargo fmt --all --check

.PHONY: test-lint
test-lint: need-cargo ui ## clippy, warnings are errors
	@$(say) "lint"
	cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: previous
previous: need-cargo ui ## The binary of the release before, for the story of an upgrade
	@$(say) "the release before"
	cargo build --locked --workspace --bins --tests
	@CARGO_TARGET_DIR="$(TARGET_DIR)" tests/previous.sh

.PHONY: test-rust
test-rust: need-cargo ui previous ## Rust tests, end to end ones included (they start the binary and the browser)
	@$(say) "Rust tests"
	@if cargo nextest --version >/dev/null 2>&1; then \
	  set -x; cargo nextest run --locked --workspace; \
	else \
	  echo "cargo-nextest is not installed: using cargo test"; \
	  set -x; cargo test --locked --workspace; \
	fi

.PHONY: test-ui
test-ui: ui ## The dashboard's types and unit tests
	@$(say) "dashboard tests"
	cd admin-ui && npm run check && npm test

# The same units as test-rust builds, so that nothing is compiled twice.
.PHONY: test-deploy
test-deploy: need-cargo ui .venv/.ready ## The Helm chart and the container image
	@$(say) "deployment tests"
	cargo build --locked --workspace --bins --tests
	TIDELOCK_BIN="$(TARGET_DIR)/debug/tidelock" $(PYTEST) tests/deploy

.PHONY: test-elixir
test-elixir: .venv/.ready ## The BEAM endpoint that other tests rely on
	@$(say) "Elixir endpoint tests"
	$(PYTEST) tests/elixir

# The same units as test-rust builds. TIDELOCK_AUTOBAHN=COMMAND runs Autobahn's 247 WebSocket cases too (test_autobahn.py).
.PHONY: test-peers
test-peers: need-cargo ui .venv/.ready ## Real clients and endpoints: curl, nghttp2, gRPC, WebSockets, nginx
	@$(say) "real peers"
	cargo build --locked --workspace --bins --tests
	TIDELOCK_BIN="$(TARGET_DIR)/debug/tidelock" $(PYTEST) tests/peers

.PHONY: deny
deny: need-cargo ## Licences, advisories and sources of the dependencies (cargo-deny)
	@cargo deny --version >/dev/null 2>&1 || { echo "deny: not installed; run: cargo install --locked cargo-deny"; exit 1; }
	cargo deny check

.PHONY: bench
bench: ## Decisions by criterion; other proxies by the referee, if it lies in BENCH=../shared/bench
	cargo bench --locked -p tidelock-core
	@if [ ! -x "$(BENCH)/bench.py" ]; then \
	  echo "bench: the referee is not part of this repository. Lay it at $(BENCH) or name it: make bench BENCH=..."; exit 0; \
	fi; \
	if [ ! -f bench/tidelock.py ]; then echo "bench: bench/tidelock.py, which tells the referee how to run tidelock, is missing"; exit 1; fi; \
	$(MAKE) --no-print-directory $(if $(filter no,$(PGO)),release,release-pgo); \
	export BENCH_VENV="$(TARGET_DIR)/bench/venv" BENCH_TARGET="$(TARGET_DIR)/bench/release" BENCH_MODULES="$(CURDIR)/bench"; \
	export BENCH_TIDELOCK="$(TARGET_DIR)/release/tidelock" PYTHONDONTWRITEBYTECODE=1; \
	mkdir -p "$(TARGET_DIR)/bench"; \
	"$(BENCH)/setup.sh"; \
	"$(BENCH)/bench.py" check --proxies tidelock; \
	"$(BENCH)/bench.py" run --proxies $(BENCH_PROXIES) --workloads $(BENCH_WORKLOADS) --json "$(TARGET_DIR)/bench/result.json"

# --- Clean. ---------------------------------------------------------------------------------------------------

.PHONY: clean
clean: ## Remove what was built
	cargo clean --quiet
	rm -rf admin-ui/dist

.PHONY: distclean
distclean: clean ## Remove what was built and what setup put into the checkout
	rm -rf .venv tests/.cache admin-ui/node_modules tests/browser/node_modules
