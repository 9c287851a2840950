#!/usr/bin/env python3
"""Writes the golden files beside it. See README.md."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
WORK = "/tmp/golden"  # Named in super.db-journal.


def connect(name, page_size, mode, *pragmas):
    con = sqlite3.connect(f"{WORK}/{name}", isolation_level=None)
    for pragma in (f"page_size={page_size}", f"journal_mode={mode}", *pragmas):
        con.execute(f"PRAGMA {pragma}").fetchall()
    return con


def keep(source, target):
    # By another process: closing any descriptor of a file drops the locks that this process has on it.
    subprocess.run(["cp", f"{WORK}/{source}", f"{HERE}/{target}"], check=True)


def wal(name, page_size, first, second):
    """A WAL never checkpointed, its wal-index, and the database below it."""
    con = connect(name + ".db", page_size, "wal", "wal_autocheckpoint=0")
    con.executescript(first)
    con.executescript(second)
    keep(name + ".db-wal", name + ".db-wal")
    if page_size < 65536:
        keep(name + ".db", name + ".db")
    # The wal-index is 32 KiB; its hash tables aren't decoded.
    with open(f"{WORK}/{name}.db-shm", "rb") as f, open(f"{HERE}/{name}.db-shm", "wb") as out:
        out.write(f.read(136))
    con.close()


def hot(name, page_size, synchronous, setup, change):
    """A database before a transaction, and both files while it is open with pages spilled."""
    con = connect(name, page_size, "delete", "cache_size=5", f"synchronous={synchronous}")
    con.executescript(setup)
    if page_size < 65536:
        keep(name, f"{name}.before.db")
    con.execute("BEGIN")
    for sql in change:
        con.execute(sql)
    if page_size < 65536:
        keep(name, f"{name}.db")
    keep(name + "-journal", f"{name}.db-journal")
    con.execute("ROLLBACK")
    con.close()


def super_journal():
    """A journal that names a super-journal: the process dies when it would delete that file."""
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", f"{WORK}/die.so"], check=True, input=b"""
        #include <signal.h>
        int unlink(const char *path) { return raise(SIGKILL); }
    """)
    script = f"""
import sqlite3
con = sqlite3.connect("{WORK}/super.db", isolation_level=None)
con.executescript('''PRAGMA page_size=512; PRAGMA journal_mode=truncate;
  ATTACH "{WORK}/other.db" AS other; PRAGMA other.page_size=512; PRAGMA other.journal_mode=truncate;
  CREATE TABLE main.t(a); CREATE TABLE other.t(a);
  BEGIN; INSERT INTO main.t VALUES(1); INSERT INTO other.t VALUES(1); COMMIT;''')
"""
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "LD_PRELOAD": f"{WORK}/die.so"})
    keep("super.db-journal", "super.db-journal")


shutil.rmtree(WORK, ignore_errors=True)
os.mkdir(WORK)
wal("two-tx-512", 512, "CREATE TABLE t(a)", "INSERT INTO t VALUES(randomblob(2000))")
wal("two-tx-4096", 4096, "CREATE TABLE t(a)", "INSERT INTO t VALUES(randomblob(100))")
wal("one-tx-65536", 65536, "PRAGMA user_version=1", "")
rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{}) "
fill = "CREATE TABLE t(a INTEGER PRIMARY KEY, b); " + rows.format(24) + "INSERT INTO t SELECT i, randomblob({}) FROM n"
update = ["UPDATE t SET b=randomblob(length(b))", "INSERT INTO t VALUES(100, randomblob(5000))"]
hot("segments-512", 512, "full", fill.format(300), update)
hot("nosync-4096", 4096, "off", fill.format(300), update)
hot("one-page-65536", 65536, "off", "PRAGMA user_version=1", ["PRAGMA user_version=2"])
super_journal()
