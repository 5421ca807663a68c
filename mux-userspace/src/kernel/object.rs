//! The eBPF object in this binary.

/// The object, aligned as aya's ELF reader wants it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mux.bpf.o"));

/// Where it comes from: `prebuilt` (the committed one) or `source` (built by `cargo xtask`).
pub const ORIGIN: &str = env!("MUX_EBPF_ORIGIN");

/// FNV-1a hash of it, 16 hexadecimal digits: tells objects apart in bug reports.
pub const HASH: &str = env!("MUX_EBPF_HASH");
