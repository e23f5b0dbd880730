//! Alone, so that callgrind counts what is built in a minute: `.ci/instructions`. To measure, use `ringway-bench push-path`.

use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: push_path::Options,
}

fn main() -> anyhow::Result<()> {
    push_path::run(&Cli::parse().options)
}
