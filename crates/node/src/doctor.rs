//! `lighter doctor`: whether Wasm containers can run here, and what to do if not.

mod code;
mod containerd;
mod kernel;

use std::path::Path;
use std::process::ExitCode;

use crate::install::inspect;
use crate::node::Node;

/// What a check has found: something worth knowing, or what is wrong and what to do.
type Finding = Result<String, String>;

/// Runs all checks, one line for each.
pub fn run(node: &Node, config: Option<&Path>) -> ExitCode {
    let checks: &[(&str, &dyn Fn() -> Finding)] = &[
        ("user", &kernel::user),
        ("kernel", &kernel::version),
        ("cgroups", &kernel::cgroups),
        ("cache folder", &|| code::folder(node)),
        ("compile worker", &|| code::worker(node)),
        ("compiling", &|| code::compiling(node)),
    ];
    let mut findings: Vec<(&str, Finding)> = checks
        .iter()
        .map(|(name, check)| (*name, check()))
        .collect();
    match inspect(config) {
        Ok(inspection) => findings.extend(containerd::findings(&inspection)),
        Err(error) => findings.push(("containerd", Err(error))),
    }
    let mut status = ExitCode::SUCCESS;
    for (name, finding) in findings {
        match finding {
            Ok(found) => println!("ok    {name}: {found}"),
            Err(fault) => {
                println!("FAIL  {name}: {fault}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
