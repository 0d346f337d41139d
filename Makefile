# Every verb does all that it needs, on a fresh machine too.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.installed
# Six processes, each with servers of its own, since most tests wait. tests/groups.py orders the files.
# One process if the environment names servers, which several would share.
PROCESSES := --numprocesses=6 --dist=loadscope --no-loadscope-reorder
TEST_PROCESSES := $(if $(PATCHLINE_AMQP_URL)$(PATCHLINE_REDIS_URL),,$(PROCESSES))
# With more processes than cores, threads of BLAS and OpenMP only wait for one another, and waiting takes a core.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Tests start hundreds of processes: byte code is compiled once.
unexport PYTHONDONTWRITEBYTECODE
CHECKED_FAULTS := camera_kill,merged_triggers,gate_kill,gate_freeze,worker_kill,archive_kill,broker_kill
CHECKED_FAULTS := $(CHECKED_FAULTS),plc_reset,link_freeze

.PHONY: setup install demo demo-plant test test-ascend test-console test-installed test-cameras test-debian13
.PHONY: test-debian11 test-convert chaos screenshots plant soak plant-check lint types bench bench-against bench-check
.PHONY: wheel wheels lock servers
.DEFAULT_GOAL := setup

setup: $(SETUP) servers

$(SETUP): requirements-dev.lock pyproject.toml tests/keda/package-lock.json tests/opcua/package-lock.json
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	if command -v npm > /dev/null; then for folder in keda opcua; do \
		npm ci --silent --no-audit --no-fund --prefix tests/$$folder || exit 1; done; fi
	touch $@

# What a plant's host needs: the packages of requirements.lock, Patchline itself, and the servers.
install:
	rm -rf build $(SETUP)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --force-reinstall .
	@$(BIN)/python -m patchline.services.install_servers

servers: $(SETUP)
	@$(BIN)/python -m patchline.services.install_servers

demo: setup
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements-demo.lock
	$(BIN)/patchline demo

# Solar cells on a simulated belt, seen in the terminal as they are sorted.
demo-plant: setup
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements-demo.lock
	$(BIN)/patchline demo --plant

test: setup
	@$(BIN)/python -m patchline.services.install_servers mosquitto postgresql gcc libc6-dev libmodbus-dev
	$(ONE_THREAD) $(BIN)/python -m pytest $(TEST_PROCESSES)

# The stand-in of the Ascend's SDK: every fault of a device, lost devices, hosts behind a socket.
test-ascend: setup
	$(ONE_THREAD) $(BIN)/python -m pytest $(TEST_PROCESSES) tests/ascend

# What is installed: the wheel, the units in a container with systemd, the documented commands, the demo's belt.
test-installed: setup
	@$(BIN)/python -m patchline.services.install_servers systemd-container
	$(ONE_THREAD) $(BIN)/python -m pytest --numprocesses=2 --dist=loadscope tests/installed

# The console over HTTP and in Chromium, with a line behind it.
test-console: setup
	@$(BIN)/python -m patchline.services.install_servers chromium fonts-noto-cjk
	$(ONE_THREAD) $(BIN)/python -m pytest $(TEST_PROCESSES) tests/console

# Cameras of every kind against a line: Aravis' fake camera, pylon's emulator, an RTSP server, MQTT devices, a PLC.
test-cameras: setup
	@$(BIN)/python -m patchline.services.install_servers aravis-tools gir1.2-aravis-0.8 gir1.2-gst-rtsp-server-1.0 \
		gstreamer1.0-plugins-ugly mosquitto python3-gi
	$(ONE_THREAD) $(BIN)/python -m pytest $(TEST_PROCESSES) tests/cameras

# The tests of broker, system, console (without a browser), cameras and what is installed in Debian 13, with RabbitMQ 4
# and Redis 8, then those that use Redis most with Valkey. Unpacks Debian once, into .debian13/. Needs root.
test-debian13:
	command -v debootstrap > /dev/null || apt-get install -y -qq debootstrap
	$(ONE_THREAD) tools/debian13.sh redis $(PROCESSES) tests/broker tests/system tests/ascend tests/console \
		tests/cameras tests/installed
	$(ONE_THREAD) tools/debian13.sh valkey $(PROCESSES) tests/system/test_recent.py tests/system/test_line.py \
		tests/system/test_versions.py tests/system/test_faults.py

# A worker whose host of the Ascend's SDK runs in Debian 11, with the Python of the SDK. Unpacks it once. Needs root.
test-debian11: setup
	command -v debootstrap > /dev/null || apt-get install -y -qq debootstrap
	$(BIN)/python -m pytest tests/debian11

# The models against torch, in an environment of its own: nothing else needs torch.
test-convert: setup
	$(PYTHON) -m venv .venv-convert
	.venv-convert/bin/pip install --quiet --require-hashes -r requirements-dev.lock
	.venv-convert/bin/pip install --quiet --editable '.[convert]'
	.venv-convert/bin/python -m pytest tests/parity

# The line in a storm: everything is killed, cut, frozen and flooded, then reconciled. Writes out/chaos.json.
chaos: setup
	@$(BIN)/python -m patchline.services.install_servers gcc libc6-dev aravis-tools gir1.2-aravis-0.8 postgresql python3-gi
	$(BIN)/python -m pytest tests/chaos --show-capture=no

# Parts on a simulated belt, sorted by a gate and its PLC while everything fails. Writes out/plant.json.
plant: setup
	@$(if $(findstring aravis,$(PLANT_CAMERA)),$(BIN)/python -m patchline.services.install_servers aravis-tools \
		gir1.2-aravis-0.8 python3-gi)
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements-demo.lock
	$(BIN)/python -m pytest tests/plant --show-capture=no

# Its short form: pieces of a brick wall, and each of the faults that a plant meets most, once.
plant-check: setup
	PLANT_SCALE=0.1 PLANT_RATE=10 PLANT_FAULTS=$(CHECKED_FAULTS) $(BIN)/python -m pytest tests/plant --show-capture=no

# The same storm, ten times as long, and 20,000 images through one worker.
soak: setup
	@$(BIN)/python -m patchline.services.install_servers gcc libc6-dev
	$(BIN)/python -m pytest tests/chaos/test_endurance.py tests/chaos/test_mqtt.py -m soak
	CHAOS_SCALE=10 $(BIN)/python -m pytest tests/chaos --show-capture=no -k in_a_storm

# Pictures of the console's pages for docs/console.md, of a line of its own. Look at each before you commit it.
screenshots: setup
	@$(BIN)/python -m patchline.services.install_servers chromium fonts-noto-cjk
	$(BIN)/python -m tools.screenshots

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(SETUP)
	$(BIN)/mypy

# As packages install themselves: a variable that chooses a BLAS's kernels is there on one machine and not on the next.
bench: demo
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python -m bench

# This build against another, in one run: make bench-against REV=5fd44a6. Writes out/bench-against.json.
bench-against: setup
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python -m bench.against $(REV)

# A few ratios, with room for noise: fails where the line has become much slower against its own limits.
bench-check: setup
	$(BIN)/python -m bench --check

# Every package that the line needs can be had as a wheel on both kinds of host (Atlas cards sit in Arm hosts too).
wheels: $(SETUP)
	$(BIN)/python -m tools.wheels

# One file that is the whole product: out/patchline-*.whl.
wheel:
	rm -rf build
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir out .
	@ls out/patchline-*.whl

# Pins what pyproject.toml allows; run it to take newer versions. requirements.lock runs the line,
# requirements-archive.lock adds PostgreSQL and S3, requirements-console.lock the console, and requirements-dev.lock
# develops it.
lock: $(SETUP)
	$(PYTHON) -m venv .venv/lock && .venv/lock/bin/pip install --quiet pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/pip-compile --quiet --extra dev --strip-extras --generate-hashes \
		--no-emit-options -o requirements-dev.lock pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/pip-compile --quiet --strip-extras --generate-hashes \
		--no-emit-options -c requirements-dev.lock -o requirements.lock pyproject.toml
	CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/pip-compile --quiet --extra demo --strip-extras --generate-hashes \
		--no-emit-options -c requirements-dev.lock -o .venv/lock/demo.txt pyproject.toml
	grep -A2 '^elpv-dataset' .venv/lock/demo.txt | grep -v '# via' > requirements-demo.lock
	CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/pip-compile --quiet --extra s3 --extra archive-postgres \
		--strip-extras --generate-hashes --no-emit-options -c requirements-dev.lock -o .venv/lock/archive.txt pyproject.toml
	awk '/^[a-z]/ {keep = /^(obstore|psycopg|psycopg-binary)==/} keep && !/^ *#/' .venv/lock/archive.txt \
		> requirements-archive.lock
	CUSTOM_COMPILE_COMMAND="make lock" .venv/lock/bin/pip-compile --quiet --extra console --strip-extras --generate-hashes \
		--no-emit-options -c requirements-dev.lock -o .venv/lock/console.txt pyproject.toml
	awk 'NR==FNR {if (/^[a-z]/) known[$$1]; next} /^[a-z]/ {keep = !($$1 in known)} keep && !/^ *#/' \
		requirements.lock .venv/lock/console.txt > requirements-console.lock
