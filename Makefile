# Short targets; each makes .venv and installs what it needs by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-oldest test-pythons check docs docs-figures bench gpu build clean

demo: .venv/installed  ## made-up patients through the whole chain, one to two minutes on two quiet cores
	$(BIN)/lungunet demo --out demo --overwrite

test: .venv/installed-dev  ## the whole suite
	$(BIN)/python -m pytest -n 2

test-oldest: .venv-oldest/installed  ## the suite on the lowest versions that pyproject.toml allows
	.venv-oldest/bin/python -m pytest -n 2

test-pythons:  ## a fast part of it on each later Python that is here, in .venv-3.12 and .venv-3.13
	sh tests/pythons.sh --install

check: .venv/installed-dev  ## linters and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-dev  ## the site, in build/docs/index.html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -E -q -d build/doctrees docs build/docs

docs-figures: .venv/installed-dev  ## draw the figures of the docs anew, one to two minutes on two quiet cores
	OMP_NUM_THREADS=1 $(BIN)/python docs/figures/make.py

bench: .venv/installed-dev  ## speed, each figure a ratio; tables, and JSON under build/bench
	for script in tests/benchmarks/bench_*.py; do \
		$(BIN)/python $$script --out build/bench/$$(basename $$script .py).json || exit 1; \
	done

gpu: .venv/installed-dev  ## tests and tables of the GPU, ten minutes; GPU_ARGS="--device cpu --small" tries it without
	$(BIN)/python tests/campaigns/gpu.py --out build/gpu $(GPU_ARGS)

build: .venv/installed-dev  ## wheel and sdist in dist/
	$(BIN)/python -m build

clean:
	rm -rf .venv .venv-oldest .venv-3.* build dist demo

.venv/installed: pyproject.toml
	@echo "installing into .venv: PyTorch comes along, some minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

.venv-oldest/installed: pyproject.toml tests/oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable '.[dev]'
	touch $@
