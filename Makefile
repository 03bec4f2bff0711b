PYTHON ?= python3
# Words for pip's `install`, e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" for the small torch.
PIP_ARGS ?=
BIN := .venv/bin

.PHONY: demo test format check clean

demo: $(BIN)/python  ## A virtual environment, the package, and a picture.
	@echo "Installing visgen with PyTorch into .venv: some minutes the first time."
	$(BIN)/pip install --quiet $(PIP_ARGS) .
	@touch .venv/demo
	$(BIN)/visgen generate "a red circle above a blue square" --seed 0 -o demo.png
	@echo "The picture is $(CURDIR)/demo.png"

test: .venv/dev  ## All tests that take less than a minute each.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

format: .venv/dev  ## Rewrite the sources in the house style.
	$(BIN)/ruff check --fix visgen tests scripts
	$(BIN)/ruff format visgen tests scripts

check: .venv/dev  ## Style and types, changing nothing.
	$(BIN)/ruff check visgen tests scripts
	$(BIN)/ruff format --check visgen tests scripts
	$(BIN)/mypy visgen

clean:  ## Remove what the other targets made.
	rm -rf .venv demo.png

$(BIN)/python:
	$(PYTHON) -m venv .venv

# Editable, so that tests see the checkout; done again when the dependencies change or `demo` put a copy in its place.
.venv/dev: pyproject.toml $(wildcard .venv/demo) | $(BIN)/python
	$(BIN)/pip install --quiet $(PIP_ARGS) -e ".[dev]"
	@touch .venv/dev
