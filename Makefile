# `make` lists the targets. Everything that is downloaded or built lies outside the checkout, in ~/.cache/bistro.

CACHE ?= $(HOME)/.cache/bistro
export CARGO_TARGET_DIR ?= $(CACHE)/target
# Always the whole workspace: cargo unifies features over what it builds, and another set is another build.
CARGO_FLAGS := --release --workspace --locked
BIN := $(CARGO_TARGET_DIR)/release
TOOLS := $(CACHE)/tools
CORPUS ?= $(CACHE)/corpus
TEXT := $(CACHE)/text
# Kubernetes for the tests; the version is pinned where it is built.
export BISTRO_KUBE ?= $(CACHE)/kube/$(shell awk '$$1 == "k8s.io/kubernetes" { print $$2 }' hack/kube/kubernetes/go.mod)

# make images
IMAGES ?= $(CACHE)/images
# Certificates of public authorities, for HTTPS to buckets and chains
ROOTS ?= $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt))

# make up
MECHANISM ?=
MANIFESTS ?= manifests/$(if $(MECHANISM),$(MECHANISM)/)quickstart.yaml
BLOCK_TIME ?= 500ms
WINDOWS ?=
SUMMARY ?=
STATE ?=

# make fuzz
FUZZ := $(CACHE)/fuzz
TARGET ?=
SECONDS ?= 60

.DEFAULT_GOAL := help
TARGETS := $(shell sed -nE 's/^([a-z0-9-]+):.*\#\# .*/\1/p' Makefile)
.PHONY: $(TARGETS) checkout

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: build corpus ## Run a whole subnet on this machine until Ctrl-C (MECHANISM=taylor WINDOWS=3 SUMMARY=out.json)
	$(BIN)/bistro up -f $(MANIFESTS) --devnet-corpus $(CORPUS) --block-time $(BLOCK_TIME) \
		$(if $(WINDOWS),--windows $(WINDOWS)) $(if $(SUMMARY),--summary $(SUMMARY)) $(if $(STATE),--state $(STATE))

# More threads than cores: most tests wait for blocks most of the time.
test: kube-tools ## Unit, property, golden and integration tests, against a real API server
	RUST_TEST_THREADS=4 cargo test $(CARGO_FLAGS)

# A test program remembers where its checkout lies, and cargo does not notice that another one has filled the folder.
$(filter build test% bench% e2e soak simulate, $(TARGETS)): checkout
checkout:
	@mkdir -p $(CARGO_TARGET_DIR)
	@echo $(CURDIR) | cmp -s - $(CARGO_TARGET_DIR)/checkout || \
		{ grep -rlE 'CARGO_MANIFEST_DIR|insta::' --include='*.rs' . | xargs touch && echo $(CURDIR) > $(CARGO_TARGET_DIR)/checkout; }

kube-tools: ## Build API server, controllers, kubectl, helm, Prometheus for the tests (6 minutes, once)
	@hack/kube/build control $(BISTRO_KUBE)

node-tools: kube-tools ## Build and install what a real node needs besides (2 minutes, once)
	@hack/kube/build node $(BISTRO_KUBE)
	@hack/kube/packages

# One at a time: each has the node's GPUs and the machine's cores to itself.
e2e: node-tools images ## The chart, the operator and a subnet on a real node of this machine (needs root)
	BISTRO_IMAGES=$(IMAGES) cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture --test-threads 1 e2e_

PYTHON := $(CACHE)/python

# Marked with what it was made of: another version is another environment.
$(PYTHON)/requirements.txt: hack/interop/requirements.txt
	python3 -m venv $(PYTHON)
	$(PYTHON)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	cp $< $@

python: $(PYTHON)/requirements.txt ## Install Python's transformers and torch into ~/.cache/bistro/python (6 GB, once)

test-interop: build python ## Compare exports, imports, logits and generation with transformers
	BISTRO_PYTHON=$(PYTHON)/bin/python cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture --test-threads 1 interop::

test-decoders: ## A million damaged inputs for each decoder (DECODER=artifact,settings INPUTS=10000000)
	cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture a_million_inputs

fuzz: build $(TOOLS)/bin/cargo-fuzz ## Fuzz a decoder (TARGET=artifact SECONDS=60); without TARGET: list them
	$(if $(TARGET),,@$(BIN)/seeds; exit 2)
	mkdir -p $(FUZZ)/corpus/$(TARGET)
	$(BIN)/seeds $(TARGET) $(FUZZ)/seeds/$(TARGET)
	cp Cargo.lock fuzz/Cargo.lock
	cd fuzz && DECODER=$(TARGET) RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(FUZZ)/target $(TOOLS)/bin/cargo-fuzz run -s none decoder \
		$(FUZZ)/corpus/$(TARGET) $(FUZZ)/seeds/$(TARGET) -- -max_total_time=$(SECONDS) -max_len=65536 -rss_limit_mb=1024

$(TOOLS)/bin/cargo-fuzz:
	CARGO_TARGET_DIR=$(TOOLS)/target cargo install cargo-fuzz --version 0.13.2 --locked --root $(TOOLS)

build: ## Build all programs
	cargo build $(CARGO_FLAGS) --bins

CUDA := $(CACHE)/cuda
CUDA_TARGET := $(CACHE)/target-cuda
# Cargo for the device's tests, where bistro-worker is built for GPUs.
IN_CUDA = hack/cuda/build $(CUDA) $(CUDA_TARGET) cargo test --release --locked --package bistro-worker --features cuda --lib --

build-cuda: ## Build bistro-worker for NVIDIA GPUs, without one: ~/.cache/bistro/target-cuda (20 minutes and 3 GB, once)
	@hack/cuda/build $(CUDA) $(CUDA_TARGET)

test-cuda: ## Gradients and training on a GPU beside the engine's own; says so where none answers
	$(IN_CUDA) --nocapture --test-threads 1 engine::device

bench-cuda: ## Training on a GPU: tokens a second in f32 and bf16
	$(IN_CUDA) --ignored --nocapture --test-threads 1 bench_cuda

corpus: build ## Collect the quickstart's text from the crates in Cargo.lock
	@hack/corpus $(CORPUS)

IN_BISTRO := $(ROOTS)=/etc/ssl/certs/ca-certificates.crt
IN_WORKER := $(IN_BISTRO)
IN_DEVNET := $(CORPUS)=/corpus

images: build corpus ## Write the container images to ~/.cache/bistro/images: one tar for each program
	@hack/image bistro $(BIN)/bistro $(IMAGES)/bistro.tar $(IN_BISTRO)
	@hack/image bistro-worker $(BIN)/bistro-worker $(IMAGES)/bistro-worker.tar $(IN_WORKER)
	@hack/image bistro-devnet $(BIN)/bistro-devnet $(IMAGES)/bistro-devnet.tar $(IN_DEVNET)

# Where GKE and other container runtimes than Docker's put the driver.
CUDA_VARIABLES := --env LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/lib64 --env NVIDIA_DRIVER_CAPABILITIES=compute,utility
image-cuda: build-cuda ## Write the worker's image for NVIDIA GPUs: ~/.cache/bistro/images/bistro-worker-cuda.tar
	@hack/image $(CUDA_VARIABLES) bistro-worker-cuda $(CUDA_TARGET)/release/bistro-worker $(IMAGES)/bistro-worker-cuda.tar $(IN_WORKER)

image-root: build corpus ## Write the files of the images only, for the Dockerfile
	@hack/image --root bistro $(BIN)/bistro $(IMAGES)/root/bistro $(IN_BISTRO)
	@hack/image --root bistro-worker $(BIN)/bistro-worker $(IMAGES)/root/bistro-worker $(IN_WORKER)
	@hack/image --root bistro-devnet $(BIN)/bistro-devnet $(IMAGES)/root/bistro-devnet $(IN_DEVNET)

check-images: images ## Run the images with containerd and runc (needs root)
	hack/check-images $(IMAGES)/bistro.tar $(IMAGES)/bistro-worker.tar $(IMAGES)/bistro-devnet.tar

generate: build corpus ## Write anew: crds/, the chart's copies and table of values, the quickstart's dataset digest
	$(BIN)/bistro crds --to crds
	$(BIN)/bistro crds --to charts/bistro/files/crds
	hack/chart-values charts/bistro
	hack/digest $(BIN)/bistro-worker $(CORPUS) manifests/quickstart.yaml
	hack/mechanisms manifests

check-generated: build corpus ## Fail if generated files are not what `make generate` would write
	$(BIN)/bistro crds --check crds
	$(BIN)/bistro crds --check charts/bistro/files/crds
	hack/chart-values --check charts/bistro
	hack/digest --check $(BIN)/bistro-worker $(CORPUS) manifests/quickstart.yaml
	hack/mechanisms --check manifests

fmt: ## Format the code
	cargo fmt --all

check-fmt: ## Fail if the code is not formatted
	cargo fmt --all --check

clippy: ## Lint; warnings are errors
	cargo clippy $(CARGO_FLAGS) --all-targets

doc: ## Build the documentation of the code; broken links are errors
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc $(CARGO_FLAGS) --no-deps --document-private-items

deny: $(TOOLS)/bin/cargo-deny ## Check licenses, sources and banned crates
	$< --log-level error check bans licenses sources

$(TOOLS)/bin/cargo-deny:
	CARGO_TARGET_DIR=$(TOOLS)/target cargo install cargo-deny --version 0.20.2 --locked --root $(TOOLS)

timings: ## Build with a report of where the time went
	cargo build $(CARGO_FLAGS) --bins --timings

bench-protocol: ## Merge, permutations, slices, signatures, files: time and memory
	cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture bench_protocol

# Everything that is measured beside torch, one part at a time. MODEL=small: the training of this model alone.
BESIDE_TORCH = BISTRO_PYTHON=$(PYTHON)/bin/python cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture --test-threads 1 --exact
KERNELS := kernels_bench::bench_cosine kernels_bench::bench_topk kernels_bench::bench_wire

bench-engine: python ## Training and kernels beside torch: tokens a second, memory, gradients (MODEL=tiny)
	$(BESIDE_TORCH) engine_bench::bench_engine $(if $(MODEL),,$(KERNELS))

bench-text: build ## Collect the text of the benchmarks, the same for ever: pinned in tests/text
	@$(BIN)/corpus tests/text/Cargo.toml $(TEXT)

# One benchmark at a time: each uses all cores.
BENCH = BISTRO_TEXT=$(TEXT) cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture --test-threads 1

bench-convergence: bench-text ## Loss of one miner and of many: dense, at ratio 10 and 4, without the gain, with fresh moments, one step a window, compressed
	$(BENCH) bench_convergence

bench-adversaries: bench-text ## What each cheat earns, with kept and with fresh moments
	$(BENCH) bench_adversaries

bench-validator: bench-text ## Miners that a validator evaluates per second and core, by mechanism
	$(BENCH) bench_validator

bench-kernels: python ## Dot products, norms, the largest entries and the bytes of compressed work, beside torch
	$(BESIDE_TORCH) $(KERNELS)

simulate: bench-text ## What honest work and each cheat earn by mechanism; writes docs/mechanisms.md (15 minutes)
	BISTRO_DOCS=$(CURDIR)/docs $(BENCH) simulate::simulate

bench-sweep: bench-text ## Loss of the quickstart at other rates and ratios (20 minutes)
	$(BENCH) bench_sweep

bench-prepare: ## Text per second through `dataset prepare`, by format and tokenizer
	cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture bench_prepare

bench-join: ## How long a node takes that joins 200 windows late, and what it downloads
	$(BENCH) bench_join

bench-churn: ## 200 random kills over miners, validators and averager (KILLS=200 SEED=1)
	$(BENCH) bench_churn

PEERS := $(CACHE)/peers
# N=200 NAMESPACES=1 ROUNDS=1 IDLE=60 TRIALS=20 SUBJECTS="floor crbase bistro kuberay" WHAT="idle drift handover"
bench-operator: build kube-tools peers ## The operator beside two others: time, writes, memory (N=200 ROUNDS=1 IDLE=60)
	BISTRO_PEERS=$(PEERS) $(BENCH) bench_operator

peers: ## Build the operators that bench-operator compares with (6 minutes once)
	hack/peers/build $(PEERS) $(SUBJECTS)

soak: ## Outages of five minutes of chain, bucket, clock and disk (OUTAGE_SECONDS=300)
	$(BENCH) soak
