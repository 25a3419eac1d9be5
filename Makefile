# The two commands of the README, and what CI runs. Needs Python 3.11 or newer, and make.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: quickstart test slow tf soak bench lint

quickstart: .venv/installed
	$(BIN)/hftk quickstart --output runs/quickstart

test: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow and not tf"

slow: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "slow and not tf"

tf: .venv-tf/installed
	.venv-tf/bin/python -m pytest -n 2 -m tf

# Fuzzes what reads strangers' files of weights, gives each command files that went bad, and kills trainings. What is
# found is left in runs/soak, and so is what the fuzzer learned.
SECONDS = 600
FORMATS = bundle hdf5 keras safetensors shards h5_shards

soak: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[soak]'
	$(BIN)/python -m tests.soak.malformed runs/soak/malformed 500
	$(BIN)/python -m tests.soak.kills 100 runs/soak/kills
	$(BIN)/python -m tests.soak.seeds runs/soak
	for format in $(FORMATS); do \
	  $(BIN)/python -m tests.soak.fuzz_readers $$format runs/soak/corpus/$$format -artifact_prefix=runs/soak/$$format- \
	    -max_total_time=$$(($(SECONDS) / $(words $(FORMATS)))) -verbosity=0 -print_final_stats=1 || exit 1; \
	done

# Ours and transformers' in turns, each in a process of its own; to be run alone on a machine.
bench: .venv/installed
	for name in step window generate start; do echo "## $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# TensorFlow, in an environment of its own; in a folder of it what loads tf_model.h5, which wants older versions beside.
OLD = transformers==4.57.6 tokenizers==0.22.2 huggingface_hub==0.36.2 tf_keras==2.21.0
.venv-tf/installed: pyproject.toml constraints.txt Makefile
	test -x .venv-tf/bin/python || $(PYTHON) -m venv .venv-tf
	.venv-tf/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[tf,dev]'
	.venv-tf/bin/python -m pip install --quiet --upgrade --no-deps --target .venv-tf/transformers4 $(OLD)
	touch $@

# The stamp is written when everything is installed: from then on nothing here touches the network.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("hftk needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[quickstart,prepare,dev]'
	touch $@
