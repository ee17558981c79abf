# Every command of the project; CI, README and CONTRIBUTING use these and no other.
PYTHON ?= python3
BIN := .venv/bin
# The lower bounds of pyproject.toml; torch 2.4 has wheels for Python 3.10 to 3.12.
OLDEST := captum==0.8.0 torch==2.4.0 torchvision==0.19.0 matplotlib==3.10.0 scipy==1.15.0 pandas==2.1.0 safetensors==0.4.0

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench bench-scale bench-localization bench-classes bench-transformers bench-faithfulness dist hooks clean \
  test-browser test-nightly test-oldest soak mutation audit

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

test-nightly: .venv/installed  ## every property on 200 random networks instead of 25
	NETWORKS=200 $(BIN)/python -m pytest tests/test_random_networks.py

test-oldest:  ## the tests on the oldest supported torch and Captum, in .venv/oldest
	$(PYTHON) -m venv .venv/oldest
	.venv/oldest/bin/python -m pip install --quiet --editable '.[eval,mri]' pytest hypothesis $(OLDEST)
	.venv/oldest/bin/python -m pytest

soak: .venv/installed  ## 10,000 calls: memory, files and hooks must not grow
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak.py

mutation: .venv/installed  ## small changes to the code that the tests must notice (MODULES="fusion head")
	$(BIN)/python -m pip install --quiet cosmic-ray
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation.py $(MODULES)

audit: .venv/installed  ## licences of all that is installed; known vulnerabilities, as PyPI tells them (FROM="-s osv": as osv.dev does)
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit pip-licenses
	.venv/audit/bin/pip-licenses --python $(BIN)/python --order=license
	$(BIN)/python -m pip freeze --exclude-editable > .venv/audit/installed.txt
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip -r .venv/audit/installed.txt $(FROM)

test-browser: .venv/installed  ## the case browser in a real Chromium (Debian: apt-get install chromium)
	@command -v chromium || command -v chromium-browser || { echo "no Chromium to test in"; exit 1; }
	$(BIN)/python -m pip install --quiet playwright
	$(BIN)/python -m pytest tests/test_case_browser_page.py

lint: .venv/installed  ## ruff (style, formatting) and mypy (types)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed  ## build the documentation, examples executed, warnings as errors
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: .venv/installed  ## time and memory of maps and fits, beside peers; writes benchmarks/RESULTS.md
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/fitting.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/growth.py

bench-scale: .venv/installed  ## time and memory of a ridge head on a million images' features (16 GB of disk)
	$(BIN)/python benchmarks/scale.py

bench-localization: .venv/installed  ## maps against masks, beside every peer (11 minutes; SIZE=full: two hours; SIZE=fresh, real)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/localization.py --size $(or $(SIZE),quick)

bench-classes: .venv/installed  ## classes whose maps mark no place, by report and by masks (trains 48 networks: two hours)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/classes.py

bench-transformers: .venv/installed  ## maps of vision transformers against masks (trains two: half an hour)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python benchmarks/transformers.py

bench-faithfulness: .venv/installed  ## insertion, deletion, ROAD, randomised weights
	$(BIN)/python benchmarks/faithfulness.py

hooks: .venv/installed  ## run ruff before each commit
	$(BIN)/pre-commit install

dist: .venv/installed  ## build wheel and sdist into dist/
	$(BIN)/python -m build --outdir dist

clean:  ## remove the environment and everything built
	rm -rf .venv dist demo_output docs/_build docs/gallery .pytest_cache .mypy_cache .ruff_cache
