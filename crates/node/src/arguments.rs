//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use lighter_wasm::debugging::DebugFolder;
use lighter_wasm::{ArtifactCache, Variant};

use crate::metrics::Address;
use crate::pack::PackArguments;

/// Directory of what an installation remembers, unless the command line says so.
const STATE: &str = "/var/lib/lighter";

/// Looks after WebAssembly containers on this node.
#[derive(Debug, Parser)]
#[command(name = "lighter", version)]
pub struct Arguments {
    /// Directory of compiled code
    #[arg(long, global = true, value_name = "DIR", default_value = ArtifactCache::DEFAULT_DIRECTORY)]
    pub cache: PathBuf,
    /// The compile worker [default: lighter-compiler beside this program]
    #[arg(long, global = true, value_name = "PATH")]
    pub compiler: Option<PathBuf>,
    /// The node's options, as in the runtime handler's ConfigPath [default: their defaults]
    #[arg(long, global = true, value_name = "FILE")]
    pub options: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Compile Wasm files now, so that their first start does not wait
    Precompile {
        /// Wasm files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// command, http, metered or debug [default: http for services, command for the rest]
        #[arg(long, value_parser = variant)]
        variant: Option<Variant>,
    },
    /// Make an image of a Wasm file, the same bytes each time
    Pack(Box<PackArguments>),
    /// Look after compiled code
    #[command(subcommand)]
    Cache(CacheTask),
    /// Print what containers use and do, for Prometheus
    Metrics(MetricsArguments),
    /// Export spans of this node's containers over OTLP, as traces in --options and OTEL_* say
    Traces,
    /// Look at what was recorded of containers with lighter.dev/debug
    Debug(DebugArguments),
    /// Check whether this node can run Wasm containers; exit status 1 if not
    Doctor {
        /// Configuration of the containerd [default: that of the one that runs]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Install the programs and the handler in this node's containerd
    Install(InstallArguments),
    /// Take back what install has done
    Uninstall(UninstallArguments),
    /// Put the programs alone below a prefix, as `make install` and packages do, or remove them
    #[command(subcommand)]
    Programs(ProgramsTask),
    /// Tell whether Lighter is installed and containerd knows the handler; exit status 1 if not
    Status(StatusArguments),
    /// Keep a Kubernetes node installed, as a container of a DaemonSet
    Agent(AgentArguments),
    /// Print completions of the command line for a shell
    Completions {
        /// bash, elvish, fish, powershell or zsh
        shell: Shell,
    },
    /// Write the manual's pages into a directory
    Man {
        /// The directory, which is made if it is not there
        folder: PathBuf,
    },
}

/// Which containerd, and how.
#[derive(Clone, Debug, Args)]
pub struct NodeArguments {
    /// Configuration of the containerd [default: that of the one that runs]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of what an installation remembers
    #[arg(long, value_name = "DIR", default_value = STATE)]
    pub state: PathBuf,
    /// Leave containerd running: it knows of the change after its next restart
    #[arg(long)]
    pub no_restart: bool,
    /// Seconds for containerd to respond again
    #[arg(long, value_name = "N", default_value_t = 120)]
    pub timeout: u64,
    /// Do it to the host, from a privileged container in the host's PID namespace
    #[arg(long)]
    pub host: bool,
}

/// How to install.
#[derive(Debug, Args)]
pub struct InstallArguments {
    #[command(flatten)]
    pub node: NodeArguments,
    /// Directory of the programs to install [default: that of this program]
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Where to: below its bin [default: /usr/local, with templates of k3s and RKE2 /opt/lighter]
    #[arg(long, value_name = "DIR")]
    pub prefix: Option<PathBuf>,
    /// Take the place of another runtime's shim and handler of the same names until `uninstall`
    #[arg(long)]
    pub replace_foreign: bool,
}

/// What to do with the programs alone.
#[derive(Debug, Subcommand)]
pub enum ProgramsTask {
    /// Put them below PREFIX/bin; containerd is left alone
    Install {
        /// Directory of the programs to install [default: that of this program]
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Where to: below its bin
        #[arg(long, value_name = "DIR")]
        prefix: PathBuf,
        /// Set other programs of the same names aside until `uninstall`
        #[arg(long)]
        replace_foreign: bool,
        /// Directory of what an installation remembers
        #[arg(long, value_name = "DIR", default_value = STATE)]
        state: PathBuf,
    },
    /// Remove those of Lighter from PREFIX/bin, and put back what was set aside
    Uninstall {
        /// Where they are: below its bin
        #[arg(long, value_name = "DIR")]
        prefix: PathBuf,
        /// Directory of what an installation remembers
        #[arg(long, value_name = "DIR", default_value = STATE)]
        state: PathBuf,
    },
}

impl NodeArguments {
    /// As words of a command line, but for `--host`.
    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["--state".into(), self.state.clone().into()];
        if let Some(config) = &self.config {
            words.extend(["--config".into(), config.clone().into()]);
        }
        if self.no_restart {
            words.push("--no-restart".into());
        }
        words.extend(["--timeout".into(), self.timeout.to_string().into()]);
        words
    }

    /// The command line that uninstalls, whatever runs.
    pub fn uninstall(&self) -> Vec<OsString> {
        let first = ["uninstall", "--force"].map(OsString::from);
        first.into_iter().chain(self.words()).collect()
    }
}

impl InstallArguments {
    /// The command line that installs so.
    pub fn command(&self) -> Vec<OsString> {
        let mut words = vec!["install".into()];
        words.extend(self.node.words());
        for (flag, value) in [("--from", &self.from), ("--prefix", &self.prefix)] {
            if let Some(value) = value {
                words.extend([flag.into(), value.clone().into()]);
            }
        }
        if self.replace_foreign {
            words.push("--replace-foreign".into());
        }
        words
    }
}

/// How to uninstall.
#[derive(Debug, Args)]
pub struct UninstallArguments {
    #[command(flatten)]
    pub node: NodeArguments,
    /// Also while Wasm containers run; the programs stay for them
    #[arg(long)]
    pub force: bool,
}

/// What to tell of an installation.
#[derive(Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    pub node: NodeArguments,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Where an agent is.
#[derive(Debug, Args)]
pub struct AgentArguments {
    /// The node
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: String,
    /// Namespace of the DaemonSet
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub namespace: String,
    /// The DaemonSet, whose name its service account and roles have, too
    #[arg(long, value_name = "NAME", default_value = "lighter-installer")]
    pub daemon_set: String,
    /// Directory of the service account's files
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount"
    )]
    pub service_account: PathBuf,
    /// How to install; always on the host.
    #[command(flatten)]
    pub install: InstallArguments,
}

/// What to do with compiled code.
#[derive(Debug, Subcommand)]
pub enum CacheTask {
    /// List it
    Ls {
        /// As JSON, one array
        #[arg(long)]
        json: bool,
    },
    /// Remove that of sources, by the first digits of their SHA-256
    Rm {
        /// First digits
        #[arg(required = true, value_name = "DIGEST")]
        digests: Vec<String>,
    },
    /// Remove what was not used for longest, and what other releases left; never what is in use
    Prune {
        /// Bytes to keep (also 500M, 2G) [default: the limit of the cache]
        #[arg(long, value_name = "N", value_parser = bytes)]
        max_bytes: Option<u64>,
    },
    /// Read all of it and remove what is damaged
    Verify,
}

/// How metrics are told.
#[derive(Debug, Args)]
pub struct MetricsArguments {
    /// Serve them at /metrics instead: IP:PORT, or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<Address>,
    /// File of the bearer tokens that a client must send one of, one a line; read at each request.
    /// Without it, only loopback addresses and sockets of root's are served
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub token_file: Option<PathBuf>,
}

/// What was recorded of guests.
#[derive(Debug, Args)]
pub struct DebugArguments {
    /// Directory of the records
    #[arg(long, global = true, value_name = "DIR", default_value = DebugFolder::DEFAULT)]
    pub records: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub task: DebugTask,
}

/// What to do with records. A container is named by the first characters of its id.
#[derive(Debug, Subcommand)]
pub enum DebugTask {
    /// List them
    Ls {
        /// As JSON, one array
        #[arg(long)]
        json: bool,
    },
    /// Show a container's: the trap of a core dump, the busiest functions of a profile, and the paths
    Show {
        /// First characters of its id
        container: String,
    },
    /// Remove those of containers
    Rm {
        /// First characters of their ids
        #[arg(required = true)]
        containers: Vec<String>,
    },
}

fn variant(text: &str) -> Result<Variant, String> {
    Variant::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Variant::ALL.iter().map(|variant| variant.name()).collect();
        format!("it is one of {}", names.join(", "))
    })
}

fn bytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.chars().last() {
        Some('K') => (&text[..text.len() - 1], 1 << 10),
        Some('M') => (&text[..text.len() - 1], 1 << 20),
        Some('G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| "it is a number of bytes, or one of KiB, MiB, GiB as 5K, 5M, 5G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_agents_options_are_those_of_its_installations() {
        let line = "lighter agent --node-name n --namespace s --config /c --prefix /p \
                    --from /f --state /s --timeout 7 --no-restart --replace-foreign";
        let Task::Agent(agent) = Arguments::parse_from(line.split_whitespace()).task else {
            panic!("no agent");
        };
        let words = [vec!["lighter".into()], agent.install.command()].concat();
        let Task::Install(install) = Arguments::parse_from(words).task else {
            panic!("no installation");
        };
        assert_eq!(format!("{install:?}"), format!("{:?}", agent.install));
        let words = [vec!["lighter".into()], agent.install.node.uninstall()].concat();
        let Task::Uninstall(uninstall) = Arguments::parse_from(words).task else {
            panic!("no uninstallation");
        };
        assert!(uninstall.force);
        assert_eq!(
            format!("{:?}", uninstall.node),
            format!("{:?}", agent.install.node)
        );
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("5K"), Ok(5 << 10));
        assert_eq!(bytes("2G"), Ok(2 << 30));
        for text in ["", "K", "-1", "1T", "99999999999G", "1.5G", "ü"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
