# SPDX-License-Identifier: Apache-2.0
#
# make build   bin/skiff, with the container runtime that it carries
# make run     install what is needed, build, and start a node on this machine (as root)
# make bench   measure starts, memory and pods of the built binary on this machine
# make test    build and run all tests (as root: they make network namespaces and run containers)
# make help    the rest

# The same flags for every build, so that one cache serves all.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false

VERSION ?= 0.1.0-dev
KUBERNETES := 1.37.2
BINARY := bin/skiff
COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
LDFLAGS := -s -w \
	-X github.com/skiff-k8s/skiff/version.Skiff=$(VERSION) \
	-X github.com/skiff-k8s/skiff/version.Commit=$(COMMIT) \
	-X github.com/skiff-k8s/skiff/version.Kubernetes=$(KUBERNETES) \
	-X k8s.io/component-base/version.gitVersion=v$(KUBERNETES)+skiff.$(VERSION) \
	-X k8s.io/component-base/version.gitCommit=$(COMMIT)

# Debian packages: to build runc with seccomp; to run a node; to test.
BUILD_PACKAGES := gcc libc6-dev libseccomp-dev pkg-config
RUN_PACKAGES := iptables
TEST_PACKAGES := busybox-static curl dbus-daemon iproute2 util-linux conntrack nftables

.PHONY: help build run test unit race e2e bench bench-scheduler bench-network lint generate bundle modules deps test-deps clean

help: ## say what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

build: bundle ## build bin/skiff
	@echo building $(BINARY)
	@go build -ldflags '$(LDFLAGS)' -o $(BINARY) ./cmd/skiff

bundle: deps modules ## build what the binary carries: runc, the shim, OpenAPI documents, the Gateway API
	@go run ./cri/bundle/build
	@go run ./apiserver/openapi/generate
	@go run ./gateway/crds/build

run: build ## start a node on this machine; end it with Control-C
	@bin/skiff server

test: lint unit race e2e ## lint and run all tests

unit: build test-deps ## run the tests of the packages
	go test -p 2 -timeout 15m $$(go list ./... | grep -v /skiff/e2e$$)
	cd examples/controller && go test ./...

# What shares most between goroutines and needs no API server, which takes ten minutes to build so. All: make race RACE=./...
RACE ?= ./apiserver/inprocess ./controllers/reconcile ./gateway/proxy ./kubelet/containers ./kubelet/probe ./network ./scheduler/queue ./tunnel

race: bundle test-deps ## run the tests of what shares most under the race detector
	CGO_ENABLED=1 go test -race -p 2 -timeout 20m $(RACE)

e2e: build test-deps ## run whole nodes on test hosts, with real containers
	go test -p 1 -count=1 -timeout 30m ./e2e

bench: build test-deps ## measure starts, memory, idle CPU and pods, on test hosts; about three minutes
	@go run ./bench $(BENCH_FLAGS)

bench-scheduler: ## measure the scheduler by the shapes of upstream's scheduler_perf, as tables with the aims; about ten minutes
	@go run ./bench/scheduler $(BENCH_FLAGS)

bench-network: build test-deps ## measure Services by both proxy modes, names and Gateways; about half an hour
	go test ./proxy -run '^$$' -bench Sync -benchtime 5x -timeout 60m
	go test ./dns -run '^$$' -bench .
	for mode in iptables nftables; do go run ./bench --services 0,100,1000,10000 --proxy-mode $$mode $(BENCH_FLAGS) || exit 1; done
	go run ./bench --gateway $(BENCH_FLAGS)

lint: bundle ## gofmt, go vet, staticcheck, and the rules of the house
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	for module in . conformance examples/controller tools; do (cd $$module && go mod tidy -diff) || exit 1; done
	go vet ./...
	cd tools && go build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck ./...

generate: ## make all generated files anew
	go generate ./...

# Fetched here, in silence: go build would name hundreds of modules. What is wrong it says nevertheless.
modules:
	@test -d "$$(go env GOMODCACHE)/cache/download/k8s.io/kubectl" || echo downloading Go modules
	@go list -deps ./cmd/skiff ./cri/bundle/build ./apiserver/openapi/generate ./gateway/crds/build >/dev/null 2>&1 || true

deps:
	@$(call install,$(BUILD_PACKAGES) $(RUN_PACKAGES))

test-deps:
	@$(call install,$(TEST_PACKAGES))

clean: ## remove what was built
	rm -rf bin

# install installs the Debian packages that are missing.
define install
missing=$$(dpkg-query -W -f='$${db:Status-Status} $${binary:Package}\n' $(1) 2>&1 | grep -v '^installed ' | sed -E 's/.*no packages found matching //; s/^[a-z-]+ //'); \
if [ -n "$$missing" ]; then echo "installing" $$missing; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
endef

include conformance/conformance.mk
