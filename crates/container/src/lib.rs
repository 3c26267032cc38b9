//! Containers by youki's libcontainer, each operation in a forked process of its own.
//!
//! libcontainer forks, changes the working directory, the OOM score and other state of the
//! whole process, and blocks. The shim serves, so it does none of that: [`Operation::fork`]
//! runs the work in a child that lives as long as the operation and answers by one message.
//! The container's init becomes a child of the shim, not of the operation.

mod cgroup_files;
mod child;
mod console;
mod copy_up;
mod counters;
mod create;
mod cwd;
mod descriptors;
mod dev;
mod devices;
mod diagnosis;
mod entrypoint;
mod exec;
mod executor;
mod fork;
mod guest_filter;
mod guest_privileges;
mod guest_view;
mod hooks;
mod id_mappings;
mod idmapped_rootfs;
mod init;
mod keyring;
mod late_mounts;
mod limits;
mod logger;
mod loopback;
mod manage;
mod memory_limit;
mod memory_map;
mod memory_watch;
mod mount_points;
mod mount_tree;
mod namespace;
mod native_spec;
mod native_view;
mod rootfs;
mod running_init;
mod spec_file;
mod staged_volumes;
mod state_dir;
mod statistics;
mod stdio;
mod title;
mod trace;
mod update;
mod user_namespace;
mod validation;
mod volume_plan;
mod warnings;

pub use child::{apart, detached};
pub use create::{CreateRequest, create};
pub use exec::{ExecRequest, exec};
pub use executor::{Guest, GuestContext, GuestProcess, Workload};
pub use fork::{Operation, ShimLink, pin_name_service};
pub use guest_view::{kernel_mounts, mount_points};
pub use logger::command as logger_command;
pub use manage::{ContainerLocation, pause, pids, remove, resume, signal_all, start};
pub use memory_limit::MemoryLimit;
pub use rootfs::mount_options;
pub use statistics::statistics;
pub use title::find_process_title;
pub use trace::TraceRequest;
pub use update::update;
pub use warnings::warn;
