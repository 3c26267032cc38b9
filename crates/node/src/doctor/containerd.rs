//! Whether containerd has what Wasm containers need.

use std::fs;
use std::path::Path;

use super::Finding;
use crate::install::Inspection;

const KUBELET: &str = "/var/lib/kubelet/config.yaml";

/// All that is to be said of a containerd.
pub fn findings(inspection: &Inspection) -> Vec<(&'static str, Finding)> {
    let kubelet = fs::read_to_string(KUBELET).ok();
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    vec![
        ("containerd", Ok(inspection.daemon.clone())),
        ("handler", handler(inspection)),
        ("shim", shim(inspection)),
        (
            "cgroup driver",
            driver(
                kubelet.as_deref().and_then(kubelets_driver),
                inspection.others_use_systemd,
                inspection.uses_systemd,
                is_v2,
            ),
        ),
        (
            "snapshotter",
            snapshotter(inspection.snapshotter.as_deref()),
        ),
    ]
}

fn handler(inspection: &Inspection) -> Finding {
    if !inspection.missing.is_empty() {
        let missing = inspection.missing.join("; ");
        return Err(format!("{missing}: run `lighter install`"));
    }
    match &inspection.known {
        Ok(()) => Ok("wasmtime, with our annotations".to_owned()),
        Err(error) => Err(format!(
            "it is configured, but the running containerd says: {error}: run `lighter install`, which restarts it"
        )),
    }
}

fn shim(inspection: &Inspection) -> Finding {
    match &inspection.shim {
        Some(path) if !inspection.is_own => Err(format!(
            "containerd starts {}, which is not Lighter's: run `lighter install`, and see docs/guides/runwasi.md",
            path.display()
        )),
        Some(path) => Ok(path.display().to_string()),
        None => {
            let searched: Vec<String> = inspection
                .searched
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            Err(format!(
                "containerd finds none of {}: run `lighter install`",
                searched.join(", ")
            ))
        }
    }
}

/// What kubelet's configuration says; nothing where it takes containerd's word.
fn kubelets_driver(config: &str) -> Option<&str> {
    let line = config
        .lines()
        .find_map(|line| line.strip_prefix("cgroupDriver:"))?;
    Some(line.trim().trim_matches(['"', '\'']))
}

fn driver(kubelet: Option<&str>, others: bool, ours: bool, is_v2: bool) -> Finding {
    let name = |systemd: bool| if systemd { "systemd" } else { "cgroupfs" };
    if let Some(kubelet) = kubelet
        && kubelet != name(others)
    {
        return Err(format!(
            "kubelet's is {kubelet} ({KUBELET}), and that of containerd's runc {}: set SystemdCgroup = {} in runc's options, restart containerd, and run `lighter install`",
            name(others),
            kubelet == "systemd"
        ));
    }
    if ours != others {
        return Err(format!(
            "that of the handler wasmtime is {}, and that of the others {}: run `lighter install`",
            name(ours),
            name(others)
        ));
    }
    if ours && !is_v2 {
        return Err("systemd needs cgroup v2, and this host has v1: start it with systemd.unified_cgroup_hierarchy=1, or set the driver cgroupfs in kubelet and containerd".to_owned());
    }
    Ok(name(ours).to_owned())
}

fn snapshotter(name: Option<&str>) -> Finding {
    let name = name.unwrap_or("overlayfs");
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if name == "overlayfs" && !known.lines().any(|line| line.ends_with("\toverlay")) {
        return Err("overlayfs, which this kernel has not loaded: modprobe overlay".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_that_differ_are_named_with_what_to_do() {
        assert_eq!(
            driver(Some("systemd"), true, true, true),
            Ok("systemd".to_owned())
        );
        assert_eq!(driver(None, false, false, false), Ok("cgroupfs".to_owned()));
        for (kubelet, others, ours, is_v2, text) in [
            (Some("systemd"), false, false, true, "SystemdCgroup = true"),
            (Some("cgroupfs"), true, true, true, "SystemdCgroup = false"),
            (None, true, false, true, "lighter install"),
            (None, true, true, false, "cgroup v2"),
        ] {
            let fault = driver(kubelet, others, ours, is_v2).unwrap_err();
            assert!(fault.contains(text), "{fault}");
        }
    }

    #[test]
    fn kubelets_driver_is_read_from_its_configuration() {
        let text = "kind: KubeletConfiguration\ncgroupDriver: systemd\nfailSwapOn: false\n";
        assert_eq!(kubelets_driver(text), Some("systemd"));
        assert_eq!(
            kubelets_driver("cgroupDriver: \"cgroupfs\""),
            Some("cgroupfs")
        );
        assert_eq!(kubelets_driver("kind: KubeletConfiguration\n"), None);
    }
}
