//! One active check of an endpoint: connect, say something, wait for the right answer.

use std::{future::poll_fn, io};

use tokio::time::timeout;

use super::{dial, endpoint::Endpoint, source::Manner};
use crate::{
    net::Stream,
    proxy::{self, Version},
    rules::config::{Expect, HealthConfig},
};

/// Most bytes of an answer that are looked at.
const ANSWER_LIMIT: usize = 16 * 1024;
/// Bytes of a wrong answer that the reason shows.
const SHOWN: usize = 32;

/// Checks an endpoint, within the configuration's timeout. With a version, a PROXY header comes
/// first, as for flows.
///
/// # Errors
/// Why it is not well, for people.
pub(super) async fn check(
    endpoint: &Endpoint,
    health: &HealthConfig,
    manner: &Manner<'_>,
    header: Option<Version>,
) -> Result<(), String> {
    let whole = async {
        let dialled = dial::dial(endpoint, health.timeout, manner).await;
        let mut stream = dialled.map_err(|failures| describe(&failures))?.stream;
        if let Some(version) = header {
            let header = proxy::announce_own(version, &stream);
            send(&mut stream, &header).await.map_err(|error| format!("sending: {error}"))?;
        }
        converse(&mut stream, health).await
    };
    timeout(health.timeout, whole).await.unwrap_or_else(|_| Err("timed out".into()))
}

fn describe(failures: &dial::Failures) -> String {
    let all: Vec<String> = failures.iter().map(|(_, error)| error.to_string()).collect();
    all.join("; ")
}

async fn converse(stream: &mut Stream, health: &HealthConfig) -> Result<(), String> {
    send(stream, &health.send).await.map_err(|error| format!("sending: {error}"))?;
    let mut answer = Vec::new();
    loop {
        match judge(&health.expect, &answer, End::Open) {
            Some(true) => return Ok(()),
            Some(false) => return Err(wrong(&answer)),
            None => {}
        }
        let read =
            receive(stream, &mut answer).await.map_err(|error| format!("answer: {error}"))?;
        if read == 0 || answer.len() >= ANSWER_LIMIT {
            return match judge(&health.expect, &answer, End::Reached) {
                Some(true) => Ok(()),
                Some(false) | None => Err(wrong(&answer)),
            };
        }
    }
}

/// Whether more of an answer can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Reached,
}

/// Whether an answer is the right one; `None`: that depends on what comes.
fn judge(expect: &Expect, answer: &[u8], end: End) -> Option<bool> {
    match expect {
        Expect::Connection => Some(true),
        Expect::Prefix(prefix) if answer.starts_with(prefix) => Some(true),
        Expect::Prefix(prefix) => (!prefix.starts_with(answer)).then_some(false),
        // Only the end makes sure that `$` and the like are true; what is true without them is
        // true at once or soon.
        Expect::Regex(regex) if regex.is_match(answer) => Some(true),
        Expect::Regex(_) => (end == End::Reached).then_some(false),
    }
}

fn wrong(answer: &[u8]) -> String {
    if answer.is_empty() {
        return "no answer before the end".into();
    }
    let shown = answer[..answer.len().min(SHOWN)].escape_ascii();
    let more = if answer.len() > SHOWN { "…" } else { "" };
    format!("a wrong answer: {shown}{more}")
}

async fn send(stream: &mut Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match poll_fn(|cx| stream.poll_write(cx, bytes)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = bytes.get(written..).unwrap_or_default(),
        }
    }
    Ok(())
}

async fn receive(stream: &mut Stream, answer: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 1024];
    let read = poll_fn(|cx| stream.poll_read(cx, &mut buffer)).await?;
    answer.extend_from_slice(buffer.get(..read).unwrap_or_default());
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, UnixListener},
    };

    use super::*;
    use crate::{account::Counters, net::TcpTimers, rules::config::Address};

    fn prefix(text: &str) -> Expect {
        Expect::Prefix(text.as_bytes().into())
    }

    fn regex(pattern: &str) -> Expect {
        Expect::Regex(regex::bytes::Regex::new(pattern).expect("valid"))
    }

    /// Every beginning of an answer: undecided, until it is right or wrong for good.
    #[test]
    fn a_prefix_is_judged_as_soon_as_it_can_be() {
        let expect = prefix("+PONG");
        for length in 0..5 {
            assert_eq!(judge(&expect, &b"+PONG"[..length], End::Open), None);
        }
        assert_eq!(judge(&expect, b"+PONG", End::Open), Some(true));
        assert_eq!(judge(&expect, b"+PONG\r\n", End::Open), Some(true));
        assert_eq!(judge(&expect, b"-", End::Open), Some(false));
        assert_eq!(judge(&expect, b"+PO", End::Reached), None);
    }

    #[test]
    fn a_pattern_may_match_until_the_end() {
        let expect = regex(r"HTTP/1\.[01] (?:2|3)");
        assert_eq!(judge(&expect, b"HTTP/1.1 5", End::Open), None);
        assert_eq!(judge(&expect, b"HTTP/1.1 503 x", End::Reached), Some(false));
        assert_eq!(judge(&expect, b"HTTP/1.1 200", End::Open), Some(true));
        assert_eq!(judge(&Expect::Connection, b"", End::Open), Some(true));
    }

    fn health(send: &str, expect: Expect) -> HealthConfig {
        HealthConfig {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            rise: 1,
            fall: 1,
            send: send.as_bytes().into(),
            expect,
        }
    }

    fn endpoint(address: Address) -> Endpoint {
        Endpoint::new(address, Arc::default())
    }

    /// A check without a header, from any address.
    async fn run(endpoint: &Endpoint, health: &HealthConfig) -> Result<(), String> {
        with_header(endpoint, health, None).await
    }

    async fn with_header(
        endpoint: &Endpoint,
        health: &HealthConfig,
        header: Option<Version>,
    ) -> Result<(), String> {
        let counters = Counters::default();
        let manner = Manner {
            source: None,
            client: None,
            segment: None,
            timers: TcpTimers::default(),
            counters: &counters,
        };
        check(endpoint, health, &manner, header).await
    }

    #[tokio::test]
    async fn a_header_of_our_own_comes_before_the_question() {
        for version in [Version::V1, Version::V2] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let endpoint = endpoint(Address::Ip(listener.local_addr().expect("bound")));
            let server = async {
                let (mut stream, client) = listener.accept().await.expect("a check");
                let local = stream.local_addr().expect("connected");
                let mut expected = proxy::write::own(version, Some((client, local)));
                expected.extend_from_slice(b"PING");
                let mut said = vec![0; expected.len()];
                stream.read_exact(&mut said).await.expect("the question");
                assert_eq!(said, expected);
                stream.write_all(b"+PONG").await.expect("an answer");
            };
            let health = health("PING", prefix("+PONG"));
            let checking = with_header(&endpoint, &health, Some(version));
            let (result, ()) = tokio::join!(checking, server);
            assert_eq!(result, Ok(()));
        }
    }

    /// A server that reads `PING` and says `answer`, and the result of a check of it.
    async fn checked(answer: &'static str, expect: Expect) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = endpoint(Address::Ip(listener.local_addr().expect("bound")));
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a check");
            let mut ping = [0; 4];
            stream.read_exact(&mut ping).await.expect("the question");
            assert_eq!(&ping, b"PING");
            // Byte by byte: an answer may come in pieces.
            for byte in answer.bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    break; // it has heard enough
                }
                tokio::task::yield_now().await;
            }
        };
        let health = health("PING", expect);
        let (result, ()) = tokio::join!(run(&endpoint, &health), server);
        result
    }

    #[tokio::test]
    async fn answers_right_and_wrong() {
        assert_eq!(checked("+PONG\r\n", prefix("+PONG")).await, Ok(()));
        assert_eq!(checked("says +PONG", regex("PONG$")).await, Ok(()));
        let wrong = checked("-LOADING\r\n", prefix("+PONG")).await.expect_err("wrong");
        assert!(wrong.starts_with("a wrong answer: -"), "{wrong}");
        let short = checked("+PO", prefix("+PONG")).await;
        assert_eq!(short, Err("a wrong answer: +PO".into()));
        assert_eq!(checked("", regex("x")).await, Err("no answer before the end".into()));
    }

    #[tokio::test]
    async fn a_connection_is_enough_where_nothing_is_expected() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let endpoint = endpoint(Address::Unix(path.clone()));
        let health = health("", Expect::Connection);
        assert!(run(&endpoint, &health).await.is_err());
        let listener = UnixListener::bind(&path).expect("bound");
        assert_eq!(run(&endpoint, &health).await, Ok(()));
        drop(listener);
        let error = run(&endpoint, &health).await.expect_err("nobody listens");
        assert!(error.contains("refused"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = endpoint(Address::Ip(listener.local_addr().expect("bound")));
        let result = run(&endpoint, &health("", prefix("220 "))).await;
        assert_eq!(result, Err("timed out".into()));
    }
}
