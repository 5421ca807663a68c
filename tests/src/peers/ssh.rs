//! OpenSSH: a server with keys of its own, and a client that trusts no other.

use std::{
    fs::{self, File, Permissions},
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use rustix::process::geteuid;

use super::openssl::NAME;
use crate::{Conn, Process, Scratch, Server, Upstream, run_ok};

const SSHD: &str = "/usr/sbin/sshd";
/// Where sshd, as root, wants to find its empty directory; Debian makes it when the service starts.
const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// An SSH server: one `sshd -i` a connection.
#[derive(Debug)]
pub struct SshServer {
    server: Server,
    scratch: Scratch,
    user: String,
}

impl SshServer {
    /// Starts it.
    ///
    /// # Errors
    /// OpenSSH is not installed.
    pub fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        for name in ["host", "client"] {
            run_ok(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                    .arg(scratch.join(name)),
            )?;
        }
        let public = fs::read_to_string(scratch.join("host.pub"))?;
        scratch.write("known_hosts", format!("{NAME} {public}"))?;
        scratch.write("sshd_config", configuration(scratch.path()))?;
        fs::set_permissions(scratch.join("client"), Permissions::from_mode(0o600))?;
        if geteuid().is_root() {
            fs::create_dir_all(PRIVILEGE_SEPARATION)?;
        }
        let user = run_ok(Command::new("id").arg("-un"))?.trim().to_owned();
        let directory = scratch.path().to_owned();
        let server = Upstream::tcp()?.serve(move |conn| serve(conn, &directory))?;
        Ok(Self { server, scratch, user })
    }

    /// As `upstream = "…"` names it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.server.name()
    }

    /// What a command prints that is run through `address`, with `input` on its standard input.
    ///
    /// # Errors
    /// It fails, or the host is not ours.
    pub fn run(&self, address: SocketAddr, command: &str, input: &Path) -> Result<String> {
        let file = |name: &str| self.scratch.join(name).display().to_string();
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-T", "-i", &file("client"), "-p", &address.port().to_string()]);
        for option in [
            "BatchMode=yes".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "GlobalKnownHostsFile=none".to_owned(),
            format!("UserKnownHostsFile={}", file("known_hosts")),
            format!("HostKeyAlias={NAME}"),
            "LogLevel=ERROR".to_owned(),
        ] {
            ssh.args(["-o", &option]);
        }
        ssh.arg(format!("{}@{}", self.user, address.ip())).arg(command).stdin(File::open(input)?);
        let output = Process::start_with(&mut ssh)?.output()?;
        let log = fs::read_to_string(self.scratch.join("sshd.log")).unwrap_or_default();
        let error = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "ssh: {error}\nsshd: {log}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn serve(conn: Conn, directory: &Path) -> Result<()> {
    let socket = conn.as_fd().try_clone_to_owned()?;
    let mut child = Command::new(SSHD)
        .args(["-i", "-f"])
        .arg(directory.join("sshd_config"))
        .arg("-E")
        .arg(directory.join("sshd.log"))
        .stdin(Stdio::from(OwnedFd::from(conn)))
        .stdout(Stdio::from(socket))
        .stderr(Stdio::null())
        .spawn()
        .context(SSHD)?;
    // Ends with its connection; ssh has a deadline.
    child.wait()?;
    Ok(())
}

fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "HostKey {directory}/host\nAuthorizedKeysFile {directory}/client.pub\n\
         PubkeyAuthentication yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin yes\nUsePAM no\nStrictModes no\nPidFile none\nUseDNS no\nPrintMotd no\n\
         LogLevel INFO\n"
    )
}
