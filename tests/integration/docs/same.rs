//! Whether a session prints what its page says, where some of it differs each time.

use regex::Regex;

/// What differs from time to time and from machine to machine, and what stands for it.
const VARYING: [(&str, &str); 12] = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    // Flows' ids, and the hash of the eBPF object.
    (r"\b[0-9a-f]{16}\b", "ID"),
    // Ports that the kernel gives, not those that a page names.
    (r"\b127\.0\.0\.1:(?:[345]\d|60)\d{3}\b", "127.0.0.1:PORT"),
    (r"\b(process|pid) \d+", "$1 PID"),
    (r"\b\d+(\.\d+)? ?(µs|ms|s|m|h)\b", "DURATION"),
    (r"kernel version +\d+\.\d+\.\d+\S*", "kernel version RELEASE"),
    (r"\bABI \d+: [a-z, ]+", "ABI"),
    (r"\b\d+ system calls", "N system calls"),
    // By the machine's cores and limits.
    (r"\bcores: \d+", "cores: N"),
    (r"\b(connections|sniffing_a_core)=\d+", "$1=N"),
    (r"(?m)^(connections +\d+) +\d+$", "$1 N"),
    (r"[ \t]+", " "),
];

/// Whether the lines are the same but for what differs each time. `…` in a line of a page stands for
/// anything, and such a line for any number of lines.
pub(super) fn same(page: &str, printed: &str) -> bool {
    let (page, printed) = (plain(page), plain(printed));
    lines_alike(&page.lines().collect::<Vec<_>>(), &printed.lines().collect::<Vec<_>>())
}

fn lines_alike(said: &[&str], printed: &[&str]) -> bool {
    match (said, printed) {
        ([], []) => true,
        ([said, rest @ ..], _) if said.trim() == "…" => {
            (0..=printed.len()).any(|skipped| lines_alike(rest, &printed[skipped..]))
        }
        ([said, rest @ ..], [is, others @ ..]) => alike(said, is) && lines_alike(rest, others),
        ([], [_, ..]) | ([_, ..], []) => false,
    }
}

fn plain(text: &str) -> String {
    VARYING.iter().fold(text.to_owned(), |text, (pattern, name)| {
        let pattern = Regex::new(pattern).expect("a pattern");
        pattern.replace_all(&text, *name).into_owned()
    })
}

fn alike(said: &str, printed: &str) -> bool {
    let (said, printed) = (said.trim_end(), printed.trim_end());
    if !said.contains('…') {
        return said == printed;
    }
    let pieces: Vec<&str> = said.split('…').map(str::trim).collect();
    let (first, last) = (pieces[0], pieces[pieces.len() - 1]);
    let mut rest = printed;
    let in_order = pieces.iter().all(|piece| match rest.find(piece) {
        Some(at) => {
            rest = &rest[at + piece.len()..];
            true
        }
        None => false,
    });
    in_order && printed.starts_with(first) && printed.ends_with(last)
}

#[test]
fn what_differs_each_time_is_the_same() {
    for (page, printed) in [
        ("a\nb\n", "a\nb\n"),
        ("2026-11-23T19:23:54.282142Z  INFO x", "2027-01-02T00:00:00Z  INFO x"),
        ("id 781c000000000001 of 127.0.0.1:50356", "id 0000000000000001 of 127.0.0.1:32900"),
        ("of 127.0.0.1:32768", "of 127.0.0.1:60999"),
        ("age  1.9s\nrelay    copy", "age  20.9ms\nrelay  copy"),
        ("a\n…\nd", "a\nb\nc\nd"),
        ("… rule=echo … up=1 …", "id=1 rule=echo why=x up=1 down=2"),
    ] {
        assert!(same(page, printed), "{page:?} {printed:?}");
    }
    for (page, printed) in [
        ("a\n", "a\nb\n"),
        ("a\nb\n", "a\n"),
        ("port 127.0.0.1:4510", "port 127.0.0.1:4511"),
        ("… up=1", "up=1 down=2"),
        ("a\n…\nd", "a\nb\nc"),
        ("bytes 1100", "bytes 1101"),
    ] {
        assert!(!same(page, printed), "{page:?} {printed:?}");
    }
}
