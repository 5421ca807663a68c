//! Tables in Markdown, which a terminal shows well enough, too.

use super::{
    results::{Cell, Measured, Results, Trouble},
    subjects::Role,
};

/// What stands where there is nothing to say.
const NOTHING: &str = "";

/// A work's table: a line a subject.
pub(crate) fn work(results: &Results, work: &Measured) -> String {
    let head: &[&str] = if work.memory { &MEMORY_HEAD } else { &RATE_HEAD };
    let (one, many) = &work.unit;
    let head: Vec<String> =
        head.iter().map(|title| title.replace("{one}", one).replace("{many}", many)).collect();
    let rows: Vec<Vec<String>> = work
        .cells
        .iter()
        .map(|cell| {
            let mut row = vec![format!("`{}`", cell.subject)];
            match &cell.trouble {
                Some(trouble) => {
                    row.push(said(trouble));
                    row.resize(head.len(), NOTHING.to_owned());
                }
                None if work.memory => row.extend(memory(results, work, cell)),
                None => row.extend(rate(results, work, cell)),
            }
            row
        })
        .collect();
    render(&head, &rows)
}

/// Every work in a line: each subject's value as a multiple of direct access's, or of the best
/// peer's where direct access has none.
pub(crate) fn summary(results: &Results) -> String {
    let shown: Vec<&str> = results
        .subjects
        .iter()
        .filter(|about| about.role != Role::Direct)
        .map(|about| about.name.as_str())
        .collect();
    let mut head = vec!["work".to_owned()];
    head.extend(shown.iter().map(|name| format!("`{name}`")));
    let rows: Vec<Vec<String>> = results
        .works
        .iter()
        .map(|work| {
            let heading = results.settings.network.prefixed(&work.name);
            let mut row = vec![format!("[{}](#{heading})", work.name)];
            row.extend(shown.iter().map(|name| in_summary(results, work, name)));
            row
        })
        .collect();
    render(&head, &rows)
}

/// Which share of the flows the packet relay had, where somebody looked.
pub(crate) fn packet_shares(results: &Results) -> Option<String> {
    let cells = results.works.iter().flat_map(|work| work.cells.iter().map(move |it| (work, it)));
    let shares: Vec<String> = cells
        .filter_map(|(work, cell)| {
            let share = cell.median(|round| round.packet_share)?;
            Some(format!("{} {}", work.name, exactly(share)))
        })
        .collect();
    let of = "Share of flows that the packet relay has after a second";
    (!shares.is_empty()).then(|| format!("{of}: {}.", shares.join(", ")))
}

fn in_summary(results: &Results, work: &Measured, subject: &str) -> String {
    let Some(cell) = work.cells.iter().find(|cell| cell.subject == subject) else {
        return NOTHING.to_owned();
    };
    match &cell.trouble {
        Some(Trouble::Cannot(_)) => return "n/a".to_owned(),
        Some(Trouble::Failed(_)) => return "failed".to_owned(),
        None => {}
    }
    if work.memory {
        return work.headline(cell).map_or_else(String::new, |kib| format!("{} KiB", figure(kib)));
    }
    let ratio = results.direct(work).and_then(|direct| work.ratio(cell, direct));
    ratio.map_or_else(String::new, percent)
}

const RATE_HEAD: [&str; 10] = [
    "subject",
    "{many}/s",
    "±",
    "of direct",
    "of best peer",
    "of copy",
    "p50 / p99 µs",
    "CPU µs/{one}, machine",
    "own",
    "memory MiB",
];

fn rate(results: &Results, work: &Measured, cell: &Cell) -> Vec<String> {
    let latency = cell
        .median(|it| it.latency.map(|it| it.p50))
        .zip(cell.median(|it| it.latency.map(|it| it.p99)));
    vec![
        optional(cell.median(|it| Some(it.rate)), figure),
        optional(cell.spread(|it| Some(it.rate)).map(|spread| spread / 2.0), percent),
        ratio(work, cell, results.direct(work)),
        ratio(work, cell, results.best_peer(work)),
        ratio(work, cell, work.cell("mux-copy")),
        optional(latency, |(p50, p99)| format!("{} / {}", figure(p50), figure(p99))),
        optional(cell.median(|it| Some(1e6 * it.machine_cpu / it.rate)), figure),
        optional(cell.median(|it| Some(1e6 * it.own_cpu? / it.rate)), figure),
        optional(cell.median(|it| it.proportional_kib).map(|kib| kib / 1024.0), figure),
    ]
}

const MEMORY_HEAD: [&str; 7] =
    ["subject", "KiB/{one}", "±", "of best peer", "KiB/{one}, machine", "CPU ms/s, machine", "own"];

fn memory(results: &Results, work: &Measured, cell: &Cell) -> Vec<String> {
    vec![
        optional(cell.median(|it| it.flow_kib), figure),
        optional(cell.spread(|it| it.flow_kib).map(|spread| spread / 2.0), percent),
        ratio(work, cell, results.best_peer(work)),
        optional(cell.median(|it| it.growth_kib), figure),
        optional(cell.median(|it| Some(it.machine_flow_kib)), figure),
        optional(cell.median(|it| Some(1e3 * it.machine_cpu)), figure),
        optional(cell.median(|it| Some(1e3 * it.own_cpu?)), figure),
    ]
}

fn ratio(work: &Measured, cell: &Cell, other: Option<&Cell>) -> String {
    optional(other.and_then(|other| work.ratio(cell, other)), percent)
}

fn optional<T>(value: Option<T>, shown: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), shown)
}

fn said(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Cannot(why) => format!("n/a: {}", in_cell(why)),
        Trouble::Failed(why) => format!("failed: {}", in_cell(why)),
    }
}

/// Text that does not end its cell.
fn in_cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Three significant digits, thousands set apart.
pub(crate) fn figure(value: f64) -> String {
    let digits = match value.abs() {
        0.0 | 100.0.. => 0,
        10.0..100.0 => 1,
        1.0..10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let after = whole.len() - index;
        if index > 0 && after.is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    rest.map_or(grouped.clone(), |rest| format!("{grouped}.{rest}"))
}

/// A ratio as a percentage.
pub(crate) fn percent(ratio: f64) -> String {
    let percent = 100.0 * ratio;
    if percent < 9.95 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// A ratio of which it matters how little it is short of all.
pub(crate) fn exactly(ratio: f64) -> String {
    // Never 100 % for what is less.
    format!("{:.1} %", (1000.0 * ratio).floor() / 10.0)
}

/// A table with its columns below each other.
pub(crate) fn render(head: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        std::iter::once(head)
            .chain(rows.iter().map(Vec::as_slice))
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(column, &width)| {
            // Figures to the right, the first column to the left.
            if column == 0 { "-".repeat(width.max(3)) } else { "-".repeat(width.max(3) - 1) + ":" }
        })
        .collect();
    let mut text = line(head);
    text.push_str(&line(&rule));
    rows.iter().for_each(|row| text.push_str(&line(row)));
    text
}

#[cfg(test)]
mod tests {
    use super::{super::results::example, *};

    #[test]
    fn figures_have_three_digits() {
        let shown = [1_234_567.8, 999.6, 45.678, 1.0, 0.01234, 0.0, -1234.0].map(figure);
        assert_eq!(shown, ["1,234,568", "1,000", "45.7", "1.00", "0.012", "0", "-1,234"]);
        assert_eq!([1.5, 0.0456, 0.1].map(percent), ["150 %", "4.6 %", "10 %"]);
        assert_eq!([1.0, 0.9999, 0.96875].map(exactly), ["100.0 %", "99.9 %", "96.8 %"]);
    }

    #[test]
    fn a_works_table_has_all_subjects_and_says_why_one_has_no_figures() {
        let results = example::results();
        let text = work(&results, &results.works[0]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        assert!(lines[0].contains("requests/s") && lines[0].contains("CPU µs/request"));
        let mux = lines[3];
        assert!(mux.contains("`mux`") && mux.contains("45,000"), "{mux}");
        // Of direct access 75 % in each round, though it slowed down in the second; of HAProxy 93 %.
        assert!(mux.contains("75 %") && mux.contains("93 %"), "{mux}");
        assert!(
            mux.contains("15.0 / 30.0") && mux.contains("33.3") && mux.contains("11.1"),
            "{mux}"
        );
        assert!(lines[5].contains("failed: connection reset (1)"));
        assert!(lines[6].contains("n/a: no Unix sockets"));
        let bars: Vec<usize> = lines.iter().map(|line| line.matches('|').count()).collect();
        assert!(bars.iter().all(|count| *count == bars[0]), "{text}");
    }

    #[test]
    fn the_summary_compares_with_direct_access() {
        let text = summary(&example::results());
        let line = text.lines().nth(2).unwrap();
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells, ["[http-keep-1](#http-keep-1)", "75 %", "83 %", "failed", "n/a"]);
    }

    #[test]
    fn memory_is_shown_as_memory() {
        let mut results = example::results();
        results.works[0].memory = true;
        let text = work(&results, &results.works[0]);
        assert!(text.contains("KiB/request"), "{text}");
        assert!(summary(&results).contains("45.0 KiB"));
    }

    #[test]
    fn a_reason_with_a_bar_stays_in_its_cell() {
        assert_eq!(said(&Trouble::Failed("a | b\nc".to_owned())), "failed: a \\| b c");
    }
}
