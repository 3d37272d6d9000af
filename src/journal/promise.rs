//! The promise that a capture is safe, between who makes it so and the request that waits.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Poll;
use std::task::Waker;

use super::bell::Bell;
use super::bell::Ring;

/// Kept by whoever makes the capture safe or abandoned by the request, whichever comes first; never both.
#[derive(Debug, Clone)]
pub(super) struct Promise {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The bell of the thread that waits.
    bell: Option<&'static Bell>,
}

#[derive(Debug)]
enum State {
    /// With whoever waits for it.
    Open(Option<Waker>),
    Kept,
    Abandoned,
}

impl Promise {
    /// A promise that this thread will wait for.
    pub(super) fn new() -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(State::Open(None)), bell: Bell::here() }) }
    }

    /// Waits until it is kept, or abandoned by whoever was to keep it. Returns whether it was kept. One waiter at a time.
    pub(super) async fn ended(&self) -> bool {
        poll_fn(|cx| match &mut *self.lock() {
            State::Open(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Open(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Kept => Poll::Ready(true),
            State::Abandoned => Poll::Ready(false),
        })
        .await
    }

    /// Keeps it; who waits is woken with the ring. Returns false when it was abandoned before.
    pub(super) fn keep(&self, ring: &mut Ring) -> bool {
        self.end(State::Kept, ring)
    }

    /// Abandons it; who waits is woken with the ring. Returns false when it was kept before.
    pub(super) fn abandon(&self, ring: &mut Ring) -> bool {
        self.end(State::Abandoned, ring)
    }

    /// Whether it was abandoned.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(*self.lock(), State::Abandoned)
    }

    /// Whether it was kept.
    pub(super) fn is_kept(&self) -> bool {
        matches!(*self.lock(), State::Kept)
    }

    /// Ends it, if it is open. Returns whether it was.
    fn end(&self, end: State, ring: &mut Ring) -> bool {
        let waker = {
            let mut state = self.lock();
            let State::Open(waker) = &mut *state else { return false };
            let waker = mem::take(waker);
            *state = end;
            waker
        };
        if let Some(waker) = waker {
            ring.add(self.shared.bell, waker);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
