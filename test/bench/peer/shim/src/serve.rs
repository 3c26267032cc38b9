//! `wasi:http`: a fresh instance for each request, several at once.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::guest::{Guest, State};

/// As runwasi's shim has it: the variable that names the address, and what it is without.
const ADDRESS: (&str, &str) = ("WASMTIME_HTTP_PROXY_SOCKET_ADDR", "0.0.0.0:8080");

struct Server {
    component: ProxyPre<State>,
    environment: Vec<(String, String)>,
}

/// Serves until the container is killed.
pub(crate) async fn serve(guest: Guest, component: InstancePre<State>) -> Result<i32> {
    let mut environment = guest.environment;
    let set = environment.iter().position(|(name, _)| name == ADDRESS.0);
    let address: SocketAddr = match set {
        Some(place) => environment.swap_remove(place).1.parse(),
        None => ADDRESS.1.parse(),
    }
    .context("the address to serve at")?;
    let server = Arc::new(Server {
        component: ProxyPre::new(component)?,
        environment,
    });
    let listener = TcpListener::bind(address).await?;
    loop {
        let (connection, _) = listener.accept().await?;
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let answer = service_fn(move |request| Arc::clone(&server).answer(request));
            let served = http1::Builder::new().serve_connection(TokioIo::new(connection), answer);
            if let Err(error) = served.await {
                eprintln!("a connection failed: {error:?}");
            }
        });
    }
}

impl Server {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<HyperOutgoingBody>> {
        let wasi = WasiCtxBuilder::new().envs(&self.environment).build();
        let mut store = Store::new(self.component.engine(), State::new(wasi));
        let (sender, receiver) = oneshot::channel();
        let mut http = store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request)?;
        let out = http.new_response_outparam(sender)?;
        let instance = self.component.instantiate_async(&mut store).await?;
        // A task of its own: a guest may go on after it has answered.
        let handled = tokio::spawn(async move {
            let handler = instance.wasi_http_incoming_handler();
            handler.call_handle(&mut store, request, out).await
        });
        match receiver.await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(anyhow!("no answer: {:?}", handled.await)),
        }
    }
}
