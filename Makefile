# make demo   set up, generate data, train, test with three kinds of sound, draw the page work_dirs/demo/index.html
# make test   set up and run the quick suite
# make wheel  build the wheels into dist/, each for every Python from 3.10 and every torch from 2.10: one with the CPU
#             kernels, and, where nvcc is, one with the CUDA kernels as well (make wheel-cpu, make wheel-cuda: one of them)
# make test-wheel   install them beside another torch in a second environment and run the operator's tests there
# make test-slow   what asks for minutes: portable builds, tutorial, export, browser, instruction counts, an hour of video,
#                  every full-size config on an imagined GPU
# make test-watch   install Weights & Biases and MLflow beside the rest in an environment of their own, and test with them
# make outside   mamba-ssm and causal-conv1d without their CUDA build: their reference functions, for the tests
# make docs   build the documentation site into site/, without a network
# make test-gpu   the CUDA kernels' tests on a GPU; without one they are skipped
# Needs Python 3.10 or later and make; g++ for the fast CPU operator. Each step is skipped when it is done already.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.14.1 torchvision==0.29.1
OUTSIDE ?= mamba-ssm==2.3.2.post1 causal-conv1d==1.7.0
PIP_FLAGS ?= -q --disable-pip-version-check

# What `make test-wheel` builds and tests: wheel, or wheel-cpu to leave CUDA out.
WHEELS ?= wheel

# The folder that holds bin/nvcc, include/ and lib64/. The nvcc on the PATH may be a script elsewhere that calls it.
NVCC := $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(realpath $(shell command -v nvcc 2>/dev/null)))
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(NVCC))

PY := $(VENV)/bin/python
SETUP := $(VENV)/.installed
DEMO := work_dirs/demo
CONFIG := configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml
SHAPES := data/sounding_shapes
SHAPES_CSV := $(SHAPES)/Multi-sources/ms3_meta_data.csv
SOUNDS := real silence shuffle
METRICS := $(SOUNDS:%=$(DEMO)/test_%/metrics.json)

.DELETE_ON_ERROR:
.PHONY: setup demo test test-slow test-watch outside test-gpu wheel wheel-cpu wheel-cuda test-wheel docs lint words clean

setup: $(SETUP)

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install $(PIP_FLAGS) --upgrade pip
	$(PY) -m pip install $(PIP_FLAGS) $(TORCH) "setuptools>=77" wheel ninja
	touch $@

$(SETUP): $(VENV)/.torch pyproject.toml setup.py $(wildcard csrc/*.h csrc/cpu/* csrc/cuda/*)
	$(PY) -m pip install $(PIP_FLAGS) --no-build-isolation -e ".[dev]"
	@# mmengine pulls opencv-python, which needs a desktop's libGL; where that is missing, the headless build serves.
	$(PY) -c "import cv2" 2>/dev/null || { $(PY) -m pip uninstall $(PIP_FLAGS) -y opencv-python && \
	  $(PY) -m pip install $(PIP_FLAGS) --force-reinstall --no-deps opencv-python-headless; }
	touch $@

demo: $(DEMO)/index.html
	@echo "The demo's page: $(abspath $(DEMO)/index.html)"

$(SHAPES_CSV): | $(SETUP)
	$(PY) tools/make_sounding_shapes.py --subset ms3 --size 96 --seed 0 --splits train=1200,val=48,test=96 --out $(SHAPES)

$(DEMO)/trained: $(SHAPES_CSV) | $(SETUP)
	$(PY) tools/train.py $(CONFIG) --work-dir $(DEMO) --resume
	touch $@

$(DEMO)/test_%/metrics.json: $(DEMO)/trained
	$(PY) tools/test.py $(CONFIG) $$(ls $(DEMO)/best_M_J_*.pth) --audio $* --work-dir $(@D) --show-dir $(@D)/pictures

$(DEMO)/index.html: $(METRICS)
	$(PY) tools/make_report.py --demo-dir $(DEMO)

# Two processes of one thread each; a file's tests stay together, for its fixtures.
PARALLEL = OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

test: $(SETUP)
	$(PARALLEL)

test-slow: $(SETUP)
	AVSMAMBA_HOUR_LINES=180 $(PARALLEL) -m "slow" --ignore tests/test_wheel.py

outside: $(SETUP)
	@# FORCE_BUILD: no look-up of prebuilt CUDA wheels. --no-deps: the reference functions need none of theirs.
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE \
	  $(PY) -m pip install $(PIP_FLAGS) --no-build-isolation --no-deps $(OUTSIDE)

# What the two install must not change the versions of the rest.
.venv-watch/.installed: | $(SETUP)
	$(PY) -m venv $(@D)
	$(PY) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
	  "$$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/rest.pth"
	$(@D)/bin/python -m pip install $(PIP_FLAGS) wandb mlflow
	touch $@

test-watch: .venv-watch/.installed
	OMP_NUM_THREADS=1 $(<D)/bin/python -m pytest tests/engine/test_backends.py

# build/ would bring along what an earlier build put there.
BUILD_WHEEL = rm -rf build/bdist.* build/lib.* && env AVSMAMBA_REQUIRE_EXT=1 $(1) \
  $(PY) -m pip wheel $(PIP_FLAGS) --no-build-isolation --no-deps -w dist .

wheel: wheel-cpu
	@if [ ! -x "$(CUDA_HOME)/bin/nvcc" ]; then \
	  echo "no CUDA wheel: no nvcc in $(or $(CUDA_HOME),/usr/local/cuda or on the PATH) (CUDA_HOME=... says where)"; \
	elif ! $(PY) -c "import sys, torch; sys.exit(torch.version.cuda is None)"; then \
	  echo "no CUDA wheel: the torch in $(VENV) is a CPU build"; \
	else $(MAKE) --no-print-directory wheel-cuda; fi

wheel-cpu: $(VENV)/.torch
	rm -f $(filter-out $(wildcard dist/avsmamba-*+cu*),$(wildcard dist/avsmamba-*.whl))
	$(call BUILD_WHEEL,AVSMAMBA_NO_CUDA=1)
	@ls dist/avsmamba-*-cp310-abi3-*.whl

wheel-cuda: $(VENV)/.torch
	@[ -x "$(CUDA_HOME)/bin/nvcc" ] || { echo "no nvcc in '$(CUDA_HOME)': set CUDA_HOME" >&2; exit 1; }
	rm -f dist/avsmamba-*+cu*.whl
	$(call BUILD_WHEEL,FORCE_CUDA=1 CUDA_HOME="$(CUDA_HOME)")
	@ls dist/avsmamba-*+cu*-cp310-abi3-*.whl

test-wheel: $(SETUP) $(WHEELS)
	$(PY) -m pytest -m slow -rs tests/test_wheel.py

test-gpu: $(SETUP)
	$(PY) -m pytest -m gpu -rs tests/ops

docs: $(SETUP)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet
	@echo "The documentation: $(abspath site/index.html); with search: $(PY) -m http.server -d site"

lint: $(SETUP) words
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

# The expressions of the word list in CONTRIBUTING.md.
WORDS = $(shell sed -n '/^| not | but |/,/^$$/s/^| `\([^`]*\)` .*/\1/p' CONTRIBUTING.md | paste -sd '|')

words:
	@[ -n "$(WORDS)" ] || { echo "CONTRIBUTING.md: the word list was not found" >&2; exit 1; }
	@! git grep -nE '\b($(WORDS))\b' -- avsmamba tools csrc docs || \
	  { echo "words that CONTRIBUTING.md replaces (section Words)" >&2; exit 1; }

clean:
	rm -rf build dist *.egg-info avsmamba/*.so work_dirs data site
