//! docs/benchmarks.md and what it shows, from a run.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    plot,
    results::{Measured, Results},
    subjects::Role,
    table::{self, figure, percent},
};

/// The page, below the repository's root, and the directory of what it shows.
const PAGE: &str = "docs/benchmarks.md";
const DIRECTORY: &str = "docs/benchmarks";

/// Writes page, charts and results below `root`.
///
/// # Errors
/// The file system's, or the drawing library's.
pub(crate) fn write(results: &Results, root: &Path) -> Result<()> {
    let directory = root.join(DIRECTORY);
    fs::create_dir_all(&directory)?;
    remove_old_charts(&directory)?;
    results.save(&directory.join("results.json"))?;
    for work in &results.works {
        let path = directory.join(format!("{}.svg", work.name));
        fs::write(&path, plot::bars(results, work)?).with_context(|| path.display().to_string())?;
    }
    let page = root.join(PAGE);
    fs::write(&page, text(results)).with_context(|| page.display().to_string())
}

/// Those of works that are no longer measured.
fn remove_old_charts(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "svg") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The page.
pub(crate) fn text(results: &Results) -> String {
    let mut page = String::from(
        "<!-- Written by `cargo xtask bench --write-docs`. Changes made by hand are lost. -->\n\
         # Benchmarks\n\
         mux against direct access and against other multiplexers, all on one machine, with the load generator and the servers on it, too. \
         What each of them is good at, and what not.\n\n",
    );
    page.push_str("## At a glance\nMultiples of direct access's rate. `n/a`: cannot do it. For idle flows: memory of a flow.\n\n");
    page.push_str(&table::summary(results));
    page.push_str(&losses(results));
    page.push_str(&subjects(results));
    page.push_str(&method(results));
    page.push_str("\n## Works\n");
    for work in &results.works {
        page.push_str(&section(results, work));
    }
    page.push_str(
        "\n## Repeat it\n```\ncargo xtask bench                # all of it; as root, on a quiet machine\n\
         cargo xtask bench --quick        # a part of it, in two minutes\n\
         cargo xtask bench --list         # works and subjects\n\
         cargo xtask bench --only http-keep-32 --subjects direct,mux,haproxy\n\
         cargo xtask bench --compare docs/benchmarks/results.json\n```\n\
         Every round is in [results.json](benchmarks/results.json).\n",
    );
    page
}

/// Where mux as it comes is not the best.
fn losses(results: &Results) -> String {
    let mut lines = String::new();
    for work in &results.works {
        let Some(mux) = work.cells.iter().find(|cell| cell.subject == "mux") else { continue };
        let Some(peer) = results.best_peer(work) else { continue };
        let values = work.headline(mux).zip(work.headline(peer));
        let Some((ours, theirs)) = values.filter(|(ours, theirs)| work.is_better(*theirs, *ours))
        else {
            continue;
        };
        let ratio = work.ratio(mux, peer).unwrap_or(ours / theirs);
        lines.push_str(&format!(
            "- [{0}](#{0}): {1} of `{2}` ({3} against {4})\n",
            work.name,
            percent(ratio),
            peer.subject,
            figure(ours),
            figure(theirs)
        ));
    }
    if lines.is_empty() {
        lines.push_str("Nowhere in this run.\n");
    }
    format!(
        "\n## Where another one is better\n`mux`, as it comes, against the best of the others:\n{lines}"
    )
}

fn subjects(results: &Results) -> String {
    let mut text = String::from(
        "\n## Who\nAll are Debian's packages with configurations that are \
         [in the repository](../xtask/src/bench/configs): as many workers as processors, TCP_NODELAY where it can be set, \
         no logs, the same rules where a subject can express them.\n\n",
    );
    for about in &results.subjects {
        text.push_str(&format!("- `{}`: {}\n", about.name, about.about));
    }
    text
}

fn method(results: &Results) -> String {
    let settings = &results.settings;
    let here = &results.environment;
    let namespace = if here.namespace {
        "in a network namespace of its own, without the host's firewall"
    } else {
        "in the host's network namespace, with its firewall"
    };
    let machine = if here.virtualised { "virtual machine" } else { "machine" };
    let stolen = all_rounds(results).map(|round| round.stolen).fold(0.0, f64::max);
    let void: u32 = all_rounds(results).map(|round| round.void).sum();
    let background = results.works.iter().map(|work| work.background).fold(0.0, f64::max);
    let kernel_settings: Vec<String> =
        here.settings.iter().map(|(name, value)| format!("`{name} = {value}`")).collect();
    format!(
        "\n## How\n\
         - {date}, mux's source at {commit}, {kernel}, {distribution}, {machine} with {processors} × {processor}, {memory} MiB; {namespace}. {kernel_settings}.\n\
         - {rounds} rounds. In each, every subject has its turn, and the order changes from round to round. Each is started anew, warmed up for {warm_up} s, and measured for {seconds} s. \
         Figures are medians over the rounds; ratios are medians of the ratios of each round; ± is half the distance between the best and the worst round.\n\
         - The load generator is a closed loop: a connection asks again when it has its answer. It has {load} thread(s), the server {backend}, each subject {workers} workers where it has such a setting. They share the processors: \
         what a subject needs, the other two lack. So CPU time for each unit of work says more than the rate where the processors are all busy.\n\
         - Every answer's length is checked, and its first and last bytes. One error voids a round; it is repeated at most twice, then reported as failed. {void} attempt(s) were void.\n\
         - CPU, machine: what the whole machine was busy, without what it was before (at most {background:.1} % of a processor), for each unit; with generator, server, interrupts and the kernel's own threads. \
         CPU, own: what the kernel accounts to the subject's processes; processes that have ended (`sslh-fork`) are missing. The kernel relay's work is the kernel's own, so compare the machine's.\n\
         - Memory is that of the subject's processes when all connections are open (PSS). Sockets and their buffers are the kernel's; for idle flows the machine's column has them, with those of generator and server.\n\
         - At most {stolen:.1} % of a round was given to other virtual machines.\n",
        date = here.date,
        commit = here.commit,
        kernel = here.kernel,
        distribution = here.distribution,
        processors = here.processors,
        processor = here.processor,
        memory = here.memory_mib,
        kernel_settings = kernel_settings.join(", "),
        rounds = settings.rounds,
        warm_up = settings.warm_up,
        seconds = settings.seconds,
        load = settings.load_threads,
        backend = settings.backend_threads,
        workers = settings.workers,
        background = 100.0 * background,
        stolen = 100.0 * stolen,
    )
}

fn all_rounds(results: &Results) -> impl Iterator<Item = &super::results::Round> {
    results.works.iter().flat_map(|work| &work.cells).flat_map(|cell| &cell.rounds)
}

fn section(results: &Results, work: &Measured) -> String {
    let first_letter = work.about.chars().next().into_iter().flat_map(char::to_uppercase);
    let about: String = first_letter.chain(work.about.chars().skip(1)).collect();
    let note = if has_peer(results, work, "nginx") && !work.name.contains("sni") {
        " nginx cannot tell these clients from others, only TLS from the rest; it is given a port of its own for them."
    } else {
        ""
    };
    format!(
        "\n### {name}\n{about}.{note}\n\n![{name}](benchmarks/{name}.svg)\n\n{table}",
        name = work.name,
        table = table::work(results, work)
    )
}

fn has_peer(results: &Results, work: &Measured, name: &str) -> bool {
    results.role(name) == Role::Peer && work.cells.iter().any(|cell| cell.subject == name)
}

#[cfg(test)]
mod tests {
    use super::{super::results::example, *};

    #[test]
    fn the_page_shows_every_work_and_where_mux_loses() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(DIRECTORY)).unwrap();
        let old = root.path().join(DIRECTORY).join("gone.svg");
        fs::write(&old, "").unwrap();
        write(&example::results(), root.path()).unwrap();
        assert!(!old.exists());
        let page = fs::read_to_string(root.path().join(PAGE)).unwrap();
        assert!(
            page.contains(
                "- [http-keep-1](#http-keep-1): 93 % of `haproxy` (45,000 against 50,000)"
            )
        );
        assert!(page.contains("### http-keep-1\nHTTP, keep-alive, 1 connection."));
        assert!(page.contains("failed: connection reset (1)"));
        for link in page.split("](benchmarks/").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(root.path().join(DIRECTORY).join(link).is_file(), "{link}");
        }
    }

    #[test]
    fn a_run_without_losses_says_so() {
        let mut results = example::results();
        results.works[0].cells[1].rounds.iter_mut().for_each(|round| round.rate *= 2.0);
        assert!(text(&results).contains("Nowhere in this run."));
    }
}
