//! One mistake in a configuration, and where it was made.

use std::fmt;

/// One mistake. Shows as one line, without the value: it may be a secret.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Where the value was given. Absent when the mistake is that nobody gave one.
    pub(crate) origin: Option<Origin>,
    /// The setting, by its path in the file. Empty when it is about no single setting.
    pub(crate) path: String,
    /// What is wrong, and what is wanted.
    pub(crate) what: String,
    /// Whether it alone would keep nothing from running.
    pub(crate) is_warning: bool,
}

/// Where a value was given. In the order in which problems are reported.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// In the config file.
    File {
        /// The file, as it was named.
        name: String,
        /// The line, from 1. Absent when the problem is about the file as a whole.
        line: Option<usize>,
    },
    /// In the environment, by the variable of this name.
    Variable(String),
    /// On the command line, by this flag.
    Flag(String),
}

impl Problem {
    /// A warning, to be told with the mistakes.
    pub(crate) fn warning(warning: &str) -> Self {
        Self { origin: None, path: String::new(), what: format!("warning: {warning}"), is_warning: true }
    }

    /// Whether the mistake is on the command line.
    pub(crate) const fn is_of_usage(&self) -> bool {
        matches!(self.origin, Some(Origin::Flag(_)))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(formatter, "{origin}: ")?;
        }
        // A variable and a flag name their setting already.
        let names_its_setting = matches!(self.origin, Some(Origin::Variable(_) | Origin::Flag(_)));
        if !self.path.is_empty() && !names_its_setting {
            write!(formatter, "{}: ", self.path)?;
        }
        formatter.write_str(&self.what)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line: Some(line) } => write!(formatter, "{name}:{line}"),
            Self::File { name, line: None } | Self::Variable(name) => formatter.write_str(name),
            Self::Flag(name) => write!(formatter, "--{name}"),
        }
    }
}
