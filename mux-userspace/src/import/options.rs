//! sslh's command line, as Debian keeps it in `/etc/default/sslh`: `DAEMON_OPTS="…"` → the settings
//! that a configuration file of sslh would have.
//!
//! The shell that reads this file could do anything in it; here an assignment is read, its
//! continuation lines, and `$DAEMON_OPTS` itself, and the rest is refused. Words are split at white
//! space and nowhere else, as systemd and the init script split them.

use super::{
    libconfig::{self, Kind, Setting, Settings, Value},
    source::{Problem, Sources, Span},
};

/// The variable.
const NAME: &str = "DAEMON_OPTS";
/// What stands in Debian's file in place of an address to listen on.
const PLACEHOLDER: &str = "<change-me>";

/// Whether this is Debian's `/etc/default/sslh`, or one like it.
pub(super) fn are_in(text: &[u8]) -> bool {
    text.split(|&byte| byte == b'\n').any(|line| assigned(line).is_some())
}

/// What a line assigns to the variable.
fn assigned(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii_start();
    let line = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii_start();
    line.strip_prefix(NAME.as_bytes())?.strip_prefix(b"=")
}

/// Reads the settings of such a file; with them, what cannot be meant as it stands.
///
/// # Errors
/// The first thing that is not understood, or a configuration that it names and that is none.
pub(super) fn parse(
    sources: &mut Sources,
    file: usize,
) -> Result<(Settings, Vec<(Span, String)>), Problem> {
    let text = sources.bytes(file);
    let words = words(&text, file)?;
    let mut options = Options::default();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let (name, mut value) = word.option()?;
        if value.is_none() && takes_value(&name) {
            value = words.next_if(|word| !word.text.starts_with('-') || word.text == "-");
            if value.is_none() {
                return Err(Problem::new(word.place, format!("`{}` has no value", word.text))
                    .hint("write it after the option"));
            }
        }
        options.take(&name, word.place, value, sources, file)?;
    }
    Ok(options.finish())
}

/// A word of the command line.
#[derive(Clone, Debug)]
struct Word {
    text: String,
    place: Span,
}

impl Word {
    /// The long name of the option that this word is, and the value in the same word.
    fn option(&self) -> Result<(String, Option<Self>), Problem> {
        let own = |text: &str| Self { text: text.to_owned(), place: self.place };
        if let Some(long) = self.text.strip_prefix("--") {
            return Ok(match long.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(own(value))),
                None => (long.to_owned(), None),
            });
        }
        let mut letters = self.text.chars();
        if letters.next() != Some('-') {
            return Err(Problem::new(self.place, format!("`{}` belongs to no option", self.text))
                .hint("sslh's options begin with `-` or `--`"));
        }
        let letter = letters.next();
        let name = SHORT.iter().find(|(short, _)| Some(*short) == letter).map(|(_, name)| *name);
        let Some(name) = name else {
            return Err(Problem::new(
                self.place,
                format!("`{}` is no option of sslh's", self.text),
            )
            .hint("the short ones are F, p, t, u, P, C, v, i, f, b and n"));
        };
        let rest = letters.as_str();
        if takes_value(name) || rest.is_empty() {
            let value = (!rest.is_empty()).then(|| own(rest.strip_prefix('=').unwrap_or(rest)));
            return Ok((name.to_owned(), value));
        }
        Err(Problem::new(self.place, "several options in one word")
            .hint(format!("write `-{} -{rest}`", letter.unwrap_or_default())))
    }
}

/// Options of a letter.
const SHORT: [(char, &str); 12] = [
    ('F', "config"),
    ('p', "listen"),
    ('t', "timeout"),
    ('u', "user"),
    ('P', "pidfile"),
    ('C', "chroot"),
    ('v', "verbose"),
    ('V', "version"),
    ('i', "inetd"),
    ('f', "foreground"),
    ('b', "background"),
    ('n', "numeric"),
];

/// Options without a value.
const FLAGS: [&str; 8] = [
    "transparent",
    "inetd",
    "foreground",
    "background",
    "numeric",
    "verbose",
    "version",
    "no-syslog",
];

/// Every other option has one: those of the protocols are all alike.
fn takes_value(name: &str) -> bool {
    !FLAGS.contains(&name)
}

/// What has been read.
#[derive(Default)]
struct Options {
    settings: Settings,
    listen: Vec<Value>,
    protocols: Vec<Value>,
    warnings: Vec<(Span, String)>,
    place: Option<Span>,
}

impl Options {
    fn take(
        &mut self,
        name: &str,
        place: Span,
        value: Option<Word>,
        sources: &mut Sources,
        file: usize,
    ) -> Result<(), Problem> {
        self.place.get_or_insert(place);
        match (name, value) {
            ("config", Some(path)) => self.config(&path, sources, file)?,
            ("listen", Some(address)) => {
                let group = self.address(&address)?;
                self.listen.push(group_value(group, address.place));
            }
            ("timeout", Some(seconds)) => {
                let number = seconds.text.parse().ok().filter(|number: &i64| *number >= 0);
                let value = number.ok_or_else(|| {
                    Problem::new(seconds.place, "this is no number of seconds")
                        .hint("write, for example, `--timeout 5`")
                })?;
                self.set("timeout", seconds.place, Kind::Int { value, long: false });
            }
            (
                "on-timeout" | "user" | "pidfile" | "chroot" | "logfile" | "syslog-facility",
                Some(text),
            ) => {
                let name = name.replace('-', "_");
                self.set(&name, text.place, Kind::String(text.text.into_bytes()));
            }
            ("background", None) => {
                self.warnings.push((place, "mux always stays in the foreground".to_owned()));
            }
            ("version" | "no-syslog", None) => {}
            ("verbose", None) => {
                self.set("verbose", place, Kind::Int { value: 1, long: false });
            }
            (flag, None) => self.set(flag, place, Kind::Bool(true)),
            // `--verbose-probes=1` and the like, of sslh 2.
            (level, Some(value)) if level.starts_with("verbose") => {
                let value = value.text.parse().unwrap_or(1);
                self.set(level, place, Kind::Int { value, long: false });
            }
            (protocol, Some(address)) => {
                let mut group = vec![string("name", place, protocol)];
                group.extend(self.address(&address)?);
                self.protocols.push(group_value(group, place));
            }
        }
        Ok(())
    }

    /// Puts the settings of a file before those that there are.
    fn config(&mut self, path: &Word, sources: &mut Sources, file: usize) -> Result<(), Problem> {
        let included = sources.include(file, path.text.as_ref()).map_err(|error| {
            Problem::new(path.place, format!("cannot read {}: {error}", path.text))
                .hint("import the configuration by itself: `mux import` and its path")
        })?;
        for setting in libconfig::parse(sources, included)?.0 {
            let list = match setting.name.as_str() {
                "listen" => &mut self.listen,
                "protocols" => &mut self.protocols,
                // The command line goes first, wherever it stands.
                name if self.settings.0.iter().any(|own| same(&own.name, name)) => continue,
                _ => {
                    self.settings.0.push(setting);
                    continue;
                }
            };
            if let Kind::List(members) | Kind::Array(members) = setting.value.kind {
                list.extend(members);
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, place: Span, kind: Kind) {
        self.settings.0.retain(|setting| !same(&setting.name, name));
        let value = Value { kind, place };
        self.settings.0.push(Setting { name: name.to_owned(), place, value });
    }

    /// `host:port`, of which the host may be in brackets.
    fn address(&mut self, word: &Word) -> Result<Vec<Setting>, Problem> {
        let place = word.place;
        if let Some(path) = word.text.strip_prefix("unix:") {
            let unix = Value { kind: Kind::Bool(true), place };
            let unix = Setting { name: "is_unix".to_owned(), place, value: unix };
            return Ok(vec![unix, string("host", place, path), string("port", place, "")]);
        }
        let Some((host, port)) = word.text.rsplit_once(':').filter(|(_, port)| !port.is_empty())
        else {
            return Err(Problem::new(place, format!("`{}` is no address", word.text))
                .hint("sslh wants a host and a port, as in `127.0.0.1:443`"));
        };
        let host = match host {
            PLACEHOLDER => {
                let warning = format!(
                    "`{PLACEHOLDER}` is Debian's placeholder, taken for all addresses: put yours in; where a \
                     server of this machine has the same port, mux can only have another address"
                );
                self.warnings.push((place, warning));
                "0.0.0.0"
            }
            // All of them, as sslh reads it.
            "" => "0.0.0.0",
            host => host,
        };
        Ok(vec![string("host", place, host), string("port", place, port)])
    }

    fn finish(mut self) -> (Settings, Vec<(Span, String)>) {
        let place = self.place;
        for (name, members) in [("listen", self.listen), ("protocols", self.protocols)] {
            if let (Some(place), false) = (place, members.is_empty()) {
                let value = Value { kind: Kind::List(members), place };
                self.settings.0.push(Setting { name: name.to_owned(), place, value });
            }
        }
        (self.settings, self.warnings)
    }
}

/// Versions differ in `on-timeout` and `on_timeout`.
fn same(one: &str, other: &str) -> bool {
    one.replace('-', "_") == other.replace('-', "_")
}

fn string(name: &str, place: Span, text: &str) -> Setting {
    let value = Value { kind: Kind::String(text.as_bytes().to_vec()), place };
    Setting { name: name.to_owned(), place, value }
}

fn group_value(group: Vec<Setting>, place: Span) -> Value {
    Value { kind: Kind::Group(Settings(group)), place }
}

/// The words of the last assignment, with what it takes over from the ones before.
fn words(text: &[u8], file: usize) -> Result<Vec<Word>, Problem> {
    let mut characters: Vec<(u8, usize)> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let line_end = text[at..].iter().position(|&byte| byte == b'\n');
        let line_end = line_end.map_or(text.len(), |length| at + length);
        match assigned(&text[at..line_end]) {
            None => at = line_end + 1,
            Some(value) => {
                let (assigned, end) = value_at(text, line_end - value.len(), file, &characters)?;
                (characters, at) = (assigned, end);
            }
        }
    }
    let mut words: Vec<Word> = Vec::new();
    for word in characters.split(|(byte, _)| byte.is_ascii_whitespace()) {
        let (Some((_, start)), Some((_, last))) = (word.first(), word.last()) else { continue };
        let place = Span::new(file, *start, (*last + 1).max(start + 1));
        let bytes: Vec<u8> = word.iter().map(|(byte, _)| *byte).collect();
        let text = String::from_utf8(bytes)
            .map_err(|_| Problem::new(place, "this is not UTF-8").hint("save the file as UTF-8"))?;
        words.push(Word { text, place });
    }
    Ok(words)
}

/// Bytes, each with its place, and where what follows begins.
type Assigned = (Vec<(u8, usize)>, usize);

/// The value that begins at `start`, in the shell's quotes or without.
fn value_at(
    text: &[u8],
    start: usize,
    file: usize,
    before: &[(u8, usize)],
) -> Result<Assigned, Problem> {
    let mut value = Vec::new();
    let mut quote = None;
    let mut at = start;
    while let Some(&byte) = text.get(at) {
        let next = text.get(at + 1).copied();
        match (quote, byte) {
            (Some(open), _) if byte == open => quote = None,
            (None, b'"' | b'\'') => quote = Some(byte),
            (None | Some(b'"'), b'\\') if let Some(next) = next => {
                // A line that goes on, or a character that is meant as it is.
                if next != b'\n' {
                    value.push((next, at + 1));
                }
                at += 1;
            }
            (None | Some(b'"'), b'$' | b'`') => {
                let rest = &text[at..];
                let own = [format!("${{{NAME}}}"), format!("${NAME}")];
                let Some(own) = own.iter().find(|own| rest.starts_with(own.as_bytes())) else {
                    let place = Span::new(file, at, at + 1);
                    return Err(Problem::new(place, "what the shell puts here is not known")
                        .hint("write the words themselves, and import again"));
                };
                value.extend_from_slice(before);
                at += own.len() - 1;
            }
            (None, _) if byte.is_ascii_whitespace() || byte == b';' => break,
            _ => value.push((byte, at)),
        }
        at += 1;
    }
    match quote {
        None => Ok((value, at)),
        Some(_) => Err(Problem::new(Span::new(file, start, start + 1), "this quote does not end")
            .hint("put the same quote at the end of the options")),
    }
}
