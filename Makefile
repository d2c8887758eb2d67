# Two commands do everything on a Debian or Ubuntu machine with a C++ compiler:
#   make demo    environment, install, then export, verify and benchmark of the shipped checkpoint
#   make test    environment, install, the whole suite
# On a machine with an NVIDIA GPU: make test-gpu.

PYTHON ?= python3
VENV   ?= .venv
# Processes that run the tests.
JOBS   ?= 2
# Where pip finds PyTorch's CPU build, if not on the configured index: TORCH_INDEX=URL (see README).
TORCH_INDEX ?=
EXTRAS := export,cpu,plot,test
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed
NATIVE := $(shell find custom_ops -type f 2>/dev/null)

.PHONY: demo test test-gpu lint types env bench clean

demo: $(STAMP)
	@mkdir -p build/demo
	$(BIN)/edgeconv export examples/resnet_kerv.pt --output build/demo/resnet_kerv.onnx --inputs examples/mnist_test_200.npz
	$(BIN)/edgeconv inspect build/demo/resnet_kerv.onnx
	$(BIN)/edgeconv bench build/demo/resnet_kerv.onnx --provider cpu --compare --output build/demo/bench.json

test: $(STAMP) lint types
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal

test-gpu: $(STAMP)
	EDGECONV_CUDA_LIBRARY="$$($(BIN)/python -c 'import edgeconv; print(edgeconv.op_library())')" \
	  $(BIN)/python -m pytest tests/native tests/runtime tests/bench

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# models/ and cli.py become edgeconv.models and edgeconv.cli in the wheel; mypy sees them in their places there.
types: $(STAMP)
	@rm -rf build/types && mkdir -p build/types/edgeconv
	@ln -s $(CURDIR)/edgeconv/* $(CURDIR)/models $(CURDIR)/cli.py build/types/edgeconv/
	cd build/types && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p edgeconv

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@command -v $${CXX:-c++} >/dev/null || { echo "No C++ compiler found: install one (apt-get install g++), or set CXX."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.10 to 3.13: set PYTHON=/path/to/python3."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Cannot make a virtual environment: apt-get install python3-venv."; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

bench: $(STAMP)
	$(BIN)/python benchmarks/kervolution_cpu.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
