//! The command line: one file for each subcommand.

mod blocklist;
mod check;
mod completions;
mod doctor;
mod drain;
mod healthcheck;
mod journal;
mod man;
mod send;
mod serve;
mod topics;

use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;
use clap_complete::Shell;

use crate::config::flags::Flags;
use crate::metrics::build::COMMIT;
use crate::metrics::build::VERSION;
use crate::publish::kafka;

/// Accepts Tencent Cloud Chat callbacks, answers them within their deadline, and publishes them to Kafka.
#[derive(Debug, Parser)]
#[command(name = "callbridge", version = version(), about)]
pub struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the bridge.
    ///
    /// Settings come from the config file, the environment and the flags; a later source overrides an earlier one. Every setting of the
    /// file has a variable, named after its path: callbacks.listen is CALLBRIDGE_CALLBACKS_LISTEN.
    Serve(Flags),
    /// Check the configuration and the files that it names, without running.
    Check(check::CheckArgs),
    /// Read, explain and change the blocklist, through Kafka or through the admin API of a bridge.
    Blocklist(blocklist::BlocklistArgs),
    /// Show the journal on disk, even while a bridge writes to it, or deliver it.
    Journal(journal::JournalArgs),
    /// Compare the topics that the configuration needs with those in Kafka, and create missing ones.
    Topics(topics::TopicsArgs),
    /// Send callbacks to a server as Tencent does, and measure the responses.
    ///
    /// In the open model, which is the default, callbacks are due at --rate, and a latency counts from the time when its callback was due:
    /// a server that stalls cannot hide it. With --closed, each connection sends as soon as it has a response: that measures the maximum
    /// throughput, and its latencies mean little. Ends with 0, with 1 if a --fail-if holds or there was no response, and with 2 if the
    /// arguments are wrong.
    Send(Box<send::SendArgs>),
    /// Ask the admin listener of a running bridge whether it is alive. Ends with 0 if so, else with 1, within 2 seconds.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write the manual pages of all commands into a directory.
    Man {
        /// The directory for the pages. It is created if it is missing.
        dir: PathBuf,
    },
}

impl Cli {
    /// Runs the command. Returns the exit code of the process.
    pub fn run(self) -> ExitCode {
        match self.command {
            CliCommand::Serve(flags) => serve::run(&flags),
            CliCommand::Check(args) => check::run(&args),
            CliCommand::Blocklist(args) => blocklist::run(args),
            CliCommand::Journal(args) => journal::run(&args),
            CliCommand::Topics(args) => topics::run(&args),
            CliCommand::Send(args) => send::run(&args),
            CliCommand::Healthcheck(args) => healthcheck::run(&args),
            CliCommand::Completions { shell } => completions::run(shell),
            CliCommand::Man { dir } => man::run(&dir),
        }
    }
}

fn version() -> String {
    format!("{VERSION} (commit {COMMIT}, librdkafka {})", kafka::librdkafka_version())
}

/// Writes `bytes` to stdout. A reader that ends early, as with `callbridge completions bash | head`, is no failure.
fn print(bytes: &[u8]) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}
