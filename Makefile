# podworks. "make" alone lists what there is to make; .ci/run calls the same
# targets. Works with GNU make 3.81 (macOS) and newer.

.DEFAULT_GOAL := help

GO    ?= go
ARGS  ?=
BENCH ?= .
SOAK  ?= 10m

# Pinned here and in no go.mod: a tool is no dependency of those who import us.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The packages of every module of the repository; go.work holds them together.
PACKAGES := $(foreach d,$(dir $(wildcard go.mod */go.mod */*/go.mod)),$(if $(filter ./,$d),./...,./$d...))

# The programs of examples/, each of which is a target.
EXAMPLES := $(sort $(notdir $(patsubst %/main.go,%,$(wildcard examples/*/main.go))))

# CI wants to see the tests run, not that they ran once.
TESTFLAGS := $(if $(CI),-count=1)

.PHONY: help
help: ## list the targets
	@echo 'make TARGET, where TARGET is:'
	@awk 'BEGIN { FS = ":.*## " } /^[a-z][a-z-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'The examples take flags: make -s demo ARGS="-family mysql -json". They are: $(EXAMPLES)'

# What setup says goes to stderr, so that an example's stdout is its own.
.PHONY: setup
setup: ## install the servers that are missing: MariaDB, Redis, memcached, MySQL
	@scripts/setup >&2
	@scripts/mysql >/dev/null

.PHONY: setup-browser
setup-browser: ## install Chromium if it is missing, for the tests of pages
	@scripts/setup chromium >&2

.PHONY: mysql
mysql: ## unpack a MySQL server into the cache folder, if there is none
	@scripts/mysql

.PHONY: demo
demo: flashsale ## the main job: a shop is moved to another pod in the middle of its sale

.PHONY: $(EXAMPLES)
$(EXAMPLES): setup
	@cd examples && $(GO) run ./$@ $(ARGS)

# Packages whose tests wait for servers most of their time, and measure nothing.
CALM := ./examples/libraries/... ./examples/monolith/... ./ferry/binlog ./ferry/watch ./internal/browser ./internal/directory \
	./internal/fence ./internal/flavor ./internal/testcluster ./sharding/master ./sharding/outbox

# The others one at a time: each starts servers of its own, and the fault tests
# have budgets of time that others' load would use up. They run whatever became of
# the calm ones.
RESTLESS = $$($(GO) list $(PACKAGES) | grep -vxF "$$($(GO) list $(CALM))")

.PHONY: test
test: setup setup-browser ## run all tests, on real servers of both families
	@calm=0; \
	$(GO) test $(TESTFLAGS) -p 3 -timeout 20m $(CALM) || calm=1; \
	$(GO) test $(TESTFLAGS) -p 1 -timeout 20m $(RESTLESS) && exit $$calm

.PHONY: race
race: setup setup-browser ## run all tests but the slow ones with the race detector (needs a C compiler)
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || \
		{ echo 'race: the race detector needs a C compiler. On Debian: apt-get install gcc libc6-dev' >&2; exit 1; }
	@calm=0; \
	$(GO) test $(TESTFLAGS) -race -short -p 2 -timeout 20m $(CALM) || calm=1; \
	$(GO) test $(TESTFLAGS) -race -short -p 1 -timeout 20m $(RESTLESS) && exit $$calm

.PHONY: soak
soak: soak-sharding soak-ferry ## all soaks, on a quiet machine

.PHONY: soak-sharding
soak-sharding: setup ## each store of a pod fails in each way, and the other pods are measured (seven minutes)
	PODWORKS_SOAK=1 $(GO) test -count=1 -v -timeout 30m -run TestWhenOneStoreOfAPodFails ./sharding

.PHONY: soak-ferry
soak-ferry: setup ## moves with random schemas, traffic and faults, for SOAK=10m; PODWORKS_SEED repeats a run. Every fault (508) at every step of a move, a recovery and a clean-up. Rows of 64 MB
	PODWORKS_SOAK=$(SOAK) $(GO) test -count=1 -v -timeout 0 -run 'TestMovesThroughChaos|TestChaosNotices|TestRandomChangesBehind' ./ferry
	PODWORKS_SOAK=1 $(GO) test -count=1 -v -timeout 60m -run 'TestFaultsAtEveryStep|TestStatementsDuringAMove|TestRecoverOfEveryCombination|TestARowAsLarge' ./ferry

.PHONY: bench
bench: setup ## run all benchmarks, or those that match BENCH=regexp
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 60m $(PACKAGES)

.PHONY: bench-routing
bench-routing: ## look-up, refresh, signature, and a routed request beside httputil's
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./routing/... ./internal/signature

.PHONY: bench-sharding
bench-sharding: setup ## scopes, a million shops, and queries and writes beside a plain *sql.DB, in turns
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 30m ./sharding/... ./internal/site

.PHONY: bench-toxi
bench-toxi: ## a proxy without and with toxics, beside io.Copy and Toxiproxy, in turns
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout 30m ./toxi/peer/...

.PHONY: sim-semian
sim-semian: ## the breakers' simulation at all rates: Semian's two and ours, as a table (three minutes)
	PODWORKS_SIM=1 $(GO) test -count=1 -v -run TestSimulation -timeout 30m ./semian

# BENCH picks parts: Move, Pause/mysql/idle, Queue, Throttled.
.PHONY: bench-ferry
bench-ferry: setup ## moves of a shop by ferry and by what else moves rows, in turns (with Ghostferry if PODWORKS_GHOSTFERRY names its binary), the write pause, many moves, a throttled one
	cd examples && $(GO) test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 60m ./moveshop $(ARGS)
	PODWORKS_CHANGES=1000000 $(GO) test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 30m ./ferry

.PHONY: spec
spec: ## check the model of a move with Spin, and find every mutation of it (installs spin)
	@scripts/spin
	PODWORKS_SPEC=1 $(GO) test -count=1 -v -timeout 30m -run TestSpec $(ARGS) ./ferry/spec

.PHONY: lint
lint: lint-fmt lint-vet lint-static lint-fix lint-tidy lint-sh ## gofmt, go vet (for macOS too), staticcheck, go fix, go mod tidy, sh -n

.PHONY: lint-fmt lint-vet lint-static lint-fix lint-tidy lint-sh
lint-fmt:
	@bad=$$(gofmt -l .) && test -z "$$bad" || { echo "not formatted, run gofmt -w on:" >&2; echo "$$bad" >&2; exit 1; }

lint-vet:
	$(GO) vet $(PACKAGES)
	GOOS=darwin $(GO) vet $(PACKAGES)

# Its exclusions, with their reasons, are in staticcheck.conf.
lint-static:
	$(GO) run $(STATICCHECK) $(PACKAGES)

# Go 1.25 has no -diff.
lint-fix:
	@if $(GO) help fix | grep -q -e '^	-diff'; then echo "$(GO) fix -diff $(PACKAGES)"; $(GO) fix -diff $(PACKAGES); fi

# The root module only: tidy does not know go.work, and the examples use a
# version of it that nobody has published.
lint-tidy:
	$(GO) mod tidy -diff

lint-sh:
	@for f in scripts/*; do sh -n "$$f" || exit; done
	@bash -n .ci/run
