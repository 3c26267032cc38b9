//! `start`: finds or becomes the shim of the container's pod, and prints its address.

use std::error::Error;
use std::io::Write;

use crate::arguments::Arguments;
use crate::bootstrap::Call;
use crate::daemon::{self, Addresses};
use crate::options;
use crate::socket::{self, Socket};

/// Runs in the bundle. Prints nothing but the answer: containerd reads stdout and stderr
/// together until both are closed.
pub(crate) fn start(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (namespace, id) = arguments.container()?;
    let call = Call::read(id.as_str(), namespace.as_str())?;
    let config = std::fs::read("config.json").unwrap_or_default();
    let group = socket::group(config, id.as_str());
    let path = socket::path(
        call.socket_folder.as_deref(),
        &arguments.address,
        namespace.as_str(),
        &group.id,
    );
    let address = format!("unix://{}", path.display());
    if let Socket::New(listener) = socket::claim(&path)? {
        daemon::fork(
            listener,
            path,
            namespace,
            &Addresses {
                ttrpc: call.ttrpc_address.clone(),
                grpc: arguments.address.clone(),
            },
            arguments.debug,
            group.pod,
            options::tracing(call.options.as_ref()),
        )?;
    }
    std::fs::write(socket::ADDRESS_FILE, &address)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&call.answer(&address)?)?;
    stdout.flush()?;
    Ok(())
}
