//! Turns for those that load the whole machine: one at a time, beside whatever else runs.

use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::PoisonError;

static IS_TAKEN: Mutex<bool> = Mutex::new(false);
static IS_FREE: Condvar = Condvar::new();

/// A turn; it ends when this is dropped, also by a panic.
pub(crate) struct Alone;

impl Alone {
    /// Waits for the turn. Take one only: there is no second one for who holds the first.
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
