# syntax=docker/dockerfile:1
#
# docker build --tag backuptool .
# docker run --rm --init -v backups:/repo backuptool init
# docker run --rm --init -v backups:/repo -v /home/anna:/source:ro backuptool snapshot /source
#
# --init lets Ctrl-C and `docker stop` end the program at once. It runs as user 1000; to read files of other users, or to
# use a directory of the host as the repository, say --user "$(id -u):$(id -g)".

ARG DEBIAN=bookworm

FROM rust:1.95-slim-${DEBIAN} AS build
# The image has the C compiler that zstd and BLAKE3 are built with.
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY tests tests
COPY benches benches
RUN cargo build --release --locked --bin backuptool

FROM debian:${DEBIAN}-slim
RUN useradd --uid 1000 --user-group --no-create-home --shell /usr/sbin/nologin backup-user \
    && install --directory --owner=1000 --group=1000 --mode=0700 /repo \
    && install --directory --mode=0755 /source
COPY --from=build /build/target/release/backuptool /usr/local/bin/backuptool
ENV BACKUPTOOL_REPO=/repo
VOLUME ["/repo", "/source"]
USER 1000:1000
WORKDIR /
ENTRYPOINT ["backuptool"]
CMD ["--help"]
