use super::*;

fn options(pool: &str, namespace: &str, image: &str, snap: &str) -> SnapOptions {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SnapOptions {
        image: ImageOptions {
            pool: PoolOptions { pool: given(pool), namespace: given(namespace) },
            image: given(image),
        },
        snap: given(snap),
    }
}

fn resolve(options: &SnapOptions, names: &[&str], snap: Snap) -> Result<String, Error> {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut names = Positionals::new(&names);
    let target = options.resolve(&mut names, snap, &Overrides::default())?;
    names.end()?;
    Ok(target.spec.to_string())
}

#[test]
fn parts_come_from_the_spec_or_from_options() {
    for (options, spec, found) in [
        (options("", "", "", ""), "i", "rbd/i"),
        (options("", "", "", ""), "p/n/i@s", "p/n/i@s"),
        (options("p", "", "", ""), "i@s", "p/i@s"),
        (options("p", "n", "", "s"), "i", "p/n/i@s"),
        (options("p", "", "", ""), "q/i", "q/i"),
    ] {
        assert_eq!(resolve(&options, &[spec], Snap::Permitted).unwrap(), found);
    }
    assert_eq!(resolve(&options("p", "n", "i", "s"), &[], Snap::Required).unwrap(), "p/n/i@s");
    assert_eq!(resolve(&options("", "", "p/i@s", ""), &[], Snap::Required).unwrap(), "p/i@s");
}

#[test]
fn what_an_option_names_takes_no_positional_argument() {
    let error = resolve(&options("", "", "i", ""), &["j"], Snap::None).unwrap_err();
    assert_eq!(error.to_string(), "'j' is one argument too many");
    let names = ["a".to_owned(), "b".to_owned()];
    let mut names = Positionals::new(&names);
    let source = ImageOptions::default().resolve(&mut names, &Overrides::default()).unwrap();
    let dest = DestOptions::default().resolve(&mut names, &Overrides::default()).unwrap();
    assert_eq!((source.name.as_str(), dest.name.as_str()), ("rbd/a", "rbd/b"));
}

#[test]
fn snapshots_are_named_where_they_belong() {
    let none = SnapOptions::default();
    for (spec, snap) in [("i@s", Snap::None), ("i", Snap::Required), ("", Snap::Permitted)] {
        assert!(resolve(&none, &[spec], snap).is_err(), "{spec} {snap:?}");
    }
    assert!(resolve(&none, &[], Snap::Permitted).unwrap_err().to_string().contains("image name"));
}

#[test]
fn specs_with_empty_parts_are_refused() {
    for spec in ["", "/", "/i", "p/", "p//i", "p/n/", "@s", "i@", "p/@s"] {
        assert!(parse(spec).is_err(), "{spec}");
    }
}

#[test]
fn names_with_separators_can_be_used_but_not_be_given() {
    let none = SnapOptions::default();
    assert_eq!(resolve(&none, &["p/n/a/b@s@t"], Snap::Permitted).unwrap(), "p/n/a/b@s@t");
    let names = ["p/n/a/b".to_owned()];
    let refused =
        DestOptions::default().resolve(&mut Positionals::new(&names), &Overrides::default()).unwrap_err();
    assert!(refused.to_string().contains("'a/b' cannot be the name of an image"), "{refused}");
}

#[test]
fn a_pool_may_come_with_a_namespace() {
    let args = |spec: Option<&str>, pool: &str| PoolArgs {
        spec: spec.map(str::to_owned),
        options: options(pool, "", "", "").image.pool,
    };
    let found = |pool: &str, namespace: Option<&str>| PoolSpec {
        pool: pool.to_owned(),
        namespace: namespace.map(str::to_owned),
    };
    assert_eq!(args(Some("p/n"), "").resolve().unwrap(), found("p", Some("n")));
    assert_eq!(args(None, "p").resolve().unwrap(), found("p", None));
    assert_eq!(args(None, "").resolve().unwrap(), found("rbd", None));
    assert!(args(Some("p/n/x"), "").resolve().is_err());
    assert!(args(Some("p"), "q").resolve().is_err());
}
