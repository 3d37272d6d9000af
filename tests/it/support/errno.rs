//! Faults of the disk in a program that runs: libfiu stands before libc and lets chosen calls fail.
//!
//! Only calls that the journal makes are chosen. `write` and `writev` would hit sockets too.

use std::process::Command;

use rustix::process::Pid;
use tempfile::TempDir;

use crate::support::real;

/// Until the program has answered. It answers at once, or has ended.
const SECONDS: &str = "20";

/// What may go wrong, by libfiu's names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    point: &'static str,
    how: &'static str,
    /// Of all calls; nothing: each.
    probability: Option<&'static str>,
}

/// Every `fdatasync` is EIO.
pub(crate) const SYNC_FAILS: Fault = Fault { point: "posix/io/sync/fdatasync", how: "failinfo=5", probability: None };

/// One `fdatasync` in twenty is EIO.
pub(crate) const SYNC_SELDOM_FAILS: Fault = Fault { probability: Some("0.05"), ..SYNC_FAILS };

/// Every `pwrite` is ENOSPC.
pub(crate) const NO_SPACE: Fault = Fault { point: "posix/io/rw/pwrite", how: "failinfo=28", probability: None };

/// Of one `pwrite` in three a part is written.
pub(crate) const SHORT_WRITES: Fault =
    Fault { point: "posix/io/rw/pwrite/reduce", how: "failnum=1", probability: Some("0.33") };

/// The programs that were started under it can be reached.
pub(crate) struct Faults {
    folder: TempDir,
}

impl Faults {
    /// Nothing when there is no libfiu: the test shall return.
    pub(crate) fn available() -> Option<Self> {
        let help = Command::new("fiu-run").arg("-h").output();
        real::found_or_skipped(help.map_err(|_missing| "there is no fiu-run (Debian: fiu-utils)".to_owned()))?;
        Some(Self { folder: TempDir::with_prefix_in("fiu-", env!("CARGO_TARGET_TMPDIR")).unwrap() })
    }

    /// What to write before a program and its arguments, so that it starts with these faults, or can be given them later.
    pub(crate) fn prefix(&self, faults: &[Fault]) -> Vec<String> {
        let mut words = vec!["fiu-run".to_owned(), "-x".to_owned(), "-f".to_owned(), self.control()];
        words.extend(faults.iter().flat_map(|fault| ["-c".to_owned(), fault.command()]));
        words
    }

    /// From now on.
    pub(crate) fn switch_on(&self, program: Pid, fault: Fault) {
        self.tell(program, &fault.command());
    }

    /// No longer.
    pub(crate) fn switch_off(&self, program: Pid, fault: Fault) {
        self.tell(program, &format!("disable name={}", fault.point));
    }

    fn tell(&self, program: Pid, command: &str) {
        let pid = program.as_raw_pid().to_string();
        let mut tell = Command::new("timeout");
        tell.args([SECONDS, "fiu-ctrl", "-f", &self.control(), "-c", command, &pid]);
        let output = tell.output().unwrap();
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // Its exit code is 0 also for a program that is not there.
        assert!(output.status.success() && printed.is_empty(), "fiu-ctrl {command}: {} {printed}", output.status);
    }

    fn control(&self) -> String {
        self.folder.path().join("control").display().to_string()
    }
}

impl Fault {
    fn command(&self) -> String {
        match self.probability {
            None => format!("enable name={},{}", self.point, self.how),
            Some(probability) => {
                format!("enable_random name={},{},probability={probability}", self.point, self.how)
            }
        }
    }
}
