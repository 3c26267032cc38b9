//! Errors as they cross processes: a class that containerd acts on and a text for people.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// What containerd does with an error depends on its class alone.
///
/// The names are those of containerd's `errdefs`; one function of the `task` crate maps them
/// to ttrpc codes. `Unimplemented` is never replaced by `NotFound`, which CRI reads as "the
/// task is gone".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The request, the bundle or the image is wrong, and will be wrong again.
    InvalidArgument,
    /// There is no such container or process, or it has ended.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// The request is legal, but not in the state that the container is in.
    FailedPrecondition,
    /// Lighter does not support the call.
    Unimplemented,
    /// An operation did not end within its time limit.
    DeadlineExceeded,
    /// Something has run out that an administrator can give more of: room on a disk, memory,
    /// descriptors, or what a node's options allow.
    ResourceExhausted,
    /// Anything else, the host's failures among it.
    Internal,
}

impl ErrorClass {
    /// The class of what the kernel said, or of the failure that `error` carries. A text of our own
    /// is about what was read: that is to blame.
    pub fn of_io(error: &io::Error) -> Self {
        if let Some(inner) = error.get_ref() {
            return match inner.downcast_ref::<Failure>() {
                Some(failure) => failure.class,
                None => Self::InvalidArgument,
            };
        }
        // By number: the kinds of most of these are not stable, or none.
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const ENOSPC: i32 = 28;
        const EDQUOT: i32 = 122;
        match error.raw_os_error() {
            Some(ENOMEM | ENFILE | EMFILE | ENOSPC | EDQUOT) => Self::ResourceExhausted,
            _ => Self::Internal,
        }
    }
}

/// A failed operation: its class, and a text that says what happened, to what and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What containerd acts on.
    pub class: ErrorClass,
    /// What `ctr run`, `docker run` and `kubectl describe` show.
    pub message: String,
}

impl Failure {
    /// A failure of `class` with the text that users are shown.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }

    /// [`ErrorClass::InvalidArgument`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::InvalidArgument, message)
    }

    /// [`ErrorClass::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Internal, message)
    }

    /// An error with all its causes in one line, the outermost first.
    ///
    /// A cause that its parent's text already ends with is not repeated.
    pub fn from_error(class: ErrorClass, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Self::new(class, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot create the container")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("no space left on device")]
    struct Inner;

    #[derive(Debug, thiserror::Error)]
    #[error("write failed: {0}")]
    struct Repeating(#[source] Inner);

    #[test]
    fn what_has_run_out_is_not_what_is_wrong() {
        let class = |number| ErrorClass::of_io(&io::Error::from_raw_os_error(number));
        for number in [12, 23, 24, 28, 122] {
            assert_eq!(class(number), ErrorClass::ResourceExhausted, "{number}");
        }
        for number in [1, 2, 5, 13, 30] {
            assert_eq!(class(number), ErrorClass::Internal, "{number}");
        }
        let text = io::Error::other("it is no file");
        assert_eq!(ErrorClass::of_io(&text), ErrorClass::InvalidArgument);
        let failure = Failure::new(ErrorClass::DeadlineExceeded, "later");
        let carried = io::Error::other(failure);
        assert_eq!(ErrorClass::of_io(&carried), ErrorClass::DeadlineExceeded);
    }

    #[test]
    fn the_text_holds_every_cause_once() {
        let failure = Failure::from_error(ErrorClass::Internal, &Outer(Inner));
        assert_eq!(
            failure.message,
            "cannot create the container: no space left on device"
        );
        let failure = Failure::from_error(ErrorClass::Internal, &Repeating(Inner));
        assert_eq!(failure.message, "write failed: no space left on device");
    }
}
