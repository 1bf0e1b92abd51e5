# Two commands on a fresh machine with Python and a C++ compiler: `make demo` and `make test`.
# Each does its own set-up in .venv; torch comes first, so that nothing pulls in another build of it.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
JOBS   ?= 2
INSTALLED := $(VENV)/.installed

.PHONY: demo demo-cnn test slow lint wheel clean install
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard kernels/src/*)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e ".[test,examples]"
	@touch $@

demo: $(INSTALLED)
	PATH="$(abspath $(BIN)):$$PATH" sh examples/tiny_deepseek_v3/demo.sh

demo-cnn: $(INSTALLED)
	PATH="$(abspath $(BIN)):$$PATH" sh examples/cnn/demo.sh

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow"

slow: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(JOBS) -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(INSTALLED)
	$(PIP) wheel -q --no-deps -w dist .

clean:
	rm -rf $(VENV) build dist out
