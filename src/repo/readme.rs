//! The README that every repository carries: how to verify and read it with standard tools, should this program be lost.

use crate::object::Config;

/// The first line of every such README.
pub(super) const FIRST_LINE: &str = "This directory is a backuptool repository.";

/// The text for a repository with this configuration.
pub(super) fn text(config: &Config) -> String {
    let sum = config.hash.tool();
    format!(
        r#"{FIRST_LINE}

It holds numbered snapshots of directories. Do not change or remove files in it by hand; copying the whole directory
(cp -r, rsync -a, to any file system) is always fine. `backuptool --help` says how to use it. Should that program be
lost: everything here can be verified and read with zstd, tar, {sum} and jq, as follows.

WHAT IS WHERE

  config.json           what was fixed when this repository was made
  snapshots/N.json      snapshot N: when, from where, and the hash of its root directory ("tree")
  snapshots/N.labels.json  its tags, a message, whether it is pinned; may be missing
  snapshots/N.pruned    snapshot N was removed
  objects/ab/cdef...    an object: one zstd frame; its name abcdef... is the hash of the content
  packs/HASH.*.tar.zst  many objects: a tar archive of files that are named by the hash of their content
  lock, tmp/, cache/    nothing that is needed

An object may be in objects, in a pack, or in several places; every good copy is the same. The hash is {hash}: {sum}
prints it.

VERIFY

  zstd -dc objects/ab/cdef... | {sum}              prints the object's own name, abcdef...
  {sum} packs/HASH.*.tar.zst                       prints HASH
  sed '/"checksum"/d' snapshots/N.json | {sum}     prints the checksum in the file's last lines

READ

Unpack the packs into a directory elsewhere that has room for all their content, say $SCRATCH:

  for pack in packs/*.tar.zst; do zstd -dc "$pack" | tar -xf - -C "$SCRATCH"; done

Then every object is read the same way:

  object() {{ cat "$SCRATCH/$1" 2>&- || zstd -dc "objects/$(printf %.2s "$1")/${{1#??}}"; }}

A directory is an object whose first line is {{"tree":1}}. Each further line is one entry, as JSON:

  {{"name":"a","type":"file","size":5,"blob":"HASH"}}               the content is the object HASH
  {{"name":"b","type":"file","size":N,"chunks":"HASH","depth":1}}   the content is a list of chunks
  {{"name":"d","type":"dir","size":N,"tree":"HASH"}}                a directory
  {{"name":"l","type":"symlink","target":"a"}}                      a symbolic link

Names and targets that are not UTF-8 are given as hex digits: "name_hex", "target_hex". If the first line is
{{"tree":1,"level":L}}, the directory is large and was cut: each line's "tree" is a piece of it, to be read in order.

A list of chunks has lines "HASH LENGTH". With "depth":1 each HASH is an object of the content, in order; with a greater
depth each HASH is a list of a depth one less.

  object "$(jq -r .tree snapshots/N.json)"                      shows the top directory of snapshot N
  object HASH > a                                               restores a file with a "blob"
  object HASH | while read h n; do object $h; done > b          restores a file with "chunks" and "depth":1

ONE OBJECT OF A PACK

  zstd -dc $PACK | tar -tf -                                    lists the objects in a pack
  zstd -dc $PACK | tar -xOf - HASH                              shows one of them

The second reads the whole pack. But each frame of a pack can be decoded by itself, and the pack's last bytes say where
it is. These commands show the numbers F of its frames and N of its objects; the length of each frame and how many
objects it has; the name of each object, in order, and its length (in hex digits, the lowest byte first):

  tail -c 16 $PACK | head -c 8 | od -An -v -tu4
  tail -c $((48 + 8 * F)) $PACK | head -c $((8 * F)) | od -An -v -tu4 -w8
  tail -c $((48 + 8 * F + 36 * N)) $PACK | head -c $((36 * N)) | xxd -p -c 36

And this shows an object of SIZE bytes in a frame of LENGTH bytes. START is the length of all frames before it, AT that
of all objects before it in its frame, each rounded up to a multiple of 512 bytes and 512 bytes more:

  tail -c +$((START + 1)) $PACK | head -c $LENGTH | zstd -dc | tail -c +$((AT + 513)) | head -c $SIZE
"#,
        hash = config.hash
    )
}
