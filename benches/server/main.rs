//! The whole server beside a bare hyper one.
//!
//! The binary runs itself again in other roles, so that the server, the load and the broker are processes of their own
//! and the server's CPU time is the server's alone.

#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

mod bare;
mod broker;
mod callback;
mod document;
mod journal;
mod load;
mod numbered;
mod options;
mod pair;
mod peers;
mod process;
mod report;
mod sample;
mod scaling;
mod server;
mod slow;
mod suite;
mod topic;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;
use mimalloc::MiMalloc;

use crate::load::LoadOptions;
use crate::options::Options;
use crate::peers::PeersOptions;
use crate::scaling::ScalingOptions;
use crate::slow::SlowOptions;

/// The allocator that callbridge has, so that bare hyper has it too.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measures callbridge beside a bare hyper server.
#[derive(Parser)]
struct Arguments {
    /// Given by `cargo bench`, not by `cargo test`: without it there is nothing to do.
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What else is measured, or what a process of this benchmark is when it is not the one that measures.
#[derive(Subcommand)]
enum Role {
    /// Measures callbridge beside its peers.
    Peers(PeersOptions),
    /// Measures several replicas on three nodes of Kafka.
    Scaling(ScalingOptions),
    /// The bare hyper server.
    #[command(hide = true)]
    Bare,
    /// The load generator.
    #[command(hide = true)]
    Load(LoadOptions),
    /// Senders that trickle.
    #[command(hide = true)]
    Slow(SlowOptions),
    /// Another program, for as long as the process lives that started it.
    #[command(hide = true)]
    Bound {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.role {
        Some(Role::Peers(options)) => peers::run(&options),
        Some(Role::Scaling(options)) => scaling::run(&options),
        Some(Role::Bare) => bare::serve(),
        Some(Role::Load(options)) => load::run(&options),
        Some(Role::Slow(options)) => slow::run(&options),
        Some(Role::Bound { words }) => Err(process::bind(&words)),
        None if arguments.bench => suite::run(&arguments.options),
        None => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the only word of a failure")]
fn fail(error: &io::Error) -> ExitCode {
    eprintln!("server benchmark: {error}");
    ExitCode::FAILURE
}
