//! Fields of the kernel's sockets: Rust has no CO-RE, so the loader patches their offsets, from the
//! running kernel's BTF, into read-only globals.
#![allow(unsafe_code, reason = "kernel pointers; the verifier checks every access")]

use aya_ebpf::Global;

// In `struct tcp_sock`.
#[unsafe(no_mangle)]
pub(crate) static OFF_BYTES_ACKED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_WRITE_SEQ: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_SND_UNA: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_COPIED_SEQ: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_RCV_NXT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_TSOFFSET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_OUT_OF_ORDER: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_MSS_CACHE: Global<u32> = Global::new(0);
// And in `struct sock`, with which it begins.
#[unsafe(no_mangle)]
pub(crate) static OFF_WMEM_QUEUED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_SNDBUF: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_LOCK_OWNED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static OFF_BACKLOG_LEN: Global<u32> = Global::new(0);

/// # Safety
/// `base` is a kernel `struct tcp_sock` known to the verifier, `offset` a load-time constant.
#[inline(always)]
pub(crate) unsafe fn field_u32(base: *const u8, offset: u32) -> u32 {
    unsafe { base.add((offset & 0xfff) as usize).cast::<u32>().read_volatile() }
}

/// # Safety
/// As [`field_u32`].
#[inline(always)]
pub(crate) unsafe fn field_u64(base: *const u8, offset: u32) -> u64 {
    unsafe { base.add((offset & 0xfff) as usize).cast::<u64>().read_volatile() }
}
