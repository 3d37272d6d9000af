//! A problem in a configuration, and its origin.

use std::fmt;

/// A problem. It is shown as one line, without the value, which may be a secret.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The origin of the value. Absent if the problem is that it is missing.
    pub(crate) origin: Option<Origin>,
    /// The setting, by its path in the file. Empty if it is not about a single setting.
    pub(crate) path: String,
    /// What is wrong, and what was expected.
    pub(crate) what: String,
    /// Whether it is only a warning.
    pub(crate) is_warning: bool,
}

/// The origin of a value. Problems are reported in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// The config file.
    File {
        /// The path of the file, as given.
        name: String,
        /// The line, from 1. Absent if the problem concerns the whole file.
        line: Option<usize>,
        /// The column, from 1. Reported where a value has the wrong type or the file is not TOML.
        column: Option<usize>,
    },
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
}

impl Problem {
    /// A warning, to be reported with the problems.
    pub(crate) fn warning(warning: &str) -> Self {
        Self { origin: None, path: String::new(), what: format!("warning: {warning}"), is_warning: true }
    }

    /// Whether the problem is on the command line.
    pub(crate) const fn is_of_usage(&self) -> bool {
        matches!(self.origin, Some(Origin::Flag(_)))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(formatter, "{origin}: ")?;
        }
        // The name of a variable or flag identifies the setting.
        let names_its_setting = matches!(self.origin, Some(Origin::Variable(_) | Origin::Flag(_)));
        if !self.path.is_empty() && !names_its_setting {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.what)
    }
}

impl Origin {
    pub(super) fn without_column(mut self) -> Self {
        if let Self::File { column, .. } = &mut self {
            *column = None;
        }
        self
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line: Some(line), column: Some(column) } => write!(formatter, "{name}:{line}:{column}"),
            Self::File { name, line: Some(line), column: None } => write!(formatter, "{name}:{line}"),
            Self::File { name, line: None, .. } | Self::Variable(name) => formatter.write_str(name),
            Self::Flag(name) => write!(formatter, "--{name}"),
        }
    }
}
