//! The admin sockets: bound, and the file's permissions set, while there are privileges to.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use nix::unistd::Group;
use socket2::Socket;
use tracing::warn;

use crate::{
    listener::{self, SocketFile},
    rules::config::{AdminConfig, AdminSocket},
    server::ServeError,
};

/// The sockets, bound and listening.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    /// `[admin] socket`, and its file.
    pub(crate) unix: Option<(Socket, SocketFile)>,
    /// `[admin] metrics`.
    pub(crate) tcp: Option<Socket>,
}

/// Binds what the file asks for, and is not there.
///
/// # Errors
/// [`ServeError::Bind`]; [`ServeError::AdminSocket`]: the file's permissions.
pub(crate) fn bind(config: &AdminConfig, there: Sockets) -> Result<Sockets, ServeError> {
    let is_ours = there.unix.is_none();
    let unix = match (&config.socket, there.unix) {
        (Some(config), Some(unix)) => Some(adopt(config, unix)?),
        (Some(config), None) => Some(bind_unix(config)?),
        (None, _) => None,
    };
    let tcp = match (config.metrics, there.tcp) {
        (Some(_), Some(tcp)) => Some(adopt_metrics(tcp)?),
        (Some(address), None) => Some(listener::bind_metrics(address).inspect_err(|_| {
            if let (Some((_, file)), true) = (&unix, is_ours) {
                // Nobody would ever listen there.
                let _ = file.remove();
            }
        })?),
        (None, _) => None,
    };
    Ok(Sockets { unix, tcp })
}

/// Goes on with a predecessor's socket. Its file is its user's, who could have put a link in its
/// place: its permissions are looked at, not set.
fn adopt(
    config: &AdminSocket,
    (socket, file): (Socket, SocketFile),
) -> Result<(Socket, SocketFile), ServeError> {
    let failed = |source| ServeError::Io { action: "taking the admin socket over", source };
    socket.set_nonblocking(true).map_err(failed)?;
    let group = config.group.as_deref().and_then(|name| Group::from_name(name).ok().flatten());
    let differs = fs::symlink_metadata(file.path()).is_ok_and(|metadata| {
        metadata.mode() & 0o777 != config.mode
            || group.is_some_and(|group| group.gid.as_raw() != metadata.gid())
    });
    if differs {
        let socket = file.path().display();
        warn!("[admin] socket {socket} keeps its permissions until mux is restarted");
    }
    Ok((socket, file))
}

fn adopt_metrics(socket: Socket) -> Result<Socket, ServeError> {
    let failed = |source| ServeError::Io { action: "taking the metrics port over", source };
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

fn bind_unix(config: &AdminSocket) -> Result<(Socket, SocketFile), ServeError> {
    let (socket, file) = listener::bind_admin(&config.path)?;
    if let Err((action, source)) = permit(&config.path, config) {
        let _ = file.remove();
        return Err(ServeError::AdminSocket { path: config.path.clone(), action, source });
    }
    Ok((socket, file))
}

/// Nobody else could connect so far; from here on those can whom the file names.
fn permit(path: &Path, config: &AdminSocket) -> Result<(), (String, io::Error)> {
    if let Some(name) = &config.group {
        let action = || format!("giving it to the group `{name}`");
        let group = Group::from_name(name).map_err(|error| (action(), error.into()))?;
        let missing = || io::Error::new(io::ErrorKind::NotFound, "there is no such group");
        let group = group.ok_or_else(|| (action(), missing()))?;
        chown(path, None, Some(group.gid.as_raw())).map_err(|error| (action(), error))?;
    }
    let mode = Permissions::from_mode(config.mode);
    fs::set_permissions(path, mode)
        .map_err(|error| (format!("setting its permissions to {:04o}", config.mode), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(path: &Path, mode: u32, group: Option<&str>) -> AdminConfig {
        let group = group.map(Into::into);
        AdminConfig { socket: Some(AdminSocket { path: path.into(), mode, group }), metrics: None }
    }

    #[test]
    fn the_file_has_the_permissions_that_were_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        for mode in [0o600, 0o660, 0o666] {
            let sockets = bind(&socket(&path, mode, None), Sockets::default()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
            assert!(
                bind(&socket(&path, mode, None), Sockets::default()).is_err(),
                "somebody listens there"
            );
            sockets.unix.unwrap().1.remove().unwrap();
        }
    }

    #[test]
    fn a_group_that_is_not_there_leaves_no_socket_behind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let error =
            bind(&socket(&path, 0o660, Some("no such group")), Sockets::default()).unwrap_err();
        assert!(error.to_string().contains("there is no such group"), "{error}");
        assert!(!path.exists());
    }
}
