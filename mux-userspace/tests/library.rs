//! mux in a program of one's own, as such a program uses it: by its public interface alone.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    time::Duration,
};

use mux::{Builder, Details, Mux, Probe, Recognise, Serving, StartError, Verdict};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn connect(serving: &Serving) -> TcpStream {
    let address = serving.addresses().next().expect("it listens");
    let stream = TcpStream::connect(address).expect("it accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// Sends, ends, and gives everything that comes back.
fn ask(serving: &Serving, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(serving);
    stream.write_all(bytes).expect("it reads");
    stream.shutdown(Shutdown::Write).expect("open");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    answer
}

/// A server that answers every connection with one word.
fn word(word: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accepts");
            std::thread::spawn(move || {
                let _ = io::copy(&mut stream, &mut io::sink());
                let _ = stream.write_all(word.as_bytes());
            });
        }
    });
    address
}

#[test]
fn rules_of_every_kind() {
    let serving = Mux::builder()
        .rule(mux::prefix("GET "), word("prefix"))
        .rule(mux::regex(r"^\x16\x03[\x00-\x03]").expect("valid"), word("regex"))
        .rule(mux::probe("ssh"), word("probe"))
        .rule(
            |bytes: &[u8]| match bytes.first() {
                None => Verdict::NeedMore(1),
                Some(7) => Verdict::Match(()),
                Some(_) => Verdict::NoMatch,
            },
            word("verdict"),
        )
        .rule(|bytes: &[u8]| bytes.len() > 3 && bytes[0] == 5, word("bool"))
        .threads(2)
        .bind("127.0.0.1:0")
        .start_blocking()
        .expect("it starts");
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], "prefix"),
        (b"\x16\x03\x01", "regex"),
        (b"SSH-2.0-x\r\n", "probe"),
        (b"\x07", "verdict"),
        (b"\x05123", "bool"),
        (b"\x05", ""),
    ] {
        assert_eq!(ask(&serving, bytes).escape_ascii().to_string(), expected);
    }
    serving.stop_blocking();
}

#[tokio::test]
async fn callbacks_tell_of_a_flow() {
    let upstream = word("hello");
    let (connected, was_connected) = mpsc::channel();
    let (closed, was_closed) = mpsc::channel();
    let serving = Mux::builder()
        .named_rule("all", mux::everything(), upstream.clone())
        .on_connect(move |flow| {
            let begins = flow.close().is_none();
            let _ = connected.send((flow.client().to_string(), flow.upstream().to_owned(), begins));
        })
        .on_close(move |flow| {
            let told = (flow.rule().to_owned(), flow.bytes_up(), flow.bytes_down());
            let why = flow.close().map(ToOwned::to_owned);
            let _ = closed.send((told, why, flow.relay().is_some()));
        })
        .listen("127.0.0.1:0")
        .await
        .expect("it starts");
    let mut stream = connect(&serving);
    let client = stream.local_addr().expect("connected").to_string();
    assert_eq!(was_connected.recv_timeout(PATIENCE), Ok((client, upstream, true)));
    stream.write_all(b"abc").expect("it reads");
    stream.shutdown(Shutdown::Write).expect("open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert_eq!(answer, "hello");
    let told = was_closed.recv_timeout(PATIENCE).expect("it ends");
    assert_eq!(told, (("all".to_owned(), 3, 5), Some("finished".to_owned()), true));
    serving.stop().await;
}

/// A protocol of our own, with details.
struct Acme;

impl Recognise for Acme {
    fn examine(&self, bytes: &[u8]) -> Verdict<()> {
        let len = bytes.len().min(4);
        if bytes[..len] != b"ACME"[..len] {
            Verdict::NoMatch
        } else if len == 4 {
            Verdict::Match(())
        } else {
            Verdict::NeedMore(len + 1)
        }
    }

    fn details(&self, bytes: &[u8]) -> Details {
        Details::new().with("rest", &bytes[4..])
    }

    fn shortest_match(&self) -> usize {
        4
    }
}

#[test]
fn a_rules_file_names_a_probe_from_outside() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.toml");
    let text = format!(
        "listen = '127.0.0.1:0'\n[log]\naccess = 'off'\n\
         [[rule]]\nname = 'mine'\nmatch = {{ all = ['acme', {{ not = 'tls' }}] }}\nupstream = '{}'\n",
        word("acme")
    );
    std::fs::write(&path, text).expect("it can be written");
    let (closed, was_closed) = mpsc::channel();
    let serving = Mux::builder()
        .probe(Probe::custom("acme", Acme))
        .rules_file(&path)
        .rule(mux::everything(), word("other"))
        .on_close(move |flow| {
            let details = flow.seen().map(|seen| format!("{} {}", seen.probe, seen.details));
            let _ = closed.send((flow.rule().to_owned(), details));
        })
        .start_blocking()
        .expect("it starts");
    assert_eq!(ask(&serving, b"ACME!"), b"acme");
    let told = was_closed.recv_timeout(PATIENCE).expect("it ends");
    assert_eq!(told, ("mine".to_owned(), Some("acme rest=!".to_owned())));
    assert_eq!(ask(&serving, b"XCME!"), b"other");
    serving.stop_blocking();

    let error = Mux::builder().rules_file(&path).start_blocking().expect_err("no such probe");
    assert!(error.to_string().contains("unknown probe `acme`"), "{error}");
}

#[test]
fn a_listener_is_handed_in() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    // In the backlog before mux is there.
    let mut early = TcpStream::connect(address).expect("it listens");
    let serving = Mux::builder()
        .rule(mux::everything(), "builtin:echo")
        .listener(listener)
        .threads(2)
        .start_blocking()
        .expect("it starts");
    assert_eq!(serving.addresses().collect::<Vec<_>>(), [address]);
    early.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    early.write_all(b"early").expect("it reads");
    let mut echo = [0; 5];
    early.read_exact(&mut echo).expect("it answers");
    assert_eq!(&echo, b"early");
    drop(early);
    assert_eq!(ask(&serving, b"late"), b"late");
    serving.stop_blocking();
    assert!(TcpStream::connect(address).is_err(), "the listener is closed");
}

#[test]
fn stop_lets_flows_end_and_abort_does_not() {
    let builder = || Mux::builder().rule(mux::everything(), "builtin:echo").bind("127.0.0.1:0");
    let serving = builder().start_blocking().expect("it starts");
    let mut stream = connect(&serving);
    let echo = |stream: &mut TcpStream| {
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])
    };
    echo(&mut stream).expect("it answers");
    let stopping = std::thread::spawn(|| serving.stop_blocking());
    echo(&mut stream).expect("the flow goes on");
    drop(stream);
    stopping.join().expect("it stops");

    let serving = builder().start_blocking().expect("it starts");
    let mut stream = connect(&serving);
    echo(&mut stream).expect("it answers");
    serving.abort_blocking();
    let error = echo(&mut stream).expect_err("it is reset");
    let expected = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(expected.contains(&error.kind()), "{error}");
}

#[test]
fn mistakes_are_told_at_start() {
    let ok = || Mux::builder().rule(mux::everything(), "builtin:echo");
    let error = |builder: Builder| builder.start_blocking().expect_err("a mistake");
    assert!(matches!(error(Mux::builder().bind("127.0.0.1:0")), StartError::NoRules));
    assert!(matches!(error(ok()), StartError::NoListeners));
    assert!(matches!(error(ok().bind("3000")), StartError::Listen { .. }));
    let fallback = ok().on_timeout("x").bind("127.0.0.1:0");
    assert!(matches!(error(fallback), StartError::NoSuchRule(_)));
    let twice = ok().named_rule("rule-1", mux::prefix("a"), "builtin:echo").bind("127.0.0.1:0");
    assert!(matches!(error(twice), StartError::SameName(_)));
    let nowhere = Mux::builder().rule(mux::prefix("a"), "nowhere").bind("127.0.0.1:0");
    assert_eq!(
        error(nowhere).to_string(),
        "rule `rule-1`: `nowhere` is not an address: no port: write `host:port`"
    );
    let empty = Mux::builder().rule(mux::prefix(""), "builtin:echo").bind("127.0.0.1:0");
    assert!(matches!(error(empty), StartError::Condition { .. }));
    let unknown = Mux::builder().rule(mux::probe("tsl"), "builtin:echo").bind("127.0.0.1:0");
    assert_eq!(
        error(unknown).to_string(),
        "rule `rule-1`: there is no probe `tsl`; one of your own has to be given to `Builder::probe`"
    );
    assert!(mux::regex("(").is_err());
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    assert!(matches!(error(ok().listener(udp)), StartError::Handed(_)));
}
