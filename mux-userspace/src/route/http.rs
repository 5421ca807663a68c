//! `http = { … }`: conditions on a request's head, of HTTP/1 and of HTTP/2.
//!
//! Each is decided as soon as what it is about is there: of HTTP/1, version, method and path
//! with the request line, a field with its line, the host with the end of the header, before which
//! a second `Host` line may come. HTTP/2's version is known with the preface, the
//! rest of it at once, when the field block is there.

use std::fmt;

use super::{
    EmptyMatcher, Names, Phase, Regex,
    heads::Heads,
    tls::{includes, set},
};
use crate::probe::{
    HttpVersion, Probe, Verdict,
    http::{Head, Host, is_token},
    http2,
};

/// An HTTP request whose head can be read, and of which all conditions hold.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpMatcher {
    conditions: HttpConditions,
    /// Whether the version alone decides, which HTTP/2's preface tells.
    version_alone: bool,
}

/// The conditions; `None`, and no headers, are none. Of each list, one has to fit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpConditions {
    /// Versions.
    pub versions: Option<Vec<HttpVersion>>,
    /// Methods; they have case (RFC 9110 9.1).
    pub methods: Option<Vec<Box<str>>>,
    /// Hosts, without port: of the target where it has one, else of the `Host` field, of which
    /// there has to be one only.
    pub hosts: Option<Names>,
    /// Whole paths, without query. They have case, and are compared as they were sent:
    /// nothing is decoded, and no `..` resolved.
    pub paths: Option<Vec<Box<str>>>,
    /// What the path begins with.
    pub path_prefixes: Option<Vec<Box<str>>>,
    /// Regular expressions for the path.
    pub path_regexes: Option<Vec<Regex>>,
    /// Fields: all of them have to be there, in a line whose value matches.
    pub headers: Vec<(FieldName, Regex)>,
}

/// The name of a field, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldName(Box<str>);

impl FieldName {
    /// The text.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// A token (RFC 9110 5.1); `None`: this is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let is_name = !text.is_empty() && text.bytes().all(is_token);
        is_name.then(|| Self(text.to_ascii_lowercase().into()))
    }
}

/// What it asks for, as rules files call it: `host a.example; path_prefix /api`.
impl fmt::Display for HttpMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HttpConditions {
            versions,
            methods,
            hosts,
            paths,
            path_prefixes,
            path_regexes,
            headers,
        } = &self.conditions;
        let texts = |key: &str, list: &Option<Vec<Box<str>>>| {
            let texts = list.as_ref()?.iter().map(|text| text.escape_default().to_string());
            Some(format!("{key} {}", texts.collect::<Vec<_>>().join(", ")))
        };
        let versions = versions.as_ref().map(|list| {
            let names = list.iter().map(|version| version.name());
            format!("version {}", names.collect::<Vec<_>>().join(", "))
        });
        let regexes = path_regexes.as_ref().map(|list| {
            let patterns = list.iter().map(|regex| format!("/{regex}/"));
            format!("path {}", patterns.collect::<Vec<_>>().join(", "))
        });
        let fields = headers.iter().map(|(name, regex)| format!("header {} /{regex}/", name.0));
        let all: Vec<String> = [
            versions,
            texts("method", methods),
            hosts.as_ref().map(|hosts| format!("host {hosts}")),
            texts("path", paths),
            texts("path_prefix", path_prefixes),
            regexes,
        ]
        .into_iter()
        .flatten()
        .chain(fields)
        .collect();
        f.write_str(&all.join("; "))
    }
}

impl HttpMatcher {
    /// All of these.
    ///
    /// # Errors
    /// [`EmptyMatcher`]: no condition at all, or an empty list.
    pub fn new(conditions: HttpConditions) -> Result<Self, EmptyMatcher> {
        if conditions == HttpConditions::default() {
            return Err(EmptyMatcher);
        }
        if conditions.path_regexes.as_ref().is_some_and(Vec::is_empty) {
            return Err(EmptyMatcher);
        }
        let version_alone =
            HttpConditions { versions: None, ..conditions.clone() } == HttpConditions::default();
        let conditions = HttpConditions {
            versions: conditions.versions.map(set).transpose()?,
            methods: conditions.methods.map(set).transpose()?,
            hosts: conditions.hosts,
            paths: conditions.paths.map(set).transpose()?,
            path_prefixes: conditions.path_prefixes.map(set).transpose()?,
            path_regexes: conditions.path_regexes,
            headers: conditions.headers,
        };
        Ok(Self { conditions, version_alone })
    }

    /// All that it demands.
    pub(crate) const fn conditions(&self) -> &HttpConditions {
        &self.conditions
    }

    /// The hosts, if it demands any.
    #[must_use]
    pub const fn hosts(&self) -> Option<&Names> {
        self.conditions.hosts.as_ref()
    }

    /// Whether the host alone decides.
    #[must_use]
    pub fn is_host_alone(&self) -> bool {
        let others = HttpConditions { hosts: None, ..self.conditions.clone() };
        others == HttpConditions::default()
    }

    pub(super) fn examine(&self, heads: &Heads<'_>) -> Verdict<()> {
        let http1 = if self.wants(|version| version != HttpVersion::Http2) {
            heads.http1().and_then(|head| self.holds(head))
        } else {
            Verdict::NoMatch
        };
        http1.or_else(|| {
            if !self.wants(|version| version == HttpVersion::Http2) {
                Verdict::NoMatch
            } else if self.version_alone {
                Probe::http2().examine(heads.bytes())
            } else {
                heads.http2().and_then(|head| self.holds(head))
            }
        })
    }

    /// The probe of the version that these bytes are.
    pub(super) fn probe(bytes: &[u8]) -> Probe {
        if Probe::http2().examine(bytes).is_match() { Probe::http2() } else { Probe::http1() }
    }

    /// The probes that match whatever this does, together.
    pub(super) fn probes(&self) -> impl Iterator<Item = Probe> {
        let http1 = self.wants(|version| version != HttpVersion::Http2).then(Probe::http1);
        let http2 = self.wants(|version| version == HttpVersion::Http2).then(Probe::http2);
        http1.into_iter().chain(http2)
    }

    fn wants(&self, version: impl Fn(HttpVersion) -> bool) -> bool {
        let versions = self.conditions.versions.as_deref().unwrap_or(&HttpVersion::ALL);
        versions.iter().any(|&wanted| version(wanted))
    }

    fn holds(&self, head: &impl Head) -> Verdict<()> {
        let conditions = &self.conditions;
        let version = listed(conditions.versions.as_deref(), |wanted| *wanted == head.version());
        let method =
            listed(conditions.methods.as_deref(), |wanted| wanted.as_bytes() == head.method());
        if !version || !method || !self.holds_of_path(head.path()) {
            return Verdict::NoMatch;
        }
        let host = match &conditions.hosts {
            None => Verdict::Match(()),
            Some(names) => match head.host() {
                Host::Known(Some(host)) if names.contains(host) => Verdict::Match(()),
                // It is this host or, with a second one after it, none.
                Host::Expected { host, total } if names.contains(host) => Verdict::NeedMore(total),
                Host::Known(_) | Host::Expected { .. } => Verdict::NoMatch,
                Host::Open { total } => Verdict::NeedMore(total),
            },
        };
        conditions.headers.iter().fold(host, |all, (name, regex)| {
            all.and(|| head.has_field(&name.0, |value| finds(regex, value)))
        })
    }

    fn holds_of_path(&self, path: Option<&[u8]>) -> bool {
        let HttpConditions { paths, path_prefixes, path_regexes, .. } = &self.conditions;
        let Some(path) = path else {
            return paths.is_none() && path_prefixes.is_none() && path_regexes.is_none();
        };
        listed(paths.as_deref(), |wanted| wanted.as_bytes() == path)
            && listed(path_prefixes.as_deref(), |prefix| path.starts_with(prefix.as_bytes()))
            && listed(path_regexes.as_deref(), |regex| finds(regex, path))
    }

    /// Whether it visibly matches all that `other` does.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let (mine, theirs) = (&self.conditions, &other.conditions);
        let hosts = match (&mine.hosts, &theirs.hosts) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => mine.include(theirs),
        };
        hosts
            && includes(mine.versions.as_deref(), theirs.versions.as_deref())
            && includes(mine.methods.as_deref(), theirs.methods.as_deref())
            && self.covers_paths(theirs)
            && mine.headers.iter().all(|header| theirs.headers.contains(header))
    }

    fn covers_paths(&self, theirs: &HttpConditions) -> bool {
        let mine = &self.conditions;
        let under = |path: &str, prefixes: &[Box<str>]| {
            prefixes.iter().any(|prefix| path.starts_with(&**prefix))
        };
        // What of theirs is a list of which every entry is under one of my prefixes.
        let all_under = |list: &Option<Vec<Box<str>>>, prefixes: &[Box<str>]| {
            list.as_ref().is_some_and(|list| list.iter().all(|path| under(path, prefixes)))
        };
        let prefixes = mine.path_prefixes.as_ref().is_none_or(|prefixes| {
            all_under(&theirs.paths, prefixes) || all_under(&theirs.path_prefixes, prefixes)
        });
        prefixes
            && includes(mine.paths.as_deref(), theirs.paths.as_deref())
            && includes(mine.path_regexes.as_deref(), theirs.path_regexes.as_deref())
    }

    /// The fewest bytes with which it can match.
    pub(super) fn shortest_match(&self) -> usize {
        /// The rest of an HTTP/1 request line: two spaces, the version, a line feed.
        const REST_OF_LINE: usize = 2 + 8 + 1;
        let least = |list: &Option<Vec<Box<str>>>| {
            list.iter().flatten().map(|text| text.len()).min().unwrap_or(1)
        };
        let path = least(&self.conditions.paths).max(least(&self.conditions.path_prefixes));
        let http1 = self
            .wants(|version| version != HttpVersion::Http2)
            .then(|| REST_OF_LINE + least(&self.conditions.methods) + path);
        let http2 = if self.version_alone {
            Probe::http2().shortest_match()
        } else {
            http2::SHORTEST_REQUEST
        };
        http1.map_or(http2, |http1| {
            if self.wants(|version| version == HttpVersion::Http2) {
                http1.min(http2)
            } else {
                http1
            }
        })
    }
}

/// Whether one of a list fits; without a list, all do.
fn listed<T>(list: Option<&[T]>, fits: impl Fn(&T) -> bool) -> bool {
    list.is_none_or(|list| list.iter().any(fits))
}

/// Whether a regular expression matches in what is there to its end.
fn finds(regex: &Regex, text: &[u8]) -> bool {
    regex.examine(text, Phase::Ended).is_match()
}
