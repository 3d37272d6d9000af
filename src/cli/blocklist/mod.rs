//! `callbridge blocklist`: reads, explains and changes the blocklist, through Kafka or through a replica's admin API.

mod admin;
mod compare;
mod files;
mod import;
pub(super) mod output;
mod target;

use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use clap::ValueEnum;

use crate::admin::api::PageQuery;
use crate::admin::model::ChangeLine;
use crate::admin::model::LookupDecision;
use crate::admin::model::RuleParts;
use crate::cli::serve::chain;
use crate::clock::UnixMillis;
use crate::config::problem::Problem;
use crate::decide::rule::KEYWORDS;
use crate::decide::rule::RuleKind;
use crate::decide::rule::Sentence;
use crate::decide::rules::Rules;
use crate::decide::time;

use self::output::RulePrinter;
use self::target::Target;
use self::target::TargetArgs;

/// A sentence or an option is invalid, or a comparison failed.
const EXIT_USAGE: u8 = 2;
/// The user is refused.
const EXIT_REFUSED: u8 = 3;
/// The default number of rules that `list` shows.
const LISTED: usize = 50;

/// The arguments of `blocklist`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct BlocklistArgs {
    #[command(subcommand)]
    what: BlocklistCommand,
}

#[derive(Debug, Subcommand)]
enum BlocklistCommand {
    /// Add rules, or change their end and their reason.
    ///
    /// Each RULE is a sentence as in a blocklist file: "bob", "block bob on @TOA#_news until 2027-01-31T00:00:00Z because spam". The words
    /// of a single sentence need no quotes around the whole.
    Add {
        /// The rules.
        #[arg(value_name = "RULE", required = true)]
        rules: Vec<String>,
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove rules. A reason after `because` is stored with the record of the change.
    Remove {
        /// The rules.
        #[arg(value_name = "RULE", required = true)]
        rules: Vec<String>,
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Say whether a user is refused, and by which rules. Ends with 0 if not, with 3 if so.
    Lookup {
        /// The user.
        user: String,
        /// The account; without one, an account without rules.
        #[arg(long)]
        account: Option<String>,
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List rules, sorted by kind, user and account.
    List {
        /// Rules of this kind only.
        #[arg(long, value_parser = parse_kind, value_name = "block|pardon|allow|close")]
        kind: Option<RuleKind>,
        /// Rules on this account only.
        #[arg(long)]
        account: Option<String>,
        /// Rules whose user begins with this; for a close, whose account does.
        #[arg(long)]
        prefix: Option<String>,
        /// How many rules to show at most [default: 50]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make the blocklist equal to a file. Only the difference is written.
    Import(import::ImportArgs),
    /// Print all rules as a blocklist file.
    Export {
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Compare two blocklist files, or a file with the blocklist. Ends with 0 if they are equal, with 1 if not, with 2 if they cannot be
    /// compared, and with 78 if the configuration is wrong.
    Diff {
        /// A blocklist file.
        file: PathBuf,
        /// Another file, in place of the blocklist.
        other: Option<PathBuf>,
        #[command(flatten)]
        target: TargetArgs,
    },
}

#[derive(Debug, clap::Args)]
struct OutputArgs {
    /// The format of the result [default: table on a terminal, else lines]
    #[arg(long, value_enum, value_name = "table|json|lines")]
    output: Option<RuleOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RuleOutput {
    Table,
    Json,
    Lines,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// An invalid sentence.
    #[error("{0}")]
    Sentence(String),
    /// Missing or contradictory options.
    #[error("{0}")]
    Usage(String),
    /// The configuration.
    #[error("the configuration cannot be used")]
    Config(Vec<Problem>),
    /// An invalid blocklist file.
    #[error("{0}")]
    File(String),
    /// Kafka or the replica did not execute the request.
    #[error("{0}")]
    Target(String),
    /// The result cannot be printed.
    #[error("write to stdout")]
    Output(#[from] io::Error),
}

/// Runs the command.
pub(in crate::cli) fn run(args: BlocklistArgs) -> ExitCode {
    let is_comparison = matches!(args.what, BlocklistCommand::Diff { .. });
    match execute(args.what) {
        Ok(code) => code,
        Err(CliError::Config(problems)) => super::serve::refuse(&problems),
        Err(error) => {
            // If stderr is closed, the exit code still reports the failure.
            let _ = writeln!(io::stderr(), "callbridge blocklist: {}", chain(&error));
            match error {
                CliError::Sentence(_) | CliError::Usage(_) => ExitCode::from(EXIT_USAGE),
                _ if is_comparison => ExitCode::from(EXIT_USAGE),
                CliError::Config(_) | CliError::File(_) | CliError::Target(_) | CliError::Output(_) => {
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn execute(what: BlocklistCommand) -> Result<ExitCode, CliError> {
    match what {
        BlocklistCommand::Add { rules, target, output } => change(&rules, true, &target, &output),
        BlocklistCommand::Remove { rules, target, output } => change(&rules, false, &target, &output),
        BlocklistCommand::Lookup { user, account, target, output } => {
            lookup(&user, account.as_deref(), &target, &output)
        }
        BlocklistCommand::List { kind, account, prefix, limit, target, output } => {
            let query = PageQuery { kind, account, prefix, limit: limit.unwrap_or(LISTED), after: None };
            list(query, &target, &output)
        }
        BlocklistCommand::Import(args) => import::run(&args),
        BlocklistCommand::Export { target } => {
            let rules = Target::open(&target)?.rules()?;
            output::print_lines(compare::sentences(&rules))?;
            Ok(ExitCode::SUCCESS)
        }
        BlocklistCommand::Diff { file, other, target } => diff(&file, other, &target),
    }
}

fn change(rules: &[String], is_put: bool, target: &TargetArgs, output: &OutputArgs) -> Result<ExitCode, CliError> {
    let texts = sentences_of(rules);
    // All are parsed before the first is written.
    let changes = texts.iter().map(|text| change_of(text, is_put)).collect::<Result<Vec<_>, _>>()?;
    let changed = Target::open(target)?.change(&changes)?;
    RulePrinter::of(output.output).changed(&changed, is_put)?;
    Ok(ExitCode::SUCCESS)
}

/// One sentence in each argument, or one sentence of all arguments if one of them is a keyword, which alone is no rule.
fn sentences_of(args: &[String]) -> Vec<String> {
    if args.iter().any(|arg| KEYWORDS.contains(&arg.as_str())) { vec![args.join(" ")] } else { args.to_vec() }
}

fn change_of(text: &str, is_put: bool) -> Result<ChangeLine, CliError> {
    let Sentence { rule, until, because } =
        Sentence::parse(text).map_err(|mistake| CliError::Sentence(format!("{text:?}: {mistake}")))?;
    let until = (until != UnixMillis::NEVER).then(|| time::written(until));
    if !is_put && until.is_some() {
        return Err(CliError::Sentence(format!("{text:?}: `until` is not allowed when a rule is removed")));
    }
    let parts = RuleParts {
        kind: rule.kind().into(),
        user: rule.user().map(str::to_owned),
        account: rule.account().map(str::to_owned),
        until,
        because: because.map(str::to_owned),
    };
    Ok(if is_put { ChangeLine::Put(parts) } else { ChangeLine::Delete(parts) })
}

fn lookup(user: &str, account: Option<&str>, target: &TargetArgs, output: &OutputArgs) -> Result<ExitCode, CliError> {
    if user.is_empty() || account.is_some_and(str::is_empty) {
        return Err(CliError::Usage("an id is empty".to_owned()));
    }
    let answer = Target::open(target)?.lookup(user, account)?;
    RulePrinter::of(output.output).lookup(user, account, &answer)?;
    Ok(match answer.decision {
        LookupDecision::Allow => ExitCode::SUCCESS,
        LookupDecision::Refuse => ExitCode::from(EXIT_REFUSED),
    })
}

fn list(query: PageQuery, target: &TargetArgs, output: &OutputArgs) -> Result<ExitCode, CliError> {
    if query.limit == 0 {
        return Err(CliError::Usage("--limit must be above 0".to_owned()));
    }
    let (rules, has_more) = Target::open(target)?.list(query)?;
    RulePrinter::of(output.output).rules(&rules)?;
    if has_more {
        // To stderr, so that programs which parse stdout do not see it.
        let _ = writeln!(io::stderr(), "there are more rules: give a larger --limit, or use export");
    }
    Ok(ExitCode::SUCCESS)
}

fn diff(file: &Path, other: Option<PathBuf>, target: &TargetArgs) -> Result<ExitCode, CliError> {
    let new = files::read(file)?;
    let old = match other {
        // The changes from A to B.
        Some(other) => return show_difference(&new, &files::read(&other)?),
        None => Target::open(target)?.rules()?,
    };
    show_difference(&old, &new)
}

fn show_difference(old: &Rules, new: &Rules) -> Result<ExitCode, CliError> {
    let difference = compare::compare(old, new);
    output::print_lines(difference.lines())?;
    Ok(if difference.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse_kind(word: &str) -> Result<RuleKind, String> {
    let kind = RuleKind::ALL.into_iter().find(|kind| kind.as_str() == word);
    kind.ok_or_else(|| "must be block, pardon, allow or close".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_sentences_or_the_words_of_one_sentence() {
        let of = |args: &[&str]| sentences_of(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["bob", "eve"]), ["bob", "eve"]);
        assert_eq!(of(&["block bob on @a", "close @b"]), ["block bob on @a", "close @b"]);
        assert_eq!(of(&["block", "bob", "on", "@a", "because", "too", "loud"]), ["block bob on @a because too loud"]);
        assert_eq!(of(&["bob", "until", "2027-01-31T00:00:00Z"]), ["bob until 2027-01-31T00:00:00Z"]);
    }

    #[test]
    fn a_removed_rule_has_no_end() {
        assert!(matches!(change_of("bob until 2027-01-31T00:00:00Z", false), Err(CliError::Sentence(_))));
        assert!(matches!(change_of("bob because moved", false), Ok(ChangeLine::Delete(_))));
        assert!(matches!(change_of("block", true), Err(CliError::Sentence(_))));
    }
}
