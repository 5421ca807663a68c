//! A stream, cut into overlapping segments and sent in any order.

use std::{
    io::Read as _,
    thread,
    time::{Duration, Instant},
};

use crate::{
    daemon::{PATIENCE, Wire},
    finish,
};

/// Bytes that depend on their position.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    (0..length as u64).map(|at| (mix((seed << 32) ^ (at / 8)) >> (at % 8 * 8)) as u8).collect()
}

const fn mix(value: u64) -> u64 {
    let value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Sends `stream` from `start` on, until all of it is acknowledged; compares what the upstream
/// gets; ends the flow. Returns how many bytes were trimmed.
pub(crate) fn deliver(wire: &mut Wire, start: u32, stream: &[u8], seed: u64) -> u64 {
    let mut server = wire.server.try_clone().unwrap();
    let length = stream.len();
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; length];
        server.read_exact(&mut bytes).map(|()| bytes)
    });
    let mut state = mix(seed ^ 0xabcd);
    let mut random = |bound: usize| {
        state = mix(state ^ 1).wrapping_add(seed);
        (state % bound.max(1) as u64) as usize
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        wire.client.for_a_while(Duration::from_millis(1)).unwrap();
        let acked = (wire.client.acked() - start) as usize;
        if acked >= length {
            break;
        }
        assert!(Instant::now() < deadline, "{acked} of {length} bytes acknowledged");
        for _ in 0..1 + random(6) {
            // From a little before what is acknowledged to somewhat after it.
            let from = (acked + random(4000)).saturating_sub(random(1500)).min(length - 1);
            let to = (from + 1 + random(1400)).min(length);
            wire.client.send(start + from as u32, &stream[from..to]).unwrap();
        }
        if random(3) == 0 {
            let to = (acked + 1 + random(1400)).min(length);
            wire.client.send(start + acked as u32, &stream[acked..to]).unwrap();
        }
    }
    let received = reader.join().unwrap().unwrap();
    if let Some(at) = received.iter().zip(stream).position(|(got, sent)| got != sent) {
        panic!("seed {seed}: byte {at} of {length} is wrong");
    }
    let entry = finish(wire, start + length as u32);
    entry["trimmed"].as_u64().unwrap()
}
