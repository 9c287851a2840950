//! Support for tests and benches that run the real `litefs` on a real mount.
//!
//! ```text
//!   test ─▶ node      a litefs process, its mount, its data directory; killed and unmounted at the end
//!             └▶ process   a child with captured output; each wait has a deadline
//!   test ─▶ cluster   a primary and its replicas; when and how they are equal
//!             └▶ proxy     a network between them that fails as told
//!   test ─▶ netns     hosts with a network of the kernel's, which fails as told, too
//!   test ─▶ consul    a real Consul, which stops, forgets, and is looked into
//!   test ─▶ fake      a Consul that says what the test tells it to
//!   test ─▶ http      one request
//!   test ─▶ handovers  one primary after the other, and how long nobody can write
//!         ▶ day       three of them, and what happens in a day
//!             └▶ starts      two that start at once
//!         ▶ chaos     troubles at random
//!             └▶ candidates  nodes that each may lead, with networks that fail
//!             └▶ receipts    what applications on the nodes were told is committed
//!             └▶ verdict     what must be true of them at the end
//!   test ─▶ sqlite    connections, the sqlite3 shell, dumps
//!   test ─▶ scan      an oracle: the checksum of all pages, computed from the files alone
//!   test ─▶ wire      an oracle: streams and LTX files, decoded from their bytes alone
//!   test ─▶ workload  random transactions whose outcome can be checked; also as a process of its own
//!   test ─▶ random    numbers from a seed that is printed
//!   bench ─▶ bench    what to measure, a table of figures, the bench database
//! ```
//!
//! Nothing here but `sim` knows the engine: bytes, processes and SQLite only; `verdict` decodes LTX files. A mount that hangs doesn't hang the
//! test: each [`node::Node`] has a limit to its life, then its connection is aborted.

// A failed expectation is what a test has to report.
#![allow(clippy::unwrap_used)]

pub mod bench;
pub mod candidates;
pub mod chaos;
pub mod cluster;
pub mod consul;
pub mod day;
pub mod fake;
pub mod handovers;
pub mod http;
pub mod netns;
pub mod node;
pub mod process;
pub mod proxy;
pub mod random;
pub mod receipts;
pub mod scan;
pub mod sim;
pub mod sqlite;
pub mod starts;
pub mod verdict;
pub mod wire;
pub mod workload;
