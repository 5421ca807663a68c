//! Screens, compared with files, and keys.

use std::{fs, path::PathBuf};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Modifier,
};

use super::{
    draw,
    keys::{Effect, press},
    model::{Model, Prompt, Rate, Sample, View},
};
use crate::admin::view::{
    ByRelay, EndpointStatus, FlowStatus, Flows, RelayStatus, Relayed, RuleStatus, Status,
    UpstreamStatus, Ways,
};

fn rule(rule: &str, upstream: &str, flows: [u64; 4], bytes: u64) -> RuleStatus {
    RuleStatus {
        rule: rule.into(),
        upstream: upstream.into(),
        flows: ByRelay::new(flows),
        ended: ByRelay::new([10, 0, 2, 0]),
        bytes: Ways { up: bytes, down: 10 * bytes },
    }
}

fn endpoint(address: &str, state: &str, reason: &str, flows: u64) -> EndpointStatus {
    EndpointStatus {
        address: address.into(),
        state: state.into(),
        reason: reason.into(),
        flows,
        limit: Some(100),
        weight: 1,
        backup: false,
    }
}

fn flow(number: u64, rule: &str, relay: &str, bytes: u64) -> FlowStatus {
    FlowStatus {
        id: format!("{number:016x}"),
        client: format!("192.0.2.{number}:4711"),
        listener: "edge".into(),
        rule: Some(rule.into()),
        upstream: Some(rule.into()),
        endpoint: Some("10.0.0.5:443".into()),
        relay: Some(relay.into()),
        relay_note: String::new(),
        state: "relaying".into(),
        age_seconds: 60.0 * number as f64,
        bytes_up: bytes,
        bytes_down: 3 * bytes,
    }
}

/// The daemon after so many seconds of 1,000 connections and a MiB up a second.
fn sample(seconds: u64) -> Sample {
    at(seconds, 1000 * seconds, seconds << 20)
}

/// The daemon after so many seconds, with so many connections and bytes up since then.
fn at(seconds: u64, accepted: u64, bytes: u64) -> Sample {
    let status = Status {
        version: "0.1.0".into(),
        pid: 4242,
        state: "serving".into(),
        uptime_seconds: 3600.0 + seconds as f64,
        relay: RelayStatus {
            in_force: "sockmap".into(),
            switch: "auto".into(),
            self_test_milliseconds: Some(155.2),
            ..RelayStatus::default()
        },
        cores: vec![<_>::default(); 2],
        connections: 7,
        sniffing: 1,
        flows: ByRelay::new([2, 1, 3, 0]),
        bytes: Ways { up: bytes, down: 10 * bytes },
        relayed: Relayed {
            copy: Ways { up: 500, down: 1500 },
            splice: Ways { up: bytes / 2, down: bytes / 2 * 3 },
            sockmap: Ways { up: bytes, down: 3 * bytes },
            packet: Ways::default(),
        },
        rules: vec![
            rule("ssh", "127.0.0.1:22", [1, 0, 0, 0], 500),
            rule("web", "web", [1, 1, 3, 0], bytes),
        ],
        upstreams: vec![
            UpstreamStatus {
                name: "web".into(),
                flows: 5,
                queue: 2,
                endpoints: vec![
                    endpoint("10.0.0.5:443", "up", "", 5),
                    endpoint("10.0.0.6:443", "down", "10.0.0.6:443: connection refused", 0),
                ],
                ..UpstreamStatus::default()
            },
            UpstreamStatus {
                name: "127.0.0.1:22".into(),
                endpoints: vec![EndpointStatus {
                    limit: None,
                    ..endpoint("127.0.0.1:22", "up", "", 1)
                }],
                ..UpstreamStatus::default()
            },
        ],
        counters: [("accepted", accepted), ("promoted", 5), ("passes", 7)]
            .map(|(name, count)| (name.to_owned(), count))
            .into(),
        ..Status::default()
    };
    let flows = Flows {
        flows: vec![
            flow(1, "ssh", "copy", 500),
            flow(2, "web", "sockmap", bytes),
            flow(3, "web", "splice", bytes / 2),
        ],
        truncated: false,
    };
    Sample { status, flows }
}

fn model() -> Model {
    let mut model = Model::new("/run/mux/admin.sock".into());
    for seconds in [0, 1, 2, 4, 5, 6] {
        model.update(sample(seconds));
    }
    model
}

/// A minute of a load that grows, stays, and falls again, so that the sparklines have a shape.
fn ramp() -> Model {
    let mut model = Model::new("/run/mux/admin.sock".into());
    let (mut accepted, mut bytes) = (0, 0);
    for second in 0..=55 {
        let share = match second {
            0..=30 => second,
            31..=45 => 30,
            _ => 60 - second,
        };
        accepted += 40 * share;
        bytes += share << 16;
        model.update(at(second, accepted, bytes));
    }
    model
}

fn key(model: &mut Model, code: KeyCode) -> Effect {
    press(model, KeyEvent::new(code, KeyModifiers::NONE))
}

fn keys(model: &mut Model, text: &str) {
    for c in text.chars() {
        assert_eq!(key(model, KeyCode::Char(c)), Effect::None);
    }
}

fn screen(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let row: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// A screen with what is bold, underlined or reversed in it: a second picture under the first one,
/// with a letter for each such place.
fn styled(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let mut text = screen(model, width, height);
    text.push_str(&"─".repeat(usize::from(width)));
    text.push('\n');
    for y in 0..height {
        let mark = |x| match buffer[(x, y)].modifier {
            style if style.contains(Modifier::REVERSED) => 'R',
            style if style.contains(Modifier::BOLD) => 'B',
            style if style.contains(Modifier::UNDERLINED) => 'U',
            _ => ' ',
        };
        let row: String = (0..width).map(mark).collect();
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

/// Compares a screen with its file; `MUX_UPDATE_DOCS=1` writes it.
#[track_caller]
fn looks_like(name: &str, model: &Model) {
    for (width, height) in [(80, 24), (120, 40)] {
        let file = format!("src/top/screens/{name}-{width}x{height}.txt");
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
        let screen = styled(model, width, height);
        if std::env::var_os("MUX_UPDATE_DOCS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &screen).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert!(screen == expected, "{}:\n{screen}", path.display());
    }
}

#[test]
fn each_view_looks_like_its_file() {
    let mut model = ramp();
    for view in View::ALL {
        assert_eq!(model.view, view);
        looks_like(view.name(), &model);
        key(&mut model, KeyCode::Tab);
    }
    assert_eq!(model.view, View::Rules, "and round");
    key(&mut model, KeyCode::BackTab);
    assert_eq!(model.view, View::Flows);
}

#[test]
fn what_is_wrong_can_be_seen() {
    let mut model = model();
    model.sample.status.relay.switch = "off".into();
    model.sample.status.state = "draining".into();
    model.paused = true;
    model.lose("no daemon listens on /run/mux/admin.sock: refused\nhint: …");
    looks_like("lost", &model);
}

#[test]
fn help_lies_over_the_table_until_a_key() {
    let mut model = model();
    key(&mut model, KeyCode::Char('?'));
    looks_like("help", &model);
    assert_eq!(key(&mut model, KeyCode::Char('p')), Effect::None);
    assert!(!model.help && !model.paused, "the key only closes it");
}

#[test]
fn any_size_can_be_drawn() {
    let mut model = model();
    for _ in View::ALL {
        key(&mut model, KeyCode::Tab);
        for (width, height) in [(1, 1), (5, 3), (20, 8), (30, 10), (79, 9), (300, 100)] {
            screen(&model, width, height);
        }
    }
    key(&mut model, KeyCode::Char('?'));
    screen(&model, 3, 3);
    screen(&Model::default(), 80, 24);
}

#[test]
fn rates_are_of_the_time_between_samples() {
    let model = model();
    assert_eq!(model.accepted.newest(9), [1000; 5], "also over two seconds");
    assert_eq!(model.up.last(), 1 << 20);
    assert_eq!(model.down.last(), 10 << 20);
    let web = model.rule_rates[&("web".to_owned(), "web".to_owned())];
    assert!((web.up - f64::from(1 << 20)).abs() < 1.0, "{web:?}");
    assert!((model.flow_rates["0000000000000003"].up - f64::from(1 << 19)).abs() < 1.0);
}

#[test]
fn rates_by_upstream_and_relay_are_those_of_their_flows() {
    let mut model = model();
    let mib = f64::from(1 << 20);
    let is = |rate: &Rate, up: f64, down: f64| {
        assert!((rate.up - up).abs() < 1.0 && (rate.down - down).abs() < 1.0, "{rate:?}");
    };
    is(&model.upstream_rates["web"], mib, 10.0 * mib);
    is(&model.upstream_rates["127.0.0.1:22"], 0.0, 0.0);
    is(&model.relay_rates["copy"], 0.0, 0.0);
    is(&model.relay_rates["splice"], mib / 2.0, 1.5 * mib);
    is(&model.relay_rates["sockmap"], mib, 3.0 * mib);
    // Another rule to the same upstream counts for that, too.
    let mut next = sample(7);
    next.status.rules.push(rule("more", "web", [0; 4], 1 << 20));
    model.update(next);
    is(&model.upstream_rates["web"], 2.0 * mib, 20.0 * mib);
}

#[test]
fn a_flow_that_changes_its_relay_takes_its_bytes_along_and_that_is_no_rate() {
    let mut model = model();
    let mut next = sample(7);
    let before = &model.sample.flows.flows[1];
    let (up, down) = (before.bytes_up, before.bytes_down);
    next.flows.flows[1].relay = Some("copy".into());
    let relayed = &mut next.status.relayed;
    for (ways, sign) in [(&mut relayed.copy, 1), (&mut relayed.sockmap, -1)] {
        ways.up = ways.up.wrapping_add_signed(sign * up.cast_signed());
        ways.down = ways.down.wrapping_add_signed(sign * down.cast_signed());
    }
    model.update(next);
    let mib = f64::from(1 << 20);
    assert!(model.relay_rates["copy"].up < 1.0, "{:?}", model.relay_rates);
    assert!((model.relay_rates["sockmap"].up - mib).abs() < 1.0, "{:?}", model.relay_rates);
}

#[test]
fn another_process_begins_anew() {
    let mut model = model();
    let mut other = sample(1);
    other.status.pid = 4243;
    model.update(other);
    assert!(model.accepted.newest(9).is_empty() && model.rule_rates.is_empty());
    // Nor does one that has not moved divide by nothing.
    let same = model.sample.clone();
    model.update(same);
    assert!(model.up.newest(9).is_empty());
}

#[test]
fn a_paused_screen_stays() {
    let mut model = model();
    key(&mut model, KeyCode::Char('p'));
    model.update(sample(100));
    assert_eq!(model.sample.status.counters["accepted"], 6000);
    key(&mut model, KeyCode::Char('p'));
    model.update(sample(100));
    assert_eq!(model.sample.status.counters["accepted"], 100_000);
}

fn order(model: &Model) -> Vec<String> {
    let first = |line: &super::table::Line| line.cells[0].text.clone();
    model.rows().lines.iter().map(first).collect()
}

#[test]
fn lines_are_sorted_by_each_column_and_reversed() {
    let mut model = model();
    assert_eq!(order(&model), ["ssh", "web"], "as in the file");
    keys(&mut model, "sss");
    assert_eq!(model.order().column, Some(2));
    assert_eq!(order(&model), ["web", "ssh"], "most flows first");
    keys(&mut model, "r");
    assert_eq!(order(&model), ["ssh", "web"]);
    keys(&mut model, "ssssss");
    assert_eq!(model.order(), <_>::default(), "after the last column as it was");
    key(&mut model, KeyCode::Tab);
    keys(&mut model, "s");
    assert_eq!(order(&model)[0], "127.0.0.1:22", "words from the first letter");
    key(&mut model, KeyCode::BackTab);
    assert_eq!(model.order().column, None, "each view has its own order");
}

#[test]
fn a_filter_is_typed_kept_and_undone() {
    let mut model = model();
    keys(&mut model, "/sSq");
    assert_eq!((model.filter.as_str(), order(&model).len()), ("sSq", 0), "q is a letter here");
    key(&mut model, KeyCode::Backspace);
    assert_eq!(order(&model), ["ssh"]);
    key(&mut model, KeyCode::Enter);
    assert_eq!((&model.prompt, model.filter.as_str()), (&Prompt::None, "sS"));
    keys(&mut model, "/x");
    key(&mut model, KeyCode::Esc);
    assert_eq!(model.filter, "sS", "as it was before");
    key(&mut model, KeyCode::Esc);
    assert_eq!(model.filter, "");
    keys(&mut model, "/");
    keys(&mut model, &"x".repeat(100));
    assert_eq!(model.filter.len(), 64);
}

#[test]
fn a_flow_is_killed_only_after_a_yes() {
    let mut model = model();
    keys(&mut model, "k");
    assert!(model.message.as_deref().is_some_and(|said| said.contains("view of flows")));
    key(&mut model, KeyCode::BackTab);
    key(&mut model, KeyCode::Down);
    keys(&mut model, "k");
    looks_like("kill", &model);
    assert_eq!(key(&mut model, KeyCode::Char('n')), Effect::None);
    assert_eq!(model.prompt, Prompt::None);
    keys(&mut model, "k");
    assert_eq!(key(&mut model, KeyCode::Char('y')), Effect::Kill("0000000000000002".into()));
    model.say("flow 0000000000000002 is reset".into());
    assert!(screen(&model, 80, 24).ends_with("flow 0000000000000002 is reset\n"));
    model.sample.flows.flows.clear();
    keys(&mut model, "k");
    assert_eq!(model.prompt, Prompt::None, "there is none");
}

#[test]
fn the_mark_stays_with_its_flow() {
    let mut model = model();
    key(&mut model, KeyCode::BackTab);
    key(&mut model, KeyCode::End);
    assert_eq!(model.marked().as_deref(), Some("0000000000000003"));
    let mut next = sample(7);
    next.flows.flows.remove(0);
    next.flows.flows.push(flow(4, "web", "copy", 1));
    model.update(next);
    assert_eq!((model.selected, model.marked().as_deref()), (1, Some("0000000000000003")));
    for (code, line) in [
        (KeyCode::Up, 0),
        (KeyCode::Up, 0),
        (KeyCode::PageDown, 2),
        (KeyCode::Down, 2),
        (KeyCode::PageUp, 0),
        (KeyCode::End, 2),
        (KeyCode::Home, 0),
    ] {
        key(&mut model, code);
        assert_eq!(model.selected, line, "{code:?}");
    }
}

#[test]
fn q_and_control_c_quit() {
    let mut model = model();
    assert_eq!(key(&mut model, KeyCode::Char('q')), Effect::Quit);
    let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
    assert_eq!(press(&mut model, control('c')), Effect::Quit);
    assert_eq!(press(&mut model, control('q')), Effect::None);
    keys(&mut model, "/");
    assert_eq!(press(&mut model, control('c')), Effect::Quit, "also while something is typed");
}
