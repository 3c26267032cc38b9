//! The shim's socket: one for each pod, found by what the pod's containers have in common.

use std::borrow::Cow;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Folder of the sockets where containerd names none.
const SOCKET_FOLDER: &str = "/run/containerd/s";
/// Holds the address in the bundle. containerd reads it after a restart, `delete` uses it.
pub(crate) const ADDRESS_FILE: &str = "address";

/// A socket of this shim, or of one that runs.
pub(crate) enum Socket {
    /// Nobody serves the group yet: this process shall.
    New(UnixListener),
    /// The group's shim runs.
    Served,
}

/// What the containers have in common that one shim serves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// A pod's sandbox, or the only container.
    pub(crate) id: String,
    /// Namespace and name of the pod in Kubernetes, with a slash between them.
    pub(crate) pod: Option<String>,
}

/// The group that the container of this `config.json` belongs to.
pub(crate) fn group(config: &[u8], id: &str) -> Group {
    #[derive(serde::Deserialize)]
    struct Config<'a> {
        #[serde(borrow)]
        annotations: Annotations<'a>,
    }
    /// The names are in order of precedence (containerd `docs/runtime-v2.md`, "Start").
    #[derive(Default, serde::Deserialize)]
    struct Annotations<'a> {
        #[serde(rename = "io.containerd.runc.v2.group", borrow)]
        group: Option<Cow<'a, str>>,
        #[serde(rename = "io.kubernetes.cri.sandbox-id", borrow)]
        sandbox: Option<Cow<'a, str>>,
        #[serde(rename = "io.kubernetes.cri.sandbox-namespace", borrow)]
        namespace: Option<Cow<'a, str>>,
        #[serde(rename = "io.kubernetes.cri.sandbox-name", borrow)]
        name: Option<Cow<'a, str>>,
    }
    let annotations = serde_json::from_slice::<Config<'_>>(config)
        .map(|config| config.annotations)
        .unwrap_or_default();
    Group {
        id: annotations
            .group
            .or(annotations.sandbox)
            .map_or_else(|| id.to_owned(), Cow::into_owned),
        pod: annotations
            .namespace
            .zip(annotations.name)
            .map(|(namespace, name)| format!("{namespace}/{name}")),
    }
}

/// Path of the socket for `group` of a containerd at `address`: where containerd's own shims have
/// it (containerd `pkg/shim`, `SocketAddress`), and where its tests and administrators look.
pub(crate) fn path(folder: Option<&Path>, address: &str, namespace: &str, group: &str) -> PathBuf {
    let name = Path::new(address).join(namespace).join(group);
    let digest = Sha256::digest(name.as_os_str().as_encoded_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    folder.unwrap_or(Path::new(SOCKET_FOLDER)).join(digest)
}

/// Listens at `path`, unless a shim does already. A socket that nobody serves is replaced.
pub(crate) fn claim(path: &Path) -> io::Result<Socket> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    for _ in 0..3 {
        match UnixListener::bind(path) {
            Ok(listener) => {
                std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
                return Ok(Socket::New(listener));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
        match UnixStream::connect(path) {
            Ok(_) => return Ok(Socket::Served),
            Err(_) => remove(path),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Removes the socket file at `path` if nobody serves it.
pub(crate) fn remove_stale(path: &Path) {
    if UnixStream::connect(path).is_err() {
        remove(path);
    }
}

pub(crate) fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_a_pod_share_a_group() {
        let pod = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}"#;
        let both = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "g"}}"#;
        let group = |config: &str| group(config.as_bytes(), "a").id;
        assert_eq!(group(pod), "pod");
        assert_eq!(group(both), "g");
        assert_eq!(group(r#"{"annotations": {"else": "x"}}"#), "a");
        assert_eq!(group("{}"), "a");
        assert_eq!(group("not json"), "a");
    }

    #[test]
    fn a_pod_has_its_name() {
        let pod = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "s",
            "io.kubernetes.cri.sandbox-namespace": "default", "io.kubernetes.cri.sandbox-name": "shop"}}"#;
        assert_eq!(
            group(pod.as_bytes(), "a").pod.as_deref(),
            Some("default/shop")
        );
        assert_eq!(group(b"{}", "a").pod, None);
    }

    #[test]
    fn a_socket_is_claimed_once_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(Some(folder.path()), "/run/c.sock", "default", "a");
        let Socket::New(listener) = claim(&path).unwrap() else {
            panic!()
        };
        assert!(matches!(claim(&path).unwrap(), Socket::Served));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        remove_stale(&path);
        assert!(path.exists());
        drop(listener);
        assert!(matches!(claim(&path).unwrap(), Socket::New(_)));
        remove_stale(&path);
        assert!(!path.exists());
    }

    #[test]
    fn groups_of_different_daemons_do_not_meet() {
        let a = path(None, "/run/a.sock", "default", "x");
        assert_ne!(a, path(None, "/run/b.sock", "default", "x"));
        assert_ne!(a, path(None, "/run/a.sock", "k8s.io", "x"));
        assert!(a.as_os_str().len() < 108, "unix(7)");
        // As `printf /run/a.sock/default/x | sha256sum` has it.
        let expected = "0e4ed5de597b6a66405d51fd997028e86511f88d18807891eb1672cc5b019f8f";
        assert_eq!(a, Path::new("/run/containerd/s").join(expected));
    }
}
