//! The processes of a task: its init and those that Exec has added.
//!
//! containerd is told the exit of init last (containerd `docs/runtime-v2.md`): an exit of init
//! that is noticed while other processes still live waits for theirs.

use std::collections::BTreeMap;

use crate::{ErrorClass, Exit, Failure, Lifecycle, Notice, Request, Status};

/// Which process of a task, in containerd's words: empty is init, else the id given to Exec.
pub const INIT: &str = "";

/// An event that has become due, of the process with this id.
pub type Due = (String, Notice);

/// The state machines of a task's processes.
#[derive(Debug, Default)]
pub struct Processes {
    init: Lifecycle,
    /// The exit of init, while others live.
    held: Option<Exit>,
    execs: BTreeMap<String, Lifecycle>,
}

impl Processes {
    /// A task whose Create is under way.
    pub fn new() -> Self {
        Self::default()
    }

    /// What State answers.
    pub fn status(&self, process: &str) -> Result<Status, Failure> {
        if process == INIT && self.held.is_some() {
            return Ok(Status::Stopped);
        }
        self.find(process).map(Lifecycle::status)
    }

    /// How a process ended, once it may be told.
    pub fn exit(&self, process: &str) -> Option<Exit> {
        self.find(process).ok()?.exit()
    }

    /// Whether the task is there to stay: it has been created and is not being deleted.
    pub fn is_established(&self) -> bool {
        self.init.is_established()
    }

    /// Whether `request` is legal for `process` now. See [`Lifecycle::accept`].
    pub fn accept(&mut self, process: &str, request: Request) -> Result<(), Failure> {
        let has_ended = process == INIT && self.held.is_some();
        match request {
            Request::Kill if has_ended => {
                return Err(Failure::new(
                    ErrorClass::NotFound,
                    "the process has already finished",
                ));
            }
            Request::Start if process != INIT => self.accept_exec()?,
            Request::Exec => self.accept_exec()?,
            _ => {}
        }
        self.find_mut(process)?.accept(request)
    }

    /// Whether the task can run one process more.
    fn accept_exec(&mut self) -> Result<(), Failure> {
        let accepted = match self.held {
            Some(_) => Err(Failure::new(
                ErrorClass::FailedPrecondition,
                "it has stopped",
            )),
            None => self.init.accept(Request::Exec),
        };
        accepted.map_err(|failure| Failure::new(failure.class, format!("its task: {failure}")))
    }

    /// Exec has added a process. It is asked for by [`Request::Exec`] of init.
    pub fn add(&mut self, process: &str) -> Result<Vec<Due>, Failure> {
        if process == INIT || self.execs.contains_key(process) {
            return Err(Failure::new(
                ErrorClass::AlreadyExists,
                format!("process {process} exists already"),
            ));
        }
        let mut lifecycle = Lifecycle::new();
        let notices = lifecycle.created();
        self.execs.insert(process.to_owned(), lifecycle);
        Ok(due(process, notices))
    }

    /// Create has succeeded.
    pub fn created(&mut self) -> Vec<Due> {
        due(INIT, self.init.created())
    }

    /// Start of `process` has succeeded.
    pub fn started(&mut self, process: &str) -> Vec<Due> {
        self.change(process, Lifecycle::started)
    }

    /// Start of `process` has failed.
    pub fn start_failed(&mut self, process: &str) -> Vec<Due> {
        self.change(process, Lifecycle::start_failed)
    }

    /// `process` has been reaped.
    pub fn exited(&mut self, process: &str, exit: Exit) -> Vec<Due> {
        if process == INIT && self.execs.values().any(Lifecycle::is_live) {
            self.held.get_or_insert(exit);
            return Vec::new();
        }
        self.change(process, |lifecycle| lifecycle.exited(exit))
    }

    /// The task has been frozen.
    pub fn paused(&mut self) -> Vec<Due> {
        self.change(INIT, Lifecycle::paused)
    }

    /// The task could not be frozen.
    pub fn pause_failed(&mut self) {
        self.init.pause_failed();
    }

    /// The task goes on.
    pub fn resumed(&mut self) -> Vec<Due> {
        self.change(INIT, Lifecycle::resumed)
    }

    /// Delete of `process` has succeeded: init is gone with all others, which [`Request::Delete`]
    /// has made sure of.
    pub fn deleted(&mut self, process: &str, at: u64) -> Vec<Due> {
        if process != INIT {
            self.execs.remove(process);
            return Vec::new();
        }
        due(INIT, self.init.deleted(at))
    }

    /// Delete of `process` has failed.
    pub fn delete_failed(&mut self, process: &str) {
        if let Ok(lifecycle) = self.find_mut(process) {
            lifecycle.delete_failed();
        }
    }

    fn change(
        &mut self,
        process: &str,
        change: impl FnOnce(&mut Lifecycle) -> Vec<Notice>,
    ) -> Vec<Due> {
        let Ok(lifecycle) = self.find_mut(process) else {
            return Vec::new();
        };
        let mut all = due(process, change(lifecycle));
        if !self.execs.values().any(Lifecycle::is_live)
            && let Some(exit) = self.held.take()
        {
            all.extend(due(INIT, self.init.exited(exit)));
        }
        all
    }

    fn find(&self, process: &str) -> Result<&Lifecycle, Failure> {
        match process {
            INIT => Ok(&self.init),
            id => self.execs.get(id).ok_or_else(|| not_found(id)),
        }
    }

    fn find_mut(&mut self, process: &str) -> Result<&mut Lifecycle, Failure> {
        match process {
            INIT => Ok(&mut self.init),
            id => self.execs.get_mut(id).ok_or_else(|| not_found(id)),
        }
    }
}

fn due(process: &str, notices: Vec<Notice>) -> Vec<Due> {
    notices
        .into_iter()
        .map(|notice| (process.to_owned(), notice))
        .collect()
}

fn not_found(process: &str) -> Failure {
    Failure::new(
        ErrorClass::NotFound,
        format!("there is no process {process}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXIT: Exit = Exit { status: 3, at: 42 };

    fn running() -> Processes {
        let mut task = Processes::new();
        task.created();
        task.accept(INIT, Request::Start).unwrap();
        task.started(INIT);
        task
    }

    fn exec(task: &mut Processes, id: &str) {
        task.accept(INIT, Request::Exec).unwrap();
        task.add(id).unwrap();
        task.accept(id, Request::Start).unwrap();
        task.started(id);
    }

    fn class<T: std::fmt::Debug>(result: Result<T, Failure>) -> ErrorClass {
        result.unwrap_err().class
    }

    #[test]
    fn init_ends_last() {
        let mut task = running();
        exec(&mut task, "a");
        assert_eq!(task.exited(INIT, EXIT), []);
        assert_eq!(task.status(INIT).unwrap(), Status::Stopped);
        assert_eq!(
            class(task.accept(INIT, Request::Kill)),
            ErrorClass::NotFound
        );
        assert_eq!(
            task.exited("a", EXIT),
            due("a", vec![Notice::Exited(EXIT)])
                .into_iter()
                .chain(due(INIT, vec![Notice::Exited(EXIT)]))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn exec_is_refused_by_what_the_task_is() {
        let mut task = running();
        exec(&mut task, "a");
        assert_eq!(class(task.add("a")), ErrorClass::AlreadyExists);
        task.add("late").unwrap();
        task.accept(INIT, Request::Pause).unwrap();
        task.paused();
        for (process, request) in [(INIT, Request::Exec), ("late", Request::Start)] {
            let failure = task.accept(process, request).unwrap_err();
            assert_eq!(failure.class, ErrorClass::FailedPrecondition);
            assert!(failure.message.contains("paused"), "{failure}");
        }
        task.resumed();
        task.exited("a", EXIT);
        task.exited(INIT, EXIT);
        for (process, request) in [(INIT, Request::Exec), ("late", Request::Start)] {
            let failure = task.accept(process, request).unwrap_err();
            assert_eq!(failure.class, ErrorClass::FailedPrecondition);
            assert!(failure.message.contains("stopped"), "{failure}");
        }
        assert_eq!(class(task.accept("b", Request::Kill)), ErrorClass::NotFound);
    }

    #[test]
    fn a_process_that_never_started_is_deleted_without_an_event() {
        let mut task = running();
        task.add("a").unwrap();
        task.accept("a", Request::Delete).unwrap();
        assert_eq!(task.deleted("a", 7), []);
        assert_eq!(class(task.status("a")), ErrorClass::NotFound);
    }

    /// One thing that can happen to one of the processes.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Exec,
        Ask(Request),
        StartEnds(bool),
        Exited,
    }

    fn step() -> impl Strategy<Value = (usize, Step)> {
        let step = prop_oneof![
            Just(Step::Exec),
            Just(Step::Ask(Request::Start)),
            Just(Step::Ask(Request::Delete)),
            Just(Step::Ask(Request::Pause)),
            any::<bool>().prop_map(Step::StartEnds),
            Just(Step::Exited),
        ];
        (0usize..3, step)
    }

    proptest! {
        /// Whatever happens in whatever order: no process's exit follows the exit of init, no
        /// exit of a started process is lost, each comes once and after its Start.
        #[test]
        fn the_exit_of_init_is_the_last(steps in prop::collection::vec(step(), 0..60)) {
            let names = [INIT, "a", "b"];
            let mut task = Processes::new();
            let mut events = task.created();
            let mut starting = [false; 3];
            let mut reaped = [false; 3];
            for (which, step) in steps {
                let name = names[which];
                match step {
                    Step::Exec if task.accept(INIT, Request::Exec).is_ok() && !reaped[which] => {
                        events.extend(task.add(name).unwrap_or_default());
                    }
                    Step::Ask(request) if request != Request::Delete || name != INIT => {
                        let accepted = task.accept(name, request).is_ok();
                        starting[which] |= accepted && request == Request::Start;
                    }
                    Step::StartEnds(succeeded) if starting[which] => {
                        starting[which] = false;
                        events.extend(if succeeded {
                            task.started(name)
                        } else {
                            task.start_failed(name)
                        });
                    }
                    // A process is reaped once, after it was made to run.
                    Step::Exited if !reaped[which] => {
                        let runs = starting[which]
                            || events.contains(&(name.to_owned(), Notice::Started));
                        if runs {
                            reaped[which] = true;
                            events.extend(task.exited(name, EXIT));
                        }
                    }
                    _ => {}
                }
            }
            for (which, name) in names.into_iter().enumerate() {
                if starting[which] {
                    events.extend(task.started(name));
                }
            }
            for name in ["a", "b"] {
                let which = names.iter().position(|other| *other == name).unwrap();
                let started = events.contains(&(name.to_owned(), Notice::Started));
                if started && !reaped[which] {
                    events.extend(task.exited(name, EXIT));
                }
            }
            let position = |name: &str, notice: Notice| {
                let wanted = (name.to_owned(), notice);
                events.iter().position(|event| *event == wanted)
            };
            let last = position(INIT, Notice::Exited(EXIT));
            prop_assert_eq!(reaped[0], last.is_some());
            for name in names {
                let exits = events.iter().filter(|event| {
                    event.0 == name && matches!(event.1, Notice::Exited(_))
                });
                prop_assert!(exits.count() <= 1, "{:?}", events);
                let exit = position(name, Notice::Exited(EXIT));
                if let Some(start) = position(name, Notice::Started) {
                    prop_assert!(name == INIT || exit.is_some(), "{:?}", events);
                    prop_assert!(exit.is_none_or(|exit| start < exit), "{:?}", events);
                }
                if let (Some(last), Some(exit)) = (last, exit) {
                    prop_assert!(exit <= last, "{:?}", events);
                }
            }
        }

        /// Whatever is asked for in whatever order, and whichever requests fail or are cancelled: once
        /// all requests have ended and init has been killed, each exec and then the task can be deleted.
        #[test]
        fn a_task_can_always_be_deleted(steps in prop::collection::vec(step(), 0..60)) {
            let names = [INIT, "a", "b"];
            let mut task = Processes::new();
            task.created();
            let mut starting = [false; 3];
            // Those that run or may run: their exit is still to come.
            let mut alive = [true, false, false];
            let mut pausing = false;
            let mut deleting = false;
            for (which, step) in steps {
                let name = names[which];
                match step {
                    Step::Exec if which > 0 && task.accept(INIT, Request::Exec).is_ok() => {
                        let _ = task.add(name);
                    }
                    Step::Ask(request) => {
                        let is_accepted = task.accept(name, request).is_ok();
                        match request {
                            Request::Start => starting[which] |= is_accepted,
                            Request::Pause => pausing |= is_accepted,
                            // The delete of an exec has no operation that could fail.
                            Request::Delete if is_accepted && which > 0 => {
                                task.deleted(name, 7);
                            }
                            Request::Delete => deleting |= is_accepted,
                            _ => {}
                        }
                    }
                    Step::StartEnds(succeeded) if starting[which] => {
                        starting[which] = false;
                        if succeeded {
                            task.started(name);
                            alive[which] |= which > 0;
                        } else {
                            task.start_failed(name);
                        }
                    }
                    Step::StartEnds(succeeded) if pausing => {
                        pausing = false;
                        if succeeded { drop(task.paused()) } else { task.pause_failed() }
                    }
                    // Delete of init fails, or its caller has gone and it is asked for again.
                    Step::StartEnds(_) if deleting => {
                        deleting = false;
                        task.delete_failed(INIT);
                    }
                    Step::Exited if alive[which] => {
                        alive[which] = false;
                        task.exited(name, EXIT);
                    }
                    _ => {}
                }
            }
            // Every request ends, as nobody can cancel it halfway.
            for which in 0..3 {
                if starting[which] {
                    task.start_failed(names[which]);
                }
            }
            if pausing {
                task.pause_failed();
            }
            if deleting {
                task.delete_failed(INIT);
            }
            for which in 0..3 {
                if alive[which] {
                    task.exited(names[which], EXIT);
                }
            }
            for exec in ["a", "b"] {
                if task.status(exec).is_ok() {
                    prop_assert_eq!(task.accept(exec, Request::Delete), Ok(()));
                    task.deleted(exec, 7);
                }
            }
            prop_assert!(task.exit(INIT).is_some());
            prop_assert!(task.is_established());
            prop_assert_eq!(task.accept(INIT, Request::Delete), Ok(()));
            prop_assert!(!task.is_established());
        }
    }
}
