# make demo: from nothing to the page.  make test: the same set-up, then every check.  make space: the page as a Space.
# make demo PRESET=gpt2: the same for a file of presets/.
# In two processes; what fails there, beside a busy browser, is tried once more by itself, and has to pass.
# With CONSTRAINTS=/dev/null: the newest versions of all packages in place of those that were tested.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo test space results preset clean

demo: results
	python -m demo

test: $(VENV)/ready
	ruff check .
	ruff format --check .
	mypy
	OMP_NUM_THREADS=1 pytest -n 2 --no-loadscope-reorder || pytest --last-failed --last-failed-no-failures none

results: preset
	dvc repro

preset: $(VENV)/ready
	$(if $(PRESET),python -m pipeline.preset '$(PRESET)')

space: results
	python -m demo.space

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --constraint $(CONSTRAINTS) --editable ".[pipeline,demo,dev]"
	touch $@

clean:
	rm -rf $(VENV) build artifacts
