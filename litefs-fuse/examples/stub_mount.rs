//! THROW-AWAY: mounts the stub engine until a line comes on standard input.

use std::io::{BufRead, stdin};
use std::path::Path;

use litefs_core::store::Store;
use litefs_fuse::{Mount, MountOptions, Passthrough};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let store = Store::open(Path::new(&args[1])).unwrap();
    let mut options = MountOptions::new(&args[2]);
    options.debug = std::env::var("DEBUG").is_ok();
    if let Ok(n) = std::env::var("THREADS") {
        options.threads = n.parse().unwrap();
    }
    if args.get(3).map(String::as_str) == Some("off") {
        options.passthrough = Passthrough::Off;
    }
    let mount = match Mount::new(store, options) {
        Ok(mount) => mount,
        Err(err) => {
            eprintln!("{err}: {:?}", std::error::Error::source(&err));
            std::process::exit(1);
        }
    };
    println!("mounted");
    let _ = stdin().lock().lines().next();
    println!("{:?}", mount.unmount());
}
