//! The kernel's table of mounts, with any mount points.
#![no_main]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lighter_container::{kernel_mounts, mount_points};
use lighter_fuzz::allocation::bounded;

#[derive(Arbitrary, Debug)]
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    /// Fields like `shared:3` that may be there.
    optional: u8,
    file_system: FileSystem,
    source: &'a str,
}

#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
enum FileSystem {
    Proc,
    Sysfs,
    Cgroup,
    Tmpfs,
    Overlay,
    FuseProc,
}

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Mounts(Vec<Mount<'a>>),
    Any(&'a str),
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Mounts(mounts) => check(&mounts),
    Input::Any(table) => {
        let read = || (kernel_mounts(table), mount_points(table).count());
        let (kernel, all) = bounded(table.len(), 16, read);
        assert!(kernel.len() <= all);
    }
});

fn check(mounts: &[Mount<'_>]) {
    let mut table = String::new();
    for (number, mount) in mounts.iter().enumerate() {
        let optional = "shared:3 ".repeat((mount.optional % 3).into());
        let _ = writeln!(
            table,
            "{number} 1 0:{number} {} {} rw,nosuid {optional}- {} {} rw",
            escaped(&absolute(mount.root)),
            escaped(&absolute(mount.point)),
            mount.file_system.name(),
            escaped(mount.source),
        );
    }
    let all: Vec<PathBuf> = mounts
        .iter()
        .map(|mount| absolute(mount.point).into())
        .collect();
    let mut kernel: Vec<PathBuf> = mounts
        .iter()
        .filter(|mount| mount.file_system.is_kernels())
        .map(|mount| absolute(mount.point).into())
        .collect();
    kernel.reverse();
    let read = || {
        (
            kernel_mounts(&table),
            mount_points(&table).collect::<Vec<_>>(),
        )
    };
    let (found_kernel, found) = bounded(table.len(), 16, read);
    assert_eq!(found_kernel, kernel);
    assert_eq!(found, all);
    assert!(found.iter().all(|path| path.starts_with(Path::new("/"))));
}

/// A path cannot have a NUL.
fn absolute(path: &str) -> String {
    format!("/{}", path.replace('\0', ""))
}

/// As the kernel does it (fs/proc_namespace.c, `mangle`).
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, char| {
        match char {
            ' ' | '\t' | '\n' | '\\' | '#' => {
                let _ = write!(escaped, "\\{:03o}", u32::from(char));
            }
            _ => escaped.push(char),
        }
        escaped
    })
}

impl FileSystem {
    fn name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Sysfs => "sysfs",
            Self::Cgroup => "cgroup",
            Self::Tmpfs => "tmpfs",
            Self::Overlay => "overlay",
            Self::FuseProc => "fuse.proc",
        }
    }

    fn is_kernels(self) -> bool {
        matches!(self, Self::Proc | Self::Sysfs | Self::Cgroup)
    }
}
