#!/usr/bin/env bash
# What this machine needs at least for each step of a snapshot, a check and a restore of SOURCE (benches/floors.rs), and
# what find, cp and tar take, for scale. As root: it mounts.
#
#   benches/floors.sh SOURCE [--dir DIR] [--threads N]
#
# Needs GNU time and zstd (Debian: time, zstd).
set -euo pipefail
here=$(dirname -- "$(realpath -- "$0")")
# shellcheck source-path=SCRIPTDIR source=place.sh
. "$here/place.sh"

source=
threads=()
while (($#)); do
    case $1 in
    --dir) dir=$(realpath -e -- "${2:?--dir needs a directory}") ;;
    --threads) threads=(--threads "${2:?--threads needs a number}") ;;
    *) source=$(realpath -e -- "$1") ;;
    esac
    case $1 in --dir | --threads) shift ;; esac
    shift
done
((EUID == 0)) || die "needs root: it mounts"
[ -d "$source" ] || die "usage: benches/floors.sh SOURCE [--dir DIR] [--threads N]"
image_mib=$(($(mib_of "$source") * 3 + 2048))

row() { # NAME COMMAND...
    clock "${@:2}"
    printf '%-44s %9.3f %9.2f\n' "$1" "$wall" "$cpu"
}

cd "$here/.."
cargo bench --bench floors --locked --quiet --no-run
machine
warm "$source"
fresh "$image_mib"
cd "$here/.."
cargo bench --bench floors --locked --quiet -- "$source" "$place" "${threads[@]}"

echo
row "find -printf" find "$source" -printf '%y %s %T@ %p\n'
fresh "$image_mib"
row "cp -r" cp -r -- "$source" "$place/copy"
row "  + sync of the file system" sync -f "$place"
tar -I 'zstd -3 -T0' -cf "$work/archive.tar.zst" -C "$source" .
fresh "$image_mib"
sync
row "tar xf" tar -I zstd -xf "$work/archive.tar.zst" -C "$place"
row "  + sync of the file system" sync -f "$place"
