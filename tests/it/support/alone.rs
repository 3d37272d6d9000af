//! A lock for tests that load the whole machine: only one of them runs at a time.

use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;

static IS_TAKEN: Mutex<bool> = Mutex::new(false);
static IS_FREE: Condvar = Condvar::new();

/// The lock; released when dropped, also by a panic.
pub(crate) struct Alone;

impl Alone {
    /// Waits for the lock. It must not be taken twice by the same test.
    pub(crate) fn take() -> Self {
        let taken = IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        *IS_FREE.wait_while(taken, |taken| *taken).unwrap_or_else(PoisonError::into_inner) = true;
        Self
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        *IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        IS_FREE.notify_one();
    }
}
