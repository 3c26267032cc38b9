//! Notices of a task's life as containerd's events.

use containerd_shim_protos::events::task::{TaskCreate, TaskDelete, TaskExit, TaskStart};
use containerd_shim_protos::protobuf::MessageFull;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::topics;
use lighter_core::{Exit, Notice};

use crate::tasks::Task;

/// An event and the topic it is published under.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: &'static str,
    pub(crate) message: Any,
}

/// The event that `notice` of task `id` is for containerd.
pub(crate) fn event(id: &str, task: &Task, notice: Notice) -> Event {
    let (container_id, pid) = (id.to_owned(), task.pid.unsigned_abs());
    match notice {
        Notice::Created => {
            let mut created = TaskCreate::new();
            created.container_id = container_id;
            created.bundle = task.bundle.display().to_string();
            created.pid = pid;
            let io = created.io.mut_or_insert_default();
            io.stdin.clone_from(&task.stdio.stdin);
            io.stdout.clone_from(&task.stdio.stdout);
            io.stderr.clone_from(&task.stdio.stderr);
            pack(topics::TASK_CREATE_EVENT_TOPIC, &created)
        }
        Notice::Started => {
            let mut started = TaskStart::new();
            started.container_id = container_id;
            started.pid = pid;
            pack(topics::TASK_START_EVENT_TOPIC, &started)
        }
        Notice::Exited(exit) => {
            let mut exited = TaskExit::new();
            exited.id.clone_from(&container_id);
            exited.container_id = container_id;
            exited.pid = pid;
            exited.exit_status = exit.status.into();
            exited.exited_at = Some(timestamp(exit)).into();
            pack(topics::TASK_EXIT_EVENT_TOPIC, &exited)
        }
        Notice::Deleted(exit) => {
            let mut deleted = TaskDelete::new();
            deleted.container_id = container_id;
            deleted.pid = pid;
            deleted.exit_status = exit.status.into();
            deleted.exited_at = Some(timestamp(exit)).into();
            pack(topics::TASK_DELETE_EVENT_TOPIC, &deleted)
        }
    }
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
