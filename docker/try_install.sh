#!/bin/sh
# Run the CPU image's own install steps in a fresh Debian, where no container engine runs. As root:
#   docker/try_install.sh [FOLDER]      needs debootstrap, about 6 GB of disk, and a package index
# PIP_TORCH_INDEX= (empty) takes torch from the default index. pip's configuration of this machine is used: its files,
# the PIP_* variables and the certificates; folders that it names are made visible by BIND="FOLDER ...".
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
root=${1:-$(mktemp -d)}
suite=${DEBIAN_SUITE:-bookworm} # its Python is 3.11, as the image's
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
mounted=
clean() {
    for place in $mounted; do umount -l "$place" || { echo "$place is still mounted; $root stays"; exit 1; }; done
    [ -n "${KEEP:-}" ] || rm -rf --one-file-system "$root"
}
trap clean EXIT
trap "exit 130" INT TERM
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates "$suite" "$root" "$mirror"
for place in /proc /dev /dev/shm /sys ${BIND:-}; do
    [ -d "$place" ] || continue
    mkdir -p "$root$place"
    mount --bind "$place" "$root$place"
    mounted="$root$place $mounted"
done
for place in ${BIND:-}; do [ ! -d "$place" ] || mount -o remount,ro,bind "$root$place"; done
mkdir -p "$root/src" "$root/work"
(cd "$here" && git archive HEAD) | tar -x -C "$root/src"
cp /etc/resolv.conf "$root/etc/resolv.conf"
for file in /etc/pip.conf /etc/ssl/certs/ca-certificates.crt "${PIP_CERT:-}"; do
    if [ -f "$file" ]; then
        mkdir -p "$root$(dirname "$file")"
        cp "$file" "$root$file"
    fi
done
chroot "$root" useradd --create-home --uid 1000 perception
PIP_NO_CACHE_DIR=1 chroot "$root" sh -euc '
    python3 -m venv /opt/perception
    PATH=/opt/perception/bin:$PATH
    cd /src
    sh docker/install_cpu.sh
    rm -rf /src
    chown perception /work'
# What the image starts, as its user, away from the source.
chroot --userspec=perception "$root" env HOME=/home/perception PATH=/opt/perception/bin:/usr/bin:/bin PERCEPTION_CACHE=/home/perception/cache sh -euc '
    cd /work
    perception doctor --json >doctor.json 2>/dev/null || cat doctor.json
    perception launch car.yaml --plain --duration 20'
echo "the CPU image's install steps work in a fresh Debian $suite"
