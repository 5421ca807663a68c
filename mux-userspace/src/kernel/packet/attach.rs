//! Attaching the tc programs to devices, so that other programs there run on and the device is left
//! as it was.
//!
//! From Linux 6.6 on by a tcx link, which goes when the process does. Before, by a filter of the
//! clsact qdisc, which stays until somebody removes it: [`Attachment`]'s `Drop` does, if it still
//! has `CAP_NET_ADMIN`, else whoever has ([`remove`]).

use std::io;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
    },
};
use mux_common::packet::{
    LOOPBACK, PROG_LOOP, PROG_PACKET, PROG_PACKET_L3, PROG_RESET, PROG_RESET_L3,
};

use super::{PacketError, clsact};
use crate::{
    kernel::allow::{self, Version},
    sys,
};

/// tcx links: commit e420bed02507, "bpf: Add fd-based tcx multi-prog infra with link support".
const TCX: Version = Version { major: 6, minor: 6, patch: 0 };

/// How a device has the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// tcx links.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl Mechanism {
    /// What the running kernel has.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        if allow::running().is_some_and(|running| running >= TCX) {
            Self::Tcx
        } else {
            Self::Clsact
        }
    }
}

/// The programs on a device; taken off by `Drop`.
#[derive(Debug)]
pub struct Attachment {
    device: u32,
    name: String,
    mechanism: Mechanism,
    links: Vec<SchedClassifierLink>,
    /// Whether the qdisc is ours to remove.
    made_qdisc: bool,
}

impl Attachment {
    /// The device's number.
    #[must_use]
    pub const fn device(&self) -> u32 {
        self.device
    }

    /// The device's name when they were attached.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// By what it has them.
    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // A link that cannot be removed went with its device.
        self.links.clear();
        if self.made_qdisc {
            let _ = clsact::remove_if_unused(self.device);
        }
    }
}

/// Removes what a process left on a device that attached to it by clsact and has ended since, and
/// the qdisc if nothing else uses it. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// The device is gone, or the kernel refuses.
pub fn remove(device: u32) -> io::Result<()> {
    let name = name_of(device)?;
    for (program, way) in [
        (PROG_PACKET, TcAttachType::Ingress),
        (PROG_PACKET_L3, TcAttachType::Ingress),
        (PROG_RESET, TcAttachType::Egress),
        (PROG_LOOP, TcAttachType::Egress),
        (PROG_RESET_L3, TcAttachType::Egress),
    ] {
        // That there is none is what is wanted.
        let _ = tc::qdisc_detach_program(&name, way, program);
    }
    clsact::remove_if_unused(device)
}

/// What a device's packets begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    Ethernet,
    None,
}

/// `is_alone`: no other device has the programs, so that what goes into loopback stays there.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    device: u32,
    mechanism: Mechanism,
    is_alone: bool,
) -> Result<Attachment, PacketError> {
    let name = name_of(device).map_err(|error| PacketError::Device {
        device: device.to_string(),
        reason: error.to_string(),
    })?;
    let refused = |reason: String| PacketError::Device { device: name.clone(), reason };
    let header = header_of(&name).map_err(refused)?;
    let made_qdisc = match mechanism {
        Mechanism::Tcx => false,
        // One that was there is somebody else's, who may need it when we are gone.
        Mechanism::Clsact => clsact::add(device).map_err(|error| refused(error.to_string()))?,
    };
    let mut attachment =
        Attachment { device, name: name.clone(), mechanism, links: Vec::new(), made_qdisc };
    let (ingress, egress) = match header {
        Header::Ethernet if device == LOOPBACK && !is_alone => (PROG_PACKET, PROG_LOOP),
        Header::Ethernet => (PROG_PACKET, PROG_RESET),
        Header::None => (PROG_PACKET_L3, PROG_RESET_L3),
    };
    for (program, way) in [(ingress, TcAttachType::Ingress), (egress, TcAttachType::Egress)] {
        let classifier: &mut SchedClassifier = ebpf
            .program_mut(program)
            .and_then(|program| program.try_into().ok())
            .ok_or(PacketError::Missing(program))?;
        let link = link(classifier, &name, way, mechanism)
            .map_err(|error| refused(super::chain(&error)))?;
        attachment.links.push(link);
    }
    Ok(attachment)
}

fn link(
    program: &mut SchedClassifier,
    device: &str,
    way: TcAttachType,
    mechanism: Mechanism,
) -> Result<SchedClassifierLink, ProgramError> {
    let options = match mechanism {
        Mechanism::Tcx => TcAttachOptions::TcxOrder(LinkOrder::default()),
        Mechanism::Clsact => TcAttachOptions::Netlink(NlOptions::default()),
    };
    let id = program.attach_with_options(device, way, options)?;
    program.take_link(id)
}

/// Devices whose packets begin with 14 bytes (Ethernet, loopback) or with the IP header; the
/// programs read no others.
fn header_of(name: &str) -> Result<Header, String> {
    match sys::device_type(name) {
        Ok(libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK) => Ok(Header::Ethernet),
        // 519: ARPHRD_RAWIP, include/uapi/linux/if_arp.h.
        Ok(519 | libc::ARPHRD_NONE) => Ok(Header::None),
        Ok(other) => {
            Err(format!("packets of its type ({other}) have a header that is not known here"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The name of a device of the calling thread's network namespace.
fn name_of(device: u32) -> io::Result<String> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(netdevice::index_to_name(&socket, device)?)
}
