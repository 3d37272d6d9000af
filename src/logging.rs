//! Writes the log to stderr: a bounded queue of lines, and a thread that writes them.
//!
//! Logging only appends to the queue, so a slow or stuck reader blocks only the writing thread. When the queue is full, lines are dropped
//! and counted until half of it is free again. So there is one gap instead of many, and a line of the log says how many lines are missing.

pub(crate) mod metrics;

use std::backtrace::Backtrace;
use std::backtrace::BacktraceStatus;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::panic;
use std::process;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use tracing_subscriber::fmt::MakeWriter;

use crate::clock;
use crate::logging::metrics::LogMetrics;

/// The most bytes of waiting lines. Further lines are dropped.
const BYTES_MAX: usize = 1024 * 1024;
/// After a drop, lines are accepted again once at most this many bytes wait.
const BYTES_RESUME: usize = BYTES_MAX / 2;
/// A write to a pipe of at most this many bytes is atomic. (`PIPE_BUF` of Linux.)
const WRITE_BYTES_MAX: usize = 4096;
/// How long the end of the process waits for a stuck reader.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The log. Clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter {
    shared: Arc<LogShared>,
}

#[derive(Debug)]
struct LogShared {
    queue: Mutex<LineQueue>,
    /// Signals that there is something to write.
    filled: Condvar,
    /// Signals that something was written.
    written: Condvar,
    metrics: LogMetrics,
}

#[derive(Debug, Default)]
struct LineQueue {
    /// Complete lines.
    bytes: VecDeque<u8>,
    /// The queue was full, and is not half empty yet.
    is_dropping: bool,
    /// Dropped lines that the log does not mention yet.
    unreported: u64,
    /// The beginning of the current write.
    writing_since: Option<Instant>,
}

impl LogWriter {
    /// Starts the thread that writes to `stream`.
    ///
    /// # Errors
    ///
    /// The system has no more threads.
    pub(crate) fn start(stream: OwnedFd, metrics: LogMetrics) -> io::Result<Self> {
        let (filled, written) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(LogShared { queue: Mutex::default(), filled, written, metrics });
        let writer = Arc::clone(&shared);
        let stream = File::from(stream);
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&stream))?;
        Ok(Self { shared })
    }

    /// Its metrics.
    pub(crate) fn metrics(&self) -> &LogMetrics {
        &self.shared.metrics
    }

    /// Appends a line with its line feed, or drops it. Never waits for the reader.
    fn append(&self, line: &[u8]) {
        let mut queue = self.shared.lock();
        if queue.is_dropping || queue.bytes.len() + line.len() > BYTES_MAX {
            queue.is_dropping = true;
            queue.unreported += 1;
            self.shared.metrics.lines_dropped.inc();
        } else {
            queue.bytes.extend(line);
        }
        self.shared.filled.notify_one();
    }

    /// Waits until everything is written, at most for [`FLUSH_TIMEOUT`]; not for a write that has already taken that long.
    pub(crate) fn flush(&self) {
        let mut queue = self.shared.lock();
        let deadline = clock::monotonic() + FLUSH_TIMEOUT;
        while !queue.bytes.is_empty() || queue.writing_since.is_some() {
            let end = queue.writing_since.map_or(deadline, |since| deadline.min(since + FLUSH_TIMEOUT));
            let left = end.saturating_duration_since(clock::monotonic());
            if left.is_zero() {
                return;
            }
            queue = self.shared.written.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Makes a panic be logged, and then end the process after at most a [`Self::flush`].
    pub(crate) fn end_on_panic(&self) {
        let log = self.clone();
        panic::set_hook(Box::new(move |panic| {
            let thread = thread::current();
            let backtrace = Backtrace::capture();
            let trace =
                if backtrace.status() == BacktraceStatus::Captured { backtrace.to_string() } else { String::new() };
            // Not through tracing, in which it may have panicked.
            log.append(format!("thread '{}' {panic}\n{trace}", thread.name().unwrap_or("unnamed")).as_bytes());
            log.flush();
            process::abort();
        }));
    }
}

impl<'w> MakeWriter<'w> for LogWriter {
    type Writer = &'w Self;

    fn make_writer(&'w self) -> &'w Self {
        self
    }
}

/// Each write is one line.
impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogShared {
    fn lock(&self) -> MutexGuard<'_, LineQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines until the process ends.
    fn run(&self, stream: &File) -> ! {
        loop {
            let lines = self.next();
            let is_written = write_all(stream, &lines).is_ok();
            let dropped = self.settle(&lines, is_written);
            if dropped > 0 {
                tracing::warn!(lines = dropped, "log lines were dropped");
            }
        }
    }

    /// Waits for lines, and takes as many as one write may have. `None` if lines were dropped and none is waiting.
    fn next(&self) -> Vec<u8> {
        let queue = self.lock();
        let is_idle = |queue: &mut LineQueue| queue.bytes.is_empty() && !queue.is_dropping;
        let mut queue = self.filled.wait_while(queue, is_idle).unwrap_or_else(PoisonError::into_inner);
        queue.writing_since = Some(clock::monotonic());
        let end = write_len(&queue.bytes);
        queue.bytes.drain(..end).collect()
    }

    /// Ends a write. Returns the number of dropped lines to mention in the log.
    fn settle(&self, lines: &[u8], is_written: bool) -> u64 {
        let mut queue = self.lock();
        queue.writing_since = None;
        self.written.notify_all();
        if !is_written {
            let lost = lines.iter().filter(|byte| **byte == b'\n').count();
            let lost = u64::try_from(lost).unwrap_or(u64::MAX);
            queue.unreported += lost;
            self.metrics.lines_dropped.inc_by(lost);
        }
        if queue.bytes.len() > BYTES_RESUME {
            return 0;
        }
        queue.is_dropping = false;
        // Otherwise a report that cannot be written would cause the next one.
        if is_written { std::mem::take(&mut queue.unreported) } else { 0 }
    }
}

/// The size of the next write: complete lines of up to [`WRITE_BYTES_MAX`] together, or one longer line.
fn write_len(bytes: &VecDeque<u8>) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    if bytes.len() <= WRITE_BYTES_MAX {
        return bytes.len();
    }
    let fitting = bytes.iter().take(WRITE_BYTES_MAX).rposition(is_end);
    fitting.or_else(|| bytes.iter().position(is_end)).map_or(bytes.len(), |last| last + 1)
}

/// Writes everything, even if a process that shares the stream has made it non-blocking.
fn write_all(stream: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(stream, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // If the wait fails, the next write reports it.
                let _woken = rustix::event::poll(&mut [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::env;
    use std::io::PipeWriter;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::process::Output;

    use rustix::fs::OFlags;

    const SIGABRT: i32 = 6;

    fn start(stream: OwnedFd) -> LogWriter {
        LogWriter::start(stream, LogMetrics::new().unwrap()).unwrap()
    }

    /// Fills a pipe, and leaves it non-blocking, as a parent may.
    fn fill(writer: &PipeWriter) {
        rustix::fs::fcntl_setfl(writer, OFlags::NONBLOCK).unwrap();
        while rustix::io::write(writer, &[b'\n'; 4096]).is_ok() {}
    }

    #[test]
    fn a_write_takes_whole_lines_of_at_most_4096_bytes_or_one_longer_line() {
        let len = |text: String| write_len(&text.into_bytes().into());
        assert_eq!(len("a\nb\n".to_owned()), 4);
        assert_eq!(len("123456789\n".repeat(1000)), 4090);
        assert_eq!(len(format!("{}\nb\n", "a".repeat(5000))), 5001);
        assert_eq!(len(format!("a\n{}\n", "b".repeat(5000))), 2);
    }

    #[test]
    fn a_flush_gives_up_on_a_reader_that_takes_nothing() {
        let (_reader, writer) = io::pipe().unwrap();
        fill(&writer);
        let log = start(writer.into());
        log.append(b"a line\n");
        let began = clock::monotonic();
        log.flush();
        assert!(began.elapsed() >= FLUSH_TIMEOUT);
        // It has waited for this write already.
        let again = clock::monotonic();
        log.flush();
        assert!(again.elapsed() < FLUSH_TIMEOUT);
    }

    #[test]
    fn a_line_that_is_longer_than_the_queue_is_dropped_and_those_behind_it_are_not() {
        let (mut reader, writer) = io::pipe().unwrap();
        let log = start(writer.into());
        log.append(&[b'a'; BYTES_MAX + 1]);
        while log.shared.lock().is_dropping {
            thread::yield_now();
        }
        log.append(b"next\n");
        let mut read = [0; 5];
        io::Read::read_exact(&mut reader, &mut read).unwrap();
        assert_eq!((&read, log.metrics().lines_dropped.get()), (b"next\n", 1));
    }

    /// Not a test by itself: what the next one runs, in a process of its own.
    #[test]
    fn panics_where_it_is_told_to() {
        let Ok(stream) = env::var("CALLBRIDGE_TEST_PANIC") else { return };
        // Kept: a pipe without a reader would be an error, not full.
        let (_reader, writer) = io::pipe().unwrap();
        let stream = if stream == "full" {
            fill(&writer);
            writer.into()
        } else {
            io::stderr().as_fd().try_clone_to_owned().unwrap()
        };
        start(stream).end_on_panic();
        panic!("as it was told");
    }

    #[test]
    fn a_panic_is_logged_and_ends_the_process_also_when_nobody_reads_stderr() {
        let run = |stream: &str| -> Output {
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["--exact", "logging::tests::panics_where_it_is_told_to", "--nocapture"]);
            command.env("CALLBRIDGE_TEST_PANIC", stream).output().unwrap()
        };
        for stream in ["read", "full"] {
            let output = run(stream);
            assert_eq!(output.status.signal(), Some(SIGABRT), "{output:?}");
            let logged = String::from_utf8(output.stderr).unwrap();
            assert_eq!(logged.contains("as it was told"), stream == "read", "{logged}");
            assert_eq!(logged.contains("panicked at src/logging.rs:"), stream == "read", "{logged}");
        }
    }
}
