//! The binary `ringway`.

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway_core::cli::main()
}
