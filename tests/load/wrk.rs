//! wrk at full load over reloads and upgrades, with nginx behind mux: no request fails, and
//! connections that were there before are the same ones afterwards. What wrk says is printed
//! (`--nocapture`).

use std::{
    net::SocketAddr,
    process::Command,
    str,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use mux_tests::{
    Conn, Need, Process, Starter,
    admin::AdminSocket,
    eventually, eventually_true, need,
    peers::{Certificate, Nginx},
    procfs::Proc,
};
use rustix::process::{Pid, Signal, kill_process};

const RELOADS: usize = 20;
const UPGRADES: usize = 5;
/// Requests that are answered between one order and the next.
const BETWEEN: u64 = 500;
/// Connections that are open before, and are asked now and then. As many as one core lets into the
/// kernel at once (`MOST_BUSY`).
const HELD: usize = 3;
/// Enough for a flow to go to the kernel: `PROMOTE_MESSAGES`, and some.
const BEFORE: usize = 20;

/// One load at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A connection that stays.
struct Held {
    client: Conn,
    /// nginx's number of it.
    number: String,
}

impl Held {
    fn new(address: SocketAddr) -> Result<Self> {
        let client = Conn::tcp(address)?;
        let number = get(&client, "/connection")?;
        let held = Self { client, number };
        (0..BEFORE).try_for_each(|_| held.is_the_same())?;
        Ok(held)
    }

    fn is_the_same(&self) -> Result<()> {
        let now = get(&self.client, "/connection")?;
        ensure!(now == self.number, "connection {} is now {now}", self.number);
        Ok(())
    }
}

/// A request over a connection that stays open.
fn get(client: &Conn, path: &str) -> Result<String> {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.exact::<1>()?);
    }
    let head = str::from_utf8(&head)?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length = length.with_context(|| head.to_owned())?.parse()?;
    Ok(String::from_utf8(client.bytes(length)?)?)
}

/// How many requests nginx has had, by itself.
fn requests(nginx: &Nginx) -> Result<u64> {
    let page = get(&Conn::tcp(nginx.http)?, "/status")?;
    let counts = page.lines().nth(2).context(page.clone())?;
    counts.split_whitespace().nth(2).context(page.clone())?.parse().context(page.clone())
}

/// Waits until the load has gone on for a bit.
fn goes_on(nginx: &Nginx, wrk: &mut Process) -> Result<()> {
    let start = requests(nginx)?;
    eventually("the load goes on", || match (wrk.ended(), requests(nginx)) {
        (Ok(None), Ok(now)) => (now >= start + BETWEEN).then_some(Ok(())),
        (ended, now) => Some(Err(anyhow::anyhow!("wrk: {ended:?}, nginx: {now:?}"))),
    })?
}

/// The rules, in two forms between which reloads go back and forth.
fn rules(nginx: &Nginx, admin: &AdminSocket, odd: bool) -> String {
    let (timeout, rule) = if odd { ("4s", "web") } else { ("3s", "http") };
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nsniff_timeout = \"{timeout}\"\n\
         [[rule]]\nname = \"{rule}\"\nmatch = \"http\"\nupstream = \"{}\"\n\
         [log]\naccess = \"json\"\n{}",
        nginx.http,
        admin.rules()
    )
}

fn nobody_notices(fields: &[&str]) -> Result<()> {
    need!(Need::Root);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let nginx = Nginx::start(&Certificate::new()?)?;
    let admin = AdminSocket::new()?;
    let daemon = Starter::new(&rules(&nginx, &admin, false)).start()?;
    let address = daemon.address();
    let held = (0..HELD).map(|_| Held::new(address)).collect::<Result<Vec<_>>>()?;
    let flows = admin.json("/flows?relay=sockmap")?;
    ensure!(flows["flows"].as_array().is_some_and(|flows| flows.len() == HELD), "{flows}");

    let mut command = Command::new("wrk");
    command.args(["--threads", "2", "--connections", "32", "--duration", "300", "--timeout", "20"]);
    command.args(fields.iter().flat_map(|field| ["--header", field]));
    let mut wrk = Process::start(command.arg("--latency").arg(format!("http://{address}/")))?;
    goes_on(&nginx, &mut wrk)?;
    for number in 1..=RELOADS {
        let text = rules(&nginx, &admin, number % 2 == 1);
        std::fs::write(daemon.path("rules.toml"), text)?;
        let said = admin.mux_ok(&["reload"])?;
        ensure!(said.contains(&format!("(generation {})", number + 1)), "{said}");
        goes_on(&nginx, &mut wrk)?;
    }
    held.iter().try_for_each(Held::is_the_same).context("after the reloads")?;
    let mut successors = Vec::new();
    for number in 0..UPGRADES {
        admin.mux_ok(&["upgrade"])?;
        successors.push(daemon.successor(number)?);
        goes_on(&nginx, &mut wrk)?;
    }
    held.iter().try_for_each(Held::is_the_same).context("after the upgrades")?;

    wrk.signal(Signal::INT)?;
    let output = wrk.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("── wrk {fields:?} over {RELOADS} reloads and {UPGRADES} upgrades\n{said}");
    ensure!(output.status.success() && said.contains(" requests in "), "{output:?}");
    // wrk has these lines only if there is something to tell.
    for failure in ["Socket errors", "Non-2xx"] {
        ensure!(!said.contains(failure), "{said}");
    }

    for held in held {
        held.client.finish()?;
        held.client.expect_end()?;
        let access = daemon.access_of(held.client.local()?)?;
        ensure!(access.relay() == "sockmap", "{access:?}");
    }
    let last = successors.last().copied().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    kill_process(last.context("a process id")?, Signal::TERM)?;
    eventually_true("all processes end", || successors.iter().all(|pid| !Proc(*pid).exists()))?;
    daemon.wait()?;
    Ok(())
}

#[test]
fn reloads_and_upgrades_fail_no_request_of_connections_that_stay() -> Result<()> {
    nobody_notices(&[])
}

#[test]
fn reloads_and_upgrades_fail_no_request_of_connections_that_come_and_go() -> Result<()> {
    nobody_notices(&["Connection: close"])
}
