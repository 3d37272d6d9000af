//! A process that the benchmark started, and what it has used so far.
//!
//! It is killed when it is dropped, and by the system when the benchmark itself is killed, so that nothing outlives it.

use std::env;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use rustix::process::set_parent_process_death_signal;

/// Linux counts a process's time in hundredths of a second, whatever the kernel's own tick.
const TICK: Duration = Duration::from_millis(10);

/// Lines of a process's output that may wait to be read; then it waits.
const LINES_MAX: usize = 64;

/// A process, its standard input and the lines of its output.
pub(crate) struct Process {
    name: String,
    child: Child,
    pid: Pid,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command`, which [`command`] has made. What it says on standard error goes where the command says.
    pub(crate) fn start(name: &str, command: &mut Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pid = Pid::from_child(&child);
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (sender, lines) = mpsc::sync_channel(LINES_MAX);
        // It ends with the process's output, or with the `Process`.
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self { name: name.to_owned(), child, pid, input, lines })
    }

    /// Starts this program again, with `arguments` that give it a role.
    pub(crate) fn role(name: &str, arguments: &[&str]) -> io::Result<Self> {
        Self::start(name, command(env::current_exe()?)?.args(arguments))
    }

    /// The next line of its output.
    ///
    /// # Errors
    ///
    /// None came within `limit`, or the process has ended.
    pub(crate) fn line(&self, limit: Duration) -> io::Result<String> {
        self.lines.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => self.fault(&format!("said nothing for {limit:?}")),
            RecvTimeoutError::Disconnected => self.fault("ended unasked"),
        })
    }

    /// Sends it a line.
    pub(crate) fn tell(&mut self, line: &str) -> io::Result<()> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(line.as_bytes())?;
        input.write_all(b"\n")
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    /// User and system time since its start, of all its threads and of the children that it has waited for.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let stat = fs::read_to_string(self.proc("stat"))?;
        // The second field is the program's name in brackets, which may hold anything.
        let (_, fields) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
        let ticks = |field: usize| fields.split_whitespace().nth(field).and_then(|word| word.parse::<u32>().ok());
        let times: Option<Vec<u32>> = (11..=14).map(ticks).collect();
        times.map(|times| TICK * times.iter().sum()).ok_or_else(|| self.fault("no times in stat"))
    }

    /// Bytes of memory it has now.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        self.status("VmRSS:")
    }

    /// The most bytes of memory it had since its start, or since [`Self::forget_peak`].
    pub(crate) fn memory_peak(&self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    /// Begins to measure the peak anew. Only root may, of a process that is not dumpable, as callbridge is: for others the peak stays that
    /// since its start.
    pub(crate) fn forget_peak(&self) -> io::Result<()> {
        match fs::write(self.proc("clear_refs"), "5") {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            written => written,
        }
    }

    fn status(&self, field: &str) -> io::Result<u64> {
        let status = fs::read_to_string(self.proc("status"))?;
        let words = status.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = words.and_then(|words| words.trim().strip_suffix(" kB")).and_then(|word| word.parse().ok());
        kibibytes.map(|kibibytes: u64| kibibytes * 1024).ok_or_else(|| self.fault("no memory in status"))
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }

    fn fault(&self, what: &str) -> io::Error {
        io::Error::other(format!("{}: {what}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way there is nothing left to do about it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A command that runs `program`, and dies with this process.
pub(crate) fn command(program: impl AsRef<OsStr>) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("bound").arg(program);
    Ok(command)
}

/// Binds this process to the one that started it, and becomes the program that `words` begin with. Returns only if it cannot.
pub(crate) fn bind(words: &[OsString]) -> io::Error {
    let Some((program, arguments)) = words.split_first() else { return io::ErrorKind::InvalidInput.into() };
    match set_parent_process_death_signal(Some(Signal::KILL)) {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error.into(),
    }
}
