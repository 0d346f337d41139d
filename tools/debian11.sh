#!/usr/bin/env bash
# Runs a command in Debian 11, which has the Python of the MindX SDK's time (3.9.2) and glibc 2.31:
#   SHARED=FOLDER[:FOLDER...] tools/debian11.sh COMMAND [ARGUMENTS]
# The first run unpacks Debian into .debian11/root and what the stand-in of the SDK needs into .debian11/packages
# (0.5 GB). It needs root and the package debootstrap. The repository is /repository.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/debian_root.sh
export CACHE=$PWD/.debian11
REQUIREMENTS=tests/debian11/requirements.txt

main() {
    require_root
    [ -e "$CACHE/unpacked" ] || unpack
    cmp --silent "$REQUIREMENTS" "$CACHE/installed" || install
    enter "" "$@"
}

unpack() {
    bootstrap bullseye --include=python3 >&2
    touch "$CACHE/unpacked"
}

install() {
    rm -rf "$CACHE/packages"
    "${PYTHON:-.venv/bin/python}" -m pip install --quiet --target "$CACHE/packages" --python-version 3.9 \
        --platform "manylinux2014_$(uname -m)" --platform "manylinux_2_31_$(uname -m)" \
        --only-binary :all: --no-deps --require-hashes -r "$REQUIREMENTS"
    cp "$REQUIREMENTS" "$CACHE/installed"
}

main "$@"
