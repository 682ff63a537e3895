# The commands of this repository. `make` without a target lists them.

PREFIX     ?= /usr/local
DESTDIR    ?=
SYSCONFDIR ?= /etc
CARGO      ?= cargo
INSTALL    ?= install
# The folder in which zsh looks for completions. Debian's packages use another one.
ZSH_COMPLETIONS ?= $(PREFIX)/share/zsh/site-functions
# The version of the packages; empty: that of packaging/debian/changelog. `:=` ignores the
# environment.
VERSION    :=
RELEASE    := $(or $(CARGO_TARGET_DIR),target)/release

.DEFAULT_GOAL := help
.PHONY: help demo test test-long bench bench-quick bench-snapshot build install deb fmt lint clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Start three servers on this machine that share one memory, and use it
	@demo/run

test: ## Run all checks that must pass: format, lints, man pages, tests, packages
	@tests/run

test-long: ## Run the tests with at least ten times as many kills, snapshots and random inputs
	DSM_TEST_LONG=1 $(CARGO) test --locked --no-fail-fast

bench: ## Compare dsmd with Redis, Valkey, memcached and nbdkit (benches/peers), and measure whole systems (benches/system)
	$(CARGO) build --release --locked -p dsm-service -p dsm-benches --bins
	@benches/peers/run.py
	@benches/system/run.py

bench-quick: ## Run the benchmarks in less than three minutes: this shows only that they work
	@BENCH_QUICK=1 $(MAKE) --no-print-directory bench

bench-snapshot: ## Compare snapshots with Redis and dd (BENCH_QUICK=1: in less than two minutes)
	$(CARGO) build --release --locked -p dsm-service -p dsm-benches --bins
	@benches/snapshot/run.py

build: ## Build the optimised programs
	$(CARGO) build --release --locked -p dsm-service --bins

# root often has no cargo: then the programs must already be built.
install: ## Build, and install to $DESTDIR$PREFIX (/usr/local)
	@if command -v $(CARGO) >/dev/null; then $(MAKE) --no-print-directory build; fi
	$(INSTALL) -D -m 755 $(RELEASE)/dsmd $(DESTDIR)$(PREFIX)/sbin/dsmd
	$(INSTALL) -D -m 755 $(RELEASE)/dsm-snapshot $(DESTDIR)$(PREFIX)/sbin/dsm-snapshot
	$(INSTALL) -D -m 755 $(RELEASE)/dsmctl $(DESTDIR)$(PREFIX)/bin/dsmctl
	@for page in man/*.[1-8]; do \
		target=$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/}; \
		echo "$(INSTALL) -D -m 644 $$page $$target"; \
		$(INSTALL) -D -m 644 "$$page" "$$target" || exit 1; \
	done
	@set -e; completions() { \
		echo "$(RELEASE)/dsmctl completions $$1 $$2 > $(DESTDIR)$$3"; \
		$(INSTALL) -D -m 644 /dev/null "$(DESTDIR)$$3"; \
		$(RELEASE)/dsmctl completions "$$1" "$$2" > "$(DESTDIR)$$3"; \
	}; \
	for program in dsmctl dsmd dsm-snapshot; do \
		completions bash $$program $(PREFIX)/share/bash-completion/completions/$$program; \
		completions fish $$program $(PREFIX)/share/fish/vendor_completions.d/$$program.fish; \
		completions zsh $$program $(ZSH_COMPLETIONS)/_$$program; \
	done
	@if [ -e $(DESTDIR)$(SYSCONFDIR)/mcomp.cfg ]; then \
		echo "$(DESTDIR)$(SYSCONFDIR)/mcomp.cfg exists: not changed"; \
	else \
		$(INSTALL) -D -m 644 etc/mcomp.cfg $(DESTDIR)$(SYSCONFDIR)/mcomp.cfg; \
	fi

deb: ## Build the Debian packages into target/deb (VERSION=… for another version)
	@packaging/build-deb $(VERSION)

fmt: ## Format the code
	$(CARGO) fmt

lint: ## Run the lints of make test
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

clean: ## Remove all built files
	$(CARGO) clean
