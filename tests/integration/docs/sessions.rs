//! The sessions of the documentation print what the pages say.
//!
//! In a block `console run`, each line after `$ ` or `# ` is a command, and the lines up to the next are
//! all that it prints; `same` says what may differ. In a block `sh run` every line is one, and none may
//! fail. A block is one shell, in the repository's root, with namespaces of its own: it can use any
//! port, write into `/etc`, `/run` and the repository, and what it starts ends with it. Needs root.
//!
//! A command that ends with `&`, or is the daemon in the foreground, goes on; it has printed all once it
//! has said ` INFO ready`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use mux_tests::{Need, mux, need, repository, run};

use super::{
    page::{Block, Mark, Page, pages},
    same::same,
};

/// Writes what is printed into the pages instead, where it differs.
const BLESS: &str = "MUX_TESTS_BLESS";

/// What is there before the first command: names for `with=`, and shell commands.
const BEFORE: [(&str, &str); 6] = [
    // mux with the repository's rules.
    ("first-run", "serve rules.toml"),
    // mux with the package's rules.
    ("daemon", "cp packaging/debian/rules.toml /etc/mux/rules.toml; serve /etc/mux/rules.toml"),
    // Rules that name a server on 4510.
    (
        "echo",
        r#"cat >/etc/mux/rules.toml <<'EOF'
listen = "127.0.0.1:3000"

[[rule]]
name = "web"
match = "http"
upstream = "builtin:whoami"

[[rule]]
name = "echo"
match = { prefix = "echo" }
upstream = 4510
EOF
        "#,
    ),
    // One conversation of 100 messages.
    ("conversation", "edge; talk say 3443 100; wait_for finished /run/mux/access.log"),
    // Three that go on.
    (
        "conversations",
        "edge; talk talk 3443 100 200 300 >/run/session/said & wait_for said /run/session/said",
    ),
    ("sslh", "cp tests/integration/docs/sslh.cfg /etc/sslh/sslh.cfg"),
];

/// Functions of every session.
const PRELUDE: &str = r#"
    wait_for() {
        for _ in $(seq 400); do grep -qs -- "$1" "$2" && return; sleep 0.05; done
        echo "no $1 in $2:"; cat "$2"
        exit 1
    }
    talk() { python3 tests/integration/docs/talk.py "$@"; }
    serve() { mux --rules "$1" >/dev/null 2>/run/session/log & wait_for ' INFO ready' /run/session/log; }
    # Two servers, of which one is down.
    edge() {
        cat >/etc/mux/edge.toml <<'EOF'
[[listener]]
name = "edge"
address = "127.0.0.1:3443"
[[rule]]
name = "echo"
match = { prefix = "0" }
upstream = "echo"
[[rule]]
name = "web"
match = "http"
upstream = "builtin:whoami"
[[upstream]]
name = "echo"
endpoints = [4510, 4511]
[log]
access_file = "/run/mux/access.log"
[admin]
socket = "/run/mux/admin.sock"
EOF
        install -m 666 /dev/null /run/mux/access.log
        talk echo 4510 >/run/session/echo &
        wait_for listening /run/session/echo
        serve /etc/mux/edge.toml
    }
    ip link set lo up
    mount -t tmpfs tmpfs /run
    for directory in /etc "$PWD"; do
        layer=/run/layers$directory
        mkdir -p "$layer/upper" "$layer/work"
        mount -t overlay -o "lowerdir=$directory,upperdir=$layer/upper,workdir=$layer/work" none "$directory"
    done
    cd "$PWD"
    mkdir -p /run/session /run/mux /etc/mux /etc/sslh
    # On a terminal it shows no progress where there is none to speak of.
    echo silent >/run/session/.curlrc
    export CURL_HOME=/run/session
    ulimit -n 20000
"#;
/// Before what each command prints.
const MARK: &str = "\u{1e}session\u{1e}";

#[test]
fn documented_sessions_print_what_the_pages_say() -> Result<()> {
    need!(Need::Root);
    let bless = env::var_os(BLESS).is_some();
    let mut wrong = Vec::new();
    for page in pages()? {
        let mut text = page.text.clone();
        let mut above = String::new();
        for block in page.blocks()? {
            if block.language() == "toml" {
                above.clone_from(&block.text);
            }
            let Mark::Run { with, above: path } = block.mark() else { continue };
            let files: Vec<(&str, &str)> =
                path.iter().map(|path| (path.as_str(), above.as_str())).collect();
            let at = page.at(block.line);
            let actual = rerun(&block, with.as_deref(), &files).with_context(|| at.clone())?;
            if same(&block.text, &actual) {
                continue;
            }
            if bless {
                let (old, new) = (indented(&block, &block.text), indented(&block, &actual));
                text = text.replacen(&old, &new, 1);
            } else {
                wrong.push(format!("{at}: it prints\n{actual}"));
            }
        }
        if text != page.text {
            fs::write(&page.path, &text)?;
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn indented(block: &Block, text: &str) -> String {
    let margin = " ".repeat(block.indent);
    text.lines().map(|line| format!("{}\n", format!("{margin}{line}").trim_end())).collect()
}

/// The block with what its commands print now.
fn rerun(block: &Block, with: Option<&str>, files: &[(&str, &str)]) -> Result<String> {
    let commands: Vec<&str> = match block.language() {
        "console" => block.text.lines().filter(|line| command(line).is_some()).collect(),
        _ => Vec::new(),
    };
    let mut script = format!("{PRELUDE}\n");
    for (path, text) in files {
        script += &format!("cat >{path} <<'MUX_FILE_END'\n{text}MUX_FILE_END\n");
    }
    if let Some(name) = with {
        let found = BEFORE.iter().find(|(known, _)| *known == name);
        script += found.with_context(|| format!("what is `with={name}`?"))?.1;
        script.push('\n');
    }
    if commands.is_empty() {
        script += &format!("set -e\n{}", block.text);
        let (output, succeeded) = shell(&script)?;
        ensure!(succeeded, "it fails:\n{output}");
        return Ok(block.text.clone());
    }
    for line in &commands {
        let command = with_ids(command(line).unwrap_or_default(), &block.text);
        script += &format!("printf '\\n{MARK}\\n'\n{}\n", step(&command));
    }
    let (output, _) = shell(&script)?;
    let mark = format!("\n{MARK}\n");
    let mut printed = output.split(&mark);
    let before = printed.next().unwrap_or_default();
    ensure!(before.trim().is_empty(), "before its first command: {before}");
    let mut text = String::new();
    for line in commands {
        let Some(printed) = printed.next() else { bail!("it ends before `{line}`:\n{text}") };
        text += &format!("{line}\n{printed}");
        if !printed.is_empty() && !printed.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(with_new_ids(&text, &block.text))
}

/// What a line tells the shell to do.
fn command(line: &str) -> Option<&str> {
    line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "))
}

/// A command with the ids of flows that there are, for those on the page: the first one on the page is
/// the first one that `mux flows` lists.
fn with_ids(command: &str, page: &str) -> String {
    ids(page).iter().zip(2..).fold(command.to_owned(), |command, (id, row)| {
        command.replace(id, &format!("$(mux flows | awk 'NR == {row} {{ print $1 }}')"))
    })
}

/// The ids of flows in what is printed, in order, each once.
fn ids(text: &str) -> Vec<&str> {
    let is_id = |word: &&str| word.len() == 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let mut ids: Vec<&str> = Vec::new();
    let printed = text.lines().filter(|line| command(line).is_none());
    for id in printed.flat_map(str::split_whitespace).filter(is_id) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// What was printed, with its ids in the commands, too, where they still are the page's.
fn with_new_ids(text: &str, page: &str) -> String {
    let renamed: Vec<(&str, &str)> = ids(page).into_iter().zip(ids(text)).collect();
    let rename = |line: &str| match command(line) {
        Some(_) => renamed.iter().fold(line.to_owned(), |line, (old, new)| line.replace(old, new)),
        None => line.to_owned(),
    };
    text.lines().map(|line| rename(line) + "\n").collect()
}

/// A command, as the script has it.
fn step(command: &str) -> String {
    let goes_on = command.strip_suffix(" &");
    let goes_on = goes_on.or_else(|| command.starts_with("mux --rules").then_some(command));
    match goes_on {
        Some(command) => format!(
            "{{ {command}\n}} >/run/session/output 2>&1 &\nwait_for ' INFO ready' /run/session/output; cat /run/session/output"
        ),
        None => format!("{{ {command}\n}} 2>&1"),
    }
}

/// Runs it; all that it prints, and whether it ends well.
fn shell(script: &str) -> Result<(String, bool)> {
    let daemon = mux()?;
    let directory = daemon.parent().unwrap_or(Path::new("/"));
    let path = format!("{}:{}", directory.display(), env::var("PATH").unwrap_or_default());
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", script])
        .env("PATH", path)
        .current_dir(repository());
    let output = run(&mut command)?;
    let text = String::from_utf8([output.stdout, output.stderr].concat());
    Ok((text.context("a session prints something else than text")?, output.status.success()))
}

#[test]
fn commands_have_the_ids_that_were_printed() {
    let (old, new) = ("003f000000000001", "006b000000000001");
    let page = format!("$ mux flows\n{old} up\n$ mux kill {old}\nflow {old} is reset\n");
    let text = format!("$ mux flows\n{new} up\n$ mux kill {old}\nflow {new} is reset\n");
    assert_eq!(with_new_ids(&text, &page), page.replace(old, new));
    assert_eq!(with_ids(&format!("mux kill {old}"), &page).matches("mux flows").count(), 1);
}

/// Every page's sessions are counted once.
#[test]
fn sessions_are_found_in_pages() {
    let text =
        "```console run\n$ true\n```\n   ```console run with=daemon above=/x\n   # false\n   ```\n";
    let page = Page { path: PathBuf::from("x.md"), text: text.to_owned() };
    let blocks = page.blocks().expect("blocks");
    let marks: Vec<Mark> = blocks.iter().map(Block::mark).collect();
    let run = |with: Option<&str>, above: Option<&str>| Mark::Run {
        with: with.map(str::to_owned),
        above: above.map(str::to_owned),
    };
    assert_eq!(marks, [run(None, None), run(Some("daemon"), Some("/x"))]);
    assert_eq!(blocks[1].text, "# false\n");
    assert_eq!(indented(&blocks[1], &blocks[1].text), "   # false\n");
}
