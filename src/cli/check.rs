//! `callbridge check`: checks the configuration and the files that it names, without running; with `--live` also what [`doctor`] checks.

use std::collections::BTreeSet;
use std::env;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::auth::Tokens;
use crate::bearer::AdminTokens;
use crate::cli::doctor;
use crate::cli::doctor::report::CheckReport;
use crate::cli::doctor::report::CheckSection;
use crate::cli::serve;
use crate::cli::serve::chain;
use crate::clock;
use crate::config;
use crate::config::App;
use crate::config::Callbacks;
use crate::config::Config;
use crate::config::flags::Flags;
use crate::decide::rules::Rules;
use crate::follow;
use crate::follow::file::FileError;
use crate::follow::tls::TlsPaths;
use crate::follow::tokens::TokenSet;
use crate::journal::Ack;
use crate::journal::inspect;

/// With `--wait`.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// What good files hold, in a few words, and warnings about it.
struct Contents {
    summary: String,
    warnings: Vec<String>,
}

/// What is checked.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Also check what the configuration needs: ports, disk, Kafka, topics
    ///
    /// Prints a line for each check, with what to do below each that failed. Nothing is written to Kafka without --write.
    #[arg(long)]
    live: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// With --live: check again until nothing fails, for so many seconds at most
    #[arg(long, value_name = "SECONDS", requires = "live", default_value = "0")]
    wait: u64,
    /// With --live: also write a record to each dead-letter topic
    #[arg(long, requires = "live")]
    write: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Checks what the flags name. Says on stdout what is right, and on stderr what is not.
pub(super) fn run(args: &CheckArgs) -> ExitCode {
    let config = match config::load(&args.flags, env::vars_os()) {
        Ok(config) => config,
        Err(problems) => return serve::refuse(&problems),
    };
    let deadline = clock::monotonic() + Duration::from_secs(args.wait);
    loop {
        let (first, lists, files) = (configuration(&config), blocklists(&config), files(&config));
        let code = match (files.wrong.is_empty(), lists.wrong.is_empty()) {
            (false, _) => ExitCode::from(serve::EXIT_CONFIG),
            // The start goes on without them, and not with any of the other files.
            (true, false) => ExitCode::FAILURE,
            (true, true) => ExitCode::SUCCESS,
        };
        if !args.live && !args.json {
            return print(code, [first, lists, files]);
        }
        let mut report = CheckReport::default();
        report.push(CheckSection::of("configuration", first.right, first.warnings, first.wrong));
        let both = [lists, files].into_iter().reduce(Report::and).unwrap_or_default();
        report.push(CheckSection::of("files", both.right, both.warnings, both.wrong));
        if args.live {
            doctor::examine(&config, args.write, &mut report);
        }
        let has_failed = report.has_failed();
        if has_failed && clock::monotonic() < deadline {
            thread::sleep(BETWEEN_TRIES);
            continue;
        }
        let printed = if args.json { report.print_json() } else { report.print() };
        return match printed {
            Ok(()) if code == ExitCode::SUCCESS && has_failed => ExitCode::FAILURE,
            Ok(()) => code,
            // Nobody can have read that all is well.
            Err(_unwritable) => ExitCode::FAILURE,
        };
    }
}

fn print(code: ExitCode, reports: [Report; 3]) -> ExitCode {
    let Report { right, warnings, wrong } = reports.into_iter().reduce(Report::and).unwrap_or_default();
    let warnings = warnings.iter().map(|warning| format!("warning: {warning}"));
    let told =
        tell(io::stdout().lock(), right.into_iter()).and_then(|()| tell(io::stderr().lock(), warnings.chain(wrong)));
    // Nobody can have read that all is well.
    if told.is_err() { ExitCode::FAILURE } else { code }
}

fn configuration(config: &Config) -> Report {
    let mut report = Report { right: vec![format!("config ok: {}", summary(config))], ..Report::default() };
    report.right.extend(config.apps.iter().map(|app| access(app, &config.callbacks)));
    report.warnings.extend(config.warnings.iter().cloned());
    report
}

fn blocklists(config: &Config) -> Report {
    let mut report = Report::default();
    let own_files = config.apps.iter().flat_map(|app| &app.blocklist_files);
    for file in config.blocklist.files.iter().chain(own_files).collect::<BTreeSet<&PathBuf>>() {
        report.add("blocklist", file, blocklist(file));
    }
    report
}

/// The files without which the start ends, and a journal that must not be left behind.
fn files(config: &Config) -> Report {
    let mut report = Report::default();
    // Several applications may share one.
    let token_files: BTreeSet<&PathBuf> = config.apps.iter().flat_map(|app| &app.token_files).collect();
    for file in token_files {
        report.add("tokens", file, tokens::<Tokens>(file));
    }
    for file in &config.admin.token_files {
        report.add("admin tokens", file, tokens::<AdminTokens>(file));
    }
    if let Some(paths) = &config.callbacks.tls {
        report.add("tls", &paths.certificate, tls(paths));
    }
    if config.ack != Ack::Journal
        && let Err(error) = inspect::refuse_waiting(&config.journal.dir)
    {
        report.wrong.push(chain(&error));
    }
    report
}

/// What a blocklist file holds, or which lines of it are wrong.
fn blocklist(file: &Path) -> Result<Contents, Vec<String>> {
    match follow::file::read::<Rules>(file) {
        Ok(rules) => Ok(Contents { summary: format!("{} rules", rules.len()), warnings: Vec::new() }),
        Err(FileError::Bad(bad_lines)) => {
            let more = bad_lines.count - bad_lines.first.len();
            let more = (more > 0).then(|| format!("{}: and {more} more bad lines", file.display()));
            Err(bad_lines.first.iter().map(|line| format!("{}: {line}", file.display())).chain(more).collect())
        }
        Err(error) => Err(vec![format!("{}: {error}", file.display())]),
    }
}

/// How many tokens a file holds, or what is wrong with it.
fn tokens<T: TokenSet>(file: &Path) -> Result<Contents, Vec<String>> {
    match follow::file::read::<T>(file) {
        Ok(tokens) => {
            let weak = tokens.weakness().map(|weakness| format!("{}: {weakness}", file.display()));
            Ok(Contents { summary: format!("{} tokens", tokens.count()), warnings: weak.into_iter().collect() })
        }
        Err(error) => Err(vec![format!("{}: {error}", file.display())]),
    }
}

/// What clients of TLS are asked for, or what is wrong with its files.
fn tls(paths: &TlsPaths) -> Result<Contents, Vec<String>> {
    match follow::tls::load(paths) {
        Ok(validity) => {
            let summary = if paths.client_ca.is_some() { "clients must show a certificate" } else { "any client" };
            let invalid = validity.and_then(|validity| validity.invalid(clock::wall()));
            let warning = invalid.map(|invalid| format!("{}: {invalid}", paths.certificate.display()));
            Ok(Contents { summary: summary.to_owned(), warnings: warning.into_iter().collect() })
        }
        Err(error) => Err(vec![format!("callbacks.tls: {}", chain(&error))]),
    }
}

/// What there is to say, each as one line.
#[derive(Default)]
struct Report {
    right: Vec<String>,
    warnings: Vec<String>,
    wrong: Vec<String>,
}

impl Report {
    fn add(&mut self, kind: &str, file: &Path, checked: Result<Contents, Vec<String>>) {
        match checked {
            Ok(contents) => {
                self.right.push(format!("{kind} ok: {}: {}", file.display(), contents.summary));
                self.warnings.extend(contents.warnings);
            }
            Err(mistakes) => self.wrong.extend(mistakes),
        }
    }
}

impl Report {
    fn and(mut self, other: Self) -> Self {
        self.right.extend(other.right);
        self.warnings.extend(other.warnings);
        self.wrong.extend(other.wrong);
        self
    }
}

/// Whose callbacks of `app` are taken, and how they come in.
fn access(app: &App, callbacks: &Callbacks) -> String {
    let callbacks_taken = match app.token_files.as_slice() {
        [] => "unsigned callbacks".to_owned(),
        files => format!("callbacks that are signed with a token of {}", list(files.iter().map(|file| file.display()))),
    };
    let senders = match &callbacks.senders {
        None => "from any address".to_owned(),
        Some(networks) => format!("from {} only", list(&networks.0)),
    };
    let proxies = match callbacks.proxies.0.as_slice() {
        [] => String::new(),
        networks => format!(", also through the proxies {}", list(networks)),
    };
    // The path is not shown: it may be a secret.
    let path = if callbacks.path.is_some() { "on the configured path only" } else { "on any path" };
    let tls = match callbacks.tls.as_ref().map(|tls| &tls.client_ca) {
        None => "without TLS".to_owned(),
        Some(None) => "over TLS, from any client".to_owned(),
        Some(Some(client_ca)) => format!("over TLS, from clients with a certificate below {}", client_ca.display()),
    };
    format!("application {}: takes {callbacks_taken}; {senders}{proxies}; {path}; {tls}", app.sdk_app_id)
}

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
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
