#!/usr/bin/env bash
# What backup tools take for the same work: a first snapshot of V1, one of V1 unchanged, one after it has become V2, a
# restore of the last, a check that reads everything, a restore of one small file, and the removal of the last snapshot
# with all that only it needs. As root: it mounts.
#
#   benches/peers.sh V1 [V2] [--in-place] [--dir DIR] [--tools "backuptool restic"] [--repeat N] [--markdown]
#
# V1 and V2 are directories, or big files. Both are shown to the tools at one path. The files of V2 are other files than
# those of V1, so all of them look changed, as after a fresh checkout.
#
#   --in-place  the source is a copy of V1, in which only what V2 has changed is written anew (with rsync), as by an
#               update; all else stays as it is, with its inodes and times
#   --dir DIR   in new directories in DIR, which are deleted at the end, instead of an ext4 image for each tool
#   --repeat N  the whole series N times, tool after tool; the figures are the medians, the times with the lowest and
#               the highest
#
# BACKUPTOOL, RESTIC, BORG, RUSTIC, BUPSTASH and CONSERVE name the programs; by default backuptool is built here, and
# the others are looked for in PATH. Each has its default compression. restic, rustic and bupstash cannot but encrypt.
# Caches start empty and lie beside the repository. Needs GNU time (Debian: time).
#
# How to read the figures:
# - a snapshot's time ends when all of it is on the disk, also for tools that do not care for that themselves; that of
#   a restore or a check when the command ends;
# - restic and rustic derive their key from the password anew in each command: about half a second, and 64 or 128 MiB;
# - the repository is as `du` sees it, with and without rounding up to blocks; caches do not count;
# - before each step the source and the repository are read, so that all of them come from the page cache;
# - tar and cp keep a whole copy of each version and know no unchanged one.
set -euo pipefail
here=$(dirname -- "$(realpath -- "$0")")
# shellcheck source-path=SCRIPTDIR source=place.sh
. "$here/place.sh"

versions=()
tools="backuptool restic borg rustic bupstash conserve tar cp"
repeat=1
markdown=
in_place=
while (($#)); do
    case $1 in
    --dir) dir=$(realpath -e -- "${2:?--dir needs a directory}") ;;
    --tools) tools=${2:?--tools needs names} ;;
    --repeat) repeat=${2:?--repeat needs a number} ;;
    --markdown) markdown=yes ;;
    --in-place) in_place=yes ;;
    -*) usage ;;
    *)
        version=$(realpath -e -- "$1")
        versions+=("$version")
        ;;
    esac
    case $1 in --dir | --tools | --repeat) shift ;; esac
    shift
done
case ${#versions[@]} in 1 | 2) ;; *) usage ;; esac
((EUID == 0)) || die "needs root: it mounts"
command -v time >/dev/null || die "needs GNU time (Debian: time)"
[ -z "$in_place" ] || command -v rsync >/dev/null || die "--in-place needs rsync (Debian: rsync)"
last_version=${versions[-1]}

declare -A programs=(
    [backuptool]=${BACKUPTOOL:-$here/../target/release/backuptool}
    [restic]=${RESTIC:-restic} [borg]=${BORG:-borg} [rustic]=${RUSTIC:-rustic} [bupstash]=${BUPSTASH:-bupstash}
    [conserve]=${CONSERVE:-conserve} [tar]=zstd [cp]=cp
)
declare -A install=(
    [restic]="apt-get install restic" [borg]="apt-get install borgbackup, or pip install borgbackup"
    [rustic]="cargo install rustic-rs" [conserve]="cargo install conserve"
    [bupstash]="apt-get install libsodium-dev pkg-config && cargo install bupstash" [tar]="apt-get install zstd"
)
export RESTIC_PASSWORD=bench RUSTIC_PASSWORD=bench BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes

# What each tool is told for a step. `number` counts its snapshots. A step that is not there the tool cannot do. The one
# file comes to standard output, or to its path below $place/one.

with_backuptool() {
    local run=("$program" -q -r "$repo")
    case $1 in
    version) "$program" --version ;;
    init) "${run[@]}" init ;;
    snapshot) durable "${run[@]}" snapshot "$source" ;;
    restore) timed "${run[@]}" restore --snapshot-number=latest --output-directory="$out" ;;
    check) timed "${run[@]}" check ;;
    one) timed "${run[@]}" restore --snapshot-number=latest --output-directory="$place/one" "$one" ;;
    prune) durable "${run[@]}" prune --snapshot="$number" ;;
    esac
}

with_restic() {
    local run=("$program" -q -r "$repo")
    case $1 in
    version) "$program" version ;;
    init) "${run[@]}" init ;;
    snapshot) durable "${run[@]}" backup "$source" ;;
    # With all directories above the source; only newer versions can leave them out.
    restore) timed "${run[@]}" restore latest --target "$out" && out=$out$source ;;
    check) timed "${run[@]}" check --read-data ;;
    one) timed "${run[@]}" dump latest "$source/$one" ;;
    prune) durable "${run[@]}" forget --prune latest ;;
    esac
}

with_borg() {
    case $1 in
    version) "$program" --version ;;
    init) "$program" init --encryption none "$repo" ;;
    # It stores and restores paths relative to where it runs.
    snapshot) durable env -C "$source" "$program" create "$repo::$number" . ;;
    restore) mkdir "$out" && timed env -C "$out" "$program" extract "$repo::$number" ;;
    check) timed "$program" check --verify-data "$repo" ;;
    one) timed "$program" extract --stdout "$repo::$number" "$one" ;;
    prune)
        # shellcheck disable=SC2016 # for the inner shell
        durable sh -c '"$0" delete "$1::$2" && "$0" compact "$1"' "$program" "$repo" "$number"
        ;;
    esac
}

with_rustic() {
    local run=("$program" --no-progress --log-level error -r "$repo")
    case $1 in
    version) "$program" --version ;;
    init) "${run[@]}" init ;;
    snapshot) durable "${run[@]}" backup "$source" ;;
    restore) timed "${run[@]}" restore "latest:$source" "$out" ;;
    check) timed "${run[@]}" check --read-data ;;
    one) timed "${run[@]}" dump "latest:$source/$one" ;;
    # At once, as the others do, and not only when it has been unreferenced for a day.
    prune) durable "${run[@]}" forget --prune --instant-delete latest ;;
    esac
}

with_bupstash() {
    export BUPSTASH_REPOSITORY=$repo BUPSTASH_KEY=$place/key
    case $1 in
    version) "$program" version ;;
    init) "$program" init && "$program" new-key -o "$BUPSTASH_KEY" ;;
    snapshot) durable "$program" put -q "number=$number" :: "$source" ;;
    restore) mkdir "$out" && timed "$program" restore -q --into "$out" "number=$number" ;;
    one) timed "$program" get -q --pick "$one" "number=$number" ;;
    prune)
        # shellcheck disable=SC2016 # for the inner shell
        durable sh -c '"$0" rm -q "number=$1" && "$0" gc -q' "$program" "$number"
        ;;
    esac
}

with_conserve() {
    case $1 in
    version) "$program" --version ;;
    init) "$program" init "$repo" ;;
    snapshot) durable "$program" backup -P --no-stats "$repo" "$source" ;;
    restore) timed "$program" restore -P --no-stats "$repo" "$out" ;;
    check) timed "$program" validate -P --no-stats "$repo" ;;
    # It does not make the directories above the file, and minds those that are there unless it is told not to.
    one)
        mkdir -p "$place/one/$(dirname -- "$one")" &&
            timed "$program" restore -P --no-stats --force-overwrite --only "/$one" "$repo" "$place/one"
        ;;
    prune) durable "$program" delete -P --no-stats -b "b000$((number - 1))" "$repo" ;;
    esac
}

with_tar() {
    local archive=$repo/$number.tar.zst
    case $1 in
    version) tar --version && zstd --version ;;
    init) mkdir "$repo" ;;
    snapshot) durable tar -I 'zstd -3 -T0' -cf "$archive" -C "$source" . ;;
    restore) mkdir "$out" && timed tar -I zstd -xf "$archive" -C "$out" ;;
    check) timed zstd -t "$repo"/*.tar.zst ;;
    one) timed tar -I zstd -xOf "$archive" "./$one" ;;
    prune) durable rm -- "$archive" ;;
    esac
}

with_cp() {
    case $1 in
    version) cp --version ;;
    init) mkdir "$repo" ;;
    snapshot) durable cp -r -- "$source" "$repo/$number" ;;
    restore) timed cp -r -- "$repo/$number" "$out" ;;
    one) timed cp -- "$repo/$number/$one" "$place/one" ;;
    prune) durable rm -r -- "${repo:?}/$number" ;;
    esac
}

# Measures a command and notes the figures of the tool's step.
timed() { # COMMAND...
    measure "$@" || return
    note "$step" wall "$wall"
    note "$step" cpu "$cpu"
    note "$step" memory "$memory"
    printf '%-11s %-10s %9.3f s wall %9.2f s CPU %6d MiB\n' "$tool" "$step" "$wall" "$cpu" "$memory" >&2
}

durable() { # COMMAND...
    # shellcheck disable=SC2016 # for the inner shell
    timed sh -c '"$@" && sync -f "$0"' "$place" "$@"
}

note() { # STEP COLUMN VALUE
    echo "$tool $*" >>"$work/figures"
}

note_size() { # STEP
    apparent=$(du -s --apparent-size -B 1 -- "$repo" | cut -f 1)
    disk=$(du -s -B 1 -- "$repo" | cut -f 1)
    note "$1" apparent "$((apparent - ${2:-0}))"
    note "$1" disk "$((disk - ${3:-0}))"
}

# Shows a version at the source's path, or makes it of the one that is there.
come_to() { # PATH
    if [ -z "$in_place" ]; then
        show "$1"
        return
    fi
    local tree=$place/tree from=$1
    if [ -d "$1" ]; then from=$1/; fi
    # Times are those of the writing, as with any program that writes files.
    rsync --recursive --links --checksum --delete --inplace --whole-file -- "$from" "$tree/"
    if ((!${#shown[@]})); then show "$tree"; fi
    # What is younger than the clock can tell apart has to be read again.
    sync
    sleep 3
}

# Everything that one tool does, in a fresh place.
series() { # TOOL
    local identical=yes apparent disk
    tool=$1 program=${programs[$1]} number=1
    hide
    fresh "$image_mib"
    repo=$place/repo out=$place/out
    # So that each starts without cache and configuration.
    export HOME=$place XDG_CACHE_HOME=$place/cache XDG_CONFIG_HOME=$place/config XDG_DATA_HOME=$place/data
    "with_$tool" init >"$work/stdout" || return

    come_to "${versions[0]}"
    run first snapshot || return
    note_size first
    note first files "$(find "$repo" -type f | wc -l)"
    case $tool in
    tar | cp) ;;
    *) number=2 && run unchanged snapshot || return ;;
    esac
    if ((${#versions[@]} == 2)); then
        come_to "$last_version"
        note_size unchanged
        number=3 && run changed snapshot || return
        note_size changed "$apparent" "$disk"
    fi
    run restore restore || return
    diff -r --no-dereference -- "$source" "$out" >"$work/stdout" || identical=no
    run check check || return
    if [ -n "$one" ]; then
        run one one || return
        local found=$work/stdout path
        for path in "$place/one" "$place/one/$one"; do
            if [ -f "$path" ]; then found=$path; fi
        done
        cmp -s -- "$source/$one" "$found" || identical=no
    fi
    run prune prune || return
    note_size prune
    note restore identical "$identical"
}

run() { # STEP WHAT
    step=$1
    warm "$source" "$repo"
    "with_$tool" "$2"
}

# The median of a figure, divided by something; with the lowest and highest if SPREAD is given. `-` where there is none.
# DIGITS are those after the point; `time` stands for three digits in all.
median() { # TOOL STEP COLUMN DIGITS [DIVISOR] [SPREAD]
    awk -v key="$1 $2 $3" '$1 " " $2 " " $3 == key { print $4 }' "$work/figures" | sort -g |
        awk -v digits="$4" -v divisor="${5:-1}" -v spread="${6:-}" '
            function text(value) {
                if (digits != "time") return sprintf("%.*f", digits, value)
                return sprintf("%.*f", value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3, value)
            }
            { value[NR] = $1 / divisor }
            END {
                if (!NR) { print "-"; exit }
                printf "%s", text((value[int((NR + 1) / 2)] + value[int(NR / 2) + 1]) / 2)
                if (spread && NR > 1) printf " (%s to %s)", text(value[1]), text(value[NR])
            }'
}

# Tools beside steps, for one column.
times() { # TITLE COLUMN DIGITS [SPREAD]
    local step
    {
        printf 'tool\tfirst\tunchanged\tchanged\trestore\tcheck\tone file\tprune\n'
        for tool in "${chosen[@]}"; do
            printf '%s' "$tool"
            for step in first unchanged changed restore check one prune; do
                printf '\t%s' "$(median "$tool" "$step" "$2" "$3" 1 "${4:-}")"
            done
            printf '\n'
        done
    } | table "$1"
}

sizes() {
    local mib=1048576 identical
    {
        printf 'tool\tfiles\tsum of lengths, MiB\ton disk, MiB\tV2 adds, sum\tV2 adds, on disk\ton disk after prune\trestored identical\n'
        for tool in "${chosen[@]}"; do
            # One `no` is a no.
            identical=$(awk -v tool="$tool" '$1 == tool && $3 == "identical" && found != "no" { found = $4 }
                END { print found }' "$work/figures")
            printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$tool" "$(median "$tool" first files 0)" \
                "$(median "$tool" first apparent 1 $mib)" "$(median "$tool" first disk 1 $mib)" \
                "$(median "$tool" changed apparent 1 $mib)" "$(median "$tool" changed disk 1 $mib)" \
                "$(median "$tool" prune disk 1 $mib)" "${identical:--}"
        done
    } | table "Repository after the first snapshot of V1, and what V2 adds"
}

chosen=()
for tool in $tools; do
    declare -F "with_$tool" >/dev/null || die "there is no tool $tool here"
    if [ "$tool" = backuptool ] && [ -z "${BACKUPTOOL:-}" ]; then
        cargo build --release --locked --quiet --manifest-path "$here/../Cargo.toml"
    fi
    if command -v "${programs[$tool]}" >/dev/null; then
        programs[$tool]=$(command -v "${programs[$tool]}")
        chosen+=("$tool")
    else
        echo "$tool is left out: there is no ${programs[$tool]} (${install[$tool]:-})" >&2
    fi
done

image_mib=$(($(mib_of "${versions[@]}") * (${in_place:+2} + 3) + 2048))
source=$work/source
# A file of about 1 KiB from the middle of the tree, of those whose names need no quoting anywhere.
one=$(cd "$last_version" 2>/dev/null && find . -type f -size +1 -size -4 -printf '%P\n' | grep -x '[A-Za-z0-9._/-]*' |
    sort | awk '{ path[NR] = $0 } END { if (NR) print path[int((NR + 1) / 2)] }') || true
touch "$work/figures"
for ((round = 1; round <= repeat; round++)); do
    for tool in "${chosen[@]}"; do
        series "$tool" || echo "$tool failed, and is left out from here on in this series" >&2
    done
done

echo
machine
for version in "${versions[@]}"; do
    printf '%s: %d files, %d MiB\n' "$version" "$(find "$version" -type f | wc -l)" \
        "$(du -sm --apparent-size -- "$version" | cut -f 1)"
done
for tool in "${chosen[@]}"; do
    program=${programs[$tool]}
    printf '%s: %s\n' "$tool" "$("with_$tool" version | head -n 1)"
done
if [ -n "$one" ]; then echo "One file: $one, $(stat -c %s -- "$last_version/$one") bytes"; fi
times "Wall seconds" wall time spread
times "CPU seconds" cpu 2
times "Peak memory, MiB" memory 0
sizes
