//! What a process of a container has open before it becomes its program.
//!
//! libcontainer marks what it has open to be closed by execve. That is too late: the kernel resolves
//! the path of a script's interpreter first, and `#!/proc/self/fd/N/...` leads wherever descriptor N
//! does (the class of CVE-2024-21626). So all that is not needed is closed before any path of the
//! container is looked up.
// poll and fstat of a number that may be no descriptor have no safe form.
#![allow(unsafe_code)]

use std::os::fd::RawFd;

use crate::fork::close_all_but;

/// Descriptors that are looked at together. The kernel gives out the lowest free number, so
/// that nothing is open behind so many that are not.
const CHUNK: RawFd = 32;

/// Closes every descriptor but stdio and `keep`.
///
/// Only for a process that ends by exec or `_exit`.
pub(crate) fn close_others(keep: impl IntoIterator<Item = RawFd>) {
    let mut kept = vec![0, 1, 2];
    kept.extend(keep.into_iter().filter(|fd| *fd > 2));
    kept.sort_unstable();
    kept.dedup();
    close_all_but(&kept);
}

/// The sockets that are open: libcontainer's init hears of Start by one. One that is not found, behind
/// [`CHUNK`] numbers that are not open, is missing.
pub(crate) fn sockets() -> Vec<RawFd> {
    let mut sockets = Vec::new();
    let mut first = 3;
    loop {
        let open = open_descriptors(first);
        if open.is_empty() {
            return sockets;
        }
        sockets.extend(open.into_iter().filter(|fd| is_socket(*fd)));
        first += CHUNK;
    }
}

/// Those from `first` on, of one chunk, that are open.
fn open_descriptors(first: RawFd) -> Vec<RawFd> {
    let numbers = first..first + CHUNK;
    let mut polled: Vec<libc::pollfd> = numbers
        .map(|fd| libc::pollfd {
            fd,
            events: 0,
            revents: 0,
        })
        .collect();
    // SAFETY: the kernel writes to as many structures as there are, and waits for nothing.
    let result = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, 0) };
    polled
        .into_iter()
        // A limit below the chunk (RLIMIT_NOFILE) is an error: then each is asked for itself.
        .filter(|each| match result {
            0.. => each.revents & libc::POLLNVAL == 0,
            _ => file_type(each.fd).is_some(),
        })
        .map(|each| each.fd)
        .collect()
}

fn is_socket(fd: RawFd) -> bool {
    file_type(fd) == Some(libc::S_IFSOCK)
}

/// The type of the file that a number stands for, if it is a descriptor.
fn file_type(fd: RawFd) -> Option<libc::mode_t> {
    // SAFETY: all zeros is a valid `stat`, and the kernel fills it.
    let (result, stat) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut stat), stat)
    };
    (result == 0).then_some(stat.st_mode & libc::S_IFMT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::Operation;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    /// In a process of its own: what is closed belongs to others.
    #[test]
    fn directories_and_files_are_closed_and_sockets_stay() {
        let operation = Operation::fork(|_| {
            let open = |path: &str| File::open(path).unwrap();
            let (directory, file, kept) = (open("/"), open("/etc/passwd"), open("/etc/group"));
            let (socket, _other) = UnixStream::pair().unwrap();
            // Far behind the others, as what a hole in the numbers leaves.
            // SAFETY: the arguments are integers.
            let far = unsafe { libc::fcntl(directory.as_raw_fd(), libc::F_DUPFD, 500) };
            close_others(sockets().into_iter().chain([kept.as_raw_fd()]));
            Ok([&directory, &file, &kept]
                .map(|file| file_type(file.as_raw_fd()))
                .into_iter()
                .chain([file_type(far), file_type(socket.as_raw_fd())])
                .collect::<Vec<_>>())
        })
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut buffer = vec![0; 4096];
        let length = loop {
            match nix::unistd::read(&operation.answer, &mut buffer) {
                Ok(length) => break length,
                Err(_) => assert!(Instant::now() < deadline, "no response"),
            }
        };
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(operation.pid), None);
        let response: serde_json::Value = serde_json::from_slice(&buffer[..length]).unwrap();
        let text = response.to_string();
        let (regular, socket) = (libc::S_IFREG, libc::S_IFSOCK);
        assert!(
            text.contains(&format!("[null,null,{regular},null,{socket}]")),
            "{text}"
        );
    }
}
