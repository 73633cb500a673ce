# The image of all roles, from public base images: what `./x image` makes without a container engine, with the same list of
# files (cluster/images.sh).
#
#   docker build -t weft.dev/weft:0.1.0 .
FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends iptables python3 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cluster/images.sh tree /content

FROM scratch
COPY --from=build /content /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
WORKDIR /
USER 1882:1882
ENTRYPOINT ["/usr/bin/weft"]
