//! The suite that every backend must pass.

// Clippy knows tests by their attribute, not by their directory.
#![allow(clippy::unwrap_used)]

use litefs_example_custom_lease::FileLeaser;
use litefs_lease::conformance::{Abilities, Place, check};
use litefs_lease::{Leaser, PrimaryInfo};
use tempfile::TempDir;

struct Dir(TempDir);

impl Place for Dir {
    fn leaser(&self, node: &str) -> Box<dyn Leaser> {
        let own = PrimaryInfo { hostname: node.into(), advertise_url: format!("http://{node}") };
        Box::new(FileLeaser::new(self.0.path(), own).unwrap())
    }
}

#[tokio::test]
async fn a_file_lock_keeps_every_promise() {
    let can = Abilities { moves: true, watches: true, ..Abilities::default() };
    check(&can, || Dir(TempDir::new().unwrap())).await;
}
