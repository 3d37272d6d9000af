//! Hot reload: files that are read again when they change, namely blocklists, tokens and TLS files.
//!
//! Each file is polled with `stat` ten times a second. Unlike the notifications of the kernel, polling misses nothing, and works on network
//! filesystems, in bind mounts, through chains of symlinks such as those of Kubernetes, and for files and directories that do not exist
//! yet.
//!
//! A file that is replaced by a rename or by a swapped symlink is read at once. A file that is written in place, new or not, is read once
//! it has been unchanged for [`DEBOUNCE`](crate::follow::file::DEBOUNCE), and so is an empty one. Only to distinguish a rename from a new file,
//! notifications of the kernel are used; without them both are read once they are stable. A reload by SIGHUP reads every file at once,
//! changed or not.

pub(crate) mod file;
pub(crate) mod files;
mod renames;
pub(crate) mod rules;
pub(crate) mod tls;
pub(crate) mod tokens;

use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use crate::clock;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;
use crate::systemd;
use crate::systemd::Notice;

use self::files::BlocklistFiles;
use self::tls::TlsFiles;
use self::tokens::TokenFiles;

/// The polling period.
const POLL_PERIOD: Duration = Duration::from_millis(100);

/// At the start, a file that changes while it is read is read again at most this often.
const ATTEMPTS: usize = 100;

/// Everything that is followed.
#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) blocklist: BlocklistFiles,
    pub(crate) tokens: TokenFiles,
    pub(crate) tls: Option<TlsFiles>,
    /// Only a serving process notifies the service manager of reloads.
    pub(crate) lifecycle: Lifecycle,
}

impl Following {
    /// Follows the files until the sender of `reloads` is gone. Each message on it requests a reload.
    pub(crate) fn run(mut self, reloads: &Receiver<()>) {
        let is_empty = self.blocklist.is_empty() && self.tokens.is_empty() && self.tls.is_none();
        // Without files there is nothing to poll.
        let poll_period = if is_empty { Duration::MAX } else { POLL_PERIOD };
        loop {
            match reloads.recv_timeout(poll_period) {
                Ok(()) => self.reload(),
                Err(RecvTimeoutError::Timeout) => self.poll(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn poll(&mut self) {
        let now = clock::monotonic();
        // A large list takes seconds to load; a revoked token must not wait for it.
        self.tokens.poll(now);
        self.tls.iter_mut().for_each(|tls| tls.poll(now));
        self.blocklist.poll(now);
    }

    fn reload(&mut self) {
        self.notify(Notice::Reloading);
        let now = clock::monotonic();
        let mut reloaded = Reloaded::default();
        self.tokens.reload(now, &mut reloaded);
        self.tls.iter_mut().for_each(|tls| tls.reload(now, &mut reloaded));
        self.blocklist.reload(now, &mut reloaded);
        reloaded.log();
        self.notify(Notice::Ready);
    }

    /// Notifies the service manager, but not during the start or the stop, which it would take for completed.
    fn notify(&self, notice: Notice) {
        if self.lifecycle.phase() == Phase::Serving {
            systemd::notify(notice);
        }
    }
}

/// The result of a reload.
#[derive(Debug, Default)]
pub(crate) struct Reloaded {
    /// The files that were read and can be used.
    read: BTreeSet<String>,
    /// The others, each with the reason.
    failed: BTreeSet<String>,
}

impl Reloaded {
    fn log(self) {
        let list = |files: BTreeSet<String>| files.into_iter().collect::<Vec<_>>().join(", ");
        let is_failure = !self.failed.is_empty();
        let (read, failed) = (list(self.read), list(self.failed));
        if is_failure {
            tracing::warn!(read, failed, "reloaded by SIGHUP; files that cannot be used keep their last good content");
        } else if read.is_empty() {
            tracing::info!("nothing to reload by SIGHUP: there are no files");
        } else {
            tracing::info!(read, "reloaded by SIGHUP");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::sync::mpsc;

    use prometheus::Registry;

    use crate::blocklist::lists::ListSources;
    use crate::blocklist::lists::Lists;
    use crate::blocklist::metrics::BlocklistMetrics;
    use crate::follow::tokens::metrics::TokenMetrics;

    fn following(files: Vec<std::path::PathBuf>) -> Following {
        let registry = Registry::new();
        let metrics = BlocklistMetrics::register(&registry).expect("metrics");
        let blocklist = BlocklistFiles::load(files, Lists::new(Vec::new(), metrics.clone()), metrics);
        let metrics = TokenMetrics::register(&registry).expect("metrics");
        Following {
            blocklist,
            tokens: TokenFiles::load([], Vec::new(), metrics).expect("no files"),
            tls: None,
            lifecycle: Lifecycle::new(),
        }
    }

    #[test]
    fn following_reloads_on_request_and_ends_with_the_sender() {
        let directory = tempfile::tempdir().expect("a directory");
        let list = directory.path().join("list");
        fs::write(&list, "alice").expect("written");
        for files in [vec![], vec![list]] {
            let (reload, reloads) = mpsc::sync_channel(1);
            reload.send(()).expect("there is room");
            drop(reload);
            following(files).run(&reloads);
        }
    }

    #[test]
    fn a_reload_reports_valid_and_invalid_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for (name, text) in [("good", "alice"), ("bad", "block")] {
            fs::write(path(name), text).expect("written");
        }
        let metrics = BlocklistMetrics::register(&Registry::new()).expect("metrics");
        let sources = ListSources { files: vec![0, 1, 2], topic: None };
        let lists = Lists::new(vec![sources], metrics.clone());
        let blocklist = lists.in_force(0);
        let mut files = BlocklistFiles::load(["good", "bad", "none"].map(path).into(), lists, metrics);
        fs::write(path("good"), "bob").expect("written");
        let mut reloaded = Reloaded::default();
        files.reload(clock::monotonic(), &mut reloaded);
        assert!(blocklist.load().blocks("bob", clock::wall()), "without waiting until it is stable");
        assert_eq!(reloaded.read, [path("good").display().to_string()].into());
        let failed = ["bad: line 1: the line ends; expected a user", "none: No such file or directory (os error 2)"];
        assert_eq!(reloaded.failed, failed.map(|file| format!("{}/{file}", directory.path().display())).into());
    }
}
