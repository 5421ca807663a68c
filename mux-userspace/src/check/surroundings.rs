//! What the addresses of a rules file lead to on this machine, now.

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::rules::{Diagnostic, config::Address};

/// For all names together.
const LOOKUP_TIME: Duration = Duration::from_secs(5);
/// Names that are looked up at once: each takes a thread.
const LOOKUP_THREADS: usize = 16;

/// Warns of names that do not resolve, and of Unix sockets that are not there; of each once.
pub(super) fn warnings(addresses: Vec<(Range<usize>, Address)>) -> Vec<Diagnostic> {
    let mut told = HashSet::new();
    let once = addresses.into_iter().filter(|(_, address)| match address {
        Address::Name { host, port: _ } => {
            told.insert(Address::Name { host: host.clone(), port: 0 })
        }
        Address::Unix(_) | Address::Ip(_) | Address::Builtin(_) => told.insert(address.clone()),
    });
    let once: Vec<_> = once.collect();
    let names = once.iter().filter_map(|(_, address)| match address {
        Address::Name { host, port: _ } => Some(Arc::clone(host)),
        Address::Ip(_) | Address::Unix(_) | Address::Builtin(_) => None,
    });
    let answers = look_up(names.collect(), LOOKUP_TIME);
    once.into_iter().filter_map(|(span, address)| warning(span, &address, &answers)).collect()
}

fn warning(span: Range<usize>, address: &Address, answers: &Answers) -> Option<Diagnostic> {
    match address {
        Address::Ip(_) | Address::Builtin(_) => None,
        Address::Unix(path) => {
            let problem = not_a_socket(path)?;
            Some(
                Diagnostic::warning(span, format!("{} {problem}", path.display()))
                    .hint("start its server before mux, or at least before the first connection"),
            )
        }
        Address::Name { host, port: _ } => {
            let (label, hint) = match answers.get(host) {
                Some(Ok(())) => return None,
                Some(Err(error)) => {
                    (error.to_string(), "check its spelling, and what `getent ahosts` says of it")
                }
                None => (
                    format!("no answer within {}", humantime::format_duration(LOOKUP_TIME)),
                    "check whether this machine can reach its name servers",
                ),
            };
            let message = format!("`{host}` does not resolve");
            Some(Diagnostic::warning(span, message).label(label).hint(hint))
        }
    }
}

/// What is wrong with the path of a Unix socket.
fn not_a_socket(path: &Path) -> Option<String> {
    use std::os::unix::fs::FileTypeExt;
    match path.metadata() {
        Ok(file) if file.file_type().is_socket() => None,
        Ok(_) => Some("is not a socket".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("is not there".to_owned()),
        Err(error) => Some(format!("cannot be looked at: {error}")),
    }
}

/// Of each name that there was an answer for, whether it has an address.
type Answers = HashMap<Arc<str>, io::Result<()>>;

/// Looks names up by the system's resolver, all at once, for so long in all.
fn look_up(names: Vec<Arc<str>>, time: Duration) -> Answers {
    if names.is_empty() {
        return Answers::new();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .max_blocking_threads(LOOKUP_THREADS)
        .build();
    let Ok(runtime) = runtime else { return Answers::new() };
    let answers = runtime.block_on(answers(names, Instant::now() + time));
    // A thread that waits for a name server ends with the process.
    runtime.shutdown_background();
    answers
}

async fn answers(names: Vec<Arc<str>>, deadline: Instant) -> Answers {
    let mut lookups = JoinSet::new();
    for host in names {
        lookups.spawn(async move {
            let found = tokio::net::lookup_host((&*host, 0)).await;
            let no_address = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            let answer = found.and_then(|mut all| all.next().map(drop).ok_or_else(no_address));
            (host, answer)
        });
    }
    let mut answers = Answers::new();
    while let Ok(Some(done)) = timeout_at(deadline, lookups.join_next()).await {
        // A lookup that panicked is one without an answer.
        answers.extend(done);
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn name(host: &str, port: u16) -> Address {
        Address::Name { host: host.into(), port }
    }

    #[test]
    fn a_name_that_resolves_is_no_news_and_others_are_told_once() {
        // RFC 6761 6.4: no resolver may know names below `invalid`.
        let addresses = vec![
            (0..1, name("localhost", 80)),
            (2..3, name("no-such-name.invalid", 80)),
            (4..5, name("no-such-name.invalid", 81)),
            (6..7, Address::Ip(([127, 0, 0, 1], 80).into())),
        ];
        let found = warnings(addresses);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].span, 2..3);
        assert_eq!(found[0].message, "`no-such-name.invalid` does not resolve");
    }

    #[test]
    fn names_without_an_answer_in_time_are_told() {
        let told = warning(0..1, &name("localhost", 1), &Answers::new()).unwrap();
        assert_eq!(told.label, "no answer within 5s");
    }

    #[test]
    fn sockets_that_are_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let told = |path: &Path| {
            let found = warnings(vec![(0..1, Address::Unix(path.into()))]);
            found.into_iter().next().map(|found| found.message)
        };
        let name = path.display();
        assert_eq!(told(&path), Some(format!("{name} is not there")));
        let _socket = UnixListener::bind(&path).unwrap();
        assert_eq!(told(&path), None);
        let file = directory.path().join("f");
        std::fs::write(&file, "").unwrap();
        assert_eq!(told(&file), Some(format!("{} is not a socket", file.display())));
    }
}
