//! What the keeper gives up. It keeps the privileges of the start for a successor, and no others: what
//! no start of mux needs, neither it nor a successor can have.
//!
//! A successor inherits all of this. Nothing here may be needed by a start, whatever its rules say.

use std::collections::BTreeMap;

use caps::{CapSet, Capability, CapsHashSet};
use rustix::thread::{SecureComputingMode, secure_computing_mode, set_no_new_privs};
use seccompiler::{BackendError, SeccompAction, SeccompFilter, TargetArch};

use super::{privileges, sandbox};
use crate::sys::{self, Refusals};

/// What a start may need, and the keeper itself.
const NEEDED: [Capability; 15] = [
    // Load the verdict and attach it.
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    // Ports below 1024; clients' addresses.
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    // Become `[security] user`, and have nothing that could be had again.
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    // Files of others: the rules, the access log, sockets; whom they belong to.
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    // End a successor that is another user already.
    Capability::CAP_KILL,
    // Locked memory for maps, before Linux 5.11.
    Capability::CAP_SYS_RESOURCE,
];

/// System calls that no start of mux makes, and that the rights of root make dangerous.
const REFUSED: &[libc::c_long] = &[
    // Other processes' memory.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_userfaultfd,
    // The kernel and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    // Keys, and ways around the filter.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_personality,
];

/// Gives up what is not needed, for good. What cannot be given up is in the text.
pub(super) fn confine() -> Result<(), String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    // Capabilities of the program's file, and root's, are those that this process has; under
    // no_new_privs a successor gets the same ones, and no more (cap_bprm_creds_from_file,
    // security/commoncap.c).
    set_no_new_privs(true).map_err(|error| failed("no_new_privs", &error))?;
    let kept = needed();
    if privileges::has(Capability::CAP_SETPCAP) {
        for capability in caps::all().difference(&kept) {
            // One that the kernel does not know cannot be had either.
            let _ = caps::drop(None, CapSet::Bounding, *capability);
        }
    }
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let has = caps::read(None, set).map_err(|error| failed("capabilities", &error))?;
        let left: CapsHashSet = has.intersection(&kept).copied().collect();
        caps::set(None, set, &left).map_err(|error| failed("capabilities", &error))?;
    }
    // One filter is enough: with each upgrade there would be one more. The service manager's, or a
    // container's, refuses the same and more.
    if matches!(secure_computing_mode(), Ok(SecureComputingMode::Disabled)) {
        let program = filter().map_err(|error| failed("seccomp", &error))?;
        sys::install_filter(&program, Refusals::Logged)
            .map_err(|error| failed("seccomp", &error))?;
    }
    Ok(())
}

/// Where one of the newer capabilities is missing, the older one stands for it.
fn needed() -> CapsHashSet {
    let mut needed = CapsHashSet::from(NEEDED);
    let newer = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    if !newer.into_iter().all(privileges::has) {
        needed.insert(Capability::CAP_SYS_ADMIN);
    }
    needed
}

fn filter() -> Result<Vec<libc::sock_filter>, BackendError> {
    let refused: BTreeMap<i64, Vec<_>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let error = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    sandbox::compile(SeccompFilter::new(refused, SeccompAction::Allow, error, architecture)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_can_be_made() {
        let instructions = filter().expect("a filter").len();
        assert!((REFUSED.len()..4096).contains(&instructions), "{instructions}");
    }

    #[test]
    fn what_a_start_calls_is_not_refused() {
        for call in [
            libc::SYS_bpf,
            libc::SYS_capset,
            libc::SYS_execve,
            libc::SYS_landlock_restrict_self,
            libc::SYS_prctl,
            libc::SYS_seccomp,
            libc::SYS_setresuid,
        ] {
            assert!(!REFUSED.contains(&call), "{call}");
        }
    }
}
