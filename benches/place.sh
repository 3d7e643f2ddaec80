# shellcheck shell=bash disable=SC2034 # what `clock` sets is for those who source this
# For the scripts beside it: fresh places to measure in, and the measuring of one command.
#
# A place is an ext4 image of its own, made for one series and loop-mounted, so that nothing that was written, deleted
# or cached before plays a part. Where `dir` is set it is a new directory in there. Images lie in TMPDIR, else in /tmp.
export LC_ALL=C.UTF-8 # one order, one decimal point, any name

dir=
place=
markdown= # not empty for tables in Markdown
work=$(mktemp -d)
places=() # those in `dir`; they go at the very end, since deleting slows what comes after it
shown=()  # what `show` has mounted

cleanup() {
    cd /
    # Lazily, since a command that was interrupted may still be at work there.
    if ((${#shown[@]})); then umount --lazy "${shown[@]}"; fi
    if mountpoint -q "$work/mnt"; then umount --lazy "$work/mnt"; fi
    # By name and never `rm -r`: if a mount were left, this would go on into the source.
    rm -f -- "$work"/{image,time,stdout,stderr,figures,archive.tar.zst,source/content}
    rmdir -- "$work"/{mnt,source,} 2>/dev/null || true
    if ((${#places[@]})); then rm -rf -- "${places[@]}"; fi
}
trap cleanup EXIT
trap 'exit 141' PIPE # else nothing is cleaned up after `| head`

# The lines of the script's head that say how to call it.
usage() {
    sed -n 's/^#   benches/usage: benches/p' "$here/${0##*/}" >&2
    exit 2
}

die() {
    echo "$0: $*" >&2
    exit 1
}

mib_of() { # PATH...: the larger of what they hold and what they take
    local sizes
    sizes="$(du -scm -- "$@" | tail -n 1) $(du -scm --apparent-size -- "$@" | tail -n 1)"
    awk '{ print ($1 > $3 ? $1 : $3) }' <<<"$sizes"
}

# A fresh place for one series, with room for some MiB.
fresh() { # MIB
    cd /
    if [ -n "$dir" ]; then
        place=$(mktemp -d -p "$dir")
        places+=("$place")
        return
    fi
    place=$work/mnt
    mkdir -p "$place"
    if mountpoint -q "$place"; then umount "$place" || die "a command is still at work in $place"; fi
    rm -f -- "$work/image"
    truncate -s "$1M" "$work/image"
    # All that is otherwise initialized later, beside the first measurements, now; inodes for trees of many small files.
    mkfs.ext4 -q -F -i 8192 -E lazy_itable_init=0,lazy_journal_init=0 "$work/image" || die "cannot make an ext4 image"
    mount -o loop "$work/image" "$place" || die "cannot mount an image; --dir does without"
}

# Shows a directory, or a file as all there is in a directory, at $work/source: the path stays the same while the
# content changes, as it does for who uses a backup tool. Read-only.
show() { # PATH
    local target=$work/source
    hide
    mkdir -p "$target"
    if [ -f "$1" ]; then
        target=$target/content
        touch "$target"
    fi
    mount -o bind,ro -- "$1" "$target" || die "cannot show $1 at $target"
    shown=("$target")
}

hide() {
    if ((${#shown[@]})); then umount "${shown[@]}" || die "a command is still at work in ${shown[*]}"; fi
    shown=()
}

# Reads everything, so that what comes next finds it in the page cache: just before it, since a kernel may give back
# within a minute what nobody reads (virtual machines often do).
warm() { # PATH...
    find "$@" -type f -print0 | xargs -0 -r -n 1000 -P "$(nproc)" cat -- >/dev/null
}

# Runs a command and sets wall, cpu (seconds, with all children) and memory (MiB, of the largest process).
clock() { # COMMAND...
    local user system begun=$EPOCHREALTIME
    command time -f '%U %S %M' -o "$work/time" "$@" >"$work/stdout" 2>"$work/stderr" || {
        echo "failed: $*" >&2
        cat "$work/stdout" "$work/stderr" >&2
        return 1
    }
    # Not from GNU time: its hundredths are too coarse for one small file.
    wall=$(awk "BEGIN { printf \"%.3f\", $EPOCHREALTIME - $begun }")
    read -r user system memory <"$work/time"
    cpu=$(awk "BEGIN { printf \"%.2f\", $user + $system }")
    memory=$((memory / 1024))
}

# The same, after what ran before is written out, so that each command pays for itself alone.
measure() { # COMMAND...
    sync
    clock "$@"
}

# Prints lines of cells between tabs as a table. The first line is the head.
table() { # TITLE
    awk -F '\t' -v title="$1" -v markdown="$markdown" '
        { for (i = 1; i <= NF; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) } }
        END {
            printf markdown ? "\n**%s**:\n\n" : "\n%s\n", title
            for (row = 1; row <= NR; row++) {
                line = ""
                for (i = 1; i <= NF; i++) {
                    if (markdown) line = line (i == 1 ? "| " : " | ") cell[row, i]
                    else line = line sprintf(i == 1 ? "%-" width[i] "s" : "  %" width[i] "s", cell[row, i])
                }
                print markdown ? line " |" : line
                if (markdown && row == 1) {
                    line = "|---"
                    for (i = 2; i <= NF; i++) line = line "|---:"
                    print line "|"
                }
            }
        }'
}

# The machine, in one line, to stand beside the figures.
machine() {
    local kind
    if [ -n "$dir" ]; then kind="a directory on $(stat -f -c %T -- "$dir")"; else kind="ext4 images"; fi
    printf 'Machine: %s, %d cores, %d GiB, %s; on %s\n' \
        "$(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)" "$(nproc)" \
        "$(awk '/^MemTotal/ { printf "%d", $2 / 1048576 + 0.5 }' /proc/meminfo)" "$(uname -sr)" "$kind"
}
