//! Field offsets of the running kernel, from its BTF.
//!
//! Rust has no CO-RE: the verdict reads `struct tcp_sock` at offsets that the loader
//! patches into its read-only globals.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    path::Path,
};

use btf_rs::{Backend, Btf, Struct, Type};
use rustix::fs::{MemfdFlags, memfd_create};
use thiserror::Error;

/// Where the kernel says what its types look like.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offsets in `struct tcp_sock`, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `u64 bytes_acked`
    pub bytes_acked: u32,
    /// `u32 write_seq`
    pub write_seq: u32,
    /// `u32 snd_una`
    pub snd_una: u32,
    /// `u32 copied_seq`
    pub copied_seq: u32,
    /// `u32 mss_cache`
    pub mss_cache: u32,
    /// `int sk_wmem_queued`, of the `struct sock` that it begins with
    pub wmem_queued: u32,
    /// `int sk_sndbuf`, of the same
    pub sndbuf: u32,
}

/// Why the offsets cannot be had.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The kernel was built without BTF, or sysfs is not mounted.
    #[error(
        "{path} is not there: this kernel has no BTF (CONFIG_DEBUG_INFO_BTF), or /sys is not mounted"
    )]
    Missing {
        /// The file looked for.
        path: String,
    },
    /// The file is not BTF as we know it.
    #[error("{path} cannot be read as BTF: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the parser says.
        source: btf_rs::Error,
    },
    /// A field is not there, or not where the program can reach it.
    #[error("struct {structure} of this kernel has no usable field `{field}`")]
    NoField {
        /// The struct.
        structure: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// Reads the offsets from a BTF file, [`VMLINUX`] for the running kernel.
///
/// # Errors
/// [`BtfError`].
pub fn offsets(path: &Path) -> Result<Offsets, BtfError> {
    let unreadable = |source| BtfError::Unreadable { path: path.display().to_string(), source };
    let btf = open(path)?;
    let structure = |name: &'static str| {
        btf.resolve_types_by_name(name)
            .map_err(unreadable)?
            .into_iter()
            .find_map(|ty| match ty {
                Type::Struct(structure) => Some(structure),
                _ => None,
            })
            .ok_or(BtfError::NoField { structure: name, field: "(the struct itself)" })
    };
    let tcp_sock = structure("tcp_sock")?;
    let sock = structure("sock")?;

    let offset = |of: &Struct, structure: &'static str, field: &'static str| {
        of.members
            .iter()
            .find(|member| btf.resolve_name(*member).is_ok_and(|name| name == field))
            .map(|member| member.bit_offset())
            // The program masks offsets with 0xfff for the verifier.
            .filter(|bits| bits % 32 == 0 && bits / 8 <= 0xff8)
            .map(|bits| bits / 8)
            .ok_or(BtfError::NoField { structure, field })
    };
    let tcp = |field| offset(&tcp_sock, "tcp_sock", field);
    Ok(Offsets {
        bytes_acked: tcp("bytes_acked")?,
        write_seq: tcp("write_seq")?,
        snd_una: tcp("snd_una")?,
        copied_seq: tcp("copied_seq")?,
        mss_cache: tcp("mss_cache")?,
        wmem_queued: offset(&sock, "sock", "sk_wmem_queued")?,
        sndbuf: offset(&sock, "sock", "sk_sndbuf")?,
    })
}

/// Offsets that the packet relay needs besides, bytes; nested fields from the outer struct's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketOffsets {
    /// `u32 rcv_nxt` of `struct tcp_sock`
    pub rcv_nxt: u32,
    /// `u32 tsoffset` of the same
    pub tsoffset: u32,
    /// `struct rb_node *rb_node` of its `out_of_order_queue`
    pub out_of_order: u32,
    /// `int owned` of `struct sock`'s `sk_lock`
    pub lock_owned: u32,
    /// `int len` of its `sk_backlog`
    pub backlog_len: u32,
}

/// Reads them from a BTF file.
///
/// # Errors
/// [`BtfError`].
pub fn packet_offsets(path: &Path) -> Result<PacketOffsets, BtfError> {
    let unreadable = |source| BtfError::Unreadable { path: path.display().to_string(), source };
    let btf = open(path)?;
    let structure = |name: &str| {
        let types = btf.resolve_types_by_name(name).map_err(unreadable)?;
        Ok(types.into_iter().find_map(as_struct))
    };
    let (tcp_sock, sock) = (structure("tcp_sock")?, structure("sock")?);
    let offset = |of: &Option<Struct>, structure: &'static str, field: &'static str| {
        of.as_ref()
            .and_then(|of| bits_to(&btf, of, field))
            .filter(|bits| bits % 32 == 0 && bits / 8 <= 0xff8)
            .map(|bits| bits / 8)
            .ok_or(BtfError::NoField { structure, field })
    };
    let tcp = |field| offset(&tcp_sock, "tcp_sock", field);
    let sock = |field| offset(&sock, "sock", field);
    Ok(PacketOffsets {
        rcv_nxt: tcp("rcv_nxt")?,
        tsoffset: tcp("tsoffset")?,
        out_of_order: tcp("out_of_order_queue.rb_node")?,
        lock_owned: sock("sk_lock.owned")?,
        backlog_len: sock("sk_backlog.len")?,
    })
}

fn open(path: &Path) -> Result<Btf, BtfError> {
    let name = || path.display().to_string();
    if !path.exists() {
        return Err(BtfError::Missing { path: name() });
    }
    let unreadable = |source| BtfError::Unreadable { path: name(), source };
    let bytes = fs::read(path).map_err(|error| unreadable(error.into()))?;
    mapped(&bytes).or_else(|_| Btf::from_bytes(&bytes)).map_err(unreadable)
}

/// Types that are looked up where they stand. It takes 4 ms, and 200 to make an object of each of a
/// kernel's types first, which every start did several times. It wants a file that can be mapped:
/// sysfs's cannot before Linux 6.16.
fn mapped(bytes: &[u8]) -> btf_rs::Result<Btf> {
    let copy = memfd_create("btf", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
    let mut copy = File::from(copy);
    copy.write_all(bytes)?;
    Btf::from_file_with_backend(format!("/proc/self/fd/{}", copy.as_raw_fd()), Backend::Mmap)
}

fn as_struct(ty: Type) -> Option<Struct> {
    match ty {
        Type::Struct(structure) | Type::Union(structure) => Some(structure),
        _ => None,
    }
}

/// Bits from the start of a struct to a field of it, `outer.inner`; members without a name are
/// looked into.
fn bits_to(btf: &Btf, of: &Struct, path: &str) -> Option<u32> {
    let (first, rest) =
        path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    of.members.iter().find_map(|member| {
        let name = btf.resolve_name(member).unwrap_or_default();
        let inside = || {
            // What a typedef or `const` stands for; a field's type is its first step.
            btf.chained_type_iter(member).find_map(as_struct)
        };
        let within = match (name == first, rest) {
            (true, None) => Some(0),
            (true, Some(rest)) => bits_to(btf, &inside()?, rest),
            (false, _) if name.is_empty() => bits_to(btf, &inside()?, path),
            (false, _) => None,
        }?;
        Some(member.bit_offset() + within)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The running kernel's, where it has any: pahole's word for it is in docs/internals/packet.md.
    #[test]
    fn nested_fields_of_the_running_kernel_are_found() {
        if !Path::new(VMLINUX).exists() {
            return;
        }
        let offsets = packet_offsets(Path::new(VMLINUX)).unwrap();
        // `wait_queue_head_t wq` and `slock` surround it; `sk_lock` is not at the struct's start.
        assert!(offsets.lock_owned > 4 && offsets.backlog_len > 4, "{offsets:?}");
        assert_ne!(offsets.rcv_nxt, offsets.tsoffset);
    }

    /// The second is for machines that cannot map a copy.
    #[test]
    fn a_mapped_file_and_a_parsed_one_say_the_same() {
        if !Path::new(VMLINUX).exists() {
            return;
        }
        let bytes = fs::read(VMLINUX).unwrap();
        let size = |btf: &Btf| {
            let ty = btf.resolve_types_by_name("tcp_sock").unwrap().into_iter().find_map(as_struct);
            let ty = ty.unwrap();
            let members = ty.members.iter().map(|member| member.bit_offset()).collect::<Vec<_>>();
            (ty.size(), members, bits_to(btf, &ty, "out_of_order_queue.rb_node"))
        };
        let both = [mapped(&bytes).unwrap(), Btf::from_bytes(&bytes).unwrap()];
        let [mapped, parsed] = both.each_ref().map(size);
        assert_eq!(mapped, parsed);
        assert!(mapped.2.is_some());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = offsets(Path::new("/nonexistent/btf")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/btf"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_btf_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"not BTF").unwrap();
        assert!(matches!(offsets(file.path()), Err(BtfError::Unreadable { .. })));
    }
}
