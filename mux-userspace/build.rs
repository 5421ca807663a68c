//! Puts the eBPF object into the daemon: the one that `cargo xtask` has just built, if
//! `MUX_EBPF_OBJECT` names it, else the committed one, so that `cargo build` needs stable Rust
//! alone.
//!
//! Leaves `$OUT_DIR/mux.bpf.o` (for `include_bytes_aligned!`), and for `mux --version`
//! `MUX_EBPF_ORIGIN` (`source` | `prebuilt`) and `MUX_EBPF_HASH` (FNV-1a of the object, 16
//! hexadecimal digits: it tells objects apart, it does not vouch for them).

use std::{env, error::Error, fs, path::PathBuf};

/// The committed object, relative to this crate.
const PREBUILT: &str = "../mux-ebpf/prebuilt/mux.bpf.o";
/// Names a fresh one; set by `cargo xtask`.
const VARIABLE: &str = "MUX_EBPF_OBJECT";

fn main() -> Result<(), Box<dyn Error>> {
    let (origin, path) = match env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => ("source", PathBuf::from(path)),
        None => {
            let crate_dir = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets no directory")?;
            ("prebuilt", PathBuf::from(crate_dir).join(PREBUILT))
        }
    };
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", path.display());

    let object = fs::read(&path).map_err(|error| {
        format!(
            "cannot read the eBPF object {}: {error}\nhint: `cargo xtask ebpf` builds it",
            path.display()
        )
    })?;
    if !object.starts_with(b"\x7fELF") {
        return Err(format!("{} is not an ELF object", path.display()).into());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?);
    fs::write(out.join("mux.bpf.o"), &object)?;
    println!("cargo::rustc-env=MUX_EBPF_ORIGIN={origin}");
    println!("cargo::rustc-env=MUX_EBPF_HASH={:016x}", fnv1a(&object));
    Ok(())
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
