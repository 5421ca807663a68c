//! Resolves the names of a raw configuration.

use std::{collections::HashMap, ops::Range, sync::Arc};

use toml::Spanned;

use super::{
    address::{AddressError, parse_address},
    config::{
        Address, Config, ListenAddress, ListenerConfig, Otherwise, Rule, RuleId, UpstreamConfig,
        UpstreamId,
    },
    diagnostic::Diagnostic,
    identity::header_to_builtin,
    raw::{RawConfig, RawListener, RawRule, RawTarget, not_an_address},
    suggest::did_you_mean_or_list,
    table::Problems,
    upstream::RawUpstream,
};
use crate::{proxy::Version, route::Table};

/// Words that `on_timeout`, `on_no_match` and `on_no_upstream` take beside a rule's name.
const CLOSE: &str = "close";
const RESET: &str = "reset";

/// Where the parts of a compiled configuration stand in the text.
pub(super) struct Places {
    /// Of each rule's `match`, or of the rule.
    pub(super) rules: Vec<Range<usize>>,
}

/// Compiles. The result is to be thrown away when there are problems: what was wrong has
/// been left out of it.
pub(super) fn compile(raw: RawConfig, problems: &Problems) -> (Config, Places) {
    let RawConfig { listeners, rules, upstreams, timeouts, limits, log, admin, security, kernel } =
        raw;
    let mut upstreams = Upstreams::new(upstreams, problems);
    let rule_names = names(rules.iter().map(|rule| rule.name.as_ref()), "rule", problems);
    let places = Places { rules: rules.iter().map(|rule| rule.span.clone()).collect() };
    let stand_ins = rules
        .iter()
        .map(|rule| {
            otherwise(rule.on_no_upstream.as_ref(), Otherwise::Reset, &rule_names, problems)
        })
        .collect::<Vec<_>>();
    refuse_circles(&rules, &rule_names, &stand_ins, problems);
    let rules: Vec<Arc<Rule>> = rules
        .into_iter()
        .zip(rule_names.all.iter().zip(stand_ins))
        .filter_map(|(raw, (name, stand_in))| {
            rule(raw, name, stand_in, &mut upstreams, problems).map(Arc::new)
        })
        .collect();

    let listener_names =
        names(listeners.iter().map(|listener| listener.name.as_ref()), "listener", problems);
    let mut addresses = Vec::new();
    let listeners = listeners
        .into_iter()
        .zip(&listener_names.all)
        .filter_map(|(raw, name)| {
            listener(raw, name, &rule_names, &rules, &mut addresses, problems).map(Arc::new)
        })
        .collect();

    let upstreams = upstreams.compiled.into_iter().map(Arc::new).collect();
    let network_files = problems.network_files();
    (
        Config {
            listeners,
            rules,
            upstreams,
            timeouts,
            limits,
            log,
            admin,
            security,
            kernel,
            network_files,
        },
        places,
    )
}

/// Names of the rules or of the listeners.
struct Names {
    all: Vec<Arc<str>>,
    index: HashMap<Arc<str>, usize>,
}

/// Gives the nameless their default names and reports names that come twice.
fn names<'a>(
    written: impl Iterator<Item = Option<&'a Spanned<String>>>,
    what: &'static str,
    problems: &Problems,
) -> Names {
    let mut names = Names { all: Vec::new(), index: HashMap::new() };
    let mut spans: Vec<Option<Range<usize>>> = Vec::new();
    for (index, written) in written.enumerate() {
        let name: Arc<str> = match written {
            Some(name) => name.get_ref().as_str().into(),
            None => format!("{what}-{}", index + 1).into(),
        };
        if let Some(name) = written
            && matches!(name.get_ref().as_str(), CLOSE | RESET)
        {
            problems.add(
                Diagnostic::new(
                    name.span(),
                    format!("a {what} cannot be named `{}`", name.get_ref()),
                )
                .hint("the word has a meaning of its own in `on_timeout` and the like"),
            );
        }
        if let Some(earlier) = names.index.insert(name.clone(), index) {
            let (span, hint) = match (written, spans[earlier].clone()) {
                (Some(name), _) => {
                    (name.span(), format!("{what} number {} has the name already", earlier + 1))
                }
                // Two default names differ, so the earlier one was written.
                (None, earlier) => (
                    earlier.unwrap_or_default(),
                    format!("`{name}` is the default name of {what} number {}", index + 1),
                ),
            };
            let message = format!("two {what}s are named `{name}`");
            problems.add(Diagnostic::new(span, message).hint(hint));
        }
        spans.push(written.map(Spanned::span));
        names.all.push(name);
    }
    names
}

/// The named groups, and then the addresses that rules name.
struct Upstreams {
    compiled: Vec<UpstreamConfig>,
    groups: usize,
}

impl Upstreams {
    fn new(raw: Vec<RawUpstream>, problems: &Problems) -> Self {
        let mut compiled: Vec<UpstreamConfig> = Vec::new();
        for upstream in raw {
            let RawUpstream {
                name,
                endpoints,
                balance,
                retries,
                resolve,
                max_connections,
                queue,
                health,
                eject,
                source,
                timers,
            } = upstream;
            let Some(name) = name else { continue };
            if let Some(earlier) = compiled.iter().position(|other| *other.name == **name.get_ref())
            {
                let message = format!("two upstreams are named `{}`", name.get_ref());
                let hint = format!("upstream number {} has the name already", earlier + 1);
                problems.add(Diagnostic::new(name.span(), message).hint(hint));
            }
            compiled.push(UpstreamConfig {
                name: name.into_inner().into(),
                endpoints,
                balance,
                retries,
                resolve,
                max_connections,
                queue,
                health,
                eject,
                source,
                timers,
                proxy_protocol: None,
            });
        }
        let groups = compiled.len();
        Self { compiled, groups }
    }

    /// The group of this name, or the address that the text is.
    fn resolve(&mut self, target: RawTarget, span: Range<usize>) -> Result<UpstreamId, Diagnostic> {
        let address = match target {
            RawTarget::Address(address) => address,
            RawTarget::Text(text) => {
                let groups = &self.compiled[..self.groups];
                if let Some(index) = groups.iter().position(|group| *group.name == *text) {
                    return Ok(UpstreamId(index));
                }
                parse_address(&text).map_err(|error| self.neither(span, &text, error))?
            }
        };
        Ok(self.address(address))
    }

    /// The diagnostic for what is neither a group's name nor an address.
    fn neither(&self, span: Range<usize>, text: &str, error: AddressError) -> Diagnostic {
        // Without a colon it was meant to be a name.
        if text.contains([':', '/', '[']) {
            return not_an_address(span, text, error);
        }
        let names = self.compiled[..self.groups].iter().map(|group| &*group.name);
        let hint = did_you_mean_or_list(
            text,
            names,
            "upstreams",
            "write an address, such as \"127.0.0.1:80\", or add an `[[upstream]]`",
        );
        Diagnostic::new(span, format!("unknown upstream `{text}`")).hint(hint)
    }

    /// An endpoint of an upstream that is built in.
    fn builtin(&self, id: UpstreamId) -> Option<&Address> {
        let mut addresses = self.compiled.get(id.0)?.endpoints.iter().map(|end| &end.address);
        addresses.find(|address| matches!(address, Address::Builtin(_)))
    }

    /// Has the upstream's checks begin as a rule's flows do.
    fn announce(&mut self, id: UpstreamId, version: Version) {
        if let Some(upstream) = self.compiled.get_mut(id.0) {
            upstream.proxy_protocol.get_or_insert(version);
        }
    }

    /// The upstream of one address; one for all rules that name it.
    fn address(&mut self, address: Address) -> UpstreamId {
        let name = address.to_string();
        let earlier = self.compiled[self.groups..].iter().position(|other| *other.name == *name);
        if let Some(earlier) = earlier {
            return UpstreamId(self.groups + earlier);
        }
        self.compiled.push(UpstreamConfig::single(address));
        UpstreamId(self.compiled.len() - 1)
    }
}

fn rule(
    raw: RawRule,
    name: &Arc<str>,
    on_no_upstream: Otherwise,
    upstreams: &mut Upstreams,
    problems: &Problems,
) -> Option<Rule> {
    let RawRule {
        span: _,
        name: _,
        matcher,
        upstream,
        on_no_upstream: _,
        relay,
        proxy_protocol,
        max_connections,
        acl,
    } = raw;
    let target = upstream?;
    let span = target.span();
    let upstream = problems.keep(upstreams.resolve(target.into_inner(), span))?;
    if let Some(proxy_protocol) = &proxy_protocol {
        if let Some(builtin) = upstreams.builtin(upstream) {
            problems.add(header_to_builtin(proxy_protocol.span(), builtin));
        }
        upstreams.announce(upstream, *proxy_protocol.get_ref());
    }
    Some(Rule {
        name: name.clone(),
        matcher,
        upstream,
        on_no_upstream,
        relay,
        proxy_protocol: proxy_protocol.map(Spanned::into_inner),
        max_connections,
        acl,
    })
}

/// Reports rules whose `on_no_upstream` leads back to them. Each circle is reported once, at the
/// rule of it that stands first.
fn refuse_circles(raw: &[RawRule], names: &Names, stand_ins: &[Otherwise], problems: &Problems) {
    let next = |id: RuleId| match stand_ins.get(id.0) {
        Some(Otherwise::Rule(next)) => Some(*next),
        Some(Otherwise::Close | Otherwise::Reset) | None => None,
    };
    for (index, rule) in raw.iter().enumerate() {
        let start = RuleId(index);
        // As many steps as there are rules lead around every circle.
        let path: Vec<RuleId> =
            std::iter::successors(next(start), |id| next(*id)).take(raw.len()).collect();
        let Some(length) = path.iter().position(|id| *id == start) else { continue };
        let circle = &path[..=length];
        if let (Some(written), true) = (&rule.on_no_upstream, circle.iter().all(|id| id.0 >= index))
        {
            let list: Vec<&str> = std::iter::once(start)
                .chain(circle.iter().copied())
                .map(|id| &*names.all[id.0])
                .collect();
            let message = format!("`on_no_upstream` goes in a circle: `{}`", list.join("` → `"));
            problems.add(
                Diagnostic::new(written.span(), message)
                    .hint("let one of these rules `close` or `reset`"),
            );
        }
    }
}

fn listener(
    raw: RawListener,
    name: &Arc<str>,
    names: &Names,
    rules: &[Arc<Rule>],
    addresses: &mut Vec<ListenAddress>,
    problems: &Problems,
) -> Option<ListenerConfig> {
    let on_timeout = otherwise(raw.on_timeout.as_ref(), Otherwise::Close, names, problems);
    let on_no_match = otherwise(raw.on_no_match.as_ref(), Otherwise::Close, names, problems);
    let ids = match raw.rules {
        None => (0..names.all.len()).map(RuleId).collect(),
        Some(written) => rule_list(&written.into_inner(), names, problems),
    };
    // A rule that is wrong is not there; the file is refused then.
    let rules = ids.into_iter().filter_map(|id| Some((id, Arc::clone(rules.get(id.0)?))));
    let rules = Arc::new(Table::new(rules));

    let address = raw.address?;
    let span = address.span();
    let address = address.into_inner();
    let is_fixed = !matches!(&address, ListenAddress::Tcp(socket) if socket.port() == 0);
    if is_fixed && addresses.contains(&address) {
        let diagnostic = Diagnostic::new(span, "two listeners have this address")
            .hint("leave one of them out, or give it another port");
        problems.add(diagnostic);
    }
    addresses.push(address.clone());
    Some(ListenerConfig {
        name: name.clone(),
        address,
        sniff_timeout: raw.sniff_timeout,
        sniff_limit: raw.sniff_limit,
        on_timeout,
        on_no_match,
        max_connections: raw.max_connections,
        acl: raw.acl,
        accept_proxy: raw.accept_proxy,
        timers: raw.timers,
        rules,
    })
}

fn rule_list(written: &[Spanned<String>], rules: &Names, problems: &Problems) -> Vec<RuleId> {
    let mut list = Vec::new();
    for name in written {
        let Some(id) = problems.keep(rule_id(name, rules, "rules")) else { continue };
        if list.contains(&id) {
            let message = format!("`{}` stands twice in this list", name.get_ref());
            problems.add(Diagnostic::new(name.span(), message).hint("leave the second one out"));
        }
        list.push(id);
    }
    list
}

fn otherwise(
    written: Option<&Spanned<String>>,
    default: Otherwise,
    rules: &Names,
    problems: &Problems,
) -> Otherwise {
    let Some(written) = written else { return default };
    match written.get_ref().as_str() {
        CLOSE => Otherwise::Close,
        RESET => Otherwise::Reset,
        _ => problems
            .keep(rule_id(written, rules, "`close`, `reset` or a rule"))
            .map_or(default, Otherwise::Rule),
    }
}

fn rule_id(name: &Spanned<String>, rules: &Names, list: &str) -> Result<RuleId, Diagnostic> {
    if let Some(&index) = rules.index.get(name.get_ref().as_str()) {
        return Ok(RuleId(index));
    }
    let names = rules.all.iter().map(|name| &**name);
    let hint = did_you_mean_or_list(name.get_ref(), names, list, "there are no rules");
    Err(Diagnostic::new(name.span(), format!("unknown rule `{}`", name.get_ref())).hint(hint))
}
