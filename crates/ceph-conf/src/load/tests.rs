use super::*;

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn asking_for(conf: &str) -> Overrides {
    Overrides { conf: Some(conf.into()), ..Overrides::default() }
}

#[test]
fn the_first_file_that_exists_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("east.conf");
    std::fs::write(&path, "[client]\nmon host = 10.0.0.1\n").unwrap();
    let list = format!("/nonexistent/a.conf,{}", path.display());
    let config = load(&Environment::default(), &asking_for(&list)).unwrap();
    assert_eq!(config.path(), Some(path.as_path()));
    assert_eq!(config.get("mon_host"), Some("10.0.0.1"));
    assert_eq!(config.cluster(), "east");
}

#[test]
fn a_file_that_was_asked_for_must_exist() {
    let error = load(&Environment::default(), &asking_for("/nonexistent.conf")).unwrap_err();
    assert_eq!(chain(&error), "configuration file /nonexistent.conf does not exist");
    let env = Environment { ceph_conf: Some("/nonexistent/$cluster.conf".into()), ..Environment::default() };
    let error = load(&env, &Overrides::default()).unwrap_err();
    assert_eq!(chain(&error), "configuration file /nonexistent/ceph.conf does not exist");
}

#[test]
fn a_file_that_nobody_asked_for_may_be_missing() {
    let overrides = Overrides { cluster: Some("no-such-cluster".into()), ..Overrides::default() };
    let config = load(&Environment::default(), &overrides).unwrap();
    assert_eq!((config.path(), config.get("rbd_default_pool")), (None, Some("rbd")));
}

#[test]
fn files_that_are_none_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.conf");
    std::fs::write(&path, "[global]\nkey AQBhush\n").unwrap();
    let error = load(&Environment::default(), &asking_for(path.to_str().unwrap())).unwrap_err();
    let expected = format!(
        "configuration file {} is malformed: line 2, column 12: expected '=' after the option's name",
        path.display()
    );
    assert_eq!(chain(&error), expected);

    let error = load(&Environment::default(), &asking_for(dir.path().to_str().unwrap())).unwrap_err();
    assert!(
        chain(&error).starts_with(&format!("configuration file {} cannot be read", dir.path().display()))
    );
}

#[test]
fn dev_null_is_an_empty_file() {
    let config = load(&Environment::default(), &asking_for("/dev/null")).unwrap();
    assert_eq!((config.cluster(), config.get("mon_host")), ("ceph", None));
}

#[test]
fn this_process_has_an_environment() {
    let env = Environment::from_process().unwrap();
    assert_eq!(env.pid, std::process::id());
    assert!(!env.host.contains('.'));
}
