//! What a machine says: `mux-vm-init`'s lines on the second serial port, and the kernel's
//! own on the first.

/// What init writes on the first port when it cannot go on.
pub(crate) const LAST_WORDS: &str = "MUX-VM failure";

/// What was said so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// `uname -r`.
    pub(crate) release: String,
    /// `uname -v`.
    pub(crate) version: String,
    /// The commands that ended, in order.
    pub(crate) results: Vec<Done>,
    /// The command that runs.
    pub(crate) running: Option<String>,
    /// What init itself could not do.
    pub(crate) failures: Vec<String>,
    /// The end of the kernel's log, if it complained.
    pub(crate) dmesg: Vec<String>,
    /// Everything was run.
    pub(crate) ended: bool,
}

/// A command that ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Done {
    /// Its name.
    pub(crate) name: String,
    /// `exit:N`, `signal:N`, `timeout` or `unstartable:…`.
    pub(crate) status: String,
    /// How long it took, as the machine's clock says.
    pub(crate) seconds: f64,
    /// Its standard output.
    pub(crate) out: String,
    /// Its standard error.
    pub(crate) err: String,
}

impl Report {
    /// Reads what came over the port; a last line without end is not complete yet.
    pub(crate) fn parse(text: &str) -> Self {
        let mut report = Self::default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in complete.lines() {
            let line = line.trim_end_matches('\r');
            if let Some((kind, rest)) =
                line.strip_prefix("MUX-VM ").and_then(|rest| rest.split_once(' '))
            {
                report.line(kind, rest);
            }
        }
        report
    }

    fn line(&mut self, kind: &str, rest: &str) {
        match kind {
            "release" => rest.clone_into(&mut self.release),
            "version" => rest.clone_into(&mut self.version),
            "begin" => {
                let name = named(rest).0.to_owned();
                self.running = Some(name.clone());
                self.results.push(Done { name, ..Done::default() });
            }
            "out" | "err" => {
                let (name, text) = named(rest);
                if let Some(done) = self.results.iter_mut().find(|done| done.name == name) {
                    let stream = if kind == "out" { &mut done.out } else { &mut done.err };
                    stream.push_str(text);
                    stream.push('\n');
                }
            }
            "result" => {
                let (name, values) = named(rest);
                self.running = None;
                if let Some(done) = self.results.iter_mut().find(|done| done.name == name) {
                    done.status = value(values, "status").to_owned();
                    done.seconds = value(values, "seconds").parse().unwrap_or(0.0);
                }
            }
            "dmesg" => self.dmesg.push(rest.to_owned()),
            "end" => self.ended = true,
            _ => self.failures.push(format!("{kind} {rest}")),
        }
    }

    /// The command `name`, if it was begun.
    pub(crate) fn done(&self, name: &str) -> Option<&Done> {
        self.results.iter().find(|done| done.name == name)
    }
}

/// `name=x rest` in two.
fn named(text: &str) -> (&str, &str) {
    let text = text.strip_prefix("name=").unwrap_or(text);
    text.split_once(' ').unwrap_or((text, ""))
}

fn value<'a>(text: &'a str, key: &str) -> &'a str {
    text.split(' ')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(name, value)| (name == key).then_some(value))
        .unwrap_or_default()
}

/// What the kernel writes when it has found a bug in itself.
const COMPLAINTS: [&str; 9] = [
    "WARNING:",
    "BUG:",
    "Oops",
    "general protection",
    "Kernel panic",
    "unable to handle",
    "detected stall",
    "blocked for more than",
    "unreferenced object",
];

/// Whether a complaint is the one that is known (K19 in docs/internals/kernel.md): the last reference to
/// a closed socket is that of a buffer in a queue which `sk_psock_destroy` empties, and what the socket
/// has in account by then is some bytes off. No byte of a stream is concerned, and mux can but make it rare.
pub(crate) fn is_known(console: &str, complaint: &str) -> bool {
    let at = console.find(complaint).filter(|_| complaint.contains("inet_sock_destruct"));
    let trace = at.map(|at| &console[at..]).unwrap_or_default();
    let trace = trace.find("---[ end trace").map_or(trace, |end| &trace[..end]);
    trace.contains("sk_psock_destroy")
}

/// The complaints in the kernel's console, a line each.
pub(crate) fn complaints(console: &str) -> Vec<String> {
    let lines = || console.lines().map(|line| line.trim_end_matches('\r'));
    let found: Vec<String> = lines()
        .filter(|line| COMPLAINTS.iter().any(|complaint| line.contains(complaint)))
        .map(str::to_owned)
        .collect();
    if found.is_empty() {
        // One that we have no words for, but that came with a trace.
        return lines().filter(|line| line.contains("Call Trace")).map(str::to_owned).collect();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "MUX-VM release 6.1.0-56-cloud-amd64\r\nMUX-VM version #1 SMP Debian\r\n\
        MUX-VM begin name=auto\r\nMUX-VM out name=auto {\"a\": 1,\r\nMUX-VM out name=auto  \"b\": 2}\r\n\
        MUX-VM err name=auto hint: x\r\nMUX-VM result name=auto status=exit:1 seconds=1.250\r\n\
        MUX-VM module name=veth.ko error=x\r\nMUX-VM dmesg y\r\nMUX-VM begin name=torture\r\n\
        MUX-VM end \r\n";

    #[test]
    fn a_report_is_read_line_by_line() {
        let report = Report::parse(TEXT);
        assert_eq!(report.release, "6.1.0-56-cloud-amd64");
        let done = report.done("auto").cloned().unwrap_or_default();
        assert_eq!((done.status.as_str(), done.seconds), ("exit:1", 1.25));
        assert_eq!(done.out, "{\"a\": 1,\n \"b\": 2}\n");
        assert_eq!(done.err, "hint: x\n");
        assert_eq!(report.failures, ["module name=veth.ko error=x"]);
        assert_eq!(report.running.as_deref(), Some("torture"));
        assert!(report.ended);
    }

    #[test]
    fn half_a_report_is_a_report() {
        for end in 0..TEXT.len() {
            let report = Report::parse(&TEXT[..end]);
            assert!(!report.ended);
            assert!(report.failures.iter().all(|failure| failure.starts_with("module")));
        }
    }

    #[test]
    fn complaints_of_the_kernel() {
        assert!(complaints("[    1.0] random: crng init done\r\n").is_empty());
        let warning = "[   12.3] WARNING: CPU: 1 PID: 9 at net/core/sock.c:1\r\n Call Trace:\r\n";
        assert_eq!(complaints(warning), ["[   12.3] WARNING: CPU: 1 PID: 9 at net/core/sock.c:1"]);
        assert_eq!(complaints("x\n Call Trace:\n"), [" Call Trace:"]);
    }

    #[test]
    fn one_complaint_is_known_by_its_trace() {
        let warning =
            "[1] WARNING: CPU: 1 PID: 52 at net/ipv4/af_inet.c:154 inet_sock_destruct+0x184/0x1b0";
        let of = |function| {
            format!(
                "x\n{warning}\n Call Trace:\n {function}+0x7f/0x340\n---[ end trace 0 ]---\nsk_psock_destroy\n"
            )
        };
        assert!(is_known(&of("sk_psock_destroy"), warning));
        assert!(!is_known(&of("tcp_close"), warning));
        let other = of("sk_psock_destroy").replace("inet_sock_destruct", "sk_stream_kill_queues");
        assert!(!is_known(&other, complaints(&other)[0].as_str()));
    }
}
