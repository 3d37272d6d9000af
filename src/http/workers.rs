//! The workers: threads that drive connections, each with a single-threaded runtime.
//!
//! A connection stays with its worker, so no worker wakes another: with one multi-threaded runtime, every fourth callback cost a system
//! call for that.

use std::io;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::runtime::Handle;
use tokio::runtime::Runtime;

use crate::lifecycle::Lifecycle;
use crate::lifecycle::Phase;

/// The name of the threads.
const NAME: &str = "callbacks";

/// Workers that are not running yet.
#[derive(Debug)]
pub(crate) struct UnstartedWorkers(Vec<Runtime>);

/// Running workers.
#[derive(Debug)]
pub(crate) struct Workers {
    handles: Vec<Handle>,
    /// Disconnected once all workers have ended.
    all: Receiver<()>,
}

impl UnstartedWorkers {
    /// Makes `count` workers.
    ///
    /// # Errors
    ///
    /// The system has no more file descriptors.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        let runtimes = (0..count).map(|_| runtime::Builder::new_current_thread().enable_all().build());
        runtimes.collect::<io::Result<_>>().map(Self)
    }

    /// Starts the threads. They end in [`Phase::Stopped`], together with every connection that is still open.
    ///
    /// # Errors
    ///
    /// The system has no more threads.
    pub(crate) fn start(self, lifecycle: &Lifecycle) -> io::Result<Workers> {
        let (running, all) = mpsc::channel();
        let mut workers = Workers { handles: Vec::new(), all };
        for runtime in self.0 {
            workers.handles.push(runtime.handle().clone());
            let (running, lifecycle) = (running.clone(), lifecycle.clone());
            thread::Builder::new().name(NAME.to_owned()).spawn(move || {
                runtime.block_on(lifecycle.reached(Phase::Stopped));
                // Before the disconnect is seen: dropping the runtime ends its connections.
                drop(runtime);
                drop(running);
            })?;
        }
        Ok(workers)
    }
}

impl Workers {
    /// The runtimes that drive connections.
    pub(crate) fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Waits until all workers have ended, at most for `limit`.
    pub(crate) fn join(self, limit: Duration) {
        // Nothing is ever sent: this returns when the last sender is dropped, or at the limit.
        let _ended = self.all.recv_timeout(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::sync::Arc;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn each_drives_what_it_has_begun_and_all_of_it_ends_with_them() {
        let (send, received) = mpsc::channel();
        let lifecycle = Lifecycle::new();
        let workers = UnstartedWorkers::new(2).unwrap().start(&lifecycle).unwrap();
        let held = Arc::new(());
        for handle in workers.handles() {
            let (send, held) = (send.clone(), Arc::clone(&held));
            // Aborted with its runtime.
            drop(handle.spawn(async move {
                send.send((thread::current().name().map(str::to_owned), thread::current().id())).unwrap();
                pending::<()>().await;
                drop(held);
            }));
        }
        let (one, other) = (received.recv_timeout(LIMIT).unwrap(), received.recv_timeout(LIMIT).unwrap());
        assert_eq!((one.0.as_deref(), other.0.as_deref()), (Some(NAME), Some(NAME)));
        assert_ne!(one.1, other.1);
        assert_eq!(Arc::strong_count(&held), 3);
        lifecycle.enter(Phase::Stopped);
        workers.join(LIMIT);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
