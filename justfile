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
    BACKUPTOOL_SLOW=1 PROPTEST_CASES=2000 cargo test

# Time the first snapshot of a directory, beside restic
bench source:
    benches/first-snapshot.sh {{ quote(source) }}

# The documentation of the library
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# The container image
docker:
    docker build --tag backuptool .

# Exactly what CI runs
ci:
    .ci/run
