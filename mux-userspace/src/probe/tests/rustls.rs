//! What rustls's client says, read by this probe and by rustls's server.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName,
    server::Acceptor, version,
};

use crate::probe::{TlsVersion, Verdict, tls};

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
