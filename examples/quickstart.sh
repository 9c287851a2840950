#!/usr/bin/env bash
# LiteFS in a minute: a primary and a replica on this machine, each with its own mount. Rows are written on
# one and read on the other, by programs that know nothing of LiteFS. Sets up a fresh Debian or Ubuntu machine
# by itself; everything else it makes is in a temporary directory, and is gone at the end, whatever happens.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }
show() { printf '  $ %s\n' "$*"; "$@" 2>&1 | sed 's/^/    /'; }
fail() { printf '\nquickstart failed: %s\n' "$1" >&2; exit 1; }

. tests/install.sh
need cc build-essential
need fusermount3 fuse3
need sqlite3 sqlite3
need python3 python3
need curl curl
install_packages
install_rust
require_fuse

say "Building litefs"
cargo build --release --locked --quiet -p litefs-cli
litefs=${CARGO_TARGET_DIR:-target}/release/litefs

work=$(mktemp -d)
declare -A nodes=()
stop() {
  # It unmounts before it ends.
  local pid=${nodes[$1]}
  unset "nodes[$1]"
  kill "$pid" 2>/dev/null || true
  wait "$pid" || return 1
}
clean_up() {
  local status=$? name
  # The replica first: it would only look for its primary.
  for name in replica primary; do
    [ -z "${nodes[$name]:-}" ] || stop "$name" || true
  done
  if [ "$status" != 0 ]; then
    printf '\nquickstart failed (status %s); what the nodes have logged:\n' "$status" >&2
    tail -n 40 "$work"/*.log >&2 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() {
  # Its last line says that the mount is there (and, on a replica, that it has all that the primary had); it
  # comes through a pipe, so nobody has to guess.
  local name=$1 line='' up='' out
  mkfifo "$work/$name.out"
  "$litefs" mount -config "$work/$name.yml" >"$work/$name.out" 2>"$work/$name.log" &
  nodes[$name]=$!
  exec {out}<"$work/$name.out"
  rm "$work/$name.out"
  while read -r -t 20 -u "$out" line; do
    case $line in "waiting for signal"*) up=1; break ;; esac
  done
  [ -n "$up" ] || fail "the $name didn't come up"
}

same_position() {
  # The replica is told of a commit within a millisecond or so, but who asks at once may be faster.
  local tries
  for tries in {1..100}; do
    if cmp -s "$primary/app.db-pos" "$replica/app.db-pos"; then return; fi
    sleep 0.05
  done
  fail "the replica doesn't follow: $(cat "$primary/app.db-pos") and $(cat "$replica/app.db-pos")"
}

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
config() {
  # Both nodes know who is the primary: one line of difference.
  cat >"$work/$1.yml" <<YML
fuse:
  dir: "$work/$1/litefs"     # where applications find their databases
data:
  dir: "$work/$1/data"       # where litefs keeps them
lease:
  type: static
  candidate: $2              # whether this node is the primary
  hostname: primary.example  # who the primary is, and where
  advertise-url: http://127.0.0.1:$port
http:
  addr: "127.0.0.1:$3"
YML
  mkdir -p "$work/$1"
}

say "A primary and a replica"
config primary true "$port"
config replica false 0
show cat "$work/primary.yml"
show diff "$work/primary.yml" "$work/replica.yml" || true
start primary
start replica
primary=$work/primary/litefs
replica=$work/replica/litefs

say "Any program's SQLite file, unchanged: written on the primary"
show sqlite3 "$primary/app.db" "PRAGMA journal_mode=WAL" "CREATE TABLE person(name TEXT)" "INSERT INTO person VALUES ('Ada'), ('Grace')"
same_position

say "and read on the replica"
show sqlite3 "$replica/app.db" "SELECT * FROM person"
[ "$(sqlite3 "$replica/app.db" "SELECT count(*) FROM person")" = 2 ] || fail "the replica has other rows"

say "The replica knows its primary; the primary has no such file"
show cat "$replica/.primary"
show ls -A "$primary"
[ ! -e "$primary/.primary" ] || fail "the primary says that it has a primary"

say "Each transaction has a number, and a checksum of the whole database after it: the same on both"
show sqlite3 "$primary/app.db" "INSERT INTO person VALUES ('Edsger')"
same_position
show cat "$primary/app.db-pos" "$replica/app.db-pos"

say "Only the primary may write"
if show sqlite3 "$replica/app.db" "INSERT INTO person VALUES ('Mallory')"; then
  fail "the replica has taken a write"
fi

say "How long until a commit is seen by a connection that is open on the replica"
python3 - "$primary/app.db" "$replica/app.db" <<'PY'
import sqlite3, sys, time

writer, reader = (sqlite3.connect(path, isolation_level=None) for path in sys.argv[1:])
writer.execute("PRAGMA synchronous=NORMAL")
writer.execute("CREATE TABLE tick(id INTEGER PRIMARY KEY)")
version = lambda: reader.execute("PRAGMA data_version").fetchone()[0]
deadline = time.monotonic() + 30
while not reader.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'tick'").fetchone()[0]:
    assert time.monotonic() < deadline, "the table doesn't come"
waits = []
for id in range(1, 501):
    before = version()
    writer.execute("INSERT INTO tick VALUES (?)", (id,))
    committed = time.monotonic()
    while version() == before:
        assert time.monotonic() < deadline, f"commit {id} doesn't come"
    waits.append(time.monotonic() - committed)
    seen = reader.execute("SELECT max(id) FROM tick").fetchone()[0]
    assert seen == id, f"{seen} instead of {id}"
waits.sort()
p50, p99 = (f"{waits[len(waits) * p // 100] * 1000:.2f} ms" for p in (50, 99))
print(f"    500 commits: half within {p50}, 99 of 100 within {p99}")
PY
same_position

say "The replica's log holds the same transactions as LTX"
show "$litefs" ltx show -data "$work/replica/data" app.db 3

say "With the nodes stopped, everything can be checked: pages, log, and one against the other"
stop replica
stop primary
show "$litefs" verify -data "$work/primary/data"
show "$litefs" verify -data "$work/replica/data"

say "After a restart everything is there, and what is written goes on to the replica"
start primary
start replica
show sqlite3 "$primary/app.db" "INSERT INTO person VALUES ('Barbara')"
same_position
show sqlite3 "$replica/app.db" "SELECT count(*) FROM person" "PRAGMA integrity_check"

say "Done"
