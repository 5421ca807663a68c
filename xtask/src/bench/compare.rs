//! A run against a saved one.

use super::{
    results::{Measured, Results},
    subjects::Role,
    table::{figure, percent},
};

/// What a comparison found.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// A line for each work and relay that both runs have.
    pub(crate) lines: Vec<String>,
    /// Those that are worse by more than is tolerated.
    pub(crate) worse: Vec<String>,
}

/// Compares mux's values. `tolerance` is a part of the saved value.
pub(crate) fn compare(now: &Results, saved: &Results, tolerance: f64) -> Comparison {
    let mut found = Comparison::default();
    for work in &now.works {
        let Some(before) = saved.works.iter().find(|it| it.name == work.name) else { continue };
        for about in now.subjects.iter().filter(|about| about.role == Role::Mux) {
            let Some((old, new)) = values((saved, before), (now, work), &about.name) else {
                continue;
            };
            let ratio = new / old;
            let line = format!(
                "{:16} {:12} {:>10} → {:>10}  {}",
                work.name,
                about.name,
                figure(old),
                figure(new),
                percent(ratio)
            );
            let is_worse =
                if work.memory { ratio > 1.0 + tolerance } else { ratio < 1.0 - tolerance };
            if is_worse {
                found.worse.push(line.clone());
            }
            found.lines.push(line);
        }
    }
    found
}

/// A subject's values in two runs: as multiples of direct access's where both runs have that, so
/// that another machine, or a busier one, is not mistaken for another mux.
fn values(
    saved: (&Results, &Measured),
    now: (&Results, &Measured),
    subject: &str,
) -> Option<(f64, f64)> {
    let of_direct = |(results, work): (&Results, &Measured)| {
        let cell = work.cells.iter().find(|cell| cell.subject == subject)?;
        work.ratio(cell, results.direct(work)?)
    };
    let plain = |(_, work): (&Results, &Measured)| {
        work.headline(work.cells.iter().find(|cell| cell.subject == subject)?)
    };
    of_direct(saved).zip(of_direct(now)).or_else(|| plain(saved).zip(plain(now)))
}

#[cfg(test)]
mod tests {
    use super::{super::results::example, *};

    #[test]
    fn a_slower_machine_is_not_a_slower_mux() {
        let saved = example::results();
        let mut now = example::results();
        for cell in &mut now.works[0].cells {
            cell.rounds.iter_mut().for_each(|round| round.rate /= 3.0);
        }
        let found = compare(&now, &saved, 0.05);
        assert_eq!((found.lines.len(), found.worse.len()), (1, 0));
        assert!(found.lines[0].contains("100 %"), "{:?}", found.lines);
    }

    #[test]
    fn a_slower_mux_is_found_beyond_the_tolerance_only() {
        let saved = example::results();
        let mut now = example::results();
        now.works[0].cells[1].rounds.iter_mut().for_each(|round| round.rate *= 0.9);
        assert!(compare(&now, &saved, 0.15).worse.is_empty());
        assert_eq!(compare(&now, &saved, 0.05).worse.len(), 1);
        // Faster is no fault.
        assert!(compare(&saved, &now, 0.05).worse.is_empty());
    }

    #[test]
    fn more_memory_is_worse_and_without_direct_access_values_are_compared_as_they_are() {
        let [mut saved, mut now] = [example::results(), example::results()];
        for results in [&mut saved, &mut now] {
            results.works[0].memory = true;
            results.works[0].cells.remove(0);
        }
        let grow = |round: &mut super::super::results::Round| {
            round.flow_kib = round.flow_kib.map(|kib| 2.0 * kib);
        };
        now.works[0].cells[0].rounds.iter_mut().for_each(grow);
        assert_eq!(compare(&now, &saved, 0.5).worse.len(), 1);
    }

    #[test]
    fn what_one_of_the_runs_lacks_is_not_compared() {
        let saved = example::results();
        let mut now = example::results();
        now.works[0].name = "another".to_owned();
        assert!(compare(&now, &saved, 0.1).lines.is_empty());
    }
}
