//! mux's kernel half: the `sk_skb/stream_verdict` program of the sockmap relay (`verdict.rs`), and
//! the tc programs of the packet relay (`packet/`).
//!
//! On the host this is an empty `main`, so that `cargo build --workspace` needs stable
//! Rust alone. `cargo xtask ebpf` builds the real thing.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For one locked add; the eBPF build needs RUSTC_BOOTSTRAP for build-std anyway.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod socket;
#[cfg(target_arch = "bpf")]
mod verdict;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("this is mux's eBPF program; build it with `cargo xtask ebpf`");
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel matches against its list of GPL-compatible licences
/// (include/linux/license.h); the helpers that we call want one.
#[cfg(target_arch = "bpf")]
#[allow(unsafe_code, reason = "the section's name is the kernel's")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
