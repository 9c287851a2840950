#!/usr/bin/env bash
# Everything CI runs, on a fresh Debian or Ubuntu machine: installs what is missing, builds, checks format,
# lints and documentation, runs all tests. Needs root (or sudo) to install and to mount. Takes about ten minutes on two cores.
#
#   tests/run.sh           all of it
#   tests/run.sh crash     only the tests of that name, after the build
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

install_packages() {
  local missing=()
  need() { command -v "$1" >/dev/null || missing+=("$2"); }
  need cc build-essential
  need pkg-config pkg-config
  need fusermount3 fuse3
  need sqlite3 sqlite3
  need python3 python3
  need rsync rsync
  need mkfs.ext4 e2fsprogs
  need curl curl
  if [ "${#missing[@]}" -gt 0 ]; then
    step "install ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ca-certificates
  fi
}

install_rust() {
  # rustup puts cargo where a fresh shell finds it, and this one doesn't.
  export PATH="$HOME/.cargo/bin:$PATH"
  if ! command -v cargo >/dev/null; then
    step "install Rust"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy
  fi
}

install_packages
install_rust
tests/get-consul.sh
[ -e /dev/fuse ] || as_root modprobe fuse || true
[ -e /dev/fuse ] || { echo "no /dev/fuse: load the module, or start the container with --device /dev/fuse --cap-add SYS_ADMIN"; exit 1; }
[ "$(id -u)" = 0 ] || { echo "the tests mount file systems: run this as root"; exit 1; }

filter=("$@")
if [ "${#filter[@]}" -eq 0 ]; then
  step "format"
  cargo fmt --all --check
  step "lints"
  cargo clippy --workspace --all-targets --locked -- -D warnings
  step "documentation"
  RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
  if command -v cargo-deny >/dev/null; then
    step "licences, advisories, bans"
    cargo deny --all-features check
  fi
fi

step "build"
cargo build --release -p litefs-cli --locked
step "build tests"
cargo test --workspace --locked --no-run

mounts() { grep ' fuse ' /proc/self/mounts | grep litefs-test- | sort || true; }
before=$(mounts)

step "tests"
# The tests of mounts start this binary, since that is what users run; unit tests run with debug assertions.
# Two at a time: the mounts share the machine with the applications that use them.
export LITEFS_BIN=$PWD/target/release/litefs
timeout --kill-after=30 900 cargo test --workspace --locked --no-fail-fast -- --test-threads=2 "${filter[@]}"

step "nothing left behind"
left=$(comm -13 <(printf '%s\n' "$before") <(mounts))
if [ -n "$left" ]; then
  printf 'mounts are left:\n%s\n' "$left"
  exit 1
fi
printf '\nall passed in %s s\n' "$SECONDS"
