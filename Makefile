# `make help` lists what there is. Every target that needs Python sets up .venv by itself, once.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS ?= dev,bench

TASK ?= classification
CONFIG_classification := configs/classification/fashion_mnist.yaml
CONFIG_detection := configs/detection/fashion_scenes.yaml
CONFIG_segmentation := configs/segmentation/land_cover.yaml
CONFIG_seq2seq := configs/seq2seq/cmudict.yaml
CONFIG_forecasting := configs/forecasting/tourism_monthly.yaml
CONFIG ?= $(CONFIG_$(TASK))
ARGS ?=
RUN ?= latest
TARGET ?= x86
PORT ?= 5000
ENDPOINT ?= configs/endpoints/fashion_mnist_ab.yaml
ATHERIS := build/atheris

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "  variables: TASK=$(TASK) CONFIG=$(CONFIG) ARGS='key=value ...' RUN=$(RUN) TARGET=x86|arm|cuda ENDPOINT=$(ENDPOINT) PORT=$(PORT)"

$(STAMP): pyproject.toml constraints.txt
	@echo "== setting up $(VENV) with $$($(PYTHON) --version) (PyTorch alone is about 5 GB; two to five minutes, once)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11 to 3.13 is needed, this is %d.%d: make PYTHON=python3.12 ..." % v)'
	@$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $(STAMP)
	@echo "== set up; $(BIN)/lab doctor tells what this machine can do"

setup: $(STAMP) ## Install everything into .venv (done by the other targets when needed)

setup-arm: ## Install the ARM cross-compiler, qemu and llvm-mca from the distribution (needs root or sudo)
	@echo "== installing gcc/g++ for aarch64, qemu-user and llvm-mca"
	@sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -qq && $$sudo apt-get install -y -qq gcc-aarch64-linux-gnu g++-aarch64-linux-gnu qemu-user-static g++ && \
	  $$sudo apt-get install -y -qq --no-install-recommends llvm

train: $(STAMP) ## Train TASK=classification|detection|segmentation|seq2seq|forecasting, tracked in MLflow
	$(BIN)/lab train $(CONFIG) $(ARGS)

export: $(STAMP) ## Export RUN to ONNX
	$(BIN)/lab export $(RUN)

compile: $(STAMP) ## Compile RUN for TARGET=x86|arm|cuda (or x86:znver4, arm:cortex-a53, cuda:sm_80, ...)
	$(BIN)/lab compile $(RUN) --target $(TARGET)

tune-kernels: $(STAMP) ## Measure kernel parameters for RUN on this machine; make compile uses what is faster
	$(BIN)/lab tune-kernels $(RUN) --target $(TARGET) $(ARGS)

bench: $(STAMP) ## Measure RUN: PyTorch, ONNX Runtime, OpenVINO, TVM bundles side by side
	$(BIN)/lab bench $(RUN)

serve: $(STAMP) ## Serve weighted A/B variants of ENDPOINT on http://127.0.0.1:8080 (ARGS='port=8081 ...')
	$(BIN)/lab serve $(ENDPOINT) $(ARGS)

ui: $(STAMP) ## Open the MLflow UI on http://127.0.0.1:PORT
	$(BIN)/lab ui --port $(PORT)

test: $(STAMP) ## Run every fast test
	$(BIN)/pytest -m "not slow" $(ARGS)

test-all: $(STAMP) ## Run the slow tests too
	$(BIN)/pytest $(ARGS)

check: $(STAMP) ## ruff, mypy --strict, import layers, shell scripts, Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck .ci/run docker/*.sh
	$(BIN)/hadolint docker/*.Dockerfile

format: $(STAMP) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-train: $(STAMP) ## Training throughput against a plain PyTorch loop
	$(BIN)/python benchmarks/train_throughput.py $(CONFIG) $(ARGS)

bench-forecasting: $(STAMP) ## DeepAR against GluonTS's: quality, training and prediction speed
	$(BIN)/python benchmarks/forecasting_quality.py $(ARGS)

bench-seq2seq: $(STAMP) ## Seq2seq against JoeyNMT's RNN: quality, training and decoding speed
	$(BIN)/python benchmarks/seq2seq_quality.py $(ARGS)

bench-compile: $(STAMP) ## Inference latency of nine models: this compiler, ONNX Runtime, OpenVINO, torch eager and compiled
	$(BIN)/python benchmarks/compile_latency.py $(ARGS)

bench-others: $(STAMP) ## The same of torchvision's other networks, for which no schedule was written
	$(BIN)/python benchmarks/compile_latency.py --others $(ARGS)

bench-int8: $(STAMP) ## Inference latency in 8 bits: this compiler's float32 and int8 beside ONNX Runtime's (needs VNNI)
	$(BIN)/python benchmarks/int8_latency.py $(ARGS)

arm-kernels: $(STAMP) ## Inner loops of nine models' kernels for a Cortex-A72 by llvm-mca, and their results under qemu
	$(BIN)/python benchmarks/arm_kernels.py $(ARGS)

onnx-conformance: $(STAMP) ## The onnx package's operator tests through the compiler: passed, unsupported, wrong
	$(BIN)/python benchmarks/onnx_conformance.py $(ARGS)

third-party: $(STAMP) ## ONNX files shipped in PyPI packages, compiled and compared with ONNX Runtime
	$(BIN)/python benchmarks/third_party_onnx.py $(ARGS)

edge: $(STAMP) ## Build what a device needs into edge/: lab_run, liblab.so, lab.h, TVM's runtime (ARGS='--arch aarch64')
	$(BIN)/lab edge $(ARGS)

footprint: $(STAMP) ## Installed size and resident memory with ResNet-18: ours, ONNX Runtime, OpenVINO, PyTorch
	$(BIN)/python benchmarks/footprint.py $(ARGS)

demo-canary: $(STAMP) ## Train, compile, serve; a better model is promoted, a broken one rolled back; then MLflow
	$(BIN)/python benchmarks/demo_canary.py $(ARGS)

load-test: $(STAMP) ## What the endpoint adds to a model, beside FastAPI, LitServe and mlflow models serve
	$(BIN)/python benchmarks/load_test.py $(ARGS)

soak: $(STAMP) ## An endpoint at 80 % of its capacity for an hour: memory, files, threads, errors (ARGS='--minutes 3')
	$(BIN)/python -m benchmarks.soak $(ARGS)

kill-test: $(STAMP) ## What is lost when workers are killed, the endpoint ends, queues fill, a variant goes bad
	$(BIN)/python -m benchmarks.kill_test $(ARGS)

fuzz: $(STAMP) ## Mutated inputs to every parser that strangers' bytes reach, 10 minutes (ARGS='--target oip --seconds 60')
	@[ -d $(ATHERIS) ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(ATHERIS) 'atheris==3.0.0' \
	  || echo "atheris cannot be installed here: inputs are mutated without the guidance of coverage"
	PYTHONPATH=$(ATHERIS):$${PYTHONPATH:-} $(BIN)/python -m benchmarks.fuzz $(ARGS)

gpu-check: ## On a GPU machine: train, run CUDA bundles, time both; writes benchmarks/results/ (no set-up, uses PYTHON)
	$(PYTHON) benchmarks/gpu_check.py $(ARGS)

docker: ## Build the images with Docker
	docker/build.sh

docker-check: ## Build and try the same images without a Docker daemon (buildah, debootstrap; needs root)
	docker/check.sh

clean: ## Remove .venv and caches (runs/, data/ and mlflow.db stay)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info

.PHONY: help setup setup-arm train export compile tune-kernels bench serve ui test test-all check format bench-train bench-forecasting bench-seq2seq bench-compile bench-others bench-int8 arm-kernels onnx-conformance third-party edge footprint demo-canary load-test soak kill-test fuzz gpu-check docker docker-check clean
