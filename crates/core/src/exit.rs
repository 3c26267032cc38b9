//! How a process of a container ended, and the number that stands for it.

/// Why a process of a container ended.
///
/// containerd carries one number, [`ExitReason::status`]; the reasons are kept apart so that
/// each can be told, logged and counted as what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The process returned from its entrypoint or called exit.
    Exited(u8),
    /// The guest trapped: an out-of-bounds access, an `unreachable`, an exhausted stack.
    Trapped,
    /// A signal ended the process.
    Signaled(u8),
    /// The kernel killed the process because its cgroup ran out of memory.
    OutOfMemory,
    /// Lighter itself could not run the guest.
    HostFailure,
}

impl ExitReason {
    /// Status of a guest that trapped: what a shell shows for a process ended by SIGABRT.
    pub const TRAP_STATUS: u8 = 134;
    /// Status when Lighter itself failed: the one `docker run` uses for its own failures.
    pub const HOST_FAILURE_STATUS: u8 = 125;

    /// The exit status that `ctr`, `docker` and `kubectl` show, 0 to 255.
    ///
    /// A signal `n` gives `128 + n`, as a shell does and containerd expects of a shim.
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Trapped => Self::TRAP_STATUS,
            Self::Signaled(signal) => 128u8.saturating_add(signal),
            Self::OutOfMemory => 137,
            Self::HostFailure => Self::HOST_FAILURE_STATUS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_the_status_that_users_know() {
        assert_eq!(ExitReason::Exited(7).status(), 7);
        assert_eq!(ExitReason::Trapped.status(), 134);
        assert_eq!(ExitReason::Signaled(15).status(), 143);
        assert_eq!(ExitReason::Signaled(9).status(), 137);
        assert_eq!(ExitReason::Signaled(64).status(), 192);
        assert_eq!(ExitReason::OutOfMemory.status(), 137);
        assert_eq!(ExitReason::HostFailure.status(), 125);
    }
}
