//! docs/benchmarks.md and what it shows, from a run of each network.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    network::Network,
    plot,
    results::{Measured, Results},
    run::QUIET,
    table::{self, figure, percent},
};

/// The page, below the repository's root, and the directory of what it shows.
const PAGE: &str = "docs/benchmarks.md";
const DIRECTORY: &str = "benchmarks";
/// A run, in its network's directory.
const RESULTS: &str = "results.json";

/// Writes page, charts and results below `root`. Those of other networks stay as they are.
///
/// # Errors
/// The file system's, or the drawing library's; what is there of another network cannot be read.
pub(crate) fn write(results: &Results, root: &Path) -> Result<()> {
    let page = root.join(PAGE);
    let docs = page.parent().context("the page's directory")?;
    let network = results.settings.network;
    let own = docs.join(directory(network));
    fs::create_dir_all(&own)?;
    remove_old_charts(&own)?;
    results.save(&own.join(RESULTS))?;
    for work in &results.works {
        let path = own.join(format!("{}.svg", work.name));
        fs::write(&path, plot::bars(results, work)?).with_context(|| path.display().to_string())?;
    }
    let mut runs = Vec::new();
    for other in Network::ALL {
        let saved = docs.join(directory(other)).join(RESULTS);
        if saved.is_file() {
            runs.push(Results::load(&saved)?);
        }
    }
    fs::write(&page, text(&runs)).with_context(|| page.display().to_string())
}

/// Where a network's run and charts are, seen from the page.
fn directory(network: Network) -> PathBuf {
    match network {
        Network::Loopback => DIRECTORY.into(),
        Network::Client | Network::Routed => Path::new(DIRECTORY).join(network.name()),
    }
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

/// The page, of a run of each network that there is one of.
pub(crate) fn text(runs: &[Results]) -> String {
    let mut page = String::from(
        "<!-- Written by `cargo xtask bench --write-docs`. Changes made by hand are lost. -->\n\
         # Benchmarks\n\
         mux against direct access and against other multiplexers, all on one machine, with the load generator and the servers on it, too. \
         What each of them is good at, and what not. Each network is a run of its own; ratios are of one run.\n\n",
    );
    for network in Network::ALL {
        let has_run = runs.iter().any(|results| results.settings.network == network);
        let name = network.name();
        let title =
            if has_run { format!("[{name}](#{name})") } else { format!("{name} (no run yet)") };
        page.push_str(&format!("- {title}: {}.\n", network.about()));
    }
    page.push('\n');
    page.push_str(METHOD);
    for results in runs {
        page.push_str(&run(results));
    }
    page.push_str(
        "\n## Repeat it\n```sh not-run: most of an hour, on a machine that does nothing else\ncargo xtask bench                # all of it; as root, on a quiet machine\n\
         cargo xtask bench --network client  # or routed: with network namespaces of its own\n\
         cargo xtask bench --quick        # a part of it, in two minutes\n\
         cargo xtask bench --list         # works, subjects and networks\n\
         cargo xtask bench --only http-keep-32 --subjects direct,mux,haproxy\n\
         cargo xtask bench --compare docs/benchmarks/results.json\n```\n",
    );
    page
}

/// All of a network's run.
fn run(results: &Results) -> String {
    let network = results.settings.network;
    let mut text = format!("\n## {}\n{}.\n\n", sentence(network.name()), sentence(network.about()));
    text.push_str(&warning(results));
    text.push_str(&format!("### {}\nMultiples of direct access's rate. `n/a`: cannot do it. For idle flows: memory of a flow.\n\n", heading(network, "At a glance")));
    text.push_str(&table::summary(results));
    text.push_str(&losses(results));
    text.push_str(&packet_share(results));
    text.push_str(&subjects(results));
    text.push_str(&circumstances(results));
    for work in &results.works {
        text.push_str(&section(results, work));
    }
    text
}

/// A heading in a network's part, which no other part has.
fn heading(network: Network, title: &str) -> String {
    match network {
        Network::Loopback => title.to_owned(),
        Network::Client | Network::Routed => format!("{title}, {}", network.name()),
    }
}

fn sentence(text: &str) -> String {
    let first_letter = text.chars().next().into_iter().flat_map(char::to_uppercase);
    first_letter.chain(text.chars().skip(1)).collect()
}

/// What holds for every run.
const METHOD: &str = "## How\n\
    - The subjects are Debian's packages with configurations that are \
      [in the repository](../xtask/src/bench/configs): as many workers as processors, TCP_NODELAY where it can be set, \
      no logs, the same rules where a subject can express them. nginx cannot tell one client without TLS from another, so it is given a port of its own for each work.\n\
    - In each round every subject has its turn, and the order changes from round to round. Each is started anew, warmed up, and measured. \
      Figures are medians over the rounds; ratios are medians of the ratios of each round; ± is half the distance between the best and the worst round.\n\
    - The load generator is a closed loop: a connection asks again when it has its answer. Generator, servers and subject share the processors: \
      what a subject needs, the other two lack. So CPU time for each unit of work says more than the rate where the processors are all busy.\n\
    - Every answer's length is checked, and its first and last bytes. One error voids a round; it is repeated at most twice, then reported as failed. A round of which the hypervisor gave more than a fiftieth to others is repeated, too, at most sixty times.\n\
    - CPU, machine: what the whole machine was busy, without what it was before, for each unit; with generator, server, interrupts and the kernel's own threads. \
      CPU, own: what the kernel accounts to the subject's processes; processes that have ended (`sslh-fork`) are missing. The work of the kernel's relays is the kernel's own, so compare the machine's.\n\
    - Memory is that of the subject's processes when all connections are open (PSS). For idle flows it is divided by the flows; growth is what was added to what the subject had after its start. Sockets and their buffers are the kernel's; the machine's column has them, with those of generator and server.\n\
    - `mux-packet` is what the others are not: with `[kernel] packet = \"auto\"`, which is off as mux comes. Its share of flows is that of the packet relay among all flows, \
      a second after each connection had its first answer, under load; connections of the same kind are opened for that after the measured ones.\n";

/// What a reader has to know before the first figure.
fn warning(results: &Results) -> String {
    let background = results.works.iter().map(|work| work.background).fold(0.0, f64::max);
    if background <= QUIET {
        return String::new();
    }
    format!(
        "**The machine was not quiet.** Before one of the works {:.0} % of a processor was busy. Take these figures for an example of what the command prints.\n\n",
        100.0 * background
    )
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
            "- [{0}](#{1}): {2} of `{3}` ({4} against {5})\n",
            work.name,
            results.settings.network.prefixed(&work.name),
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
        "\n### {}\n`mux`, as it comes, against the best of the others:\n{lines}",
        heading(results.settings.network, "Where another one is better")
    )
}

/// Which share of the flows the packet relay had; nothing, where nobody looked.
fn packet_share(results: &Results) -> String {
    let shares = table::packet_shares(results);
    shares.map(|shares| format!("\n{shares}\n")).unwrap_or_default()
}

fn subjects(results: &Results) -> String {
    let title = heading(results.settings.network, "Who");
    let mut text = format!("\n### {title}\n");
    for about in &results.subjects {
        text.push_str(&format!("- `{}`: {}\n", about.name, about.about));
    }
    text
}

/// What this run was made with, and on.
fn circumstances(results: &Results) -> String {
    let settings = &results.settings;
    let here = &results.environment;
    let namespace = if here.namespace {
        "in network namespaces of its own, without the host's firewall"
    } else {
        "in the host's network namespace, with its firewall"
    };
    let machine = if here.virtualised { "virtual machine" } else { "machine" };
    let stolen = all_rounds(results).map(|round| round.stolen).fold(0.0, f64::max);
    let void: u32 = all_rounds(results).map(|round| round.void).sum();
    let background = results.works.iter().map(|work| work.background).fold(0.0, f64::max);
    let again: Vec<&str> =
        results.works.iter().filter(|work| work.again).map(|work| &*work.name).collect();
    let again = if again.is_empty() {
        String::new()
    } else {
        format!("- In a run of their own, after the others: {}.\n", again.join(", "))
    };
    let kernel_settings: Vec<String> =
        here.settings.iter().map(|(name, value)| format!("`{name} = {value}`")).collect();
    format!(
        "\n### {title}\n\
         - {date}, mux's source at {commit}, {kernel}, {distribution}, {machine} with {processors} × {processor}, {memory} MiB; {namespace}. {kernel_settings}.\n\
         - {rounds} rounds, each with {warm_up} s to warm up and {seconds} s that are measured. \
         The load generator has {load} thread(s), the server {backend}, each subject {workers} workers where it has such a setting. \
         {void} attempt(s) before rounds that count were void.\n\
         - Before the works at most {background:.1} % of a processor was busy. At most {stolen:.1} % of a round was given to other virtual machines.\n\
         {again}- Every round is in [{RESULTS}]({results}).\n",
        title = heading(settings.network, "This run"),
        results = directory(settings.network).join(RESULTS).display(),
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
    let network = results.settings.network;
    format!(
        "\n### {title}\n{about}.\n\n![{name}, {network}]({directory}/{name}.svg)\n\n{table}",
        title = network.titled(&work.name),
        about = sentence(&work.about),
        name = work.name,
        network = network.name(),
        directory = directory(network).display(),
        table = table::work(results, work)
    )
}

#[cfg(test)]
mod tests {
    use super::{super::results::example, *};

    #[test]
    fn the_page_shows_every_work_and_where_mux_loses() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("docs/benchmarks")).unwrap();
        let old = root.path().join("docs/benchmarks/gone.svg");
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
        assert!(!page.contains("after the others"));
        has_what_it_shows(&page, root.path());
    }

    fn has_what_it_shows(page: &str, root: &Path) {
        for link in page.split("](benchmarks/").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(root.join("docs/benchmarks").join(link).is_file(), "{link}");
        }
        let headings: Vec<String> = page
            .lines()
            .filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#').trim()))
            .map(|heading| heading.to_lowercase().replace(' ', "-"))
            .collect();
        for link in page.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(headings.iter().any(|heading| heading == link), "{link}: {headings:?}");
        }
        let all: std::collections::BTreeSet<&String> = headings.iter().collect();
        assert_eq!(all.len(), headings.len(), "a heading twice: {headings:?}");
    }

    #[test]
    fn a_run_of_another_network_leaves_the_others_alone() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("docs/benchmarks");
        let page = || fs::read_to_string(root.path().join(PAGE)).unwrap();
        write(&example::results(), root.path()).unwrap();
        let saved = fs::read(directory.join(RESULTS)).unwrap();
        assert!(page().contains("routed (no run yet)"));

        let mut routed = example::results();
        routed.settings.network = Network::Routed;
        routed.works[0].again = true;
        for round in &mut routed.works[0].cells[1].rounds {
            (round.rate, round.packet_share) = (1234.0, Some(0.995));
        }
        write(&routed, root.path()).unwrap();
        assert_eq!(fs::read(directory.join(RESULTS)).unwrap(), saved);
        assert!(directory.join("http-keep-1.svg").is_file());
        let again = Results::load(&directory.join("routed").join(RESULTS)).unwrap();
        assert_eq!(again.settings.network, Network::Routed);
        let text = page();
        let (loopback, rest) = text.split_once("\n## Routed\n").unwrap();
        assert!(loopback.contains("45,000") && !loopback.contains("1,234"), "{loopback}");
        assert!(rest.contains("1,234") && rest.contains("### routed http-keep-1\n"), "{rest}");
        assert!(rest.contains("http-keep-1 99.5 %") && !loopback.contains("http-keep-1 99.5 %"));
        assert!(text.contains("client (no run yet)"));
        assert!(rest.contains("In a run of their own, after the others: http-keep-1."), "{rest}");
        has_what_it_shows(&text, root.path());

        // And the other way round.
        write(&example::results(), root.path()).unwrap();
        assert_eq!(page(), text);
    }

    #[test]
    fn a_busy_machine_is_confessed_at_the_top() {
        let mut results = example::results();
        assert!(!text(std::slice::from_ref(&results)).contains("not quiet"));
        results.works[0].background = 0.5;
        let page = text(&[results]);
        assert!(page.find("not quiet") < page.find("### At a glance"), "{page}");
        assert!(page.contains("50 % of a processor"));
    }

    #[test]
    fn a_run_without_losses_says_so() {
        let mut results = example::results();
        results.works[0].cells[1].rounds.iter_mut().for_each(|round| round.rate *= 2.0);
        assert!(text(&[results]).contains("Nowhere in this run."));
    }
}
