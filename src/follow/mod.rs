//! The files that are read again when they change: blocklists, tokens, and those of TLS.
//!
//! Follows by looking at each file ten times a second, and not by the kernel's notifications. A look cannot be missed,
//! and works the same on network file systems, in bind mounts, through chains of symlinks as Kubernetes makes them, and
//! for files and directories that are not there yet.
//!
//! A file that is replaced by a rename or by a swapped symlink is read at once. One that is written in place, new or not,
//! is read once it has been still for [`STILL`](crate::follow::file::STILL), and so is one that is empty. Only what tells
//! a rename from a new file is asked of the kernel's notifications; without them both are read once they are still.

pub(crate) mod file;
pub(crate) mod files;
mod renames;
pub(crate) mod rules;
pub(crate) mod tls;
pub(crate) mod tokens;

use std::time::Duration;

use crate::clock;
use crate::shutdown::Stop;

use self::files::Files;
use self::tls::TlsFiles;
use self::tokens::TokenFiles;

/// How long between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often a file that changes while it is read is read again at the start.
const ATTEMPTS: usize = 100;

/// Everything that is followed.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) blocklist: Files,
    pub(crate) tokens: TokenFiles,
    pub(crate) tls: Option<TlsFiles>,
}

impl Following {
    /// Follows the files until it is asked to stop. Without files there is nothing to do, and it returns at once.
    pub(crate) fn run(mut self, stop: &Stop) {
        if self.blocklist.is_empty() && self.tokens.is_empty() && self.tls.is_none() {
            return;
        }
        while !stop.wait(LOOK_EVERY) {
            let now = clock::monotonic();
            self.blocklist.step(now);
            self.tokens.step(now);
            self.tls.iter_mut().for_each(|tls| tls.step(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    use prometheus::Registry;

    use crate::metrics::blocklist::BlocklistMetrics;
    use crate::metrics::tokens::TokenMetrics;

    fn following(files: Vec<std::path::PathBuf>) -> Following {
        let registry = Registry::new();
        let metrics = BlocklistMetrics::register(&registry).expect("metrics");
        let (blocklist, _) = Files::load(files, metrics);
        let metrics = TokenMetrics::register(&registry).expect("metrics");
        Following { blocklist, tokens: TokenFiles::load([], metrics).expect("no files"), tls: None }
    }

    #[test]
    fn without_files_there_is_nothing_to_follow() {
        following(Vec::new()).run(&Stop::default());
    }

    #[test]
    fn following_ends_when_it_is_asked_to() {
        let directory = tempfile::tempdir().expect("a directory");
        let list = directory.path().join("list");
        fs::write(&list, "alice").expect("written");
        let stop = Stop::default();
        stop.set();
        following(vec![list]).run(&stop);
    }
}
