//! The upper bound: what hyper answers on this machine when there is no guest to ask.

use std::convert::Infallible;
use std::error::Error;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What the guests `http-hello` and `http-python` answer.
const HELLO: &[u8] = b"Hello from Wasm\n";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args()
        .nth(1)
        .ok_or("usage: peer-hello ADDRESS:PORT")?;
    let listener = TcpListener::bind(address).await?;
    loop {
        let (connection, _) = listener.accept().await?;
        tokio::spawn(async move {
            let answer = service_fn(|_| async {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(HELLO))))
            });
            let served = http1::Builder::new().serve_connection(TokioIo::new(connection), answer);
            if let Err(error) = served.await {
                eprintln!("a connection failed: {error}");
            }
        });
    }
}
