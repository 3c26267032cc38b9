//! OCI images made in memory.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::call::Call;
use crate::guests::guest;

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image, whose archive both `ctr images import` and `docker load` take: one layer of files,
/// then layers that are no archives.
#[derive(Clone)]
pub struct Image {
    name: String,
    platform: (String, String),
    entries: BTreeMap<String, Entry>,
    blobs: Vec<Blob>,
    config: serde_json::Map<String, Value>,
    config_type: String,
    manifest_edit: fn(&mut Value),
    index_edit: Option<fn(&mut Value)>,
    without: Vec<String>,
    beside: Vec<Image>,
}

/// A layer that is no archive.
#[derive(Clone)]
struct Blob {
    media_type: String,
    content: Vec<u8>,
    title: Option<String>,
}

#[derive(Clone)]
struct Entry {
    content: Content,
    mode: u32,
    owner: (u64, u64),
}

#[derive(Clone)]
enum Content {
    File(Vec<u8>),
    Folder,
    Symlink(String),
}

impl Image {
    /// An empty image for linux/amd64. Its reference is `docker.io/lighter/NAME:latest`, so
    /// docker also takes `lighter/NAME`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            platform: ("linux".to_owned(), "amd64".to_owned()),
            entries: BTreeMap::new(),
            blobs: Vec::new(),
            config: serde_json::Map::new(),
            config_type: CONFIG_TYPE.to_owned(),
            manifest_edit: |_| {},
            index_edit: None,
            without: Vec::new(),
            beside: Vec::new(),
        }
    }

    /// An image with one built guest as `/NAME.wasm`, which is the entrypoint.
    pub fn wasm(name: &str) -> Self {
        let path = format!("/{name}.wasm");
        Self::new(name)
            .file(&path, read_guest(name), 0o755)
            .entrypoint([path.as_str()])
    }

    /// An image of Debian's static busybox, with all its applets in `/bin`, users root and
    /// nobody, and `sh` as the command.
    pub fn busybox() -> Self {
        let busybox = fs::read("/usr/bin/busybox")
            .or_else(|_| fs::read("/bin/busybox"))
            .unwrap_or_else(|error| panic!("no busybox ({error}): run test/setup/packages.sh"));
        let mut image = Self::new("busybox")
            .file("/bin/busybox", busybox, 0o755)
            .file("/etc/passwd", USERS, 0o644)
            .file("/etc/group", GROUPS, 0o644)
            .folder("/tmp", 0o1777, (0, 0))
            .folder("/root", 0o700, (0, 0))
            .env("PATH", "/bin")
            .command(["sh"]);
        for applet in Call::new("busybox", ["--list"])
            .ok()
            .lines()
            .filter(|name| *name != "busybox")
        {
            image = image.symlink(&format!("/bin/{applet}"), "busybox");
        }
        image
    }

    /// Adds a built guest (see [`guest`]) as an executable file.
    pub fn guest(self, path: &str, name: &str) -> Self {
        self.file(path, read_guest(name), 0o755)
    }

    /// Adds a file of root's.
    pub fn file(self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.file_of(path, content, mode, (0, 0))
    }

    /// Adds a file with its user and group.
    pub fn file_of(
        self,
        path: &str,
        content: impl Into<Vec<u8>>,
        mode: u32,
        owner: (u64, u64),
    ) -> Self {
        self.entry(
            path,
            Entry {
                content: Content::File(content.into()),
                mode,
                owner,
            },
        )
    }

    /// Adds a folder with its user and group; parents of entries come by themselves.
    pub fn folder(self, path: &str, mode: u32, owner: (u64, u64)) -> Self {
        self.entry(
            path,
            Entry {
                content: Content::Folder,
                mode,
                owner,
            },
        )
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        let content = Content::Symlink(target.to_owned());
        self.entry(
            path,
            Entry {
                content,
                mode: 0o777,
                owner: (0, 0),
            },
        )
    }

    fn entry(mut self, path: &str, entry: Entry) -> Self {
        self.entries
            .insert(path.trim_start_matches('/').to_owned(), entry);
        self
    }

    /// Sets the entrypoint.
    pub fn entrypoint<const N: usize>(self, arguments: [&str; N]) -> Self {
        self.set("Entrypoint", json!(arguments.to_vec()))
    }

    /// Sets the command: the arguments after the entrypoint.
    pub fn command<const N: usize>(self, arguments: [&str; N]) -> Self {
        self.set("Cmd", json!(arguments.to_vec()))
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let list = self.config.entry("Env").or_insert_with(|| json!([]));
        list.as_array_mut()
            .expect("only this method sets it")
            .push(json!(format!("{name}={value}")));
        self
    }

    /// Sets the working directory.
    pub fn workdir(self, path: &str) -> Self {
        self.set("WorkingDir", json!(path))
    }

    /// Sets the user: `1000`, `1000:1000`, `nobody`.
    pub fn user(self, user: &str) -> Self {
        self.set("User", json!(user))
    }

    /// Sets the platform, `wasi` and `wasm` for instance. The image is then imported and run
    /// with `--platform`.
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.platform = (os.to_owned(), architecture.to_owned());
        self
    }

    /// Adds a layer of any media type that is `content` as it is, with a title if it has one.
    pub fn blob(
        mut self,
        media_type: &str,
        content: impl Into<Vec<u8>>,
        title: Option<&str>,
    ) -> Self {
        self.blobs.push(Blob {
            media_type: media_type.to_owned(),
            content: content.into(),
            title: title.map(str::to_owned),
        });
        self
    }

    /// Makes it an artifact: a config of this type and, unless that is the type of images, with
    /// the digests of its layers and nothing that a client could start.
    pub fn config_type(mut self, media_type: &str) -> Self {
        self.config_type = media_type.to_owned();
        self
    }

    /// Changes the manifest, to lie for instance.
    pub fn edit_manifest(mut self, edit: fn(&mut Value)) -> Self {
        self.manifest_edit = edit;
        self
    }

    /// Puts an index in front of the manifest, and changes it: its first entry is the manifest.
    pub fn edit_index(mut self, edit: fn(&mut Value)) -> Self {
        self.index_edit = Some(edit);
        self
    }

    /// Puts an index in front of the manifest that names this image too, after it.
    pub fn beside(mut self, other: Image) -> Self {
        self.beside.push(other);
        self
    }

    /// Leaves the content with this digest out of the archive.
    pub fn without(mut self, digest: &str) -> Self {
        self.without.push(digest.to_owned());
        self
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// The full name: `docker.io/lighter/NAME:latest`.
    pub fn reference(&self) -> String {
        format!("docker.io/lighter/{}:latest", self.name)
    }

    /// The platform as `--platform` takes it.
    pub fn platform_name(&self) -> String {
        format!("{}/{}", self.platform.0, self.platform.1)
    }

    /// The descriptor of the manifest, and all contents.
    fn parts(&self) -> (Value, Vec<Vec<u8>>) {
        let mut contents = Vec::new();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        if self.blobs.is_empty() || !self.entries.is_empty() {
            let layer = self.layer();
            layers.push(descriptor(LAYER_TYPE, &layer));
            diff_ids.push(digest(&layer));
            contents.push(layer);
        }
        for blob in &self.blobs {
            let mut entry = descriptor(&blob.media_type, &blob.content);
            if let Some(title) = &blob.title {
                entry["annotations"] = json!({ "org.opencontainers.image.title": title });
            }
            layers.push(entry);
            contents.push(blob.content.clone());
        }
        let mut config = json!({
            "os": self.platform.0,
            "architecture": self.platform.1,
        });
        if self.config_type == CONFIG_TYPE {
            config["config"] = json!(self.config);
            config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        } else {
            let digests: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
            config["layerDigests"] = json!(digests);
        }
        let config = bytes(&config);
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(&self.config_type, &config),
            "layers": layers,
        });
        (self.manifest_edit)(&mut manifest);
        let manifest = bytes(&manifest);
        let mut entry = descriptor(MANIFEST_TYPE, &manifest);
        entry["platform"] = json!({ "os": self.platform.0, "architecture": self.platform.1 });
        contents.extend([config, manifest]);
        (entry, contents)
    }

    /// The image as an archive in the OCI layout.
    pub fn archive(&self) -> Vec<u8> {
        let (mut entry, mut contents) = self.parts();
        if self.index_edit.is_some() || !self.beside.is_empty() {
            let mut entries = vec![entry];
            for other in &self.beside {
                let (entry, others) = other.parts();
                entries.push(entry);
                contents.extend(others);
            }
            let mut index = json!({
                "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries,
            });
            if let Some(edit) = self.index_edit {
                edit(&mut index);
            }
            let index = bytes(&index);
            entry = descriptor(INDEX_TYPE, &index);
            contents.push(index);
        }
        entry["annotations"] = json!({
            "io.containerd.image.name": self.reference(),
            "org.opencontainers.image.ref.name": "latest",
        });
        let index = bytes(&json!({
            "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry],
        }));

        let mut archive = Builder::new(Vec::new());
        append(
            &mut archive,
            "oci-layout",
            &bytes(&json!({ "imageLayoutVersion": "1.0.0" })),
        );
        append(&mut archive, "index.json", &index);
        contents.retain(|content| !self.without.contains(&digest(content)));
        for content in &contents {
            append(
                &mut archive,
                &digest(content).replace("sha256:", "blobs/sha256/"),
                content,
            );
        }
        archive.into_inner().expect("write to memory")
    }

    /// The image of one layer as an archive of `docker save`, which engines without containerd's store
    /// load, too.
    pub fn docker_archive(&self) -> Vec<u8> {
        let (_, contents) = self.parts();
        let [layer, config, _] = &contents[..] else {
            panic!("{} has more than one layer", self.name);
        };
        let manifest = json!([{
            "Config": "config.json", "RepoTags": [self.reference()], "Layers": ["layer.tar"],
        }]);
        let mut archive = Builder::new(Vec::new());
        append(&mut archive, "layer.tar", layer);
        append(&mut archive, "config.json", config);
        append(&mut archive, "manifest.json", &bytes(&manifest));
        archive.into_inner().expect("write to memory")
    }

    fn layer(&self) -> Vec<u8> {
        let mut entries = self.entries.clone();
        for path in self.entries.keys() {
            for (end, _) in path.match_indices('/') {
                entries.entry(path[..end].to_owned()).or_insert(Entry {
                    content: Content::Folder,
                    mode: 0o755,
                    owner: (0, 0),
                });
            }
        }
        let mut layer = Builder::new(Vec::new());
        for (path, entry) in &entries {
            let mut header = Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(entry.owner.0);
            header.set_gid(entry.owner.1);
            header.set_mtime(0);
            header.set_size(0);
            match &entry.content {
                Content::File(content) => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_size(content.len() as u64);
                    layer.append_data(&mut header, path, content.as_slice())
                }
                Content::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    layer.append_data(&mut header, format!("{path}/"), &[][..])
                }
                Content::Symlink(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    layer.append_link(&mut header, path, target)
                }
            }
            .unwrap_or_else(|error| panic!("cannot put {path} into a layer: {error}"));
        }
        layer.into_inner().expect("write to memory")
    }
}

const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\n";

fn read_guest(name: &str) -> Vec<u8> {
    let path = guest(name);
    fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value can be written")
}

/// A digest as images name it: `sha256:` and 64 hexadecimal digits.
pub fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().fold("sha256:".to_owned(), |text, byte| {
        text + &format!("{byte:02x}")
    })
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

fn append(archive: &mut Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, path, content)
        .expect("write to memory");
}
