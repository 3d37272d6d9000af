# `make` alone lists the targets. All of them need Rust, a C compiler, make and perl; the tests use more when it is there.

KAFKA := target/kafka-$(shell sed -n 's/.*<kafka.version>\(.*\)<.*/\1/p' tests/kafka/pom.xml)
PYTHON := confluent-kafka==2.16.1 cloudevents==2.2.0
DEBIAN := fiu-utils kcat libfiu0

.PHONY: help
help:
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 14

# What make run listens on, and what it runs.
LISTEN := 127.0.0.1:8080
ADMIN := 127.0.0.1:9464
DATA := target/run/journal
CALLBRIDGE := cargo run --

.PHONY: run
run: ## callbridge with a Kafka of its own, to try it; prints what to paste
	@sh deploy/try.sh $(LISTEN) $(ADMIN) $(DATA) $(CALLBRIDGE)

.PHONY: test
test: real ## all tests; what needs a tool that is missing says SKIPPED
	cargo test

# How many histories, and the seed of the first.
HISTORIES := 1000000
SEED := 1

.PHONY: torture
torture: ## the journal on a disk whose power is cut, a million times (HISTORIES=, SEED=)
	CALLBRIDGE_TORTURE_HISTORIES=$(HISTORIES) CALLBRIDGE_TORTURE_SEED=$(SEED) \
		cargo test --lib --config 'profile.dev.package.callbridge.opt-level=2' no_history_breaks_a_promise -- --nocapture
.PHONY: mutants
mutants: real ## the tests of durability on callbridges with a fault built in: each must be found
	cargo test --features mutants --test mutants

CRASHES := 100

.PHONY: crashes
crashes: real ## kill -9 in journal mode, again and again: make crashes CRASHES=1000
	CALLBRIDGE_TORTURE_CRASHES=$(CRASHES) cargo test --test it kill_9_in_journal_mode -- --nocapture

.PHONY: outage
outage: SECONDS := 600
outage: kafka ## Kafka away for SECONDS=600 at 2000 callbacks a second; says what became of them, and of the memory
	CALLBRIDGE_OUTAGE_SECONDS=$(SECONDS) cargo test --release --test it an_outage_at_2000_a_second -- --nocapture

.PHONY: check
check: lint test mutants ## everything that CI holds: format, lints, documents, tests

.PHONY: lint
lint: ## format, clippy and documents, without the tests
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items

.PHONY: doc
doc: ## the documents of the source, to read
	cargo doc --no-deps --document-private-items --open

.PHONY: kafka
kafka: $(KAFKA)/libs ## the Apache Kafka of the tests, from Maven Central

# Copied beside and then renamed, so that an interrupted copy is not taken for a whole one.
$(KAFKA)/libs: tests/kafka/pom.xml
	@mkdir -p $(KAFKA)
	@rm -rf $@ $@.new
	@mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
		-DoutputDirectory=$(CURDIR)/$@.new >$(KAFKA)/mvn.log 2>&1 || { cat $(KAFKA)/mvn.log; exit 1; }
	@mv $@.new $@
	@touch $@

.PHONY: tools
tools: target/venv/$(subst $() ,+,$(PYTHON)) ## the tools of the tests: confluent-kafka and cloudevents from PyPI, kcat and libfiu from Debian
	@command -v kcat >/dev/null && command -v fiu-run >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
		then DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(DEBIAN); \
		else echo 'install what is missing (Debian: apt-get install $(DEBIAN))'; exit 1; fi

target/venv/$(subst $() ,+,$(PYTHON)):
	@mkdir -p target
	@python3 -m venv --clear target/venv
	@target/venv/bin/pip install -q --disable-pip-version-check $(PYTHON)
	@touch $@

# What is missing is no reason not to test: each test says what it wants.
.PHONY: real
real:
	-@$(MAKE) -s kafka
	-@$(MAKE) -s tools

.PHONY: bench
bench: kafka ## the benchmarks: the hot path without I/O, the blocklist, then the whole server beside a bare hyper one
	cargo bench --bench hot_path
	cargo bench --bench blocklist
	cargo bench --bench server

# Without a sanitizer: there is no unsafe code to watch, and so it runs on the stable toolchain.
SECONDS := 60
FUZZ := query signature body envelope

.PHONY: fuzz
fuzz: ## the fuzz targets, each for SECONDS=60; needs cargo-fuzz (cargo install cargo-fuzz --version 0.13.2 --locked)
	cargo fuzz build --sanitizer none --target-dir $(CURDIR)/target/fuzz
	for target in $(FUZZ); do mkdir -p target/fuzz/found/$$target && \
		cargo fuzz run --sanitizer none --target-dir $(CURDIR)/target/fuzz $$target target/fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 || exit 1; done
