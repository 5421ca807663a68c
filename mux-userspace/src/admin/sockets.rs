//! The admin sockets: bound, and the file's permissions set, while there are privileges to.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
    path::Path,
};

use nix::unistd::Group;
use socket2::Socket;
use tracing::{info, warn};

use crate::{
    listener::{self, SocketFile},
    rules::config::{AdminConfig, AdminSocket},
    server::ServeError,
};

/// Of a directory that is made for the socket: its own permissions decide who can connect.
const DIRECTORY: u32 = 0o755;

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
    make_directory(&config.path).map_err(|source| ServeError::AdminSocket {
        path: config.path.clone(),
        action: "making its directory".into(),
        source,
    })?;
    let (socket, file) = listener::bind_admin(&config.path)?;
    if let Err((action, source)) = permit(&config.path, config) {
        let _ = file.remove();
        return Err(ServeError::AdminSocket { path: config.path.clone(), action, source });
    }
    Ok((socket, file))
}

/// Makes the socket's directory if it is missing, as `/run/mux` is on a machine that no package has
/// prepared. It belongs to whoever starts mux: the daemon's user must not be able to put another
/// socket in place of this one, and the keeper can remove it. Only the one: a path that is missing
/// as a whole is more likely mistyped.
fn make_directory(socket: &Path) -> io::Result<()> {
    let Some(directory) = socket.parent().filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(());
    };
    match DirBuilder::new().mode(DIRECTORY).create(directory) {
        Ok(()) => {
            // Whatever the umask is.
            fs::set_permissions(directory, Permissions::from_mode(DIRECTORY))?;
            info!(directory = %directory.display(), "made for the admin socket");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Binding fails, and says of what.
        Err(_) if directory.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
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
    fn a_missing_directory_is_made_and_one_that_is_missing_with_its_own_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mux/s");
        let sockets = bind(&socket(&path, 0o600, None), Sockets::default()).unwrap();
        let made = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!(made.mode() & 0o7777, 0o755);
        assert_eq!(made.uid(), fs::metadata(directory.path()).unwrap().uid());
        sockets.unix.unwrap().1.remove().unwrap();
        // One that is there stays as it is.
        let own = path.parent().unwrap();
        fs::set_permissions(own, Permissions::from_mode(0o700)).unwrap();
        let sockets = bind(&socket(&path, 0o600, None), Sockets::default()).unwrap();
        assert_eq!(fs::metadata(own).unwrap().mode() & 0o7777, 0o700);
        sockets.unix.unwrap().1.remove().unwrap();
        let deeper = directory.path().join("a/b/s");
        let error = bind(&socket(&deeper, 0o600, None), Sockets::default()).unwrap_err();
        assert!(error.to_string().contains("making its directory: "), "{error}");
        assert!(!directory.path().join("a").exists());
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
