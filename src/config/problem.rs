//! What can be wrong with a configuration, and where it stands.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::config::brokers::BadBroker;
use crate::sender::BadNetwork;

/// One mistake, with the place where it was made. Shows as one line.
#[derive(Debug)]
pub struct Problem {
    /// Where the value was given. Absent when the mistake is that nobody gave one.
    pub origin: Option<Origin>,
    /// The setting, by its path in the file. Empty when it is about no single setting.
    pub path: String,
    /// What is wrong.
    pub fault: Fault,
}

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the config file.
    File {
        /// The file, as it was named.
        name: String,
        /// The line, from 1. Absent when it is about the file as a whole.
        line: Option<usize>,
    },
    /// In the environment, by the variable of this name.
    Variable(String),
    /// On the command line, by this flag.
    Flag(String),
}

/// What is wrong with a value. No variant shows a value that may be a secret.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The config file could not be read, so what it would have said is not known.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// The config file is not TOML.
    #[error("{0}")]
    Syntax(String),
    /// There is no such setting.
    #[error("no such setting{}", did_you_mean(.0))]
    Unknown(Option<&'static str>),
    /// It is given a second time in the same place, so neither is the one that was meant.
    #[error("is given twice, first by {0}")]
    Twice(Origin),
    /// The value is of another kind or form.
    #[error("must be {0}")]
    Wanted(&'static str),
    /// The number is too small or too large.
    #[error("must be from {min} to {max}")]
    OutOfRange {
        /// The least that is taken.
        min: i64,
        /// The most that is taken.
        max: i64,
    },
    /// The word is none of those that are known.
    #[error("must be one of {0}")]
    NotOneOf(String),
    /// Nobody gave a value, and there is no default.
    #[error("is missing: {0}")]
    Missing(&'static str),
    /// Two applications have the same id.
    #[error("application {0} is given twice")]
    AppTwice(u64),
    /// One of the networks is none. It is no secret.
    #[error("{0:?}: {1}")]
    Network(String, BadNetwork),
    /// One of the brokers is none. What stands before an `@` is left out.
    #[error("{0:?}: {1}")]
    Broker(String, BadBroker),
    /// The value contradicts what callbridge promises, or another setting.
    #[error("{0}")]
    Contradicts(&'static str),
    /// The Kafka client does not take the property or its value.
    #[error("{0}")]
    Kafka(String),
}

impl Problem {
    /// Whether it was made on the command line.
    pub fn is_of_usage(&self) -> bool {
        matches!(self.origin, Some(Origin::Flag(_)))
    }

    /// Where it is told among others: the file from top to bottom, variables, flags, and then what is missing.
    pub(crate) fn place(&self) -> (usize, usize) {
        match &self.origin {
            Some(Origin::File { line, .. }) => (0, line.unwrap_or_default()),
            Some(Origin::Variable(_)) => (1, 0),
            Some(Origin::Flag(_)) => (2, 0),
            None => (3, 0),
        }
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
        write!(formatter, "{}", self.fault)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line: Some(line) } => write!(formatter, "{name}:{line}"),
            Self::File { name, line: None } | Self::Variable(name) => write!(formatter, "{name}"),
            Self::Flag(name) => write!(formatter, "--{name}"),
        }
    }
}

/// Something that is probably a mistake, but keeps nothing from running.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The variable begins like ours, but gives no setting. Kubernetes makes such for a service named callbridge.
    #[error("{name}: no such setting{}", did_you_mean(near))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The variable that was probably meant.
        near: Option<String>,
    },
    /// Everyone on the machine can read it there.
    #[error("--kafka {0}: a secret on a command line can be read by every user of the machine")]
    SecretOnCommandLine(String),
    /// Probes and metrics are for everyone who can connect.
    #[error("admin.listen: {0} can be reached from other machines, and the admin listener has no authentication")]
    AdminReachable(SocketAddr),
    /// The application has no tokens.
    #[error(
        "application {0}: its callbacks are taken unsigned: whoever knows the SdkAppid can send them; give it token_files"
    )]
    Unsigned(u64),
    /// Records, and what authenticates the client, cross a network as they are.
    #[error(
        "kafka.security.protocol: {protocol} to {broker}: what is sent can be read on the way; use ssl or sasl_ssl"
    )]
    Plaintext {
        /// The first broker that is on another machine.
        broker: String,
        /// The protocol, in lower case.
        protocol: String,
    },
    /// The property has a value that switches a check of brokers off.
    #[error("kafka.{0} is {1}: whoever is on the way can pass for a broker")]
    Unverified(&'static str, &'static str),
}

fn did_you_mean(near: &Option<impl fmt::Display>) -> String {
    near.as_ref().map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}
