//! Moves the engine's epoch on while guests compute.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::Engine;

/// How long a guest computes before the others get their turn, after [`FIRST_TICKS`].
const TICK: Duration = Duration::from_millis(5);

/// Ticks that an instance, or a request to one that is used again, computes before it gives way.
pub(crate) const FIRST_TICKS: u64 = 4;

/// Wakes the processor only while an instance is at work: a service that waits costs nothing.
#[derive(Default)]
pub(super) struct Ticker {
    state: Mutex<TickerState>,
    changed: Condvar,
}

#[derive(Default)]
struct TickerState {
    /// Instances at work.
    busy: usize,
    /// The thread that ticks has nothing to do, and has to be woken.
    waits: bool,
    ended: bool,
}

impl Ticker {
    /// Ticks until [`Ticker::ends_with_this`] is dropped.
    pub(super) fn tick(&self, engine: &Engine) {
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.waits = true;
            let mut state = self
                .changed
                .wait_while(state, |state| state.busy == 0 && !state.ended)
                .unwrap_or_else(PoisonError::into_inner);
            state.waits = false;
            if state.ended {
                return;
            }
            drop(state);
            std::thread::sleep(TICK);
            engine.increment_epoch();
        }
    }

    /// Ticking ends when the returned value is dropped.
    pub(super) fn ends_with_this(self: &Arc<Self>) -> Ended {
        Ended(Arc::clone(self))
    }

    fn change(&self, change: impl FnOnce(&mut TickerState)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        if state.waits && (state.ended || state.busy > 0) {
            self.changed.notify_all();
        }
    }
}

/// See [`Ticker::ends_with_this`].
pub(super) struct Ended(Arc<Ticker>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.change(|state| state.ended = true);
    }
}

/// Whether one instance is at work.
pub(super) struct Work {
    ticker: Arc<Ticker>,
    busy: bool,
}

impl Work {
    pub(super) fn new(ticker: &Arc<Ticker>) -> Self {
        Self {
            ticker: Arc::clone(ticker),
            busy: false,
        }
    }

    pub(super) fn set(&mut self, busy: bool) {
        if busy != self.busy {
            self.busy = busy;
            self.ticker.change(|state| {
                state.busy = if busy { state.busy + 1 } else { state.busy - 1 };
            });
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_once_for_each_instance() {
        let ticker = Arc::new(Ticker::default());
        let busy = || ticker.state.lock().unwrap().busy;
        let mut one = Work::new(&ticker);
        let mut two = Work::new(&ticker);
        one.set(true);
        one.set(true);
        two.set(true);
        assert_eq!(busy(), 2);
        two.set(false);
        drop(two);
        assert_eq!(busy(), 1);
        drop(one);
        assert_eq!(busy(), 0);
    }
}
