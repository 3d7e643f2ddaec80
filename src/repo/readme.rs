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
lost: everything here can be verified and read with zstd, {sum} and jq, as follows.

WHAT IS WHERE

  config.json           what was fixed when this repository was made
  snapshots/N.json      snapshot N: when, from where, and the hash of its root directory ("tree")
  snapshots/N.pruned    snapshot N was removed
  packs/                empty: later versions put many objects into one file here
  objects/ab/cdef...    an object: one zstd frame; its name abcdef... is the hash of the content
  lock, tmp/, cache/    nothing that is needed

The hash is {hash}: {sum} prints it.

VERIFY

  zstd -dc objects/ab/cdef... | {sum}              prints the object's own name, abcdef...
  sed '/"checksum"/d' snapshots/N.json | {sum}     prints the checksum in the file's last lines

READ

Every object is read the same way:

  object() {{ zstd -dc "objects/$(printf %.2s "$1")/${{1#??}}"; }}

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
"#,
        hash = config.hash
    )
}
