//! The life of a process of a task: which request is legal when, and which event leaves when.
//!
//! ```text
//!            created            start            started          pause, resume
//!  Creating --------> Created --------> Starting --------> Running <--------> Paused
//!     |                  |                  |                 |                 |
//!     | (create failed:  | exited           | exited: held    | exited          | exited
//!     |  the task is     v                  v until Start     v                 v
//!     |  forgotten)   Stopped <---------------is answered-- Stopped <-----------+ --delete--> gone
//! ```
//!
//! An exit that is noticed while Start is under way is held, so that containerd never sees an
//! Exit before the Start it belongs to. If Start fails the held exit leaves without a Start.
//! Processes that Exec adds live by the same rules, but are never paused: the task is.

use crate::{ErrorClass, Failure};

/// A call of the task API on an existing task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Let the created process run.
    Start,
    /// Send a signal.
    Kill,
    /// Remove what is left.
    Delete,
    /// Read the cgroup's counters.
    Statistics,
    /// List processes.
    Pids,
    /// Stop all processes for a while.
    Pause,
    /// Let them go on.
    Resume,
    /// Change limits.
    Update,
    /// Add a process, or start one that was added.
    Exec,
    /// Change the size of the terminal.
    Resize,
}

/// What `ctr tasks ls` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Set up, the entrypoint has not run.
    Created,
    /// The entrypoint runs.
    Running,
    /// It is about to be frozen.
    Pausing,
    /// It is frozen.
    Paused,
    /// Init has ended.
    Stopped,
}

/// How and when init ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit status as of [`crate::ExitReason::status`].
    pub status: u8,
    /// Time of the exit, nanoseconds since 1970.
    pub at: u64,
}

/// An event that has become due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The task exists.
    Created,
    /// The entrypoint runs.
    Started,
    /// The process has ended.
    Exited(Exit),
    /// The task is gone.
    Deleted(Exit),
    /// All processes are frozen.
    Paused,
    /// They go on.
    Resumed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Creating,
    Created,
    Starting(Option<Exit>),
    Running,
    Pausing,
    Paused,
    Stopped(Exit),
}

/// The state machine of one process.
#[derive(Debug)]
pub struct Lifecycle {
    phase: Phase,
    deleting: bool,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// A task whose Create is under way.
    pub fn new() -> Self {
        Self {
            phase: Phase::Creating,
            deleting: false,
        }
    }

    /// What State answers.
    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Creating | Phase::Created | Phase::Starting(None) => Status::Created,
            Phase::Running => Status::Running,
            Phase::Pausing => Status::Pausing,
            Phase::Paused => Status::Paused,
            Phase::Starting(Some(_)) | Phase::Stopped(_) => Status::Stopped,
        }
    }

    /// How init ended, once it may be told.
    pub fn exit(&self) -> Option<Exit> {
        match self.phase {
            Phase::Stopped(exit) => Some(exit),
            _ => None,
        }
    }

    /// Whether the process runs, or is about to: its exit is still to come.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(
            self.phase,
            Phase::Creating | Phase::Created | Phase::Stopped(_)
        )
    }

    /// Whether the process is there to stay: it has been created and is not being deleted.
    pub(crate) fn is_established(&self) -> bool {
        self.phase != Phase::Creating && !self.deleting
    }

    /// Whether `request` is legal now; the error is what containerd is answered.
    ///
    /// A legal Start, Pause or Delete counts as under way: the same request is refused until
    /// it has been answered.
    pub fn accept(&mut self, request: Request) -> Result<(), Failure> {
        use Phase::{Created, Creating, Paused, Pausing, Running, Starting, Stopped};
        match (request, self.phase) {
            // Only what has ended, or is ended by this, is deleted: a client that stops it
            // meanwhile has what it wants.
            (Request::Kill, _) if self.deleting => Err(finished()),
            _ if self.deleting => Err(precondition("it is being deleted")),
            (_, Creating) => Err(precondition("it is still being created")),
            (Request::Start, Created) => {
                self.phase = Starting(None);
                Ok(())
            }
            (Request::Start, Starting(_)) => Err(precondition("it is already starting")),
            (Request::Start, Running | Pausing | Paused) => {
                Err(precondition("it is already running"))
            }
            (Request::Start, Stopped(_)) => Err(precondition(
                "it has stopped; delete it and create a new one",
            )),
            (Request::Kill, Stopped(_) | Starting(Some(_))) => Err(finished()),
            (Request::Delete, Created | Stopped(_)) => {
                self.deleting = true;
                Ok(())
            }
            (Request::Delete, Starting(_) | Running | Pausing | Paused) => {
                Err(precondition("it is running; stop it before it is deleted"))
            }
            (Request::Pause, Running) => {
                self.phase = Pausing;
                Ok(())
            }
            (Request::Pause, Pausing | Paused) => Err(precondition("it is paused already")),
            (Request::Resume, Paused) => Ok(()),
            (Request::Resume, _) => Err(precondition("it is not paused")),
            (Request::Exec, Pausing | Paused) => Err(precondition("it is paused; resume it first")),
            (Request::Pause, Created | Starting(None)) => Err(precondition("it is not running")),
            (
                Request::Pause | Request::Exec | Request::Update | Request::Resize,
                Stopped(_) | Starting(Some(_)),
            ) => Err(precondition("it has stopped")),
            (
                Request::Kill
                | Request::Statistics
                | Request::Pids
                | Request::Update
                | Request::Exec
                | Request::Resize,
                _,
            ) => Ok(()),
        }
    }

    /// All processes have been frozen.
    pub fn paused(&mut self) -> Vec<Notice> {
        match self.phase {
            Phase::Pausing => {
                self.phase = Phase::Paused;
                vec![Notice::Paused]
            }
            _ => Vec::new(),
        }
    }

    /// They could not be frozen, and run.
    pub fn pause_failed(&mut self) {
        if let Phase::Pausing = self.phase {
            self.phase = Phase::Running;
        }
    }

    /// They go on.
    pub fn resumed(&mut self) -> Vec<Notice> {
        match self.phase {
            Phase::Paused => {
                self.phase = Phase::Running;
                vec![Notice::Resumed]
            }
            _ => Vec::new(),
        }
    }

    /// Create has succeeded.
    pub fn created(&mut self) -> Vec<Notice> {
        match self.phase {
            Phase::Creating => {
                self.phase = Phase::Created;
                vec![Notice::Created]
            }
            _ => Vec::new(),
        }
    }

    /// Start has succeeded: Start is due, and then an exit that was held for it.
    pub fn started(&mut self) -> Vec<Notice> {
        match self.phase {
            Phase::Starting(None) => {
                self.phase = Phase::Running;
                vec![Notice::Started]
            }
            Phase::Starting(Some(exit)) => {
                self.phase = Phase::Stopped(exit);
                vec![Notice::Started, Notice::Exited(exit)]
            }
            _ => Vec::new(),
        }
    }

    /// Start has failed: the task is what it was, or stopped if init ended meanwhile.
    pub fn start_failed(&mut self) -> Vec<Notice> {
        match self.phase {
            Phase::Starting(None) => {
                self.phase = Phase::Created;
                Vec::new()
            }
            Phase::Starting(Some(exit)) => {
                self.phase = Phase::Stopped(exit);
                vec![Notice::Exited(exit)]
            }
            _ => Vec::new(),
        }
    }

    /// Init has been reaped. A second exit of the same task is ignored.
    pub fn exited(&mut self, exit: Exit) -> Vec<Notice> {
        match self.phase {
            Phase::Starting(None) => {
                self.phase = Phase::Starting(Some(exit));
                Vec::new()
            }
            Phase::Created | Phase::Running | Phase::Pausing | Phase::Paused => {
                self.phase = Phase::Stopped(exit);
                vec![Notice::Exited(exit)]
            }
            Phase::Creating | Phase::Starting(Some(_)) | Phase::Stopped(_) => Vec::new(),
        }
    }

    /// Delete has succeeded. `at` is used for a task that was deleted before it ever ran and
    /// whose init has not been reaped yet.
    pub fn deleted(&mut self, at: u64) -> Vec<Notice> {
        let exit = self.exit().unwrap_or(Exit { status: 137, at });
        let mut notices = self.exited(exit);
        self.phase = Phase::Stopped(exit);
        notices.push(Notice::Deleted(exit));
        notices
    }

    /// Delete has failed and may be asked for again.
    pub fn delete_failed(&mut self) {
        self.deleting = false;
    }
}

/// As containerd and its clients know it, who take it for success.
fn finished() -> Failure {
    Failure::new(ErrorClass::NotFound, "the process has already finished")
}

fn precondition(message: &str) -> Failure {
    Failure::new(ErrorClass::FailedPrecondition, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXIT: Exit = Exit { status: 3, at: 42 };

    fn running() -> Lifecycle {
        let mut task = Lifecycle::new();
        task.created();
        task.accept(Request::Start).unwrap();
        task.started();
        task
    }

    fn class(task: &mut Lifecycle, request: Request) -> Option<ErrorClass> {
        task.accept(request).err().map(|failure| failure.class)
    }

    #[test]
    fn refusals_carry_the_class_that_containerd_expects() {
        let mut task = running();
        let precondition = Some(ErrorClass::FailedPrecondition);
        assert_eq!(class(&mut task, Request::Start), precondition);
        assert_eq!(class(&mut task, Request::Delete), precondition);
        assert_eq!(class(&mut task, Request::Kill), None);
        task.exited(EXIT);
        assert_eq!(class(&mut task, Request::Kill), Some(ErrorClass::NotFound));
        assert_eq!(class(&mut task, Request::Start), precondition);
        assert_eq!(class(&mut task, Request::Statistics), None);
        assert_eq!(class(&mut task, Request::Delete), None);
        assert_eq!(class(&mut task, Request::Delete), precondition);
    }

    #[test]
    fn an_exit_during_start_waits_for_start() {
        let mut task = Lifecycle::new();
        task.created();
        task.accept(Request::Start).unwrap();
        assert_eq!(task.exited(EXIT), []);
        assert_eq!(task.exit(), None);
        assert_eq!(task.started(), [Notice::Started, Notice::Exited(EXIT)]);
        assert_eq!(task.exit(), Some(EXIT));
    }

    #[test]
    fn a_failed_start_lets_the_exit_go() {
        let mut task = Lifecycle::new();
        task.created();
        task.accept(Request::Start).unwrap();
        task.exited(EXIT);
        assert_eq!(task.start_failed(), [Notice::Exited(EXIT)]);
        assert_eq!(task.status(), Status::Stopped);
    }

    #[test]
    fn a_created_task_can_be_deleted() {
        let mut task = Lifecycle::new();
        task.created();
        task.accept(Request::Delete).unwrap();
        let killed = Exit { status: 137, at: 7 };
        assert_eq!(
            task.deleted(7),
            [Notice::Exited(killed), Notice::Deleted(killed)]
        );
    }

    /// One thing that can happen to a task, in any order.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Created,
        Ask(Request),
        StartEnds(bool),
        PauseEnds(bool),
        ResumeEnds,
        Exited,
        DeleteEnds(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Created),
            Just(Step::Ask(Request::Start)),
            Just(Step::Ask(Request::Kill)),
            Just(Step::Ask(Request::Delete)),
            Just(Step::Ask(Request::Statistics)),
            Just(Step::Ask(Request::Pids)),
            Just(Step::Ask(Request::Pause)),
            Just(Step::Ask(Request::Resume)),
            any::<bool>().prop_map(Step::PauseEnds),
            Just(Step::ResumeEnds),
            any::<bool>().prop_map(Step::StartEnds),
            Just(Step::Exited),
            any::<bool>().prop_map(Step::DeleteEnds),
        ]
    }

    fn rank(notice: &Notice) -> u8 {
        match notice {
            Notice::Created => 0,
            Notice::Started => 1,
            Notice::Paused | Notice::Resumed => 2,
            Notice::Exited(_) => 3,
            Notice::Deleted(_) => 4,
        }
    }

    proptest! {
        /// Whatever the order of requests, answers and exits: each event leaves at most once,
        /// in the order Create, Start, Exit, Delete, Paused and Resumed take turns between Start
        /// and Exit, and no exit of a reaped init is lost.
        #[test]
        fn events_leave_in_order_and_once(steps in prop::collection::vec(step(), 0..40)) {
            let mut task = Lifecycle::new();
            let mut notices = Vec::new();
            let mut starting = false;
            let mut deleting = false;
            let mut pausing = false;
            let mut reaped = false;
            for step in steps {
                match step {
                    Step::Created => notices.extend(task.created()),
                    Step::Ask(request) => {
                        let accepted = task.accept(request).is_ok();
                        starting |= accepted && request == Request::Start;
                        deleting |= accepted && request == Request::Delete;
                        pausing |= accepted && request == Request::Pause;
                    }
                    Step::PauseEnds(succeeded) if pausing => {
                        pausing = false;
                        if succeeded { notices.extend(task.paused()) } else { task.pause_failed() }
                    }
                    Step::ResumeEnds => notices.extend(task.resumed()),
                    Step::StartEnds(succeeded) if starting => {
                        starting = false;
                        notices.extend(if succeeded { task.started() } else { task.start_failed() });
                    }
                    Step::Exited if !notices.is_empty() => {
                        reaped = true;
                        notices.extend(task.exited(EXIT));
                    }
                    Step::DeleteEnds(true) if deleting => {
                        notices.extend(task.deleted(99));
                        break;
                    }
                    Step::DeleteEnds(false) if deleting => {
                        deleting = false;
                        task.delete_failed();
                    }
                    _ => {}
                }
            }
            if starting {
                notices.extend(task.started());
            }
            let ranks: Vec<u8> = notices.iter().map(rank).collect();
            for pair in notices.windows(2) {
                let takes_turns = matches!(
                    pair,
                    [Notice::Paused, Notice::Resumed] | [Notice::Resumed, Notice::Paused]
                );
                prop_assert!(rank(&pair[0]) < rank(&pair[1]) || takes_turns, "{notices:?}");
            }
            prop_assert_eq!(reaped && !ranks.contains(&3), false);
            prop_assert_eq!(ranks.contains(&4) && !ranks.contains(&3), false);
        }
    }
}
