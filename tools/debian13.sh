#!/usr/bin/env bash
# Runs tests in Debian 13: RabbitMQ 4.0, Redis 8.0 or Valkey 8.1, Prometheus 2.53, Python 3.13.
#   tools/debian13.sh redis|valkey [PYTEST ARGUMENTS]
# The first run unpacks Debian into .debian13/root (1.3 GB). It needs root and the package debootstrap.
# The tests run in namespaces of their own: at the end nothing is mounted, and no server is left.
set -euo pipefail
cd "$(dirname "$0")/.."
export CACHE=$PWD/.debian13
PACKAGES=(
    ca-certificates dbus gcc git libc6-dev libgl1 libglib2.0-0t64 make procps prometheus python3 python3-venv
    rabbitmq-server redis-server systemd systemd-container valkey-server
)

main() {
    [ "$(id -u)" = 0 ] || stop "needs root, for chroot"
    command -v debootstrap > /dev/null || stop "needs debootstrap: apt-get install debootstrap"
    local server=${1:?redis or valkey}
    shift
    [ $# -gt 0 ] || set -- tests/broker tests/system
    [ -e "$CACHE/unpacked" ] || unpack
    cmp --silent requirements-dev.lock "$CACHE/installed" || install
    inside "$server" .debian13/venv/bin/python -m pytest -p no:cacheprovider "$@"
}

stop() {
    echo "tools/debian13.sh: $1" >&2
    exit 2
}

# Print the address of the mirror from which this machine installs Debian.
mirror() {
    local codename
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' "Codename: $codename" |
        sed -n '/^Debian /{s///p;q}'
}

unpack() {
    rm -rf --one-file-system "$CACHE"
    mkdir -p "$CACHE/root"
    debootstrap --variant=minbase trixie "$CACHE/root" "$(mirror)"
    printf '#!/bin/sh\nexit 101\n' > "$CACHE/root/usr/sbin/policy-rc.d" # the packages start no server
    chmod +x "$CACHE/root/usr/sbin/policy-rc.d"
    printf '127.0.0.1 localhost %s\n::1 localhost\n' "$(hostname)" > "$CACHE/root/etc/hosts"
    mkdir -p "$CACHE/root/repository" "$CACHE/root/opt/valkey"
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

# Run a command in Debian 13, with this repository as its working folder. The first argument is the Redis to use.
# Debian becomes the root by pivot_root: in a chroot the root is no mount point, and tests could not mount it read-only.
inside() {
    unshare --mount --pid --fork --kill-child --propagation private bash -euc '
        mount --bind "$CACHE/root" "$CACHE/root"
        for folder in dev sys; do mount --rbind "/$folder" "$CACHE/root/$folder"; done
        mount -t proc proc "$CACHE/root/proc"
        mount -t tmpfs tmpfs "$CACHE/root/tmp"
        mount --bind "$PWD" "$CACHE/root/repository"
        mkdir -p "$CACHE/root/etc/ssl/certs"
        for file in /etc/resolv.conf /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
            [ ! -e "$file" ] || cp --dereference "$file" "$CACHE/root$file"
        done
        git=$(git rev-parse --path-format=absolute --git-common-dir) # of a worktree, it is elsewhere
        case "$git" in "$PWD"/*) ;; *) mkdir -p "$CACHE/root$git"; mount --bind "$git" "$CACHE/root$git" ;; esac
        path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        [ "$1" != valkey ] || path=/opt/valkey:$path
        shift
        cd "$CACHE/root"
        pivot_root . . # the old root lies over the new one until it is unmounted
        umount --lazy .
        cd /repository
        export HOME=/root LANG=C.UTF-8 PATH="$path" DEBIAN_FRONTEND=noninteractive
        unset PYTHONPATH VIRTUAL_ENV
        "$@" || exit $? # this shell, process 1, reaps orphans
    ' inside "$@"
}

main "$@"
