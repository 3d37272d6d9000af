//! `callbridge blocklist import`: makes the blocklist equal to a file.

use std::io;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

use crate::admin::changes;
use crate::admin::model::ChangeLine;
use crate::admin::model::RuleParts;
use crate::admin::service::IMPORT_BYTES_MAX;
use crate::clock::UnixMillis;
use crate::decide::time;

use super::CliError;
use super::compare;
use super::compare::Difference;
use super::compare::ListedRule;
use super::files;
use super::output;
use super::target::Target;
use super::target::TargetArgs;

/// The most changes in a batch, and their most bytes: within the limits of the API.
const BATCH: usize = 10_000;
const BATCH_BYTES: usize = 3 * 1024 * 1024;
/// The most bytes of JSON for one byte: `\u001f`.
const ESCAPED_BYTES_MAX: usize = 6;
/// How much of an unwritable rule is shown.
const RULE_CHARS_MAX: usize = 100;
/// An import that would remove more than a tenth of the rules asks for confirmation.
const REMOVED_PART: usize = 10;
/// The most changes of each kind that are shown.
const SHOWN: usize = 5;

/// The arguments of `import`.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The blocklist file. Other rules in the blocklist are removed.
    file: PathBuf,
    /// Do not ask, even if more than a tenth of the rules would be removed.
    #[arg(long)]
    yes: bool,
    /// Show the difference, and write nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Reads both lists, compares them, asks, and writes the difference.
pub(super) fn run(args: &ImportArgs) -> Result<ExitCode, CliError> {
    // Before Kafka is contacted.
    let new = files::read(&args.file)?;
    let mut target = Target::open(&args.target)?;
    let old = target.rules()?;
    let difference = compare::compare(&old, &new);
    check(&difference).map_err(|why| CliError::File(format!("{}: {why}; nothing was written", args.file.display())))?;
    show(&difference)?;
    if args.dry_run || difference.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if difference.removed.len() > old.len() / REMOVED_PART && !args.yes {
        confirm(&format!("{} of {} rules would be removed", difference.removed.len(), old.len()))?;
    }
    let mut name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A byte that is not UTF-8 was replaced by three.
    name.truncate(name.floor_char_boundary(IMPORT_BYTES_MAX));
    write(&difference, &name, &mut target)?;
    output::print_lines([format!("imported {}", args.file.display())])?;
    Ok(ExitCode::SUCCESS)
}

/// Finds the rules that a file can hold and the topic cannot, before any is written.
fn check(difference: &Difference) -> Result<(), String> {
    let mut bad = changes(difference).filter_map(|(entry, change)| {
        let error = changes::change_of(change).err()?;
        let rule = entry.rule.to_string();
        let shortened: String = rule.chars().take(RULE_CHARS_MAX).collect();
        let dots = if shortened.len() < rule.len() { "..." } else { "" };
        Some(format!("{shortened}{dots}: {error}"))
    });
    let shown: Vec<String> = bad.by_ref().take(SHOWN).collect();
    match (shown.is_empty(), bad.count()) {
        (true, _) => Ok(()),
        (false, 0) => Err(shown.join("; ")),
        (false, more) => Err(format!("{}; and {more} more", shown.join("; "))),
    }
}

/// New and changed rules are written before rules are removed: an incomplete import refuses too many users rather than too few.
fn changes(difference: &Difference) -> impl Iterator<Item = (&ListedRule, ChangeLine)> {
    let puts = difference.added.iter().chain(&difference.changed);
    let puts = puts.map(|entry| (entry, ChangeLine::Put(parts(entry, true))));
    puts.chain(difference.removed.iter().map(|entry| (entry, ChangeLine::Delete(parts(entry, false)))))
}

/// Prints the changes: how many, and the first of each kind.
fn show(difference: &Difference) -> io::Result<()> {
    let Difference { added, changed, removed } = difference;
    let mut lines = vec![format!("added {}, changed {}, removed {}", added.len(), changed.len(), removed.len())];
    for (mark, entries) in [('-', removed), ('~', changed), ('+', added)] {
        lines.extend(entries.iter().take(SHOWN).map(|entry| format!("{mark} {}", entry.sentence())));
        if let Some(more) = entries.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            lines.push(format!("{mark} and {more} more"));
        }
    }
    output::print_lines(lines)
}

/// Asks for confirmation on a terminal. Elsewhere the import is refused.
fn confirm(what: &str) -> Result<(), CliError> {
    let (input, mut output) = (io::stdin(), io::stderr());
    if !input.is_terminal() {
        return Err(CliError::Target(format!("{what}: confirm with --yes; nothing was written")));
    }
    write!(output, "{what}. Continue? [y/N] ")?;
    output.flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CliError::Target("nothing was written".to_owned()))
}

/// Writes the difference, batch by batch.
fn write(difference: &Difference, name: &str, target: &mut Target) -> Result<(), CliError> {
    let total = difference.added.len() + difference.changed.len() + difference.removed.len();
    let bar = bar(total);
    let (mut batch, mut bytes, mut written) = (Vec::new(), 0, 0);
    for (_, change) in changes(difference) {
        let (ChangeLine::Put(parts) | ChangeLine::Delete(parts)) = &change;
        let size = 120
            + [&parts.user, &parts.account, &parts.because]
                .into_iter()
                .flatten()
                .map(|text| ESCAPED_BYTES_MAX * text.len())
                .sum::<usize>();
        if batch.len() == BATCH || bytes + size > BATCH_BYTES {
            written += send(&mut batch, name, target, written)?;
            bytes = 0;
            bar.set_position(u64::try_from(written).unwrap_or(u64::MAX));
        }
        bytes += size;
        batch.push(change);
    }
    send(&mut batch, name, target, written)?;
    bar.finish_and_clear();
    Ok(())
}

fn send(batch: &mut Vec<ChangeLine>, name: &str, target: &mut Target, written: usize) -> Result<usize, CliError> {
    let count = batch.len();
    let sent = target.import(batch, name);
    batch.clear();
    match sent {
        Ok(_changed) => Ok(count),
        Err(CliError::Target(why)) => Err(CliError::Target(format!(
            "{why}; {written} changes were written: repeat the import to write the others"
        ))),
        Err(other) => Err(other),
    }
}

/// Shows the progress on a terminal.
fn bar(total: usize) -> ProgressBar {
    let total = u64::try_from(total).unwrap_or(u64::MAX);
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} rules, {per_sec}, {eta} left");
    style.map_or_else(|_wrong| bar.clone(), |style| bar.clone().with_style(style))
}

fn parts(entry: &ListedRule, is_put: bool) -> RuleParts {
    let ListedRule { rule, value } = entry;
    RuleParts {
        kind: rule.kind().into(),
        user: rule.user().map(str::to_owned),
        account: rule.account().map(str::to_owned),
        until: (is_put && value.until != UnixMillis::NEVER).then(|| time::written(value.until)),
        because: value.provenance.because.as_deref().filter(|_because| is_put).map(str::to_owned),
    }
}
