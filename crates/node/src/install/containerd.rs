//! The containerd of this node: the one that runs, or the one that would.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::effective::Effective;
use super::layout::Version;

const DEFAULT_CONFIG: &str = "/etc/containerd/config.toml";

/// Where configurations are on the distributions of Kubernetes that bring a containerd of their own.
const KNOWN_CONFIGS: [&str; 4] = [
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/var/snap/microk8s/current/args/containerd.toml",
    DEFAULT_CONFIG,
];

/// PATH of systemd's services, for a containerd that does not run.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A containerd.
#[derive(Debug)]
pub struct Containerd {
    /// Its process, if it runs.
    pub process: Option<Process>,
    /// Its configuration, which need not be there.
    pub config: PathBuf,
    /// Its version.
    pub version: Version,
    program: PathBuf,
}

/// A containerd's process.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    /// Its PATH, in which it looks for shims.
    path: OsString,
    config: PathBuf,
    program: PathBuf,
}

impl Containerd {
    /// Finds the one with this configuration, or the only one whose CRI is on.
    pub fn find(config: Option<&Path>) -> Result<Self, String> {
        let Some(config) = config else {
            return Self::detect();
        };
        let config = std::path::absolute(config).map_err(|error| error.to_string())?;
        let same = |process: &Process| canonical(&process.config) == canonical(&config);
        match processes().into_iter().find(same) {
            Some(process) => Self::of(process),
            None => Self::idle(config),
        }
    }

    fn detect() -> Result<Self, String> {
        let mut found = Vec::new();
        let mut failed = None;
        for process in processes() {
            match Self::of(process).and_then(|each| Ok((each.effective()?, each))) {
                Ok((effective, each)) if effective.has_cri() => found.push(each),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        match (found.len(), failed) {
            (1, _) => Ok(found.remove(0)),
            (0, Some(error)) => Err(error),
            (0, None) => {
                let known = KNOWN_CONFIGS.iter().map(Path::new);
                let config = known
                    .filter(|path| path.exists())
                    .map(Path::to_owned)
                    .next();
                Self::idle(config.unwrap_or_else(|| DEFAULT_CONFIG.into()))
            }
            _ => {
                let configs: Vec<String> = found
                    .iter()
                    .map(|each| each.config.display().to_string())
                    .collect();
                Err(format!(
                    "several containerds run here; choose one by --config: {}",
                    configs.join(", ")
                ))
            }
        }
    }

    fn of(process: Process) -> Result<Self, String> {
        Ok(Self {
            config: process.config.clone(),
            version: version(&process.program)?,
            program: process.program.clone(),
            process: Some(process),
        })
    }

    /// One that does not run.
    fn idle(config: PathBuf) -> Result<Self, String> {
        let program = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .chain(std::env::split_paths(SYSTEM_PATH))
            .map(|folder| folder.join("containerd"))
            .find(|file| file.is_file())
            .ok_or(
                "no containerd runs on this node, and none is in PATH: install containerd first",
            )?;
        Ok(Self {
            process: None,
            version: version(&program)?,
            config,
            program,
        })
    }

    /// The configuration in effect, which containerd itself works out.
    pub fn effective(&self) -> Result<Effective, String> {
        // Up to 1.7 it refuses to read what is not there, although it starts without.
        let there = self.config.exists() || self.version >= Version(2, 0);
        self.dump(if there {
            &self.config
        } else {
            Path::new("/dev/null")
        })
        .map_err(|error| format!("containerd refuses {}: {error}", self.config.display()))
    }

    /// What containerd would make of another file.
    pub fn dump(&self, config: &Path) -> Result<Effective, String> {
        let output = command(&self.program)
            .arg("--config")
            .arg(config)
            .args(["config", "dump"])
            .output()
            .map_err(|error| format!("cannot run {}: {error}", self.program.display()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().rfind(|line| !line.trim().is_empty());
            let last = last.unwrap_or("it gives no reason");
            return Err(last.trim_start_matches("containerd: ").to_owned());
        }
        Effective::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Whether it would find a program in this folder by its name.
    pub fn searches(&self, folder: &Path) -> bool {
        self.search_path().any(|each| each == folder)
    }

    /// The folders in which it looks for shims.
    pub fn search_path(&self) -> impl Iterator<Item = PathBuf> {
        let process = self.process.as_ref();
        let path = process.map_or(OsStr::new(SYSTEM_PATH), |process| &process.path);
        std::env::split_paths(path)
    }

    /// The process that runs with this configuration now.
    pub fn running(&self) -> Option<Process> {
        let same = |process: &Process| canonical(&process.config) == canonical(&self.config);
        processes().into_iter().find(same)
    }
}

fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // k3s is one program that looks at its name.
    command.arg0("containerd").current_dir("/");
    command
}

fn version(program: &Path) -> Result<Version, String> {
    let output = command(program).arg("--version").output();
    let output = output.map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::parse(&text).ok_or_else(|| {
        let program = program.display();
        format!(
            "{program} is no containerd: asked for its version, it says {:?}",
            text.trim()
        )
    })
}

/// The containerds that run with this root, not those of containers.
fn processes() -> Vec<Process> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    folders
        .filter_map(|folder| {
            let pid = folder.file_name().to_str()?.parse().ok()?;
            process(pid, &folder.path())
        })
        .collect()
}

fn process(pid: i32, folder: &Path) -> Option<Process> {
    let name = fs::read_to_string(folder.join("comm")).ok()?;
    if name.trim_end() != "containerd" {
        return None;
    }
    let place = |path: &Path| fs::metadata(path).map(|root| (root.dev(), root.ino())).ok();
    if place(&folder.join("root"))? != place(Path::new("/"))? {
        return None;
    }
    let arguments = fs::read(folder.join("cmdline")).ok()?;
    let arguments: Vec<&OsStr> = words(&arguments).collect();
    // A client of the same program, as `containerd config dump`, is no daemon.
    let config = configuration(&arguments)?;
    let directory = fs::read_link(folder.join("cwd")).ok()?;
    let environment = fs::read(folder.join("environ")).ok()?;
    let path = words(&environment).find_map(|word| word.as_bytes().strip_prefix(b"PATH="));
    Some(Process {
        pid,
        path: OsStr::from_bytes(path.unwrap_or_default()).to_owned(),
        config: in_current(&directory.join(config), Path::new("/var/snap")),
        program: program(&folder.join("exe"))?,
    })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = &OsStr> {
    let words = bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty());
    words.map(OsStr::from_bytes)
}

/// A snap's file by the link that leads to its next revision, too.
fn in_current(path: &Path, snaps: &Path) -> PathBuf {
    let parts = path.strip_prefix(snaps).map(|rest| {
        let mut parts = rest.iter();
        (parts.next(), parts.next(), parts.as_path().to_owned())
    });
    if let Ok((Some(name), Some(_), rest)) = parts {
        let linked = snaps.join(name).join("current").join(rest);
        if canonical(&linked) == canonical(path) {
            return linked;
        }
    }
    path.to_owned()
}

/// The file that starts next: that of the process, or what has replaced it.
fn program(link: &Path) -> Option<PathBuf> {
    let path = fs::read_link(link).ok()?;
    let bytes = path.as_os_str().as_bytes();
    let path = match bytes.strip_suffix(b" (deleted)") {
        Some(path) => PathBuf::from(OsStr::from_bytes(path)),
        None => path,
    };
    Some(if path.is_file() {
        path
    } else {
        link.to_owned()
    })
}

/// The configuration that a command line names, or the default; nothing if it is no daemon's.
fn configuration(arguments: &[&OsStr]) -> Option<PathBuf> {
    let mut config = PathBuf::from(DEFAULT_CONFIG);
    let mut arguments = arguments.iter().skip(1);
    while let Some(argument) = arguments.next() {
        let text = argument.to_str()?;
        let flag = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
        match flag.split_once('=') {
            Some(("config" | "c", value)) => config = value.into(),
            None if ["config", "c"].contains(&flag) => config = arguments.next()?.into(),
            None if ["address", "a", "root", "state", "log-level", "l"].contains(&flag) => {
                arguments.next();
            }
            _ => {}
        }
    }
    Some(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snaps_file_is_found_again_after_its_next_revision() {
        let snaps = tempfile::tempdir().unwrap();
        let snaps = snaps.path();
        let file = snaps.join("microk8s/7394/args/containerd.toml");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        assert_eq!(in_current(&file, snaps), file);
        std::os::unix::fs::symlink("7394", snaps.join("microk8s/current")).unwrap();
        let linked = snaps.join("microk8s/current/args/containerd.toml");
        assert_eq!(in_current(&file, snaps), linked);
        let other = Path::new("/etc/containerd/config.toml");
        assert_eq!(in_current(other, snaps), other);
    }

    #[test]
    fn the_configuration_is_named_in_several_ways() {
        let of = |line: &str| {
            let words: Vec<&OsStr> = line.split(' ').map(OsStr::new).collect();
            configuration(&words)
        };
        for (line, config) in [
            ("/usr/bin/containerd", Some(DEFAULT_CONFIG)),
            (
                "containerd --config /a.toml --log-level debug",
                Some("/a.toml"),
            ),
            (
                "containerd -c /var/lib/rancher/k3s/agent/etc/containerd/config.toml",
                Some(KNOWN_CONFIGS[0]),
            ),
            ("containerd --config=/b.toml -l info", Some("/b.toml")),
            (
                "containerd --root /r --state /s --address /a -c=c.toml",
                Some("c.toml"),
            ),
            ("containerd config dump", None),
            ("containerd --config /a.toml config default", None),
        ] {
            assert_eq!(of(line), config.map(PathBuf::from), "{line}");
        }
    }
}
