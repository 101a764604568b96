# Built with BuildKit (`docker build -t vectorkeep .`). There is deliberately no `# syntax=` line: it would
# fetch a frontend image at every build, and the built-in one knows the cache mounts used here.

# ---- build -------------------------------------------------------------------------------------------------
# The compiler of `rust-version` in Cargo.toml, on the same Debian release as the final image, so that the
# binary meets the glibc that it was linked against.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src

COPY . .

# Cache mounts instead of a layer with a dummy main.rs: dependencies stay compiled across builds, also when
# Cargo.lock changes by one crate, and there are no stub sources whose timestamps could leave a stale binary.
# `target` is a mount and not part of any layer, hence the copy. `sharing=locked`: two builds at once would
# write to the same files. gcc for zstd and blake3 is in the slim image; nothing is installed here.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --bin vectorkeep \
 && install -D -m 0755 target/release/vectorkeep /out/vectorkeep

# ---- run ---------------------------------------------------------------------------------------------------
FROM debian:bookworm-slim

# Root certificates for repositories and environments behind https; copied, because an apt-get in this stage
# would make the image differ from day to day.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/vectorkeep /usr/local/bin/vectorkeep
# The demo's bundled records are WordNet glosses; their licence travels with them.
COPY LICENSE tests/data/LICENSE-wordnet.txt /usr/share/doc/vectorkeep/

# The directories are made before VOLUME: a new named volume takes over their owner, so the service can write
# without ever running as root. /backups is for a second volume, which the repository's URL then has to name.
RUN install -d -o 10001 -g 10001 -m 0750 /data /backups

# Beyond loopback the service starts only with keys (VECTORKEEP__ACCESS__KEYS_FILE, a mounted secret) or, behind
# something else that keeps strangers out, with VECTORKEEP__ACCESS__ALLOW_OPEN=true: that is for whoever runs the
# image to say. With TLS the health check needs --ca-file; in Kubernetes its own probes replace it.
#
# Data and backups share the one volume so that `docker run` works as it is. A backup on the disk that it
# protects is lost with that disk: in production point VECTORKEEP__REPOSITORY__URL somewhere else.
ENV VECTORKEEP__STORAGE__DATA_DIR=/data/store \
    VECTORKEEP__REPOSITORY__URL=/data/backups \
    VECTORKEEP__SERVER__LISTEN=0.0.0.0:8000
VOLUME /data
WORKDIR /data
EXPOSE 8000

# Numeric, so that Kubernetes' `runAsNonRoot` can tell without reading /etc/passwd.
USER 10001:10001

# The shutdown that is graceful: stop accepting, finish, flush, exit 0.
STOPSIGNAL SIGTERM

# The binary asks itself: the image needs no curl. The start period covers recovery of a large store, during
# which the service rightly says that it is not ready.
# It gives up by itself after five seconds, and then says why. Readiness, not health: a warning is no reason to call a
# container unhealthy, nor is a full disk, at which reads go on.
HEALTHCHECK --interval=30s --timeout=6s --start-period=60s --retries=3 \
    CMD ["vectorkeep", "health", "--ready"]

ENTRYPOINT ["vectorkeep"]

# What this image is. Last, and not in the stage that builds: another revision of the same sources leaves every
# layer as it is.
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --build-arg CREATED="$(date -u +%Y-%m-%dT%H:%M:%SZ)" .
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="vectorkeep" \
      org.opencontainers.image.description="A vector database service that can prove its data is safe" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
