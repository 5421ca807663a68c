//! IPv4 packets with TCP segments in them: as much of RFC 791 and RFC 9293 as a test needs.

use std::net::{Ipv4Addr, SocketAddrV4};

/// FIN.
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;

const TCP: u8 = 6;
const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sender.
    pub from: SocketAddrV4,
    /// Receiver.
    pub to: SocketAddrV4,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// `FIN` and the others.
    pub flags: u8,
    /// Window, bytes; our side asks for no scaling.
    pub window: u16,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Data.
    pub data: Vec<u8>,
}

impl Segment {
    /// The sequence number after it.
    #[must_use]
    pub fn end(&self) -> u32 {
        let marks = u32::from(self.flags & SYN != 0) + u32::from(self.flags & FIN != 0);
        self.seq.wrapping_add(self.data.len() as u32).wrapping_add(marks)
    }

    /// The packet.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let tcp_header = TCP_HEADER + self.options.len();
        let tcp_length = tcp_header + self.data.len();
        let mut packet = Vec::with_capacity(IP_HEADER + tcp_length);
        packet.extend([0x45, 0]);
        packet.extend(((IP_HEADER + tcp_length) as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
        packet.extend(self.from.ip().octets());
        packet.extend(self.to.ip().octets());
        let header_sum = checksum(sum(&packet, 0));
        packet[10..12].copy_from_slice(&header_sum.to_be_bytes());

        packet.extend(self.from.port().to_be_bytes());
        packet.extend(self.to.port().to_be_bytes());
        packet.extend(self.seq.to_be_bytes());
        packet.extend(self.ack.to_be_bytes());
        packet.extend([((tcp_header / 4) << 4) as u8, self.flags]);
        packet.extend(self.window.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(&self.options);
        packet.extend(&self.data);
        let pseudo = sum(&packet[12..20], u32::from(TCP) + tcp_length as u32);
        let segment_sum = checksum(sum(&packet[IP_HEADER..], pseudo));
        packet[IP_HEADER + 16..IP_HEADER + 18].copy_from_slice(&segment_sum.to_be_bytes());
        packet
    }

    /// The segment in a packet; `None`: it is not TCP over IPv4.
    #[must_use]
    pub fn from_bytes(packet: &[u8]) -> Option<Self> {
        if packet.first()? >> 4 != 4 || *packet.get(9)? != TCP {
            return None;
        }
        let length = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
        let ip_header = usize::from(packet[0] & 15) * 4;
        let tcp = packet.get(ip_header..length)?;
        let short = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
        let ip =
            |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        let data = usize::from(*tcp.get(12)? >> 4) * 4;
        Some(Self {
            from: SocketAddrV4::new(ip(12)?, short(0)?),
            to: SocketAddrV4::new(ip(16)?, short(2)?),
            seq: long(4)?,
            ack: long(8)?,
            flags: *tcp.get(13)?,
            window: short(14)?,
            options: tcp.get(TCP_HEADER..data)?.to_vec(),
            data: tcp.get(data..)?.to_vec(),
        })
    }
}

fn sum(bytes: &[u8], start: u32) -> u32 {
    bytes.chunks(2).fold(start, |sum, pair| {
        sum + (u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from))
    })
}

fn checksum(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_survives_the_wire() {
        let segment = Segment {
            from: "10.9.0.2:4711".parse().unwrap(),
            to: "10.9.0.1:3000".parse().unwrap(),
            seq: 0xffff_fffe,
            ack: 7,
            flags: PSH | ACK | FIN,
            window: 1000,
            options: vec![2, 4, 5, 180],
            data: b"hello".to_vec(),
        };
        let packet = segment.to_bytes();
        assert_eq!(Segment::from_bytes(&packet).as_ref(), Some(&segment));
        assert_eq!(segment.end(), 4);
        // A header with its checksum sums up to nothing.
        assert_eq!(checksum(sum(&packet[..20], 0)), 0);
    }
}
