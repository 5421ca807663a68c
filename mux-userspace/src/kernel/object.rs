//! The eBPF object in this binary.

/// The object, aligned as aya's ELF reader wants it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("/work/main/target/ebpf/bpfel-unknown-none/release/mux-ebpf");
