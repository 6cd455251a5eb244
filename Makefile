# make demo   set up, generate data, train, test with three kinds of sound, draw the page work_dirs/demo/index.html
# make test   set up and run the whole test suite
# make wheel  build the wheel into dist/: one for every Python from 3.10 and every torch from 2.10
# make test-wheel   install it beside another torch in a second environment and run the operator's tests there
# make outside   mamba-ssm and causal-conv1d without their CUDA build: their reference functions, for the tests
# make test-gpu   the CUDA kernels' tests on a GPU; without one they are skipped
# Needs Python 3.10 or later and make; g++ for the fast CPU operator. Each step is skipped when it is done already.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.14.1 torchvision==0.29.1
OUTSIDE ?= mamba-ssm==2.3.2.post1 causal-conv1d==1.7.0
PIP_FLAGS ?= -q --disable-pip-version-check

PY := $(VENV)/bin/python
SETUP := $(VENV)/.installed
DEMO := work_dirs/demo
CONFIG := configs/avs_mamba/avs_mamba_tiny_ms3_shapes.yaml
SHAPES := data/sounding_shapes
SHAPES_CSV := $(SHAPES)/Multi-sources/ms3_meta_data.csv
SOUNDS := real silence shuffle
METRICS := $(SOUNDS:%=$(DEMO)/test_%/metrics.json)

.DELETE_ON_ERROR:
.PHONY: setup demo test outside test-gpu wheel test-wheel lint clean

setup: $(SETUP)

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install $(PIP_FLAGS) --upgrade pip
	$(PY) -m pip install $(PIP_FLAGS) $(TORCH) "setuptools>=77" wheel ninja
	touch $@

$(SETUP): $(VENV)/.torch pyproject.toml setup.py $(wildcard csrc/cpu/* csrc/cuda/*)
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

test: $(SETUP)
	$(PY) -m pytest

outside: $(SETUP)
	@# FORCE_BUILD: no look-up of prebuilt CUDA wheels. --no-deps: the reference functions need none of theirs.
	MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_FORCE_BUILD=TRUE \
	  $(PY) -m pip install $(PIP_FLAGS) --no-build-isolation --no-deps $(OUTSIDE)

wheel: $(VENV)/.torch
	rm -f dist/avsmamba-*.whl
	AVSMAMBA_REQUIRE_EXT=1 $(PY) -m pip wheel $(PIP_FLAGS) --no-build-isolation --no-deps -w dist .
	@ls dist/avsmamba-*-cp310-abi3-*.whl

test-wheel: $(SETUP) wheel
	$(PY) -m pytest -m slow tests/test_wheel.py

test-gpu: $(SETUP)
	$(PY) -m pytest -m gpu -rs tests/ops

lint: $(SETUP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf build dist *.egg-info avsmamba/*.so work_dirs data
