//! `callbridge check`: the configuration and the files that it names, judged without running.

use std::io;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::serve;
use crate::cli::serve::Args;
use crate::config::Ack;
use crate::config::Config;
use crate::config::JudgeKafka;

/// Judges what `args` name. Says on stdout what is right, and on stderr what is not.
///
/// `judge_blocklist` reads a blocklist, and returns what it holds, in a few words, or what is wrong, each mistake as one
/// line that names the file.
pub(crate) fn run(
    args: &Args,
    judge_kafka: JudgeKafka,
    judge_blocklist: fn(&Path) -> Result<String, Vec<String>>,
) -> ExitCode {
    let config = match args.config(judge_kafka) {
        Ok(config) => config,
        Err(problems) => return serve::refuse(&problems),
    };
    let mut right = vec![format!("config ok: {}", summary(&config))];
    let mut wrong = Vec::new();
    for file in &config.blocklist.files {
        match judge_blocklist(file) {
            Ok(holds) => right.push(format!("blocklist ok: {}: {holds}", file.display())),
            Err(mistakes) => wrong.extend(mistakes),
        }
    }
    let warnings = config.warnings.iter().map(|warning| format!("warning: {warning}"));
    let told = tell(io::stdout().lock(), right.into_iter())
        .and_then(|()| tell(io::stderr().lock(), warnings.chain(wrong.iter().cloned())));
    match told {
        // Nobody can have read that all is well.
        Err(_unwritable) => ExitCode::FAILURE,
        Ok(()) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(serve::EXIT_CONFIG),
    }
}

fn summary(config: &Config) -> String {
    let ack = match config.ack {
        Ack::Journal => "journal",
        Ack::Broker => "broker",
        Ack::Memory => "memory",
    };
    let servers = config.kafka.properties.get("bootstrap.servers").map_or("embedded", String::as_str);
    let apps: Vec<String> =
        config.apps.iter().map(|app| format!("{} to {}.*", app.sdk_app_id, app.topic_prefix)).collect();
    format!("ack {ack}, apps {}, brokers {servers}", apps.join(", "))
}

fn tell(mut to: impl Write, lines: impl Iterator<Item = String>) -> io::Result<()> {
    for line in lines {
        writeln!(to, "{line}")?;
    }
    to.flush()
}
