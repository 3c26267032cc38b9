//! Where the program of a container is: its entrypoint, looked up as the container will see
//! it, from outside and before it exists.

pub mod media_type;

mod entrypoint;
mod view;

pub use entrypoint::{Entrypoint, EntrypointError, Format, find_entrypoint, find_program};
pub use view::ContainerView;
