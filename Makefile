# affectd. Two commands: `make demo` and `make test`; both set up what they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
ARGS ?=

# requirements.lock pins every package, the build backend included.
PIP = PIP_CONSTRAINT=requirements.lock PIP_DISABLE_PIP_VERSION_CHECK=1

.PHONY: help demo test e2e e2e-all e2e-service e2e-service-all e2e-arm64 e2e-power nightly clean

help:
	@echo "make demo            real recordings through the whole of affectd (sets up .venv-device: no torch, no TensorFlow)"
	@echo "make demo ARGS=...   e.g. ARGS='--fast --json', ARGS='--only stress --speed 60'"
	@echo "make test            every check and test (sets up .venv)"
	@echo "make e2e             pairing, streaming and every fault against real BlueZ 5.66 in QEMU (root once, to install QEMU)"
	@echo "make e2e-all         the same against BlueZ 5.66 and 5.82, and 300 disconnects; affectd installed there, as a service"
	@echo "make e2e-service     the service installed, run, broken, upgraded and removed on Debian 12 in a container (root)"
	@echo "make e2e-service-all the same on Debian 12 and 13 (Python 3.11 and 3.13), and lintian"
	@echo "make e2e-arm64       affectd installed, as a service, on an emulated Raspberry Pi; its int8 outputs equal this machine's"
	@echo "make e2e-power       the service on a machine whose power is cut at random, and that sleeps, in QEMU"
	@echo "make nightly         the slow tests as well, and e2e-power"
	@echo "make clean           remove both environments and the tests' broker"

demo: .venv-device/.ready
	@.venv-device/bin/affectd demo $(ARGS)

test: .venv/.ready .tools/mosquitto
	@scripts/check

e2e: .venv/.ready
	@.venv/bin/python tests/e2e/run.py bookworm

e2e-all: .venv/.ready
	@.venv/bin/python tests/e2e/run.py bookworm trixie --disconnects 300
	@.venv/bin/python tests/e2e/installed.py amd64

e2e-arm64: .venv/.ready
	@.venv/bin/python tests/e2e/installed.py arm64

e2e-power: .venv/.ready
	@.venv/bin/python tests/e2e/power.py bookworm $(ARGS)

e2e-service: .venv/.ready
	@.venv/bin/python tests/e2e/service.py bookworm

e2e-service-all: .venv/.ready
	@.venv/bin/python tests/e2e/service.py bookworm trixie --lintian

nightly: .venv/.ready .tools/mosquitto
	@scripts/nightly
	@$(MAKE) --no-print-directory e2e-power

.venv-device/.ready: pyproject.toml requirements.lock
	@echo "make: setting up .venv-device for the device part (about 60 MB, a minute)" >&2
	@$(PYTHON) -m venv .venv-device
	@$(PIP) .venv-device/bin/pip install --quiet --no-compile --editable '.[device]'
	@touch $@
	@echo "make: .venv-device is ready" >&2

.venv/.ready: pyproject.toml requirements.lock
	@echo "make: setting up .venv with everything (torch and TensorFlow included: about 3.5 GB, some minutes)" >&2
	@$(PYTHON) -m venv .venv
	@grep -E '^(torch)==' requirements.lock | xargs .venv/bin/pip install --quiet --disable-pip-version-check
	@echo "make: torch is in, the rest follows" >&2
	@$(PIP) .venv/bin/pip install --quiet --no-compile --editable '.[dev]'
	@touch $@
	@echo "make: .venv is ready" >&2

.tools/mosquitto:
	@scripts/mosquitto || echo "make: tests against a real MQTT broker will be skipped" >&2

clean:
	rm -rf .venv .venv-device .tools
