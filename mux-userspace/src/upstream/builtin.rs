//! Upstreams in the daemon itself: `builtin:echo`, `builtin:discard`, `builtin:whoami`.
//!
//! They sit behind a Unix socket pair, so that a flow to them is a flow like any other.

use std::{io, time::Duration};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
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
        Builtin::Whoami => whoami(stream, &about).await,
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

async fn whoami(mut stream: UnixStream, about: &About) -> io::Result<()> {
    let mut head = Vec::new();
    let answer = match timeout(HEAD_TIMEOUT, read_head(&mut stream, &mut head)).await {
        Ok(request) => answer(&request?, about),
        Err(_) => answer(&Asked::NotHttp, about),
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // What the client still sends is read, so that closing is no reset that could overtake the
    // answer.
    discard(stream).await
}

/// What the client asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Something that is no HTTP/1 request, or nothing.
    NotHttp,
    /// By HTTP/1.
    Http { head_only: bool, json: bool },
}

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
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => None,
        Err(_) => Some(Asked::NotHttp),
        Ok(httparse::Status::Complete(_)) => {
            let json = request.headers.iter().any(|header| {
                header.name.eq_ignore_ascii_case("accept")
                    && header
                        .value
                        .windows(16)
                        .any(|part| part.eq_ignore_ascii_case(b"application/json"))
            });
            Some(Asked::Http { head_only: request.method == Some("HEAD"), json })
        }
    }
}

fn answer(asked: &Asked, about: &About) -> String {
    match asked {
        Asked::NotHttp => about.text(),
        Asked::Http { head_only, json } => {
            let (body, kind) = if *json {
                (about.json(), "application/json")
            } else {
                (about.text(), "text/plain; charset=utf-8")
            };
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
        assert_eq!(
            asked(b"HEAD / HTTP/1.0\r\naccept: text/html, Application/JSON\r\n\r\n"),
            Some(Asked::Http { head_only: true, json: true })
        );
    }
}
