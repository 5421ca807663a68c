//! The system calls that no crate of ours wraps safely, and nothing else.
//!
//! This is the only module of user space with `unsafe` in it; every block says why it
//! holds. It must know nothing of flows, rules or books.
#![allow(unsafe_code, reason = "the one place for system calls")]

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::NonNull,
};

use nix::sys::resource::{UsageWho, getrusage};
use rustix::process::Pid;
use tokio::io::{Interest, unix::AsyncFd};

/// What of `struct tcp_info` (include/uapi/linux/tcp.h) the relay needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// `tcpi_bytes_acked`: bytes that the peer has acknowledged, RFC 4898
    /// tcpEStatsAppHCThruOctetsAcked. The SYN of an actively opened socket counts as 1.
    pub bytes_acked: u64,
    /// `tcpi_bytes_received`: in-order bytes received, RFC 4898
    /// tcpEStatsAppHCThruOctetsReceived. The peer's FIN counts as 1.
    pub bytes_received: u64,
    /// `tcpi_state`, a `TCP_*` state of include/net/tcp_states.h.
    pub state: u8,
}

/// What of `struct tcp_info` tells what the two ends agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpTerms {
    /// `tcpi_state`.
    pub state: u8,
    /// `tcpi_options`, `TCPI_OPT_*` bits.
    pub options: u8,
    /// `tcpi_snd_wscale`: the window scale that the peer announced.
    pub peer_scale: u8,
    /// `tcpi_rcv_wscale`: the one that we announced.
    pub our_scale: u8,
    /// `tcpi_snd_mss`: the longest segment that we send, without options.
    pub send_mss: u32,
    /// `tcpi_advmss`: the longest segment that we have said we take.
    pub advertised_mss: u32,
    /// `tcpi_pmtu`.
    pub path_mtu: u32,
}

/// Reads what a TCP connection's two ends agreed on (`TCP_INFO`).
///
/// # Errors
/// The system call's.
pub fn tcp_terms(fd: BorrowedFd<'_>) -> io::Result<TcpTerms> {
    let info = tcp_info(fd)?;
    // Bit fields are filled from the low end where bytes are little-endian, and this is built for
    // nothing else that has a kernel relay.
    let scales = info.other_bytes[5];
    Ok(TcpTerms {
        state: info.tcpi_state,
        options: info.other_bytes[4],
        peer_scale: scales & 0xf,
        our_scale: scales >> 4,
        send_mss: info.other_words[2],
        path_mtu: info.other_words[13],
        advertised_mss: info.other_words[19],
    })
}

/// Reads a TCP socket's counters (`TCP_INFO`).
///
/// # Errors
/// The system call's; `EINVAL` where the kernel's `tcp_info` is too short for the counters
/// (before 4.6).
pub fn tcp_counters(fd: BorrowedFd<'_>) -> io::Result<TcpCounters> {
    let info = tcp_info(fd)?;
    Ok(TcpCounters {
        bytes_acked: info.tcpi_bytes_acked,
        bytes_received: info.tcpi_bytes_received,
        state: info.tcpi_state,
    })
}

/// Segments with data that a TCP socket has received (`tcpi_data_segs_in`, Linux 4.6).
///
/// # Errors
/// The system call's.
pub fn data_segments(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(tcp_info(fd)?.tcpi_data_segs_in)
}

fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut info = TcpInfo::default();
    let mut len = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `info`; the kernel writes at most `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    check(result)?;
    if (len as usize) < size_of::<TcpInfo>() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(info)
}

/// A process's group; `None`: there is no such process, or its group's leader is not in our process
/// namespace, for which the kernel says 0. (rustix 1.1's `getpgid` takes that for an id.)
#[must_use]
pub fn process_group(pid: Pid) -> Option<Pid> {
    // SAFETY: the call reads and writes no memory of ours.
    let group = unsafe { libc::getpgid(pid.as_raw_nonzero().get()) };
    if group > 0 { Pid::from_raw(group) } else { None }
}

/// How often this thread has gone to sleep (`ru_nvcsw`, getrusage(2)).
#[must_use]
pub fn voluntary_switches() -> u64 {
    // It fails on a wrong argument only.
    getrusage(UsageWho::RUSAGE_THREAD)
        .map_or(0, |usage| u64::try_from(usage.voluntary_context_switches()).unwrap_or_default())
}

/// `struct tcp_info` up to the fields that we read (libc's differs between C libraries).
#[repr(C)]
#[derive(Default)]
struct TcpInfo {
    tcpi_state: u8,
    other_bytes: [u8; 7],
    other_words: [u32; 24],
    tcpi_pacing_rate: u64,
    tcpi_max_pacing_rate: u64,
    tcpi_bytes_acked: u64,
    tcpi_bytes_received: u64,
    words_after: [u32; 4],
    tcpi_data_segs_in: u32,
    tcpi_data_segs_out: u32,
}

// include/uapi/linux/tcp.h: tcpi_bytes_acked is at 120.
const _: () = assert!(mem::offset_of!(TcpInfo, tcpi_bytes_acked) == 120);
// And tcpi_data_segs_in at 152.
const _: () = assert!(mem::offset_of!(TcpInfo, tcpi_data_segs_in) == 152);

/// Bytes in a TCP socket's write queue: unsent and unacknowledged (`SIOCOUTQ`, tcp(7)).
///
/// # Errors
/// The system call's; `EINVAL` on a listening socket.
pub fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u64> {
    queue_length(fd, libc::TIOCOUTQ)
}

/// Bytes that a read would return (`FIONREAD`).
///
/// # Errors
/// The system call's.
pub fn unread(fd: BorrowedFd<'_>) -> io::Result<u64> {
    queue_length(fd, libc::FIONREAD)
}

/// Has [`receive`] know what a read leaves behind (`TCP_INQ`, Linux 4.18). Where the kernel cannot, it says nothing.
pub fn count_unread(fd: BorrowedFd<'_>) {
    let one: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `one`.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_INQ,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}

/// `TCP_INQ` and `TCP_CM_INQ` (include/uapi/linux/tcp.h).
const TCP_INQ: libc::c_int = 36;

/// Reads from a TCP socket. The second value: whether bytes, or the end of the stream, are left to be
/// read at once; `None`: nobody knows ([`count_unread`]).
///
/// A read that stops before the buffer is full has not always emptied the socket: it stops at the
/// urgent byte (`tcp_recvmsg_locked`).
///
/// # Errors
/// recvmsg(2)'s.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<bool>)> {
    /// Room for one control message with an int, aligned as its header.
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        unread: [libc::c_int; 2],
    }
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = mem::MaybeUninit::<Control>::uninit();
    // SAFETY: all zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    let read = loop {
        // SAFETY: the message describes `buffer` and `control`, which the kernel writes at most.
        match unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, 0) } {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            read => break usize::try_from(read).unwrap_or(0),
        }
    };
    if (message.msg_controllen as usize)
        < mem::offset_of!(Control, unread) + size_of::<libc::c_int>()
    {
        return Ok((read, None));
    }
    // SAFETY: the kernel has written a header and, by the length, an int.
    let (header, unread) = unsafe {
        let control = control.as_ptr();
        (
            (&raw const (*control).header).read(),
            (&raw const (*control).unread).cast::<libc::c_int>().read(),
        )
    };
    let is_count = (header.cmsg_level, header.cmsg_type) == (libc::IPPROTO_TCP, TCP_INQ);
    Ok((read, is_count.then_some(unread > 0)))
}

fn queue_length(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u64> {
    let mut length: libc::c_int = 0;
    // SAFETY: these requests write one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut length) })?;
    Ok(u64::try_from(length).unwrap_or(0))
}

/// Makes the kernel run a socket's `data_ready` if bytes are queued: `SO_RCVLOWAT` = 1 does
/// (`tcp_set_rcvlowat` calls `tcp_data_ready`), and changes nothing, as 1 is the default.
///
/// # Errors
/// The system call's.
pub fn kick(fd: BorrowedFd<'_>) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `one`.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Who is told what a seccomp filter refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusals {
    /// The caller alone.
    Silent,
    /// The kernel's audit log, too, where the kernel can do that (4.14, commit e66a39977985).
    Logged,
}

/// Installs a seccomp filter on every thread of the process, for good. `no_new_privs` must be set.
///
/// # Errors
/// seccomp(2)'s.
pub fn install_filter(program: &[libc::sock_filter], refusals: Refusals) -> io::Result<()> {
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
    match refusals {
        Refusals::Silent => set_filter(program, flags),
        Refusals::Logged => match set_filter(program, flags | libc::SECCOMP_FILTER_FLAG_LOG) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set_filter(program, flags),
            result => result,
        },
    }
}

fn set_filter(program: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        // The kernel only reads it.
        filter: program.as_ptr().cast_mut(),
    };
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies the program, whose pointer and length are those of a slice.
    match unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) } {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        // Of the thread that has other filters.
        thread => Err(io::Error::other(format!("thread {thread} cannot be filtered"))),
    }
}

/// Whether the kernel has seccomp filters that refuse with an error.
#[must_use]
pub fn has_seccomp() -> bool {
    let (operation, action) = (libc::SECCOMP_GET_ACTION_AVAIL, libc::SECCOMP_RET_ERRNO);
    // SAFETY: the kernel reads one word.
    unsafe { libc::syscall(libc::SYS_seccomp, operation, 0, &raw const action) == 0 }
}

/// The version of the kernel's Landlock, from 1 (5.13).
///
/// # Errors
/// landlock_create_ruleset(2)'s: `ENOSYS` where it is not built in, `EOPNOTSUPP` where it was not
/// enabled at boot.
pub fn landlock_abi() -> io::Result<u32> {
    /// include/uapi/linux/landlock.h.
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    let (call, none) = (libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>());
    // SAFETY: with this flag and no attributes it returns a number and touches nothing.
    let version = unsafe { libc::syscall(call, none, 0usize, LANDLOCK_CREATE_RULESET_VERSION) };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

/// Maps and unmaps a page with these rights, `PROT_*`.
#[cfg(test)]
pub(crate) fn try_map(rights: libc::c_int) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice, which nobody else knows.
    unsafe {
        let page = libc::mmap(std::ptr::null_mut(), 1, rights, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        check(libc::munmap(page, 1))
    }
}

/// A shared, writable mapping of a BPF array made with `BPF_F_MMAPABLE`, seen as `[T]`.
///
/// `T` must be valid for every bit pattern and may be written by the kernel at any time:
/// only types made of atomics are [`Shared`].
#[derive(Debug)]
pub struct SharedArray<T: Shared> {
    base: NonNull<T>,
    len: usize,
}

/// Marker: a `repr(C)` type of atomics only, valid for every bit pattern.
///
/// # Safety
/// As it says.
pub unsafe trait Shared: Sync {}

// SAFETY: the mapping is the process's, not a thread's, and `T` is made of atomics.
unsafe impl<T: Shared> Send for SharedArray<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for SharedArray<T> {}

impl<T: Shared> SharedArray<T> {
    /// Maps `len` elements of the map behind `fd`.
    ///
    /// # Errors
    /// mmap(2)'s; `EINVAL` for a map that is not mappable, or with elements of another size.
    pub fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .filter(|&bytes| bytes > 0)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<T>())
            .filter(|base| base.is_aligned())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        Ok(Self { base, len })
    }
}

impl<T: Shared> std::ops::Deref for SharedArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements are mapped until `self` is dropped, aligned, and valid for
        // every bit pattern; other writers are harmless since `T` is made of atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T: Shared> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}

// SAFETY: `repr(C)`, atomics only; its layout is asserted where it is defined.
unsafe impl Shared for crate::kernel::books::SharedDirection {}

// SAFETY: `repr(C)`, atomics only; its layout is asserted where it is defined.
unsafe impl Shared for crate::kernel::packet::SharedTranslation {}

/// Runs a loaded program once on `frame` (`BPF_PROG_TEST_RUN`) and gives its return value; what
/// the frame has become goes to `answer`, which is as long.
///
/// # Errors
/// bpf(2)'s: `EPERM` before 5.19 without `CAP_BPF`, where unprivileged BPF is off.
pub fn test_run(program: BorrowedFd<'_>, frame: &mut [u8], answer: &mut [u8]) -> io::Result<u32> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    /// `union bpf_attr`'s `test` (include/uapi/linux/bpf.h), as far as we use it.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput);
    let mut attributes = Attributes {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: length(frame)?,
        data_size_out: length(answer)?,
        data_in: frame.as_ptr() as u64,
        data_out: answer.as_mut_ptr() as u64,
        repeat: 1,
        ..Attributes::default()
    };
    let size = size_of::<Attributes>();
    // SAFETY: the attributes and their size belong together; the kernel reads `frame`, and writes
    // at most `data_size_out` bytes to `answer` and two fields of the attributes.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(attributes.retval) }
}

/// What a network device's packets begin with: an `ARPHRD_*` of include/uapi/linux/if_arp.h.
///
/// # Errors
/// `ENODEV`; `EINVAL` for a name that is too long.
pub fn device_type(name: &str) -> io::Result<u16> {
    // SAFETY: integers and unions of such, valid when zero.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the request reads a name from and writes an address to the structure.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: that is the member which it has written.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

/// Takes a descriptor that this process was started with, and has it closed on exec. The caller is
/// its one owner: call it once for each number, for numbers that the environment says are ours.
///
/// # Errors
/// `EBADF`: there is none, or it is a standard stream.
pub fn inherited(number: i32) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: this has an integer argument; it fails for a number that is not open.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and by the contract above nobody else's.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(number) })
}

/// Takes variables from the environment, so that no child process gets them. Only while the
/// process has one thread, which it checks; otherwise they stay.
pub fn forget_variables(names: &[&str]) {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    if threads.is_ok_and(|threads| threads == 1) {
        for name in names {
            // SAFETY: no other thread is there that could read the environment.
            unsafe { std::env::remove_var(name) };
        }
    }
}

/// Closes all descriptors from this number on, if the kernel can (close_range(2), Linux 5.9). For
/// the start of a process that owns none of them.
pub fn close_from(first: u32) {
    // SAFETY: integer arguments; what is closed has no owner in this process.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// A file descriptor's cookie: the kernel's name of a socket for its whole life (`SO_COOKIE`).
///
/// # Errors
/// The system call's.
pub fn cookie(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::net::sockopt::socket_cookie(fd)?)
}

/// Registers a descriptor with the current tokio runtime.
///
/// # Errors
/// epoll_ctl(2)'s.
pub fn register<T: AsRawFd + KeepsFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: `T`'s descriptor is the same one, and open, until it is dropped ([`KeepsFd`]).
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// Marker: the value's descriptor is open for its whole life, and the same, which `as_raw_fd` returns.
///
/// # Safety
/// As it says.
pub unsafe trait KeepsFd {}

// SAFETY: that is what an `OwnedFd` is.
unsafe impl KeepsFd for std::os::fd::OwnedFd {}
// SAFETY: as above.
unsafe impl KeepsFd for std::net::TcpListener {}
// SAFETY: it is registered by the `Tcp` alone whose socket's descriptor it is, and dropped before that socket is.
unsafe impl KeepsFd for crate::net::Registered {}
// SAFETY: an `Events` owns its map, whose descriptor never changes.
unsafe impl KeepsFd for crate::kernel::Events {}
// SAFETY: likewise.
unsafe impl KeepsFd for crate::kernel::packet::PacketEvents {}
