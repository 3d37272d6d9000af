//! `callbridge serve`: its flags, made from the table of settings, and what it does.

use std::env;
use std::error::Error;
use std::io;
use std::io::IsTerminal;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Arg;
use clap::ArgAction;
use clap::ArgMatches;
use clap::Command;
use clap::FromArgMatches;
use clap::error::Error as UsageError;
use clap::value_parser;
use tracing_subscriber::EnvFilter;

use crate::app;
use crate::app::Failure;
use crate::app::stop::Ended;
use crate::app::system;
use crate::config;
use crate::config::CONFIG_VARIABLE;
use crate::config::Config;
use crate::config::Flags;
use crate::config::JudgeKafka;
use crate::config::Log;
use crate::config::LogFormat;
use crate::config::problem::Problem;
use crate::config::setting::Flag;
use crate::config::setting::SETTINGS;
use crate::config::setting::Setting;
use crate::config::setting::Shape;
use crate::logging::LogWriter;
use crate::metrics::log::LogMetrics;

/// The command line cannot be used.
const EXIT_USAGE: u8 = 2;

/// The configuration cannot be used; restarting will not help. (`EX_CONFIG`.)
/// How long stderr may take before there is a log.
const STDERR_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) const EXIT_CONFIG: u8 = 78;

const CONFIG_FLAG: &str = "config";

/// The flags of `serve` and `check`, unjudged: the config layer tells their mistakes together with the others.
#[derive(Debug)]
pub(crate) struct Args {
    flags: Flags,
}

/// Runs the bridge until it is asked to stop.
pub(crate) fn run(args: &Args, judge_kafka: JudgeKafka) -> ExitCode {
    // Before secrets are read.
    let dumps = system::forbid_core_dumps();
    let config = match args.config(judge_kafka) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    let log = match start_log(&config.log) {
        Ok(log) => log,
        Err(failure) => {
            print_in_time(format!("{}\n", chain(&failure)));
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = dumps {
        tracing::warn!(%error, "core dumps could not be forbidden; they would hold tokens");
    }
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let code = exit_code_of(app::serve(&config, &log));
    log.flush();
    code
}

fn exit_code_of(ended: Result<Ended, Failure>) -> ExitCode {
    match ended {
        Ok(Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::Cut) => ExitCode::FAILURE,
        Err(failure) => {
            tracing::error!(error = chain(&failure), "callbridge cannot run");
            match failure {
                // librdkafka judged the properties together, and files and sockets are as bad the next time: restarting will not help.
                Failure::Kafka(_) | Failure::Passed(_) | Failure::Tokens(_) | Failure::Tls(_) => {
                    ExitCode::from(EXIT_CONFIG)
                }
                Failure::Journal(error) if error.is_of_configuration() => ExitCode::from(EXIT_CONFIG),
                Failure::Listen { .. }
                | Failure::Embedded(_)
                | Failure::Journal(_)
                | Failure::Metrics(_)
                | Failure::System { .. } => ExitCode::FAILURE,
            }
        }
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

/// Prints all `problems`, one a line. Returns the exit code that they mean.
pub(crate) fn refuse(problems: &[Problem]) -> ExitCode {
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    print_in_time(lines);
    ExitCode::from(exit_code(problems))
}

/// Prints to stderr before there is a log. A reader that takes nothing keeps nobody waiting for long: the exit code still tells.
fn print_in_time(lines: String) {
    let (written, is_written) = mpsc::sync_channel(1);
    // When stderr blocks it, it ends with the process.
    let printing = thread::Builder::new().name("stderr".to_owned()).spawn(move || {
        let _ = io::stderr().lock().write_all(lines.as_bytes());
        // Nobody waits any more when it took too long.
        let _ = written.send(());
    });
    if printing.is_ok() {
        let _ = is_written.recv_timeout(STDERR_TIMEOUT);
    }
}

fn exit_code(problems: &[Problem]) -> u8 {
    if problems.iter().all(Problem::is_of_usage) { EXIT_USAGE } else { EXIT_CONFIG }
}

impl Args {
    /// The configuration that these flags, the environment and the config file make.
    pub(crate) fn config(&self, judge_kafka: JudgeKafka) -> Result<Config, Vec<Problem>> {
        config::load(&self.flags, env::vars_os(), judge_kafka)
    }
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG_FLAG)
            .long(CONFIG_FLAG)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(format!("The config file (TOML) [env: {CONFIG_VARIABLE}]"));
        let flags = SETTINGS.iter().filter_map(|setting| Some(argument(setting, setting.flag?)));
        command.arg(config).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, UsageError> {
        let config = matches.get_one::<PathBuf>(CONFIG_FLAG).cloned();
        let flags = SETTINGS.iter().filter_map(|setting| setting.flag);
        let given = flags.filter_map(|flag| Some((flag.name, values(matches, flag)?))).collect();
        Ok(Self { flags: Flags { config, given } })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), UsageError> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(setting: &Setting, flag: Flag) -> Arg {
    let default = setting.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    let variable = match (setting.variables().into_iter().next(), flag.shape) {
        (Some(variable), Shape::Often(_)) => format!("{variable}, with commas between"),
        (Some(variable), Shape::Once(_) | Shape::Switch) => variable,
        // What is left are the properties of Kafka, with a variable each.
        (None, _) => "CALLBRIDGE_KAFKA_NAME, with '_' for each '.'".to_owned(),
    };
    let help = format!("{} [setting: {}]{default} [env: {variable}]", flag.help, setting.path);
    let argument = Arg::new(flag.name).long(flag.name).help(help);
    match flag.shape {
        Shape::Switch => argument.action(ArgAction::SetTrue),
        Shape::Once(value) => argument.value_name(value),
        Shape::Often(value) => argument.value_name(value).action(ArgAction::Append),
    }
}

fn values(matches: &ArgMatches, flag: Flag) -> Option<Vec<String>> {
    match flag.shape {
        Shape::Switch => matches.get_flag(flag.name).then(|| vec!["true".to_owned()]),
        Shape::Once(_) | Shape::Often(_) => Some(matches.get_many::<String>(flag.name)?.cloned().collect()),
    }
}

/// Logs go to stderr: stdout is for the addresses and the ledger.
fn start_log(log: &Log) -> Result<LogWriter, Failure> {
    let on_terminal = io::stderr().is_terminal();
    let failed = |source| Failure::System { what: "the log", source };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
    let writer = LogWriter::start(stderr, LogMetrics::new().map_err(Failure::Metrics)?).map_err(failed)?;
    writer.end_on_panic();
    let builder = tracing_subscriber::fmt()
        .with_writer(writer.clone())
        // They would go to stderr by themselves, and could block.
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
    use std::collections::BTreeMap;
    use std::iter;
    use std::path::PathBuf;

    use clap::Args as _;
    use clap::Command;
    use clap::FromArgMatches;

    use crate::cli::serve::Args;
    use crate::cli::serve::EXIT_CONFIG;
    use crate::cli::serve::EXIT_USAGE;
    use crate::cli::serve::exit_code;
    use crate::config;
    use crate::config::Flags;
    use crate::config::setting::SETTINGS;

    fn parse(line: &str) -> Flags {
        let matches = Args::augment_args(Command::new("serve")).get_matches_from(line.split(' '));
        Args::from_arg_matches(&matches).unwrap().flags
    }

    #[test]
    fn flags_are_taken_as_they_are_written() {
        let flags = parse(
            "serve --config c.toml --sdk-app-id 1 --sdk-app-id x --embedded-broker --brokers a:1,b:2 --kafka linger.ms=5 \
             --workers many",
        );
        let given: BTreeMap<&str, Vec<String>> = flags.given.into_iter().collect();
        let expected = [
            ("brokers", vec!["a:1,b:2"]),
            ("embedded-broker", vec!["true"]),
            ("kafka", vec!["linger.ms=5"]),
            ("sdk-app-id", vec!["1", "x"]),
            ("workers", vec!["many"]),
        ];
        let expected: BTreeMap<&str, Vec<String>> =
            expected.map(|(name, values)| (name, values.into_iter().map(str::to_owned).collect())).into();
        assert_eq!(flags.config, Some(PathBuf::from("c.toml")));
        assert_eq!(given, expected);
    }

    #[test]
    fn the_help_of_each_flag_names_its_setting_its_default_and_its_variable() {
        let command = Args::augment_args(Command::new("serve"));
        command.clone().debug_assert();
        for setting in SETTINGS {
            let Some(flag) = setting.flag else { continue };
            let argument = command.get_arguments().find(|argument| argument.get_long() == Some(flag.name)).unwrap();
            let help = argument.get_help().unwrap().to_string();
            assert!(help.contains(&format!("[setting: {}]", setting.path)), "{help}");
            assert!(help.contains("[env: CALLBRIDGE_"), "{help}");
            assert_eq!(setting.default.is_some(), help.contains("[default: "), "{help}");
        }
    }

    #[test]
    fn mistakes_of_the_command_line_alone_are_2_and_all_others_78() {
        let code = |line: &str| {
            let problems = config::load(&parse(line), iter::empty(), |_| Vec::new()).unwrap_err();
            exit_code(&problems)
        };
        assert_eq!(code("serve --sdk-app-id 1 --brokers a:1 --ack never"), EXIT_USAGE);
        assert_eq!(code("serve --brokers a:1 --ack never"), EXIT_CONFIG);
        assert_eq!(code("serve --config /nowhere/callbridge.toml --sdk-app-id 1 --brokers a:1"), EXIT_CONFIG);
    }
}
