//! Access lists, and the files that they name.

use std::fs;

use anyhow::{Result, ensure};
use mux_tests::{Conn, Daemon, Need, Starter, eventually_true, need};

fn from(number: u8, daemon: &Daemon) -> Result<Conn> {
    Conn::tcp_from([127, 0, 0, number].into(), daemon.address())
}

fn is_served(number: u8, daemon: &Daemon) -> bool {
    from(number, daemon)
        .is_ok_and(|client| client.send("echo?").is_ok() && client.expect("echo?").is_ok())
}

#[test]
fn who_is_not_permitted_is_reset_before_a_byte_is_read() -> Result<()> {
    let daemon = Daemon::user_space(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nallow = [\"127.0.0.0/30\"]\ndeny = [\"127.0.0.2\"]\n\
         [[rule]]\nname = \"mine\"\ndeny = [\"127.0.0.3\"]\nupstream = \"builtin:echo\"\n",
    )?;
    ensure!(is_served(1, &daemon));
    for (number, close) in [(2, "listener-denied"), (9, "listener-denied"), (3, "rule-denied")] {
        let client = Conn::reset_from([127, 0, 0, number].into(), daemon.address())?;
        let access = daemon.access_of(client)?;
        ensure!(access.close() == close, "{access:?}");
    }
    Ok(())
}

#[test]
fn a_list_in_a_file_is_read_again_when_it_changes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("deny");
    // Others than root can read it: the daemon has become one by then.
    let write = |text: &str| -> Result<()> {
        let new = folder.path().join("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &list)?)
    };
    open_to_all(folder.path())?;
    write("127.0.0.2\n")?;
    let rules = format!(
        "[[rule]]\nname = \"inside\"\nmatch = {{ not = {{ client = [\"file:{}\"] }} }}\nupstream = \"builtin:echo\"\n",
        list.display()
    );
    let daemon = Starter::new(&rules).user_space().start()?;
    ensure!(is_served(1, &daemon) && !is_served(2, &daemon));
    write("127.0.0.1\n")?;
    eventually_true("the new list is in force", || {
        is_served(2, &daemon) && !is_served(1, &daemon)
    })?;
    // One that is wrong changes nothing, and is told once.
    write("127.0.0.2\nnobody\n")?;
    daemon.wait_log("deny:2: `nobody` is neither an IP address nor a network")?;
    ensure!(is_served(2, &daemon) && !is_served(1, &daemon));
    write("")?;
    eventually_true("the newest list is in force", || is_served(1, &daemon))
}

/// A rule's `allow`; IPv6 clients, of whom mux sees the whole address.
#[test]
fn a_rule_serves_whom_it_allows_of_either_family() -> Result<()> {
    need!(Need::Ipv6);
    let daemon = Daemon::user_space(
        "[[listener]]\naddress = \"[::]:0\"\n\
         [[rule]]\nname = \"mine\"\nallow = [\"127.0.0.4\", \"::1\"]\nupstream = \"builtin:echo\"\n",
    )?;
    let port = daemon.port();
    let six = Conn::tcp(format!("[::1]:{port}").parse()?)?;
    six.send("echo?")?;
    six.expect("echo?")?;
    let four: std::net::SocketAddr = format!("127.0.0.1:{port}").parse()?;
    let client = Conn::tcp_from([127, 0, 0, 4].into(), four)?;
    client.send("echo?")?;
    client.expect("echo?")?;
    let refused = Conn::reset_from([127, 0, 0, 5].into(), four)?;
    let access = daemon.access_of(refused)?;
    ensure!(access.close() == "rule-denied" && access.rule() == "mine", "{access:?}");
    Ok(())
}

/// The same of a listener, by a file, before and after it changes.
#[test]
fn a_listeners_list_in_a_file_is_read_again() -> Result<()> {
    need!(Need::Ipv6);
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("allow");
    let write = |text: &str| -> Result<()> {
        let new = folder.path().join("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &list)?)
    };
    open_to_all(folder.path())?;
    write("127.0.0.1\n")?;
    let daemon = Daemon::user_space(&format!(
        "[[listener]]\naddress = \"[::]:0\"\nallow = [\"file:{}\"]\n\
         [[rule]]\nupstream = \"builtin:echo\"\n",
        list.display()
    ))?;
    let port = daemon.port();
    let is_served = |source: &str, to: &str| {
        let address = format!("{to}:{port}").parse().ok();
        let client = source.parse().ok().zip(address);
        client
            .and_then(|(source, address)| Conn::tcp_from(source, address).ok())
            .is_some_and(|client| client.send("echo?").is_ok() && client.expect("echo?").is_ok())
    };
    let four = |source: &str| is_served(source, "127.0.0.1");
    ensure!(four("127.0.0.1") && !four("127.0.0.2") && !is_served("::1", "[::1]"));
    write("127.0.0.2\n::1/128\n")?;
    eventually_true("the new list is in force", || {
        four("127.0.0.2") && !four("127.0.0.1") && is_served("::1", "[::1]")
    })?;
    write("2001:db8::/32\n")?;
    eventually_true("the newest list is in force", || {
        !four("127.0.0.2") && !is_served("::1", "[::1]")
    })?;
    let access = daemon.wait_access(|access| access.client().starts_with("[::1]:"))?;
    ensure!(access.close() == "listener-denied", "{access:?}");
    Ok(())
}

fn open_to_all(folder: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?)
}
