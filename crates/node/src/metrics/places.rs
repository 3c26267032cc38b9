//! How many clients are served at a time, and which of them goes when another comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::AbortHandle;

/// Enough for several scrapers; each has a buffer of some kilobytes.
pub const MAX_CONNECTIONS: usize = 64;

/// Whether a connection's request was accepted. From then on it keeps its place.
#[derive(Clone, Debug, Default)]
pub struct Accepted(Arc<AtomicBool>);

impl Accepted {
    /// Says so.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The connections that are open, in the order in which they came.
#[derive(Debug, Default)]
pub struct Places(VecDeque<(Accepted, AbortHandle)>);

impl Places {
    /// Makes a place for one more. If all are taken, the connection that has waited longest without a good
    /// request is ended: a client that says nothing cannot keep out one that does. Returns whether there is
    /// a place.
    pub fn make(&mut self) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        if self.0.len() < MAX_CONNECTIONS {
            return true;
        }
        let waiting = self.0.iter().position(|(accepted, _)| !accepted.get());
        let Some((_, task)) = waiting.and_then(|place| self.0.remove(place)) else {
            return false;
        };
        task.abort();
        true
    }

    /// Takes the place.
    pub fn take(&mut self, accepted: Accepted, task: AbortHandle) {
        self.0.push_back((accepted, task));
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn who_waits_longest_goes_first_and_who_is_served_stays() {
        let mut places = Places::default();
        let mut tasks = Vec::new();
        let mut come = |places: &mut Places, accepted: bool| {
            assert!(places.make());
            let task = tokio::spawn(pending::<()>());
            let state = Accepted::default();
            if accepted {
                state.set();
            }
            places.take(state, task.abort_handle());
            tasks.push(task);
        };
        come(&mut places, true);
        for _ in 0..MAX_CONNECTIONS + 9 {
            come(&mut places, false);
        }
        tokio::task::yield_now().await;
        let ended = |tasks: &[tokio::task::JoinHandle<()>]| -> Vec<usize> {
            let all = tasks.iter().enumerate();
            all.filter(|(_, task)| task.is_finished())
                .map(|(number, _)| number)
                .collect()
        };
        assert_eq!(ended(&tasks), (1..=10).collect::<Vec<_>>());

        let mut places = Places::default();
        for _ in 0..MAX_CONNECTIONS {
            let accepted = Accepted::default();
            accepted.set();
            places.take(accepted, tokio::spawn(pending::<()>()).abort_handle());
        }
        assert!(!places.make(), "all of them are served");
    }
}
