# make run | test | lint on a fresh clone need Python 3.11+ with venv and nothing else; see `make help`.

PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/first-picture
ARGS ?=
# Tests whose results come from float kernels, for the pass that is kept to AVX2: of checkpoints those that compare what a
# network computes, and not those that read files.
checkpoint_tests = $(addprefix plugins/families/tests/,compvis/test_ldm_text.py compvis/test_released_workflows.py \
	diffusers/test_lora_peft.py diffusers/test_pipelines.py guided/test_guided_diffusion.py quantised test_text_encoders.py \
	test_sampling.py transformers/test_z_image.py) $(wildcard plugins/families/tests/transformers/test_*pipeline*.py)
KERNEL_TESTS ?= tests/test_tolerance.py $(addprefix tests/nodes/,conditioning guidance images models sampling \
	training test_kept_levels.py) plugins/lab/tests/metrics \
	$(wildcard plugins/scenes/tests/test_detector.py plugins/scenes/tests/test_scene_eval*.py) $(checkpoint_tests) plugins/diffusers/tests/test_diffusers_models.py \
	plugins/diffusers/tests/test_diffusers_schedulers.py plugins/gallery
BENCHMARKS ?= $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

# The project's distributions in plugins/. A user's environment has those of the README; the tests need all of them.
USED := browser families lab page scenes serve testing
PACKAGES := $(USED) diffusers
editable = -e ./runtime $(patsubst %,-e ./plugins/%,$(1))
GALLERY := $(patsubst %/pyproject.toml,%,$(wildcard $(CURDIR)/plugins/gallery/*/pyproject.toml $(CURDIR)/plugins/gallery/families/*/pyproject.toml))
space := $(subst ,, )

BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(BIN)/python tools/install.py
BASE := $(VENV)/.guidegraph-base
DEV := $(VENV)/.guidegraph-dev
BENCH := $(VENV)/.guidegraph-bench
DOCS := $(VENV)/.guidegraph-docs
LINKS := $(VENV)/.guidegraph-links
METADATA := pyproject.toml setup.py setup.cfg runtime/pyproject.toml $(patsubst %,plugins/%/pyproject.toml,$(PACKAGES))

# What an editable install links to. Files that come or go (a pull, a new node) need the links laid anew, edits do not.
list_files = find guidegraph graph nodes plugins/*.py workflows -name __pycache__ -prune -o -type f -print | LC_ALL=C sort

# Only from the command line: some shells have a variable PROMPT of their own. Exported, so that it may hold any quotes.
said_prompt = $(filter command%,$(origin PROMPT))
export PROMPT

.PHONY: help run test test-avx2 test-all test-lowest test-newest lint lock format docs bench clean links

help:
	@echo 'make run       draw a picture: make run PROMPT="a green tiger on grass at night"'
	@echo 'make test      the tests that take seconds; ARGS="-k noise" is passed to pytest'
	@echo '               make test PACKAGE=page: those of one package in plugins/'
	@echo 'make test-avx2 those of them that compute with floats, as on a processor with AVX2 alone'
	@echo 'make test-all  all tests'
	@echo 'make test-lowest  make test with each dependency at its lower bound, in .venv-lowest (Python 3.11)'
	@echo 'make test-newest  make test with the newest versions, in a new .venv-newest; PYTHON=python3.13 for another Python'
	@echo 'make lint      ruff, mypy --strict and the layers'
	@echo 'make lock      write requirements/release.txt, the versions of .venv with hashes; needs uv'
	@echo 'make format    let ruff put the code in shape'
	@echo 'make docs      the documentation as a site in build/site; broken links are errors'
	@echo 'make bench     all benchmarks, or BENCHMARKS=benchmarks/overhead.py ARGS=--peers'
	@echo 'make clean     remove the virtual environment, builds and caches'

run: $(BASE) links
	@echo 'drawing a picture with the embedded model: some seconds'
	$(BIN)/guidegraph run workflows/text_to_image_128.yaml --out $(OUT) $(if $(said_prompt),--set "prompt=$$PROMPT") $(ARGS)
	@echo "The picture: $(abspath $(OUT))/image.png"

test: $(DEV) links
	$(BIN)/python -m pytest -m "not slow" $(if $(PACKAGE),plugins/$(PACKAGE)) $(ARGS)

test-avx2: $(DEV) links
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/python -m pytest -m "not slow" $(KERNEL_TESTS) $(ARGS)

test-all: $(DEV) links
	$(BIN)/python -m pytest $(ARGS)

# An older Python would be no lower bound, and for a newer one some packages have no such old versions.
test-lowest:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "the lower bounds are those of Python 3.11: make test-lowest PYTHON=python3.11")'
	@$(PYTHON) tools/requirements.py lowest > .venv-lowest.txt
	PIP_CONSTRAINT=$(CURDIR)/.venv-lowest.txt $(MAKE) test VENV=.venv-lowest

test-newest:
	rm -rf .venv-newest
	$(MAKE) test VENV=.venv-newest

lock: $(DEV) links
	PATH="$(BIN):$$PATH" $(BIN)/python tools/requirements.py lock

lint: $(DEV) links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd tests && $(BIN)/mypy --config-file ../pyproject.toml -p guidegraph -p guidegraph_runtime $(patsubst %,-p guidegraph_%,$(PACKAGES))
	cd tests && MYPYPATH=$(subst $(space),:,$(GALLERY)) $(BIN)/mypy --config-file ../pyproject.toml $(patsubst %,-p guidegraph_%,$(notdir $(GALLERY)))
	cd tests && $(BIN)/lint-imports --no-logo ../pyproject.toml

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Without PYTHONPATH: guidegraph/graph and its siblings exist in the installed package, not in the checkout's folder.
docs: $(DOCS) links
	NO_MKDOCS_2_WARNING=1 PYTHONPATH= $(BIN)/mkdocs build --strict
	@echo "The site: $(CURDIR)/build/site/index.html"

bench: $(BENCH) links
	for script in $(BENCHMARKS); do $(BIN)/python $$script $(ARGS) || exit 1; done

clean:
	rm -rf .venv .venv-lowest .venv-lowest.txt .venv-newest build dist runtime/build runtime/dist *.egg-info runtime/*.egg-info plugins/*/build plugins/*/*.egg-info plugins/gallery/*/build plugins/gallery/*/*.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache tests/.mypy_cache .import_linter_cache tests/.import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BASE): $(METADATA)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "guidegraph needs Python 3.11 or later: make PYTHON=python3.11 …")'
	@[ -x $(BIN)/python ] || echo 'creating the virtual environment $(VENV)'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo 'installing guidegraph with torch and what else it needs: a GB or more on disk, a minute or more'
	@$(INSTALL) 'setuptools>=77.0.1' -e . $(call editable,$(USED))
	@$(list_files) > $(LINKS)
	@touch $@

$(DEV): $(BASE)
	@echo 'installing what the tests need: half a GB on disk, a minute or more'
	@$(INSTALL) -e '.[test,lint]' $(call editable,$(PACKAGES))
	@$(list_files) > $(LINKS)
	@touch $@

$(BENCH): $(BASE)
	@echo 'installing what the benchmarks need'
	@$(INSTALL) -e '.[bench]' $(call editable,$(USED))
	@touch $@

$(DOCS): $(BASE)
	@echo 'installing what the documentation site needs'
	@$(INSTALL) -e '.[docs]' $(call editable,$(USED))
	@touch $@

links: $(BASE)
	@$(list_files) | cmp -s - $(LINKS) || { \
		$(PIP) install -q --no-deps --no-build-isolation -e ./runtime -e . && $(list_files) > $(LINKS); }
