# Migration Sensor. `make` builds, `make demo` shows, `make test` tests; `make help` lists the rest.
GO      ?= go
FLAGS   := -trimpath -buildvcs=auto -ldflags '-s -w'
export CGO_ENABLED ?= 0
export GOTOOLCHAIN ?= auto

CROSS_AGENT  := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
CROSS_PROXYD := linux/amd64 linux/arm64

.PHONY: all
all: bin/ms-agent bin/proxyd bin/ms-lab ## build static bin/ms-agent, bin/proxyd and bin/ms-lab

.PHONY: bin/ms-agent bin/proxyd bin/ms-lab
bin/ms-agent: ; $(GO) build $(FLAGS) -o $@ ./agent/cmd/ms-agent
bin/proxyd:   ; $(GO) build $(FLAGS) -o $@ ./proxyd/cmd/proxyd
bin/ms-lab:   ; $(GO) build $(FLAGS) -o $@ ./examples/lab/cmd/ms-lab

.PHONY: cross
cross: ## build ms-agent for six systems and proxyd for two, into bin/OS-ARCH/
	@set -e; for t in $(CROSS_AGENT); do os=$${t%/*}; arch=$${t#*/}; \
	  ext=; [ $$os = windows ] && ext=.exe; echo "ms-agent $$t"; \
	  GOOS=$$os GOARCH=$$arch $(GO) build $(FLAGS) -o bin/$$os-$$arch/ms-agent$$ext ./agent/cmd/ms-agent; done
	@set -e; for t in $(CROSS_PROXYD); do os=$${t%/*}; arch=$${t#*/}; echo "proxyd $$t"; \
	  GOOS=$$os GOARCH=$$arch $(GO) build $(FLAGS) -o bin/$$os-$$arch/proxyd ./proxyd/cmd/proxyd; done

.PHONY: demo
demo: all ## the main job on this machine, live: peace, flood, death, drain; ends with PASS or FAIL
	bin/ms-lab demo

.PHONY: compose-demo
compose-demo: all ## the same in docker containers, with docker-compose; two minutes; nothing is left afterwards
	bin/ms-lab compose

.PHONY: bench-paper
bench-paper: all ## the paper's Tables 2 to 5 and detection, side by side; N=1000 is the paper's number
	bin/ms-lab paper $(if $(N),-n $(N))

.PHONY: bench-migrate
bench-migrate: all ## what a connection feels of a move: stalls, bytes, many sessions at once, memory
	bin/ms-lab migrate

.PHONY: bench-edge
bench-edge: all ## an edge under a flood of SYNs, beside syncookies, synproxy and haproxy: who gets in, what a SYN costs
	bin/ms-lab edge

.PHONY: bench-connect
bench-connect: all ## connect and 760 KB through MS against the plain proxy, interleaved, 200 each
	bin/ms-lab connect

.PHONY: test
test: all ## every test: unit (race detector), then real kernel; ends with N passed, N failed, N skipped
	@sh .ci/test

.PHONY: lint
lint: ## gofmt, vet (linux, darwin, windows), staticcheck, go fix
	@sh .ci/lint

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (default 10s)
	@sh .ci/fuzz

.PHONY: clean
clean: ## remove bin/ and out/
	rm -rf bin out

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24
