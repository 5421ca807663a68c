//! node-port-mux's own example, ported: HTTP and HTTPS by regular expressions, a Unix socket, one
//! port.

use anyhow::{Result, ensure};
use mux_tests::{
    Daemon,
    peers::{Certificate, Nginx, curl},
};

#[test]
fn http_https_and_a_unix_socket_share_a_port() -> Result<()> {
    let certificate = Certificate::new()?;
    let nginx = Nginx::start(&certificate)?;
    let daemon = Daemon::start(
        &format!(
            "[[rule]]\nname = \"unix\"\nmatch = {{ prefix = \"PURGE \" }}\nupstream = \"{}\"\n\
             [[rule]]\nname = \"http\"\nmatch = {{ regex = '^(?:GET|POST|PUT|DELETE)\\s' }}\nupstream = {}\n\
             [[rule]]\nname = \"https\"\nmatch = {{ regex = '^\\x16\\x03[\\x00-\\x03]' }}\nupstream = \"{}\"\n",
            nginx.unix.display(),
            nginx.http.port(),
            nginx.https
        ),
        &[],
    )?;
    let port = daemon.port();
    let authority = certificate.certificate.display().to_string();
    let resolve = format!("mux.test:{port}:127.0.0.1");

    let plain = curl(&[&format!("http://127.0.0.1:{port}/")])?;
    let tls = curl(&[
        "--cacert",
        &authority,
        "--resolve",
        &resolve,
        &format!("https://mux.test:{port}/"),
    ])?;
    let unix = curl(&["-X", "PURGE", &format!("http://127.0.0.1:{port}/")])?;
    ensure!([&*plain, &*tls, &*unix] == ["plain", "tls", "unix"], "{plain} {tls} {unix}");

    for rule in ["http", "https", "unix"] {
        let access = daemon.wait_access(|access| access.rule() == rule)?;
        ensure!(access.close() == "finished", "{access:?}");
    }
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_large_file_by_https_arrives_whole() -> Result<()> {
    let certificate = Certificate::new()?;
    let nginx = Nginx::start(&certificate)?;
    let bytes = mux_tests::Pattern::new(3).bytes(0, 20 << 20);
    nginx.file("large", &bytes)?;
    let daemon = Daemon::start(
        &format!("[[rule]]\nmatch = \"tls\"\nupstream = \"{}\"\n", nginx.https),
        &[],
    )?;
    let port = daemon.port();
    let scratch = mux_tests::Scratch::new()?;
    let file = scratch.join("large");
    curl(&[
        "--cacert",
        &certificate.certificate.display().to_string(),
        "--resolve",
        &format!("mux.test:{port}:127.0.0.1"),
        "-o",
        &file.display().to_string(),
        &format!("https://mux.test:{port}/files/large"),
    ])?;
    ensure!(std::fs::read(file)? == bytes, "curl's copy differs");
    daemon.stop()?;
    Ok(())
}
