# minikubelet: `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Programs of the test stack are built once per machine, not once per clone.
CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(if $(HOME),$(HOME)/.cache,$(CURDIR)/.cache))/minikubelet
# What the node reports is Kubernetes' version, which programs compare, with this project's as build metadata.
KUBERNETES = $(shell sed -n 's/^const KubernetesVersion = "\(.*\)"/\1/p' kubelet/settings/version.go)
VERSION ?= $(KUBERNETES)+minikubelet.$(shell git describe --tags --always --dirty 2>/dev/null | sed 's/^v//; s/[^0-9A-Za-z.-]/-/g' || echo unknown)
# sudo's PATH often lacks Go.
export PATH := $(CACHE)/go/bin:$(PATH):/usr/local/go/bin
# Some distributions' Go does not fetch the version that go.mod names unless told.
export GOTOOLCHAIN ?= auto
# git refuses to describe a clone that belongs to somebody else, as under sudo.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

# grpc's trace pages bring in text/template, and reflection by name, which keeps every method of every type alive: 7 MB.
TAGS := grpcnotrace
LDFLAGS := -s -w -X minikubelet/kubelet/settings.Version=$(VERSION)
STACK_BIN = $(shell e2e/stack/build.sh "$(CACHE)" stack --print)
NODE_BIN = $(shell e2e/stack/node.sh "$(CACHE)" --print)
LINT_BIN = $(shell e2e/stack/build.sh "$(CACHE)" lint --print)
KIND_DIR = $(shell e2e/kind/build.sh "$(CACHE)" --print)
VM_DIR = $(shell e2e/vm/fetch.sh "$(CACHE)" --print)
CONFORMANCE = -bin "$(STACK_BIN)" -suite "$(shell e2e/stack/conformance/build.sh "$(CACHE)" --print)"
DEBUG_BIN = $(shell e2e/stack/build.sh "$(CACHE)" debug --print)

RUNTIME ?= containerd
KUBELET ?= minikubelet
FUZZTIME ?= 5s
BENCHFLAGS ?=
CONFORMANCEFLAGS ?=
LABEL ?= all
FOCUS ?=
E2EFLAGS ?=
MATRIXFLAGS ?=
# Flags of the kubelet besides, for make run, make cluster and make debug: ARGS=--step=CreateContainer@hello
ARGS ?=
SKEW ?= 1.35 1.36
# What depends on the apiserver: registration, status, static pods, every part of the pod API that changed of late.
SKEWTESTS ?= ^Test(Pod$$|PodCert|PodLevel|PodDir|Node|Volumes|Missing|Init|Phases|Images|Graceful|Rejected|Probes|RuntimeClass|Resize|RestartAll|UserNamespace|StaticPod|Mirror|Kubectl(Exec|Logs|Debug|Top)|APIServer|StatusWrites|SameName|Preemption|CSI|Local|GenericEphemeral|KubeletKilled|Bootstrap|ClientRotation|ServingRotation|Stats)
# Kubernetes 1.35 has no resize of a pod's own resources, no status of them, no rule that restarts all containers, and another form
# of pod certificates.
SKEWSKIP := ^Test(PodCertificate|Resize|PodLevelResize|RestartAllContainers)$$
# RACE=1 has the end-to-end tests and the faults meet programs built with the race detector.
RACE ?=
RACE_BIN := $(if $(RACE),E2E_KUBELET="$(CURDIR)/bin/race/kubelet" E2E_CRID="$(CURDIR)/bin/race/crid")

##@ Everyday

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' Makefile

.PHONY: deps
deps: ## install what is missing on Debian 12 or Ubuntu, for the tests too (as root)
	@e2e/stack/deps.sh "$(CACHE)" tests

.PHONY: deps-run
deps-run:
	@e2e/stack/deps.sh "$(CACHE)"

# Debian 12's Go does not know the go.mod files of today: a user who builds gets a newer one into the cache.
.PHONY: go-toolchain
go-toolchain:
	@e2e/stack/deps.sh "$(CACHE)" go

# The timeline's page shows the source of what is on the way of a pod, and which functions play its parts upstream.
.PHONY: source
source: go-toolchain
	@mkdir -p bin
	@find config syncloop podworkers runtime status docs/workshop/upstream.md -name '*.go' ! -name '*_test.go' -o -name upstream.md | LC_ALL=C sort | \
	  tar --owner=0 --group=0 --numeric-owner --mode=644 --mtime=@0 -cf - -T - | gzip -9n >bin/source.$$PPID && \
	  mv -f bin/source.$$PPID kubelet/timeline/source/source.tar.gz # by this make's own name: another one may run beside it
	@[ "$$(id -u)" != 0 ] || chown --reference=. bin kubelet/timeline/source/source.tar.gz # under sudo they are the directory's owner's too

.PHONY: build
build: source ## build bin/kubelet and bin/crid
	CGO_ENABLED=0 go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o bin/kubelet ./cmd/kubelet
	CGO_ENABLED=0 go build -trimpath -tags '$(TAGS)' -ldflags '-s -w' -o bin/crid ./cmd/crid

.PHONY: build-race
build-race: build
	$(if $(RACE),go build -race -tags '$(TAGS)' -ldflags '-X minikubelet/kubelet/settings.Version=$(VERSION)' -o bin/race/ ./cmd/kubelet ./cmd/crid)

.PHONY: run
run: deps-run node build ## the kubelet alone, with its own runtime and the pods of examples/static, until Ctrl-C (as root); ARGS="--step=CreateContainer" are flags of the kubelet
	@go build -o bin/cluster ./e2e/cmd/cluster
	@exec bin/cluster -bin "$(NODE_BIN)" -standalone -env bin/node.sh -args "$(ARGS)"

.PHONY: cluster
cluster: deps-run stack build $(filter upstream,$(KUBELET)) ## a one-node cluster on this machine until Ctrl-C (as root); RUNTIME=containerd|crid|embedded KUBELET=minikubelet|upstream
	@go build -o bin/cluster ./e2e/cmd/cluster
	@exec bin/cluster -bin "$(STACK_BIN)" -runtime "$(RUNTIME)" -kubelet "$(KUBELET)" -args "$(ARGS)"

.PHONY: debug
debug: deps-run stack ## the same with the kubelet under dlv, listening on 127.0.0.1:2345 (as root); RUNTIME=embedded sees all the way to runc
	@e2e/stack/build.sh "$(CACHE)" debug >/dev/null
	@go build -o bin/cluster ./e2e/cmd/cluster
	@exec bin/cluster -bin "$(STACK_BIN)" -runtime "$(RUNTIME)" -dlv "$(DEBUG_BIN)/dlv" -args "$(ARGS)"

.PHONY: walk
walk: deps-run node ## step through docs/walk.md in dlv: one pod, from its manifest to its first process (as root)
	@e2e/stack/build.sh "$(CACHE)" debug >/dev/null
	@go build -o bin/walk ./e2e/cmd/walk
	@exec bin/walk -bin "$(NODE_BIN)" -dlv "$(DEBUG_BIN)/dlv"

.PHONY: bench
bench: deps-run upstream build ## this kubelet and upstream's side by side (as root); BENCHFLAGS="-n 1,20 -idle 10s", or "-kubelets= -runtimes= -burst 500"
	@go build -o bin/bench ./e2e/cmd/bench
	@exec bin/bench -bin "$(STACK_BIN)" $(BENCHFLAGS)

##@ Checks

.PHONY: test
test: deps fmt-check vet lint stack build ## checks, unit tests and end-to-end tests (as root)
	@$(MAKE) -j3 e2e-first e2e-rest unit matrix-embedded # end-to-end tests mostly wait: two stacks beside each other, then the matrix

.PHONY: verify
verify: fuzz compare conformance-subset ## what make test leaves out because it takes long to build: fuzzing, comparisons with upstream's kubelet, specs of Kubernetes' own suite (as root)

.PHONY: compare
compare: upstream build ## tests that hold this kubelet against upstream's (as root)
	E2E_BIN="$(STACK_BIN)" E2E_UPSTREAM=1 go test -count=1 -timeout 15m -p 1 -run 'TestUpstreamKubelet|TestMetricNames' ./e2e ./e2e/stack

.PHONY: fmt-check
fmt-check: ## fail on unformatted files
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted (make fmt): $$files"; exit 1; fi

.PHONY: vet
vet: ## go vet
	go vet ./...

.PHONY: lint
lint: ## golangci-lint, as pinned in e2e/stack/lint
	@e2e/stack/build.sh "$(CACHE)" lint >/dev/null
	"$(LINT_BIN)/golangci-lint" run --allow-parallel-runners ./...

.PHONY: unit
unit: ## unit tests with the race detector
	go test -race -timeout 15m $$(go list ./... | grep -v '^minikubelet/e2e')

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME
	@e2e/stack/fuzz.sh "$(FUZZTIME)"

.PHONY: e2e
e2e: stack build-race ## end-to-end tests on the real stack (as root); E2EFLAGS="-run Name -v", RACE=1 for the race detector
	@e2e/stack/build.sh "$(CACHE)" debug >/dev/null
	E2E_BIN="$(STACK_BIN)" E2E_DLV="$(DEBUG_BIN)/dlv" $(RACE_BIN) go test -count=1 -timeout 25m -p 1 $(E2EFLAGS) ./e2e/...

.PHONY: e2e-first e2e-rest
e2e-first e2e-rest: # the end-to-end tests in two halves, each with a stack of its own
	@$(MAKE) -o build e2e E2EFLAGS='$(if $(filter %first,$@),-run,-skip) "^Test[A-K]" $(E2EFLAGS)'

.PHONY: matrix
matrix: stack build-race ## faults against a node, the short form: docs/faults.md (as root); MATRIXFLAGS="-only regexp -keep", RUNTIME=containerd|crid|embedded, RACE=1
	@go build -o bin/matrix ./e2e/cmd/matrix
	@$(RACE_BIN) bin/matrix -bin "$(STACK_BIN)" -runtime "$(RUNTIME)" $(MATRIXFLAGS)

.PHONY: matrix-embedded
matrix-embedded: # the part of it that make test has
	@$(MAKE) -o build matrix RUNTIME=embedded

.PHONY: soak
soak: stack ## the long form: all faults on both runtimes, 500 pods at once ten times, 1,000 pods churned under the race detector (as root, hours)
	@$(MAKE) -s build-race RACE=1
	@go build -o bin/matrix ./e2e/cmd/matrix
	@bin/matrix -bin "$(STACK_BIN)" -soak -race-kubelet "$(CURDIR)/bin/race/kubelet" $(MATRIXFLAGS)

.PHONY: test-v2
test-v2: stack build ## the node and its tests on cgroup v2 alone, in an emulated machine (2 to 5 minutes; Debian, amd64)
	@e2e/vm/fetch.sh "$(CACHE)" >/dev/null
	E2E_BIN="$(STACK_BIN)" E2E_VM="$(VM_DIR)" go test -count=1 -timeout 15m -v $(E2EFLAGS) ./e2e/vm

.PHONY: test-kind
test-kind: stack build ## clusters of the real kind with this kubelet, made, joined, restarted, swapped with upstream's: docs/nodes.md (as root; 6 minutes, Debian, amd64)
	@e2e/kind/build.sh "$(CACHE)" >/dev/null
	@e2e/stack/build.sh "$(CACHE)" debug >/dev/null
	E2E_BIN="$(STACK_BIN)" E2E_KIND="$(KIND_DIR)" E2E_DLV="$(DEBUG_BIN)/dlv" go test -count=1 -timeout 40m -v $(E2EFLAGS) ./e2e/kind

.PHONY: test-kind-cached
test-kind-cached:
	@if [ -e "$(KIND_DIR)/complete" ]; then $(MAKE) test-kind; else echo "the test with kind is left out: its node image is not made here; make test-kind makes it"; fi

.PHONY: test-skew
test-skew: stack build ## end-to-end tests with the apiservers of older Kubernetes, which are built once (as root); SKEW="1.35 1.36" E2EFLAGS=-v
	@for version in $(SKEW); do [ -e e2e/stack/skew/$$version/go.mod ] || { echo "make test-skew: SKEW has no $$version, only $$(cd e2e/stack/skew && echo */ | tr -d /)"; exit 1; }; done
	@failed=; for version in $(SKEW); do \
	  dir=$$(e2e/stack/skew/build.sh "$(CACHE)" "$$version"); \
	  echo "with the apiserver of Kubernetes $$version"; \
	  skip=; [ "$$version" != 1.35 ] || skip='$(SKEWSKIP)'; \
	  E2E_CONTROL_PLANE="$$dir" E2E_BIN="$(STACK_BIN)" go test -count=1 -timeout 15m -p 1 -run '$(SKEWTESTS)' -skip "$$skip" $(E2EFLAGS) ./e2e || failed="$$failed $$version"; \
	done; [ -z "$$failed" ] || { echo "make test-skew: failed with$$failed"; exit 1; }

.PHONY: conformance
conformance: deps conformance-suite $(filter upstream,$(KUBELET)) ## Kubernetes' own suite, an hour (as root); LABEL=all|node|conformance|filter FOCUS=regexp KUBELET=minikubelet|upstream
	@exec bin/conformance $(CONFORMANCE) -kubelet "$(KUBELET)" -runtime "$(RUNTIME)" -label "$(LABEL)" -focus "$(FOCUS)" $(CONFORMANCEFLAGS)

.PHONY: conformance-subset
conformance-subset: deps conformance-suite ## some fast specs of that suite, as e2e/testdata/conformance-subset.txt says (as root)
	@exec bin/conformance $(CONFORMANCE) -label all -subset e2e/testdata/conformance-subset.txt -timeout 15m $(CONFORMANCEFLAGS)

.PHONY: e2e-node
e2e-node: deps stack build $(filter upstream,$(KUBELET)) ## Kubernetes' node suite: its specs of NodeConformance that are not serial, an hour (as root); LABEL=node|restarts|filter FOCUS=regexp KUBELET=minikubelet|upstream RUNTIME=containerd|crid
	@e2e/stack/e2enode/build.sh "$(CACHE)" >/dev/null
	@go build -o bin/conformance ./e2e/cmd/conformance
	@exec bin/conformance -node -bin "$(STACK_BIN)" -suite "$(shell e2e/stack/e2enode/build.sh "$(CACHE)" --print)" -kubelet "$(KUBELET)" -runtime "$(RUNTIME)" -label "$(or $(filter-out all,$(LABEL)),node)" -focus "$(FOCUS)" $(CONFORMANCEFLAGS)

.PHONY: conformance-suite
conformance-suite: stack build
	@e2e/stack/conformance/build.sh "$(CACHE)" >/dev/null
	@go build -o bin/conformance ./e2e/cmd/conformance

##@ Install

PREFIX ?= /usr/local
DESTDIR ?=
UNITDIR ?= $(PREFIX)/lib/systemd/system
# Words of systemctl, which is left alone where there is no systemd and while a package is made.
SYSTEMCTL = $(if $(DESTDIR),:,if [ -d /run/systemd/system ]; then systemctl $(1); fi)
RELEASE_ARCHS ?= amd64 arm64
# A unit that an older make install put into /etc/systemd/system would count instead of the one below PREFIX. It goes if it is as it was
# put there, and is named otherwise.
remove_old_unit = old="$(DESTDIR)/etc/systemd/system/minikubelet.service"; as_put() { sed 's|@BINDIR@|$(PREFIX)/bin|; /^ExecReload=/d; /files are read again/d' "$$1"; }; \
	if [ "$(UNITDIR)" = /etc/systemd/system ] || [ ! -f "$$old" ]; then :; \
	elif cmp -s <(as_put "$$old") <(as_put examples/node/kubelet.service); then echo "removing $$old of an older make install" && rm "$$old"; \
	else echo "$$old stays, as it is not what make install puts there; systemd takes it before $(UNITDIR)"; fi

.PHONY: install
install: ## what make build built, a systemd unit (minikubelet.service) and a configuration, unless there is one (as root); PREFIX=/usr/local DESTDIR= UNITDIR=PREFIX/lib/systemd/system
	@[ -x bin/kubelet ] && [ -x bin/crid ] || { echo "make install: run make build first, as the user who owns this directory"; exit 1; }
	install -D -m 755 bin/kubelet "$(DESTDIR)$(PREFIX)/bin/kubelet"
	install -D -m 755 bin/crid "$(DESTDIR)$(PREFIX)/bin/crid"
	install -d -m 755 "$(DESTDIR)/etc/minikubelet/manifests"
	[ -e "$(DESTDIR)/etc/minikubelet/kubelet.yaml" ] || install -m 644 examples/node/kubelet.yaml "$(DESTDIR)/etc/minikubelet/kubelet.yaml"
	install -D -m 644 examples/node/kubelet.service "$(DESTDIR)$(UNITDIR)/minikubelet.service"
	sed -i 's|@BINDIR@|$(PREFIX)/bin|' "$(DESTDIR)$(UNITDIR)/minikubelet.service"
	@$(remove_old_unit)
	@$(call SYSTEMCTL,daemon-reload)
	@$(if $(DESTDIR),,if [ -d /run/systemd/system ]; then echo "start it with: systemctl enable --now minikubelet"; \
	  else echo "there is no systemd; start it with: $(PREFIX)/bin/kubelet --config=/etc/minikubelet/kubelet.yaml"; fi)

.PHONY: uninstall
uninstall: ## stop the unit and remove what make install put there, but for a configuration that was changed; pods go on (as root)
	@$(call SYSTEMCTL,disable --now minikubelet) || true
	rm -f "$(DESTDIR)$(PREFIX)/bin/kubelet" "$(DESTDIR)$(PREFIX)/bin/crid" "$(DESTDIR)$(UNITDIR)/minikubelet.service"
	@$(remove_old_unit)
	! cmp -s examples/node/kubelet.yaml "$(DESTDIR)/etc/minikubelet/kubelet.yaml" || rm -f "$(DESTDIR)/etc/minikubelet/kubelet.yaml"
	rmdir --ignore-fail-on-non-empty "$(DESTDIR)/etc/minikubelet/manifests" "$(DESTDIR)/etc/minikubelet" 2>/dev/null || true
	@$(call SYSTEMCTL,daemon-reload)

.PHONY: release
release: source ## static programs for amd64 and arm64 and their checksums, in bin/release
	@rm -rf bin/release && mkdir -p bin/release
	for arch in $(RELEASE_ARCHS); do for program in kubelet crid; do \
	  CGO_ENABLED=0 GOARCH=$$arch go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o bin/release/$$program-linux-$$arch ./cmd/$$program; \
	done; done
	cd bin/release && sha256sum * >SHA256SUMS && cat SHA256SUMS

##@ Nodes of kind clusters (Docker)

CLUSTER ?= minikubelet
NODE ?=
NODES ?= all
IMAGE ?=
DEBUG ?=
KIND_SH = KIND="$(CURDIR)/bin/kind" KUBELET="$(CURDIR)/bin/$(if $(DEBUG),debug/)kubelet" DLV="$(if $(DEBUG),$(DEBUG_BIN)/dlv)" \
  CLUSTER="$(CLUSTER)" NODE="$(NODE)" NODES="$(NODES)" IMAGE="$(IMAGE)" RUNTIME="$(RUNTIME)" CONFIG="$(CONFIG)" exec e2e/kind/kind.sh

.PHONY: kind
kind: kind-program kind-kubelet ## a new kind cluster with this kubelet on every node; CLUSTER=minikubelet NODES=all|worker IMAGE= CONFIG=file RUNTIME=embedded DEBUG=1
	@$(KIND_SH) create

.PHONY: kind-delete
kind-delete: kind-program ## remove the kind cluster CLUSTER
	@$(KIND_SH) delete

.PHONY: kind-node
kind-node: kind-kubelet ## one more node with this kubelet joins the running kind cluster CLUSTER; NODE=name RUNTIME=embedded DEBUG=1
	@$(KIND_SH) node

.PHONY: kind-node-delete
kind-node-delete: ## remove the node NODE
	@$(KIND_SH) node-delete

.PHONY: kind-swap
kind-swap: kind-kubelet ## the kind node NODE runs this kubelet instead of its own, and its pods go on; DEBUG=1
	@$(KIND_SH) swap

.PHONY: kind-swap-back
kind-swap-back: ## the node NODE has its own kubelet again
	@$(KIND_SH) swap-back

.PHONY: kind-program
kind-program: go-toolchain
	@cd e2e/kind/programs/kind && CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -o "$(CURDIR)/bin/kind" tool

.PHONY: kind-kubelet
kind-kubelet: build
	@$(if $(DEBUG),e2e/stack/build.sh "$(CACHE)" debug >/dev/null)
	$(if $(DEBUG),CGO_ENABLED=0 go build -gcflags 'all=-N -l' -tags '$(TAGS)' -ldflags '-X minikubelet/kubelet/settings.Version=$(VERSION)' -o bin/debug/kubelet ./cmd/kubelet)

##@ Housekeeping

.PHONY: fmt
fmt: ## format the code
	gofmt -w .

.PHONY: stack
stack: ## build the programs of the test stack (once; about 10 minutes on 2 cores)
	@e2e/stack/build.sh "$(CACHE)" stack >/dev/null

.PHONY: upstream
upstream: stack ## build upstream's kubelet beside the stack's programs, for comparisons (once; about 2 minutes)
	@e2e/stack/build.sh "$(CACHE)" upstream >/dev/null

.PHONY: node
node: ## build runc and CNI plugins, all that the kubelet alone needs (once; about a minute)
	@e2e/stack/node.sh "$(CACHE)" >/dev/null

.PHONY: critest
critest: deps stack build ## the validation suite of CRI runtimes, 2 minutes (as root); CRITESTFLAGS="-ginkgo.focus=Exec", RUNTIME=crid|containerd
	@e2e/stack/critest/build.sh "$(CACHE)" >/dev/null
	@go build -o bin/critest-stack ./e2e/cmd/critest
	@exec bin/critest-stack -bin "$(STACK_BIN)" -critest "$$(e2e/stack/critest/build.sh "$(CACHE)" --print)/critest" -runtime "$(if $(filter command line,$(origin RUNTIME)),$(RUNTIME),crid)" -- $(CRITESTFLAGS)

.PHONY: clean
clean: ## remove what was built here, and the cached programs
	rm -rf bin .cache "$(CACHE)/stack" "$(CACHE)/node" "$(CACHE)/lint" "$(CACHE)/debug" "$(CACHE)/vm" "$(CACHE)/kind" "$(CACHE)/conformance" "$(CACHE)/e2enode" "$(CACHE)/skew" "$(CACHE)/critest"
