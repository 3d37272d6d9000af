//! What a check found, and how it is printed: in sections, one line a check, with what to do below each that failed.

use std::env;
use std::io;
use std::io::IsTerminal;
use std::io::Write;

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CheckOutcome {
    Ok,
    Warning,
    Failed,
    /// It was not tried.
    Skipped,
}

/// One check.
#[derive(Debug, Serialize)]
pub(crate) struct CheckLine {
    pub(crate) outcome: CheckOutcome,
    pub(crate) what: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) remedy: String,
}

/// Checks of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct CheckSection {
    title: &'static str,
    checks: Vec<CheckLine>,
}

/// Everything that was checked, section by section.
#[derive(Debug, Default)]
pub(crate) struct CheckReport(Vec<CheckSection>);

/// The report as JSON. `docs/operating.md` describes it.
#[derive(Serialize)]
struct CheckDocument<'r> {
    success: bool,
    sections: &'r [CheckSection],
}

impl CheckOutcome {
    /// The word that a line begins with, and its colour on a terminal (ANSI).
    const fn word(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("ok", "32"),
            Self::Warning => ("warn", "33"),
            Self::Failed => ("FAIL", "31"),
            Self::Skipped => ("skip", "2"),
        }
    }
}

impl CheckSection {
    pub(crate) const fn new(title: &'static str) -> Self {
        Self { title, checks: Vec::new() }
    }

    /// A section of which nothing was checked, for this reason.
    pub(super) fn skipped(title: &'static str, why: &str) -> Self {
        let mut section = Self::new(title);
        section.skip(why);
        section
    }

    pub(crate) fn ok(&mut self, what: impl Into<String>) {
        self.add(CheckOutcome::Ok, what, "");
    }

    pub(crate) fn warn(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(CheckOutcome::Warning, what, remedy);
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(CheckOutcome::Failed, what, remedy);
    }

    pub(super) fn skip(&mut self, what: impl Into<String>) {
        self.add(CheckOutcome::Skipped, what, "");
    }

    pub(crate) fn add(&mut self, outcome: CheckOutcome, what: impl Into<String>, remedy: impl Into<String>) {
        self.checks.push(CheckLine { outcome, what: what.into(), remedy: remedy.into() });
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.lines().any(|line| line.outcome == CheckOutcome::Failed)
    }

    /// Every check, in order.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &CheckLine> {
        self.checks.iter()
    }
}

impl CheckReport {
    pub(crate) fn push(&mut self, section: CheckSection) {
        self.0.push(section);
    }

    fn lines(&self) -> impl Iterator<Item = &CheckLine> {
        self.0.iter().flat_map(CheckSection::lines)
    }

    /// The first check that failed.
    pub(crate) fn first_failure(&self) -> Option<&str> {
        self.lines().find(|line| line.outcome == CheckOutcome::Failed).map(|line| line.what.as_str())
    }

    /// Prints the report to stdout, coloured on a terminal unless `NO_COLOR` is set.
    pub(crate) fn print(&self) -> io::Result<()> {
        let is_plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_coloured = io::stdout().is_terminal() && !is_plain;
        io::stdout().lock().write_all(self.text(is_coloured).as_bytes())
    }

    /// Prints one JSON document to stdout.
    pub(crate) fn print_json(&self) -> io::Result<()> {
        let document = CheckDocument { success: self.first_failure().is_none(), sections: &self.0 };
        let text = serde_json::to_string_pretty(&document).map_err(io::Error::other)?;
        writeln!(io::stdout(), "{text}")
    }

    fn text(&self, is_coloured: bool) -> String {
        let word = |outcome: CheckOutcome| match outcome.word() {
            (word, colour) if is_coloured => format!("\x1b[{colour}m{word:<4}\x1b[0m"),
            (word, _colour) => format!("{word:<4}"),
        };
        let mut text = String::new();
        for section in self.0.iter().filter(|section| !section.checks.is_empty()) {
            text += &format!("{}\n{}\n", section.title, "-".repeat(section.title.len()));
            for CheckLine { outcome, what, remedy } in &section.checks {
                text += &format!("{} {what}\n", word(*outcome));
                if !remedy.is_empty() {
                    text += &format!("     {remedy}\n");
                }
            }
            text.push('\n');
        }
        let end = if self.first_failure().is_some() { CheckOutcome::Failed } else { CheckOutcome::Ok };
        text + &format!("Status check results are {}\n", word(end).trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_printed_in_sections_with_what_to_do_below_each_failure() {
        let mut section = CheckSection::new("ports");
        section.ok("free");
        section.fail("taken", "stop the other");
        section.skip("not tried");
        let mut report = CheckReport::default();
        report.push(CheckSection::new("empty"));
        report.push(section);
        let expected = "ports\n-----\nok   free\nFAIL taken\n     stop the other\nskip not tried\n\nStatus check results are FAIL\n";
        assert_eq!(report.text(false), expected);
        assert!(report.text(true).contains("\x1b[31mFAIL\x1b[0m taken\n"), "{}", report.text(true));
    }
}
