//! What a check found, and how it is printed: in sections, one line a check, with what to do below each that failed.

use std::io;
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
struct CheckLine {
    outcome: CheckOutcome,
    what: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

/// Checks of one kind.
#[derive(Debug, Serialize)]
pub(crate) struct CheckSection {
    title: &'static str,
    checks: Vec<CheckLine>,
}

/// Everything that was checked.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CheckReport {
    sections: Vec<CheckSection>,
}

impl CheckSection {
    pub(super) const fn new(title: &'static str) -> Self {
        Self { title, checks: Vec::new() }
    }

    /// Of lines that say themselves what to do.
    pub(crate) fn of(title: &'static str, right: Vec<String>, warnings: Vec<String>, wrong: Vec<String>) -> Self {
        let mut section = Self::new(title);
        right.into_iter().for_each(|what| section.ok(what));
        warnings.into_iter().for_each(|what| section.warn(what, ""));
        wrong.into_iter().for_each(|what| section.fail(what, ""));
        section
    }

    pub(super) fn ok(&mut self, what: impl Into<String>) {
        self.add(CheckOutcome::Ok, what, "");
    }

    pub(super) fn warn(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(CheckOutcome::Warning, what, remedy);
    }

    pub(super) fn fail(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(CheckOutcome::Failed, what, remedy);
    }

    pub(super) fn skip(&mut self, what: impl Into<String>) {
        self.add(CheckOutcome::Skipped, what, "");
    }

    pub(super) fn add(&mut self, outcome: CheckOutcome, what: impl Into<String>, remedy: impl Into<String>) {
        self.checks.push(CheckLine { outcome, what: what.into(), remedy: remedy.into() });
    }

    pub(super) fn has_failed(&self) -> bool {
        self.checks.iter().any(|check| check.outcome == CheckOutcome::Failed)
    }
}

impl CheckReport {
    pub(crate) fn push(&mut self, section: CheckSection) {
        self.sections.push(section);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.sections.iter().any(CheckSection::has_failed)
    }

    /// Prints what is right to stdout, and what is not to stderr, in one order.
    pub(crate) fn print(&self) -> io::Result<()> {
        for section in self.sections.iter().filter(|section| !section.checks.is_empty()) {
            let mut out = io::stdout().lock();
            writeln!(out, "{}\n{}", section.title, "-".repeat(section.title.len()))?;
            for CheckLine { outcome, what, remedy } in &section.checks {
                let (sign, is_right) = match outcome {
                    CheckOutcome::Ok => ("√", true),
                    CheckOutcome::Skipped => ("-", true),
                    CheckOutcome::Warning => ("‼", false),
                    CheckOutcome::Failed => ("×", false),
                };
                let remedy = if remedy.is_empty() { String::new() } else { format!("    {remedy}\n") };
                let line = format!("{sign} {what}\n{remedy}");
                out.flush()?;
                if is_right { out.write_all(line.as_bytes())? } else { io::stderr().write_all(line.as_bytes())? }
            }
            writeln!(out)?;
            out.flush()?;
        }
        let status = if self.has_failed() { "×" } else { "√" };
        writeln!(io::stdout(), "Status check results are {status}")
    }

    /// Prints one JSON document.
    pub(crate) fn print_json(&self) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        writeln!(io::stdout(), "{text}")
    }
}
