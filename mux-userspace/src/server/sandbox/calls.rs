//! seccomp: which system calls the daemon can make once it serves.
//!
//! A list of what is allowed, from strace(1) over the integration tests and from what the C library
//! calls when it looks up names. The rest fails with `EPERM` and goes to the kernel's audit log. It
//! does not kill: name lookups run whatever modules `nsswitch.conf` names, and if one of them makes
//! a call that nobody has seen, that may cost a lookup, not every flow. Who has taken the
//! daemon over gets no further for that: a refused call has no effect.
//!
//! The calls that move bytes are allowed whatever their arguments, so that the kernel (from 5.11)
//! decides on them without running the filter.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::sys::{self, Refusals};

/// Allowed whatever their arguments.
const CALLS: &[libc::c_long] = &[
    // Bytes.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_splice,
    libc::SYS_pipe2,
    // Sockets.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socketpair,
    // Waiting.
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // Files: Landlock decides which.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_readlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_statx,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and signals; no call sends one to another process.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    // The keeper's end is waited for.
    libc::SYS_wait4,
    libc::SYS_waitid,
    // What the process and the machine are.
    libc::SYS_capget,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// The older names that x86-64 still has for some of them, and C libraries still use.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[libc::c_long] = &[];

/// Sockets of these families: Netlink is what the C library asks for interfaces and addresses.
const FAMILIES: [libc::c_int; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_UNIX];

/// `enum bpf_cmd` (include/uapi/linux/bpf.h), as far as it is about maps and programs that are
/// there already; no program can be loaded, and none attached.
const BPF_COMMANDS: [u32; 7] = [
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    9,  // BPF_PROG_DETACH: at the end
    10, // BPF_PROG_TEST_RUN: the packet relay's look at sequence numbers
    15, // BPF_OBJ_GET_INFO_BY_FD
];

/// Queue lengths, non-blocking mode, whether this is a terminal, and the index of an interface, for
/// addresses like `fe80::1%eth0`. None of them types into a terminal (`TIOCSTI`).
const IOCTLS: [u64; 6] = [
    libc::FIONBIO,
    libc::FIONREAD,
    libc::SIOCGIFINDEX,
    libc::SIOCGIFNAME,
    libc::TCGETS,
    libc::TIOCOUTQ,
];

/// Names of threads and of mappings.
const PRCTLS: [libc::c_int; 3] = [libc::PR_GET_NAME, libc::PR_SET_NAME, libc::PR_SET_VMA];

/// `clone(2)` makes threads, not processes, and no namespaces.
const THREAD: u64 = libc::CLONE_THREAD as u64;
const NAMESPACES: u64 = (libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS) as u64;

/// From here on no other call can be made. What is in force, or why nothing is.
pub(super) fn restrict() -> Result<String, String> {
    let refused = |error: std::io::Error| format!("refused: {error}");
    let [absent, allowed] = programs().map_err(|error| error.to_string())?;
    // Every new thread asks for what is absent.
    sys::install_filter(&absent, Refusals::Silent).map_err(refused)?;
    sys::install_filter(&allowed, Refusals::Logged).map_err(refused)?;
    describe()
}

/// What would be in force.
pub(super) fn describe() -> Result<String, String> {
    let allowed = allowed().map_err(|error| error.to_string())?;
    Ok(format!("{} system calls allowed", allowed.len()))
}

/// The filters, in the order in which to install them: the last one forbids to install more. Of
/// their answers the strictest counts (seccomp(2)).
fn programs() -> Result<[Vec<libc::sock_filter>; 2], BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut allowed = allowed()?;
    allowed.extend(absent.clone());
    // A filter cannot see clone3(2)'s flags, which are in memory. Where it is not there, C libraries
    // use clone(2).
    let error = SeccompAction::Errno(libc::ENOSYS as u32);
    let absent = SeccompFilter::new(absent, SeccompAction::Allow, error, architecture)?;
    let error = SeccompAction::Errno(libc::EPERM as u32);
    let allowed = SeccompFilter::new(allowed, error, SeccompAction::Allow, architecture)?;
    Ok([compile(absent)?, compile(allowed)?])
}

pub(in crate::server) fn compile(
    filter: SeccompFilter,
) -> Result<Vec<libc::sock_filter>, BackendError> {
    let program = BpfProgram::try_from(filter)?;
    let instruction = |it: seccompiler::sock_filter| libc::sock_filter {
        code: it.code,
        jt: it.jt,
        jf: it.jf,
        k: it.k,
    };
    Ok(program.into_iter().map(instruction).collect())
}

/// The calls and what their arguments must be: one of the rules, if there are any.
fn allowed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().chain(OLD_CALLS).map(|call| (*call, Vec::new())).collect();
    calls.insert(libc::SYS_socket, one_of(0, FAMILIES.map(|family| family as u64))?);
    calls.insert(libc::SYS_bpf, one_of(0, BPF_COMMANDS.map(u64::from))?);
    calls.insert(libc::SYS_ioctl, one_of(1, IOCTLS)?);
    calls.insert(libc::SYS_prctl, one_of(0, PRCTLS.map(|option| option as u64))?);
    // Its own limits only.
    calls.insert(libc::SYS_prlimit64, one_of(0, [0])?);
    calls.insert(libc::SYS_clone, rules([masked(0, THREAD | NAMESPACES, THREAD)?])?);
    // Signals to its own threads, as abort(3) does.
    calls.insert(libc::SYS_tgkill, one_of(0, [u64::from(std::process::id())])?);
    // No memory that can be written and executed; a library's code is mapped from its file.
    let (write, execute) = (libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
    let not_both = rules([masked(2, write, 0)?, masked(2, execute, 0)?])?;
    calls.insert(libc::SYS_mmap, not_both);
    calls.insert(libc::SYS_mprotect, rules([masked(2, execute, 0)?])?);
    Ok(calls)
}

/// The argument is one of `values`.
fn one_of<const N: usize>(
    argument: u8,
    values: [u64; N],
) -> Result<Vec<SeccompRule>, BackendError> {
    let is = |value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    values.into_iter().map(is).collect()
}

/// These bits of the argument are `value`.
fn masked(argument: u8, bits: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), value)
}

/// One condition or the other.
fn rules<const N: usize>(
    conditions: [SeccompCondition; N],
) -> Result<Vec<SeccompRule>, BackendError> {
    conditions.into_iter().map(|condition| SeccompRule::new(vec![condition])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_an_attack_is_not_allowed() {
        let allowed = allowed().expect("rules");
        for call in [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_setns,
            libc::SYS_unshare,
            libc::SYS_kill,
            libc::SYS_clone3,
            libc::SYS_memfd_create,
            libc::SYS_io_uring_setup,
            libc::SYS_setuid,
            libc::SYS_capset,
        ] {
            assert!(!allowed.contains_key(&call), "{call}");
        }
    }

    /// For the kernel's cache of calls that are always allowed.
    #[test]
    fn the_calls_that_move_bytes_have_no_conditions() {
        let allowed = allowed().expect("rules");
        for call in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_recvfrom,
            libc::SYS_sendto,
            libc::SYS_splice,
            libc::SYS_epoll_pwait,
            libc::SYS_futex,
        ] {
            assert!(allowed.get(&call).is_some_and(Vec::is_empty), "{call}");
        }
    }

    #[test]
    fn the_filters_fit_into_the_kernels_limit() {
        /// include/uapi/linux/bpf_common.h.
        const BPF_MAXINSNS: usize = 4096;
        for program in programs().expect("programs") {
            assert!((2..=BPF_MAXINSNS).contains(&program.len()), "{}", program.len());
        }
    }
}
