#!/bin/sh
# Restores a snapshot from a backuptool repository without backuptool: with zstd, tar, jq, a hash tool (b3sum or
# sha256sum, as the repository says) and a POSIX shell.
#
#   restore-without-backuptool.sh REPOSITORY OUTPUT [NUMBER]
#
# OUTPUT must not exist. Without NUMBER the newest snapshot is restored. Everything that is read is verified: the
# configuration and the snapshot by their checksums, every object by the hash that is its name. If no copy of an object
# is whole, or anything else is not as it must be, the script says what it is and stops with exit code 1.
#
# Objects are loose or in packs. Each pack that is needed is unpacked once, into a scratch directory below $TMPDIR (or
# /tmp), which is removed at the end. It takes as much space as the content of these packs, uncompressed: for a whole
# repository, up to the bytes of all different files of its snapshots together. Choose a TMPDIR that has room.
#
# To read one object without unpacking its pack, tail, head and zstd are enough. A pack ends with 48 bytes: a checksum
# (32 bytes), the number F of its frames, the number N of its objects (4 bytes each, the lowest first) and "packidx1".
# Before these stand 8 bytes for each frame: its length in the pack, and how many objects it has. Before these stand 36
# bytes for each object: its name, and its length. So this prints F and N, the frames, the objects, and one of these:
#
#   tail -c 16 PACK | head -c 8 | od -An -v -tu4
#   tail -c $((48 + 8 * F)) PACK | head -c $((8 * F)) | od -An -v -tu4 -w8
#   tail -c $((48 + 8 * F + 36 * N)) PACK | head -c $((36 * N)) | xxd -p -c 36
#   tail -c +$((START + 1)) PACK | head -c LENGTH | zstd -dc | tail -c +$((AT + 513)) | head -c SIZE
#
# START is the sum of the lengths of the frames before the object's own, and LENGTH the length of that. AT is the sum of
# what the objects before it in its frame take: 512 bytes and their length, rounded up to a multiple of 512. SIZE is its
# own length. (od prints the numbers as the machine has them: right on little-endian ones, as most are.)

set -euf
export LC_ALL=C # names are bytes
umask 077

die() {
    printf 'restore-without-backuptool: %s\n' "$1" >&2
    exit 1
}

[ $# -eq 2 ] || [ $# -eq 3 ] || {
    echo "usage: restore-without-backuptool.sh REPOSITORY OUTPUT [NUMBER]" >&2
    exit 2
}
# A path that begins with a dash must not be taken for an option.
case $1 in /*) repo=$1 ;; *) repo=./$1 ;; esac
case $2 in /*) out=$2 ;; *) out=./$2 ;; esac
number=${3-}

for tool in zstd tar jq; do
    command -v "$tool" >/dev/null || die "$tool is needed and not installed"
done
[ -f "$repo/config.json" ] || die "$repo is not a repository: it holds no config.json"
[ ! -e "$out" ] && [ ! -L "$out" ] || die "$out exists; name a directory that does not"

# ---- the configuration

format=$(jq -r '"\(.format) \(.requires)"' "$repo/config.json") || die "$repo/config.json is not JSON"
[ "$format" = "1 []" ] || die "$repo has a format that this script does not know: $format"
case $(jq -r .hash "$repo/config.json") in
blake3) tool=b3sum ;;
sha256) tool=sha256sum ;;
*) die "$repo uses a hash that this script does not know" ;;
esac
command -v "$tool" >/dev/null || die "$tool is needed and not installed"

# Prints the hash of each file (or of standard input), one a line.
sums() {
    case $tool in
    b3sum) b3sum --num-threads 1 --no-names "$@" ;;
    # A name with special characters is marked by a backslash before the hash.
    sha256sum) sha256sum "$@" | sed 's/^\\//; s/ .*//' ;;
    esac
}

verify_document() {
    [ "$(sed '/"checksum"/d' "$1" | sums)" = "$(jq -r .checksum "$1")" ] || die "$1 is damaged: its checksum is wrong"
}
verify_document "$repo/config.json"

# ---- the snapshot: the highest number that was not removed

if [ -z "$number" ]; then
    set +f
    for file in "$repo"/snapshots/*.json; do
        found=${file##*/}
        found=${found%.json}
        case $found in *[!0-9]* | '') continue ;; esac
        [ ! -e "$repo/snapshots/$found.pruned" ] || continue
        if [ -z "$number" ] || [ "$found" -gt "$number" ]; then number=$found; fi
    done
    set -f
    [ -n "$number" ] || die "$repo holds no snapshot"
fi
case $number in *[!0-9]*) die "$number is not the number of a snapshot" ;; esac
ref=$repo/snapshots/$number.json
[ -f "$ref" ] && [ ! -e "$repo/snapshots/$number.pruned" ] || die "$repo holds no snapshot $number"
verify_document "$ref"
jq -e ".snapshot == $number and .requires == []" "$ref" >/dev/null || die "$ref is not a ref that this script knows"
missing=$(jq -r .incomplete.count "$ref")
[ "$missing" = 0 ] || echo "note: $missing paths could not be read when snapshot $number was taken; $ref names them" >&2

# ---- objects

work=$(mktemp -d "${TMPDIR:-/tmp}/restore.XXXXXX")
case $work in /*) ;; *) work=$PWD/$work ;; esac
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# Writes object $1 to the new file $2. The hashes of loose objects are verified up to 64 at once: `verified` must be
# called before the last of them are relied on.
waiting=0
names='' expected=''
empty=$(sums </dev/null) # there is nothing to read
object() {
    if [ "$1" = "$empty" ]; then
        : >"$2"
        return
    fi
    rest=${1#??}
    loose=$repo/objects/${1%"$rest"}/$rest
    if [ ! -e "$loose" ] || ! zstd -dcq "$loose" >"$2"; then
        packed "$1" "$2" || die "object $1, needed for $2, cannot be read"
        return
    fi
    waiting=$((waiting + 1))
    eval "name_$waiting=\$2"
    names="$names \"\$name_$waiting\""
    expected="$expected$1
"
    if [ "$waiting" -ge 64 ]; then verified; fi
}

verified() {
    [ "$waiting" -gt 0 ] || return 0
    eval "set -- $names"
    found=$(sums "$@")
    if [ "$found
" != "$expected" ]; then
        for hash in $expected; do
            [ "$(sums <"$1")" = "$hash" ] || packed "$hash" "$1" ||
                die "object $hash, needed for $1, is damaged: its content has another hash"
            shift
        done
    fi
    waiting=0 names='' expected=''
}

# ---- packs

# Lists the objects of each pack in $work/lists/PACK, from its index; where the index is damaged the list is empty.
list_packs() {
    mkdir "$work/lists" "$work/objects"
    set +f
    for pack in "$repo"/packs/*.tar.zst; do
        name=${pack##*/}
        case $name in *.blobs.tar.zst | *.trees.tar.zst) ;; *) continue ;; esac
        [ -f "$pack" ] || continue
        list_pack "$pack" >"$work/lists/$name" || {
            echo "note: the index of $pack is damaged; what is in it is looked at if something is missed" >&2
            : >"$work/lists/$name"
        }
    done
    set -f
}

# Sets frames, objects and checksum to what the footer of pack $1 says, and tables to the length of its tables.
footer() {
    # shellcheck disable=SC2046
    set -- $(tail -c 48 "$1" | od -An -v -tx1)
    [ $# -eq 48 ] || return 1
    checksum=''
    while [ $# -gt 16 ]; do
        checksum=$checksum$1
        shift
    done
    frames=$((0x$4$3$2$1)) objects=$((0x$8$7$6$5))
    shift 8
    [ "$*" = "70 61 63 6b 69 64 78 31" ] || return 1
    tables=$((36 * objects + 8 * frames))
}

list_pack() {
    footer "$1" || return 1
    tail -c $((48 + tables)) "$1" | head -c "$tables" >"$work/tables"
    [ "$(sums <"$work/tables")" = "$checksum" ] || return 1
    head -c $((36 * objects)) "$work/tables" | od -An -v -tx1 | tr -d ' \n' | fold -w 72 | cut -c 1-64
}

# Writes object $1, which must be in a pack, to the file $2.
packed() {
    while [ ! -f "$work/objects/$1" ]; do
        set +f
        # The packs that are listed are those that are not unpacked yet.
        holder=$(cd "$work/lists" && grep -lxF -e "$1" -- * 2>/dev/null | head -n 1)
        if [ -z "$holder" ]; then holder=$(find "$work/lists" -type f -size 0 | sed 's:.*/::' | head -n 1); fi
        set -f
        [ -n "$holder" ] || return 1
        unpack "$repo/packs/$holder" "$work/lists/$holder"
        rm "$work/lists/$holder"
    done
    cat "$work/objects/$1" >"$2"
}

# Turns the bytes of the table of frames into lines: the number of a frame's first byte in the pack, and its length.
# shellcheck disable=SC2016
frame_places='
{ for (i = 1; i <= NF; i++) byte[count++] = $i }
END {
    for (i = 0; i + 8 <= count; i += 8) {
        size = byte[i] + 256 * byte[i + 1] + 65536 * byte[i + 2] + 16777216 * byte[i + 3]
        printf "%.0f %.0f\n", start + 1, size
        start += size
    }
}'

# Unpacks pack $1, whose objects the file $2 lists, and takes the objects that are whole.
unpack() {
    mkdir "$work/new"
    zstd -dcq "$1" | tar -xomf - -C "$work/new" || :
    take_whole
    if [ -s "$2" ] && [ "$taken" -lt "$(sort -u "$2" | wc -l)" ]; then
        echo "note: $1 could not be unpacked as it should be; what is whole in it is used" >&2
        # zstd stops at the first frame that is damaged: the others are read one by one.
        footer "$1"
        tail -c $((48 + 8 * frames)) "$1" | head -c $((8 * frames)) | od -An -v -tu1 | awk "$frame_places" |
            while read -r first length; do
                tail -c +"$first" "$1" | head -c "$length" | zstd -dcq 2>/dev/null |
                    tar -xomf - -C "$work/new" 2>/dev/null || :
            done
        take_whole
    fi
    rm -rf "$work/new"
}

# Moves the files in $work/new whose names are the hashes of their content to $work/objects, and counts them.
take_whole() {
    (
        cd "$work/new"
        case $tool in
        b3sum) find . ! -name . -prune -type f -exec b3sum --num-threads 1 {} + ;;
        sha256sum) find . ! -name . -prune -type f -exec sha256sum {} + ;;
        esac
    ) | awk 'NF == 2 && "./" $1 == $2 { print $1 }' >"$work/whole"
    taken=$(wc -l <"$work/whole")
    # shellcheck disable=SC2016
    (cd "$work/new" && xargs sh -c '[ $# -eq 0 ] || mv -f "$@" "$0"' "$work/objects" <"$work/whole")
}

list_packs

# Nothing is written over, or through, what is there: two entries of one name would be a damaged repository.
must_be_new() {
    [ ! -e "$1" ] && [ ! -L "$1" ] || die "$1 is there already"
}

# ---- entries; each is called for one line of a tree, in the directory $dir

queued=0
enqueue() { # a tree, and the directory it belongs to
    queued=$((queued + 1))
    eval "tree_$queued=\$1 dir_$queued=\$2"
}

entry_dir() { # name, tree
    must_be_new "$dir/$1"
    mkdir "$dir/$1"
    enqueue "$2" "$dir/$1"
}

entry_piece() { # a piece of a large directory
    enqueue "$1" "$dir"
}

entry_link() { # name, target
    must_be_new "$dir/$1"
    ln -s -- "$2" "$dir/$1"
}

entry_blob() { # name, object
    must_be_new "$dir/$1"
    object "$2" "$dir/$1"
}

entry_chunks() { # name, list, depth, size
    must_be_new "$dir/$1"
    verified
    printf '%s 0\n' "$2" >"$work/list"
    depth=$3
    while [ "$depth" -gt 0 ]; do
        count=0
        : >"$work/lines"
        while read -r hash length; do
            case $hash in *[!0-9a-f]*) die "a list of chunks of $dir/$1 is malformed" ;; esac
            count=$((count + 1))
            object "$hash" "$work/part-$count"
            eval "part_$count=\$work/part-\$count"
        done <"$work/list"
        verified
        join "$work/lines" "$count"
        mv "$work/lines" "$work/list"
        depth=$((depth - 1))
    done
    # The list has a line for each chunk now.
    count=0
    : >"$dir/$1"
    while read -r hash length; do
        case $hash in *[!0-9a-f]*) die "a list of chunks of $dir/$1 is malformed" ;; esac
        count=$((count + 1))
        object "$hash" "$work/part-$count"
        if [ "$count" -ge 64 ]; then
            verified
            join "$dir/$1" "$count"
            count=0
        fi
    done <"$work/list"
    verified
    join "$dir/$1" "$count"
    [ "$(wc -c <"$dir/$1")" -eq "$4" ] || die "$dir/$1 has another length than it must have"
}

# Appends the files part-1 to part-$2 to the file $1, and removes them.
join() {
    target=$1 last=$2
    set --
    at=0
    while [ "$at" -lt "$last" ]; do
        at=$((at + 1))
        set -- "$@" "$work/part-$at"
    done
    [ "$at" -eq 0 ] || { cat "$@" >>"$target" && rm "$@"; }
}

# Turns a tree into calls of the functions above. Names become shell words: UTF-8 in quotes, other bytes as octal
# escapes for printf (with an x behind them, since the shell drops newlines at the end of what it captures).
# shellcheck disable=SC2016
program='
def hash: if type == "string" and test("^[0-9a-f]{64}$") then . else error("a hash is malformed: \(.)") end;
def number: if type == "number" then . else error("a number is malformed: \(.)") end;
def digit: if . >= 97 then . - 87 else . - 48 end;
def bytes: explode as $d | [range(0; $d | length; 2) | ($d[.] | digit) * 16 + ($d[. + 1] | digit)];
def octal: "\\" + ([. / 64, . / 8 % 8, . % 8] | map(floor | tostring) | add);
def assign($variable; $text; $hex):
    if ($text | type) == "string" and $hex == null then
        if $text | explode | any(. == 0) then error("a NUL byte in a name") else "\($variable)=\($text | @sh)" end
    elif ($hex | type) == "string" and $text == null and ($hex | test("^([0-9a-f]{2})+$")) then
        ($hex | bytes) as $bytes
        | if $bytes | any(. == 0) then error("a NUL byte in a name") else . end
        | "\($variable)=$(printf \u0027\($bytes | map(octal) | add)x\u0027); \($variable)=${\($variable)%x}"
    else error("a name or target is missing") end;
def name:
    if .name // "x" | . == "" or . == "." or . == ".." or contains("/") then error("an unsafe name: \(.)") else . end
    | if .name_hex // "ff" | . == "2e" or . == "2e2e" or (bytes | any(. == 47)) then error("an unsafe name: \(.)")
      else . end
    | assign("name"; .name; .name_hex);
def known($keys): if keys - $keys == [] then . else error("an unknown key: \(.)") end;
input as $head
| if $head.tree != 1 or ($head | keys - ["level", "tree"]) != [] then error("an unknown kind of tree: \($head)")
  else inputs end
| if $head.level then
      known(["entries", "last", "last_hex", "size", "tree"]) | "entry_piece \(.tree | hash)"
  elif .type == "dir" then
      known(["name", "name_hex", "size", "tree", "type"]) | "\(name)\nentry_dir \"$name\" \(.tree | hash)"
  elif .type == "symlink" then
      known(["name", "name_hex", "target", "target_hex", "type"])
      | "\(name)\n\(assign("target"; .target; .target_hex))\nentry_link \"$name\" \"$target\""
  elif .type == "file" and .blob then
      known(["blob", "name", "name_hex", "size", "type"]) | "\(name)\nentry_blob \"$name\" \(.blob | hash)"
  elif .type == "file" then
      known(["chunks", "depth", "name", "name_hex", "size", "type"])
      | "\(name)\nentry_chunks \"$name\" \(.chunks | hash) \(.depth | number) \(.size | number)"
  else error("an unknown kind of entry: \(.)") end
'

# ---- the restore: trees wait in a queue, so the depth of the directories does not matter

mkdir "$out"
enqueue "$(jq -r .tree "$ref")" "$out"
next=0
while [ "$next" -lt "$queued" ]; do
    next=$((next + 1))
    eval "tree=\$tree_$next dir=\$dir_$next; unset tree_$next dir_$next"
    object "$tree" "$work/tree"
    verified
    jq -rn "$program" "$work/tree" >"$work/calls" || die "tree $tree of $dir is malformed"
    # shellcheck disable=SC1091
    . "$work/calls"
    rm "$work/tree"
done
verified
echo "restored snapshot $number of $repo to $out"
