//! What rustls's client and captured ones say, read by this probe and by rustls's server; and of
//! the captured ones, by tls-parser.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName,
    server::Acceptor, version,
};

use super::{fixtures::captured, tls::oracle};
use crate::probe::{Probe, TlsVersion, Verdict, tls};

/// The ClientHello for a name, with these protocols and versions.
fn hello(name: &str, protocols: &[Vec<u8>], versions: &[TlsVersion], sni: bool) -> Vec<u8> {
    let all = [(TlsVersion::Tls12, &version::TLS12), (TlsVersion::Tls13, &version::TLS13)];
    let versions: Vec<_> = all
        .into_iter()
        .filter(|(version, _)| versions.contains(version))
        .map(|(_, version)| version)
        .collect();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&versions)
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.to_vec();
    config.enable_sni = sni;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("written");
    bytes
}

/// The name and the protocols that rustls's server reads.
fn theirs(mut bytes: &[u8]) -> (Option<Vec<u8>>, Vec<Vec<u8>>) {
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut bytes).expect("read");
    let accepted = match acceptor.accept() {
        Ok(Some(accepted)) => accepted,
        Ok(None) => panic!("rustls wants more"),
        Err((error, _)) => panic!("{error}"),
    };
    let hello = accepted.client_hello();
    let name = hello.server_name().map(|name| name.as_bytes().to_vec());
    (name, hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect())
}

/// Hellos of openssl, Chromium, curl and Python: post-quantum shares, GREASE, ECH, no name.
#[test]
fn captured_hellos_agree() {
    let captured = captured(&Probe::tls());
    assert!(captured.len() >= 6, "{} hellos", captured.len());
    for (from, bytes) in captured {
        let Verdict::Match(body) = tls::message(&bytes) else { panic!("{from}: no ClientHello") };
        let ours = tls::ClientHello::parse(&body).expect(&from);
        let name = ours.server_name();
        let protocols: Vec<&[u8]> = ours.protocols().collect();

        let (their_name, their_protocols) = theirs(&bytes);
        assert_eq!(name, their_name.as_deref(), "{from}: rustls");
        // rustls takes no GREASE for a protocol either: it only compares names.
        assert_eq!(protocols, their_protocols, "{from}: rustls");

        let length = (body.len() as u32).to_be_bytes();
        let message = [&[0x01], &length[1..], &body].concat();
        let theirs = oracle(&message).expect(&from);
        assert_eq!(name, theirs.name.as_deref(), "{from}: tls-parser");
        assert_eq!(protocols, theirs.protocols, "{from}: tls-parser");
        let known = theirs.versions.into_iter().filter_map(TlsVersion::from_code);
        assert_eq!(ours.versions().collect::<Vec<_>>(), known.collect::<Vec<_>>(), "{from}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn agrees_with_rustls(
        labels in proptest::collection::vec("[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", 1..5),
        protocols in proptest::collection::vec("[a-z0-9/.]{1,20}", 0..5),
        versions in prop::sample::subsequence(vec![TlsVersion::Tls12, TlsVersion::Tls13], 1..3),
        sni in any::<bool>(),
    ) {
        // A name of digits at its end would be an address.
        let name = labels.join(".") + ".example";
        let protocols: Vec<Vec<u8>> = protocols.into_iter().map(String::into_bytes).collect();
        let bytes = hello(&name, &protocols, &versions, sni);
        let (their_name, their_protocols) = theirs(&bytes);

        let Verdict::Match(body) = tls::message(&bytes) else {
            return Err(TestCaseError::fail("no ClientHello"));
        };
        let ours = tls::ClientHello::parse(&body).expect("well-formed");
        prop_assert_eq!(ours.server_name(), their_name.as_deref());
        prop_assert_eq!(ours.server_name(), sni.then_some(name.as_bytes()));
        prop_assert_eq!(ours.protocols().collect::<Vec<_>>(), their_protocols);
        let mut offered: Vec<TlsVersion> = ours.versions().collect();
        offered.sort();
        prop_assert_eq!(offered, versions);
    }
}
