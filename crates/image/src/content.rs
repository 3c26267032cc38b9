//! containerd's content store, asked over its gRPC socket.
//!
//! These calls make a client, block, and leave its memory behind: they are for a process that
//! ends afterwards (decision 0013).

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use containerd_client::Client;
use containerd_client::services::v1::snapshots::StatSnapshotRequest;
use containerd_client::services::v1::{
    Container, GetContainerRequest, GetImageRequest, ReadContentRequest,
};
use containerd_client::tonic::metadata::AsciiMetadataValue;
use containerd_client::tonic::{Code, Request, Status, Streaming};
use containerd_client::types::Descriptor;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::layers::{
    Candidate, Content, Document, FormError, MAX_DOCUMENT, Manifest, Program, Verifier, Wanted,
    chain_id,
};

/// For one answer. containerd gives them at once, unless the machine is overloaded.
const PATIENCE: Duration = Duration::from_secs(20);

/// containerd sends pieces of 1 MiB.
const MAX_MESSAGE: usize = 16 << 20;

/// Snapshots between a container's and its image's: Docker has one.
const MAX_DEPTH: usize = 8;

/// The content store of the containerd that a container belongs to.
#[derive(Clone, Debug)]
pub struct ContentStore {
    /// containerd's gRPC socket.
    pub socket: PathBuf,
    /// The namespace of image and container.
    pub namespace: String,
}

/// A layer that is the program of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerProgram {
    /// The image's name.
    pub image: String,
    /// The layer.
    pub program: Program,
}

/// Why the content store has no program for a container.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The image has no program that can be run.
    #[error("the image {image} cannot be run: {error}")]
    Form {
        /// The image's name.
        image: String,
        /// What is wrong.
        error: FormError,
    },
    /// The image has programs, but not this one.
    #[error("of the image {image}, {error}")]
    NoSuchLayer {
        /// The image's name.
        image: String,
        /// Which there are.
        error: FormError,
    },
    /// A part of the image is gone.
    #[error(
        "{content} of the image {image} is not in containerd's content store: it was removed, or collected as garbage (with `discard_unpacked_layers`, containerd does that by itself); pull the image again"
    )]
    Gone {
        /// The image's name.
        image: String,
        /// What is missing.
        content: String,
    },
    /// containerd does not answer, or not so.
    #[error("containerd, asked at {}, {fault}", socket.display())]
    Containerd {
        /// Its socket.
        socket: PathBuf,
        /// What it did.
        fault: String,
    },
    /// What was read cannot be kept.
    #[error("a layer of the image {image} cannot be written to a file of this node: {error}")]
    Write {
        /// The image's name.
        image: String,
        /// Why.
        error: io::Error,
    },
}

impl ContentStore {
    /// The layer that the container `id` runs when what is wanted is no file of its rootfs, by
    /// the rules of [`Manifest::program`]. None if its image is files and nothing else, or unknown
    /// to containerd.
    pub fn find(
        &self,
        id: &str,
        wanted: Wanted<'_>,
        compose: Option<bool>,
    ) -> Result<Option<LayerProgram>, ContentError> {
        self.block_on(|client| async move { self.session(client).find(id, wanted, compose).await })
    }

    /// Writes a layer of the image into `file`, if its bytes are what its descriptor says.
    pub fn read(&self, image: &str, content: &Content, file: &File) -> Result<(), ContentError> {
        self.block_on(|client| async move {
            let mut file = file;
            let mut keep = |piece: &[u8]| {
                file.write_all(piece).map_err(|error| ContentError::Write {
                    image: image.to_owned(),
                    error,
                })
            };
            self.session(client)
                .read(image, "the layer", content, &mut keep)
                .await
        })
    }

    /// On a thread of its own: this process may be a fork of one that runs an event loop.
    fn block_on<T, F>(&self, work: impl FnOnce(Client) -> F + Send) -> Result<T, ContentError>
    where
        T: Send,
        F: Future<Output = Result<T, ContentError>>,
    {
        let run = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()
                .map_err(|error| self.fault(format!("cannot be asked: {error}")))?
                .block_on(async {
                    let client = timeout(PATIENCE, Client::from_path(&self.socket))
                        .await
                        .map_err(|_| self.silent())?
                        .map_err(|error| {
                            self.fault(format!("cannot be reached: {}", deepest(&error)))
                        })?;
                    work(client).await
                })
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .spawn_scoped(scope, run)
                .map_err(|error| self.fault(format!("cannot be asked: {error}")))?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn session(&self, client: Client) -> Session<'_> {
        Session {
            store: self,
            client,
        }
    }

    fn fault(&self, fault: String) -> ContentError {
        ContentError::Containerd {
            socket: self.socket.clone(),
            fault,
        }
    }

    fn silent(&self) -> ContentError {
        self.fault(format!("did not answer within {} s", PATIENCE.as_secs()))
    }
}

/// One connection.
struct Session<'a> {
    store: &'a ContentStore,
    client: Client,
}

impl Session<'_> {
    async fn find(
        &self,
        id: &str,
        wanted: Wanted<'_>,
        compose: Option<bool>,
    ) -> Result<Option<LayerProgram>, ContentError> {
        let Some(container) = self.container(id).await? else {
            return Ok(None);
        };
        let image = container.image.as_str();
        let Some(target) = self.image(image).await? else {
            return Ok(None);
        };
        let form = |error| form(image, error);
        let size = u64::try_from(target.size).unwrap_or(0);
        let root = Content::new(&target.digest, size).map_err(form)?;
        let manifest = match self.document(image, &root).await? {
            Document::Manifest(manifest) => Some(manifest),
            Document::Index(index) => {
                self.of_index(&container, image, index.candidates.into())
                    .await?
            }
        };
        let program = match manifest {
            Some(manifest) => manifest.program(wanted, compose).map_err(form)?,
            None => None,
        };
        Ok(program.map(|program| LayerProgram {
            image: image.to_owned(),
            program,
        }))
    }

    /// The image of an index that has Wasm layers and that the container's rootfs was made of:
    /// its snapshot is built on the one of the image's files. containerd says it nowhere else.
    async fn of_index(
        &self,
        container: &Container,
        image: &str,
        mut candidates: VecDeque<Candidate>,
    ) -> Result<Option<Manifest>, ContentError> {
        let only = candidates.len() == 1;
        let mut fitting: Vec<(Candidate, Manifest)> = Vec::new();
        let mut base = None;
        while let Some(candidate) = candidates.pop_front() {
            // Clients fetch the images of the platforms that they want, and no others.
            let document = match self.document(image, &candidate.manifest).await {
                Err(ContentError::Gone { .. }) if !only => continue,
                document => document?,
            };
            let Document::Manifest(manifest) = document else {
                continue;
            };
            if only {
                return Ok(Some(manifest));
            }
            if !manifest.has_wasm() {
                continue;
            }
            let config = self.bytes(image, "the config", &manifest.config).await?;
            let files = chain_id(&config).map_err(|error| form(image, error))?;
            if base.is_none() {
                base = Some(self.base(container).await?);
            }
            if base.as_ref() == Some(&files) {
                fitting.push((candidate, manifest));
            }
        }
        if fitting.len() > 1 {
            let found: Vec<&str> = fitting
                .iter()
                .map(|(candidate, _)| candidate.platform.as_str())
                .collect();
            let found = found.join(", ");
            return Err(form(image, FormError::ManyPlatforms { found }));
        }
        Ok(fitting.pop().map(|(_, manifest)| manifest))
    }

    /// The snapshot of files that the container's own is built on.
    async fn base(&self, container: &Container) -> Result<Option<String>, ContentError> {
        let mut key = container.snapshot_key.clone();
        for _ in 0..MAX_DEPTH {
            let request = self.request(StatSnapshotRequest {
                snapshotter: container.snapshotter.clone(),
                key,
            })?;
            let answer = self
                .answer(self.client.snapshots().stat(request))
                .await?
                .map_err(|status| self.refused(&status))?;
            key = answer.info.map(|info| info.parent).unwrap_or_default();
            if key.is_empty() {
                return Ok(None);
            }
            if key.starts_with("sha256:") {
                return Ok(Some(key));
            }
        }
        Ok(Some(key))
    }

    async fn container(&self, id: &str) -> Result<Option<Container>, ContentError> {
        let request = self.request(GetContainerRequest { id: id.to_owned() })?;
        let answer = self
            .answer(self.client.containers().get(request))
            .await
            .and_then(|answer| self.found(answer))?;
        Ok(answer
            .and_then(|answer| answer.container)
            .filter(|container| !container.image.is_empty()))
    }

    async fn image(&self, name: &str) -> Result<Option<Descriptor>, ContentError> {
        let request = self.request(GetImageRequest {
            name: name.to_owned(),
        })?;
        let answer = self
            .answer(self.client.images().get(request))
            .await
            .and_then(|answer| self.found(answer))?;
        Ok(answer
            .and_then(|answer| answer.image)
            .and_then(|image| image.target))
    }

    async fn document(&self, image: &str, content: &Content) -> Result<Document, ContentError> {
        let bytes = self.bytes(image, "the manifest", content).await?;
        Document::parse(&bytes).map_err(|error| form(image, error))
    }

    /// A whole index, manifest or config.
    async fn bytes(
        &self,
        image: &str,
        what: &'static str,
        content: &Content,
    ) -> Result<Vec<u8>, ContentError> {
        if content.size() > MAX_DOCUMENT {
            let what = what.trim_start_matches("the ");
            let size = content.size();
            return Err(form(image, FormError::TooLarge { what, size }));
        }
        let mut bytes = Vec::new();
        let mut keep = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        self.read(image, what, content, &mut keep).await?;
        Ok(bytes)
    }

    /// Hands over the content in pieces. Only when this returns without an error, they were
    /// what was promised.
    async fn read(
        &self,
        image: &str,
        what: &str,
        content: &Content,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ContentError>,
    ) -> Result<(), ContentError> {
        let gone = |status: Status| match status.code() {
            Code::NotFound => ContentError::Gone {
                image: image.to_owned(),
                content: format!("{what} {}", content.digest()),
            },
            _ => self.refused(&status),
        };
        let request = self.request(ReadContentRequest {
            digest: content.digest(),
            ..Default::default()
        })?;
        let mut client = self.client.content().max_decoding_message_size(MAX_MESSAGE);
        let mut pieces: Streaming<_> = self.answer(client.read(request)).await?.map_err(gone)?;
        let mut verifier = Verifier::new(content);
        loop {
            let piece = timeout(PATIENCE, pieces.message())
                .await
                .map_err(|_| self.store.silent())?
                .map_err(gone)?;
            let Some(piece) = piece else { break };
            verifier
                .update(&piece.data)
                .map_err(|error| form(image, error))?;
            take(&piece.data)?;
        }
        verifier.finish().map_err(|error| form(image, error))
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, ContentError> {
        let namespace =
            AsciiMetadataValue::try_from(self.store.namespace.as_str()).map_err(|_| {
                self.store
                    .fault("cannot be asked: no such namespace".to_owned())
            })?;
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", namespace);
        Ok(request)
    }

    /// The message of an answer that comes in time.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<containerd_client::tonic::Response<T>, Status>>,
    ) -> Result<Result<T, Status>, ContentError> {
        let answer = timeout(PATIENCE, call)
            .await
            .map_err(|_| self.store.silent())?;
        Ok(answer.map(containerd_client::tonic::Response::into_inner))
    }

    /// An answer, or that there is no such thing.
    fn found<T>(&self, answer: Result<T, Status>) -> Result<Option<T>, ContentError> {
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.refused(&status)),
        }
    }

    fn refused(&self, status: &Status) -> ContentError {
        self.store.fault(format!("refused: {}", status.message()))
    }
}

fn form(image: &str, error: FormError) -> ContentError {
    let image = image.to_owned();
    match error {
        FormError::NoSuchLayer { .. } => ContentError::NoSuchLayer { image, error },
        _ => ContentError::Form { image, error },
    }
}

/// tonic's own texts say "transport error" only.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}
