//! What no well-behaved TCP sends, on a flow that the kernel carries: a TCP of our own over a TUN
//! device, mux, and an upstream that compares every byte.
//!
//! Each test has a network namespace, a TUN device and a daemon of its own. Needs root.

mod daemon;
mod segments;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mux_tests::tun::{ACK, FIN, PSH, RST};

use crate::daemon::{HEAD, PATIENCE, Wire, open, open_with};

/// Where a client's stream goes on after [`HEAD`].
const START: u32 = HEAD.len() as u32;

/// Both sides end their streams, the client after `offset` bytes; returns the access log's line.
fn finish(wire: &mut Wire, offset: u32) -> serde_json::Value {
    wire.client.send_flags(offset, FIN | ACK, b"").unwrap();
    assert_eq!(wire.server_reads_to_end(), b"");
    wire.server.shutdown(Shutdown::Write).unwrap();
    wire.client.until("the end of the stream", |client| client.finished).unwrap();
    let entry = wire.stop();
    assert_eq!(entry["close"], "finished", "{entry}");
    assert_eq!(entry["bytes_up"], offset, "{entry}");
    entry
}

/// A verdict gets a retransmission whole that overlaps what was received before: 5.10 ignores the
/// offset that it is given (`sk_psock_verdict_recv`), since 6.0 there is none (commit 04919bed948d).
/// Redirected as it is, `56789` would come twice.
#[test]
fn a_retransmission_that_overlaps_is_trimmed() {
    let Some(mut wire) = open() else { return };
    wire.client.send(START, b"0123456789").unwrap();
    assert_eq!(wire.server_reads(10), b"0123456789");
    wire.client.send(START + 5, b"56789ABCDE").unwrap();
    wire.client.send(START + 15, b"FGHIJ").unwrap();
    let received = wire.server_reads(10);
    assert_eq!(String::from_utf8_lossy(&received), "ABCDEFGHIJ");
    let entry = finish(&mut wire, START + 20);
    assert_eq!(entry["trimmed"], 5, "{entry}");
}

#[test]
fn a_duplicate_is_delivered_once() {
    let Some(mut wire) = open() else { return };
    for _ in 0..3 {
        wire.client.send(START, b"abcdefghij").unwrap();
        wire.client.send(START + 4, b"efg").unwrap();
    }
    wire.client.send(START + 10, b"klm").unwrap();
    assert_eq!(wire.server_reads(13), b"abcdefghijklm");
    finish(&mut wire, START + 13);
}

#[test]
fn segments_out_of_order_are_delivered_in_order() {
    let Some(mut wire) = open() else { return };
    wire.client.send(START + 16, b"qrstuvwxyz").unwrap();
    wire.client.send(START + 10, b"klmnopqrst").unwrap();
    wire.client.send(START + 24, b"yz0123").unwrap();
    wire.client.send(START, b"abcdefghijkl").unwrap();
    assert_eq!(wire.server_reads(30), b"abcdefghijklmnopqrstuvwxyz0123");
    finish(&mut wire, START + 30);
}

#[test]
fn a_fin_with_data_that_overlaps_ends_the_stream_after_all_of_it() {
    let Some(mut wire) = open() else { return };
    wire.client.send(START, b"01234").unwrap();
    wire.client.send_flags(START + 2, FIN | PSH | ACK, b"23456789").unwrap();
    assert_eq!(wire.server_reads_to_end(), b"0123456789");
    wire.server.write_all(b"answer").unwrap();
    wire.server.shutdown(Shutdown::Write).unwrap();
    wire.client.until("the answer and its end", |client| client.finished).unwrap();
    assert_eq!(wire.client.received, b"answer");
    let entry = wire.stop();
    let expected = (&"finished".into(), &3.into());
    assert_eq!((&entry["close"], &entry["trimmed"]), expected, "{entry}");
}

#[test]
fn a_fin_that_is_repeated_changes_nothing() {
    let Some(mut wire) = open() else { return };
    for _ in 0..3 {
        wire.client.send_flags(START, FIN | PSH | ACK, b"all").unwrap();
    }
    assert_eq!(wire.server_reads_to_end(), b"all");
    wire.server.write_all(&[7; 100_000]).unwrap();
    wire.server.shutdown(Shutdown::Write).unwrap();
    wire.client.until("the answer and its end", |client| client.finished).unwrap();
    assert_eq!(wire.client.received, [7; 100_000]);
    assert_eq!(wire.stop()["close"], "finished");
}

/// RFC 5961: a reset at exactly the next sequence number ends the connection, one elsewhere in
/// the window is answered and ignored.
#[test]
fn a_reset_is_passed_on_and_a_guessed_one_is_not() {
    let Some(mut wire) = open() else { return };
    wire.client.send(START, b"one").unwrap();
    wire.client.send_flags(START + 500, RST, b"").unwrap();
    wire.client.send(START + 3, b"two").unwrap();
    assert_eq!(wire.server_reads(6), b"onetwo");
    wire.client.send(START + 6, b"three").unwrap();
    wire.client.send_flags(START + 11, RST, b"").unwrap();
    assert_eq!(wire.server_reads(5), b"three");
    let error = wire.server.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let entry = wire.stop();
    assert_eq!((&entry["close"], &entry["bytes_up"]), (&"client-reset".into(), &15.into()));
}

/// What the client's window of zero holds up must hold up the upstream, in bounded memory, and
/// arrive when the window opens.
#[test]
fn a_window_of_zero_holds_the_upstream_up() {
    const TOTAL: usize = 24 << 20;
    /// `send_buffer`, `backlog_limit`, both of mux's receive buffers and the upstream's own send
    /// buffer, with room for the kernel's bookkeeping.
    const MOST: usize = 20 << 20;
    let Some(mut wire) = open() else { return };
    wire.client.window = 0;
    wire.client.acknowledge().unwrap();
    let expected = segments::pattern(TOTAL, 1);
    let sent = Arc::new(AtomicUsize::new(0));
    let mut server = wire.server.try_clone().unwrap();
    server.set_write_timeout(None).unwrap();
    // Not a scoped thread: it is left behind where an assertion fails.
    let writer = {
        let (expected, sent) = (expected.clone(), Arc::clone(&sent));
        thread::spawn(move || {
            for part in expected.chunks(10_000) {
                server.write_all(part).unwrap();
                sent.fetch_add(part.len(), Ordering::Relaxed);
            }
            server.shutdown(Shutdown::Write).unwrap();
        })
    };
    let pause = Duration::from_millis(50);
    let blocked = wait_until_still(&sent, || wire.client.for_a_while(pause).unwrap());
    assert!(blocked < MOST, "{blocked} bytes went into a window of zero");
    eprintln!("the upstream blocked after {blocked} bytes");
    wire.client.window = 65_000;
    wire.client.acknowledge().unwrap();
    wire.client.until("the end of the stream", |client| client.finished).unwrap();
    writer.join().unwrap();
    assert!(wire.client.received == expected, "the bytes are not those that were sent");
    wire.client.send_flags(START, FIN | ACK, b"").unwrap();
    assert_eq!(wire.server_reads_to_end(), b"");
    let entry = wire.stop();
    assert_eq!(entry["close"], "finished", "{entry}");
    assert!(entry["passes"].as_u64() > Some(0), "{entry}");
    assert_eq!(entry["bytes_down"], TOTAL, "{entry}");
}

/// Waits until a number has not changed for a second.
fn wait_until_still(number: &AtomicUsize, mut meanwhile: impl FnMut()) -> usize {
    let deadline = Instant::now() + PATIENCE;
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        meanwhile();
        let now = number.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if now > 0 && since.elapsed() > Duration::from_secs(1) {
            return now;
        }
        assert!(Instant::now() < deadline, "still moving after {now} bytes");
    }
}

#[test]
fn a_reset_behind_a_window_of_zero_reaches_the_upstream() {
    let Some(mut wire) = open() else { return };
    wire.client.window = 0;
    wire.client.acknowledge().unwrap();
    let mut server = wire.server.try_clone().unwrap();
    let writer = thread::spawn(move || {
        loop {
            if let Err(error) = server.write_all(&[1; 65_536]) {
                return error.kind();
            }
        }
    });
    wire.client.for_a_while(Duration::from_secs(1)).unwrap();
    wire.client.send_flags(START, RST, b"").unwrap();
    let error = writer.join().unwrap();
    assert!(
        matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "the writer got {error}"
    );
    assert_eq!(wire.stop()["close"], "client-reset");
}

/// The upstream's reset has to wait for what the client was given before it, and cannot for ever (L10). What
/// the client gets in the end is a reset: an end would say that it has all of the stream.
#[test]
fn a_drain_that_cannot_finish_ends_with_a_reset() {
    let Some(mut wire) = open() else { return };
    wire.client.window = 0;
    wire.client.acknowledge().unwrap();
    wire.server.write_all(&[1; 200_000]).unwrap();
    wire.client.for_a_while(Duration::from_millis(300)).unwrap();
    let start = Instant::now();
    wire.reset_server();
    wire.client.until("the reset", |client| client.reset).unwrap();
    assert!(!wire.client.finished, "an end in the middle of the stream");
    let took = start.elapsed();
    eprintln!("reset after {took:?}");
    assert!(took > Duration::from_secs(1), "the bytes on their way were not waited for");
    assert!(wire.client.received.len() < 200_000, "they have arrived");
    assert_eq!(wire.stop()["close"], "upstream-reset");
}

/// A client that has ended its stream and then is gone, without a word: the upstream's bytes wait for
/// acknowledgements that never come. `half_closed` ends that, with a reset for the upstream.
#[test]
fn a_peer_that_vanishes_from_a_half_closed_flow_is_given_up() {
    let Some(mut wire) = open_with("[timeouts]\nhalf_closed = \"1s\"\n") else { return };
    wire.client.send(START, b"all").unwrap();
    wire.client.send_flags(START + 3, FIN | ACK, b"").unwrap();
    assert_eq!(wire.server_reads_to_end(), b"all");
    wire.server.write_all(b"answer").unwrap();
    wire.client.until("the answer", |client| client.received == b"answer").unwrap();
    // From here on the client's end is silent.
    let error = loop {
        if let Err(error) = wire.server.write_all(&[2; 50_000]) {
            break error;
        }
    };
    // What a reset is to a connection whose other stream has ended (`tcp_reset`).
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let entry = wire.stop();
    assert_eq!(entry["close"], "half-closed-timeout", "{entry}");
    assert_eq!(entry["bytes_up"], START + 3, "{entry}");
}

/// A reset takes the source out of the maps, and with it what was passed and not read (L10). What the
/// upstream gets is the stream from its beginning, as far as it goes, and then the reset.
#[test]
fn a_reset_whose_sender_has_passed_bytes_unread_cuts_the_stream_short_and_no_more() {
    let Some(mut wire) = open() else { return };
    // The upstream does not read: its window closes, mux's send buffer fills, the verdict passes.
    let stream = segments::pattern(20 << 20, 3);
    let mut sent = 0;
    let deadline = Instant::now() + 3 * PATIENCE;
    let mut moved = Instant::now();
    while sent < stream.len() && moved.elapsed() < Duration::from_secs(1) {
        assert!(Instant::now() < deadline, "{sent} bytes");
        let window = 60_000;
        let acked = wire.client.acked().saturating_sub(START) as usize;
        if sent < acked + window {
            let to = (sent + 1400).min(stream.len());
            wire.client.send(START + sent as u32, &stream[sent..to]).unwrap();
            sent = to;
        }
        let before = wire.client.acked();
        wire.client
            .for_a_while(Duration::from_millis(if sent < acked + window { 0 } else { 20 }))
            .unwrap();
        if wire.client.acked() != before {
            moved = Instant::now();
        } else if sent >= acked + window {
            // What the closed window has dropped.
            sent = acked;
        }
    }
    let acked = wire.client.acked();
    assert!(((acked - START) as usize) < stream.len(), "nothing stopped the client");
    wire.client.send_flags(acked, RST, b"").unwrap();
    let mut received = Vec::new();
    let error = wire.server.read_to_end(&mut received).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(stream.starts_with(&received), "a wrong byte");
    eprintln!("{} bytes acknowledged, {} arrived before the reset", acked - START, received.len());
    let entry = wire.stop();
    assert_eq!(entry["close"], "client-reset", "{entry}");
    assert!(
        entry["bytes_up"].as_u64() >= Some(u64::from(START) + received.len() as u64),
        "{entry}"
    );
}

/// Streams cut into overlapping segments that arrive in any order, some of them lost and sent
/// again, cut otherwise.
#[test]
fn overlapping_segments_in_any_order_make_the_stream() {
    let mut all = 0;
    for seed in 1..=6 {
        let Some(mut wire) = open() else { return };
        let stream = segments::pattern(60_000, seed);
        let trimmed = segments::deliver(&mut wire, START, &stream, seed);
        eprintln!("seed {seed}: {trimmed} bytes trimmed");
        all += trimmed;
    }
    assert!(all > 0, "nothing overlapped");
}
