//! Upstreams in the daemon itself: `builtin:echo`, `builtin:discard`, `builtin:whoami`.
//!
//! They sit behind a Unix socket pair, so that a flow to them is a flow like any other.

use std::{convert::Infallible, io, rc::Rc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, body::Bytes, header, server::conn::http2, service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, join},
    net::UnixStream,
    time::timeout,
};

use crate::rules::config::Builtin;

/// Most bytes of a request head that `whoami` reads.
const HEAD_LIMIT: usize = 64 * 1024;
/// How long `whoami` waits for the rest of a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long `whoami` waits before it answers a client that it does not know to speak HTTP.
const SPEAK_FIRST: Duration = Duration::from_millis(200);
const JSON: &str = "application/json";
/// Headers that httparse may find; more are no request of ours.
const HEADERS: usize = 128;

/// What `whoami` tells of a connection.
#[derive(Clone, Debug, Serialize)]
pub struct About {
    /// The flow's id in the access log.
    pub id: String,
    /// Who connected, or whom a trusted proxy connected for.
    pub client: String,
    /// That proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Where.
    pub listener: String,
    /// The rule that took it.
    pub rule: String,
    /// How that came.
    pub why: &'static str,
    /// The probe that matched, if the rule has one.
    pub probe: Option<String>,
    /// What it saw.
    pub details: Option<serde_json::Value>,
    /// The same in one line.
    #[serde(skip)]
    pub details_text: String,
    /// The relay.
    pub relay: &'static str,
    /// Why not a faster one.
    pub relay_note: String,
    /// Which mux answers.
    pub server: &'static str,
}

impl About {
    fn text(&self) -> String {
        let probe = match &self.probe {
            Some(probe) if self.details_text.is_empty() => probe.clone(),
            Some(probe) => format!("{probe} ({})", self.details_text),
            None => "-".into(),
        };
        let peer = self.peer.as_ref().map(|peer| format!("peer:     {peer}\n"));
        format!(
            "client:   {}\n{}listener: {}\nrule:     {} ({})\nprobe:    {probe}\nrelay:    {} ({})\nid:       {}\nserver:   {}\n",
            self.client,
            peer.unwrap_or_default(),
            self.listener,
            self.rule,
            self.why,
            self.relay,
            self.relay_note,
            self.id,
            self.server,
        )
    }

    /// What HTTP answers, and its type.
    fn body(&self, json: bool) -> (String, &'static str) {
        if json { (self.json(), JSON) } else { (self.text(), "text/plain; charset=utf-8") }
    }

    fn response<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let accepted = request.headers().get_all(header::ACCEPT);
        let (body, kind) = self.body(accepted.iter().any(|value| names_json(value.as_bytes())));
        let length = header::HeaderValue::from(body.len());
        let body = if request.method() == Method::HEAD { Bytes::new() } else { body.into() };
        let mut response = Response::new(Full::new(body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, length);
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        response
    }

    fn json(&self) -> String {
        // Strings and a value that came out of serde: serialising cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// Serves one connection until its client is done.
///
/// # Errors
/// The socket's; the flow's relay sees the same.
pub async fn serve(builtin: Builtin, stream: UnixStream, about: About) -> io::Result<()> {
    match builtin {
        Builtin::Echo => echo(stream).await,
        Builtin::Discard => discard(stream).await,
        Builtin::Whoami => whoami(stream, about).await,
    }
}

async fn echo(mut stream: UnixStream) -> io::Result<()> {
    let (mut reader, mut writer) = stream.split();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = reader.read(&mut buffer).await?;
        if read == 0 {
            return writer.shutdown().await;
        }
        writer.write_all(&buffer[..read]).await?;
    }
}

async fn discard(mut stream: UnixStream) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn whoami(mut stream: UnixStream, about: About) -> io::Result<()> {
    let mut head = Vec::new();
    let asked = match timeout(HEAD_TIMEOUT, read_head(&mut stream, &mut head)).await {
        Ok(asked) => asked?,
        Err(_) => Asked::NotHttp,
    };
    if asked == Asked::Http2 {
        return whoami_http2(stream, head, about).await;
    }
    let answer = answer(&asked, &about);
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // What the client still sends is read, so that closing is no reset that could overtake the
    // answer.
    discard(stream).await
}

/// The same over HTTP/2, for a client that knows beforehand that we speak it; `begun` is what it has
/// sent.
async fn whoami_http2(stream: UnixStream, begun: Vec<u8>, about: About) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let stream = TokioIo::new(join(AsyncReadExt::chain(io::Cursor::new(begun), reader), writer));
    let about = Rc::new(about);
    let service = service_fn(move |request: Request<_>| {
        let about = Rc::clone(&about);
        async move { Ok::<_, Infallible>(about.response(&request)) }
    });
    http2::Builder::new(OnThisCore)
        .serve_connection(stream, service)
        .await
        .map_err(io::Error::other)
}

/// Runs a connection's streams where the connection is.
#[derive(Clone, Copy, Debug)]
struct OnThisCore;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisCore {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// What the client asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Something that is no HTTP/1 request, or nothing.
    NotHttp,
    /// By HTTP/1.
    Http { head_only: bool, json: bool },
    /// By HTTP/2, something that its frames will tell.
    Http2,
}

/// What an HTTP/2 connection begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear what the client wants.
async fn read_head(stream: &mut UnixStream, head: &mut Vec<u8>) -> io::Result<Asked> {
    let mut buffer = vec![0; 4096];
    loop {
        if let Some(asked) = asked(head) {
            return Ok(asked);
        }
        let read = if head.is_empty() {
            match timeout(SPEAK_FIRST, stream.read(&mut buffer)).await {
                Ok(read) => read?,
                Err(_) => return Ok(Asked::NotHttp),
            }
        } else {
            stream.read(&mut buffer).await?
        };
        if read == 0 || head.len() + read > HEAD_LIMIT {
            return Ok(Asked::NotHttp);
        }
        head.extend_from_slice(&buffer[..read]);
    }
}

fn asked(head: &[u8]) -> Option<Asked> {
    if head.is_empty() {
        return None;
    }
    if head.starts_with(PREFACE) {
        return Some(Asked::Http2);
    }
    if PREFACE.starts_with(head) {
        return None;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => None,
        Err(_) => Some(Asked::NotHttp),
        Ok(httparse::Status::Complete(_)) => {
            let json = request.headers.iter().any(|header| {
                header.name.eq_ignore_ascii_case("accept") && names_json(header.value)
            });
            Some(Asked::Http { head_only: request.method == Some("HEAD"), json })
        }
    }
}

fn names_json(accept: &[u8]) -> bool {
    accept.windows(JSON.len()).any(|part| part.eq_ignore_ascii_case(JSON.as_bytes()))
}

fn answer(asked: &Asked, about: &About) -> String {
    match asked {
        // By HTTP/2 hyper answers: `whoami_http2`.
        Asked::NotHttp | Asked::Http2 => about.text(),
        Asked::Http { head_only, json } => {
            let (body, kind) = about.body(*json);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
                body.len()
            );
            if *head_only { head } else { head + &body }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_head_is_waited_for_and_garbage_is_not() {
        assert_eq!(asked(b""), None);
        assert_eq!(asked(b"GET / HTTP/1.1\r\nHost: x\r\n"), None);
        assert_eq!(asked(b"\x16\x03\x01\x00"), Some(Asked::NotHttp));
        assert_eq!(asked(&PREFACE[..10]), None);
        assert_eq!(asked(PREFACE), Some(Asked::Http2));
        assert_eq!(
            asked(b"HEAD / HTTP/1.0\r\naccept: text/html, Application/JSON\r\n\r\n"),
            Some(Asked::Http { head_only: true, json: true })
        );
    }
}
