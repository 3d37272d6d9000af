//! `callbridge blocklist`: reads, explains and changes the blocklist, through Kafka or through the admin API of a bridge.

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

/// A sentence or an option cannot be used; also that a comparison could not be made.
const EXIT_USAGE: u8 = 2;
/// The user is refused.
const EXIT_REFUSED: u8 = 3;
/// How many rules `list` shows when nobody says.
const LISTED: usize = 50;

/// The arguments of `blocklist`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct BlocklistArgs {
    #[command(subcommand)]
    what: BlocklistCommand,
}

#[derive(Debug, Subcommand)]
enum BlocklistCommand {
    /// Add rules, or give them another end and another reason.
    ///
    /// Each RULE is a sentence as in a blocklist file: "bob", "block bob on @TOA#_news until 2027-01-31T00:00:00Z because spam". The words of one
    /// sentence need no quotes around them all.
    Add {
        /// The rules.
        #[arg(value_name = "RULE", required = true)]
        rules: Vec<String>,
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Remove rules. A reason after `because` is kept with the record of the change.
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
        /// The account; without one, an account that has no rules.
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
        /// Rules whose user begins with this; of a close, whose account does.
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
    /// Make the blocklist what a file holds: writes the difference only.
    Import(import::ImportArgs),
    /// Print all rules as a blocklist file.
    Export {
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Compare two blocklist files, or a file with the blocklist. Ends with 0 if they say the same, with 1 if not, with 2 if they cannot be compared, and
    /// with 78 if the configuration cannot be used.
    Diff {
        /// A blocklist file.
        file: PathBuf,
        /// Another one, in place of the blocklist.
        other: Option<PathBuf>,
        #[command(flatten)]
        target: TargetArgs,
    },
}

#[derive(Debug, clap::Args)]
struct OutputArgs {
    /// How the result is printed [default: table on a terminal, else lines]
    #[arg(long, value_enum, value_name = "table|json|lines")]
    output: Option<RuleOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RuleOutput {
    Table,
    Json,
    Lines,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// A sentence that is none.
    #[error("{0}")]
    Sentence(String),
    /// Options that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The configuration.
    #[error("the configuration cannot be used")]
    Config(Vec<Problem>),
    /// A file that is no blocklist.
    #[error("{0}")]
    File(String),
    /// Kafka or the bridge does not do it.
    #[error("{0}")]
    Target(String),
    /// The result cannot be printed.
    #[error("write to stdout")]
    Output(#[from] io::Error),
}

/// Does what the arguments ask.
pub(in crate::cli) fn run(args: BlocklistArgs) -> ExitCode {
    let is_comparison = matches!(args.what, BlocklistCommand::Diff { .. });
    match do_it(args.what) {
        Ok(code) => code,
        Err(CliError::Config(problems)) => super::serve::refuse(&problems),
        Err(error) => {
            // When nobody reads it, the exit code still tells.
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

fn do_it(what: BlocklistCommand) -> Result<ExitCode, CliError> {
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
    // All of them, before any is written.
    let changes = texts.iter().map(|text| change_of(text, is_put)).collect::<Result<Vec<_>, _>>()?;
    let changed = Target::open(target)?.change(&changes)?;
    RulePrinter::of(output.output).changed(&changed, is_put)?;
    Ok(ExitCode::SUCCESS)
}

/// One sentence an argument, or one sentence of all arguments if one of them is a keyword, which alone is no rule.
fn sentences_of(args: &[String]) -> Vec<String> {
    if args.iter().any(|arg| KEYWORDS.contains(&arg.as_str())) { vec![args.join(" ")] } else { args.to_vec() }
}

fn change_of(text: &str, is_put: bool) -> Result<ChangeLine, CliError> {
    let Sentence { rule, until, because } =
        Sentence::parse(text).map_err(|mistake| CliError::Sentence(format!("{text:?}: {mistake}")))?;
    let until = (until != UnixMillis::NEVER).then(|| time::written(until));
    if !is_put && until.is_some() {
        return Err(CliError::Sentence(format!("{text:?}: `until` has no place where a rule is removed")));
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
        // Not on stdout, which programs read.
        let _ = writeln!(io::stderr(), "there are more rules: give a larger --limit, or use export");
    }
    Ok(ExitCode::SUCCESS)
}

fn diff(file: &Path, other: Option<PathBuf>, target: &TargetArgs) -> Result<ExitCode, CliError> {
    let new = files::read(file)?;
    let old = match other {
        // `diff A B` tells what has become of A.
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
    fn arguments_are_sentences_each_or_the_words_of_one() {
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
