# kthwc: see README.md. Every target is one line of `make help`.
GO ?= go

# Tests that package raceless leaves to this command.
RACELESS = ./internal/perturb ./pkg/pki ./pkg/render -run \
	'^(TestOriginsTellTheTruth|TestPlansNameWhatAChangeTouches|TestEveryHandshakeInEveryMix|TestHostileTextChangesNoStructure)$$'

.PHONY: build test check lint golden docs fuzz bench bench-pki bench-apply readers lab-artifacts demo help

build: ## build bin/kthwc
	$(GO) build -o bin/kthwc ./cmd/kthwc

test: ## run all tests, with the race detector but for those that try everything in one goroutine
	$(GO) test -race -timeout 40m $(TESTFLAGS) ./...
	$(GO) test -timeout 40m $(TESTFLAGS) $(RACELESS)

check: test ## everything that CI runs: format, vet on Linux and macOS, staticcheck, generated files
	@test -z "$$(gofmt -l cmd internal lab pkg schema readers)" || { echo "not gofmt-ed:"; gofmt -l cmd internal lab pkg schema readers; exit 1; }
	$(GO) vet ./...
	GOOS=darwin $(GO) vet ./...
	$(GO) tool staticcheck ./...
	cd schema && $(GO) run ./gen
	git diff --exit-code schema/versions.json

lint: ## run golangci-lint with .golangci.yml, where it is installed
	@command -v golangci-lint >/dev/null || { echo "golangci-lint is not installed; see .golangci.yml"; exit 1; }
	golangci-lint run ./...

golden: ## rewrite golden/ (fails once, so that an update cannot pass unseen)
	status=0; $(GO) test ./golden -update || status=1; $(GO) test ./cmd/kthwc -run TestRotationGoldens -update-rotations || status=1; exit $$status

docs: ## write the generated pages of docs/
	$(GO) generate ./internal/docs
	$(GO) run ./cmd/kthwc man --format markdown -o docs

fuzz: ## fuzz what reads foreign bytes, 30 seconds each
	$(GO) test ./schema -fuzz FuzzLoad -fuzztime 30s
	$(GO) test ./schema -fuzz FuzzFormat -fuzztime 30s
	$(GO) test ./pkg/secret -fuzz FuzzSplit -fuzztime 30s
	$(GO) test ./pkg/pki -fuzz FuzzGeneration -fuzztime 30s -fuzzminimizetime 10x
	$(GO) test ./pkg/emit -fuzz FuzzArgument -fuzztime 30s
	$(GO) test ./pkg/emit -fuzz FuzzYAML -fuzztime 30s
	$(GO) test ./pkg/emit -fuzz FuzzFormats -fuzztime 30s
	$(GO) test ./pkg/emit -fuzz FuzzUnit -fuzztime 30s
	$(GO) test ./pkg/artifact -fuzz FuzzLock -fuzztime 30s
	$(GO) test ./pkg/artifact -fuzz FuzzArchive -fuzztime 30s
	$(GO) test ./pkg/lab -fuzz FuzzAnswer -fuzztime 30s
	$(GO) test ./pkg/apply/sshconn -fuzz FuzzConfig -fuzztime 30s
	$(GO) test ./pkg/apply/sshconn -fuzz FuzzKnownHosts -fuzztime 30s

bench: ## measure load, build and write at 6, 500 and 5,000 nodes
	$(GO) test ./internal/bench ./cmd/kthwc ./pkg/apply/sshconn -run '^$$' -bench .

bench-pki: ## measure issuing and reading back, against the tutorial's way (which it builds)
	$(GO) test ./internal/bench -run '^$$' -bench 'Issue|Look' -benchtime 1x -timeout 30m
	$(GO) test ./cmd/kthwc -run '^$$' -bench IssueProcess -benchtime 5x -timeout 30m

bench-apply: ## measure apply against ssh, tar and Ansible on the lab's hosts (needs root), and on 500 in one process
	sh internal/bench/apply.sh

readers: ## build the programs that judge what is rendered (Kubernetes' own code; slow the first time)
	sh readers/build.sh

lab-artifacts: ## build what a cluster runs (Kubernetes and all that goes with it) into build/artifacts; slow the first time
	sh lab/artifacts/build.sh

demo: ## boot a whole cluster on this machine (Linux, root) and verify it; `lab/demo.sh down` throws it away
	sh lab/demo.sh

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 16
