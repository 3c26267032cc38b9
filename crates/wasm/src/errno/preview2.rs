//! `wasi:filesystem/types` 0.2, whose errors are converted in one place.

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry,
    DirectoryEntryStream, ErrorCode, Filesize, Host, HostDescriptor, HostDirectoryEntryStream,
    MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::error_code;
use crate::state::State;

/// wasmtime-wasi's file system, but for the errors.
struct Files<'a>(WasiFilesystemCtxView<'a>);

struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = Files<'a>;
}

/// Replaces what wasmtime-wasi has added.
pub(crate) fn add_to_component_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    types::add_to_linker::<State, HasFiles>(linker, |state| Files(state.filesystem()))?;
    linker.allow_shadowing(false);
    Ok(())
}

impl Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.0.convert_error_code(error).map(error_code)
    }

    /// Of an error of a stream.
    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let code = self.0.filesystem_error_code(error)?;
        Ok(code.map(error_code))
    }
}

/// Methods that are wasmtime-wasi's.
macro_rules! forward {
    ($trait:ident: $($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {$(
        async fn $name(&mut self, $($argument: $kind),*) -> $answer {
            $trait::$name(&mut self.0, $($argument),*).await
        }
    )*};
}

/// A folder or file of the guest.
type Opened = Resource<Descriptor>;

impl HostDescriptor for Files<'_> {
    forward! { HostDescriptor:
        advise(fd: Opened, offset: Filesize, length: Filesize, advice: Advice) -> FsResult<()>;
        sync_data(fd: Opened) -> FsResult<()>;
        get_flags(fd: Opened) -> FsResult<DescriptorFlags>;
        get_type(fd: Opened) -> FsResult<DescriptorType>;
        set_size(fd: Opened, size: Filesize) -> FsResult<()>;
        set_times(fd: Opened, accessed: NewTimestamp, modified: NewTimestamp) -> FsResult<()>;
        read(fd: Opened, length: Filesize, offset: Filesize) -> FsResult<(Vec<u8>, bool)>;
        write(fd: Opened, bytes: Vec<u8>, offset: Filesize) -> FsResult<Filesize>;
        read_directory(fd: Opened) -> FsResult<Resource<DirectoryEntryStream>>;
        sync(fd: Opened) -> FsResult<()>;
        create_directory_at(fd: Opened, path: String) -> FsResult<()>;
        stat(fd: Opened) -> FsResult<DescriptorStat>;
        stat_at(fd: Opened, flags: PathFlags, path: String) -> FsResult<DescriptorStat>;
        set_times_at(
            fd: Opened, flags: PathFlags, path: String, accessed: NewTimestamp,
            modified: NewTimestamp
        ) -> FsResult<()>;
        link_at(fd: Opened, flags: PathFlags, old: String, new_fd: Opened, new: String)
            -> FsResult<()>;
        open_at(
            fd: Opened, flags: PathFlags, path: String, open: OpenFlags, wanted: DescriptorFlags
        ) -> FsResult<Opened>;
        readlink_at(fd: Opened, path: String) -> FsResult<String>;
        remove_directory_at(fd: Opened, path: String) -> FsResult<()>;
        rename_at(fd: Opened, old: String, new_fd: Opened, new: String) -> FsResult<()>;
        symlink_at(fd: Opened, old: String, new: String) -> FsResult<()>;
        unlink_file_at(fd: Opened, path: String) -> FsResult<()>;
        is_same_object(one: Opened, other: Opened) -> wasmtime::Result<bool>;
        metadata_hash(fd: Opened) -> FsResult<MetadataHashValue>;
        metadata_hash_at(fd: Opened, flags: PathFlags, path: String)
            -> FsResult<MetadataHashValue>;
    }

    fn read_via_stream(
        &mut self,
        fd: Opened,
        offset: Filesize,
    ) -> FsResult<Resource<DynInputStream>> {
        self.0.read_via_stream(fd, offset)
    }

    fn write_via_stream(
        &mut self,
        fd: Opened,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.0.write_via_stream(fd, offset)
    }

    fn append_via_stream(&mut self, fd: Opened) -> FsResult<Resource<DynOutputStream>> {
        self.0.append_via_stream(fd)
    }

    fn drop(&mut self, fd: Opened) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.0, fd)
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    forward! { HostDirectoryEntryStream:
        read_directory_entry(stream: Resource<DirectoryEntryStream>)
            -> FsResult<Option<DirectoryEntry>>;
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.0, stream)
    }
}
