//! Headers: where they are, and what of them the relay looks at.
//!
//! IPv4 without options and IPv6 without extension headers only, so that every offset is a
//! constant and a packet's ends stand in one piece, in the order of the maps' keys.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_map_lookup_elem, bpf_skb_pull_data},
};

use super::{MUX_FLOWS4, MUX_FLOWS6};

/// `__sk_buff.protocol`, which is in network byte order.
pub(super) const IPV4: u32 = 0x0800_u16.to_be() as u32;
pub(super) const IPV6: u32 = 0x86dd_u16.to_be() as u32;

// TCP flags, RFC 9293 3.1.
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;
pub(super) const URG: u8 = 0x20;

pub(super) const TCP: u8 = 6;
/// TCP's header without options.
pub(super) const TCP_HEADER: usize = 20;
/// NOP, NOP, timestamps, 10 bytes: how established connections' options begin (RFC 7323 A).
pub(super) const TIMESTAMPS_FIRST: u32 = 0x0101_080a_u32.to_be();

/// Where the IP header's ends are: addresses, and the ports right behind them.
#[inline(always)]
pub(super) const fn ends_at(l2: usize, v6: bool) -> usize {
    l2 + if v6 { 8 } else { 12 }
}

/// Where the TCP header is.
#[inline(always)]
pub(super) const fn tcp_at(l2: usize, v6: bool) -> usize {
    l2 + if v6 { 40 } else { 20 }
}

/// A TCP packet in a shape that can be translated.
pub(super) struct Packet {
    pub(super) skb: *mut __sk_buff,
    /// Its first byte; headers up to TCP's options are readable behind it.
    pub(super) data: *mut u8,
    /// The end of what is readable.
    pub(super) data_end: *mut u8,
    /// Its sequence number.
    pub(super) seq: u32,
    /// Its acknowledgement number.
    pub(super) ack: u32,
    /// Its flags.
    pub(super) flags: u8,
    /// Bytes of its TCP header, 20 to 60.
    pub(super) header: u32,
    /// Bytes of its IP packet.
    pub(super) length: u32,
    /// Bytes of stream in it.
    pub(super) payload: u32,
}

impl Packet {
    /// `None`: not TCP, a fragment, IP options or extension headers, or cut short.
    #[inline(always)]
    pub(super) fn parse<const L2: usize, const V6: bool>(skb: *mut __sk_buff) -> Option<Self> {
        let tcp = tcp_at(L2, V6);
        let need = tcp + TCP_HEADER;
        let (mut data, mut data_end) = bounds(skb);
        if data as usize + need > data_end as usize {
            // SAFETY: a context field.
            if unsafe { (*skb).len } < need as u32 {
                return None;
            }
            // The headers are not in the skb's linear part; seldom, and harmless to others.
            // SAFETY: a context pointer.
            if unsafe { bpf_skb_pull_data(skb, need as u32) } != 0 {
                return None;
            }
            (data, data_end) = bounds(skb);
            if data as usize + need > data_end as usize {
                return None;
            }
        }
        // SAFETY: `need` bytes are readable, as just checked. Loads that are not aligned: the
        // machines that this runs on have them, and the verifier refuses them where not.
        unsafe {
            let ip = data.add(L2);
            let (length, ip_header) = if V6 {
                // Version, and no extension header.
                if *ip >> 4 != 6 || *ip.add(6) != TCP {
                    return None;
                }
                (u16::from_be(load(ip.add(4))) as u32 + 40, 40)
            } else {
                // Version and length of the header; neither fragment nor "more fragments".
                if *ip != 0x45 || *ip.add(9) != TCP {
                    return None;
                }
                if load::<u16>(ip.add(6)) & 0x3fff_u16.to_be() != 0 {
                    return None;
                }
                (u16::from_be(load(ip.add(2))) as u32, 20)
            };
            let header = data.add(tcp);
            let tcp_header = (*header.add(12) >> 4) as u32 * 4;
            if tcp_header < TCP_HEADER as u32 || length < ip_header + tcp_header {
                // Not a TCP header, or (length 0) more than 64 KiB: user space carries those.
                return None;
            }
            Some(Self {
                skb,
                data,
                data_end,
                seq: u32::from_be(load(header.add(4))),
                ack: u32::from_be(load(header.add(8))),
                flags: *header.add(13),
                header: tcp_header,
                length,
                payload: length - ip_header - tcp_header,
            })
        }
    }

    /// The index of its record, if it is of a flow of ours.
    #[inline(always)]
    pub(super) fn record<const L2: usize, const V6: bool>(&self) -> Option<u32> {
        // SAFETY: the key is within the headers, whose bytes were checked; the map is ours. An
        // element is replaced only while the flow's sockets are gone.
        unsafe {
            let key = self.data.add(ends_at(L2, V6));
            let map = if V6 {
                (&raw const MUX_FLOWS6).cast::<()>()
            } else {
                (&raw const MUX_FLOWS4).cast()
            };
            let value = bpf_map_lookup_elem(map.cast_mut().cast(), key.cast());
            value.cast::<u32>().as_ref().copied()
        }
    }

    #[inline(always)]
    pub(super) const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Sequence number after it.
    #[inline(always)]
    pub(super) const fn end(&self) -> u32 {
        let fin = self.has(FIN) as u32;
        self.seq.wrapping_add(self.payload).wrapping_add(fin)
    }

    /// Its timestamp, if its options begin with one.
    #[inline(always)]
    pub(super) fn tsval<const L2: usize, const V6: bool>(&self) -> Option<u32> {
        let options = tcp_at(L2, V6) + TCP_HEADER;
        if self.header < 32 || self.data as usize + options + 12 > self.data_end as usize {
            return None;
        }
        // SAFETY: 12 bytes of options are readable, as just checked.
        unsafe {
            let options = self.data.add(options);
            if load::<u32>(options) != TIMESTAMPS_FIRST {
                return None;
            }
            Some(u32::from_be(load(options.add(4))))
        }
    }
}

/// # Safety
/// `size_of::<T>()` bytes are readable at `at`.
#[inline(always)]
pub(super) unsafe fn load<T: Copy>(at: *const u8) -> T {
    // Not `read_unaligned`, which becomes a load for each byte.
    unsafe { at.cast::<T>().read_volatile() }
}

#[inline(always)]
pub(super) fn bounds(skb: *mut __sk_buff) -> (*mut u8, *mut u8) {
    // SAFETY: context fields.
    unsafe { ((*skb).data as usize as *mut u8, (*skb).data_end as usize as *mut u8) }
}
