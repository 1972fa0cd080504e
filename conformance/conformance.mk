# SPDX-License-Identifier: Apache-2.0
#
# The conformance bench; the Makefile above includes this. Variables:
#   FOCUS='\[sig-cli\]'   run the tests whose names this regular expression matches
#   SKIP='\[Serial\]'     but not these
#   ALL=1                 tests beyond conformance that FOCUS matches, with verdicts of their own in beyond.json
#   UNPASSED=1            run only what is not known to pass
#   REPEAT=3              run each of them that often: what does not always pass is named as flaky
#   PARALLEL=3            that many at once
#   KUBECONFIG=...        test this cluster (give it on the command line) and not one of its own
#   DUAL=1                on a cluster of both IP families
#   AGENTS=5 ZONES=3      with so many nodes besides the server's, in so many zones
#   PROXY=nftables        with another way of the nodes to get Services to pods; the verdicts stay in the cache
#   SERVER_FLAGS=...      more flags for skiff server
#   STORAGE=1             with what tests of storage need: CSI's sidecars, the controller of VolumeSnapshots, crictl on nodes
#   FRESH=1               do not continue a run that was interrupted

CONFORMANCE_FLAGS = $(if $(FOCUS),-focus '$(FOCUS)') $(if $(SKIP),-skip '$(SKIP)') $(if $(ALL),-all) $(if $(UNPASSED),-unpassed) $(if $(REPEAT),-repeat $(REPEAT)) \
	$(if $(PARALLEL),-parallel $(PARALLEL)) $(if $(FRESH),-fresh) $(if $(DUAL),-dual-stack) \
	$(if $(AGENTS),-agents $(AGENTS)) $(if $(ZONES),-zones $(ZONES)) \
	$(if $(STORAGE),-storage) $(if $(PROXY),-proxy-mode $(PROXY)) $(if $(SERVER_FLAGS),-server-flags '$(SERVER_FLAGS)')

# From the environment it is the user's everyday cluster, where the suite must not go by accident.
ifeq ($(origin KUBECONFIG),command line)
CONFORMANCE_FLAGS += -kubeconfig '$(abspath $(KUBECONFIG))'
endif

.PHONY: conformance conformance-netpol conformance-gateway conformance-smoke conformance-skiff conformance-report

conformance: build ## run Kubernetes' conformance suite, or a part: FOCUS=, SKIP=, REPEAT=, PARALLEL=, KUBECONFIG=
	cd conformance && go run ./run $(CONFORMANCE_FLAGS)

conformance-smoke: build ## run the ten minutes of it that say most
	cd conformance && go run ./run -smoke $(CONFORMANCE_FLAGS)

conformance-skiff: build test-deps ## run our own suite: what Skiff promises beyond upstream's; KUBECONFIG=
	cd conformance && $(if $(filter command line,$(origin KUBECONFIG)),SKIFF_CONFORMANCE_KUBECONFIG='$(abspath $(KUBECONFIG))') \
		go test -p 1 -count=1 -timeout 20m $(if $(FOCUS),-run '$(FOCUS)') ./skiff

conformance-netpol: build ## run upstream's tests of NetworkPolicy, with verdicts in conformance/beyond.json; those of SCTP need a kernel that has it
	cd conformance && go run ./run -all -focus '^\[sig-network\] Netpol' -skip '$(or $(SKIP),SCTPConnectivity)' $(if $(PARALLEL),-parallel $(PARALLEL)) $(if $(FRESH),-fresh)

conformance-gateway: build ## run the conformance suite of the Gateway API, or one test: TEST=; writes conformance/gateway-report.yaml
	cd conformance && go run ./rungateway -version '$(VERSION)' $(if $(TEST),-run '$(TEST)')

conformance-report: ## render conformance/REPORT.md from conformance/results.json, and BEYOND.md from beyond.json
	cd conformance && go run ./report
