//! What operators meet: precedence, mistakes, and the texts made from the table.

use std::path::Path;

use toml::Value;

use super::{load::is_service_link, *};

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(own).collect()
}

fn file_error(text: &str) -> String {
    let mut loader = Loader::default();
    let error = loader.file("ringway.toml", text).err();
    let error = error.or_else(|| loader.finish().err());
    error.expect("refused").to_string()
}

#[test]
fn the_defaults_pass_their_own_checks() {
    Config::default().check().unwrap();
}

// The table is read off the structs: a field without a doc comment, or a number without a range, would come out empty.
#[test]
fn the_table_covers_every_field() {
    let values = toml::Table::try_from(Config::default()).unwrap();
    let mut fields: Vec<String> = Vec::new();
    for (section, content) in &values {
        let names = content.as_table().unwrap().keys();
        fields.extend(names.map(|name| format!("{section}.{name}")));
    }
    let mut keys: Vec<String> = settings::all().map(|s| s.key.clone()).collect();
    fields.sort();
    keys.sort();
    assert_eq!(keys, fields);
    for setting in settings::all() {
        assert!(!setting.meaning.is_empty(), "{}", setting.key);
        assert!(setting.kind.allows(&setting.default), "{}", setting.key);
        if let Kind::Integer { max, .. } = setting.kind {
            assert!(max < i64::MAX, "{} has no upper bound", setting.key);
        }
    }
    for section in settings() {
        assert!(!section.meaning.is_empty(), "{}", section.name);
    }
}

// The same key in all three places: flags beat the environment, which beats the file.
#[test]
fn the_stronger_source_wins() {
    let mut loader = Loader::default();
    let text = "[ws]\nbacklog = 1\nmax_message_bytes = 11\n[shards]\ncount = 1\n";
    loader.file("a.toml", text).unwrap();
    let set = [
        ("RINGWAY_WS_BACKLOG", "2"),
        ("RINGWAY_SHARDS_COUNT", "2"),
        ("HOME", "/"),
    ];
    loader.environment(variables(&set)).unwrap();
    loader.flag("--shards", "shards.count", "3").unwrap();
    let (config, origins) = loader.finish().unwrap();
    let found = (
        config.ws.max_message_bytes,
        config.ws.backlog,
        config.shards.count,
    );
    assert_eq!(found, (11, 2, 3));
    assert_eq!(origins["shards.count"], Origin::Flag("--shards".into()));
    assert_eq!(origins["ws.max_message_bytes"].to_string(), "a.toml:3");
    assert_eq!(config.outbox, Outbox::default());
}

#[test]
fn lists_and_words_come_from_the_environment() {
    let mut loader = Loader::default();
    let set = [
        ("RINGWAY_WS_PATHS", "/ws, /echo"),
        ("RINGWAY_SHARDS_CORES", "0,2"),
        ("RINGWAY_OUTBOX_WHEN_FULL", "drop_oldest"),
        ("RINGWAY_OUTBOX_MAX_BYTES", "2_097_152"),
        ("RINGWAY_WS_SECRET_PARAMS", ""),
    ];
    loader.environment(variables(&set)).unwrap();
    let (config, _) = loader.finish().unwrap();
    assert_eq!(config.ws.paths, ["/ws", "/echo"]);
    assert_eq!(config.shards.cores, [0, 2]);
    assert_eq!(config.outbox.when_full, WhenFull::DropOldest);
    assert_eq!(config.outbox.max_bytes, 2 << 20);
    assert!(config.ws.secret_params.is_empty());
}

#[test]
fn mistakes_in_a_file_name_line_key_value_and_what_is_allowed() {
    let cases = [
        (
            "\n[ws]\nlistn = 1\n",
            "ringway.toml:3: there is no setting ws.listn; did you mean ws.listen?",
        ),
        (
            "[wss]\nlisten = \"127.0.0.1:1\"\n",
            "ringway.toml:2: there is no setting wss.listen; did you mean ws.listen?",
        ),
        (
            "[outbox]\nmax_bytes = 0\n",
            "ringway.toml:2: outbox.max_bytes = 0 is refused; allowed: 1 to 4_294_967_296",
        ),
        (
            "[outbox]\nwhen_full = \"wait\"\n",
            "ringway.toml:2: outbox.when_full = \"wait\" is refused; allowed: close, drop_oldest",
        ),
        (
            "[ws]\nbacklog = \"many\"\n",
            "ringway.toml:2: ws.backlog = \"many\" is refused; allowed: 1 to 1_000_000",
        ),
        (
            "[ws]\npaths = [\"ws\"]\n",
            "ringway.toml:2: ws.paths = [\"ws\"] is refused; allowed: a list; each: a path that begins with /, \
             without ? and #",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(file_error(text), message);
    }
    let broken = file_error("[ws]\nbacklog = = 1\n");
    assert!(broken.starts_with("ringway.toml:2: "), "{broken}");
    assert!(!broken.contains('\n'), "{broken}");
}

#[test]
fn mistakes_elsewhere_name_the_variable_or_flag() {
    let mut loader = Loader::default();
    let refused = loader.environment(variables(&[("RINGWAY_WS_LISTN", "1")]));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "RINGWAY_WS_LISTN: there is no setting RINGWAY_WS_LISTN; did you mean RINGWAY_WS_LISTEN?"
    );
    let refused = loader.environment(variables(&[("RINGWAY_GATEWAY_INSECURE", "yes")]));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "RINGWAY_GATEWAY_INSECURE: gateway.insecure = \"yes\" is refused; allowed: true or false"
    );
    let refused = loader.flag("--shards", "shards.count", "1025");
    assert_eq!(
        refused.unwrap_err().to_string(),
        "--shards: shards.count = 1025 is refused; allowed: 0 to 1_024"
    );
}

// An open gRPC port without `insecure` would let anybody push.
#[test]
fn doors_beyond_loopback_need_the_operators_word() {
    let mut loader = Loader::default();
    loader.flag("--ws", "ws.listen", "0.0.0.0:7000").unwrap();
    loader
        .finish()
        .expect("anonymous clients may come from anywhere");
    for key in ["grpc.listen", "admin.listen"] {
        let mut loader = Loader::default();
        loader.flag("--x", key, "0.0.0.0:7000").unwrap();
        let message = loader.finish().unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("--x: {key} = \"0.0.0.0:7000\"")),
            "{message}"
        );
        assert!(message.contains("gateway.insecure = true"), "{message}");

        let mut loader = Loader::default();
        loader.flag("--x", key, "0.0.0.0:7000").unwrap();
        loader
            .flag("--insecure", "gateway.insecure", "true")
            .unwrap();
        loader.finish().unwrap();
    }
}

#[test]
fn settings_at_odds_with_each_other_are_refused() {
    let cases = [
        ("grpc.listen", "127.0.0.1:65535"),
        ("ws.listen", "127.0.0.1:9000"),
        ("ws.listen", "127.0.0.1:9002"),
        ("admin.listen", "127.0.0.1:8080"),
        ("shards.cores", "0,1,2"),
        ("grpc.shard_window_bytes", "65535"),
        ("outbox.max_bytes", "1048575"),
        ("drain.spread_ms", "600001"),
    ];
    for (key, value) in cases {
        let mut loader = Loader::default();
        loader.flag("--shards", "shards.count", "2").unwrap();
        loader.flag("--x", key, value).unwrap();
        let message = loader.finish().expect_err(key).to_string();
        assert!(message.starts_with(&format!("--x: {key} = ")), "{message}");
    }
    let mut loader = Loader::default();
    let set = [
        ("limits.max_payload_bytes", "5000000"),
        ("outbox.max_bytes", "5000000"),
    ];
    for (key, value) in set {
        loader.flag("--x", key, value).unwrap();
    }
    let message = loader.finish().unwrap_err().to_string();
    assert!(message.starts_with("--x: limits.max_payload_bytes = "));
    let mut loader = Loader::default();
    loader.flag("--x", "outbox.max_bytes", "4096").unwrap();
    assert_eq!(
        loader.finish().unwrap_err().to_string(),
        "--x: outbox.max_bytes = 4096 is refused; allowed: at least limits.max_payload_bytes (1048576), so that the \
         longest push fits; or lower that"
    );
    let mut loader = Loader::default();
    for key in ["ws.listen", "grpc.listen", "admin.listen"] {
        loader.flag("--x", key, "127.0.0.1:0").unwrap();
    }
    loader.finish().expect("port 0 never clashes");
}

#[test]
fn who_registers_must_be_reachable_and_let_in() {
    let etcd = ("registry.etcd", "http://etcd-0:2379, http://[::1]:2379");
    let open = ("grpc.listen", "0.0.0.0:9000");
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[etcd, open], "registry.advertise"),
        (
            &[etcd, ("registry.username", "ringway")],
            "registry.password_file",
        ),
        (&[("registry.etcd", "etcd-0:2379")], "registry.etcd"),
        (&[("registry.etcd", "https://etcd-0:2379")], "registry.etcd"),
        (&[("registry.advertise", "gw-1:0")], "registry.advertise"),
        (&[("registry.prefix", "/ringway")], "registry.prefix"),
    ];
    for (flags, key) in cases {
        let mut loader = Loader::default();
        loader
            .flag("--insecure", "gateway.insecure", "true")
            .unwrap();
        let set = flags
            .iter()
            .try_for_each(|(key, value)| loader.flag("--x", key, value));
        let refused = set.err().or_else(|| loader.finish().err()).expect(key);
        assert!(refused.to_string().contains(key), "{refused}");
    }
    for advertise in [
        "gw-1.ringway",
        "gw-1.ringway:9000",
        "[::1]:9000",
        "::1",
        "10.0.0.7",
    ] {
        let mut loader = Loader::default();
        loader
            .flag("--insecure", "gateway.insecure", "true")
            .unwrap();
        for (key, value) in [etcd, open, ("registry.advertise", advertise)] {
            loader.flag("--x", key, value).unwrap();
        }
        let (config, _) = loader.finish().unwrap();
        assert_eq!(config.registry.etcd.len(), 2);
    }
}

#[test]
fn the_settings_shown_in_the_page_about_discovery_are_accepted() {
    let page = include_str!("../../../docs/discovery.md");
    let mut blocks = page
        .split("\n```")
        .filter_map(|block| block.strip_prefix("toml\n"));
    let shown = blocks.find(|block| block.contains("[registry]")).unwrap();
    let mut loader = Loader::default();
    loader
        .flag("--insecure", "gateway.insecure", "true")
        .unwrap();
    loader.file("shown.toml", shown).unwrap();
    assert_eq!(loader.finish().unwrap().0.registry.etcd.len(), 3);
}

// A pod of a service called "ringway" is started with these; refusing them would keep it from starting.
#[test]
fn kubernetes_service_links_are_no_settings() {
    let links = [
        "RINGWAY_SERVICE_HOST",
        "RINGWAY_SERVICE_PORT",
        "RINGWAY_SERVICE_PORT_GRPC_0",
        "RINGWAY_PORT",
        "RINGWAY_PORT_9000_TCP",
        "RINGWAY_PORT_9000_TCP_ADDR",
        "RINGWAY_WS_PORT_8080_TCP_PROTO",
    ];
    let set: Vec<_> = links.iter().map(|name| (*name, "tcp://10.0.0.1")).collect();
    Loader::default().environment(variables(&set)).unwrap();
    for setting in settings::all() {
        let variable = setting.variable();
        let name = variable.strip_prefix("RINGWAY_").unwrap();
        assert!(!is_service_link(name), "{variable}");
    }
}

#[test]
fn the_printed_settings_can_be_used() {
    let mut loader = Loader::default();
    loader
        .flag("--set", "ws.origins", "https://example.org,null")
        .unwrap();
    loader.flag("--shards", "shards.count", "7").unwrap();
    let (config, origins) = loader.finish().unwrap();
    let text = as_toml(&config, &origins);
    assert!(
        text.contains("# Default: 0. Set by --shards.\ncount = 7\n"),
        "{text}"
    );
    let mut loader = Loader::default();
    loader.file("saved.toml", &text).unwrap();
    assert_eq!(loader.finish().unwrap().0, config);
}

#[test]
fn a_value_out_of_range_is_found_however_it_got_there() {
    let mut config = Config::default();
    config.tick.slice = 0;
    let broken = config.check().unwrap_err();
    assert_eq!(
        (broken.key.as_str(), broken.value.as_str()),
        ("tick.slice", "0")
    );
    assert!(!Kind::Bool.allows(&Value::Integer(1)));
}

// Run with UPDATE_DOCS=1 to write the page's tables anew.
#[test]
fn the_page_of_settings_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- settings -->\n", "<!-- end of settings -->\n");
    let (before, rest) = page.split_once(begin).expect("a place for the tables");
    let (_, after) = rest.split_once(end).expect("an end of the tables");
    let true_page = format!("{before}{begin}\n{}{end}{after}", as_markdown());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &true_page).unwrap();
    }
    assert!(
        page == true_page,
        "run: UPDATE_DOCS=1 cargo test -p gateway-core the_page_of_settings"
    );
}
