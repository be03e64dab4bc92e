# `make` lists the targets. Everything that is downloaded or built lies outside the checkout, in ~/.cache/bistro.

CACHE ?= $(HOME)/.cache/bistro
export CARGO_TARGET_DIR ?= $(CACHE)/target
# Always the whole workspace: cargo unifies features over what it builds, and another set is another build.
CARGO_FLAGS := --release --workspace --locked
BIN := $(CARGO_TARGET_DIR)/release
TOOLS := $(CACHE)/tools
CORPUS ?= $(CACHE)/corpus

# make up
MANIFESTS ?= manifests/quickstart.yaml
BLOCK_TIME ?= 500ms
WINDOWS ?=
SUMMARY ?=
STATE ?=

.DEFAULT_GOAL := help
.PHONY: help up test build corpus generate check-generated fmt check-fmt clippy doc deny timings bench-engine bench-convergence bench-churn soak

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: build corpus ## Run a whole subnet on this machine until Ctrl-C (WINDOWS=3 SUMMARY=out.json BLOCK_TIME=500ms)
	$(BIN)/bistro up -f $(MANIFESTS) --devnet-corpus $(CORPUS) --block-time $(BLOCK_TIME) \
		$(if $(WINDOWS),--windows $(WINDOWS)) $(if $(SUMMARY),--summary $(SUMMARY)) $(if $(STATE),--state $(STATE))

test: ## Unit, property, golden and integration tests
	cargo test $(CARGO_FLAGS)

build: ## Build all programs
	cargo build $(CARGO_FLAGS) --bins

corpus: build ## Collect the quickstart's text from the crates in Cargo.lock
	@hack/corpus $(CORPUS)

generate: build corpus ## Write crds/ and the dataset digest of the quickstart anew
	$(BIN)/bistro crds --to crds
	hack/digest $(BIN)/bistro-worker $(CORPUS) manifests/quickstart.yaml

check-generated: build corpus ## Fail if generated files are not what `make generate` would write
	$(BIN)/bistro crds --check crds
	hack/digest --check $(BIN)/bistro-worker $(CORPUS) manifests/quickstart.yaml

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

bench-engine: ## Training throughput of the models that are built in
	cargo test $(CARGO_FLAGS) --lib -- --ignored --nocapture bench_

bench-convergence: corpus ## Loss of one miner, three dense, three at ratio 4, and without the gain
	BISTRO_CORPUS=$(CORPUS) cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture bench_convergence

bench-churn: ## 200 random kills over miners, validators and averager (KILLS=200 SEED=1)
	cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture bench_churn

soak: ## Outages of five minutes of chain, bucket, clock and disk (OUTAGE_SECONDS=300)
	cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture soak
