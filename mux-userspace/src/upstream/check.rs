//! One active check of an endpoint: connect, say something, wait for the right answer.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::Poll,
};

use tokio::time::timeout;

use super::{dial, endpoint::Endpoint, eyeballs::MOST_AT_ONCE, resolve::Name, source::Manner};
use crate::{
    net::Stream,
    proxy::{self, Version},
    rules::config::{Expect, HealthConfig},
};

/// Most bytes of an answer that are looked at.
const ANSWER_LIMIT: usize = 16 * 1024;
/// Addresses that the reason describes.
const DESCRIBED: usize = 8;
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
    if let Some(name) = endpoint.name() {
        return check_all(name, health, manner, header).await;
    }
    let connect = async {
        let dialled = dial::dial(endpoint, health.timeout, manner, &[]).await;
        dialled.map(|dialled| dialled.stream).map_err(|failures| describe(&failures))
    };
    check_one(connect, health, header).await
}

/// Checks each address of a name, some at a time. The name is well if one of them is; of those that
/// are not, flows keep away.
async fn check_all(
    name: &Name,
    health: &HealthConfig,
    manner: &Manner<'_>,
    header: Option<Version>,
) -> Result<(), String> {
    let addresses = match timeout(health.timeout, name.all()).await {
        Ok(addresses) => addresses.map_err(|error| error.to_string())?,
        Err(_) => return Err("timed out".into()),
    };
    let mut wrong = Vec::new();
    for some in addresses.chunks(MOST_AT_ONCE) {
        let check = |ip: &IpAddr| {
            let address = SocketAddr::new(*ip, name.port());
            let connect = async move {
                let connected = dial::connect_tcp(address, manner, &[]).await;
                connected.map(|(stream, _)| stream).map_err(|error| error.to_string())
            };
            Box::pin(check_one(connect, health, header))
        };
        let results = all_of(some.iter().map(check).collect()).await;
        for (ip, result) in some.iter().zip(results) {
            name.checked(*ip, result.is_ok(), health);
            wrong.extend(result.err().map(|error| format!("{ip}: {error}")));
        }
    }
    if wrong.len() < addresses.len() {
        return Ok(());
    }
    // They may be old.
    name.doubt();
    wrong.truncate(DESCRIBED);
    Err(wrong.join("; "))
}

/// The results of futures, in their order.
async fn all_of<F: Future>(mut futures: Vec<Pin<Box<F>>>) -> Vec<F::Output> {
    let mut results: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *result = Some(output);
            }
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

async fn check_one(
    connect: impl Future<Output = Result<Stream, String>>,
    health: &HealthConfig,
    header: Option<Version>,
) -> Result<(), String> {
    let mut answer = Vec::new();
    let whole = async {
        let mut stream = connect.await?;
        stream.without_delay();
        if let Some(version) = header {
            let header = proxy::announce_own(version, &stream);
            send(&mut stream, &header).await.map_err(|error| format!("sending: {error}"))?;
        }
        converse(&mut stream, health, &mut answer).await
    };
    match timeout(health.timeout, whole).await {
        Ok(result) => result,
        Err(_) if answer.is_empty() => Err("timed out".into()),
        Err(_) => Err(format!("timed out after {}", wrong(&answer))),
    }
}

fn describe(failures: &dial::Failures) -> String {
    let all: Vec<String> = failures.iter().map(|(_, error)| error.to_string()).collect();
    all.join("; ")
}

async fn converse(
    stream: &mut Stream,
    health: &HealthConfig,
    answer: &mut Vec<u8>,
) -> Result<(), String> {
    send(stream, &health.send).await.map_err(|error| format!("sending: {error}"))?;
    while !is_right(&health.expect, answer) {
        // What is wrong so far may still become right: that the end says, or the timeout.
        let read = receive(stream, answer).await.map_err(|error| format!("answer: {error}"))?;
        if (read == 0 || answer.len() >= ANSWER_LIMIT) && !is_right(&health.expect, answer) {
            return Err(wrong(answer));
        }
    }
    Ok(())
}

/// Whether an answer is the right one, as far as it has come.
fn is_right(expect: &Expect, answer: &[u8]) -> bool {
    match expect {
        Expect::Connection => true,
        // Not empty.
        Expect::Contains(bytes) => answer.windows(bytes.len()).any(|part| *part == **bytes),
        Expect::Regex(regex) => regex.is_match(answer),
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

    fn text(text: &str) -> Expect {
        Expect::Contains(text.as_bytes().into())
    }

    fn regex(pattern: &str) -> Expect {
        Expect::Regex(regex::bytes::Regex::new(pattern).expect("valid"))
    }

    /// Every beginning of an answer, with the text at its beginning, in its middle and at its end.
    #[test]
    fn a_text_is_found_wherever_it_is_as_soon_as_it_is_there() {
        for (answer, from) in [("+PONG\r\n", 5), ("HELLO +PONG\r\n", 11), ("a +PON +PONG", 12)] {
            for length in 0..=answer.len() {
                let found = is_right(&text("+PONG"), &answer.as_bytes()[..length]);
                assert_eq!(found, length >= from, "{length} bytes of {answer:?}");
            }
        }
        assert!(!is_right(&text("+PONG"), b"-LOADING"));
    }

    #[test]
    fn a_pattern_is_found_as_soon_as_it_is_there() {
        let expect = regex(r"^HTTP/1\.[01] (?:2|3)");
        assert!(!is_right(&expect, b"HTTP/1.1 503 of 200"));
        assert!(is_right(&expect, b"HTTP/1.1 200"));
        assert!(is_right(&Expect::Connection, b""));
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
            sticky: None,
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
            let health = health("PING", text("+PONG"));
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
        assert_eq!(checked("+PONG\r\n", text("PONG")).await, Ok(()));
        assert_eq!(checked("HTTP/1.0 200 OK\r\n", text("200")).await, Ok(()));
        assert_eq!(checked("says +PONG", regex("PONG$")).await, Ok(()));
        let wrong = checked("-LOADING\r\n", text("+PONG")).await.expect_err("wrong");
        assert!(wrong.starts_with("a wrong answer: -"), "{wrong}");
        let short = checked("+PO", text("+PONG")).await;
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
        let result = run(&endpoint, &health("", text("220 "))).await;
        assert_eq!(result, Err("timed out".into()));
    }

    /// It says something wrong and keeps the connection: what it said is told.
    #[tokio::test]
    async fn a_wrong_answer_without_an_end_is_told_of() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = endpoint(Address::Ip(listener.local_addr().expect("bound")));
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a check");
            stream.write_all(b"-LOADING\r\n").await.expect("said");
            stream
        };
        let mut health = health("", text("+PONG"));
        health.timeout = Duration::from_millis(500);
        let (result, _stream) = tokio::join!(run(&endpoint, &health), server);
        assert_eq!(result, Err("timed out after a wrong answer: -LOADING\\r\\n".into()));
    }
}
