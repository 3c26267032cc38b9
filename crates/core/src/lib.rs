//! The decisions of Lighter without any input or output: which request is legal in which
//! state, in which order events leave, how a process ended, what class an error has.

mod children;
mod counters;
mod exit;
mod failure;
mod id;
mod lifecycle;
mod operation;
mod processes;
mod program;
mod state;

pub use children::{Children, ProcessKey};
pub use counters::{
    COUNTERS_BYTES, Count, Counters, DURATION_BOUNDS, RequestEnd, Snapshot, TrapKind,
};
pub use exit::ExitReason;
pub use failure::{ErrorClass, Failure};
pub use id::{ContainerId, InvalidContainerId};
pub use lifecycle::{Exit, Lifecycle, Notice, Request, Status};
pub use operation::{
    Answer, BlockDevice, Created, Descriptor, DeviceCounter, Executed, HugePages, MemoryData,
    Message, Mount, RuntimeOptions, Statistics, StatisticsV1, StatisticsV2, Stdio,
};
pub use processes::{Due, INIT, Processes};
pub use program::{PROGRAM_MARK, keep_program_mark};
pub use state::{
    COUNTERS_FILE, ENDED_FOLDER, KEPT_FOR, MOST_KEPT, ProcessTimes, STATE_FILE, STATE_ROOT,
};
