# `make` lists the targets. Variables: CARGO, PREFIX and DESTDIR (for install), ARCHITECTURE (for
# package), STATE_DIR (for functions), TEST_THREADS (for test), FUZZ_MINUTES (for fuzz).

ifeq ($(shell command -v cargo 2>/dev/null),)
export PATH := $(HOME)/.cargo/bin:$(PATH)
endif
CARGO ?= cargo
PREFIX ?= /usr/local
TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
CFN_LINT_VERSION := 1.58.0
CFN_LINT := $(TARGET)/tools/cfn-lint-$(CFN_LINT_VERSION)/bin/cfn-lint
SCHEMATHESIS_VERSION := 4.32.5
SCHEMATHESIS := $(TARGET)/tools/schemathesis-$(SCHEMATHESIS_VERSION)/bin/schemathesis
CARGO_LAMBDA_VERSION := 1.9.2
ZIG_VERSION := 0.17.1
CARGO_LAMBDA := $(TARGET)/tools/cargo-lambda-$(CARGO_LAMBDA_VERSION)/bin/cargo-lambda
# x86_64 or aarch64
ARCHITECTURE ?= $(shell uname -m)
# That of `local-runner up`
STATE_DIR ?= $(if $(filter 0,$(shell id -u)),/var/lib/patroni-broker/up,$(HOME)/.local/state/patroni-broker)

FUZZ_MINUTES ?= 10

# What holds tests: the functions' programs are a few lines each and have none, and no documentation has code that runs.
TESTS := --lib --bin local-runner --test '*'
# Most tests wait for real servers most of the time.
TEST_THREADS ?= $(shell echo $$(($$(nproc) + 1)))

# The tests run with Debian's Patroni and with this one. Their harness knows this path.
PATRONI_4_VERSION := 4.1.5
PATRONI_4 := $(TARGET)/tools/patroni-4/bin/patroni

.PHONY: help dependencies build demo functions test fuzz faults bench package install clean

help: ## list the targets (the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

dependencies: ## install what is missing: etcd, Patroni, PostgreSQL, HAProxy, jq, a C compiler
	@.ci/install-dependencies

build: dependencies ## build the broker: target/release/local-runner, also named dingo-postgresql-broker
	$(CARGO) build --release --locked -p local-runner
	@ln -f $(RELEASE)/local-runner $(RELEASE)/dingo-postgresql-broker

demo: build ## show the broker at work on this machine
	$(RELEASE)/local-runner demo

functions: $(CARGO_LAMBDA) ## run the functions beside `local-runner up`, behind a local gateway: http://127.0.0.1:9000
	@set -a; PATRONI_BROKER_CONFIG=$(CURDIR)/config/bosh-lite.example.yml; . $(STATE_DIR)/functions.env; \
	exec $(CARGO_LAMBDA) lambda watch --package handlers --ignore-changes --invoke-address 127.0.0.1

test: dependencies $(CFN_LINT) $(CARGO_LAMBDA) $(SCHEMATHESIS) $(PATRONI_4) ## check the format, lint, and run all tests
	$(CFN_LINT) template.yaml
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) build --locked --workspace --bins $(TESTS) # the tests start these programs
	$(CARGO) test --locked --workspace $(TESTS) --no-fail-fast -- --include-ignored --test-threads $(TEST_THREADS)

fuzz: ## try every parser of what comes from outside for FUZZ_MINUTES (10), one for each processor at a time
	FUZZ_MINUTES=$(FUZZ_MINUTES) $(CARGO) test --locked --profile fuzz -p tests --test surface -- --nocapture --test-threads $(shell nproc) fuzz::
	FUZZ_MINUTES=$(FUZZ_MINUTES) $(CARGO) test --locked --profile fuzz -p local-runner -- --nocapture --test-threads $(shell nproc) fuzz::

faults: dependencies ## try the faults of the README's table, and print it
	@mkdir -p $(TARGET)
	$(CARGO) test --locked -p tests --test simulation --test integration -- --nocapture while_processes_die killed_at_each_step >$(TARGET)/faults.log
	@echo '| fault | tried | operations finished | orphans found |'
	@echo '|---|---|---|---|'
	@grep '^| ' $(TARGET)/faults.log | LC_ALL=C sort

bench: dependencies $(PATRONI_4) ## measure everything that has a budget, each against its peer or floor; takes about an hour
	$(CARGO) build --release --locked --workspace --bins --examples
	$(CARGO) bench --locked -p tests --bench functions
	$(CARGO) bench --locked -p tests --bench throughput
	$(CARGO) bench --locked -p tests --bench scale
	$(CARGO) bench --locked -p tests --bench provision
	$(CARGO) bench --locked -p tests --bench failover
	$(CARGO) bench --locked -p tests --bench planned_move

package: $(CARGO_LAMBDA) ## build the functions' zips and local-runner for deployment: target/package
	@PATH="$(abspath $(dir $(CARGO_LAMBDA))):$$PATH" .ci/package $(ARCHITECTURE) $(TARGET)

# Tools from PyPI, each in a directory that is named after it and its version.
$(CFN_LINT): TOOL := cfn-lint==$(CFN_LINT_VERSION)
$(CARGO_LAMBDA): TOOL := cargo-lambda==$(CARGO_LAMBDA_VERSION) ziglang==$(ZIG_VERSION)
$(SCHEMATHESIS): TOOL := schemathesis==$(SCHEMATHESIS_VERSION)
$(CFN_LINT) $(CARGO_LAMBDA) $(SCHEMATHESIS): | dependencies
	/usr/bin/python3 -m venv --clear $(@D)/..
	$(@D)/pip install --quiet --disable-pip-version-check $(TOOL)

$(PATRONI_4): Makefile | dependencies
	/usr/bin/python3 -m venv --clear $(@D)/..
	$(@D)/pip install --quiet --disable-pip-version-check 'patroni[etcd]==$(PATRONI_4_VERSION)' 'psycopg[binary]'
	@touch $@

install: ## install the built broker under both names into PREFIX/bin (run `make build` first)
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(RELEASE)/local-runner $(DESTDIR)$(PREFIX)/bin/local-runner
	ln -sf local-runner $(DESTDIR)$(PREFIX)/bin/dingo-postgresql-broker

clean: ## remove what was built
	$(CARGO) clean
