# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
# librdkafka and OpenSSL are built from source: the binary then needs libc alone.
WORKDIR /src
# The dependencies first: they change seldom, and take most of the time.
COPY Cargo.toml Cargo.lock ./
COPY tests/support tests/support
RUN mkdir -p src && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && sed -i '/^\[\[bench\]\]/,/^$/d' Cargo.toml \
    && cargo build --release --bin pointsman && rm -r src Cargo.toml
COPY . .
# Cargo compares times of files, and those of the copied ones are older than what was just built.
RUN find src -name '*.rs' -exec touch {} + && cargo build --release --locked --bin pointsman

FROM debian:bookworm-slim
# For TLS to brokers and to a schema registry.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/pointsman /usr/local/bin/pointsman
COPY LICENSE* /usr/share/doc/pointsman/
RUN ["pointsman", "--version"]
# A number, so that Kubernetes can see that it is not root.
RUN install -d -o 65532 -g 65532 /var/lib/pointsman
ENV POINTSMAN__KAFKA__DATA_DIRECTORY=/var/lib/pointsman
VOLUME /var/lib/pointsman
USER 65532:65532
# SIGTERM ends it within worker.shutdown_ms_max (10 s), which is also Docker's patience.
STOPSIGNAL SIGTERM
ENTRYPOINT ["pointsman"]
CMD ["run"]
