# Every command of the project; CI, README and CONTRIBUTING use these and no other.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench bench-localization bench-faithfulness dist hooks clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: .venv/installed  ## train a small CNN on simulated lesions, fit HR-CAM, compare with CAM and Grad-CAM
	$(BIN)/python examples/plot_quickstart.py --out demo_output

test: .venv/installed  ## run the tests, docstring examples included
	$(BIN)/python -m pytest

lint: .venv/installed  ## ruff (style, formatting) and mypy (types)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed  ## build the documentation, examples executed, warnings as errors
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: .venv/installed  ## time against a bare forward pass and Grad-CAM; writes benchmarks/RESULTS.md
	$(BIN)/python benchmarks/speed.py

bench-localization: .venv/installed  ## maps against masks, beside every peer (SIZE=full: an hour)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/localization.py --size $(or $(SIZE),quick)

bench-faithfulness: .venv/installed  ## insertion, deletion, ROAD, randomised weights
	$(BIN)/python benchmarks/faithfulness.py

hooks: .venv/installed  ## run ruff before each commit
	$(BIN)/pre-commit install

dist: .venv/installed  ## build wheel and sdist into dist/
	$(BIN)/python -m build --outdir dist

clean:  ## remove the environment and everything built
	rm -rf .venv dist demo_output docs/_build docs/gallery .pytest_cache .mypy_cache .ruff_cache
