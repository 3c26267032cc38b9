//! Where the program of a container is: a file, looked up as the container will see it, from
//! outside and before it exists; or a layer of its image that is no archive of files, which only
//! containerd's content store has.

pub mod annotations;
pub mod media_type;

mod content;
mod entrypoint;
mod layers;
mod view;

pub use content::{ContentError, ContentStore, LayerProgram};
pub use entrypoint::{Entrypoint, EntrypointError, Format, find_entrypoint, find_program};
pub use layers::{
    Candidate, Content, Document, FormError, Index, MAX_DOCUMENT, Manifest, Program, Verifier,
    Wanted, WasmLayer, chain_id,
};
pub use view::ContainerView;
