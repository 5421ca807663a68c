//! The text of a page.

use std::{
    collections::HashMap,
    fmt::{Display, Write as _},
};

use super::families::{Family, Kind};
use crate::account::totals::Distribution;

/// Of [`Page::finish`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The counters of the page before. A counter never goes back, whatever its sources do: a flow that
/// ended while a core looked at its table is missing on that page, and bytes of a reset flow are
/// found not to have arrived.
#[derive(Debug, Default)]
pub(crate) struct Memory(HashMap<String, Number>);

/// A value of a sample.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) enum Number {
    /// A count.
    Whole(u64),
    /// A time.
    Real(f64),
}

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
        }
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

/// A page that is being written. Samples may come in any order.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Lines of each family, in the order of [`Family::ALL`].
    families: Vec<Vec<Line>>,
}

#[derive(Debug)]
struct Line {
    /// Name and labels.
    series: String,
    value: Number,
    /// Whether it must not go back.
    counts: bool,
}

impl Page {
    /// An empty page.
    pub(super) fn new() -> Self {
        Self { families: Family::ALL.iter().map(|_| Vec::new()).collect() }
    }

    /// Adds a sample of a counter, a gauge or an info, with the values of the family's labels.
    pub(super) fn add(&mut self, family: Family, labels: &[&str], value: impl Into<Number>) {
        let (suffix, counts) = match family.kind() {
            Kind::Counter => ("_total", true),
            Kind::Info => ("_info", false),
            Kind::Gauge | Kind::Histogram => ("", false),
        };
        let series = series(family, suffix, labels, None);
        self.push(family, Line { series, value: value.into(), counts });
    }

    /// Adds a histogram.
    pub(super) fn histogram(&mut self, family: Family, seen: &Distribution) {
        let mut so_far = 0;
        for (bound, count) in &seen.buckets {
            so_far += count;
            let bound = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".into() };
            let series = series(family, "_bucket", &[], Some(&bound));
            self.push(family, Line { series, value: so_far.into(), counts: true });
        }
        let all = [("_count", Number::Whole(so_far)), ("_sum", Number::Real(seen.sum))];
        for (suffix, value) in all {
            let series = series(family, suffix, &[], None);
            self.push(family, Line { series, value, counts: true });
        }
    }

    fn push(&mut self, family: Family, line: Line) {
        if let Some(lines) = self.families.get_mut(family as usize) {
            lines.push(line);
        }
    }

    /// The text. Families without samples are left out.
    pub(super) fn finish(self, memory: &mut Memory) -> String {
        let mut text = String::new();
        let mut counted = HashMap::new();
        for (family, lines) in Family::ALL.iter().zip(self.families) {
            if lines.is_empty() {
                continue;
            }
            head(&mut text, *family);
            for Line { series, mut value, counts } in lines {
                if counts {
                    if let Some(&before) = memory.0.get(&series)
                        && before > value
                    {
                        value = before;
                    }
                    counted.insert(series.clone(), value);
                }
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{series} {value}");
            }
        }
        *memory = Memory(counted);
        text.push_str("# EOF\n");
        text
    }
}

fn head(text: &mut String, family: Family) {
    let name = family.name();
    let _ = writeln!(text, "# TYPE {name} {}", family.kind().name());
    if let Some(unit) = family.unit() {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
    let _ = writeln!(text, "# HELP {name} {}", escaped(family.help()));
}

fn series(family: Family, suffix: &str, labels: &[&str], bound: Option<&str>) -> String {
    let mut text = format!("{}{suffix}", family.name());
    let names = family.labels().iter().copied();
    let labels = names.zip(labels.iter().copied()).chain(bound.map(|bound| ("le", bound)));
    let mut before = '{';
    for (name, value) in labels {
        let _ = write!(text, "{before}{name}=\"{}\"", escaped(value));
        before = ',';
    }
    if before == ',' {
        text.push('}');
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_families_with_their_samples_and_an_end() {
        let mut page = Page::new();
        page.add(Family::Flows, &["we\"b\\\n", "u", "copy"], 3);
        page.add(Family::Connections, &[], 7);
        let text = page.finish(&mut Memory::default());
        assert!(text.contains("\nmux_connections 7\n"), "{text}");
        let flow = "mux_flows_total{rule=\"we\\\"b\\\\\\n\",upstream=\"u\",relay=\"copy\"} 3\n";
        assert!(text.contains(flow), "{text}");
        assert!(text.ends_with("\n# EOF\n") && !text.contains("mux_bytes"), "{text}");
    }

    #[test]
    fn a_counter_never_goes_back() {
        let mut memory = Memory::default();
        let mut value = |count: u64| {
            let mut page = Page::new();
            page.add(Family::Requests, &[], count);
            page.add(Family::Connections, &[], count);
            page.finish(&mut memory)
        };
        assert!(value(5).contains("mux_admin_requests_total 5\n"));
        let page = value(4);
        assert!(page.contains("mux_admin_requests_total 5\n"), "{page}");
        assert!(page.contains("mux_connections 4\n"), "{page}");
        assert!(value(6).contains("mux_admin_requests_total 6\n"));
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let mut page = Page::new();
        let seen = Distribution { buckets: vec![(0.5, 2), (1.0, 0), (f64::INFINITY, 1)], sum: 2.5 };
        page.histogram(Family::SniffSeconds, &seen);
        let text = page.finish(&mut Memory::default());
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "mux_sniff_seconds_bucket{le=\"0.5\"} 2",
                "mux_sniff_seconds_bucket{le=\"1.0\"} 2",
                "mux_sniff_seconds_bucket{le=\"+Inf\"} 3",
                "mux_sniff_seconds_count 3",
                "mux_sniff_seconds_sum 2.5",
            ]
        );
    }
}
