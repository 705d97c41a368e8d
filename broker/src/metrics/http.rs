//! The HTTP end of it: `GET /metrics`, to as many as may ask at once, each for as long as an answer may take.
//!
//! Nobody need say who they are: it is for whoever can connect. What a client may cost is bounded: [`CONNECTIONS_MAX`]
//! at a time, [`PATIENCE`] for each from its first byte to the last, 8 KiB and 32 lines of head, no body; and the text
//! is made once in [`FRESH`] at most, however many ask.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};

use crate::Broker;

/// How many may ask at a time; others wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what was told is told again.
const FRESH: Duration = Duration::from_secs(1);
/// The smallest buffer there can be, for the head of a request.
const HEAD_BYTES_MAX: usize = 8192;
/// Lines of a head.
const HEADERS_MAX: usize = 32;
/// After an error in accepting, such as no descriptors.
const AFTER_ERROR: Duration = Duration::from_millis(200);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Tells metrics, until it is dropped.
pub(crate) struct Exporter {
    address: SocketAddr,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Listens, on a thread of its own.
    ///
    /// # Errors
    /// When the address cannot be listened on, or out of descriptors or threads.
    pub(crate) fn start(address: SocketAddr, broker: &Arc<Broker>) -> io::Result<Exporter> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let told = Arc::new(Told { broker: Arc::downgrade(broker), text: Mutex::default() });
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, told) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(run)?;
        Ok(Exporter { address, stop: Some(stop), thread: Some(thread) })
    }

    /// What is listened on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What has been told last.
struct Told {
    broker: Weak<Broker>,
    text: Mutex<Option<(Instant, Bytes)>>,
}

impl Told {
    fn text(&self) -> Bytes {
        let mut text = self.text.lock();
        if let Some((at, known)) = &*text
            && at.elapsed() < FRESH
        {
            return known.clone();
        }
        let new = self.broker.upgrade().map(|broker| super::text(&broker)).unwrap_or_default();
        text.insert((Instant::now(), Bytes::from(new))).1.clone()
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let plain = |status, text: &'static str| {
            let mut response = Response::new(Full::from(text));
            *response.status_mut() = status;
            response
        };
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                let mut response = Response::new(Full::new(self.text()));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
                response
            }
            (_, "/metrics") => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            _ => plain(StatusCode::NOT_FOUND, "there is only /metrics\n"),
        }
    }
}

async fn serve(listener: TcpListener, told: Arc<Told>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "no metrics"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let told = told.clone();
                tokio::spawn(async move {
                    // A client that is late, or does not speak HTTP, sees the end.
                    let _ = tokio::time::timeout(PATIENCE, answer(stream, told)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, told: Arc<Told>) {
    let service = service_fn(|request| {
        let response = told.answer(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    http.keep_alive(false).max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}
