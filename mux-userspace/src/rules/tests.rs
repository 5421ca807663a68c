#[test]
fn peek() {
    for text in [
        "[[rule]]\nupstrem = 80\n",
        "listen = 3000\n[[rule]]\nmatch = 'redis'\nupstream = 'wbe'\n[[rule]]\nmatch = { regex = '^(a' }\nupstream=80\n[[upstream]]\nname = 'web'\nendpoints = ['a:1']\nhealth = { interval = '2s' }\n[timeouts]\nidle = 3\n[kernel]\nsend_buffer='1MiB'\nbacklog_limit='600KiB'",
        "listen = \"0.0.0.0:1\"\n[[rule]]\nupstream = 80\n[[rule]]\nname='x'\nupstream = 81\n",
        "listen = \n[[rule]\n",
        "",
        "listen = '1.1.1.1:1'",
        "rule = 3\nlisten=['1.1.1.1:1', '1.1.1.1:1', 3]",
        "match = {tls = true, a.b = 1}\n[[rule]]\nupstream=80\nmatch={ tls = {}, ssh = true, bytes = {}, all = ['tls', 'tlss', {}]}",
    ] {
        println!("{}\n==========", super::parse("rules.toml", text).unwrap_err());
    }
}
