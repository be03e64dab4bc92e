//! `bistro`: the operator, the same pods as local processes, and the custom resource definitions.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    bistro::cli::Cli::parse().run()
}
