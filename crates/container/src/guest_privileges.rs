//! What a guest's process may do beyond its user: of the spec's capabilities those that WASI can make
//! use of, and no new ones ever.

use std::collections::HashSet;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process, Spec};

/// Capabilities that a call of WASI can need. Of the others none would ever be used by a guest:
/// WASI has no users, owners, modes, devices, raw sockets, signals or mounts.
const USEFUL: [Capability; 4] = [
    // `open-at` and the other calls with a path, in files of other users.
    Capability::DacOverride,
    // The same for reading alone. The filter of guests refuses what else it allows:
    // open_by_handle_at.
    Capability::DacReadSearch,
    // `set-times-at` of files of other users, and `unlink-file-at` and `rename-at` in
    // directories with a sticky bit.
    Capability::Fowner,
    // `wasi:sockets` and services at ports below 1024.
    Capability::NetBindService,
];

/// Narrows what the container's process may do to what a guest needs.
pub(crate) fn narrow_spec(spec: &mut Spec) {
    if let Some(mut process) = spec.process().clone() {
        narrow(&mut process);
        spec.set_process(Some(process));
    }
}

/// Narrows what a process may do to what a guest needs: in all five sets of capabilities, and
/// without new ones through an execve, which the filter of guests asks for.
pub(crate) fn narrow(process: &mut Process) {
    // Without any, libcontainer and exec would leave what the shim has.
    let all = || Some(USEFUL.into_iter().collect());
    let capabilities = process.capabilities().clone().unwrap_or_else(|| {
        let mut capabilities = LinuxCapabilities::default();
        capabilities
            .set_bounding(all())
            .set_effective(all())
            .set_permitted(all())
            .set_inheritable(None)
            .set_ambient(None);
        capabilities
    });
    process.set_capabilities(Some(narrowed(&capabilities)));
    process.set_no_new_privileges(Some(true));
}

/// Each set without what is not useful. A set that is missing is an empty one here: libcontainer would leave
/// it as it is.
fn narrowed(capabilities: &LinuxCapabilities) -> LinuxCapabilities {
    let useful = HashSet::from(USEFUL);
    let keep = |set: &Option<Capabilities>| {
        let set = set.iter().flatten().copied();
        Some(
            set.filter(|capability| useful.contains(capability))
                .collect(),
        )
    };
    let mut narrowed = LinuxCapabilities::default();
    narrowed
        .set_bounding(keep(capabilities.bounding()))
        .set_effective(keep(capabilities.effective()))
        .set_permitted(keep(capabilities.permitted()))
        .set_inheritable(keep(capabilities.inheritable()))
        .set_ambient(keep(capabilities.ambient()));
    narrowed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn narrowed_process(capabilities: serde_json::Value) -> Process {
        let mut process: Process = serde_json::from_value(json!({
            "user": { "uid": 0, "gid": 0 }, "args": ["a"], "cwd": "/", "capabilities": capabilities,
        }))
        .unwrap();
        narrow(&mut process);
        process
    }

    fn sets(process: &Process) -> [Option<Capabilities>; 5] {
        let capabilities = process.capabilities().as_ref().unwrap();
        [
            capabilities.bounding(),
            capabilities.effective(),
            capabilities.permitted(),
            capabilities.inheritable(),
            capabilities.ambient(),
        ]
        .map(Clone::clone)
    }

    #[test]
    fn a_spec_without_capabilities_gives_a_guest_not_all_of_them() {
        let useful: Capabilities = USEFUL.into_iter().collect();
        let none = Capabilities::default();
        let process = narrowed_process(serde_json::Value::Null);
        let expected = [&useful, &useful, &useful, &none, &none];
        assert_eq!(sets(&process), expected.map(|set| Some(set.clone())));
        assert_eq!(process.no_new_privileges(), Some(true));
    }

    proptest! {
        #[test]
        fn every_set_is_there_and_has_nothing_but_what_it_had_and_is_useful(
            named in proptest::collection::vec(
                proptest::sample::subsequence(
                    vec!["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN", "CAP_FOWNER",
                        "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_DAC_READ_SEARCH", "CAP_MKNOD"],
                    0..8,
                ),
                5,
            ),
        ) {
            let names = ["bounding", "effective", "permitted", "inheritable", "ambient"];
            let spec: serde_json::Map<_, _> = names
                .iter()
                .zip(&named)
                .filter(|(_, set)| !set.is_empty())
                .map(|(name, set)| ((*name).to_owned(), json!(set)))
                .collect();
            let before: LinuxCapabilities = serde_json::from_value(json!(spec)).unwrap();
            let process = narrowed_process(json!(spec));
            let old = [
                before.bounding(), before.effective(), before.permitted(),
                before.inheritable(), before.ambient(),
            ];
            for (new, old) in sets(&process).into_iter().zip(old) {
                let old = old.clone().unwrap_or_default();
                let expected: Capabilities =
                    old.into_iter().filter(|each| USEFUL.contains(each)).collect();
                prop_assert_eq!(new, Some(expected));
            }
        }
    }
}
