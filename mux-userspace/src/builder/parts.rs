//! The parts of a configuration that a builder makes.

use std::{io, sync::Arc};

use socket2::{SockRef, Socket};

use super::{NewRule, StartError};
use crate::{
    listener::Bound,
    net,
    probe::Probes,
    route::Table,
    rules::{
        self,
        config::{
            Acl, Config, ListenAddress, Otherwise, RelayChoice, Rule, RuleId, UpstreamConfig,
            UpstreamId,
        },
    },
};

pub(super) fn table(rules: &[Arc<Rule>], ids: Vec<RuleId>) -> Arc<Table> {
    let rules = ids.into_iter().filter_map(|id| Some((id, Arc::clone(rules.get(id.0)?))));
    Arc::new(Table::new(rules))
}

pub(super) fn otherwise(name: &str, rules: &[Arc<Rule>]) -> Result<Otherwise, StartError> {
    rules
        .iter()
        .position(|rule| *rule.name == *name)
        .map(|index| Otherwise::Rule(RuleId(index)))
        .ok_or_else(|| StartError::NoSuchRule(name.to_owned()))
}

/// Adds a rule, and its upstream if there is none such.
pub(super) fn add_rule(
    config: &mut Config,
    rule: NewRule,
    probes: &Probes,
) -> Result<(), StartError> {
    let name = rule.name.unwrap_or_else(|| format!("rule-{}", config.rules.len() + 1));
    if config.rules.iter().any(|other| *other.name == *name) {
        return Err(StartError::SameName(name));
    }
    let matcher = match rule.condition.resolve(probes) {
        Ok(matcher) => matcher,
        Err(source) => return Err(StartError::Condition { rule: name, source }),
    };
    let upstream = upstream(config, &name, rule.upstream)?;
    matcher.network_files(&mut config.network_files);
    config.rules.push(Arc::new(Rule {
        name: name.into(),
        matcher,
        upstream,
        on_no_upstream: Otherwise::Reset,
        relay: RelayChoice::Auto,
        max_connections: None,
        acl: Acl::default(),
        proxy_protocol: None,
    }));
    Ok(())
}

fn upstream(config: &mut Config, rule: &str, text: String) -> Result<UpstreamId, StartError> {
    let named = |name: &str, config: &Config| {
        config.upstreams.iter().position(|upstream| *upstream.name == *name).map(UpstreamId)
    };
    if let Some(id) = named(&text, config) {
        return Ok(id);
    }
    let address = rules::parse_address(&text).map_err(|source| StartError::Upstream {
        rule: rule.to_owned(),
        upstream: text,
        source,
    })?;
    let new = UpstreamConfig::single(address);
    if let Some(id) = named(&new.name, config) {
        return Ok(id);
    }
    config.upstreams.push(Arc::new(new));
    Ok(UpstreamId(config.upstreams.len() - 1))
}

/// Takes a socket that listens already; all cores accept from it.
pub(super) fn adopt(socket: Socket, cores: usize) -> io::Result<Bound> {
    if !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
    }
    socket.set_nonblocking(true)?;
    let local = socket.local_addr()?;
    let address = match (local.as_socket(), local.as_pathname()) {
        (Some(address), _) => ListenAddress::Tcp(address),
        (None, path) => ListenAddress::Unix(path.map(Into::into).unwrap_or_default()),
    };
    if let ListenAddress::Tcp(_) = address {
        net::set_up(&SockRef::from(&socket))?;
    }
    let mut sockets = Vec::with_capacity(cores);
    for _ in 1..cores {
        sockets.push(socket.try_clone()?);
    }
    sockets.push(socket);
    Ok(Bound { address, sockets, file: None, spares: Arc::default(), adopted: true })
}
