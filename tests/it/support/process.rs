//! A child process that cannot outlive the tests, however they end.
//!
//! A small shell stands between, the guard: it holds a pipe from this process, and kills the child when the pipe closes,
//! which a SIGKILL of this process does too. It ends when the child does, with the child's exit code.

use std::ffi::OsStr;
use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use callbridge::clock;
use rustix::process::Pid;
use rustix::process::Signal;

/// `$1` is removed with all in it when the child ended because the pipe closed.
const GUARD: &str = r#"
folder=$1; shift
exec 3<&0
"$@" </dev/null >>"$folder/stdout" 2>>"$folder/stderr" 3<&- &
child=$!
{ read -r line; trap '' TERM; kill -9 $child; exit 0; } <&3 &
guard=$!
echo $child
exec >&-
wait $child; code=$?
kill $guard
wait $guard && rm -rf "$folder"
exit $code
"#;

/// How long a process that was killed is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a state is looked at that nobody reports.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// A process with a folder of its own, in which `stdout` and `stderr` hold what it printed.
pub(crate) struct Process {
    guard: Child,
    pid: Pid,
    folder: PathBuf,
}

impl Process {
    /// Runs `program`. On drop it is killed, and `folder` removed; a process that ends otherwise leaves its folder.
    pub(crate) fn start<A: AsRef<OsStr>>(folder: &Path, program: &str, args: &[A]) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(folder)
            .arg(program)
            .args(args)
            // Ours, not callbridge's: it would warn of a setting that it does not know.
            .env_remove("CALLBRIDGE_REQUIRE_REAL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // So that Ctrl-C reaches the tests only, and the guard still does its work.
            .process_group(0)
            .spawn()
            .expect("cannot run sh");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("the guard prints the pid");
        Self { guard, pid, folder: folder.to_owned() }
    }

    /// The child's own pid, not the guard's.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal; one to a process that has ended goes nowhere.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.exit_code().is_none() {
            // It may end between the two lines; the caller then sees that it has.
            let _gone = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// The exit code, 128 + n after signal n, or nothing while it runs.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.guard.try_wait().unwrap().map(|status| status.code().expect("nobody kills the guard"))
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// After `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> i32 {
        let deadline = clock::monotonic() + limit;
        loop {
            if let Some(code) = self.exit_code() {
                return code;
            }
            assert!(clock::monotonic() < deadline, "still running after {limit:?}: {}", self.stderr());
            thread::sleep(POLL);
        }
    }

    /// What it has printed so far.
    pub(crate) fn stdout(&self) -> String {
        printed(&self.folder.join("stdout"))
    }

    /// What it has logged so far.
    pub(crate) fn stderr(&self) -> String {
        printed(&self.folder.join("stderr"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // The kernel lets no process go whose disk does not answer; and that disk may be one of ours, which goes after this.
        let deadline = clock::monotonic() + PATIENCE;
        while matches!(self.guard.try_wait(), Ok(None)) && clock::monotonic() < deadline {
            thread::sleep(POLL);
        }
    }
}

fn printed(path: &Path) -> String {
    fs::read(path).map_or_else(|_missing| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The last `count` lines of `text`, for the text of a panic.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
