#!/usr/bin/env bash
# LiteFS in a minute: mounts a directory, lets the sqlite3 shell use a database in it, and shows what was
# captured. Sets up a fresh Debian or Ubuntu machine by itself; cleans up what it made, whatever happens.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }
show() { printf '  $ %s\n' "$*"; "$@" | sed 's/^/    /'; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=()
command -v cc >/dev/null || missing+=(build-essential)
command -v fusermount3 >/dev/null || missing+=(fuse3)
command -v sqlite3 >/dev/null || missing+=(sqlite3)
command -v curl >/dev/null || missing+=(curl)
if [ "${#missing[@]}" -gt 0 ]; then
  say "Installing ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ca-certificates
fi
export PATH="$HOME/.cargo/bin:$PATH"
if ! command -v cargo >/dev/null; then
  say "Installing Rust"
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
fi

say "Building litefs"
cargo build --release --locked --quiet -p litefs-cli
litefs=${CARGO_TARGET_DIR:-target}/release/litefs

work=$(mktemp -d)
node=
clean_up() {
  if [ -n "$node" ]; then
    kill "$node" 2>/dev/null || true
    wait "$node" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT

start() {
  # Its last line says that the mount is there; it comes through a pipe, so nobody has to guess.
  local line='' up=''
  mkfifo "$work/out"
  "$litefs" mount -config "$work/litefs.yml" >"$work/out" 2>>"$work/log" &
  node=$!
  exec 3<"$work/out"
  rm "$work/out"
  while read -r -u 3 line; do
    case $line in "waiting for signal"*) up=1; break ;; esac
  done
  [ -n "$up" ] || { cat "$work/log"; exit 1; }
}

say "Mounting, with this litefs.yml"
export LITEFS_DIR=$work/litefs
cat >"$work/litefs.yml" <<YML
fuse:
  dir: "\${LITEFS_DIR}"        # where applications find their databases
data:
  dir: "$work/data"           # where litefs keeps them
lease:
  type: static                # this node is the only primary
  candidate: true
  hostname: localhost
  advertise-url: http://127.0.0.1:20202
http:
  addr: "127.0.0.1:0"
YML
show cat "$work/litefs.yml"
start
show ls -l "$LITEFS_DIR"

say "Any program's SQLite file, unchanged"
db=$LITEFS_DIR/app.db
show sqlite3 "$db" "PRAGMA journal_mode=WAL" "CREATE TABLE person(name TEXT)" "INSERT INTO person VALUES ('Ada'), ('Grace')"
show sqlite3 "$db" "SELECT * FROM person"
show ls "$LITEFS_DIR"

say "Each transaction has a number, and a checksum of the whole database after it"
show cat "$db-pos"
show sqlite3 "$db" "INSERT INTO person VALUES ('Edsger')"
show cat "$db-pos"

say "The log holds them as LTX"
show "$litefs" ltx list -data "$work/data" app.db
show "$litefs" ltx show -data "$work/data" app.db 4

say "With the node stopped, everything can be checked: pages, log, and one against the other"
kill "$node"
wait "$node"
node=
show "$litefs" verify -data "$work/data"

say "After a restart everything is there"
start
show sqlite3 "$db" "SELECT count(*) FROM person" "PRAGMA integrity_check"
show cat "$db-pos"

say "Done"
