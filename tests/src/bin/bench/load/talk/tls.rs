//! TLS through the subject: hellos alone, and whole handshakes with a request.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use rustix::event::epoll::EventFlags;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Context, Step, Talk, wrong};
use crate::{
    load::clock::Clock,
    poll::{Moved, read, write},
    wire::{self, Persistence},
};

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Plan {
    config: Arc<ClientConfig>,
    names: Vec<ServerName<'static>>,
}

impl Plan {
    /// # Errors
    /// A name that is none.
    pub(crate) fn new(names: &[String]) -> Result<Self> {
        let names = names
            .iter()
            .map(|name| ServerName::try_from(name.clone()).with_context(|| name.clone()))
            .collect::<Result<_>>()?;
        let provider = ring::default_provider();
        let verifier = AnyCertificate(provider.signature_verification_algorithms);
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        // Each handshake is a whole one.
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), names })
    }

    fn connection(&self, number: u64) -> Result<ClientConnection, Error> {
        let index = number as usize % self.names.len().max(1);
        let name = self.names.get(index).cloned();
        let name = name.ok_or_else(|| Error::General("no server name".to_owned()))?;
        ClientConnection::new(Arc::clone(&self.config), name)
    }
}

/// A ClientHello for each of the names.
///
/// # Errors
/// A name that is none.
pub(crate) fn hellos(names: &[String]) -> Result<Vec<Arc<[u8]>>> {
    let plan = Plan::new(names)?;
    (0..names.len() as u64)
        .map(|number| {
            let mut hello = Vec::new();
            plan.connection(number)?.write_tls(&mut hello)?;
            Ok(hello.into())
        })
        .collect()
}

/// A handshake, a request, an answer, the end.
pub(crate) struct Handshake {
    tls: Result<Box<ClientConnection>, Error>,
    asked: bool,
    answer: Vec<u8>,
    begun: Instant,
}

impl Handshake {
    pub(crate) fn new(plan: &Plan, number: u64) -> Self {
        Self {
            tls: plan.connection(number).map(Box::new),
            asked: false,
            answer: Vec::new(),
            begun: Instant::now(),
        }
    }
}

impl Talk for Handshake {
    fn begin(&mut self, now: Instant) {
        self.begun = now;
    }

    fn advance(&mut self, socket: &OwnedFd, context: &mut Context<'_>) -> io::Result<Step> {
        let tls = self.tls.as_mut().map_err(|error| wrong(error.to_string()))?;
        let mut ended = false;
        loop {
            if !tls.is_handshaking() && !self.asked {
                self.asked = true;
                tls.writer().write_all(&wire::request(0, Persistence::Close))?;
            }
            if tls.wants_write() {
                match tls.write_tls(&mut Socket(socket)) {
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Step::Wait(EventFlags::OUT | EventFlags::IN));
                    }
                    Err(error) => return Err(error),
                }
            }
            match tls.read_tls(&mut Socket(socket)) {
                Ok(0) => ended = true,
                Ok(_) => {
                    let state =
                        tls.process_new_packets().map_err(|error| wrong(error.to_string()))?;
                    let start = self.answer.len();
                    self.answer.resize(start + state.plaintext_bytes_to_read(), 0);
                    let plain = self.answer.get_mut(start..).unwrap_or_default();
                    tls.reader().read_exact(plain)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Step::Wait(EventFlags::IN));
                }
                Err(error) => return Err(error),
            }
            if ended {
                if !is_whole(&self.answer) {
                    return Err(wrong(format!("an answer of {} bytes", self.answer.len())));
                }
                context.unit(self.answer.len() as u64, self.begun, Instant::now());
                return Ok(Step::Again);
            }
        }
    }

    fn may_end(&self, _: &Clock) -> bool {
        false
    }
}

/// Whether an HTTP answer is a good one, with as many bytes as it says.
fn is_whole(answer: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(answer) else { return false };
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let mut lines = head.split("\r\n");
    lines.next().is_some_and(|status| status.starts_with("HTTP/1.1 200 "))
        && lines.any(|line| {
            line.strip_prefix("Content-Length: ").and_then(|size| size.parse().ok())
                == Some(body.len())
        })
}

/// A socket as rustls wants it.
struct Socket<'a>(&'a OwnedFd);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        as_result(read(self.0, buffer)?)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        as_result(write(self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn as_result(moved: Moved) -> io::Result<usize> {
    match moved {
        Moved::Bytes(count) => Ok(count),
        Moved::Later => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// Takes any certificate whose key signs the handshake: the server is the benchmark's own, and
/// its certificate was made a moment ago.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_answer_is_not_whole() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
        assert!(is_whole(answer));
        (0..answer.len()).for_each(|end| assert!(!is_whole(&answer[..end]), "{end}"));
        assert!(!is_whole(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"));
    }

    #[test]
    fn each_hello_is_a_record_with_its_name() {
        let names: Vec<String> = (0..3).map(wire::server_name).collect();
        for (hello, name) in hellos(&names).unwrap().iter().zip(&names) {
            assert_eq!(hello.first(), Some(&0x16));
            assert!(hello.windows(name.len()).any(|window| window == name.as_bytes()));
        }
    }
}
