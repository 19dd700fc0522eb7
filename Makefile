# Every target installs what it needs. PYTHON=python3.12 make ... chooses the interpreter.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo tones test test-real real-recipes check docs sparrow release-check clean

help:
	@echo "make demo     fine-tune sparrow on a voice that is new to it, with every command, in about five minutes"
	@echo "make tones    train a random language model to recognise five tones, in a minute or two"
	@echo "make test     lint, types and tests"
	@echo "make test-real     tests on released weights and human recordings, in the folder DLM_REAL_PARTS"
	@echo "make real-recipes  the example documents of composed bases on those parts, in 20 steps each"
	@echo "make check    lint and types only"
	@echo "make release-check  build the wheel and use it in an empty environment"
	@echo "make docs     write the pages that are generated from the code"
	@echo "make sparrow  make the model in the package again (hours)"
	@echo "make clean    remove what make created here"

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml scripts/setup
	@scripts/setup

demo: setup
	@.venv/bin/python scripts/demo

tones: setup
	@rm -rf .work/tones && mkdir -p .work/tones && cp examples/tones.dlm examples/alignment.dlm .work/tones
	@export DLM_HOME=$(CURDIR)/.work/tones/home; dlm=$(CURDIR)/.venv/bin/dlm; cd .work/tones; set -e; \
	$$dlm tones tones --count 60; \
	$$dlm train tones.dlm --set base_model.encoder=sparrow --set training.num_epochs=60; \
	$$dlm export tones.dlm --out tones-base; \
	$$dlm train alignment.dlm --set base_model.encoder=sparrow --set training.num_epochs=60

check: setup
	@scripts/check

test: check
	@scripts/browser
	@.venv/bin/python -m pytest -q

test-real: setup
	@.venv/bin/python -m pytest -q -n 0 -m weights tests

real-recipes: setup
	@scripts/real-recipes

release-check: setup
	@scripts/release-check

docs: setup
	@.venv/bin/python scripts/docs

sparrow: setup
	@missing=; for program in espeak-ng flite; do \
		command -v $$program > /dev/null || missing="$$missing $$program"; done; \
	[ -d /usr/share/wordnet ] || missing="$$missing wordnet-base"; \
	if [ -n "$$missing" ]; then \
		echo "sparrow: speech engines or WordNet are missing; on Debian: apt-get install$$missing" >&2; exit 1; fi
	@if [ -z "$(WHISPER)" ] || [ -z "$(VOICES)" ] || [ -z "$(VOICES_PYTHON)" ]; then \
		echo "sparrow: make sparrow WHISPER=folder of Whisper tiny.en VOICES=folder VOICES_PYTHON=python;" \
			"recipes/sparrow/make.py tells what they hold" >&2; exit 1; fi
	.venv/bin/python recipes/sparrow/make.py --work .work/sparrow --whisper "$(WHISPER)" \
		--voices "$(VOICES)" --voices-python "$(VOICES_PYTHON)" $(if $(START),--start-from "$(START)")

clean:
	rm -rf .venv .work/demo .work/tones build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
