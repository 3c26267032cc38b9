//! The file system of a container that does not exist yet: its rootfs with the mounts of its
//! spec on it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use oci_spec::runtime::{Mount, Spec};

/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// A rootfs and the mounts on it. Symbolic links are resolved inside of it, across mounts, as
/// the container's processes will resolve them; no link and no `..` leads out.
///
/// Images and volumes may be hostile and may change while they are looked at: each component
/// is opened without following links, so that a swapped component is an error and never a
/// file of the host.
pub struct ContainerView {
    rootfs: PathBuf,
    /// Destination without links, and the folder or file that is mounted there, or nothing
    /// for a file system that is made with the container and starts empty.
    mounts: Vec<(PathBuf, Option<PathBuf>)>,
}

impl ContainerView {
    /// The view of the container that `spec` describes, on the mounted `rootfs`.
    pub fn new(spec: &Spec, rootfs: &Path) -> Self {
        let mut view = Self {
            rootfs: rootfs.to_owned(),
            mounts: Vec::new(),
        };
        for mount in spec.mounts().iter().flatten() {
            // Mounts are made in order, each on what the ones before have made.
            let destination = view
                .resolve(mount.destination())
                .unwrap_or_else(|_| mount.destination().clone());
            view.mounts.push((destination, bind_source(mount)));
        }
        view
    }

    /// Opens the file at `path`, an absolute path of the container, for reading. Returns the
    /// path without links too, and no file where that leads to something else than a regular one.
    ///
    /// Nothing else is opened, not even to be looked at: to open the node of a watchdog starts it,
    /// and to open a FIFO lets go on who waits at its other end. Fails as open(2) does.
    pub fn open(&self, path: &Path) -> io::Result<(Option<File>, PathBuf)> {
        let path = self.resolve(path)?;
        let handle = File::from(self.open_at(&path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?);
        if !handle.metadata()?.is_file() {
            return Ok((None, path));
        }
        // The same file, whatever is at its path by now.
        let file = File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
        Ok((Some(file), path))
    }

    /// Follows all links in `path`.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut resolved = PathBuf::from("/");
        let mut pending = components(path);
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                resolved.pop();
                continue;
            }
            let next = resolved.join(&name);
            let handle = match self.open_at(&next, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
                Ok(handle) => handle,
                Err(error)
                    if error.raw_os_error() == Some(Errno::ENOENT as i32)
                        && self.leads_to_mount(&next) =>
                {
                    resolved = next;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match readlinkat(&handle, "") {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::ELOOP.into());
                    }
                    if Path::new(&target).is_absolute() {
                        resolved = PathBuf::from("/");
                    }
                    for name in components(Path::new(&target)).into_iter().rev() {
                        pending.push_front(name);
                    }
                }
                // Not a link: readlinkat(2) of a descriptor says ENOENT or EINVAL.
                Err(_) => resolved = next,
            }
        }
        Ok(resolved)
    }

    /// Whether `path` is a folder that the runtime will make because something is mounted below.
    fn leads_to_mount(&self, path: &Path) -> bool {
        let mut mounts = self.mounts.iter();
        mounts.any(|(destination, _)| destination != path && destination.starts_with(path))
    }

    /// Opens a path without links in the mount that covers it.
    fn open_at(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let covering = self
            .mounts
            .iter()
            .rev()
            .filter(|(destination, _)| path.starts_with(destination))
            // The last one wins among mounts on the same folder.
            .reduce(|best, mount| {
                let longer = mount.0.components().count() > best.0.components().count();
                if longer { mount } else { best }
            });
        let (root, rest) = match covering {
            Some((destination, source)) => {
                let rest = path.strip_prefix(destination).unwrap_or(Path::new(""));
                (source.as_deref().ok_or(Errno::ENOENT)?, rest)
            }
            None => (
                self.rootfs.as_path(),
                path.strip_prefix("/").unwrap_or(path),
            ),
        };
        let flags = flags | OFlag::O_CLOEXEC;
        if rest.as_os_str().is_empty() {
            // The mount's own root: a path of the host, which the host's links may lead to.
            let how = OpenHow::new().flags(flags - OFlag::O_NOFOLLOW);
            return Ok(openat2(AT_FDCWD, root, how)?);
        }
        let root = openat2(
            AT_FDCWD,
            root,
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC),
        )?;
        let how = OpenHow::new().flags(flags).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        Ok(openat2(&root, rest, how)?)
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsStr::new("..").to_owned()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// What a bind mount shows. Other file systems are made with the container.
fn bind_source(mount: &Mount) -> Option<PathBuf> {
    let is_bind = mount.typ().as_deref() == Some("bind")
        || mount
            .options()
            .iter()
            .flatten()
            .any(|option| option == "bind" || option == "rbind");
    mount.source().clone().filter(|_| is_bind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{MountBuilder, SpecBuilder};
    use proptest::prelude::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn view(rootfs: &Path, mounts: &[(&str, &Path)]) -> ContainerView {
        let mounts: Vec<_> = mounts
            .iter()
            .map(|(destination, source)| {
                MountBuilder::default()
                    .destination(destination)
                    .typ("bind")
                    .source(source)
                    .build()
                    .unwrap()
            })
            .collect();
        ContainerView::new(
            &SpecBuilder::default().mounts(mounts).build().unwrap(),
            rootfs,
        )
    }

    fn read(view: &ContainerView, path: &str) -> io::Result<String> {
        let mut text = String::new();
        let (file, _) = view.open(Path::new(path))?;
        let mut file = file.ok_or(Errno::EACCES)?;
        file.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn volumes_cover_the_rootfs_and_links_cross_them() {
        let rootfs = tempfile::tempdir().unwrap();
        let volume = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(rootfs.path().join("app")).unwrap();
        std::fs::write(rootfs.path().join("app/a"), "image").unwrap();
        std::fs::write(rootfs.path().join("b"), "root").unwrap();
        symlink("/app/a", rootfs.path().join("to-volume")).unwrap();
        symlink("app", rootfs.path().join("alias")).unwrap();
        std::fs::write(volume.path().join("a"), "volume").unwrap();
        symlink("/b", volume.path().join("to-root")).unwrap();
        symlink("../../../../b", volume.path().join("up")).unwrap();

        let bare = view(rootfs.path(), &[]);
        assert_eq!(read(&bare, "/app/a").unwrap(), "image");
        let covered = view(rootfs.path(), &[("/alias", volume.path())]);
        assert_eq!(read(&covered, "/app/a").unwrap(), "volume");
        assert_eq!(read(&covered, "/to-volume").unwrap(), "volume");
        assert_eq!(read(&covered, "/app/to-root").unwrap(), "root");
        assert_eq!(read(&covered, "/app/up").unwrap(), "root");
        let file = volume.path().join("a");
        for place in ["/app/a", "/not/in/the/image"] {
            let single = view(rootfs.path(), &[(place, &file)]);
            assert_eq!(read(&single, place).unwrap(), "volume");
            assert!(read(&single, "/not/in").is_err());
        }
    }

    #[test]
    fn nothing_leads_out() {
        let rootfs = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path(), rootfs.path().join("link")).unwrap();
        symlink("link", rootfs.path().join("link2")).unwrap();
        symlink("loop", rootfs.path().join("loop")).unwrap();
        symlink("/proc/self/root", rootfs.path().join("magic")).unwrap();
        let view = view(rootfs.path(), &[]);
        let up = format!("/../../../../../..{}/secret", outside.path().display());
        for path in [
            "/link/secret",
            "/link2/secret",
            "/loop",
            "/magic/etc/passwd",
            &up,
        ] {
            assert!(read(&view, path).is_err(), "{path}");
        }
    }

    /// Whoever waits to write to a FIFO goes on when somebody opens it for reading.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test has threads")]
    fn what_is_no_regular_file_is_not_opened() {
        let rootfs = tempfile::tempdir().unwrap();
        let fifo = rootfs.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("fifo", rootfs.path().join("link")).unwrap();
        std::fs::create_dir(rootfs.path().join("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(rootfs.path().join("socket"));
        let writer = fifo.clone();
        let writer = std::thread::spawn(move || std::fs::File::options().write(true).open(writer));
        let view = view(rootfs.path(), &[]);
        for path in ["/fifo", "/link", "/dir", "/socket", "/"] {
            assert!(view.open(Path::new(path)).unwrap().0.is_none(), "{path}");
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!writer.is_finished(), "the FIFO was opened");
        drop(std::fs::File::open(fifo).unwrap());
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn a_file_system_made_with_the_container_is_empty() {
        let rootfs = tempfile::tempdir().unwrap();
        std::fs::create_dir(rootfs.path().join("tmp")).unwrap();
        std::fs::write(rootfs.path().join("tmp/a"), "hidden").unwrap();
        let mount = MountBuilder::default()
            .destination("/tmp")
            .typ("tmpfs")
            .source("tmpfs")
            .build()
            .unwrap();
        let spec = SpecBuilder::default().mounts(vec![mount]).build().unwrap();
        let view = ContainerView::new(&spec, rootfs.path());
        assert_eq!(
            read(&view, "/tmp/a").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    proptest! {
        /// Whatever links the image has, what is opened lies in the rootfs.
        #[test]
        fn what_is_opened_lies_in_the_rootfs(
            targets in prop::collection::vec("(/|\\.\\./|[ab]/){0,4}[ab]", 4),
            path in "(/[ab]|/\\.\\.){1,6}",
        ) {
            let rootfs = tempfile::tempdir().unwrap();
            let root = rootfs.path().canonicalize().unwrap();
            std::fs::create_dir(root.join("a")).unwrap();
            for (place, target) in ["b", "a/a", "a/b"].iter().zip(&targets) {
                symlink(target, root.join(place)).unwrap();
            }
            if let Ok((Some(file), _)) = view(&root, &[]).open(Path::new(&path)) {
                let opened = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
                prop_assert!(opened.starts_with(&root), "{}", opened.display());
            }
        }
    }
}
