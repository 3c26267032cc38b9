//! Notices of a task's life as containerd's events.

use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::MessageFull;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::topics;
use lighter_core::{Exit, INIT, Notice};

use crate::tasks::Task;

/// An event and the topic it is published under.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: &'static str,
    pub(crate) message: Any,
}

/// The event that `notice` of a process of task `id` is for containerd. Nothing for an exec that
/// was deleted: containerd knows tasks only.
pub(crate) fn event(id: &str, task: &Task, process: &str, notice: Notice) -> Option<Event> {
    let pid = task.process(process).map_or(0, |process| process.pid);
    let (container_id, pid) = (id.to_owned(), pid.unsigned_abs());
    let is_init = process == INIT;
    Some(match notice {
        Notice::Created if is_init => {
            let mut created = TaskCreate::new();
            created.container_id = container_id;
            created.bundle = task.bundle.display().to_string();
            created.pid = pid;
            let io = created.io.mut_or_insert_default();
            io.stdin.clone_from(&task.init.stdio.stdin);
            io.stdout.clone_from(&task.init.stdio.stdout);
            io.stderr.clone_from(&task.init.stdio.stderr);
            io.terminal = task.init.stdio.terminal;
            pack(topics::TASK_CREATE_EVENT_TOPIC, &created)
        }
        Notice::Created => {
            let mut added = TaskExecAdded::new();
            added.container_id = container_id;
            added.exec_id = process.to_owned();
            pack(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &added)
        }
        Notice::Started if is_init => {
            let mut started = TaskStart::new();
            started.container_id = container_id;
            started.pid = pid;
            pack(topics::TASK_START_EVENT_TOPIC, &started)
        }
        Notice::Started => {
            let mut started = TaskExecStarted::new();
            started.container_id = container_id;
            started.exec_id = process.to_owned();
            started.pid = pid;
            pack(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &started)
        }
        Notice::Exited(exit) => {
            let mut exited = TaskExit::new();
            exited.id = if is_init { id } else { process }.to_owned();
            exited.container_id = container_id;
            exited.pid = pid;
            exited.exit_status = exit.status.into();
            exited.exited_at = Some(timestamp(exit)).into();
            pack(topics::TASK_EXIT_EVENT_TOPIC, &exited)
        }
        Notice::Paused => {
            let mut paused = TaskPaused::new();
            paused.container_id = container_id;
            pack(topics::TASK_PAUSED_EVENT_TOPIC, &paused)
        }
        Notice::Resumed => {
            let mut resumed = TaskResumed::new();
            resumed.container_id = container_id;
            pack(topics::TASK_RESUMED_EVENT_TOPIC, &resumed)
        }
        Notice::Deleted(exit) if is_init => {
            let mut deleted = TaskDelete::new();
            deleted.container_id = container_id;
            deleted.pid = pid;
            deleted.exit_status = exit.status.into();
            deleted.exited_at = Some(timestamp(exit)).into();
            pack(topics::TASK_DELETE_EVENT_TOPIC, &deleted)
        }
        Notice::Deleted(_) => return None,
    })
}

/// The event of a container that has run out of memory.
pub(crate) fn out_of_memory(id: &str) -> Event {
    let mut event = TaskOOM::new();
    event.container_id = id.to_owned();
    pack(topics::TASK_OOM_EVENT_TOPIC, &event)
}

/// When a process ended.
pub(crate) fn timestamp(exit: Exit) -> Timestamp {
    let mut timestamp = Timestamp::new();
    timestamp.seconds = (exit.at / 1_000_000_000).cast_signed();
    timestamp.nanos = (exit.at % 1_000_000_000) as i32;
    timestamp
}

fn pack<M: MessageFull>(topic: &'static str, message: &M) -> Event {
    Event {
        topic,
        message: any(message),
    }
}

/// `message` in an `Any` with the type's bare name, which is what containerd's typeurl reads.
pub(crate) fn any<M: MessageFull>(message: &M) -> Any {
    let mut any = Any::new();
    any.type_url = M::descriptor().full_name().to_owned();
    // Encoding into memory fails only for messages above 2 GiB.
    any.value = message.write_to_bytes().unwrap_or_default();
    any
}
