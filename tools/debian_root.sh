# Functions of debian11.sh and debian13.sh, which run commands in another Debian. They need root and debootstrap.
# A command runs in namespaces of its own: at its end nothing is mounted, and no process of it is left.
# CACHE is the folder of the root.

stop() {
    echo "$0: $1" >&2
    exit 2
}

require_root() {
    [ "$(id -u)" = 0 ] || stop "needs root, for chroot"
    command -v debootstrap > /dev/null || stop "needs debootstrap: apt-get install debootstrap"
}

# Print the address of the mirror from which this machine installs Debian.
mirror() {
    local codename
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' "Codename: $codename" |
        sed -n '/^Debian /{s///p;q}'
}

# bootstrap SUITE [OPTIONS OF DEBOOTSTRAP]: unpack a release into an empty root.
bootstrap() {
    rm -rf --one-file-system "$CACHE"
    mkdir -p "$CACHE/root/repository"
    debootstrap --variant=minbase "${@:2}" "$1" "$CACHE/root" "$(mirror)"
}

# Run a command in the root, with this repository as its working folder. The first argument comes first in its PATH.
# Folders of SHARED, separated by colons, are there under the same paths.
# Debian becomes the root by pivot_root: in a chroot the root is no mount point, and tests could not mount it read-only.
enter() {
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
        IFS=: read -ra shared <<< "${SHARED:-}"
        case "$git" in "$PWD"/*) ;; *) shared+=("$git") ;; esac
        for folder in "${shared[@]}"; do
            mkdir -p "$CACHE/root$folder"
            mount --bind "$folder" "$CACHE/root$folder"
        done
        path=$1/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        shift
        cd "$CACHE/root"
        pivot_root . . # the old root lies over the new one until it is unmounted
        umount --lazy .
        cd /repository
        export HOME=/root LANG=C.UTF-8 PATH="$path" DEBIAN_FRONTEND=noninteractive
        unset PYTHONPATH VIRTUAL_ENV
        "$@" || exit $? # this shell, process 1, reaps orphans
    ' enter "$@"
}
