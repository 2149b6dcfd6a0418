use proptest::prelude::*;

use super::*;

fn get(text: &str, section: &str, name: &str) -> Option<String> {
    let conf = ConfFile::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    conf.section(section)?.get(name).map(str::to_owned)
}

fn error(text: &str) -> String {
    ConfFile::parse(text.as_bytes()).expect_err(text).to_string()
}

#[test]
fn sections_hold_options() {
    let text = "# c\n\n[global]\n\tmon host = a, b ; c\n  fsid=1\n\n[client.qemu] ; d\nrbd-cache = false\n[global]\nfsid = 2\n";
    assert_eq!(get(text, "global", "mon_host").as_deref(), Some("a, b"));
    assert_eq!(get(text, "global", "fsid").as_deref(), Some("2"));
    assert_eq!(get(text, "client.qemu", "rbd_cache").as_deref(), Some("false"));
    assert_eq!(get(text, "client", "rbd_cache"), None);
}

#[test]
fn values_may_be_quoted_escaped_and_continued() {
    for (text, value) in [
        ("a = x y  \n", "x y"),
        ("a = \"x # y\n", "!"),
        ("a = \"x \\# y\"\n", "x # y"),
        ("a = 'it is' # c\n", "it is"),
        ("a = \"x\\\"y\"\n", "x\"y"),
        ("a = x \"y\"\n", "x \"y\""),
        ("a = x\\;y\\\\z\n", "x;y\\z"),
        ("a = x\\\n  y\n", "x  y"),
        ("a = \\\nx\n", "x"),
        ("a = x # c \\\n", "x"),
        ("a = x\r\n", "x"),
        ("a = \n", ""),
        ("a = # c\n", ""),
        ("a = x=y\n", "x=y"),
        ("a = x\\", "x\\"),
        ("a = é\n", "é"),
    ] {
        let text = format!("[global]\n{text}");
        if value == "!" {
            assert!(ConfFile::parse(text.as_bytes()).is_err(), "{text}");
        } else {
            assert_eq!(get(&text, "global", "a").as_deref(), Some(value), "{text}");
        }
    }
}

#[test]
fn some_files_are_read_that_ceph_refuses() {
    for text in [
        "\u{feff}[global]\na=1\n",
        "  [global]\na=1\n",
        "a=1\nb=2\n",
        "   \n[global]\na=1",
        "[global]\na=1\n   ",
    ] {
        assert_eq!(get(text, "global", "a").as_deref(), Some("1"), "{text:?}");
    }
    assert_eq!(ConfFile::parse(b"").unwrap(), ConfFile::default());
}

#[test]
fn errors_name_the_place_and_not_the_text() {
    for (text, message) in [
        ("[global]\nkey AQBhush\n", "line 2, column 12: expected '=' after the option's name"),
        ("[global\n", "line 1, column 8: expected ']' after the section's name"),
        ("[]\n", "line 1, column 2: expected the name of a section"),
        ("[a] b\n", "line 1, column 5: expected the end of the line"),
        ("[a]\n= b\n", "line 2, column 1: expected `name = value` or `[section]`"),
        ("[a]\nk = 'x' y\n", "line 2, column 9: expected the end of the line"),
        (
            "[a]\nk = \"x # y\"\n",
            "line 2, column 8: expected a closing \" (put a backslash before '#' and ';' between quotes)",
        ),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
    assert_eq!(
        ConfFile::parse(b"[a]\nk=\xff").unwrap_err().to_string(),
        "line 2, column 3: expected UTF-8 text"
    );
}

#[test]
fn debug_shows_no_key() {
    let conf = ConfFile::parse(b"[client.x]\nkey = AQBhush\n").unwrap();
    assert!(!format!("{conf:?}").contains("AQBhush"));
}

/// A value in quotes, everything that has a meaning there escaped.
fn quoted_value(value: &str) -> String {
    let escaped = value.chars().flat_map(|c| "\"\\#;".contains(c).then_some('\\').into_iter().chain([c]));
    format!("\"{}\"", escaped.collect::<String>())
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        options in proptest::collection::btree_map("[a-z][a-z_]{0,6}", "[ -~é]{0,12}", 0..6),
        section in "[a-z.]{1,8}",
    ) {
        let mut text = format!("[{section}]\n");
        for (name, value) in &options {
            text += &format!("{name} = {}\n", quoted_value(value));
        }
        let conf = ConfFile::parse(text.as_bytes()).unwrap();
        let read: Vec<_> = conf.section(&section).into_iter().flat_map(Options::iter).collect();
        let written: Vec<_> = options.iter().map(|(name, value)| (name.as_str(), value.trim())).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn any_bytes_are_a_file_or_refused_within_it(text in r#"([\[\]=#;"' \t\n\ra]|\\|\\\n|é){0,40}"#) {
        if let Err(error) = ConfFile::parse(text.as_bytes()) {
            prop_assert!(error.line <= text.matches('\n').count() + 1);
            prop_assert!(error.column <= text.len() + 1);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let parsed = ConfFile::parse(&bytes);
        prop_assert!(parsed.is_err() || std::str::from_utf8(&bytes).is_ok());
    }
}
