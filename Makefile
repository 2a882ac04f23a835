# Stacktira. `make help` lists what can be done; the README says what for.
PREFIX ?= /opt/stacktira
DESTDIR ?=
CARGO ?= cargo
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
TOOLS := cloner ts consul-watch-handler hiera-consul mirror-sync consul-kv consul-elect node-metadata
LOCAL := provision/local/stk-local
BINARIES := target/release
# Files that are only sourced are checked through those that source them.
SHELL_FILES := $(filter-out provision/lib.sh,$(wildcard provision/*.sh provision/kick provision/cloner provision/local/*.sh \
	provision/local/stk-local provision/local/consul-binary provision/local/puppet-modules heat/*.sh tests/*.sh tests/bench/*.sh tests/heat/run tests/heat/machines tests/*/*.t crates/*/*.sh .ci/run))

.PHONY: help deps test-deps build deb man install up down status kick logs doctor \
	test test-rust test-shell test-provision test-cluster test-showcase test-heat test-heat-boot test-vagrant conformance rules bench bench-cloner bench-mirror campaign sweep sweep-cloner sweep-mirror fuzz-hiera fuzz-mirror lint clean

help: ## say what can be done
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

deps: ## install what `make up` needs (Debian packages)
	@provision/local/deps.sh up

test-deps: ## install what `make test` needs (Debian packages)
	@provision/local/deps.sh test

build: deps ## build the tools, optimised
	$(CARGO) build --release --locked --workspace --bins --exclude ts
	CARGO="$(CARGO)" crates/ts/static.sh $(BINARIES)/ts

man: build ## write the man pages to target/man
	$(BINARIES)/xtask man target/man

deb: man ## pack tools, provisioning and units as target/deb/stacktira_*.deb
	@provision/package.sh $(BINARIES) $(VERSION) target/deb

install: man ## install below DESTDIR/PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $(addprefix $(BINARIES)/,$(TOOLS)) $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(addprefix target/man/,$(addsuffix .1,$(TOOLS))) $(DESTDIR)$(PREFIX)/share/man/man1

up: deb ## OpenStack on seven local nodes, until a server answers; STAGE=identity ends at Keystone, STAGE=cluster at Consul
	@$(if $(STAGE),STK_LOCAL_STAGE=$(STAGE)) $(LOCAL) up --server

down: ## remove the local environment; the image and the fetched packages stay
	@$(LOCAL) destroy

status: ## one line per node
	@$(LOCAL) status

kick: ## ask every node for a run
	@$(LOCAL) kick --wait

logs: ## what a node did: make logs NODE=control1
	@$(LOCAL) logs $(or $(NODE),$(error say which node: make logs NODE=control1))

doctor: ## say whether this machine can run the local environment
	@$(LOCAL) doctor

test: test-deps test-shell test-rust test-provision test-cluster ## everything that has to pass

test-rust: ## unit and integration tests of all crates
	STACKTIRA_CONSUL=$$(provision/local/consul-binary) $(CARGO) test --locked --workspace

test-shell: ## shellcheck
	shellcheck -x $(SHELL_FILES)
	@echo "shellcheck: $(words $(SHELL_FILES)) files are clean"

test-provision: build ## the scripts of provision/ in a scratch root
	STACKTIRA_CONSUL=$$(provision/local/consul-binary) prove --timer --jobs 4 tests/provision

test-cluster: deb ## the local environment for real
	prove --verbose --timer tests/cluster

test-showcase: deb ## OpenStack for real: a server answers, again after faults, with two control nodes, in six orders of start (an hour, 8 GB of memory)
	prove --verbose --timer tests/showcase

test-heat: test-deps ## the Heat templates by the real Heat engine, in a simulated cloud
	tests/heat/run

test-heat-boot: deb test-heat ## those stacks with real machines: cloud-init, systemd, Consul; root, some minutes
	prove --verbose --timer tests/heat/machines

test-vagrant: ## the Vagrantfile as Vagrant understands it; skipped where Vagrant is not installed
	prove --timer tests/vagrant

conformance: test-deps ## compare hiera-consul with the real Puppet on random trees
	STACKTIRA_DIFFERENTIAL=350 $(CARGO) test --locked -p hiera-consul --test conformance --test differential -- --nocapture

rules: test-deps ## ask the real Puppet and hiera for the answers to the table of rules anew
	STACKTIRA_RULES=write $(CARGO) test --locked -p hiera-consul --test rules -- --nocapture

bench: build ## speed beside the peers, interleaved: ts, hiera-consul, consul-watch-handler
	tests/bench/ts.sh
	STACKTIRA_CONSUL=$$(provision/local/consul-binary) tests/bench/hiera.sh
	STACKTIRA_CONSUL=$$(provision/local/consul-binary) tests/bench/watch.sh

campaign: build test-deps ## storms, mistakes of Consul and struck leaders, with figures (a quarter of an hour)
	STACKTIRA_CONSUL=$$(provision/local/consul-binary) STACKTIRA_BINARIES=$(abspath $(BINARIES)) \
		$(CARGO) test --locked -p integration-tests --test tools -- --ignored --nocapture --test-threads 1 campaign_

bench-mirror: build ## mirror-sync beside curl, aptly and createrepo_c; 60,000 packages promoted; 2,000 refreshes of apt, 200 of dnf while the pointer flips
	tests/bench/mirror.sh
	tests/bench/mirror-promote.sh
	STACKTIRA_REFRESHES=2000 STACKTIRA_DNF_REFRESHES=200 $(CARGO) test --release --locked -p mirror-sync --test cli -- --nocapture refreshes_while_the_pointer_flips

sweep: test-deps build ## ts: a fault at every system call, a million kicks, hundreds of schedules (half an hour)
	STACKTIRA_BINARIES=$(abspath $(BINARIES)) $(CARGO) test --locked -p ts --test cli -- --ignored --nocapture --test-threads 1 \
		a_fault_at_every_system_call a_million_kicks kicks_among_kills_in_hundreds

bench-cloner: build ## cloner beside g10k, r10k and git (Debian: lighttpd, g10k, r10k); then 10,000 reads, then 1,000 repositories
	tests/bench/cloner
	tests/bench/cloner --reads 10000
	tests/bench/cloner --fleet 1000

sweep-cloner: test-deps ## cloner: a kill and an error at every system call on files, disks of 180 sizes (half an hour)
	$(CARGO) test --locked -p cloner --test cli -- --ignored --nocapture --test-threads 1 _leave_old_or_new_trees _leaves_old_or_new_trees

sweep-mirror: test-deps ## mirror-sync: killed, and without space, at every system call that changes something (minutes)
	$(CARGO) test --release --locked -p mirror-sync --test cli -- --ignored --nocapture a_fault_at_every_system_call

fuzz-mirror: ## mirror-sync: indices, packages, manifests, signatures, exports, catalogs, requests to its server; ten minutes each
	tests/fuzz.sh mirror-sync

fuzz-hiera: ## hiera-consul: YAML, interpolation and coprocess, ten minutes each
	tests/fuzz.sh hiera-consul

lint: ## formatting and clippy
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

clean: ## remove what was built
	$(CARGO) clean
