//! An account for people.

use std::{borrow::Cow, fmt, fmt::Write as _, time::Duration};

use crate::{
    route::{
        Why,
        explain::{
            Account, Answer, Difference, Evidence, Fate, Routed, RuleAccount, Silence, Step, Trace,
        },
    },
    rules::config::Config,
};

/// Members of a group that are shown; of larger groups, those that its verdict is due to.
const MAX_MEMBERS: usize = 16;
/// Rules held back that are named.
const MAX_HELD: usize = 8;
/// Columns that a member's verdict takes.
const VERDICT: usize = 5;

/// What all accounts of one run have in common.
#[derive(Debug)]
pub(super) struct Text<'a> {
    pub(super) config: &'a Config,
    pub(super) file: &'a str,
    /// Whether `--client` was given.
    pub(super) client_given: bool,
    /// Whether `--listener` was given.
    pub(super) listener_given: bool,
    pub(super) traces: &'a [Trace],
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, trace) in self.traces.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            self.head(trace, f)?;
            steps(trace, f)?;
        }
        if self.traces.len() > 1 {
            writeln!(f, "\nThe listeners differ: `--listener NAME` explains one of them.")?;
        }
        Ok(())
    }
}

impl Text<'_> {
    fn head(&self, trace: &Trace, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = self.config.listeners.len().saturating_sub(self.traces.len());
        write!(f, "{}: listener `{}`", self.file, trace.listener)?;
        if others > 0 && !self.listener_given {
            write!(f, " (like the {others} other{})", plural(others))?;
        }
        match trace.client {
            Some(client) if self.client_given => writeln!(f, ", client {client}")?,
            Some(client) => {
                writeln!(f, ", client {client} (assumed: `--client` names another)")?;
            }
            None => writeln!(f, ", a client of a Unix socket, which has no address")?,
        }
        if trace.bytes == 0 {
            return writeln!(f, "no bytes: the client is silent");
        }
        let more = if trace.bytes > Trace::MAX_INPUT { "..." } else { "" };
        write!(f, "{}: {}{more}", bytes(trace.bytes), trace.input)?;
        if trace.truncated {
            write!(
                f,
                "\nThere are more, which are ignored: `sniff_limit` is {}",
                trace.sniff_limit
            )?;
        }
        writeln!(f)
    }
}

fn steps(trace: &Trace, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut clear = 0;
    for step in &trace.steps {
        writeln!(f)?;
        if step.chunk == 0 && trace.bytes > 0 {
            writeln!(f, "Before the first byte:")?;
        } else if trace.steps.len() > 1 || step.bytes < trace.bytes {
            writeln!(f, "With chunk {}, {} in all:", step.chunk, bytes(step.bytes))?;
        }
        // What was clear at an earlier step still is.
        rules(&step.rules, clear, f)?;
        clear = step.rules.iter().take_while(|rule| is_clear(rule)).count();
        writeln!(f, "=> {}", outcome(step))?;
    }
    match &trace.silence {
        Some(silence) => silent(silence, clear, trace, f),
        None => Ok(()),
    }
}

/// Whether a rule is done with: it has said no for good.
fn is_clear(rule: &RuleAccount) -> bool {
    rule.asked && rule.account.answer == Answer::No && rule.account.sure_at.is_some()
}

/// What becomes of a connection that sends no more.
fn silent(
    silence: &Silence,
    clear: usize,
    trace: &Trace,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let Silence { rules: accounts, ended, timed_out } = silence;
    let timeout = u64::try_from(trace.sniff_timeout_ms).unwrap_or(u64::MAX);
    let timeout = humantime::format_duration(Duration::from_millis(timeout));
    writeln!(f, "\nIf no more bytes come:")?;
    rules(accounts, clear, f)?;
    writeln!(f, "=> when the client ends its stream: {}", fate(ended))?;
    writeln!(f, "=> after {timeout} (`sniff_timeout`): {}", fate(timed_out))
}

/// The accounts of the rules from `first` on, and which rules are held back.
fn rules(all: &[RuleAccount], first: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (asked, held): (Vec<_>, Vec<_>) =
        all.get(first..).unwrap_or_default().iter().partition(|rule| rule.asked);
    for RuleAccount { rule, asked: _, account } in asked {
        writeln!(f, "{rule}: {}", verdict(account))?;
        tree(account, 1, f)?;
    }
    if held.is_empty() {
        return Ok(());
    }
    let named = held.iter().take(MAX_HELD).map(|RuleAccount { rule, account, .. }| {
        let word = match account.answer {
            Answer::Match => "it matches already",
            Answer::No => "it says no",
            Answer::NeedsMore => "it is undecided",
        };
        format!("`{rule}` ({word})")
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match held.len().saturating_sub(MAX_HELD) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    writeln!(f, "held back by it: {named}{more}")
}

/// A rule's verdict, and since when it holds.
fn verdict(account: &Account) -> String {
    let since = match account.sure_at {
        Some(0) => ", sure before the first byte".to_owned(),
        Some(len) => format!(", sure after {}", bytes(len)),
        None => String::new(),
    };
    match account.answer {
        Answer::Match if since.is_empty() => "match, because no more bytes are looked at".into(),
        Answer::Match => format!("match{since}"),
        Answer::No if since.is_empty() => "no, because no more bytes are looked at".into(),
        Answer::No => format!("no{since}"),
        Answer::NeedsMore => match account.needs {
            Some(total) => format!("undecided, needs at least {}", bytes(total)),
            None => "undecided".into(),
        },
    }
}

/// A condition and its members, each on a line.
fn tree(account: &Account, depth: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let indent = "  ".repeat(depth);
    let Account { kind, condition, answer: _, needs: _, sure_at: _, evidence: _, members } =
        account;
    let title = match *kind {
        "all" => "all of these:".into(),
        "any" => "any of these:".into(),
        "not" => "not this:".into(),
        "always" => "every connection, at once".into(),
        "function" => "a function of the program's".into(),
        kind => format!("{kind} {condition}{}", saw(account)),
    };
    // A member's verdict stands before it.
    if depth == 1 {
        writeln!(f, "{indent}{title}")?;
    } else {
        let word = match account.answer {
            Answer::Match => "yes",
            Answer::No => "no",
            Answer::NeedsMore => "?",
        };
        writeln!(f, "{indent}{word:VERDICT$}{title}")?;
    }
    let shown = relevant(account);
    for member in &shown {
        tree(member, depth + 1, f)?;
    }
    match members.len() - shown.len() {
        0 => Ok(()),
        more => writeln!(f, "{indent}  ... and {more} more"),
    }
}

/// The members to show: all, or of many those that have the group's verdict.
fn relevant(account: &Account) -> Vec<&Account> {
    let members = account.members.iter();
    if account.members.len() <= MAX_MEMBERS {
        return members.collect();
    }
    members.filter(|member| member.answer == account.answer).take(MAX_MEMBERS).collect()
}

/// What a condition saw, with a colon before it.
fn saw(account: &Account) -> String {
    let Account { answer, sure_at, evidence, .. } = account;
    let text: Cow<'_, str> = match evidence {
        Evidence::Nothing => return String::new(),
        Evidence::Bytes { differs: Some(differs), .. } => difference(differs).into(),
        Evidence::Bytes { offset: _, of, equal, differs: None } if equal == of => {
            if *of == 1 {
                "it is there".into()
            } else {
                format!("all {of} bytes are there").into()
            }
        }
        Evidence::Bytes { offset: _, of, equal: 0, differs: None } => {
            if *of == 1 {
                "it is not there".into()
            } else {
                format!("none of its {of} bytes is there").into()
            }
        }
        Evidence::Bytes { offset: _, of, equal: 1, differs: None } => {
            format!("the first of its {of} bytes is there").into()
        }
        Evidence::Bytes { offset: _, of, equal, differs: None } => {
            format!("the first {equal} of its {of} bytes are there").into()
        }
        Evidence::Search { can_refuse } => match (answer, sure_at) {
            (Answer::Match, _) => "found".into(),
            (Answer::No, Some(_)) => "it cannot match any more".into(),
            (Answer::No, None) => "not found".into(),
            (Answer::NeedsMore, _) if *can_refuse => "not found yet".into(),
            (Answer::NeedsMore, _) => {
                "not found yet, and it never says no while more bytes can come".into()
            }
        },
        Evidence::Protocol { details } => match (answer, sure_at) {
            // Of a "no", too, it tells what there is instead.
            (Answer::Match | Answer::No, _) if !details.is_empty() => details.to_string().into(),
            (Answer::Match, _) => return String::new(),
            (Answer::No, Some(_)) => "it is something else".into(),
            (Answer::No, None) => "not enough of it".into(),
            (Answer::NeedsMore, _) => "not clear yet".into(),
        },
        Evidence::Client { client: None, .. } => "the client has no address".into(),
        Evidence::Client { client: Some(client), network: Some(network) } => {
            format!("{client} is in {network}").into()
        }
        Evidence::Client { client: Some(client), network: None } => {
            format!("{client} is not in it").into()
        }
    };
    format!(": {text}")
}

fn difference(differs: &Difference) -> String {
    let Difference { at, found, expected, mask } = *differs;
    let under = if mask == 0xff { String::new() } else { format!(" under the mask 0x{mask:02x}") };
    format!("byte {} is {}{under}, not {}", at + 1, byte(found), byte(expected))
}

/// A byte's code, and the character where there is one.
fn byte(byte: u8) -> String {
    let mut text = format!("0x{byte:02x}");
    if byte.is_ascii_graphic() {
        // Writing to a string cannot fail.
        let _ = write!(text, " ({})", char::from(byte));
    }
    text
}

/// What all rules come to at a step.
fn outcome(step: &Step) -> String {
    match &step.fate {
        Fate::Undecided { waits_for, needs } => {
            format!("undecided: `{waits_for}` needs at least {}", bytes(*needs))
        }
        decided @ (Fate::Routed(_)
        | Fate::Denied { .. }
        | Fate::Close { .. }
        | Fate::Reset { .. }) => {
            let when = if step.full { " (at `sniff_limit`)" } else { "" };
            format!("{}{when}", fate(decided))
        }
    }
}

fn fate(fate: &Fate) -> String {
    let because = |why: &Why| match why {
        Why::Matched => String::new(),
        Why::OnTimeout | Why::OnNoMatch => format!("no rule matches, and `{}` ", why.name()),
    };
    match fate {
        Fate::Routed(routed) => {
            let Routed { id: _, rule, why, upstream: _, endpoints: _, relay, .. } = routed;
            let upstream = upstream(routed);
            match why {
                Why::Matched => format!("`{rule}` takes it: upstream {upstream}, relay {relay}"),
                Why::OnTimeout | Why::OnNoMatch => {
                    format!(
                        "{}gives it to `{rule}`: upstream {upstream}, relay {relay}",
                        because(why)
                    )
                }
            }
        }
        Fate::Undecided { waits_for, .. } => format!("undecided: `{waits_for}` waits"),
        Fate::Denied { rule: None } => {
            "the listener's `allow` and `deny` do not permit the client: reset".into()
        }
        Fate::Denied { rule: Some(rule) } => {
            format!(
                "`{rule}` would take it, but its `allow` and `deny` do not permit the client: reset"
            )
        }
        Fate::Close { why } => format!("{}closes it", because(why)),
        Fate::Reset { why } => format!("{}resets it", because(why)),
    }
}

/// An upstream, with its endpoints where its name does not say them.
fn upstream(routed: &Routed) -> String {
    match routed.endpoints.as_slice() {
        [only] if **only == *routed.upstream => only.clone(),
        endpoints => format!("{} ({})", routed.upstream, endpoints.join(", ")),
    }
}

/// "1 byte", "2 bytes".
fn bytes(count: usize) -> String {
    format!("{count} byte{}", plural(count))
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
