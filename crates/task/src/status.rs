//! The one map from an error's class to what goes over the wire.

use lighter_core::{ErrorClass, Failure};
use ttrpc::Code;

/// The ttrpc status of `failure`, by the codes of containerd's `errdefs`.
pub(crate) fn status(failure: &Failure) -> ttrpc::Error {
    let code = match failure.class {
        ErrorClass::InvalidArgument => Code::INVALID_ARGUMENT,
        ErrorClass::NotFound => Code::NOT_FOUND,
        ErrorClass::AlreadyExists => Code::ALREADY_EXISTS,
        ErrorClass::FailedPrecondition => Code::FAILED_PRECONDITION,
        ErrorClass::Unimplemented => Code::UNIMPLEMENTED,
        ErrorClass::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        ErrorClass::ResourceExhausted => Code::RESOURCE_EXHAUSTED,
        // What containerd itself answers for errors that have no class.
        ErrorClass::Internal => Code::UNKNOWN,
    };
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, &failure.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_never_not_found() {
        let failure = Failure::new(ErrorClass::Unimplemented, "exec is not supported");
        let ttrpc::Error::RpcStatus(status) = status(&failure) else {
            panic!()
        };
        assert_eq!(status.code(), Code::UNIMPLEMENTED);
        assert_eq!(status.message, "exec is not supported");
    }
}
