//! What `lighter pack` is told.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::pack::form::Form;
use crate::pack::image::Process;
use crate::pack::path::ImagePath;
use crate::pack::program::Program;

/// The arguments of `lighter pack`.
#[derive(Debug, Args)]
pub struct PackArguments {
    /// Wasm file; with --form native a Linux program
    #[arg(value_name = "FILE")]
    pub program: PathBuf,
    /// The image: an archive if it ends in .tar, else a new folder in the OCI image layout
    #[arg(long, short, value_name = "PATH")]
    pub output: PathBuf,
    /// How the image holds the program
    #[arg(long, value_enum, default_value_t = Form::Linux)]
    pub form: Form,
    /// Name and tag of the image [default: none]
    #[arg(long, value_name = "REF")]
    pub name: Option<String>,
    /// Add a component that the program imports from (forms artifact, runwasi and legacy)
    #[arg(long = "compose", value_name = "FILE")]
    pub components: Vec<PathBuf>,
    /// Add a file (forms linux, wasi and native) [default mode: 0755 if it is executable, else 0644]
    #[arg(long = "file", value_name = "FILE:PATH[:MODE]")]
    pub files: Vec<FileArgument>,
    /// An argument of the entrypoint, once for each [default: the program]
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub entrypoint: Vec<String>,
    /// An argument after the entrypoint, once for each
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub cmd: Vec<String>,
    /// An environment variable
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// The working directory
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<ImagePath>,
    /// USER[:GROUP], by name or number
    #[arg(long)]
    pub user: Option<String>,
    /// A label of the image's config
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = pair)]
    pub labels: Vec<(String, String)>,
    /// An annotation of the image's manifest
    #[arg(long = "annotation", value_name = "NAME=VALUE", value_parser = pair)]
    pub annotations: Vec<(String, String)>,
    /// Processor that an image of form linux names [default: that of this machine]
    #[arg(long, value_name = "GOARCH")]
    architecture: Option<String>,
    /// Refused, with the reason
    #[arg(long, hide = true)]
    pub aot: bool,
}

impl PackArguments {
    /// What the config says of the process.
    pub fn process(&self) -> Process {
        Process {
            entrypoint: self.entrypoint.clone(),
            command: self.cmd.clone(),
            environment: self.env.clone(),
            folder: self.workdir.clone(),
            user: self.user.clone(),
        }
    }

    /// The processor, in the names that images use.
    pub fn architecture(&self, program: &Program) -> Result<String, String> {
        match (&self.architecture, program) {
            (Some(_), Program::Native(native)) => Err(format!(
                "--architecture is not for --form native: the program says {}",
                native.architecture
            )),
            (None, Program::Native(native)) => Ok(native.architecture.to_owned()),
            (Some(_), _) if self.form != Form::Linux => Err(
                "--architecture is for --form linux: the other forms are for all processors"
                    .to_owned(),
            ),
            (Some(given), _) => Ok(given.clone()),
            (None, _) => Ok(match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .to_owned()),
        }
    }
}

/// A file that is added: where it is here, where it is in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileArgument {
    pub source: PathBuf,
    pub path: ImagePath,
    pub mode: Option<u32>,
}

impl FromStr for FileArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, path, mode) = match parts[..] {
            [source, path] => (source, path, None),
            [source, path, mode] => (source, path, Some(mode)),
            _ => return Err("it is FILE:PATH or FILE:PATH:MODE".to_owned()),
        };
        if source.is_empty() {
            return Err("it has no FILE".to_owned());
        }
        let octal = |mode| u32::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o7777);
        let mode = match mode {
            None => None,
            Some(text) => Some(
                octal(text).ok_or_else(|| format!("{text} is no mode: it is octal, as 0644"))?,
            ),
        };
        Ok(Self {
            source: source.into(),
            path: path.parse()?,
            mode,
        })
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_a_path_and_perhaps_a_mode() {
        let file: FileArgument = "a/b:/etc/b:0600".parse().unwrap();
        assert_eq!(file.source, PathBuf::from("a/b"));
        assert_eq!(file.path.to_string(), "/etc/b");
        assert_eq!(file.mode, Some(0o600));
        let file: FileArgument = "b:/b".parse().unwrap();
        assert_eq!(file.mode, None);
        for wrong in [
            "b",
            ":/b",
            "b:c",
            "b:/c:8",
            "b:/c:10000",
            "b:/c:1:2",
            "b:/c:",
        ] {
            assert!(wrong.parse::<FileArgument>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn pairs_have_a_name() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("a").is_err() && pair("=a").is_err());
    }
}
