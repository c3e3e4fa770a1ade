# `make workbook` runs every notebook on this machine; `make test` proves all of it; `make lab` opens it.

PYTHON ?= python3
VENV ?= .venv
TIER ?= per_commit
ONLY ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# A committed notebook shows no progress bar and no library's warning, and a comparison with it runs
# under the same settings. (In a notebook tqdm heeds TQDM_DISABLE only where it believes to be in
# Spyder's console.)
QUIET := TQDM_DISABLE=1 SPYDER=1 HF_HUB_DISABLE_PROGRESS_BARS=1 \
  PYTHONWARNINGS=ignore TRANSFORMERS_VERBOSITY=error
# Two workers share the machine: one thread each is quicker than two that fight over the cores.
WORKERS := OMP_NUM_THREADS=1 PGVL_TIER=$(TIER)

.PHONY: help install workbook test lab notebooks atlas videos narration weights

help:
	@echo 'make workbook   install, fetch the models and run every notebook into build/'
	@echo 'make lab        open the notebooks in JupyterLab'
	@echo 'make test       lint, types, tests, and every notebook run twice: as committed and with other parameters'
	@echo 'make notebooks  run the notebooks in place and write CLAIMS.md, before a commit (ONLY=01_frame_encoding for one)'
	@echo 'make atlas | videos | narration | weights   rebuild the data the repository ships'

# One install for reading and for testing: the test tools are small beside torch, and conda's
# environment.yml asks for the same line.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' || { \
	  echo "The workbook needs Python 3.10, 3.11 or 3.12, and $(PYTHON) is not one of them." \
	       "Name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) > /dev/null || true
# Debian packs venv's own pip apart (python3-venv): the system's pip then puts one there.
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip install --quiet pip --target \
	    "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"; }
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

install: $(INSTALLED)

workbook: $(INSTALLED)
	$(BIN)/pgvl fetch
	$(BIN)/pgvl workbook

# A notebook server drops a message of more than 10 MB, as a longer video uploaded in a panel is, and
# tells nobody.
UPLOADS := --ServerApp.tornado_settings='{"websocket_max_message_size": 524288000}'

lab: $(INSTALLED)
	$(BIN)/jupyter lab $(UPLOADS) notebooks/00_start_here.ipynb

# nbval comes before the tests: it leaves each notebook's results.json, which tests/test_notebooks.py
# holds against the numbers stamped in the committed notebook.
test: $(INSTALLED)
	$(BIN)/pgvl fetch
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(QUIET) $(WORKERS) $(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env \
	  --nbval-sanitize-with tests/nbval.cfg notebooks
	$(WORKERS) $(BIN)/python -m pytest -n 2 --dist loadgroup

notebooks: $(INSTALLED)
	$(BIN)/ruff check --fix notebooks
	$(BIN)/ruff format notebooks
	$(QUIET) $(BIN)/python -m pgvl_core.workbook $(ONLY)
	$(BIN)/pgvl claims

atlas: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[build]'
	$(BIN)/python data/build/make_atlas.py

videos: $(INSTALLED)
	$(BIN)/python data/build/make_videos.py

narration: $(INSTALLED)
	$(BIN)/python data/build/make_narration.py

weights: $(INSTALLED)
	$(BIN)/python data/build/fit_liteclip.py
	$(BIN)/python data/build/train_tags.py
	$(BIN)/python data/build/train_pocket.py
	$(BIN)/python data/build/train_temporal.py
	$(BIN)/python data/build/train_grounding.py
