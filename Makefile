# "make demo" installs and runs the main job on the built-in data; "make test" installs and runs all checks.
PYTHON ?= python3
TORCH = torch==2.13.0
PIP = pip install --quiet --disable-pip-version-check
# the tests of a file run one after the other, files side by side on two cores
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest --numprocesses 2 --dist loadfile
# the packages that the settings in pyproject.toml leave out can be imported in environments of their own
WITHOUT_IGNORES = -o addopts="--import-mode=importlib --doctest-modules -ra --strict-markers"
PIP_INSTALL = $(PIP) --constraint .ci/constraints.txt

.PHONY: demo test test-fast test-label test-deploy test-compare lint clean

# once with the paper's networks and once with features of an encoder, and both in one report
DEMO = OMP_WAIT_POLICY=PASSIVE .venv/bin/python -W ignore
demo: .venv/installed
	$(DEMO) -m monai.bundle run --config_file bundles/ddad_brain/train.json
	$(DEMO) -m monai.bundle run --config_file bundles/ddad_brain/train.json --preset features --output_dir runs/features
	$(DEMO) -m monai_ddad report --compare bundles/ddad_brain runs/features --output runs/comparison.html

test: .venv-test/installed lint
	$(call PYTEST,.venv-test)
	$(MAKE) test-label
	$(MAKE) test-deploy
	$(MAKE) test-compare

# unit tests alone, in less than a minute: no server, no child processes, no export, no hostile files
test-fast: .venv-test/installed
	$(call PYTEST,.venv-test) -m "not slow and not real_data and not gpu" \
	-k "not (onnx or runtime or torchscript or phantom or checkpoints or locks or header or hostile)" \
	monai_ddad tests/networks tests/decision tests/io tests/transforms tests/data tests/evaluation/metrics \
	tests/training/test_hold_out.py tests/training/test_members.py tests/training/test_user_handlers.py \
	tests/test_architecture.py tests/test_seeding.py tests/test_placement.py

# MONAI Label needs other versions than the rest, so its tests run in an environment of their own
test-label: .venv-label/installed
	$(call PYTEST,.venv-label) $(WITHOUT_IGNORES) monai_ddad/label tests/label

# so do those of MONAI Deploy; holoscan finds CUDA's runtime, which it needs without a GPU too, by this path only
test-deploy: .venv-deploy/installed
	LD_LIBRARY_PATH="$$(echo $(CURDIR)/.venv-deploy/lib/python*/site-packages/nvidia/cu13/lib)$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}" \
	$(call PYTEST,.venv-deploy) $(WITHOUT_IGNORES) monai_ddad/deploy tests/deploy

# of the benchmarks, those that compare with other libraries
test-compare: .venv-compare/installed
	.venv-compare/bin/python -m pytest $(WITHOUT_IGNORES) tests/test_benchmarks.py -k library

lint: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy

# PyTorch first: a later step would otherwise be free to choose another build of it
.venv/installed: setup.py .ci/constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/$(PIP_INSTALL) $(TORCH)
	.venv/bin/$(PIP_INSTALL) --editable .
	touch $@

.venv-test/installed: setup.py .ci/constraints.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/$(PIP_INSTALL) $(TORCH)
	.venv-test/bin/$(PIP_INSTALL) --editable ".[dev]"
	touch $@

# with --no-deps, as the file names every package: what MONAI Label itself asks for cannot all be installed
.venv-label/installed: setup.py .ci/label.txt
	$(PYTHON) -m venv .venv-label
	.venv-label/bin/$(PIP) --constraint .ci/label.txt $(TORCH)
	.venv-label/bin/$(PIP) --no-deps --requirement .ci/label.txt
	.venv-label/bin/$(PIP) --no-deps --editable .
	touch $@

.venv-deploy/installed: setup.py .ci/deploy.txt
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/$(PIP) --constraint .ci/deploy.txt $(TORCH)
	.venv-deploy/bin/$(PIP) --no-deps --requirement .ci/deploy.txt
	.venv-deploy/bin/$(PIP) --no-deps --editable .
	touch $@

# PyOD and anomalib, with which benchmarks/baselines.py compares. anomalib imports torchvision, which has no build for
# PyTorch without CUDA: the .pth file lets Python import it all the same
.venv-compare/installed: setup.py .ci/compare.txt tests/label/cpu_torchvision/sitecustomize.py
	$(PYTHON) -m venv .venv-compare
	.venv-compare/bin/$(PIP) --constraint .ci/compare.txt $(TORCH)
	.venv-compare/bin/$(PIP) --no-deps --requirement .ci/compare.txt
	.venv-compare/bin/$(PIP) --no-deps --editable .
	cp tests/label/cpu_torchvision/sitecustomize.py "$$(echo .venv-compare/lib/python*/site-packages)/cpu_torchvision.py"
	echo "import cpu_torchvision" >"$$(echo .venv-compare/lib/python*/site-packages)/cpu_torchvision.pth"
	touch $@

clean:
	rm -rf .venv .venv-test .venv-label .venv-deploy .venv-compare build *.egg-info
