use super::*;

fn env() -> Environment {
    Environment { home: Some("/root".into()), host: "node1".into(), pid: 7, ..Environment::default() }
}

fn config(text: &str) -> Config {
    with(&env(), &Overrides::default(), text)
}

fn with(env: &Environment, overrides: &Overrides, text: &str) -> Config {
    let file = ConfFile::parse(text.as_bytes()).unwrap();
    ConfigBuilder::new(env, overrides).unwrap().build(None, Some(&file)).unwrap()
}

#[test]
fn the_more_specific_section_wins() {
    let text =
        "[client.admin]\na=3\n[client]\na=2\nb=2\n[global]\na=1\nb=1\nc=1\n[client.other]\nc=4\n[osd]\nc=5\n";
    let config = config(text);
    assert_eq!((config.get("a"), config.get("b"), config.get("c")), (Some("3"), Some("2"), Some("1")));
}

#[test]
fn environment_wins_over_the_file_and_overrides_over_all() {
    let text = "[global]\nkeyring=/file\nmon_host=file\nrbd_cache=file\n";
    let mut env = env();
    let mut overrides = Overrides::default();
    assert_eq!(with(&env, &overrides, text).get("keyring"), Some("/file"));
    env.ceph_keyring = Some("/env".into());
    assert_eq!(with(&env, &overrides, text).get("keyring"), Some("/env"));
    env.ceph_args = Some("-k /args -m args --rbd-cache=args --mon_host last".into());
    let both = with(&env, &overrides, text);
    assert_eq!((both.get("keyring"), both.get("rbd_cache")), (Some("/args"), Some("args")));
    overrides.options.set("rbd cache", "override");
    overrides.options.set("mon_host", "option");
    overrides.mon_host = Some("override".into());
    let all = with(&env, &overrides, text);
    assert_eq!((all.get("mon_host"), all.get("rbd_cache")), (Some("override"), Some("override")));
    assert_eq!(all.get("keyring"), Some("/args"));
}

#[test]
fn the_identity_comes_from_overrides_then_arguments() {
    let mut env = env();
    let mut overrides = Overrides::default();
    let name = |env: &Environment, overrides: &Overrides| with(env, overrides, "").entity().to_string();
    assert_eq!(name(&env, &overrides), "client.admin");
    env.ceph_args = Some("--id args".into());
    assert_eq!(name(&env, &overrides), "client.args");
    overrides.id = Some("id".into());
    assert_eq!(name(&env, &overrides), "client.id");
    overrides.name = Some("client.name".into());
    assert_eq!(name(&env, &overrides), "client.name");
    overrides.name = Some("qemu".into());
    let error = ConfigBuilder::new(&env, &overrides).unwrap_err();
    assert!(error.to_string().starts_with("'qemu' is not of the form TYPE.ID"), "{error}");
}

#[test]
fn files_are_looked_for_where_ceph_does() {
    let paths = |env: &Environment, overrides: &Overrides| {
        let builder = ConfigBuilder::new(env, overrides).unwrap();
        let paths: Vec<_> =
            builder.conf_paths().unwrap().iter().map(|path| path.display().to_string()).collect();
        (paths.join(" "), builder.conf_is_required())
    };
    let mut env = env();
    let mut overrides = Overrides { cluster: Some("east".into()), ..Overrides::default() };
    assert_eq!(
        paths(&env, &overrides),
        ("/etc/ceph/east.conf /root/.ceph/east.conf east.conf".into(), false)
    );
    env.ceph_conf = Some("/a b;/$cluster,/$id".into());
    assert_eq!(paths(&env, &overrides), ("/a b /east /admin".into(), true));
    env.ceph_args = Some("-c /args".into());
    assert_eq!(paths(&env, &overrides), ("/args".into(), true));
    overrides.conf = Some("/cli".into());
    assert_eq!(paths(&env, &overrides), ("/cli".into(), true));
}

#[test]
fn the_cluster_is_named_after_the_file_that_was_asked_for() {
    let cluster = |conf: Option<&str>, cluster: Option<&str>, path: &str| {
        let overrides = Overrides {
            conf: conf.map(Into::into),
            cluster: cluster.map(Into::into),
            ..Overrides::default()
        };
        let builder = ConfigBuilder::new(&env(), &overrides).unwrap();
        builder.build(Some(path.as_ref()), Some(&ConfFile::default())).unwrap().cluster().to_owned()
    };
    assert_eq!(cluster(None, None, "/x/east.conf"), "ceph");
    assert_eq!(cluster(Some("/x/east.conf"), None, "/x/east.conf"), "east");
    assert_eq!(cluster(Some("/x/east.cfg"), None, "/x/east.cfg"), "ceph");
    assert_eq!(cluster(Some("/x/east.conf"), Some("west"), "/x/east.conf"), "west");
}

#[test]
fn credentials_are_a_key_or_a_keyfile_or_keyrings() {
    let keyrings =
        ["client.admin.keyring", "keyring"].map(|name| PathBuf::from(format!("/etc/ceph/ceph.{name}")));
    let Credentials::Keyring(paths) = config("").credentials() else { panic!("keyrings are the default") };
    assert_eq!(paths[..2], keyrings);
    assert_eq!(paths.len(), 4);
    let text = "[global]\nkeyring=/a,/b\\;/c d\n";
    assert_eq!(
        config(text).credentials(),
        Credentials::Keyring(vec!["/a".into(), "/b".into(), "/c d".into()])
    );
    let text = format!("{text}keyfile=$home/k\n");
    assert_eq!(config(&text).credentials(), Credentials::Keyfile("/root/k".into()));
    let config = config(&format!("{text}key=AQBhush==\n"));
    assert_eq!(config.credentials(), Credentials::Key("AQBhush==".into()));
    assert!(!format!("{config:?} {:?}", config.credentials()).contains("AQBhush"));
    let overrides = Overrides { key: Some("AQBhush==".into()), ..Overrides::default() };
    let env = Environment { ceph_args: Some("--key AQBhush==".into()), ..env() };
    let builder = ConfigBuilder::new(&env, &overrides).unwrap();
    assert!(!format!("{env:?} {overrides:?} {builder:?}").contains("AQBhush"));
}

#[test]
fn authentication_is_cephx_unless_configured_otherwise() {
    let methods = |text: &str| config(text).auth_methods();
    assert_eq!(methods(""), Ok(vec![AuthMethod::Cephx]));
    assert_eq!(methods("[global]\nauth_client_required = none\n"), Ok(vec![AuthMethod::None]));
    assert_eq!(
        methods("[global]\nauth_client_required = cephx, none\n"),
        Ok(vec![AuthMethod::Cephx, AuthMethod::None])
    );
    assert_eq!(methods("[global]\nauth supported = none\n"), Ok(vec![AuthMethod::None]));
    let text = "[global]\nauth_supported = none\nauth_client_required = cephx\n";
    assert_eq!(methods(text), Ok(vec![AuthMethod::Cephx]));
    assert_eq!(config(text).get("auth_service_required"), Some("none"));
    assert_eq!(methods("[global]\nauth_client_required = gss, cephx\n"), Ok(vec![AuthMethod::Cephx]));
    assert!(methods("[global]\nauth_client_required = gss\n").is_err());
}

#[test]
fn connection_modes_are_in_order_of_preference() {
    let both = [ConnectionMode::Crc, ConnectionMode::Secure];
    assert_eq!(config("").client_modes().unwrap(), both);
    assert_eq!(config("").mon_client_modes().unwrap(), [both[1], both[0]]);
    assert_eq!(config("[client]\nms_client_mode=secure\n").client_modes().unwrap(), [ConnectionMode::Secure]);
    let error = config("[client]\nms_client_mode=secur\n").client_modes().unwrap_err();
    assert_eq!(
        error.to_string(),
        "option ms_client_mode has the value 'secur', which is not a list of crc and secure"
    );
}

#[test]
fn zero_is_no_timeout() {
    let defaults = config("");
    assert_eq!(defaults.client_mount_timeout(), Ok(None));
    assert_eq!(defaults.rados_osd_op_timeout(), Ok(None));
    let text =
        "[global]\nclient mount timeout = 5\nrados osd op timeout = 30\nrados mon op timeout = 1 min\n";
    let config = config(text);
    assert_eq!(config.client_mount_timeout(), Ok(Some(Duration::from_secs(5))));
    assert_eq!(config.rados_osd_op_timeout(), Ok(Some(Duration::from_secs(30))));
    assert_eq!(config.rados_mon_op_timeout(), Ok(Some(Duration::from_secs(60))));
}

#[test]
fn typed_options_have_ceph_s_defaults() {
    let config = config("[client]\nrbd_cache = maybe\n");
    assert_eq!(config.get_size("rbd_sparse_read_threshold_bytes"), Ok(Some(65536)));
    assert_eq!(config.get_count("rbd_discard_granularity_bytes"), Ok(Some(65536)));
    assert_eq!(config.get_bool("rbd_skip_partial_discard"), Ok(Some(true)));
    assert_eq!(config.get_bool("rbd_no_such_option"), Ok(None));
    assert!(config.get_bool("rbd_cache").is_err());
}

#[test]
fn monitors_come_from_mon_host_or_else_from_the_legacy_sections() {
    let legacy = "[mon]\nmon addr = 10.0.0.9\n[mon.a]\nhost=x\nmon addr = 10.0.0.1:6789\n[mon.b]\nhost=y\n[mon.]\nc=1\n";
    let shown = |text: &str| {
        let monitors = config(text).mon_hosts().unwrap();
        monitors.iter().flatten().map(MonAddr::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(legacy), "10.0.0.1 10.0.0.9");
    assert_eq!(shown(&format!("[global]\nmon host = 10.0.0.3\n{legacy}")), "10.0.0.3");
    assert_eq!(shown(""), "");
}

#[test]
fn dns_is_asked_for_the_service() {
    assert_eq!(config("").mon_dns_srv().query(), "_ceph-mon._tcp");
    let text = "[global]\nmon_dns_srv_name = ceph_example.com\n";
    assert_eq!(config(text).mon_dns_srv().query(), "_ceph._tcp.example.com");
}

#[test]
fn endless_values_are_an_error() {
    let mut text = "[global]\n".to_owned();
    for (this, next) in ('a'..='y').zip('b'..='z') {
        text += &format!("{this} = ${{{next}}}${{{next}}}\n");
    }
    let file = ConfFile::parse(format!("{text}z = 1\n").as_bytes()).unwrap();
    let builder = ConfigBuilder::new(&env(), &Overrides::default()).unwrap();
    let error = builder.build(None, Some(&file)).unwrap_err();
    assert_eq!(error.to_string(), "option a refers to other options too deeply or too often");
}

#[test]
fn what_the_monitors_say_goes_before_defaults_only() {
    let mut env = env();
    env.ceph_args = Some("--rados-mon-op-timeout 3".into());
    let mut overrides = Overrides::default();
    overrides.options.set("objecter inflight ops", "7");
    let here = with(&env, &overrides, "[client]\nrados osd op timeout = 2\n");
    let central = [
        ("rados_osd_op_timeout", "9"),
        ("rados_mon_op_timeout", "9"),
        ("objecter_inflight_ops", "9"),
        ("mon_client_ping_interval", "9"),
        ("rbd_qos_iops_limit", "9"),
    ];
    let merged = here.with_monitors(central);
    let values = central.map(|(name, _)| merged.get(name).unwrap());
    assert_eq!(values, ["2", "3", "7", "9", "9"]);
    let by_monitors = central.map(|(name, _)| merged.is_set_by_monitors(name));
    assert_eq!(by_monitors, [false, false, false, true, true]);
}

#[test]
fn what_the_monitors_take_back_is_as_if_never_said() {
    let here = config("[client]\n");
    let merged = here.with_monitors([("rados_osd_op_timeout", "9")]);
    assert_eq!(merged.rados_osd_op_timeout().unwrap(), Some(Duration::from_secs(9)));
    let undone = here.with_monitors([]);
    assert_eq!(undone.rados_osd_op_timeout().unwrap(), None);
    assert!(!undone.is_set_by_monitors("rados_osd_op_timeout"));
}

#[test]
fn monitors_do_not_say_where_they_are_nor_who_the_client_is() {
    let merged =
        Config::default().with_monitors([("mon_host", "10.6.6.6"), ("key", "AQ=="), ("keyring", "/x")]);
    assert_eq!((merged.get("mon_host"), merged.get("key")), (None, None));
    assert_eq!(merged.get("keyring"), Config::default().get("keyring"));
}
