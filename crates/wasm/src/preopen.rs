//! Which folders a guest is given, and under which names.
//!
//! WASI has no current folder. A guest gets open folders with names, and what its standard library
//! makes of them differs:
//!
//! - wasi-libc (C, Rust, Python and many others) strips every leading `/` and `./` of names and paths
//!   first, so that it cannot tell `x` from `/x`. It takes the folder whose name is the longest prefix
//!   of the path, and of several equally long ones the one that was registered last. Until the guest
//!   calls `chdir`, relative paths count from the stripped root.
//! - Go and Zig take the first folder as the current one. Go gives its name as the working directory,
//!   makes all paths absolute by it, and takes the folder whose name is the longest prefix of the
//!   path as a text: `/data` of `/database`, too.
//!
//! With the folder `/` alone, everything resolves as for a process whose current folder is `/`.
//! For another one, that is registered first under its own name, and once more last as `.`: it
//! then gets every path that no longer name claims. So that absolute paths still mean what they
//! say, each top-level folder is registered under its own name, and each folder beside the current
//! one whose name begins as that does.
//!
//! What cannot be had at the same time, with wasi-libc: an absolute path to something directly in
//! `/` (a file, or `/` itself) resolves in the current folder, and a relative path whose first part
//! is also the name of a top-level folder resolves in that. And no path leads out of the folder by
//! whose name it begins: `/data/in/../x` does not, when `/data/in` is the current one.

use std::path::Path;

/// A folder of the container and its name for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preopen {
    pub(crate) path: String,
    pub(crate) name: String,
    /// Whether the guest can run without it.
    pub(crate) optional: bool,
}

/// Most folders that are registered beside `/` and the current one; each takes up a descriptor.
pub(crate) const MOST: usize = 128;

/// The folders for a guest with the current folder `cwd`, in the order of registration. `others` are
/// the paths of the folders that need a name of their own ([`other_folders`]), of which the first
/// [`MOST`] are used.
pub(crate) fn preopens(cwd: &str, others: &[String]) -> Vec<Preopen> {
    let preopen = |path: &str, name: &str, optional| Preopen {
        path: path.to_owned(),
        name: name.to_owned(),
        optional,
    };
    if is_root(cwd) {
        return vec![preopen("/", "/", false)];
    }
    let mut all = vec![preopen(cwd, cwd, false), preopen("/", "/", false)];
    for path in others.iter().filter(|path| path.as_str() != cwd).take(MOST) {
        all.push(preopen(path, path, true));
    }
    all.push(preopen(cwd, ".", false));
    all
}

/// Whether `cwd` is another spelling of `/`.
pub(crate) fn is_root(cwd: &str) -> bool {
    cwd.split('/').all(|part| part.is_empty() || part == ".")
}

/// `cwd` as guests compare it with paths, part by part. Only the kernel knows where `..` leads.
pub(crate) fn plain(cwd: &str) -> String {
    if cwd.split('/').any(|part| part == "..")
        && let Ok(path) = std::fs::canonicalize(cwd)
        && let Ok(path) = path.into_os_string().into_string()
    {
        return path;
    }
    let parts = cwd.split('/').filter(|part| !["", "."].contains(part));
    parts.fold(String::new(), |path, part| path + "/" + part)
}

/// The paths of the folders that need a name of their own beside the current one: those in `/`,
/// and those beside the current one that its name is a prefix of.
pub(crate) fn other_folders(cwd: &str) -> Vec<String> {
    let mut paths = folders_in("/", "");
    if let Some((parent, name)) = cwd
        .rsplit_once('/')
        .filter(|(parent, _)| !parent.is_empty())
    {
        paths.extend(folders_in(parent, name));
    }
    paths
}

/// The paths of the folders in `parent` whose names begin with `prefix`, sorted. What cannot be
/// read is left out: the guest could not have used it either.
fn folders_in(parent: &str, prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let parent = Path::new(parent);
    let mut paths: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let path = name.starts_with(prefix).then(|| parent.join(name))?;
            // Follows symbolic links: /bin is one on many systems.
            let is_folder = std::fs::metadata(&path).ok()?.is_dir();
            is_folder.then(|| path.into_os_string().into_string().ok())?
        })
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(cwd: &str, others: &[&str]) -> Vec<(String, String)> {
        let others: Vec<String> = others.iter().map(|path| (*path).to_owned()).collect();
        preopens(cwd, &others)
            .into_iter()
            .map(|preopen| (preopen.path, preopen.name))
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(path, name)| ((*path).to_owned(), (*name).to_owned()))
            .collect()
    }

    #[test]
    fn at_the_root_one_folder_is_enough() {
        for cwd in ["/", "", "//", "/./", "."] {
            assert_eq!(names(cwd, &["/etc", "/tmp"]), pairs(&[("/", "/")]), "{cwd}");
        }
    }

    #[test]
    fn elsewhere_the_current_folder_is_first_by_its_name_and_last_as_a_dot() {
        assert_eq!(
            names("/data/in", &["/data", "/etc"]),
            pairs(&[
                ("/data/in", "/data/in"),
                ("/", "/"),
                ("/data", "/data"),
                ("/etc", "/etc"),
                ("/data/in", "."),
            ])
        );
        assert_eq!(
            names("/data", &["/data", "/etc"]),
            pairs(&[
                ("/data", "/data"),
                ("/", "/"),
                ("/etc", "/etc"),
                ("/data", "."),
            ])
        );
    }

    #[test]
    fn the_number_of_folders_is_bounded() {
        let many: Vec<String> = (0..1000).map(|number| format!("/d{number}")).collect();
        let all = preopens("/app", &many);
        assert_eq!(all.len(), MOST + 3);
        assert_eq!(all[MOST + 2].name, ".");
    }

    #[test]
    fn only_other_folders_may_be_missing() {
        let all = preopens("/app", &["/etc".to_owned()]);
        let optional: Vec<bool> = all.iter().map(|preopen| preopen.optional).collect();
        assert_eq!(optional, [false, false, true, false]);
    }

    #[test]
    fn the_current_folder_has_one_spelling() {
        for (cwd, expected) in [
            ("/data/in", "/data/in"),
            ("/data//in/./", "/data/in"),
            ("/usr/../etc", "/etc"),
            ("/there/is/../no", "/there/is/../no"),
        ] {
            assert_eq!(plain(cwd), expected);
        }
    }

    #[test]
    fn the_folders_of_this_machine_are_found() {
        let folders = other_folders("/app");
        assert!(folders.contains(&"/usr".to_owned()), "{folders:?}");
        assert!(folders.is_sorted());
    }

    #[test]
    fn folders_that_begin_as_the_current_one_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let parent = folder.path().to_str().unwrap();
        for name in ["in", "in-2", "inner", "other"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("in-file"), "").unwrap();
        let found = other_folders(&format!("{parent}/in"));
        let found: Vec<&str> = found
            .iter()
            .filter_map(|path| path.strip_prefix(parent))
            .collect();
        assert_eq!(found, ["/in", "/in-2", "/inner"]);
    }
}
