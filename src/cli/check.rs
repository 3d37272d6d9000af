//! `callbridge check`: checks the configuration and the files that it names, without running; with `--live` also what [`doctor`] checks.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::process::ExitCode;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::auth::Tokens;
use crate::bearer::AdminTokens;
use crate::cli::doctor;
use crate::cli::doctor::TrialWriting;
use crate::cli::doctor::report::CheckOutcome;
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
use crate::config::problem::Origin;
use crate::config::problem::Problem;
use crate::decide::rules::Rules;
use crate::follow;
use crate::follow::file::FileError;
use crate::follow::tls::TlsFilesError;
use crate::follow::tls::TlsPaths;
use crate::follow::tokens::TokenSet;
use crate::http::tls::BadTls;
use crate::journal::Ack;
use crate::journal::durable::JournalError;
use crate::journal::inspect;

/// With `--wait`.
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

/// With `--wait`: a check that has begun may take so much longer. One that hangs takes for ever.
const LAST_CHECK_MAX: Duration = Duration::from_secs(30);

/// The alert CallbridgeCertificateExpires has the same limit.
const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

/// A check has failed, but for those of the configuration and of files that are needed at the start.
const EXIT_FAILED: u8 = 1;

const CONFIGURATION: &str = "configuration";

const EXIT_CODES: &str = "\
Exit codes:
   0  nothing failed; there may be warnings
   1  a check failed: a blocklist file or, with --live, something that callbridge needs
   2  the command line cannot be used
  78  the configuration is wrong, or a file that the start needs";

/// What is checked.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct CheckArgs {
    /// Also check what the configuration needs: ports, disk, clock, Kafka, topics
    ///
    /// Prints a line for each check, with what to do below each that failed. Nothing is written to Kafka without --write. Run it as the user
    /// and on the machine that callbridge runs on.
    #[arg(long)]
    live: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// With --live: check again until nothing fails, for so long at most: 90, 90s, 5m, 1h
    #[arg(long, value_name = "DURATION", requires = "live", default_value = "0", hide_default_value = true, value_parser = duration)]
    wait: Duration,
    /// With --live: also write a record to each dead-letter topic, and try the right to write to the others
    #[arg(long, requires = "live")]
    write: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Checks what the flags name. Without `--live` and `--json` it says on stdout what is right, and on stderr what is not.
pub(super) fn run(args: &CheckArgs) -> ExitCode {
    if !args.live && !args.json {
        return match config::load(&args.flags, env::vars_os()) {
            Ok(config) => print_lines(&at_rest(&config, false)),
            Err(problems) => serve::refuse(&problems),
        };
    }
    let (code, report) = if args.wait.is_zero() { examine(args, trial_writing(args).as_mut()) } else { wait(args) };
    let printed = if args.json { report.print_json() } else { report.print() };
    // Nobody can have read that all is well.
    if printed.is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE }
}

fn trial_writing(args: &CheckArgs) -> Option<TrialWriting> {
    args.write.then(|| TrialWriting::new(!args.wait.is_zero()))
}

/// What a check that waits goes on with.
enum WaitEvent {
    Examined(u8, CheckReport),
    /// SIGTERM or SIGINT.
    Signal,
}

/// Checks until nothing fails, the time is over, or a signal ends it. Returns what was found last.
fn wait(args: &CheckArgs) -> (u8, CheckReport) {
    let mut deadline = clock::monotonic() + args.wait;
    let (sender, events) = mpsc::sync_channel(1);
    // Without them a signal ends the process, and nothing is printed.
    let _unregistered = forward_signals(sender.clone());
    let examining = args.clone();
    let _end = doctor::begin(move || {
        let mut writing = trial_writing(&examining);
        let mut once = || {
            let (code, report) = examine(&examining, writing.as_mut());
            WaitEvent::Examined(code, report)
        };
        while sender.send(once()).is_ok() {
            thread::sleep(BETWEEN_TRIES);
        }
    });
    let mut last: Option<(u8, CheckReport)> = None;
    loop {
        let left = (deadline + LAST_CHECK_MAX).saturating_duration_since(clock::monotonic());
        let (code, report) = match events.recv_timeout(left) {
            Ok(WaitEvent::Examined(code, report)) => (code, report),
            Ok(WaitEvent::Signal) if last.is_some() => break,
            Ok(WaitEvent::Signal) => {
                deadline = deadline.min(clock::monotonic());
                continue;
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        };
        let failure = report.first_failure();
        if failure.is_none() || clock::monotonic() >= deadline {
            return (code, report);
        }
        let said = last.as_ref().and_then(|(_code, report)| report.first_failure());
        if !args.json && failure != said {
            // Whoever does not read it waits all the same.
            let _ = writeln!(io::stderr(), "waiting: {}", failure.unwrap_or_default());
        }
        last = Some((code, report));
    }
    last.unwrap_or_else(|| (EXIT_FAILED, unfinished()))
}

/// The report of a check that hangs.
fn unfinished() -> CheckReport {
    let mut report = CheckReport::default();
    let mut section = CheckSection::new(CONFIGURATION);
    section.fail("the check does not end", "see the disks of the configuration file and of the files that it names");
    report.push(section);
    report
}

/// Sends the first SIGTERM or SIGINT from now on; the second ends the process.
fn forward_signals(to: SyncSender<WaitEvent>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let _end = doctor::begin(move || {
        let mut wait_for_signal = || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
        };
        wait_for_signal();
        // Beside: it waits for whoever does not read what was printed before.
        let _end = doctor::begin(move || to.send(WaitEvent::Signal));
        // A check that hangs keeps back the report.
        wait_for_signal();
        process::exit(i32::from(EXIT_FAILED))
    });
    Ok(())
}

/// Checks everything once. Returns the exit code with the report.
fn examine(args: &CheckArgs, writing: Option<&mut TrialWriting>) -> (u8, CheckReport) {
    let mut report = CheckReport::default();
    let config = match config::load(&args.flags, env::vars_os()) {
        Ok(config) => config,
        Err(problems) => {
            report.push(mistakes(&problems));
            return (serve::exit_code(&problems), report);
        }
    };
    let ConfigurationChecks { sections, mut code } = at_rest(&config, args.live);
    sections.into_iter().for_each(|section| report.push(section));
    if args.live {
        doctor::examine(&config, writing, &mut report);
    }
    if code == 0 && report.first_failure().is_some() {
        code = EXIT_FAILED;
    }
    (code, report)
}

/// What is checked without asking anybody: the configuration and the files that it names.
struct ConfigurationChecks {
    sections: [CheckSection; 3],
    code: u8,
}

fn at_rest(config: &Config, is_live: bool) -> ConfigurationChecks {
    let (blocklists, (mut files, expired)) = (blocklists(config), files(config));
    let code = match (files.has_failed(), blocklists.has_failed()) {
        (true, _) => serve::EXIT_CONFIG,
        // The start goes on without them, and not with any of the other files.
        (false, true) => EXIT_FAILED,
        (false, false) => 0,
    };
    if let Some(expired) = expired {
        // Clients refuse it, but the start does not.
        let outcome = if is_live { CheckOutcome::Failed } else { CheckOutcome::Warning };
        files.add(outcome, expired, "replace certificate and key, or set the clock of this machine");
    }
    ConfigurationChecks { sections: [configuration(config), blocklists, files], code }
}

fn print_lines(checked: &ConfigurationChecks) -> ExitCode {
    let lines = |outcome: CheckOutcome| {
        let lines = checked.sections.iter().flat_map(CheckSection::lines);
        lines.filter(move |line| line.outcome == outcome).map(|line| line.what.clone())
    };
    let warnings = lines(CheckOutcome::Warning).map(|warning| format!("warning: {warning}"));
    let told = tell(io::stdout().lock(), lines(CheckOutcome::Ok))
        .and_then(|()| tell(io::stderr().lock(), warnings.chain(lines(CheckOutcome::Failed))));
    // Nobody can have read that all is well.
    if told.is_ok() { ExitCode::from(checked.code) } else { ExitCode::FAILURE }
}

fn mistakes(problems: &[Problem]) -> CheckSection {
    let mut section = CheckSection::new(CONFIGURATION);
    for problem in problems {
        let remedy = match &problem.origin {
            _ if problem.is_warning => {
                section.warn(problem.what.trim_start_matches("warning: "), "");
                continue;
            }
            Some(Origin::File { .. }) => "correct it there; deploy/callbridge.example.toml describes each setting",
            Some(Origin::Variable(_)) => {
                "correct or unset the variable; \"callbridge serve --help\" says how it is named"
            }
            Some(Origin::Flag(_)) => "correct the flag; \"callbridge serve --help\" describes it",
            None => "add it to the configuration; deploy/callbridge.example.toml describes each setting",
        };
        section.fail(problem.to_string(), remedy);
    }
    section
}

fn configuration(config: &Config) -> CheckSection {
    let mut section = CheckSection::new(CONFIGURATION);
    section.ok(format!("config ok: {}", summary(config)));
    config.apps.iter().for_each(|app| section.ok(access(app, &config.callbacks)));
    config.warnings.iter().for_each(|warning| section.warn(warning.as_str(), ""));
    section
}

fn blocklists(config: &Config) -> CheckSection {
    let mut section = CheckSection::new("blocklist files");
    let own_files = config.apps.iter().flat_map(|app| &app.blocklist_files);
    for file in config.blocklist.files.iter().chain(own_files).collect::<BTreeSet<&PathBuf>>() {
        blocklist(&mut section, file);
    }
    section
}

/// The files without which the start ends, and a journal that must not be left behind. Second: that the certificate is not valid now.
fn files(config: &Config) -> (CheckSection, Option<String>) {
    let mut section = CheckSection::new("files");
    // Several applications may share one.
    let token_files: BTreeSet<&PathBuf> = config.apps.iter().flat_map(|app| &app.token_files).collect();
    for file in token_files {
        tokens::<Tokens>(&mut section, "tokens", file, "write one token a line into it, and nothing else");
    }
    for file in &config.admin.token_files {
        tokens::<AdminTokens>(&mut section, "admin tokens", file, "write one NAME:TOKEN a line into it");
    }
    let expired = config.callbacks.tls.as_ref().and_then(|paths| tls(&mut section, paths));
    if config.ack != Ack::Journal
        && let Err(error) = inspect::refuse_waiting(&config.journal.dir)
    {
        let remedy = if matches!(error, JournalError::Waiting { .. }) {
            "deliver them with \"callbridge journal drain\""
        } else {
            "let the user that callbridge runs as read journal.dir, or set it to another directory"
        };
        section.fail(chain(&error), remedy);
    }
    (section, expired)
}

/// What a blocklist file holds, or which lines of it are wrong.
fn blocklist(section: &mut CheckSection, file: &Path) {
    let shown = file.display();
    let error = match follow::file::read::<Rules>(file) {
        Ok(rules) => return section.ok(format!("blocklist ok: {shown}: {} rules", rules.len())),
        Err(error) => error,
    };
    let FileError::Invalid(bad_lines) = &error else {
        return section.fail(format!("{shown}: {error}"), file_remedy(&error, ""));
    };
    let remedy = "correct the line: docs/blocklist.md has the grammar; until then no rule of the file is loaded";
    bad_lines.first.iter().for_each(|line| section.fail(format!("{shown}: {line}"), remedy));
    let more = bad_lines.count - bad_lines.first.len();
    if more > 0 {
        section.fail(format!("{shown}: and {more} more bad lines"), remedy);
    }
}

/// How many tokens a file holds, or what is wrong with it.
fn tokens<T: TokenSet>(section: &mut CheckSection, kind: &str, file: &Path, format: &str) {
    let shown = file.display();
    match follow::file::read::<T>(file) {
        Ok(tokens) => {
            section.ok(format!("{kind} ok: {shown}: {} tokens", tokens.count()));
            if let Some(weakness) = tokens.weakness() {
                section.warn(format!("{shown}: {weakness}"), "");
            }
        }
        Err(error) => section.fail(format!("{shown}: {error}"), file_remedy(&error, format)),
    }
}

/// What clients of TLS are asked for, or what is wrong with its files. Returns that the certificate is not valid now.
fn tls(section: &mut CheckSection, paths: &TlsPaths) -> Option<String> {
    let certificate = paths.certificate.display();
    match follow::tls::load(paths) {
        Ok(validity) => {
            let clients = if paths.client_ca.is_some() { "clients must show a certificate" } else { "any client" };
            section.ok(format!("tls ok: {certificate}: {clients}"));
            let now = clock::wall();
            if let Some(soon) = validity.and_then(|validity| validity.expiring(now, EXPIRES_SOON)) {
                section.warn(format!("{certificate}: {soon}"), "replace certificate and key before");
            }
            let invalid = validity.and_then(|validity| validity.invalid(now));
            invalid.map(|invalid| format!("{certificate}: {invalid}"))
        }
        Err(error) => {
            section.fail(format!("callbacks.tls: {}", chain(&error)), tls_remedy(&error));
            None
        }
    }
}

fn tls_remedy(error: &TlsFilesError) -> &'static str {
    match error {
        TlsFilesError::File(_, error) => file_remedy(error, ""),
        TlsFilesError::Bad(BadTls::Mismatch | BadTls::Pair(_)) => {
            "set key_file to the key of the first certificate in certificate_file"
        }
        TlsFilesError::Bad(BadTls::Certificate(_) | BadTls::NotX509) => {
            "certificate_file must hold the certificate in PEM, and those of intermediate authorities behind it"
        }
        TlsFilesError::Bad(BadTls::Key(_) | BadTls::KeyLength(_) | BadTls::KeyKind) => {
            "key_file must hold the key in PEM, unencrypted: RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or Ed25519"
        }
        TlsFilesError::Bad(BadTls::ClientCa(_) | BadTls::ClientRoot(_) | BadTls::ClientCheck(_)) => {
            "client_ca_file must hold the certificates of the clients' authorities in PEM"
        }
    }
}

/// What to do about a file; `format`: what must be in it.
#[expect(clippy::wildcard_enum_match_arm, reason = "std's list is open")]
fn file_remedy<'f, B: Error + 'static>(error: &FileError<B>, format: &'f str) -> &'f str {
    match error {
        FileError::Unreadable(error) => match error.kind() {
            io::ErrorKind::NotFound => "create the file, or correct its path in the configuration",
            io::ErrorKind::PermissionDenied => {
                "let the user that callbridge runs as read the file, and enter its directories"
            }
            _ => "see the file, its directories and its disk",
        },
        FileError::NotRegular | FileError::TooLarge(_) => "set the path to the right file",
        FileError::Invalid(_) => format,
    }
}

/// A number of seconds, or a number with `s`, `m` or `h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let unit = match text.strip_prefix(digits) {
        Some("" | "s") => Some(1),
        Some("m") => Some(60),
        Some("h") => Some(3600),
        Some(_) | None => None,
    };
    let seconds = unit.and_then(|unit| digits.parse::<u32>().ok().map(|number| u64::from(number) * unit));
    seconds.map(Duration::from_secs).ok_or_else(|| "expected a number of seconds, or 90s, 5m, 1h".to_owned())
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
