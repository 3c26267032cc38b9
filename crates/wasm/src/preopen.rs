//! Which folders a guest is given, and under which names.
//!
//! WASI has no current folder. A guest gets open folders with names, and its C library
//! (wasi-libc, which Rust, Go and Python use too) looks for the one whose name is a prefix of
//! the path. It strips every leading `/` and `./` of names and paths first, so that it cannot
//! tell `x` from `/x`; the longest prefix wins, and of several equally long ones the one that was
//! registered last. Until the guest calls `chdir`, relative paths count from the stripped root.
//!
//! With the folder `/` alone, everything resolves as for a process whose current folder is `/`.
//! For another one, `.` is registered last: it then gets every path that no longer name claims.
//! So that absolute paths still mean what they say, each top-level folder is registered under
//! its own name. What cannot be had at the same time: an absolute path to something directly in
//! `/` (a file, or `/` itself) resolves in the current folder, and a relative path
//! whose first part is also the name of a top-level folder resolves in that.

/// A folder of the container and its name for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Preopen {
    pub(crate) path: String,
    pub(crate) name: String,
    /// Whether the guest can run without it.
    pub(crate) optional: bool,
}

/// Most top-level folders that are registered; each takes up a descriptor.
pub(crate) const MOST: usize = 128;

/// The folders for a guest with the current folder `cwd`, in the order of registration.
/// `top_level` are the names of the folders in `/`, of which the first [`MOST`] are used.
pub(crate) fn preopens(cwd: &str, top_level: &[String]) -> Vec<Preopen> {
    let preopen = |path: &str, name: &str, optional| Preopen {
        path: path.to_owned(),
        name: name.to_owned(),
        optional,
    };
    let mut all = vec![preopen("/", "/", false)];
    if is_root(cwd) {
        return all;
    }
    for name in top_level.iter().take(MOST) {
        let path = format!("/{name}");
        all.push(preopen(&path, &path, true));
    }
    all.push(preopen(cwd, ".", false));
    all
}

/// Whether `cwd` is another spelling of `/`.
pub(crate) fn is_root(cwd: &str) -> bool {
    cwd.split('/').all(|part| part.is_empty() || part == ".")
}

/// The names of the folders in `/`, sorted. What cannot be read is left out: the guest could
/// not have used it either.
pub(crate) fn top_level_folders() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/") else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // Follows symbolic links: /bin is one on many systems.
            let is_folder = std::fs::metadata(entry.path()).ok()?.is_dir();
            is_folder.then(|| entry.file_name().into_string().ok())?
        })
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(cwd: &str, top_level: &[&str]) -> Vec<(String, String)> {
        let top_level: Vec<String> = top_level.iter().map(|name| (*name).to_owned()).collect();
        preopens(cwd, &top_level)
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
            assert_eq!(names(cwd, &["etc", "tmp"]), pairs(&[("/", "/")]), "{cwd}");
        }
    }

    #[test]
    fn elsewhere_the_current_folder_is_registered_last() {
        assert_eq!(
            names("/data/in", &["data", "etc"]),
            pairs(&[
                ("/", "/"),
                ("/data", "/data"),
                ("/etc", "/etc"),
                ("/data/in", "."),
            ])
        );
    }

    #[test]
    fn the_number_of_folders_is_bounded() {
        let many: Vec<String> = (0..1000).map(|number| format!("d{number}")).collect();
        let all = preopens("/app", &many);
        assert_eq!(all.len(), MOST + 2);
        assert_eq!(all[MOST + 1].name, ".");
    }

    #[test]
    fn only_top_level_folders_may_be_missing() {
        let all = preopens("/app", &["etc".to_owned()]);
        let optional: Vec<bool> = all.iter().map(|preopen| preopen.optional).collect();
        assert_eq!(optional, [false, true, false]);
    }

    #[test]
    fn the_folders_of_this_machine_are_found() {
        let folders = top_level_folders();
        assert!(folders.contains(&"usr".to_owned()), "{folders:?}");
        assert!(folders.is_sorted());
    }
}
