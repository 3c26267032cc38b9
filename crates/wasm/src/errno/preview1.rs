//! The functions of preview 1 that ask the kernel for something of a file.

use wasmtime::{Caller, Extern, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as functions;
use wiggle::GuestMemory;

use super::errno;
use crate::state::State;

/// Replaces functions by ones that call them and answer with the kernel's error. The rest is what
/// wiggle makes of each.
macro_rules! replace {
    ($linker:ident: $($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        $linker.func_wrap_async(
            "wasi_snapshot_preview1",
            stringify!($name),
            |mut caller: Caller<'_, State>, ($($argument,)*): ($($kind,)*)| {
                Box::new(async move {
                    let fuel = caller.as_context_mut().hostcall_fuel();
                    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
                        wasmtime::bail!("missing required memory export");
                    };
                    let (bytes, state) = memory.data_and_store_mut(&mut caller);
                    let context = state.preview1();
                    functions::WasiSnapshotPreview1::set_hostcall_fuel(context, fuel);
                    let mut memory = GuestMemory::Unshared(bytes);
                    let answer = functions::$name(context, &mut memory, $($argument),*).await;
                    answer.map(errno)
                })
            },
        )?;
    )*};
}

/// Replaces what wasmtime-wasi has added.
pub(crate) fn add_to_module_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use wasmtime::AsContextMut;
    replace! { linker:
        fd_advise(fd: i32, offset: i64, length: i64, advice: i32);
        fd_datasync(fd: i32);
        fd_filestat_get(fd: i32, stat: i32);
        fd_filestat_set_size(fd: i32, size: i64);
        fd_filestat_set_times(fd: i32, accessed: i64, modified: i64, flags: i32);
        fd_pread(fd: i32, parts: i32, count: i32, offset: i64, read: i32);
        fd_pwrite(fd: i32, parts: i32, count: i32, offset: i64, written: i32);
        fd_read(fd: i32, parts: i32, count: i32, read: i32);
        fd_readdir(fd: i32, buffer: i32, length: i32, cookie: i64, used: i32);
        fd_sync(fd: i32);
        fd_write(fd: i32, parts: i32, count: i32, written: i32);
        path_create_directory(fd: i32, path: i32, length: i32);
        path_filestat_get(fd: i32, flags: i32, path: i32, length: i32, stat: i32);
        path_filestat_set_times(
            fd: i32, lookup: i32, path: i32, length: i32, accessed: i64, modified: i64, flags: i32
        );
        path_link(
            old_fd: i32, flags: i32, old: i32, old_length: i32, fd: i32, new: i32, new_length: i32
        );
        path_open(
            fd: i32, lookup: i32, path: i32, length: i32, open: i32, base: i64, inheriting: i64,
            flags: i32, opened: i32
        );
        path_readlink(fd: i32, path: i32, length: i32, buffer: i32, size: i32, used: i32);
        path_remove_directory(fd: i32, path: i32, length: i32);
        path_rename(fd: i32, old: i32, old_length: i32, new_fd: i32, new: i32, new_length: i32);
        path_symlink(old: i32, old_length: i32, fd: i32, new: i32, new_length: i32);
        path_unlink_file(fd: i32, path: i32, length: i32);
    }
    Ok(())
}
