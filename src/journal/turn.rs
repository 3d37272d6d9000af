//! Wakes the thread behind the queue when a worker's turn ends, and not in the middle of it.
//!
//! A worker that finds twenty sockets readable takes up to twenty captures in one go. If the first of them woke whoever takes them, that
//! one would become a frame of its own, and the others would wait for its sync.

use std::cell::Cell;
use std::mem;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread::Thread;

use tokio::sync::Notify;

thread_local! {
    static HERE: Cell<Option<&'static Turn>> = const { Cell::new(None) };
}

/// What a thread owes at the end of its turn. Threads that serve live as long as the process, and so does this.
#[derive(Debug, Default)]
struct Turn {
    to_wake: Mutex<Vec<Thread>>,
    is_owing: Notify,
}

impl Turn {
    fn to_wake(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.to_wake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the turns of this thread, for ever. Must be a task of its own: one that is woken stands behind all that have something to do
/// already, so when it runs, they have done it.
pub(super) async fn end_turns() {
    let turn: &'static Turn = Box::leak(Box::default());
    HERE.set(Some(turn));
    let mut to_wake = Vec::new();
    loop {
        turn.is_owing.notified().await;
        mem::swap(&mut *turn.to_wake(), &mut to_wake);
        for thread in to_wake.drain(..) {
            thread.unpark();
        }
    }
}

/// Wakes `thread` at the end of this thread's turn; at once if it has none.
pub(super) fn wake_at_end(thread: &Thread) {
    let Some(turn) = HERE.get() else { return thread.unpark() };
    turn.to_wake().push(thread.clone());
    turn.is_owing.notify_one();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::sync::mpsc::Receiver;
    use std::thread;
    use std::time::Duration;

    const LIMIT: Duration = Duration::from_secs(30);

    /// A thread that says so when it is woken.
    fn sleeper() -> (Thread, Receiver<()>) {
        let (tell, is_woken) = mpsc::channel();
        let sleeper = thread::spawn(move || {
            thread::park();
            tell.send(()).unwrap();
        });
        (sleeper.thread().clone(), is_woken)
    }

    #[test]
    fn a_thread_is_woken_when_all_have_had_their_turn() {
        let (sleeper, is_woken) = sleeper();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let ends = runtime.spawn(end_turns());
            tokio::task::yield_now().await;
            let owed = || HERE.get().unwrap().to_wake().len();
            let takes = runtime.spawn(async move { wake_at_end(&sleeper) });
            let others = [(); 3].map(|()| runtime.spawn(async move { owed() }));
            takes.await.unwrap();
            for other in others {
                assert_eq!(other.await.unwrap(), 1, "while somebody has something to do");
            }
            tokio::task::yield_now().await;
            assert_eq!(owed(), 0);
            ends.abort();
        });
        is_woken.recv_timeout(LIMIT).unwrap();
    }

    #[test]
    fn a_thread_without_turns_wakes_at_once() {
        let (sleeper, is_woken) = sleeper();
        wake_at_end(&sleeper);
        is_woken.recv_timeout(LIMIT).unwrap();
    }
}
