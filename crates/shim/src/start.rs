//! `start`: finds or becomes the shim of the container's pod, and prints its address.

use std::error::Error;
use std::io::Write;

use crate::arguments::Arguments;
use crate::bootstrap::Call;
use crate::daemon::{self, Handover};
use crate::options;
use crate::socket::{self, Socket};

/// Runs in the bundle. Prints nothing but the answer: containerd reads stdout and stderr
/// together until both are closed.
pub(crate) fn start(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (namespace, id) = arguments.container()?;
    let call = Call::read(id.as_str(), namespace.as_str())?;
    let config = std::fs::read("config.json").unwrap_or_default();
    let group = socket::group(&config, id.as_str());
    let path = socket::path(
        call.socket_folder.as_deref(),
        &arguments.address,
        namespace.as_str(),
        &group.id,
    );
    let address = format!("unix://{}", path.display());
    let program = std::env::current_exe()?;
    // First of all: whatever becomes of this process, `delete` removes the socket.
    std::fs::write(socket::ADDRESS_FILE, &address)?;
    let shim = match socket::claim(&path)? {
        Socket::Served => None,
        Socket::New(listener) => {
            let handover = Handover {
                socket: path.clone(),
                events: call.ttrpc_address.clone(),
                pod: group.pod,
                trace: options::tracing(call.options.as_ref()),
                compiler: program.with_file_name("lighter-compiler"),
                warning: None,
                unused_seconds: daemon::UNUSED_SECONDS,
            };
            let shim = daemon::execute(listener, &program, arguments, handover);
            Some(shim.inspect_err(|_| socket::remove(&path))?)
        }
    };
    let mut stdout = std::io::stdout();
    stdout.write_all(&call.answer(&address)?)?;
    stdout.flush()?;
    shim.map_or(Ok(()), daemon::Starting::finish)?;
    Ok(())
}
