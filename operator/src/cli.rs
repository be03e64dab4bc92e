//! The command line: raw arguments, and one function per command.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::{Args, Parser, Subcommand};

use crate::{controller, crds, manifests, up};

/// Incentivised, decentralised training on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "bistro", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

const EXAMPLES: &str = "\
Examples:
  bistro up -f manifests/quickstart.yaml --devnet-corpus corpus
      a whole subnet on this machine: chain, bucket, three miners, a validator, an averager
  bistro check -f manifests
      what would be refused, before anything is started or applied
  bistro crds | kubectl apply --server-side -f -
      the resources for a cluster";

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run in a cluster: make pods of its Miner, Validator and Averager resources
    Operator(controller::Arguments),
    /// Run resources as processes of this machine, by the same pod contract as a cluster
    Up(up::Arguments),
    /// Check files with resources without running them
    Check {
        /// File or folder with resources; may be repeated
        #[arg(short, long = "file", value_name = "FILE|DIR", required = true)]
        file: Vec<PathBuf>,
    },
    /// Print the custom resource definitions
    Crds(CrdArguments),
    /// Run bistro-worker with the same arguments: dataset, runs, fetch, explain, ...
    #[command(disable_help_flag = true)]
    Worker {
        /// Arguments of bistro-worker
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Become a program that ends with its parent; `up` starts its processes through it
    #[command(hide = true)]
    Leash {
        #[arg(long)]
        parent: u32,
        program: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
struct CrdArguments {
    /// Write one file per resource to this folder
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// Fail if the files in this folder differ from what would be written
    #[arg(long, value_name = "DIR", conflicts_with = "to")]
    check: Option<PathBuf>,
}

impl Cli {
    /// Runs the command. Errors go to standard error, one line each; 2 means that the input is wrong.
    pub fn run(self) -> ExitCode {
        match self.command {
            CliCommand::Operator(arguments) => controller::run(&arguments),
            CliCommand::Up(arguments) => up::run(arguments),
            CliCommand::Check { file } => check(&file),
            CliCommand::Crds(arguments) => write_crds(&arguments),
            CliCommand::Worker { arguments } => worker(&arguments),
            CliCommand::Leash { parent, program, arguments } => {
                failed(&up::leash::become_program(parent, &program, &arguments), 1)
            }
        }
    }
}

fn check(files: &[PathBuf]) -> ExitCode {
    let checked = manifests::read(files).and_then(|manifests| up::network::plan(&manifests));
    match checked {
        Ok(network) => {
            network.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            println!("{network}");
            ExitCode::SUCCESS
        }
        Err(problems) => failed(&problems, 2),
    }
}

fn write_crds(arguments: &CrdArguments) -> ExitCode {
    let done = match arguments {
        CrdArguments { to: Some(folder), .. } => crds::write(folder),
        CrdArguments { check: Some(folder), .. } => crds::check(folder),
        CrdArguments { to: None, check: None } => crds::stream().map(|text| print!("{text}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}

fn worker(arguments: &[OsString]) -> ExitCode {
    let program = beside_this("bistro-worker");
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("failed to run {}: {error}: install bistro-worker beside bistro", program.display());
    ExitCode::FAILURE
}

/// A program in the folder of this one.
pub(crate) fn beside_this(name: &str) -> PathBuf {
    std::env::current_exe().ok().as_deref().and_then(Path::parent).unwrap_or(Path::new("")).join(name)
}

fn failed(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("{}", one_line(error));
    ExitCode::from(code)
}

/// An error with its causes, joined by colons. A cause that an error's own text ends with is not said twice.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
