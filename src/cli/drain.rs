//! `callbridge journal drain`: delivers the journal to Kafka, without accepting callbacks.

use std::env;
use std::io;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::app;
use crate::app::ServeError;
use crate::app::system;
use crate::cli::serve;
use crate::config;
use crate::config::flags::Flags;
use crate::logging::LogWriter;

/// The exit code after a failure of the journal's disk. (`EX_IOERR`.)
const EXIT_DISK: u8 = 74;

/// The arguments of `drain`.
#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// End after this many seconds, even if callbacks are left
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    #[command(flatten)]
    flags: Flags,
}

/// Runs the drain. Returns the exit code of the process.
pub(super) fn run(args: &DrainArgs) -> ExitCode {
    // The journal holds messages.
    let dumps = system::forbid_core_dumps();
    let config = match config::load(&args.flags, env::vars_os()) {
        Ok(config) => config,
        Err(problems) => return serve::refuse(&problems),
    };
    if config.embedded_broker {
        let why = "embedded_broker: must not be set: what it took would be gone when the command ends\n";
        // If nobody reads it, the exit code still says it.
        let _ = io::stderr().lock().write_all(why.as_bytes());
        return ExitCode::from(serve::EXIT_CONFIG);
    }
    serve::with_log(&config.log.clone(), dumps, |log: &LogWriter| {
        match app::drain::drain(config, args.seconds.map(Duration::from_secs), log) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(failure) => {
                let code = serve::exit_code_of(&failure);
                if matches!(&failure, ServeError::Journal(error) if error.is_of_disk()) {
                    EXIT_DISK.into()
                } else {
                    code
                }
            }
        }
    })
}
