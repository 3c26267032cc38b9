//! The hooks that libcontainer forgets.

use libcontainer::container::{ContainerStatus, State};
use libcontainer::hooks::{HookError, run_hooks};
use lighter_core::{ErrorClass, Failure};
use oci_spec::runtime::Spec;

use crate::manage::ContainerLocation;
use crate::warnings;

/// Runs the poststop hooks of a container that could not be created.
///
/// What its earlier hooks have made has to go: a network of nerdctl's, for example. runc calls them, too
/// (`runner.destroy`). A hook that fails is a warning.
pub(crate) fn run_poststop(location: &ContainerLocation, spec: &Spec) {
    let Some(hooks) = spec.hooks() else {
        return;
    };
    let bundle = location.bundle.clone();
    let mut state = State::new(location.id.as_str(), ContainerStatus::Stopped, None, bundle);
    state.annotations = spec.annotations().clone();
    if let Err(error) = run_hooks(hooks.poststop().as_ref(), Some(&state), None, None, None) {
        warn_of_poststop(&error);
    }
}

/// Reports a poststop hook that failed, which keeps nothing from being removed.
pub(crate) fn warn_of_poststop(error: &HookError) {
    let cause = Failure::from_error(ErrorClass::Internal, error);
    warnings::warn(format!("a poststop hook failed: {cause}"));
}
