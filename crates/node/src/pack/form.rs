//! The ways in which images hold programs.

use clap::ValueEnum;
use lighter_image::media_type;

/// How the image holds the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// An ordinary Linux image with the program as its entrypoint: every client takes it
    Linux,
    /// The same for the platform wasi/wasm
    Wasi,
    /// The Wasm OCI artifact of the CNCF, as wkg and Spin have it
    Artifact,
    /// runwasi's image, whose layer is the program
    Runwasi,
    /// The same with the older type of layer
    Legacy,
    /// An ordinary Linux image of a Linux program, linked statically or with what it needs
    Native,
}

impl Form {
    /// The type of the layer that is the program; nothing where it is a file in a tar.
    pub fn program_layer(self) -> Option<&'static str> {
        match self {
            Self::Linux | Self::Wasi | Self::Native => None,
            Self::Artifact => Some(media_type::WASM),
            Self::Runwasi => Some(media_type::RUNWASI_LAYER),
            Self::Legacy => Some(media_type::OLD_WASM_LAYER),
        }
    }

    /// What it is called in a sentence.
    pub fn title(self) -> &'static str {
        match self {
            Self::Linux | Self::Wasi | Self::Native => "image",
            Self::Artifact => "Wasm OCI artifact",
            Self::Runwasi | Self::Legacy => "image with a Wasm layer",
        }
    }
}
