//! `callbridge serve`: runs the bridge.

use std::env;
use std::error::Error;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::app;
use crate::app::ServeError;
use crate::app::stop::RunEnd;
use crate::app::system;
use crate::config;
use crate::config::LogFormat;
use crate::config::LogSettings;
use crate::config::flags::Flags;
use crate::config::problem::Problem;
use crate::logging::LogWriter;
use crate::logging::metrics::LogMetrics;

/// The command line is wrong.
pub(crate) const EXIT_USAGE: u8 = 2;

/// The configuration is wrong; a restart will not help. (`EX_CONFIG`.)
pub(crate) const EXIT_CONFIG: u8 = 78;

/// How long to wait for the reader of stderr before there is a log.
const STDERR_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the bridge until it is asked to stop.
pub(crate) fn run(flags: &Flags) -> ExitCode {
    // Before secrets are read.
    let dumps = system::forbid_core_dumps();
    let config = match config::load(flags, env::vars_os()) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    with_log(&config.log, dumps, |log| {
        for warning in &config.warnings {
            tracing::warn!(%warning, "configuration");
        }
        match app::serve(&config, log) {
            Ok(RunEnd::Stopped) => ExitCode::SUCCESS,
            Ok(RunEnd::Cut) => ExitCode::FAILURE,
            Err(failure) => exit_code_of(&failure),
        }
    })
}

/// Runs a command with a log on stderr. `dumps`: whether core dumps could be disabled.
pub(super) fn with_log(
    log: &LogSettings,
    dumps: io::Result<()>,
    command: impl FnOnce(&LogWriter) -> ExitCode,
) -> ExitCode {
    let log = match start_log(log) {
        Ok(log) => log,
        Err(failure) => {
            print_in_time(format!("{}\n", chain(&failure)));
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = dumps {
        tracing::warn!(%error, "core dumps could not be disabled; they would contain tokens");
    }
    let code = command(&log);
    log.flush();
    code
}

/// Logs why a command cannot run. Returns its exit code.
pub(super) fn exit_code_of(failure: &ServeError) -> ExitCode {
    tracing::error!(error = chain(failure), "callbridge cannot run");
    match failure {
        // librdkafka has rejected the properties, and files and sockets will be just as wrong the next time: a restart will not help.
        ServeError::Kafka(_) | ServeError::Passed(_) | ServeError::Tokens(_) | ServeError::Tls(_) => {
            ExitCode::from(EXIT_CONFIG)
        }
        ServeError::Journal(error) if error.is_of_configuration() => ExitCode::from(EXIT_CONFIG),
        ServeError::Listen { .. }
        | ServeError::Embedded(_)
        | ServeError::Journal(_)
        | ServeError::Metrics(_)
        | ServeError::System { .. } => ExitCode::FAILURE,
    }
}

/// An error and all its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Prints all `problems`, one a line. Returns their exit code.
pub(crate) fn refuse(problems: &[Problem]) -> ExitCode {
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    print_in_time(lines);
    ExitCode::from(exit_code(problems))
}

/// Prints to stderr before there is a log. Does not wait long for a stuck reader: the exit code says it too.
fn print_in_time(lines: String) {
    let (written, is_written) = mpsc::sync_channel(1);
    // A thread that is blocked by stderr ends with the process.
    let printing = thread::Builder::new().name("stderr".to_owned()).spawn(move || {
        let _ = io::stderr().lock().write_all(lines.as_bytes());
        // Nobody waits if it has taken too long.
        let _ = written.send(());
    });
    if printing.is_ok() {
        let _ = is_written.recv_timeout(STDERR_TIMEOUT);
    }
}

/// The exit code that problems of the configuration mean.
pub(super) fn exit_code(problems: &[Problem]) -> u8 {
    let mut mistakes = problems.iter().filter(|problem| !problem.is_warning);
    if mistakes.all(Problem::is_of_usage) { EXIT_USAGE } else { EXIT_CONFIG }
}

/// Logs go to stderr; stdout is for the addresses and the ledger.
fn start_log(log: &LogSettings) -> Result<LogWriter, ServeError> {
    let on_terminal = io::stderr().is_terminal();
    let failed = |source| ServeError::System { what: "the log", source };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
    let writer = LogWriter::start(stderr, LogMetrics::new().map_err(ServeError::Metrics)?).map_err(failed)?;
    writer.end_on_panic();
    let builder = tracing_subscriber::fmt()
        .with_writer(writer.clone())
        // By default they would go directly to stderr, and could block.
        .log_internal_errors(false)
        .with_ansi(on_terminal)
        .with_env_filter(EnvFilter::new(&log.filter));
    let as_text = match log.format {
        LogFormat::Auto => on_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    if as_text {
        builder.init();
    } else {
        builder.json().init();
    }
    Ok(writer)
}

#[cfg(test)]
mod tests {
    use std::iter;

    use clap::Args as _;
    use clap::Command;
    use clap::FromArgMatches;

    use crate::cli::serve::EXIT_CONFIG;
    use crate::cli::serve::EXIT_USAGE;
    use crate::cli::serve::exit_code;
    use crate::config;
    use crate::config::flags::Flags;

    #[test]
    fn mistakes_of_the_command_line_alone_are_2_and_all_others_78() {
        let code = |line: &str| {
            let matches = Flags::augment_args(Command::new("serve")).get_matches_from(line.split(' '));
            let problems = config::load(&Flags::from_arg_matches(&matches).unwrap(), iter::empty()).unwrap_err();
            exit_code(&problems)
        };
        assert_eq!(code("serve --sdk-app-id 1 --brokers a:1 --ack never"), EXIT_USAGE);
        assert_eq!(code("serve --sdk-app-id 1 --brokers a:1 --ack never --kafka ssl.key.password=x"), EXIT_USAGE);
        assert_eq!(code("serve --brokers a:1 --ack never"), EXIT_CONFIG);
        assert_eq!(code("serve --config /nowhere/callbridge.toml --sdk-app-id 1 --brokers a:1"), EXIT_CONFIG);
    }
}
