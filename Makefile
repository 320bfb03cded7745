# The verbs of fastinpaint. `make` prints them. Each makes a virtual environment in .venv if there is none.

VENV   ?= .venv
PYTHON ?= python3
RUN    := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
NEWEST ?= .venv-newest
WITH_TORCH := tests/ops tests/nn tests/accelerate tests/models tests/training tests/strangers
NATIVE := $(shell find csrc -name "*.cpp" -o -name "*.cu" -o -name "*.cuh" -o -name "*.h")

.DEFAULT_GOAL := help
.PHONY: help install demo check test lint types check-cpu check-triton strangers sanitized wide test-newest-torch fix docs wheel bench figures swap report bad-inputs gpu-bounds gpu-estimate gpu-check wheel-check clean

help: ## print these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install the package with what its tests need

# --no-compile: an import compiles what it needs
$(STAMP): pyproject.toml setup.py constraints.txt $(NATIVE)
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,strangers]'
	touch $(STAMP)

demo: $(STAMP) ## train, evaluate and inpaint on rendered clips; results in ./demo
	$(RUN) -m fastinpaint demo --out demo

check: $(STAMP) ## lint, types and the tests of what changed since origin/main (BASE=revision), for 110 seconds
	$(RUN) -m tools.verify.check $(if $(BASE),--base $(BASE))

test: lint types check-cpu check-triton ## everything that continuous integration runs

lint: $(STAMP) ## ruff: rules and format; codespell
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	@$(RUN) -m codespell_lib $(shell git ls-files '*.py' '*.md' '*.cpp' '*.h' '*.cu' '*.cuh' '*.toml' '*.yml')

types: $(STAMP) ## mypy
	$(RUN) -m mypy

check-cpu: $(STAMP) ## pytest: the package, the CPU kernels, the CUDA kernels emulated and sanitized
	$(RUN) -m pytest tests -n 2 --dist loadfile --durations 15

strangers: $(STAMP) ## pytest: what accelerate computes on every public network of tests/strangers
	$(RUN) -m pip install --quiet --no-deps segmentation-models-pytorch dynamic-network-architectures einops monai ultralytics ultralytics-thop
	STRANGERS=all $(RUN) -m pytest tests/strangers -n 2

sanitized: $(STAMP) ## pytest: every CUDA kernel, emulated, under the sanitizers; make test leaves float16 to the plain build
	SANITIZED=all $(RUN) -m pytest tests/ops/cuda/test_sanitizers.py tests/ops/conv_block/cuda/test_hopper_sanitizers.py -n 2 --dist loadfile -k clean

wide: $(STAMP) ## pytest: the AVX-512 code of the CPU kernels, and AMX's, on a processor that has neither
	$(RUN) -m tools.verify.wide avx512bf16
	$(RUN) -m tools.verify.wide amx tests/ops/conv_block/cpu/test_bf16.py -n 2

test-newest-torch: ## pytest: ops, layers, networks with the newest torch and Triton, in an environment of their own
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --editable '.[dev,strangers]'
	$(NEWEST)/bin/python -m pytest $(WITH_TORCH) -n 2
	TRITON_INTERPRET=1 $(NEWEST)/bin/python -m pytest tests/ops -n 2

check-triton: $(STAMP) ## pytest: the Triton kernels, interpreted under the guard, and compiled without a GPU
	TRITON_INTERPRET=1 $(RUN) -m pytest tests -n 2 --durations 10

fix: $(STAMP) ## apply ruff's fixes and formats, clang-format
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE)

docs: $(STAMP) ## the pages and the API reference, in build/site
	$(RUN) -m mkdocs build --strict

bench: $(STAMP) ## pytest benchmarks: ops, layers, steps beside plain PyTorch; rows in benchmarks/results
	$(RUN) -m pytest benchmarks --benchmark-only

figures: $(STAMP) ## every CPU figure that the README shows, on a quiet machine; resumes where it stopped
	$(RUN) -m benchmarks.figures $(PARTS)

swap: $(STAMP) ## a plain U-Net before and after one line: seconds a step
	$(RUN) -m benchmarks.swap.measure

report: $(STAMP) ## rows to pictures and one page, in build/report
	$(RUN) -m benchmarks.report

bad-inputs: $(STAMP) ## every bad input of the grammar on every command, and the counts into docs/reliability.md
	rm -f build/bad-inputs.jsonl && mkdir -p build
	$(RUN) -m tools.verify.bad_inputs --results build/bad-inputs.jsonl
	$(RUN) -m tools.verify.bad_inputs.report build/bad-inputs.jsonl

gpu-bounds: $(STAMP) ## what every convolution's machine code can reach, held to docs/results; no GPU (WRITE=--write)
	$(RUN) -m tools.inspect.layer_bounds $(WRITE)

gpu-estimate: $(STAMP) ## a training step's time on an H200, estimated from machine code; no GPU
	$(RUN) -m tools.inspect.layer_bounds --estimate

gpu-check: ## all that only a GPU can show, into build/gpu-check or OUT (RUN=python3: an interpreter that has torch)
	$(RUN) -m benchmarks.gpu_check $(if $(OUT),--out $(OUT)) $(if $(PARTS),--parts $(PARTS)) $(if $(WITHIN),--seconds $(WITHIN))

wheel: $(STAMP) ## one py3-none wheel for this platform, in dist/
	$(RUN) -m pip wheel --quiet --no-deps --wheel-dir dist .

wheel-check: $(STAMP) ## the wheel, in fresh environments with torch 2.11 and 2.13 (TORCH="2.12.0": with others)
	$(RUN) -m tests.wheel_check $(if $(TORCH),--torch $(TORCH))

clean: ## remove what was built
	rm -rf build dist demo fastinpaint/*.so *.egg-info .pytest_cache .ruff_cache .mypy_cache
