//! What an operation does in another way than it was asked to, for whoever reads the shim's log:
//! the shim logs it, for an operation has no log of its own.

use std::cell::RefCell;

/// Most that is told of one operation, and most bytes of each: an answer has to fit one message.
const MOST: usize = 8;
const MOST_BYTES: usize = 1024;

thread_local! {
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a warning for the answer of the operation that this thread is.
pub fn warn(mut text: String) {
    text.truncate(text.floor_char_boundary(MOST_BYTES));
    WARNINGS.with_borrow_mut(|warnings| {
        // What is decided in several places is still one thing.
        if warnings.len() < MOST && !warnings.contains(&text) {
            warnings.push(text);
        }
    });
}

/// All of them.
pub(crate) fn take() -> Vec<String> {
    WARNINGS.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_bounded_and_taken_once() {
        for number in 0..20 {
            warn(format!("{number:02}{}", "ü".repeat(MOST_BYTES)));
            warn(format!("{number:02}{}", "ü".repeat(MOST_BYTES)));
        }
        let taken = take();
        assert_eq!(taken.len(), MOST);
        assert!(taken.iter().all(|text| text.len() == MOST_BYTES));
        assert!(take().is_empty());
    }
}
