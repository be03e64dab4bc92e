//! `bistro-devnet`: see `--help`.

use bistro_devnet::args::{self, Args};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    args::main(Args::parse())
}
