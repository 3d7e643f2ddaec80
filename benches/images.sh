#!/usr/bin/env bash
# Makes sources to measure with, which no directory at hand is: disk images, holes, noise. As root: it mounts.
#
#   benches/images.sh OUT_DIR TREE1 TREE2 ARCHIVE1 ARCHIVE2
#       two versions of a 3 GiB disk: OUT_DIR/v1/disk.img with a tree and an archive, and OUT_DIR/v2/disk.img, which is
#       the same disk after TREE1 has become TREE2 and ARCHIVE2 has come
#   benches/images.sh --sparse OUT_FILE TREE
#       a 4 GiB disk with a tree, 512 MiB of zeros that are written, and holes
#   benches/images.sh --incompressible OUT_DIR
#       4 GiB of noise in 64 files of 47 KiB to 188 MiB
#
# With IMAGE_REWRITE=1 the update writes every file anew, as when a release is unpacked over an older one; without, only
# those whose content has changed. IMAGE_MIB is another size than 3 or 4 GiB. Needs rsync (Debian: rsync).
set -euo pipefail

usage() {
    sed -n 's/^#   benches/usage: benches/p' "$0" >&2
    exit 2
}

mnt=$(mktemp -d)
cleanup() {
    if mountpoint -q "$mnt"; then umount "$mnt"; fi
    rmdir -- "$mnt"
}
trap cleanup EXIT

make_disk() { # IMAGE MIB
    [ ! -e "$1" ] || { echo "$1 exists" >&2 && exit 1; }
    truncate -s "$2M" "$1"
    mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$1"
}

# Mounted, so that it is a disk as the kernel leaves it. Without discard: what is deleted stays in the image.
mount_disk() { # IMAGE
    mount -o loop,nodiscard "$1" "$mnt"
}

two_versions() { # OUT_DIR TREE1 TREE2 ARCHIVE1 ARCHIVE2
    mkdir -p "$1/v1" "$1/v2"
    make_disk "$1/v1/disk.img" "${IMAGE_MIB:-3072}"
    mount_disk "$1/v1/disk.img"
    mkdir "$mnt/tree" "$mnt/archives"
    cp -a -- "$2/." "$mnt/tree"
    cp -a -- "$4" "$mnt/archives/"
    umount "$mnt"

    cp -- "$1/v1/disk.img" "$1/v2/disk.img"
    mount_disk "$1/v2/disk.img"
    # By content: the same file with another time is not written anew, as an update would not.
    local how=(--checksum)
    if [ -n "${IMAGE_REWRITE:-}" ]; then how=(--ignore-times --whole-file); fi
    rsync -a "${how[@]}" --delete -- "$3/" "$mnt/tree/"
    cp -a -- "$5" "$mnt/archives/"
    umount "$mnt"
}

sparse() { # OUT_FILE TREE
    local mib=${IMAGE_MIB:-4096}
    make_disk "$1" "$mib"
    mount_disk "$1"
    mkdir "$mnt/tree"
    cp -a -- "$2/." "$mnt/tree"
    head -c "$((mib / 8))M" /dev/zero >"$mnt/zeros"
    umount "$mnt"
}

incompressible() { # OUT_DIR
    # The sizes grow with the square of the number, so that there are small and large ones, none of a round size. The
    # sum of the squares up to 64 is 89,440.
    local unit=$((${IMAGE_MIB:-4096} * 1048576 / 89440 + 1)) number
    mkdir -p "$1"
    for ((number = 1; number <= 64; number++)); do
        head -c "$((number * number * unit))" /dev/urandom >"$1/$(printf 'noise-%02d' "$number")"
    done
}

case "${1:-} $#" in
"--sparse 3") sparse "$2" "$3" ;;
"--incompressible 2") incompressible "$2" ;;
-*) usage ;;
*" 5") two_versions "$@" ;;
*) usage ;;
esac
