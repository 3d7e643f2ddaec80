# What a developer runs daily. Nothing here is needed to build or to test: see README.md and .ci/run.

# Show the recipes
[private]
default:
    @just --list --unsorted

# Format the code
fmt:
    cargo fmt

# Everything the compiler and clippy have to say
lint:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings

# The tests
test:
    cargo test

# The tests with longer sweeps and many more random cases
test-slow:
    BACKUPTOOL_SLOW=1 BACKUPTOOL_FLIPS=1000 BACKUPTOOL_RACE_SECONDS=60 PROPTEST_CASES=2000 cargo test

# Only what acts from outside: killed and failing system calls, real disks, flipped bits, races, copies
test-outside:
    BACKUPTOOL_SLOW=1 BACKUPTOOL_FLIPS=1000 BACKUPTOOL_RACE_SECONDS=60 cargo test --test it -- \
        syscalls:: disks:: flips:: races:: interruptions::

# Fuzz one target (tree chunk_list config snapshot_ref pack_index pack) for so many seconds; needs cargo-fuzz and nightly
fuzz target seconds="60":
    mkdir -p fuzz/corpus/{{target}}
    cargo +nightly fuzz run {{target}} fuzz/corpus/{{target}} fuzz/seeds/{{target}} -- \
        -max_total_time={{seconds}} -rss_limit_mb=1024 -malloc_limit_mb=64 -max_len=65536

# Change the code in one place after the other and see whether a test notices; needs cargo-mutants: [--shard K/N] [-F NAME]
[positional-arguments]
mutants *rest:
    PROPTEST_CASES=16 cargo mutants --shuffle "$@"

# Time every step, beside other backup tools: V1 [V2] [--in-place] [--tools "…"] [--repeat N] [--markdown] [--dir DIR]
[positional-arguments]
bench-peers v1 *rest:
    benches/peers.sh "$@"

# Time what the machine needs at least for each step, without a repository: SOURCE [--dir DIR] [--threads N]
[positional-arguments]
bench-floors source *rest:
    benches/floors.sh "$@"

# Time how cost grows with files, one directory, one file, snapshots: [PART…] [--files N] [--svg FILE] [--markdown] …
[positional-arguments]
bench-scale *rest:
    benches/scale.sh "$@"

# Make two versions of a 3 GiB disk image to measure with: OUT/v1/disk.img and OUT/v2/disk.img
[positional-arguments]
bench-images out tree1 tree2 archive1 archive2:
    benches/images.sh "$@"

# Make a 4 GiB disk image with holes and zeros to measure with
[positional-arguments]
bench-image-sparse out tree:
    benches/images.sh --sparse "$@"

# Make 4 GiB of noise in 64 files to measure with
[positional-arguments]
bench-noise out:
    benches/images.sh --incompressible "$@"

# Time the index of all packs with OBJECTS objects in PACKS packs, which are made in DIR: DIR [OBJECTS [PACKS]]
[positional-arguments]
bench-index dir *rest:
    cargo bench --bench index -- "$@"

# The documentation of the library
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# The container image
docker:
    docker build --tag backuptool .

# Exactly what CI runs
ci:
    .ci/run
