#!/bin/bash
# Builds the whole Dockerfile with podman, from source, and runs the program once. Nothing is pulled: stand-ins for both base images
# are made of Debian's packages and of the Rust toolchain and crates at hand. As root; needs podman, runc and mmdebstrap.
# Usage: build-from-source.sh DIR
set -euo pipefail
cd "$(dirname "$0")/../.."

mkdir -p "$1"/tmp
dir=$(cd "$1" && pwd)
toolchain=$(rustc --print sysroot)
export TMPDIR=$dir/tmp CONTAINERS_CONF=$dir/containers.conf
cat >"$CONTAINERS_CONF" <<'EOF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
EOF
podman() { command podman --root "$dir/root" --runroot "$dir/run" --tmpdir "$dir/tmp" "$@"; }
trap 'umount "$dir/root/overlay" 2>/dev/null || true' EXIT

[ -f "$dir/rust.tar" ] || mmdebstrap --variant=apt --include=gcc,g++,make,perl,libc6-dev bookworm "$dir/rust.tar"
[ -f "$dir/cc.tar" ] || mmdebstrap --variant=extract --include=libc6,libgcc-s1,ca-certificates bookworm "$dir/cc.tar"
# Without link-time optimisation, which is not what this tries and takes most of the time.
podman import -q --change "ENV PATH=/usr/local/rust/bin:/usr/bin:/bin" --change 'ENV CARGO_HOME=/usr/local/cargo' \
    --change 'ENV CARGO_NET_OFFLINE=true' --change 'ENV CARGO_PROFILE_RELEASE_LTO=off' --change 'ENV CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16' \
    "$dir/rust.tar" docker.io/library/rust:1.95-bookworm
podman import -q "$dir/cc.tar" gcr.io/distroless/cc-debian12:nonroot
podman build --format docker --build-arg BUILD_COMMIT="$(git rev-parse HEAD)" --pull=never --network host -v "$toolchain:/usr/local/rust:ro" \
    -v "${CARGO_HOME:-$HOME/.cargo}/registry:/usr/local/cargo/registry:ro" -f deploy/docker/Dockerfile -t callbridge:from-source .
podman run --rm --network host --read-only --cap-drop ALL --security-opt no-new-privileges callbridge:from-source --version
podman image inspect --format '{{.Size}} bytes' callbridge:from-source
