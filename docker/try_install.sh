#!/bin/sh
# Run the CPU image's own install steps in a fresh Debian, where no container engine runs. As root:
#   docker/try_install.sh [FOLDER]      needs debootstrap, about 6 GB of disk, and a package index
# PIP_TORCH_INDEX= (empty) takes torch from the default index; pip's configuration of this machine is used.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
root=${1:-$(mktemp -d)}
suite=${DEBIAN_SUITE:-bookworm} # its Python is 3.11, as the image's
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
mounted=
clean() {
    for place in $mounted; do umount -l "$place" || true; done
    [ -n "${KEEP:-}" ] || rm -rf --one-file-system "$root"
}
trap clean EXIT INT TERM
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates "$suite" "$root" "$mirror"
for place in proc dev dev/shm sys; do
    mkdir -p "$root/$place"
    mount --bind "/$place" "$root/$place"
    mounted="$root/$place $mounted"
done
mkdir -p "$root/src" "$root/work"
(cd "$here" && git archive HEAD) | tar -x -C "$root/src"
cp /etc/resolv.conf "$root/etc/resolv.conf"
for file in /etc/pip.conf "${PIP_CONFIG_FILE:-/nonexistent}" "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
    [ -f "$file" ] && cp "$file" "$root/etc/pip.conf"
done
chroot "$root" useradd --create-home --uid 1000 perception
chroot "$root" env ${PIP_TORCH_INDEX+PIP_TORCH_INDEX="$PIP_TORCH_INDEX"} PIP_NO_CACHE_DIR=1 sh -euc '
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
    perception launch car.yaml --plain --duration 5'
echo "the CPU image's install steps work in a fresh Debian $suite"
