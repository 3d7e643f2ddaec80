#!/usr/bin/env bash
# How cost grows: with the number of files, with the entries of one directory, with the length of one file, and with the
# number of snapshots. As root: it mounts.
#
#   benches/scale.sh [trees] [directory] [file] [snapshots] [--dir DIR] [--files N] [--file-mib N] [--snapshots N]
#                    [--repeat N] [--tsv FILE] [--svg FILE] [--markdown]
#
# What is measured (all of it, unless parts are named):
#
#   trees      trees of 1,000, 10,000, 100,000 and 1,000,000 small files: first snapshot, one with nothing changed, one
#              with a file changed; beside `find` with the times of all files
#   directory  one directory of 1,000,000 small files: first snapshot, nothing changed, one file more; restore
#   file       one file of 10 GiB of noise: first snapshot, then after 100 random writes of 4 KiB; beside b3sum
#   snapshots  a tree of 20 files with 1, 10, 100, 1,000, 10,000 snapshots, each of one change: what `list`, the next
#              snapshot and a prune's dry run take then
#
#   --dir DIR       in new directories in DIR, which are deleted at the end, instead of an ext4 image for each part
#   --files N       no more than N files
#   --file-mib N    another length of the file
#   --snapshots N   no more than N snapshots
#   --repeat N      the median of N runs for what changes nothing or little; 3 if it is not given
#   --tsv FILE      what was measured, a line each, is added to FILE: part, size, step, figure, value
#   --svg FILE      and drawn, together with what was there (benches/scale.py)
#
# It needs python3 and GNU time (Debian: time). 1,000,000 files take 5 GB of disk twice, and the file twice its length; in
# an image, so for the time of the part.
#
# How to read the figures:
# - the sources are on the file system of the repository, read once before, and older than two seconds;
# - a snapshot's time is that of the command, which ends when all of it is on the disk;
# - what a snapshot writes is by how much the files of the repository are longer than before; `cache` counts by itself.
set -euo pipefail
here=$(dirname -- "$(realpath -- "$0")")
# shellcheck source-path=SCRIPTDIR source=place.sh
. "$here/place.sh"

parts=()
most_files=1000000
file_mib=10240
most_snapshots=10000
repeat=3
tsv=
svg=
while (($#)); do
    case $1 in
    trees | directory | file | snapshots) parts+=("$1") ;;
    --dir) dir=$(realpath -e -- "${2:?--dir needs a directory}") ;;
    --files) most_files=${2:?--files needs a number} ;;
    --file-mib) file_mib=${2:?--file-mib needs a number} ;;
    --snapshots) most_snapshots=${2:?--snapshots needs a number} ;;
    --repeat) repeat=${2:?--repeat needs a number} ;;
    --tsv) tsv=$(realpath -- "${2:?--tsv needs a file}") ;;
    --svg) svg=$(realpath -- "${2:?--svg needs a file}") ;;
    --markdown) markdown=yes ;;
    *) usage ;;
    esac
    case $1 in --dir | --files | --file-mib | --snapshots | --repeat | --tsv | --svg) shift ;; esac
    shift
done
if ((${#parts[@]} == 0)); then parts=(trees directory file snapshots); fi
[ -n "$dir" ] || ((EUID == 0)) || die "needs root: it mounts; --dir does without"
command -v time >/dev/null || die "needs GNU time (Debian: time)"
command -v python3 >/dev/null || die "needs python3"
program=${BACKUPTOOL:-}
if [ -z "$program" ]; then
    cargo build --release --locked --quiet --manifest-path "$here/../Cargo.toml"
    program=$here/../target/release/backuptool
fi
program=$(realpath -e -- "$program")
# What was measured in this run, as in the file of --tsv; place.sh removes it.
figures=$work/figures
: >"$figures"

note() { # PART SIZE STEP FIGURE VALUE
    printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$figures"
}

# A figure of this run; its median if there are several.
figure() { # PART SIZE STEP FIGURE
    awk -F '\t' -v key="$1 $2 $3 $4" '$1 " " $2 " " $3 " " $4 == key { print $5 }' "$figures" | sort -g |
        awk '{ value[NR] = $1 } END { print NR ? value[int((NR + 1) / 2)] : "-" }'
}

# Times a command.
step() { # PART SIZE STEP COMMAND...
    local part=$1 size=$2 step=$3
    shift 3
    measure "$@"
    note "$part" "$size" "$step" wall "$wall"
    note "$part" "$size" "$step" memory "$memory"
}

# Times one that stores, and looks at what it has written.
storing() { # PART SIZE STEP COMMAND...
    local objects=$stored cache=$cached
    step "$@"
    look
    note "$1" "$2" "$3" stored "$((stored - objects))"
    note "$1" "$2" "$3" cached "$((cached - cache))"
}

# The bytes of the repository's files: what is stored, and what can be deleted.
look() {
    stored=$(find "$repo" -path "$repo/cache" -prune -o -type f -printf '%s\n' | sum)
    cached=$(find "$repo/cache" -type f -printf '%s\n' 2>/dev/null | sum)
}

# The sum of numbers, in digits: awk writes large ones with an exponent.
sum() {
    awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}

# A place with a source that is still empty, and an empty repository.
begin() { # MIB
    fresh "$1"
    source=$place/source repo=$place/repo out=$place/out
    tool=("$program" -q -r "$repo")
    mkdir "$source"
    "${tool[@]}" init
    look
}

# Makes files of 80 to 1,200 bytes, all different, so many a directory; none is like another.
make_files() { # FILES PER_DIRECTORY
    python3 - "$source" "$1" "$2" <<'PYTHON'
import hashlib, os, sys

top, files, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(files):
    directory = f"{top}/{number // each:06}"
    if number % each == 0:
        os.makedirs(directory, exist_ok=True)
    line = hashlib.blake2b(number.to_bytes(8, "little")).hexdigest()
    text = "".join(f"{part} {line[part:part + 70]}\n" for part in range(1 + number % 16))
    with open(f"{directory}/file-{number:08}.txt", "w") as file:
        file.write(text)
PYTHON
    settle
}

# Until what was written is older than all that is taken for too new. One file is newer than all others, and always read.
settle() {
    sleep 1
    date >"$source/newest"
    sleep 3
    warm "$source"
}

again() { # PART SIZE STEP COMMAND...
    local round
    for ((round = 0; round < repeat; round++)); do step "$@"; done
}

trees() {
    local files each
    for ((files = 1000; files <= most_files; files *= 10)); do
        each=$((files < 10000 ? 100 : files < 1000000 ? 316 : 1000))
        begin $((files / 100 + 1024))
        make_files "$files" "$each"
        again trees "$files" find find "$source" -printf '%s %T@ %C@ %i %p\n'
        storing trees "$files" first "${tool[@]}" snapshot "$source"
        again trees "$files" unchanged "${tool[@]}" snapshot "$source"
        echo changed >>"$source/000003/file-$(printf %08d $((3 * each + 7))).txt"
        storing trees "$files" one "${tool[@]}" snapshot "$source"
        echo "trees: $files files are done" >&2
    done
}

directory() {
    begin $((most_files / 60 + 1024))
    make_files "$most_files" "$most_files"
    storing directory "$most_files" first "${tool[@]}" snapshot "$source"
    again directory "$most_files" unchanged "${tool[@]}" snapshot "$source"
    echo new >"$source/000000/file-00000500-and-one-more.txt"
    storing directory "$most_files" one "${tool[@]}" snapshot "$source"
    step directory "$most_files" restore "${tool[@]}" restore --snapshot-number=latest --output-directory="$out"
    diff -rq -- "$source" "$out" || die "what was restored is something else"
    echo "directory: done" >&2
}

file() {
    begin $((file_mib * 9 / 4 + 1024))
    head -c "${file_mib}M" /dev/urandom >"$source/image"
    settle
    storing file "$file_mib" first "${tool[@]}" snapshot "$source"
    again file "$file_mib" unchanged "${tool[@]}" snapshot "$source"
    python3 - "$source/image" <<'PYTHON'
import os, random, sys

random.seed(1)
with open(sys.argv[1], "r+b") as image:
    length = os.fstat(image.fileno()).st_size
    for _ in range(100):
        image.seek(random.randrange(length // 4096) * 4096)
        image.write(random.randbytes(4096))
PYTHON
    # As long as it takes to write the first snapshot, the file may have left the page cache.
    sync
    warm "$source"
    if command -v b3sum >/dev/null; then again file "$file_mib" b3sum b3sum "$source/image"; fi
    storing file "$file_mib" writes "${tool[@]}" snapshot "$source"
    echo "file: done" >&2
}

change() {
    echo "$RANDOM$RANDOM" >"$source/changing"
}

snapshots() {
    begin 4096
    local number wanted round
    for ((number = 0; number < 20; number++)); do
        mkdir -p "$source/d$((number % 4))"
        head -c 2000 /dev/urandom >"$source/d$((number % 4))/$number"
    done
    change
    settle
    number=0
    for ((wanted = 1; wanted <= most_snapshots; wanted *= 10)); do
        for ((; number < wanted; number++)); do
            change
            "${tool[@]}" snapshot "$source"
        done
        again snapshots "$wanted" list "${tool[@]}" list
        again snapshots "$wanted" prune "${tool[@]}" prune --dry-run --keep-daily=7
        again snapshots "$wanted" unchanged "${tool[@]}" snapshot "$source"
        number=$((number + repeat))
        for ((round = 0; round < repeat; round++, number++)); do
            change
            step snapshots "$wanted" one "${tool[@]}" snapshot "$source"
        done
        echo "snapshots: $wanted are done" >&2
    done
}

# The sizes that a part was measured at.
sizes() { # PART
    awk -F '\t' -v part="$1" '$1 == part { print $2 }' "$figures" | sort -gu
}

rate() { # COUNT SECONDS
    awk -v count="$1" -v seconds="$2" 'BEGIN { printf "%d", count / seconds }'
}

mib() { # BYTES
    awk -v bytes="$1" 'BEGIN { if (bytes == "-") print "-"; else printf "%.2f\n", bytes / 1048576 }'
}

report_trees() {
    local size first unchanged
    {
        printf 'files\tfirst, s\tfiles/s\tpeak, MiB\tfind, s\tunchanged, s\tfiles/s\tpeak, MiB\tone changed, s\n'
        for size in $(sizes trees); do
            first=$(figure trees "$size" first wall)
            unchanged=$(figure trees "$size" unchanged wall)
            printf '%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$size" "$first" \
                "$(rate "$size" "$first")" "$(figure trees "$size" first memory)" \
                "$(figure trees "$size" find wall)" "$unchanged" "$(rate "$size" "$unchanged")" \
                "$(figure trees "$size" unchanged memory)" "$(figure trees "$size" one wall)"
        done
    } | table "Trees of small files"
    {
        printf 'files\tfirst: stored, MiB\tcache, MiB\tone changed: stored, MiB\n'
        for size in $(sizes trees); do
            printf '%d\t%s\t%s\t%s\n' "$size" "$(mib "$(figure trees "$size" first stored)")" \
                "$(mib "$(figure trees "$size" first cached)")" "$(mib "$(figure trees "$size" one stored)")"
        done
    } | table "What that takes"
}

# A part that has one size: its steps below each other, each with its name after a colon.
report_steps() { # PART TITLE HEAD STEP:NAME...
    local part=$1 title=$2 head=$3 size step
    shift 3
    size=$(sizes "$part")
    {
        printf '%d %s\tseconds\tpeak, MiB\tstored, MiB\n' "$size" "$head"
        for step; do
            printf '%s\t%s\t%s\t%s\n' "${step#*:}" "$(figure "$part" "$size" "${step%%:*}" wall)" \
                "$(figure "$part" "$size" "${step%%:*}" memory)" \
                "$(mib "$(figure "$part" "$size" "${step%%:*}" stored)")"
        done
    } | table "$title"
}

report_directory() {
    report_steps directory "One directory" "files in one directory" first:first unchanged:unchanged "one:one more" \
        restore:restore
}

report_file() {
    report_steps file "One file" MiB b3sum:b3sum first:first unchanged:unchanged "writes:100 writes of 4 KiB"
}

report_snapshots() {
    local size
    {
        printf 'snapshots\tlist, s\tunchanged, s\tone changed, s\tprune --dry-run, s\tits peak, MiB\n'
        for size in $(sizes snapshots); do
            printf '%d\t%s\t%s\t%s\t%s\t%s\n' "$size" "$(figure snapshots "$size" list wall)" \
                "$(figure snapshots "$size" unchanged wall)" "$(figure snapshots "$size" one wall)" \
                "$(figure snapshots "$size" prune wall)" "$(figure snapshots "$size" prune memory)"
        done
    } | table "Many snapshots"
}

for part in "${parts[@]}"; do "$part"; done

echo
machine
printf 'backuptool: %s\n' "$("$program" --version)"
for part in "${parts[@]}"; do "report_$part"; done
if [ -n "$tsv" ]; then cat -- "$figures" >>"$tsv"; fi
if [ -n "$svg" ]; then python3 "$here/scale.py" "${tsv:-$figures}" >"$svg"; fi
