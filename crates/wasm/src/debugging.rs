//! What a guest leaves for whoever looks for a fault: a core dump, a profile.
//!
//! ```text
//!  Create, on the host                                  the guest's process
//!  DebugFolder::record --open files, root's, 0600-->    Recorder: writes to them, knows no path
//!  Delete
//!  DebugFolder::settle: what is empty goes
//! ```
//!
//! A pod asks by annotation for what the node's owner allows. Without that nothing is opened and
//! nothing here runs.

mod core_dump;
mod folder;
mod profile;
mod recorder;
mod symbol;

use std::fmt;

pub use self::folder::{DebugError, DebugFolder, Record, Recorded, Subject};
pub(crate) use self::profile::DEEPEST_STACK;
pub(crate) use self::recorder::Recorder;

/// The section of a core dump that holds what the container's log says of the trap.
pub const TRAP_SECTION: &str = "lighter-trap";

/// What can be recorded of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// Memory, globals and stack of the first trap, as a Wasm core dump.
    CoreDump,
    /// Where the guest's own code spends its time.
    Profile,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::CoreDump, Self::Profile];

    /// The word for it in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::CoreDump => "coredump",
            Self::Profile => "profile",
        }
    }

    /// The tool called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    /// The file that it writes, in the folder of its container.
    pub fn file(self) -> &'static str {
        match self {
            Self::CoreDump => "coredump.wasm",
            Self::Profile => "profile.folded",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
