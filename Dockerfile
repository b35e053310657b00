FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --features otlp

FROM debian:bookworm-slim
# tini is process 1: it reaps what jobs leave behind, and passes signals on to fencron. Certificates are for etcds://.
# Time zones are compiled in.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 fencron \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/fencron --create-home --shell /usr/sbin/nologin fencron \
 && mkdir /etc/fencron
COPY --from=build /src/target/release/fencron /usr/local/bin/

# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
# The SQLite store is .fencron below this, unless FENCRON_STORE says otherwise. Settings given as FENCRON_… hold for
# `docker exec … fencron status` too; those given as arguments do not.
WORKDIR /var/lib/fencron
VOLUME /var/lib/fencron
ENV FENCRON_LISTEN=0.0.0.0:8080
EXPOSE 8080
# Without FENCRON_LISTEN: the node publishes what it listens on, which may have come as an argument.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["env", "-u", "FENCRON_LISTEN", "fencron", "health"]

ENTRYPOINT ["tini", "--", "fencron"]
CMD ["run", "/etc/fencron/jobs.yaml"]
