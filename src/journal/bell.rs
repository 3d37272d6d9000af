//! Wakes all who wait on one thread with one call to it.
//!
//! To wake a task of another thread's runtime costs a system call, and a frame of the journal keeps many promises at once. So each
//! thread that serves callbacks hangs a [`Bell`]: whoever ends promises gathers whom to wake in a [`Ring`], and rings each bell once.

use std::cell::Cell;
use std::fmt;
use std::mem;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::task::Waker;

use tokio::sync::Notify;

thread_local! {
    static HERE: Cell<Option<&'static Bell>> = const { Cell::new(None) };
}

/// See the module. Threads that serve live as long as the process, and so do their bells.
#[derive(Debug, Default)]
pub(super) struct Bell {
    to_wake: Mutex<Vec<Waker>>,
    rung: Notify,
}

/// Hangs a bell on this thread, and answers it for ever.
pub(super) async fn attend() {
    let bell: &'static Bell = Box::leak(Box::default());
    HERE.set(Some(bell));
    let mut to_wake = Vec::new();
    loop {
        bell.rung.notified().await;
        mem::swap(&mut *bell.lock(), &mut to_wake);
        for waker in to_wake.drain(..) {
            waker.wake();
        }
    }
}

impl Bell {
    /// This thread's, if it has one.
    pub(super) fn here() -> Option<&'static Self> {
        HERE.get()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.to_wake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those who are to be woken, by their bells.
#[derive(Default)]
pub(super) struct Ring {
    bells: Vec<(Option<&'static Bell>, Vec<Waker>)>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    /// Wakes this one when the ring goes [`out`](Self::out): by the bell of the thread it waits on, if that has one.
    pub(super) fn add(&mut self, bell: Option<&'static Bell>, waker: Waker) {
        let address = |bell: Option<&'static Bell>| bell.map(std::ptr::from_ref);
        match self.bells.iter_mut().find(|(other, _)| address(*other) == address(bell)) {
            Some((_, to_wake)) => to_wake.push(waker),
            None => self.bells.push((bell, vec![waker])),
        }
    }

    /// Wakes all that were added.
    pub(super) fn out(&mut self) {
        for (bell, to_wake) in self.bells.iter_mut().filter(|(_, to_wake)| !to_wake.is_empty()) {
            match bell {
                Some(bell) => {
                    bell.lock().append(to_wake);
                    bell.rung.notify_one();
                }
                None => to_wake.drain(..).for_each(Waker::wake),
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::task::Wake;
    use std::thread;

    /// Counts how often it is woken.
    #[derive(Default)]
    pub(in crate::journal) struct Counted(pub(in crate::journal) AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn all_are_woken_when_the_ring_goes_out_and_those_of_a_thread_with_a_bell_there() {
        let (here, there) = (Arc::new(Counted::default()), Arc::new(Counted::default()));
        let (tell, bell) = std::sync::mpsc::channel();
        let (woken, seen) = (Arc::clone(&there), Arc::clone(&there));
        let worker = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = attend() => {}
                    () = async {
                        tokio::task::yield_now().await;
                        tell.send(Bell::here().unwrap()).unwrap();
                        while woken.0.load(Ordering::SeqCst) < 3 {
                            tokio::task::yield_now().await;
                        }
                    } => {}
                }
            });
        });
        let bell: &'static Bell = bell.recv().unwrap();
        let mut ring = Ring::default();
        ring.add(None, Waker::from(Arc::clone(&here)));
        for _ in 0..3 {
            ring.add(Some(bell), Waker::from(Arc::clone(&there)));
        }
        let so_far = [&here, &seen].map(|counted| counted.0.load(Ordering::SeqCst));
        assert_eq!(so_far, [0, 0], "before the ring goes out");
        ring.out();
        assert_eq!(here.0.load(Ordering::SeqCst), 1);
        worker.join().unwrap();
        ring.out();
        assert_eq!([here, seen].map(|counted| counted.0.load(Ordering::SeqCst)), [1, 3]);
    }
}
