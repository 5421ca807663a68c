//! A request to the admin socket, and its answer.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{
    net::UnixStream,
    runtime::{Builder, Runtime},
    time::timeout,
};

/// How to have an admin socket.
pub(crate) const HOW: &str =
    "the daemon's rules file needs `[admin]` with `socket = \"/run/mux/admin.sock\"`";

/// For an answer about what is.
const READ: Duration = Duration::from_secs(10);
/// For an order to be done: a new process may have to make its self-test first.
const ORDER: Duration = Duration::from_secs(120);
/// Longest answer, bytes.
const ANSWER: usize = 64 << 20;

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// No socket, or nobody who listens.
    #[error(
        "no daemon listens on {}: {source}\nhint: {HOW}; `--socket` or `--rules` says where it is",
        .path.display()
    )]
    NobodyThere {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file's permissions.
    #[error(
        "you may not connect to {}\nhint: `ls -l` shows whose it is; root can, and `[admin] mode` and `group` let others",
        .path.display()
    )]
    NotPermitted {
        /// The socket's file.
        path: PathBuf,
    },
    /// Another error of the way there.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The socket's file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon ended while it answered, or it is not mux that answers.
    #[error("the admin socket's answer broke off: {0}")]
    Http(#[from] hyper::Error),
    /// The daemon says no.
    #[error("{0}")]
    Refused(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The daemon says nothing.
    #[error("the daemon did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// It is another version's, or not mux's.
    #[error("the answer is not one of this version of mux: {0}")]
    Strange(String),
}

/// One end of the admin socket.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: Runtime,
    path: PathBuf,
}

impl Client {
    /// Of the daemon behind this socket.
    ///
    /// # Errors
    /// [`Failure::Io`]: the runtime's.
    pub(crate) fn new(path: PathBuf) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| Failure::Io { path: path.clone(), source })?;
        Ok(Self { runtime, path })
    }

    /// Where the daemon is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Asks.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn get(&self, path: &str) -> Result<Bytes, Failure> {
        self.send(Method::GET, path, "")
    }

    /// Asks, for a structure.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse(&self.get(path)?)
    }

    /// Sends a request.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) fn send(&self, method: Method, path: &str, body: &str) -> Result<Bytes, Failure> {
        let patience = if method == Method::GET { READ } else { ORDER };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "mux")
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .map_err(|error| Failure::Invalid(error.to_string()))?;
        self.runtime.block_on(async {
            timeout(patience, self.exchange(request)).await.map_err(|_| Failure::Late(patience))?
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Bytes, Failure> {
        let stream =
            UnixStream::connect(&self.path).await.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Its error is the request's, too.
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER).collect().await;
        connection.abort();
        let body = body.map_err(|error| Failure::Strange(error.to_string()))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let said = String::from_utf8_lossy(&body).trim_end().to_owned();
        Err(match status {
            StatusCode::BAD_REQUEST => Failure::Invalid(said),
            _ => Failure::Refused(said),
        })
    }

    fn unreachable(&self, source: io::Error) -> Failure {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Failure::NobodyThere { path, source }
            }
            io::ErrorKind::PermissionDenied => Failure::NotPermitted { path },
            // Foreign and open-ended.
            _ => Failure::Io { path, source },
        }
    }
}

/// Reads an answer.
///
/// # Errors
/// [`Failure::Strange`].
pub(crate) fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| Failure::Strange(error.to_string()))
}
