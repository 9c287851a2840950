//! The `litefs` program: hands its arguments to the library and exits with what comes back. The only
//! place where the process ends.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    litefs_cli::main(std::env::args_os().skip(1).collect())
}
