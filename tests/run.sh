#!/usr/bin/env bash
# Everything CI runs, on a fresh Debian or Ubuntu machine: installs what is missing, builds, checks format,
# lints and documentation, runs all tests. Needs root (or sudo) to install and to mount. Takes less than twenty minutes on two cores, the first time.
#
#   tests/run.sh           all of it
#   tests/run.sh crash     only the tests of that name, after the build
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

. tests/install.sh
need cc build-essential
need pkg-config pkg-config
need fusermount3 fuse3
need sqlite3 sqlite3
need python3 python3
need rsync rsync
need mkfs.ext4 e2fsprogs
need mkfs.btrfs btrfs-progs
need ip iproute2
need curl curl
install_packages
install_rust rustfmt clippy
tests/get-consul.sh
require_fuse
[ "$(id -u)" = 0 ] || { echo "the tests mount file systems: run this as root" >&2; exit 1; }

filter=("$@")
if [ "${#filter[@]}" -eq 0 ]; then
  say "format"
  cargo fmt --all --check
  say "lints"
  # The profile of the tests, so that SQLite and other C code is compiled once for all.
  cargo clippy --workspace --all-targets --locked --profile test -- -D warnings
  say "documentation"
  RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --profile test --quiet
  if command -v cargo-deny >/dev/null; then
    say "licences, advisories, bans"
    cargo deny --all-features check
  fi
fi

say "build"
cargo test --workspace --locked --no-run

# Network namespaces are mounts, too.
mounts() { grep litefs-test- /proc/self/mounts | sort || true; }
before=$(mounts)

say "tests"
# All with debug assertions, the daemons too.
# Three at a time: many wait for a time-out, the others share the machine with the applications that use their mounts.
timeout --kill-after=30 900 cargo test --workspace --locked --no-fail-fast -- --test-threads=3 "${filter[@]}"

say "nothing left behind"
left=$(comm -13 <(printf '%s\n' "$before") <(mounts))
if [ -n "$left" ]; then
  printf 'mounts are left:\n%s\n' "$left"
  exit 1
fi
printf '\nall passed in %s s\n' "$SECONDS"
