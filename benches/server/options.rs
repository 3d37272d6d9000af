//! What to measure, as the command line says it.

use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

/// Where results, logs and the broker's data go.
pub(crate) const OUTPUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench");

/// The measurements that are asked for.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seconds of each measured window. CPU time comes in hundredths of a second: keep it at 5 or more.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before each window.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warm_up_seconds: f64,
    /// Times that each pair is measured; medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// One short round, to see that everything works. Its figures say nothing.
    #[arg(long)]
    quick: bool,
    /// Keep-alive connections.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    pub(crate) connections: Vec<usize>,
    /// Acknowledgement modes.
    #[arg(long, value_delimiter = ',', default_value = "journal,memory,broker")]
    pub(crate) modes: Vec<Mode>,
    /// Measure in turns with this build of callbridge, instead of with bare hyper, and nothing else.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) against: Option<PathBuf>,
    /// Another build of callbridge to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_callbridge"))]
    pub(crate) program: PathBuf,
}

impl Options {
    pub(crate) const fn seconds(&self) -> f64 {
        if self.quick { 1.0 } else { self.seconds }
    }

    pub(crate) const fn is_quick(&self) -> bool {
        self.quick
    }

    pub(crate) const fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds }
    }
}

/// When callbridge acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Journal,
    Broker,
    Memory,
}

impl Mode {
    /// Its name on callbridge's command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Broker => "broker",
            Self::Memory => "memory",
        }
    }

    /// What its topics' names begin with.
    pub(crate) fn topic_prefix(self) -> String {
        format!("bench-{}", self.name())
    }
}
