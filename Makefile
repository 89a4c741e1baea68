# Two commands do everything on a fresh Debian machine with Go:
#   make demo    make test
export CGO_ENABLED = 0

# The emulator is needed only where KVM is missing or interpreted, but tests of
# the rig itself need it everywhere.
RIG_PACKAGES  = qemu-system-x86
TEST_PACKAGES = $(RIG_PACKAGES) gcc libc6-dev procps e2fsprogs qemu-utils \
	erofs-utils umoci skopeo docker-registry mmdebstrap attr acl

.DEFAULT_GOAL := help
.PHONY: help demo build test race fuzz bench lint kernel agent image upper testimages proto man check clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## install what is missing, build, and run a command in a microVM
	@scripts/deps.sh $(RIG_PACKAGES)
	@$(MAKE) --no-print-directory build
	@scripts/demo.sh

build: ## build bin/sandpit and bin/kvmrig
	go build -trimpath -o bin/ ./cmd/sandpit ./cmd/kvmrig

test: ## install what is missing and run every test
	@scripts/deps.sh $(TEST_PACKAGES)
	@$(MAKE) --no-print-directory build lint
	scripts/test.sh

race: ## run the pure tests under the race detector
	@scripts/deps.sh gcc libc6-dev
	CGO_ENABLED=1 go test -race -short ./...

fuzz: ## run every fuzz target for FUZZTIME (default 10s)
	scripts/fuzz.sh $(or $(FUZZTIME),10s)

bench: build ## measure against QEMU, side by side
	@scripts/deps.sh $(TEST_PACKAGES)
	scripts/bench.sh

lint: ## gofmt, go vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

kernel: ## rebuild the guest kernel from Debian's source package
	kernel/build.sh

agent: ## rebuild the initramfs that holds the guest's agent
	go run ./guest/initramfs/mkinitramfs

image: ## rebuild the embedded default image
	go run ./guest/defaultroot/mkroot

upper: ## rebuild the template of writable disks
	@scripts/deps.sh e2fsprogs
	go run ./guest/upper/mkupper

testimages: ## make the images that the end-to-end tests run
	@scripts/deps.sh $(TEST_PACKAGES)
	scripts/testimages.sh bin/testimages

proto: ## regenerate the agent's protocol
	@scripts/deps.sh protobuf-compiler
	guest/proto/generate.sh

man: ## rewrite the manual pages in docs/man
	SANDPIT_UPDATE_MAN=1 go test -count=1 -run '^TestHostManPagesAreCurrent$$' ./cmd/sandpit

check: lint test race ## lint, test and race

clean: ## remove what was built
	rm -rf bin
