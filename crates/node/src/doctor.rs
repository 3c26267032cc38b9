//! `lighter doctor`: whether Wasm containers can run here, and what to do if not.

mod code;
mod kernel;

use std::process::ExitCode;

use crate::node::Node;

/// What a check has found: something worth knowing, or what is wrong and what to do.
type Finding = Result<String, String>;

/// Runs all checks, one line for each.
pub fn run(node: &Node) -> ExitCode {
    let checks: &[(&str, &dyn Fn() -> Finding)] = &[
        ("user", &kernel::user),
        ("kernel", &kernel::version),
        ("cgroups", &kernel::cgroups),
        ("cache folder", &|| code::folder(node)),
        ("compile worker", &|| code::worker(node)),
        ("compiling", &|| code::compiling(node)),
    ];
    let mut status = ExitCode::SUCCESS;
    for (name, check) in checks {
        match check() {
            Ok(found) => println!("ok    {name}: {found}"),
            Err(fault) => {
                println!("FAIL  {name}: {fault}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
