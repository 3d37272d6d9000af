//! The output of the command: tables for people, lines and JSON for programs.

use std::io;
use std::io::IsTerminal;
use std::io::Write;

use serde::Serialize;

use crate::admin::model::ChangedRules;
use crate::admin::model::LookupAnswer;
use crate::admin::model::LookupDecision;
use crate::admin::model::RuleView;

use super::RuleOutput;

/// Prints to stdout.
pub(super) struct RulePrinter(RuleOutput);

impl RulePrinter {
    /// As requested; otherwise a table on a terminal and lines elsewhere.
    pub(super) fn of(asked: Option<RuleOutput>) -> Self {
        Self(asked.unwrap_or_else(|| match io::stdout().is_terminal() {
            true => RuleOutput::Table,
            false => RuleOutput::Lines,
        }))
    }

    /// The result of changes.
    pub(super) fn changed(&self, changed: &ChangedRules, is_put: bool) -> io::Result<()> {
        let lines = changed.results.iter().map(|result| {
            let before = result.replaced.as_ref().map(shown_before).unwrap_or_default();
            match (is_put, &result.replaced) {
                (true, None) => format!("added {}", result.rule),
                (true, Some(_)) => format!("set {}{before}", result.rule),
                (false, Some(_)) => format!("removed {}{before}", result.rule),
                (false, None) => format!("there was no {}", result.rule),
            }
        });
        match self.0 {
            RuleOutput::Json => json(changed),
            RuleOutput::Table | RuleOutput::Lines => print_lines(lines),
        }
    }

    /// A decision and its rules.
    pub(super) fn lookup(&self, user: &str, account: Option<&str>, answer: &LookupAnswer) -> io::Result<()> {
        let decision = match answer.decision {
            LookupDecision::Allow => "allowed",
            LookupDecision::Refuse => "refused",
        };
        let because = answer.because.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let dry_run = if answer.enforced { "" } else { " (a dry run: everyone is allowed)" };
        let on = account.map(|account| format!(" on {account}")).unwrap_or_default();
        let first = format!("{user}{on}: {decision}{because}{dry_run}");
        let mark = |decided: bool, expired: bool| match (decided, expired) {
            (true, _) => "decided",
            (false, true) => "expired",
            (false, false) => "",
        };
        match self.0 {
            RuleOutput::Json => json(answer),
            RuleOutput::Lines => {
                let rules = answer.rules.iter().map(|rule| {
                    let mark = mark(rule.decided, rule.rule.expired);
                    format!("{}\t{}\t{}", sentence(&rule.rule), rule.rule.source, mark)
                });
                print_lines([first].into_iter().chain(rules))
            }
            RuleOutput::Table => {
                let rows = answer.rules.iter().map(|rule| {
                    let [sentence, who, when, via, source] = cells(&rule.rule);
                    vec![mark(rule.decided, rule.rule.expired).to_owned(), sentence, who, when, via, source]
                });
                let head = ["", "RULE", "WHO", "WHEN", "VIA", "SOURCE"].map(str::to_owned).to_vec();
                let rows: Vec<Vec<String>> = rows.collect();
                let table = if rows.is_empty() { Vec::new() } else { table(&[vec![head], rows].concat()) };
                print_lines([first].into_iter().chain(table))
            }
        }
    }

    /// Rules.
    pub(super) fn rules(&self, rules: &[RuleView]) -> io::Result<()> {
        match self.0 {
            RuleOutput::Json => json(&rules),
            RuleOutput::Lines => print_lines(rules.iter().map(sentence)),
            RuleOutput::Table => {
                let head = ["RULE", "WHO", "WHEN", "VIA", "SOURCE"].map(str::to_owned).to_vec();
                let rows = rules.iter().map(|rule| cells(rule).to_vec());
                print_lines(table(&[head].into_iter().chain(rows).collect::<Vec<_>>()))
            }
        }
    }
}

fn cells(rule: &RuleView) -> [String; 5] {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    [sentence(rule), text(&rule.who), text(&rule.when), text(&rule.via), rule.source.clone()]
}

/// The whole sentence of a rule.
pub(super) fn sentence(rule: &RuleView) -> String {
    let until = rule.until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
    let because = rule.because.as_ref().map(|because| format!(" because {}", one_line(because))).unwrap_or_default();
    format!("{}{until}{because}", rule.rule)
}

/// The old rule, if it had an end or a reason.
fn shown_before(rule: &RuleView) -> String {
    match sentence(rule).strip_prefix(rule.rule.as_str()) {
        None | Some("") => String::new(),
        Some(rest) => format!(" (before:{rest})"),
    }
}

/// Control characters in a reason, which another writer may have put there, must not reach a terminal.
fn one_line(text: &str) -> String {
    text.replace(|character: char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}'), " ")
}

/// Columns of equal width, two spaces apart.
pub(in crate::cli) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn json(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    print_lines([text])
}

/// Prints to stdout while somebody reads it. A reader that ends early, as with `| head`, is no failure: the command continues, so that its
/// exit code is right.
pub(in crate::cli) fn print_lines(lines: impl IntoIterator<Item = String>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let printed = lines.into_iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_columns_of_equal_width() {
        let rows = [["RULE", "WHO", ""], ["block b\u{f6}b", "", "x"], ["close @a", "alice", ""]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        assert_eq!(table(&rows), ["RULE       WHO", "block b\u{f6}b         x", "close @a   alice"]);
    }
}
