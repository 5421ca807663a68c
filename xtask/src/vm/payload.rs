//! What a machine runs, as data.

use std::ffi::OsString;

/// One command in the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// Its name in reports.
    pub(crate) name: &'static str,
    /// Longest that it may take, seconds.
    pub(crate) limit: u32,
    /// Program and arguments.
    pub(crate) words: Vec<String>,
}

/// `mux doctor` as a user gets it.
pub(crate) const AUTO: &str = "auto";
/// `mux doctor` with `[kernel] sockmap = "force"`.
pub(crate) const FORCE: &str = "force";
/// The torture tool on loopback.
pub(crate) const TORTURE: &str = "torture";
/// The torture tool across namespaces that lose packets.
pub(crate) const LOSS: &str = "loss";
/// A TCP of the tests' own, over a TUN device.
pub(crate) const WIRE: &str = "wire";
/// The packet relay's programs in namespaces.
pub(crate) const PACKET: &str = "packet";
/// Programs of tests: `mux-tests` has each under this name, and the machine in `/bin`.
pub(crate) const TESTS: [&str; 2] = [WIRE, PACKET];

/// Programs of the host that these run.
pub(crate) const HOST_PROGRAMS: [&str; 3] = ["ip", "nft", "tc"];

/// The machine's small files.
pub(crate) const FILES: [(&str, &str); 5] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("etc/auto.toml", "listen = \"127.0.0.1:0\"\n\n[[rule]]\nupstream = \"builtin:echo\"\n"),
    (
        "etc/force.toml",
        "listen = \"127.0.0.1:0\"\n\n[[rule]]\nupstream = \"builtin:echo\"\n\n\
         [kernel]\nsockmap = \"force\"\n",
    ),
];

/// How much torture a machine gets; an emulated one is some twenty times slower than this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    flows: u32,
    concurrency: u32,
    /// No flow begins later.
    seconds: u32,
    /// Which of [`WIRE`]'s tests.
    wire: &'static [&'static str],
    /// Which of [`PACKET`]'s.
    packet: &'static [&'static str],
}

/// Every overlap there is, and the least that shows a trim.
const OVERLAPS: [&str; 2] =
    ["a_retransmission_that_overlaps_is_trimmed", "a_duplicate_is_delivered_once"];

/// What depends most on the kernel: the look without capabilities, a flow wherever its ends are, its end, and what
/// stays on the devices.
const PACKETS_QUICK: [&str; 4] = [
    "arming::a_flow_of_requests_and_answers_is_turned_on",
    "arming::the_look_needs_no_capability",
    "devices::devices_are_left_as_they_were",
    "ends::a_servers_reset_reaches_the_client",
];
/// All but those that take minutes in an emulation: they are about TCP's numbers, which are the same on every
/// kernel.
const PACKETS: [&str; 11] = [
    "arming::a_",
    "arming::bytes_that_reach_our_socket",
    "arming::our_sockets_stop_repeating",
    "arming::the_look",
    "devices::",
    "ends::",
    "network::a_packet_too_long",
    "network::lost_packets_are_repeated_by_the_peers_with_sack",
    "network::without_timestamps",
    "streams::long_streams",
    "streams::one_way_stays_open",
];

impl Size {
    /// For every run of `cargo xtask test`.
    pub(crate) const QUICK: Self =
        Self { flows: 40, concurrency: 8, seconds: 15, wire: &OVERLAPS, packet: &PACKETS_QUICK };
    /// By default.
    pub(crate) const FULL: Self = Self {
        flows: 200,
        concurrency: 16,
        seconds: 40,
        wire: &["a_", "segments_"],
        packet: &PACKETS,
    };
}

/// The commands for every kernel, in order. `torture`: with the torture tool, and with `extra`
/// arguments for it.
pub(crate) fn list(size: Size, torture: bool, extra: &[OsString]) -> Vec<Payload> {
    let mut payloads = vec![
        payload(AUTO, 60, "/bin/mux doctor --json --rules /etc/auto.toml"),
        payload(FORCE, 60, "/bin/mux doctor --json --rules /etc/force.toml"),
    ];
    let mut wire = payload(WIRE, 240, "/bin/wire --test-threads 1");
    wire.words.extend(size.wire.iter().map(|&name| name.to_owned()));
    payloads.push(wire);
    // Loading the programs, which each of them does up to ten times, is what takes long. Not captured, so that it is
    // known why a test failed also if the time is up before the last one has ended.
    let mut packet = payload(PACKET, 900, "/bin/packet --test-threads 1 --nocapture");
    packet.words.extend(size.packet.iter().map(|&name| name.to_owned()));
    payloads.push(packet);
    if torture {
        let extra: Vec<String> =
            extra.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        for (name, more) in [(TORTURE, ""), (LOSS, "--netns --loss 2 --no-sack")] {
            let mut torture = payload(name, size.seconds + 60, "/bin/torture --json");
            torture.words.extend(more.split_whitespace().map(str::to_owned));
            torture.words.extend(defaults(size, &extra));
            torture.words.extend(extra.iter().cloned());
            payloads.push(torture);
        }
    }
    payloads
}

/// Torture's options, without those that the user gives.
fn defaults(size: Size, extra: &[String]) -> Vec<String> {
    let Size { flows, concurrency, seconds, .. } = size;
    [
        ("--mux", "/bin/mux".to_owned()),
        // So that also the kernels that are not on the list of the good ones are tried.
        ("--sockmap", "force".to_owned()),
        ("--seed", "1".to_owned()),
        ("--flows", flows.to_string()),
        ("--concurrency", concurrency.to_string()),
        ("--seconds", seconds.to_string()),
        ("--bytes", "262144".to_owned()),
        ("--bulk", "1048576".to_owned()),
        ("--deadline", "60".to_owned()),
    ]
    .into_iter()
    .filter(|(option, _)| !extra.iter().any(|word| word.split('=').next() == Some(option)))
    .flat_map(|(option, value)| [option.to_owned(), value])
    .collect()
}

fn payload(name: &'static str, limit: u32, command: &str) -> Payload {
    Payload { name, limit, words: command.split(' ').map(str::to_owned).collect() }
}

/// The list as `mux-vm-init` reads it.
pub(crate) fn file(payloads: &[Payload]) -> String {
    let line = |payload: &Payload| {
        format!("{}\t{}\t{}\n", payload.name, payload.limit, payload.words.join("\t"))
    };
    payloads.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_as_init_reads_it() {
        let payloads = list(Size::QUICK, false, &[]);
        let text = file(&payloads);
        let first = text.lines().next().unwrap_or_default();
        assert_eq!(first, "auto\t60\t/bin/mux\tdoctor\t--json\t--rules\t/etc/auto.toml");
        assert_eq!(text.lines().count(), 4);
        for start in ["wire\t240\t/bin/wire\t", "packet\t900\t/bin/packet\t"] {
            assert!(text.lines().any(|line| line.starts_with(start)), "{text}");
        }
    }

    #[test]
    fn a_full_run_has_more_tests_than_a_quick_one() {
        let words = |size| {
            let payloads = list(size, false, &[]);
            payloads.into_iter().find(|it| it.name == PACKET).unwrap().words
        };
        assert!(words(Size::FULL).ends_with(&PACKETS.map(str::to_owned)));
        assert!(words(Size::QUICK).ends_with(&PACKETS_QUICK.map(str::to_owned)));
        assert!(PACKETS.len() > PACKETS_QUICK.len());
    }

    #[test]
    fn extra_arguments_replace_tortures_own() {
        let payloads = list(Size::QUICK, true, &["--flows".into(), "7".into()]);
        let names: Vec<&str> = payloads.iter().map(|payload| payload.name).collect();
        assert_eq!(names, [AUTO, FORCE, WIRE, PACKET, TORTURE, LOSS]);
        for payload in &payloads[4..] {
            assert_eq!(payload.words.iter().filter(|word| *word == "--flows").count(), 1);
            assert!(payload.words.ends_with(&["--flows".to_owned(), "7".to_owned()]));
        }
    }
}
