//! Waiting for what a cluster does in its own time.

use std::thread;
use std::time::{Duration, Instant};

/// How long a step may take on a busy machine of two processors.
pub const LIMIT: Duration = Duration::from_secs(120);

const POLL: Duration = Duration::from_millis(200);

/// Looks until there is an answer, and answers it. `look` says what there is instead.
///
/// # Panics
/// After `limit`, with what was waited for and what was seen last.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(answer) => return answer,
            Err(seen) if Instant::now() > end => {
                panic!("not within {limit:?}: {what}; there is: {seen}")
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}
