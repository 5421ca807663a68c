//! The rules file's text.

use std::ops::Range;

use toml::Value;

use super::{
    conditions::{Condition, Waits, bytes},
    listeners::Listener,
    log::one_line,
    plan::{Match, Plan},
    rules::{Entry, Rule},
    sslh::Access,
};

/// Widest line of a comment, bytes; a word that is longer has a line of its own.
const WIDTH: usize = 99;

/// What stands in every listener, and below the rules.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    /// What the configuration was read from.
    pub(super) name: &'a str,
    pub(super) notes: &'a [String],
    pub(super) sniff_timeout: String,
    /// Remark on it.
    pub(super) sniff_note: Option<String>,
    pub(super) user: Option<&'a str>,
    pub(super) access: &'a Access,
    /// Whether sslh has the kernel look for dead connections.
    pub(super) keepalive: bool,
}

/// The text, and where in it each listener and each entry's rule is.
pub(super) struct Written {
    pub(super) text: String,
    pub(super) listeners: Vec<Range<usize>>,
    pub(super) rules: Vec<Range<usize>>,
}

/// Writes the whole file.
pub(super) fn write(
    settings: &Settings<'_>,
    listeners: &[Listener],
    entries: &[Entry],
    plan: &Plan,
) -> Written {
    let mut writer = Writer::default();
    writer.comment(&format!(
        "Made by `mux import` of {}. Check it with `mux check`; where mux differs, or there is \
         nothing to set, a comment says so.",
        settings.name
    ));
    if !settings.notes.is_empty() {
        writer.blank();
        writer.comments(settings.notes);
    }
    let mut places = Vec::new();
    for entry in listeners {
        let start = writer.out.len();
        listener(&mut writer, entry, settings, entries, plan);
        places.push(start..writer.out.len());
    }
    let mut rules = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let start = writer.out.len();
        rule(&mut writer, entry, plan.matches(index));
        rules.push(start..writer.out.len());
    }
    rest(&mut writer, settings);
    Written { text: writer.out, listeners: places, rules }
}

fn listener(
    writer: &mut Writer,
    listener: &Listener,
    settings: &Settings<'_>,
    entries: &[Entry],
    plan: &Plan,
) {
    let address = match &listener.address {
        Ok(address) => address,
        Err(reason) => return writer.left_out("listen", &listener.quote, reason),
    };
    let name = |index: usize| {
        let rule = entries.get(index).and_then(|entry| entry.rule.as_ref().ok());
        rule.map_or("close", |rule| rule.name.as_str())
    };
    writer.head("[[listener]]");
    writer.comments(&listener.notes);
    writer.key("address", address.as_str());
    if listener.proxy_protocol {
        writer.key("accept_proxy_protocol", vec!["0.0.0.0/0", "::/0"]);
    }
    if let Some(note) = &settings.sniff_note {
        writer.comment(note);
    }
    writer.key("sniff_timeout", settings.sniff_timeout.as_str());
    if plan.on_timeout.is_none() {
        writer.comment("The protocol that sslh sends silent clients to is left out.");
    }
    if !plan.at_once {
        writer.key("on_timeout", plan.on_timeout.map_or("close", name));
        writer.key("on_no_match", name(plan.on_no_match));
    }
    if let Some(most) = listener.max_connections {
        writer.key("max_connections", i64::from(most));
    }
    if plan.listed {
        let tried: Vec<&str> = plan.tried.iter().map(|&index| name(index)).collect();
        writer.key("rules", tried);
    }
}

fn rule(writer: &mut Writer, entry: &Entry, matches: Match) {
    let rule = match &entry.rule {
        Ok(rule) => rule,
        Err(reason) => {
            return writer.left_out("protocols", &entry.quote, reason);
        }
    };
    writer.head("[[rule]]");
    writer.comments(&entry.notes);
    writer.key("name", rule.name.as_str());
    match (matches, &rule.condition) {
        (Match::AnyBytes(count), _) => {
            writer.comment(
                "All that no rule before it has matched in time. With fewer bytes, sslh takes a \
                 client for a silent one.",
            );
            writer.key("match", bytes(count));
        }
        (Match::Own, Condition::When { value, waits }) => {
            if *waits == Waits::ForAMatch {
                writer.comment(
                    "More bytes can make it match, so that mux waits for them, up to \
                     `sniff_timeout`, before it tries the rules after it. sslh does not wait. Begin \
                     the pattern with `^`, and keep short what it matches.",
                );
            }
            writer.key("match", value.clone());
        }
        (Match::Own | Match::Nothing, Condition::Never(reason)) => {
            writer.comment(&format!("Its condition is left out: {reason}."));
        }
        (Match::Own, Condition::Any) | (Match::Nothing, _) => {}
    }
    if rule.transparent {
        writer.key("upstream", rule.name.as_str());
    } else {
        writer.key("upstream", rule.upstream.as_str());
    }
    if let Some(version) = rule.proxy_protocol {
        writer.key("proxy_protocol", version);
    }
    if let Some(most) = rule.max_connections {
        writer.key("max_connections", i64::from(most));
    }
    if rule.transparent {
        transparent(writer, rule);
    }
}

fn transparent(writer: &mut Writer, rule: &Rule) {
    writer.head("[[upstream]]");
    writer.key("name", rule.name.as_str());
    writer.key("endpoints", vec![rule.upstream.as_str()]);
    writer.key("source", "transparent");
}

fn rest(writer: &mut Writer, settings: &Settings<'_>) {
    writer.head("[timeouts]");
    if settings.keepalive {
        writer.comment("In place of sslh's keepalive; mux's default is \"1h\".");
        writer.key("idle", "1d");
    } else {
        writer.comment("As with sslh, connections may be idle for ever; mux's default is \"1h\".");
        writer.key("idle", "0s");
    }
    match settings.access {
        Access::Default => {}
        Access::File(path) => {
            writer.head("[log]");
            writer.key("access_file", path.text.as_str());
        }
        Access::Off => {
            writer.head("[log]");
            writer.key("access", "off");
        }
    }
    writer.head("[security]");
    if let Some(user) = settings.user {
        writer.key("user", user);
    } else {
        writer.comment("sslh stays whoever starts it; mux, started as root, becomes \"nobody\".");
    }
}

#[derive(Default)]
struct Writer {
    out: String,
}

impl Writer {
    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn blank(&mut self) {
        self.out.push('\n');
    }

    fn head(&mut self, head: &str) {
        self.blank();
        self.line(head);
    }

    fn key(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        self.line(&format!("{key} = {value}"));
    }

    fn comments(&mut self, texts: &[String]) {
        for text in texts {
            self.comment(text);
        }
    }

    /// In lines that are not too wide, without control characters, which a comment of TOML cannot
    /// have.
    fn comment(&mut self, text: &str) {
        let text = one_line(text);
        let mut line = String::from("#");
        for word in text.split(' ') {
            if line.len() > 2 && line.len() + 1 + word.len() > WIDTH {
                self.line(line.trim_end());
                line = String::from("# ");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(line.trim_end());
    }

    /// What sslh had, and why mux has not.
    fn left_out(&mut self, list: &str, quote: &str, reason: &str) {
        self.blank();
        self.comment(&format!("Left out of `{list}`: {reason}."));
        self.comment(quote);
    }
}
