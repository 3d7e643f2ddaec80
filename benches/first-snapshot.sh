#!/usr/bin/env bash
# Times a first snapshot, an unchanged one, a restore and a full check of SOURCE, with backuptool and with restic, and
# `cp -r` and `tar | zstd -3 -T0` for scale. Each tool gets a freshly made ext4 image of its own, and nothing is deleted on
# it between the steps. The source is read once before, so that it is in the page cache for all.
#
#   benches/first-snapshot.sh SOURCE            as root: needs loop devices
#   benches/first-snapshot.sh SOURCE --dir DIR  in DIR instead of images: say which file system it is with the figures
#
# Needs GNU time (Debian: time). restic is run if it is installed (Debian: restic), or where RESTIC names it.
set -euo pipefail

source=$(realpath -- "${1:?usage: first-snapshot.sh SOURCE [--dir DIR]}")
dir=
if [ "${2:-}" = --dir ]; then dir=$(realpath -- "${3:?--dir needs a directory}"); fi
cd "$(dirname -- "$0")/.."
cargo build --release --locked --quiet
tool=$PWD/target/release/backuptool
restic=${RESTIC:-$(command -v restic || true)}
export RESTIC_PASSWORD=bench

work=$(mktemp -d)
image_mib=$(($(du -sm -- "$source" | cut -f1) * 3 + 2048))
cleanup() {
    cd /
    if mountpoint -q "$work/mnt"; then umount "$work/mnt"; fi
    rm -rf -- "$work"
}
trap cleanup EXIT

# A fresh place, for one tool.
fresh() {
    cd /
    if [ -n "$dir" ]; then
        place=$(mktemp -d -p "$dir")
        return
    fi
    if mountpoint -q "$work/mnt"; then umount "$work/mnt"; fi
    rm -f -- "$work/image"
    truncate -s "${image_mib}M" "$work/image"
    mkfs.ext4 -q -F "$work/image"
    mkdir -p "$work/mnt"
    mount -o loop "$work/image" "$work/mnt"
    place=$work/mnt
}

# step NAME COMMAND...: one row. What ran before is written out first, so that each step pays for itself alone.
step() {
    local name=$1
    shift
    sync
    command time -f '%e %U %S %M' -o "$work/time" "$@" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
    read -r wall user system memory <"$work/time"
    printf '%-34s %8.2f s wall %8.2f s CPU %6d MiB\n' "$name" "$wall" "$(echo "$user + $system" | bc)" "$((memory / 1024))"
}

size() {
    printf '%-34s %8d MiB on disk, %d files\n' "$1" "$(du -sm -- "$2" | cut -f1)" "$(find "$2" -type f | wc -l)"
}

printf '%s: %d files, %d MiB\n' "source" "$(find "$source" -type f | wc -l)" "$(du -sm --apparent-size -- "$source" | cut -f1)"
find "$source" -type f -print0 | xargs -0 cat >/dev/null

fresh
"$tool" -q -r "$place/repo" init
step "backuptool, first snapshot" "$tool" -r "$place/repo" snapshot "$source"
size "backuptool, repository" "$place/repo"
step "backuptool, unchanged" "$tool" -r "$place/repo" snapshot "$source"
step "backuptool, restore" "$tool" -r "$place/repo" restore --snapshot-number=1 --output-directory="$place/out"
step "backuptool, check" "$tool" -r "$place/repo" check
diff -r --no-dereference -- "$source" "$place/out"

if [ -n "$restic" ]; then
    fresh
    export XDG_CACHE_HOME=$place/cache
    "$restic" init -q -r "$place/repo"
    step "restic, first snapshot" "$restic" backup -q -r "$place/repo" "$source"
    size "restic, repository" "$place/repo"
    step "restic, unchanged, with its cache" "$restic" backup -q -r "$place/repo" "$source"
    step "restic, unchanged, --force" "$restic" backup -q --force -r "$place/repo" "$source"
    step "restic, restore" "$restic" restore -q -r "$place/repo" --target "$place/out" latest
    step "restic, check --read-data" "$restic" check -q --read-data -r "$place/repo"
    diff -r --no-dereference -- "$source" "$place/out$source"
    "$restic" version
fi

fresh
step "cp -r and sync" sh -c 'cp -r -- "$1" "$2" && sync' sh "$source" "$place/copy"
step "tar | zstd -3 -T0 and sync" sh -c 'tar cf - -C "$1" . | zstd -q -3 -T0 -o "$2" && sync' sh "$source" "$place/a.tar.zst"
