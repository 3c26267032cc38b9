//! The process of a guest, from both sides.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use lighter_wasm::{
    ArtifactCache, Composition, Guest, Options, Part, Program, ProgramError, exit_on_fatal_signals,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// First argument of the process of a guest.
pub const ROLE: &str = "--be-guest";

/// Exit status of the process when its program could not be loaded.
pub const NOT_LOADED: i32 = 99;

/// The path of the compile worker that Cargo built for these tests.
pub const COMPILER: &str = env!("CARGO_BIN_EXE_lighter-compiler");

/// What a container's init does with a Wasm program. The environment is the guest's.
///
/// Arguments: whether the handlers are installed `before` or `after` the engine is made, cache,
/// compiler, file, export (empty: none), current folder, and then the guest's.
pub fn be_guest(arguments: &[String]) -> ! {
    let [order, cache, compiler, file, export, cwd, args @ ..] = arguments else {
        panic!("six arguments and those of the guest are needed");
    };
    if order == "before" {
        exit_on_fatal_signals();
    }
    let cache = ArtifactCache::new(PathBuf::from(cache), PathBuf::from(compiler));
    let export = Some(export.as_str()).filter(|export| !export.is_empty());
    let program = match file.strip_prefix(COMPOSED) {
        Some(parts) => load_composition(parts, export, &cache).map_err(|error| error.to_string()),
        None => File::open(file)
            .map_err(|error| error.to_string())
            .and_then(|source| {
                Program::load(source, file, export, &cache, Options::default())
                    .map_err(|error| error.to_string())
            }),
    };
    let program = program.unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(NOT_LOADED);
    });
    exit_on_fatal_signals();
    let reason = program.run(Guest {
        args: args.to_vec(),
        env: std::env::vars().collect(),
        cwd: cwd.clone(),
        ..Guest::default()
    });
    std::process::exit(i32::from(reason.status()));
}

/// What the file of a program begins with that is made of several, as `FOLDER,NAME=DIGEST,...`. Each
/// is in the folder, under its digest.
const COMPOSED: &str = "composed:";

fn load_composition(
    text: &str,
    export: Option<&str>,
    cache: &ArtifactCache,
) -> Result<Program, ProgramError> {
    let mut words = text.split(',');
    let folder = Path::new(words.next().unwrap());
    let parts: Vec<Part> = words
        .map(|word| {
            let (name, digest) = word.split_once('=').unwrap();
            Part {
                name: name.to_owned(),
                digest: digest.to_owned(),
            }
        })
        .collect();
    let fetch = |part: &Part| -> io::Result<File> { File::open(folder.join(&part.digest)) };
    let composition = Composition::new(&parts, &fetch);
    Program::load_composition(composition, "app.wasm", export, cache, Options::default())
}

/// A folder with an artifact cache and the programs of one test.
pub struct Node {
    pub folder: TempDir,
}

/// What a process left behind.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status; 1000 + signal when a signal ended it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A program that is about to run.
pub struct Run {
    pub order: &'static str,
    pub cache: PathBuf,
    pub compiler: PathBuf,
    pub file: PathBuf,
    pub export: &'static str,
    pub cwd: PathBuf,
    pub args: Vec<&'static str>,
    pub env: Vec<(&'static str, &'static str)>,
}

impl Node {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("artifacts")
    }

    /// Writes `bytes` as `app.wasm`, to be run.
    pub fn program(&self, bytes: &[u8]) -> Run {
        let file = self.folder.path().join("app.wasm");
        std::fs::write(&file, bytes).unwrap();
        Run {
            order: "after",
            cache: self.cache(),
            compiler: PathBuf::from(COMPILER),
            file,
            export: "",
            cwd: PathBuf::from("/"),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// A program that is made of several components: the first imports from the others.
    pub fn composed(&self, components: &[(&str, Vec<u8>)]) -> Run {
        let mut file = format!("{COMPOSED}{}", self.folder.path().display());
        for (name, bytes) in components {
            let hash = Sha256::digest(bytes);
            let digest: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            std::fs::write(self.folder.path().join(&digest), bytes).unwrap();
            file.push_str(&format!(",{name}={digest}"));
        }
        let mut run = self.program(b"");
        run.file = PathBuf::from(file);
        run
    }

    /// Translates `text` and writes it as `app.wasm`, to be run.
    pub fn text(&self, text: &str) -> Run {
        self.program(&wat::parse_str(text).unwrap())
    }
}

impl Run {
    pub fn export(mut self, export: &'static str) -> Self {
        self.export = export;
        self
    }

    pub fn cwd(mut self, cwd: &Path) -> Self {
        self.cwd = cwd.to_owned();
        self
    }

    pub fn args(mut self, args: &[&'static str]) -> Self {
        self.args = args.to_vec();
        self
    }

    pub fn env(mut self, env: &[(&'static str, &'static str)]) -> Self {
        self.env = env.to_vec();
        self
    }

    pub fn compiler(mut self, compiler: impl Into<PathBuf>) -> Self {
        self.compiler = compiler.into();
        self
    }

    pub fn order(mut self, order: &'static str) -> Self {
        self.order = order;
        self
    }

    /// The command line of the process.
    pub fn words(&self) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let own = std::env::current_exe().unwrap();
        let mut words = vec![
            text(&own),
            ROLE.to_owned(),
            self.order.to_owned(),
            text(&self.cache),
            text(&self.compiler),
            text(&self.file),
            self.export.to_owned(),
            text(&self.cwd),
        ];
        words.extend(self.args.iter().map(|argument| (*argument).to_owned()));
        words
    }

    fn spawn_words(&self, words: &[String], stdin: Stdio) -> Child {
        Command::new(&words[0])
            .args(&words[1..])
            .env_clear()
            .envs(self.env.iter().copied())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn spawn(&self, stdin: Stdio) -> Child {
        self.spawn_words(&self.words(), stdin)
    }

    /// Starts the process as the first one of a PID namespace. The child is the command that
    /// made the namespace, and ends as the first process does.
    pub fn spawn_as_first(&self) -> Child {
        let command = ["/usr/bin/unshare", "--pid", "--fork", "--kill-child"];
        let words = command.map(str::to_owned).into_iter().chain(self.words());
        self.spawn_words(&words.collect::<Vec<_>>(), Stdio::null())
    }

    pub fn run(&self) -> Outcome {
        finish(self.spawn(Stdio::null()))
    }
}

/// Waits for the end of `child`.
pub fn finish(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let status = output.status;
    Outcome {
        status: status
            .code()
            .unwrap_or_else(|| 1000 + status.signal().unwrap()),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
