#!/usr/bin/env bash
# Runs tests in Debian 13: RabbitMQ 4.0, Redis 8.0 or Valkey 8.1, Prometheus 2.53, Python 3.13.
#   tools/debian13.sh redis|valkey [PYTEST ARGUMENTS]
# The first run unpacks Debian into .debian13/root (1.3 GB). It needs root and the package debootstrap.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/debian_root.sh
export CACHE=$PWD/.debian13
PACKAGES=(
    aravis-tools ca-certificates dbus gcc gir1.2-aravis-0.8 gir1.2-gst-rtsp-server-1.0 git gstreamer1.0-plugins-ugly
    libc6-dev libgl1 libglib2.0-0t64 libmodbus-dev
    libpython3.13 make mosquitto postgresql procps prometheus python3 python3-gi python3-venv rabbitmq-server
    redis-server systemd systemd-container valkey-server
)

main() {
    require_root
    local server=${1:?redis or valkey}
    shift
    [ $# -gt 0 ] || set -- tests/broker tests/system tests/ascend tests/console tests/cameras tests/installed
    [ -e "$CACHE/unpacked" ] || unpack
    cmp --silent requirements-dev.lock "$CACHE/installed" || install
    inside "$server" .debian13/venv/bin/python -m pytest -p no:cacheprovider "$@"
}

unpack() {
    bootstrap trixie
    printf '#!/bin/sh\nexit 101\n' > "$CACHE/root/usr/sbin/policy-rc.d" # the packages start no server
    chmod +x "$CACHE/root/usr/sbin/policy-rc.d"
    printf '127.0.0.1 localhost %s\n::1 localhost\n' "$(hostname)" > "$CACHE/root/etc/hosts"
    mkdir -p "$CACHE/root/opt/valkey"
    ln -s /usr/bin/valkey-server "$CACHE/root/opt/valkey/redis-server"
    inside redis apt-get install --yes --quiet --no-install-recommends "${PACKAGES[@]}"
    touch "$CACHE/unpacked"
}

install() {
    inside redis python3 -m venv --clear .debian13/venv
    inside redis .debian13/venv/bin/pip install --quiet --require-hashes -r requirements-dev.lock
    inside redis .debian13/venv/bin/pip install --quiet --no-deps --editable .
    cp requirements-dev.lock "$CACHE/installed"
}

# Run a command in Debian 13. The first argument is the Redis to use.
inside() {
    local path=
    [ "$1" != valkey ] || path=/opt/valkey:
    enter "$path" "${@:2}"
}

main "$@"
