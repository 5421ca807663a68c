//! From a request to an answer.
//!
//! Reading is for everybody who can connect; what changes something is for the Unix socket alone,
//! whose file's permissions say who that is.

use std::{fmt, sync::atomic::Ordering};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use ipnet::IpNet;
use tracing::info;

use super::{
    body::{Body, answer, json, text},
    state::{Silent, State},
    status,
    view::{FlowStatus, Flows},
};
use crate::{
    errand::{Filter, Flow},
    logging, metrics,
    relay::Mode,
    server::orders::{Action, Refused},
};

/// Flows in an answer, where the request names no `limit`.
const FLOWS: usize = 1000;
/// Most flows in an answer.
const MOST_FLOWS: usize = 20_000;
/// Longest body of a request, bytes.
const BODY: usize = 1024;

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// The Unix socket, from this user's process.
    Unix {
        /// Its user.
        uid: Option<u32>,
        /// The process.
        pid: Option<i32>,
    },
    /// TCP.
    Tcp,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid } => {
                let name = |id: Option<String>| id.unwrap_or_else(|| "?".into());
                let (uid, pid) = (uid.map(|id| id.to_string()), pid.map(|id| id.to_string()));
                write!(f, "uid {}, pid {}", name(uid), name(pid))
            }
            Self::Tcp => f.write_str("TCP"),
        }
    }
}

/// What a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Read(Page),
    Change(Change<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Index,
    Metrics,
    Healthz,
    Readyz,
    Status,
    Flows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change<'a> {
    Order(Action),
    LogLevel,
    Relay,
    Kill(&'a str),
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        Some(match path {
            "/" => Self::Read(Page::Index),
            "/metrics" => Self::Read(Page::Metrics),
            "/healthz" => Self::Read(Page::Healthz),
            "/readyz" => Self::Read(Page::Readyz),
            "/status" => Self::Read(Page::Status),
            "/flows" => Self::Read(Page::Flows),
            "/reload" => Self::Change(Change::Order(Action::Reload)),
            "/drain" => Self::Change(Change::Order(Action::Drain)),
            "/upgrade" => Self::Change(Change::Order(Action::Upgrade)),
            "/log-level" => Self::Change(Change::LogLevel),
            "/relay" => Self::Change(Change::Relay),
            _ => {
                let id = path.strip_prefix("/flows/")?.strip_suffix("/kill")?;
                Self::Change(Change::Kill(id))
            }
        })
    }
}

const INDEX: &str = "\
mux's admin socket
GET  /metrics          OpenMetrics
GET  /healthz /readyz  alive; accepting
GET  /status           everything but flows, as JSON
GET  /flows            ?rule= upstream= relay= client= limit=
POST /flows/ID/kill    over the Unix socket only, as are all below
POST /reload /drain /upgrade
POST /log-level        off, error, warn, info, debug or trace
POST /relay            off or auto
";

/// Answers a request.
pub(super) async fn respond(
    state: &State,
    door: Door,
    request: Request<Incoming>,
) -> Response<Body> {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let Some(route) = Route::of(head.uri.path()) else {
        return text(StatusCode::NOT_FOUND, "no such page; GET / lists them\n".into());
    };
    match route {
        Route::Read(page) if matches!(head.method, Method::GET | Method::HEAD) => {
            read(state, page, head.uri.query().unwrap_or_default()).await
        }
        Route::Read(_) => only("GET, HEAD"),
        Route::Change(_) if head.method != Method::POST => only("POST"),
        Route::Change(_) if door == Door::Tcp => {
            let why = "over TCP mux can be read, not changed: use the Unix socket\n";
            text(StatusCode::FORBIDDEN, why.into())
        }
        Route::Change(change) => match Limited::new(body, BODY).collect().await {
            Ok(body) => {
                let bytes = body.to_bytes();
                let word = String::from_utf8_lossy(&bytes);
                perform(state, door, change, word.trim()).await
            }
            Err(_) => text(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {BODY} bytes\n")),
        },
    }
}

fn only(methods: &'static str) -> Response<Body> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {methods}\n"));
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

async fn read(state: &State, page: Page, query: &str) -> Response<Body> {
    match page {
        Page::Index => text(StatusCode::OK, INDEX.into()),
        Page::Metrics => match state.reports().await {
            Ok(reports) => {
                let page = metrics::page(state, reports);
                answer(StatusCode::OK, metrics::CONTENT_TYPE, page.into())
            }
            Err(silent) => unanswered(silent),
        },
        Page::Healthz => match state.alive().await {
            Ok(()) => text(StatusCode::OK, "ok\n".into()),
            Err(silent) => unanswered(silent),
        },
        Page::Readyz if state.is_draining() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".into())
        }
        Page::Readyz => text(StatusCode::OK, "ready\n".into()),
        Page::Status => match state.reports().await {
            Ok(reports) => json(&status::status(state, reports)),
            Err(silent) => unanswered(silent),
        },
        Page::Flows => match filter(query) {
            Ok(filter) => flows(state, filter).await,
            Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        },
    }
}

fn unanswered(silent: Silent) -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, format!("{silent}\n"))
}

async fn flows(state: &State, mut filter: Filter) -> Response<Body> {
    let most = filter.limit;
    // One more tells whether there are more.
    filter.limit += 1;
    match state.flows(filter).await {
        Ok(flows) => json(&Flows {
            truncated: flows.len() > most,
            flows: flows.into_iter().take(most).map(view).collect(),
        }),
        Err(silent) => unanswered(silent),
    }
}

fn view(flow: Flow) -> FlowStatus {
    let Flow { id, client, listener, route, state, relay, relay_note, age, bytes } = flow;
    let [bytes_up, bytes_down] = bytes;
    let text = |name: Option<std::sync::Arc<str>>| name.map(|name| name.to_string());
    FlowStatus {
        id: format!("{id:016x}"),
        client: client.to_string(),
        listener: listener.to_string(),
        rule: text(route.rule),
        upstream: text(route.upstream),
        endpoint: text(route.endpoint),
        relay: relay.map(|relay| relay.name().to_owned()),
        relay_note: relay_note.into_owned(),
        state: state.to_owned(),
        age_seconds: age.as_secs_f64(),
        bytes_up,
        bytes_down,
    }
}

/// Reads `?rule=…&upstream=…&relay=…&client=…&limit=…`.
fn filter(query: &str) -> Result<Filter, String> {
    let mut filter = Filter { rule: None, upstream: None, relay: None, client: None, limit: FLOWS };
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "rule" => filter.rule = Some(value.into_owned()),
            "upstream" => filter.upstream = Some(value.into_owned()),
            "relay" => filter.relay = Some(relay(&value)?),
            "client" => filter.client = Some(network(&value)?),
            "limit" => filter.limit = limit(&value)?,
            other => {
                return Err(format!(
                    "unknown key `{other}`; there are rule, upstream, relay, client and limit"
                ));
            }
        }
    }
    Ok(filter)
}

fn relay(name: &str) -> Result<Mode, String> {
    let found = Mode::ALL.into_iter().find(|mode| mode.name() == name);
    found.ok_or_else(|| format!("unknown relay `{name}`; one of copy, splice, sockmap, packet"))
}

/// An address is a network of one.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().ok().map(|address: std::net::IpAddr| address.into());
    let network = text.parse().ok().or_else(address);
    network.ok_or_else(|| format!("`{text}` is no address and no network such as 10.0.0.0/8"))
}

fn limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=MOST_FLOWS).contains(limit));
    limit.ok_or_else(|| format!("`{text}` is no number from 1 to {MOST_FLOWS}"))
}

async fn perform(state: &State, door: Door, change: Change<'_>, word: &str) -> Response<Body> {
    match change {
        Change::Order(action) => {
            info!(by = %door, "order: {}", action.name());
            order(state, action).await
        }
        Change::LogLevel => match logging::set_level(word) {
            Ok(()) => {
                info!(by = %door, "order: log level {word}");
                text(StatusCode::OK, format!("the log level is {word}\n"))
            }
            Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        },
        Change::Relay => match word {
            "off" | "auto" => {
                info!(by = %door, "order: relay {word}");
                switch(state, word == "auto").await
            }
            _ => text(StatusCode::BAD_REQUEST, format!("`{word}` is neither `off` nor `auto`\n")),
        },
        Change::Kill(id) => {
            info!(by = %door, "order: kill {id:?}");
            kill(state, id).await
        }
    }
}

async fn order(state: &State, action: Action) -> Response<Body> {
    match state.desk.give(action).await {
        Ok(Ok(done)) => text(StatusCode::OK, format!("{done}\n")),
        Ok(Err(why)) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("{}: {why}\n", action.name()))
        }
        Err(refused @ (Refused::Busy | Refused::Ending)) => {
            text(StatusCode::CONFLICT, format!("{}: {refused}\n", action.name()))
        }
    }
}

async fn switch(state: &State, allowed: bool) -> Response<Body> {
    let flows = match state.switch_kernel(allowed).await {
        Ok(flows) => flows,
        Err(silent) => return unanswered(silent),
    };
    let said = if state.shared.unavailable.is_some() {
        "noted, but the kernel relay is not in force anyway".to_owned()
    } else if allowed && state.kept_out().is_some() {
        "noted, but the rules in force say [kernel] sockmap = \"off\"".to_owned()
    } else if allowed {
        "flows may go to the kernel again".to_owned()
    } else {
        format!("no flow goes to the kernel any more; {flows} leave it now")
    };
    text(StatusCode::OK, format!("{said}\n"))
}

async fn kill(state: &State, id: &str) -> Response<Body> {
    // As it is printed: sixteen digits, of which the first may be left out.
    let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u64::from_str_radix(id, 16).ok().filter(|_| digits);
    let Some(number) = number else {
        return text(StatusCode::BAD_REQUEST, "this is no flow's id\n".into());
    };
    match state.kill(number).await {
        Ok(true) => text(StatusCode::OK, format!("flow {number:016x} is reset\n")),
        Ok(false) => text(StatusCode::NOT_FOUND, format!("there is no flow {number:016x}\n")),
        Err(silent) => unanswered(silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_pages_and_changes() {
        assert_eq!(Route::of("/metrics"), Some(Route::Read(Page::Metrics)));
        assert_eq!(Route::of("/reload"), Some(Route::Change(Change::Order(Action::Reload))));
        assert_eq!(Route::of("/flows/00ab/kill"), Some(Route::Change(Change::Kill("00ab"))));
        for path in ["/metrics/", "/flows/", "/flows/1", "/flows/kill", "//", "/Status", ""] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }

    #[test]
    fn every_path_of_the_index_leads_somewhere() {
        for line in INDEX.lines().skip(1) {
            for word in line.split_whitespace().filter(|word| word.starts_with('/')) {
                assert!(Route::of(&word.replace("ID", "1")).is_some(), "{word}");
            }
        }
    }

    #[test]
    fn a_query_is_a_filter_or_says_what_is_wrong() {
        let all = filter("").unwrap();
        assert!(all.rule.is_none() && all.client.is_none() && all.limit == FLOWS);
        let some =
            filter("rule=web&upstream=unix%3A%2Frun%2Fx&relay=sockmap&client=10.0.0.1&limit=5");
        let some = some.unwrap();
        assert_eq!((some.rule.as_deref(), some.limit), (Some("web"), 5));
        assert_eq!(some.upstream.as_deref(), Some("unix:/run/x"));
        assert_eq!(some.relay, Some(Mode::Sockmap));
        assert_eq!(some.client, Some("10.0.0.1/32".parse().unwrap()));
        for (wrong, why) in [
            ("rules=web", "unknown key `rules`"),
            ("relay=kernel", "unknown relay `kernel`"),
            ("client=web", "`web` is no address"),
            ("limit=0", "`0` is no number from 1"),
            ("limit=20001", "`20001` is no number from 1"),
        ] {
            let said = filter(wrong).unwrap_err();
            assert!(said.starts_with(why), "{wrong}: {said}");
        }
    }
}
