//! A child process that cannot outlive the tests, however they end.
//!
//! A small shell, the guard, is between them: it holds a pipe from this process, and kills the child when the pipe closes, which a SIGKILL
//! of this process causes too. It ends with the child, and with the child's exit code.

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

/// `$1` is removed with its contents if the child ended because the pipe closed.
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

/// How long to wait for a killed process.
const PATIENCE: Duration = Duration::from_secs(10);
/// The polling period.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// A process with its own folder, in which `stdout` and `stderr` have its output.
pub(crate) struct Process {
    guard: Child,
    pid: Pid,
    folder: PathBuf,
}

impl Process {
    /// Runs `program`. When dropped, it is killed and `folder` removed; if the process ends otherwise, its folder stays.
    pub(crate) fn start<A: AsRef<OsStr>>(folder: &Path, program: &str, args: &[A]) -> Self {
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(folder)
            .arg(program)
            .args(args)
            // It is the guard's, not callbridge's, which would warn of an unknown setting.
            .env_remove("CALLBRIDGE_REQUIRE_REAL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C must reach the tests only, so that the guard still works.
            .process_group(0)
            .spawn()
            .expect("cannot run sh");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("the guard prints the pid");
        Self { guard, pid, folder: folder.to_owned() }
    }

    /// The pid of the child, not of the guard.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends a signal. Has no effect on a process that has ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.exit_code().is_none() {
            // It may end between the two calls; the caller then notices.
            let _gone = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// The exit code, 128 + n after signal n, or `None` while it runs.
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

    /// Its output so far.
    pub(crate) fn stdout(&self) -> String {
        printed(&self.folder.join("stdout"))
    }

    /// Its log so far.
    pub(crate) fn stderr(&self) -> String {
        printed(&self.folder.join("stderr"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // The kernel does not release a process whose disk does not answer; that disk may be one of ours, which is dropped later.
        let deadline = clock::monotonic() + PATIENCE;
        while matches!(self.guard.try_wait(), Ok(None)) && clock::monotonic() < deadline {
            thread::sleep(POLL);
        }
    }
}

fn printed(path: &Path) -> String {
    fs::read(path).map_or_else(|_missing| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The last `count` lines of `text`, for the message of a panic.
pub(crate) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
