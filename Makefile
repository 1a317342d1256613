PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Tests start many processes: without bytecode on the disk each compiles the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install simulate dist test test-flower test-lowest test-slow test-long test-examples test-install lint types docs clean

install: $(STAMP)

$(STAMP): pyproject.toml fedrec/__init__.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	touch $(STAMP)

simulate: install
	$(BIN)/fedrec simulate

# A wheel and a source distribution, in dist/.
dist: install
	$(BIN)/python -m build --no-isolation

# Some tests wait for processes and timers: a third worker keeps two cores busy.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# The contract with Flower, and a deployment, on another version than the pinned one: the newest in the index, or
# FLOWER='flwr==1.42.0'. It lies in a folder of its own, so that nothing that is installed changes.
FLOWER ?= flwr
test-flower: install
	rm -rf build/flower
	$(BIN)/python -m pip install --quiet --no-deps --target build/flower '$(FLOWER)'
	PYTHONPATH=$(CURDIR)/build/flower $(BIN)/python -c 'import flwr; print("Flower", flwr.__version__)'
	PYTHONPATH=$(CURDIR)/build/flower OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/flower tests/federation/test_deployment.py

# The lowest versions that pyproject.toml allows, in an environment of their own that takes all else, torch among it, from
# $(VENV). Plugins are named: those of packages whose lowest version has none yet would be looked for in vain.
LOWEST := build/lowest
test-lowest: install
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > $(LOWEST)/all-else.pth
	mv $(LOWEST)/all-else.pth $(LOWEST)/lib/python*/site-packages/
	$(BIN)/python tests/support/lowest_versions.py > $(LOWEST)/requirements.txt
	$(LOWEST)/bin/python -m pip install --quiet --requirement $(LOWEST)/requirements.txt
	PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(LOWEST)/bin/python -m pytest \
	  -p xdist -p pytest_timeout -p _hypothesis_pytestplugin -n 3 --dist loadfile --no-loadscope-reorder

test-slow: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 1800

# Long ones of each change: processes that are killed and go on, and networks as large as those that are used.
test-long: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 900 tests/clients/test_crash.py \
	  tests/federation/test_deployed_figures.py \
	  tests/simulations/test_resume.py tests/simulations/test_local_grid.py tests/simulations/test_sweep.py \
	  tests/recognition/export/test_exported_models.py \
	  tests/privacy/dp/test_clipping.py tests/privacy/dp/test_private_step.py tests/vision/test_models.py \
	  tests/recognition/test_compression.py \
	  tests/simulations/attacks/test_inversion.py::test_noise_that_is_missing_is_found

test-examples: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 900 tests/package/test_examples.py \
	  tests/package/test_merchant_guide.py \
	  tests/package/test_tutorial.py::test_four_further_steps_lead_to_a_federation_and_a_served_model \
	  tests/api tests/privacy/audit/test_audit_report.py

test-install: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m install --timeout 600

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pylint fedrec

types: install
	$(BIN)/mypy
	$(BIN)/basedpyright

# The documentation site, in build/docs-site; a link that leads nowhere is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file deploy/docs-site/mkdocs.yml

clean:
	rm -rf $(VENV) build dist *.egg-info runs
