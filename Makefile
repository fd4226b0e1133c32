# Two commands do everything on a fresh machine with Python ≥ 3.11: `make run` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
WARM := $(VENV)/warm
ARGS ?=

.PHONY: install run test lint format bench faults plots screenshots browser clean
.DEFAULT_GOAL := run

install: $(STAMP) $(WARM)

# torch first and pinned: asked for by another package, pip takes the newest release instead.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "saestream needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Compiled kernels are kept until one of their sources changes; the first snapshot after an update would wait half a minute for them.
$(WARM): $(STAMP) $(wildcard kernels/*.py kernels/cpu/*.py)
	$(BIN)/python -m kernels.warm
	@touch $@

run: install
	@$(BIN)/saestream demo $(ARGS)

test: install browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python .ci/audit.py

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Some 50 minutes on two idle cores, 16 GB free; ARGS=--quick sees in two that all of it works.
bench: install browser
	$(BIN)/python -m benchmarks $(ARGS)

# 300 kills, damaged files, failing disks, jumping clocks: half an hour. The table in the README is made of its rows.
faults: install
	$(BIN)/python -m benchmarks.faults $(ARGS)
	$(BIN)/python -m benchmarks.faults --readme

# The README's pictures and table, from the rows of benchmarks/results.
plots: install browser
	$(BIN)/python -m benchmarks.plots

# The two pictures in the README, from the demo: some three minutes.
screenshots: install browser
	$(BIN)/python -m benchmarks.screenshots $(ARGS)

# The page is tested in a real browser. Debian's package is used where there is none and we may install one.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
		if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
		else echo "the page's tests need chromium: install it (apt-get install chromium)" >&2; exit 1; fi; }

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
