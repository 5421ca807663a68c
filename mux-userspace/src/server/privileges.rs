//! Privileges: raised limits before, nothing after.
//!
//! Once sockets are bound and the verdict is attached, the daemon needs no capability: not to
//! accept, to connect, or (since 5.19) to put sockets into its map. Only to connect from clients'
//! addresses it does.

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{Uid, User, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    admin::view::SecurityStatus,
    kernel::allow::{self, Version},
};

/// Since here bpf(2) asks `kernel.unprivileged_bpf_disabled` only for making maps and programs
/// (commit c8644cd0efe7), not for using a map that one has.
const FREE_MAP_USE: Version = Version { major: 5, minor: 19, patch: 0 };

/// Privileges could not be dropped; the daemon does not start with more than it should have.
#[derive(Debug, Error)]
pub enum DropError {
    /// `[security] user`.
    #[error(
        "[security] user = {0:?}: there is no such user\nhint: name one that exists (`getent passwd`), or `user = \"root\"` to stay root"
    )]
    NoUser(String),
    /// A system call.
    #[error("cannot drop privileges: {action}: {reason}")]
    Refused {
        /// Which.
        action: &'static str,
        /// What it said.
        reason: String,
    },
}

fn refused<E: std::fmt::Display>(action: &'static str) -> impl FnOnce(E) -> DropError {
    move |error| DropError::Refused { action, reason: error.to_string() }
}

/// Raises the soft limit of file descriptors to the hard one: a flow takes two. Gives the limit
/// that is in force then.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let in_force = |limit: Rlimit| limit.current.unwrap_or(u64::MAX);
    if limit.current == limit.maximum {
        return in_force(limit);
    }
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        warn!(%error, "cannot raise the limit of open files");
    }
    in_force(getrlimit(Resource::Nofile))
}

/// The limit of file descriptors in force.
#[must_use]
pub fn descriptor_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What the daemon does after its start that may need a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Put sockets into its map.
    pub maps: bool,
    /// Connect from clients' addresses.
    pub transparent: bool,
}

impl Needs {
    /// The capabilities to keep.
    fn capabilities(self) -> CapsHashSet {
        let mut kept = CapsHashSet::new();
        if needs_bpf(self.maps) {
            kept.insert(Capability::CAP_BPF);
        }
        if self.transparent {
            // Either will do (`do_ip_setsockopt`, net/ipv4/ip_sockglue.c); the first one is less.
            let either = [Capability::CAP_NET_RAW, Capability::CAP_NET_ADMIN];
            kept.extend(either.into_iter().find(|capability| has(*capability)));
        }
        kept
    }
}

/// Becomes `user` if this is root, and gives up every capability that is not needed for good. Call
/// it while there is one thread: capabilities are a thread's.
///
/// # Errors
/// [`DropError`].
pub fn drop_all(user: &str, needs: Needs) -> Result<(), DropError> {
    let kept = needs.capabilities();
    let was_root = Uid::effective().is_root();
    if has(Capability::CAP_SETPCAP) {
        // So that no program that this process might ever execute gets any either.
        caps::clear(None, CapSet::Bounding).map_err(refused("clearing the bounding set"))?;
    }
    if was_root && user != "root" {
        become_user(user, !kept.is_empty())?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        // Ambient capabilities are missing before 4.3, and then there are none.
        caps::clear(None, set).map_err(refused("clearing capabilities"))?;
    }
    caps::set(None, CapSet::Effective, &kept).map_err(refused("setting capabilities"))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(refused("setting capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(refused("setting no_new_privs"))?;
    info!(
        user = if was_root { user } else { "(unchanged)" },
        capabilities = names(&kept),
        "privileges dropped"
    );
    Ok(())
}

/// What the process may do at present; of the sandbox nothing.
#[must_use]
pub fn standing() -> SecurityStatus {
    let user = Uid::effective();
    let name = User::from_uid(user).ok().flatten().map(|user| user.name);
    SecurityStatus {
        user: name.unwrap_or_else(|| user.to_string()),
        capabilities: sorted(&caps::read(None, CapSet::Effective).unwrap_or_default()),
        no_new_privs: rustix::thread::no_new_privs().unwrap_or(false),
        ..SecurityStatus::default()
    }
}

/// Whom files belong to that the daemon makes and opens again: the user that it becomes or has
/// become. `None`: it stays who it is.
#[must_use]
pub fn owner_of_files(user: &str) -> Option<(u32, u32)> {
    if !Uid::effective().is_root() || user == "root" {
        return None;
    }
    // That there is no such user is told when it is to be become.
    let user = User::from_name(user).ok()??;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

fn sorted(capabilities: &CapsHashSet) -> Vec<String> {
    let mut names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

fn names(kept: &CapsHashSet) -> String {
    let names = sorted(kept);
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn become_user(name: &str, keep: bool) -> Result<(), DropError> {
    let user = User::from_name(name)
        .map_err(refused("looking up the user"))?
        .ok_or_else(|| DropError::NoUser(name.to_owned()))?;
    if keep {
        rustix::thread::set_keep_capabilities(true).map_err(refused("keeping capabilities"))?;
    }
    setgroups(&[]).map_err(refused("setgroups"))?;
    setresgid(user.gid, user.gid, user.gid).map_err(refused("setresgid"))?;
    setresuid(user.uid, user.uid, user.uid).map_err(refused("setresuid"))?;
    Ok(())
}

/// Whether the kernel wants CAP_BPF for every use of a map.
fn needs_bpf(uses_maps: bool) -> bool {
    uses_maps
        && allow::running().is_none_or(|version| version < FREE_MAP_USE)
        && std::fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")
            .is_ok_and(|text| text.trim() != "0")
}

/// Whether the process has a capability in force.
#[must_use]
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}
