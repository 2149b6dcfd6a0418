use proptest::prelude::*;

use super::*;

/// Monitors joined by `|`, each address with its endpoints.
fn shown(text: &str) -> String {
    let monitors = parse_mon_host(text).unwrap_or_else(|error| panic!("{error}"));
    let monitor = |addrs: Vec<MonAddr>| addrs.iter().map(MonAddr::to_string).collect::<Vec<_>>().join(",");
    monitors.into_iter().map(monitor).collect::<Vec<_>>().join(" | ")
}

#[test]
fn all_forms_of_addresses_are_read() {
    for (text, expected) in [
        ("", ""),
        (" , ;", ""),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:3300", "127.0.0.1:3300"),
        ("127.0.0.1:0/0", "127.0.0.1"),
        ("v2:1.2.3.4:3300/0", "v2:1.2.3.4:3300"),
        ("v1:1.2.3.4:6789/7", "v1:1.2.3.4:6789/7"),
        ("any:1.2.3.4:6789", "1.2.3.4:6789"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("[::1]:3300/5", "[::1]:3300/5"),
        ("v2:[fd00::1]:3300/0", "v2:[fd00::1]:3300"),
        ("::ffff:10.0.0.1", "[::ffff:10.0.0.1]"),
        ("[10.0.0.1]:3300", "10.0.0.1:3300"),
        ("mon1", "mon1"),
        ("mon-1.example.com:13420", "mon-1.example.com:13420"),
        ("[mon1]:3300", "mon1:3300"),
        ("v2:mon1", "v2:mon1"),
        ("any:localhost", "localhost"),
        ("cafe", "cafe"),
        ("10.0.0.1.nip.io", "10.0.0.1.nip.io"),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn addresses_of_one_monitor_stay_together() {
    for (text, expected) in [
        ("[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]", "v2:10.0.0.1:3300,v1:10.0.0.1:6789"),
        ("[v2:10.0.0.1:3300]", "v2:10.0.0.1:3300"),
        (
            "[v2:10.0.0.1,v1:10.0.0.1],[v2:[::1]:3300,v1:[::1]:6789] c",
            "v2:10.0.0.1,v1:10.0.0.1 | v2:[::1],v1:[::1] | c",
        ),
        // Within a vector the default is v2.
        ("[10.0.0.1:3300,10.0.0.2:3300]", "v2:10.0.0.1:3300,v2:10.0.0.2:3300"),
        ("a,b;c d\te", "a | b | c | d | e"),
        ("10.0.0.1, 10.0.0.2 ;; host:1", "10.0.0.1 | 10.0.0.2 | host:1"),
    ] {
        let expected = expected.replace("v2:[::1],v1:[::1]", "v2:[::1]:3300,v1:[::1]:6789");
        assert_eq!(shown(text), expected, "{text}");
    }
}

#[test]
fn malformed_monitors_are_refused_with_their_place() {
    for (text, column) in [
        ("10.0.0.1:65536", 1),
        ("10.0.0.1:-1", 1),
        ("10.0.0.1/99999999999", 1),
        ("a, v3:10.0.0.1", 4),
        ("1.2.3", 1),
        ("-", 1),
        ("é", 1),
        ("a,é", 3),
        ("[v2:10.0.0.1:3300", 1),
        ("[]", 1),
        ("[v2:10.0.0.1,]", 1),
        ("10.0.0.1]", 1),
        ("a=b", 1),
    ] {
        assert_eq!(parse_mon_host(text).expect_err(text).column, column, "{text}");
    }
}

#[test]
fn the_port_tells_the_messenger_if_nothing_else_does() {
    let (v1, v2) = (AddrType::LEGACY, AddrType::MSGR2);
    for (text, endpoints) in [
        ("10.0.0.1", vec![(v2, 3300), (v1, 6789)]),
        ("10.0.0.1:3300", vec![(v2, 3300)]),
        ("10.0.0.1:6789", vec![(v1, 6789)]),
        ("10.0.0.1:40000", vec![(v2, 40000), (v1, 40000)]),
        ("v2:10.0.0.1", vec![(v2, 3300)]),
        ("v2:10.0.0.1:6789", vec![(v2, 6789)]),
        ("v1:10.0.0.1", vec![(v1, 6789)]),
        ("v1:10.0.0.1:3300", vec![(v1, 3300)]),
    ] {
        let addr = &parse_mon_host(text).unwrap()[0][0];
        assert_eq!(addr.endpoints(), endpoints, "{text}");
        let port = endpoints.iter().find(|(kind, _)| *kind == v2).map(|(_, port)| *port);
        assert_eq!(addr.msgr2_port(), port, "{text}");
    }
}

#[test]
fn the_legacy_option_is_v1_unless_at_the_default_port() {
    for (text, shown) in [
        ("10.0.0.1:6789", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.1"),
        ("h:7000", "v1:h:7000"),
        ("v2:h:7", "v2:h:7"),
    ] {
        assert_eq!(MonAddr::from_mon_addr(text).unwrap().to_string(), shown, "{text}");
    }
    assert!(MonAddr::from_mon_addr("10.0.0.1,10.0.0.2").is_err());
}

fn host() -> impl Strategy<Value = Host> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Host::Ip(IpAddr::from(ip))),
        any::<[u8; 16]>().prop_map(|ip| Host::Ip(IpAddr::from(ip))),
        "[a-z][a-z0-9.-]{0,8}".prop_map(Host::Name),
    ]
}

fn addr() -> impl Strategy<Value = MonAddr> {
    let kind = prop_oneof![Just(MonAddrKind::V1), Just(MonAddrKind::V2), Just(MonAddrKind::Any)];
    let port = proptest::option::of(1u16..);
    (kind, host(), port, any::<u32>()).prop_map(|(kind, host, port, nonce)| MonAddr {
        kind,
        host,
        port,
        nonce,
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(addrs in proptest::collection::vec(addr(), 0..4)) {
        let text = addrs.iter().map(MonAddr::to_string).collect::<Vec<_>>().join(",");
        prop_assert_eq!(parse_mon_host(&text), Ok(addrs.into_iter().map(|addr| vec![addr]).collect()));
    }

    #[test]
    fn any_text_is_a_list_or_refused(text in r"([\[\]:,;/ .v1-3a]|any:|é|\PC){0,32}") {
        if let Ok(monitors) = parse_mon_host(&text) {
            prop_assert!(monitors.iter().all(|monitor| !monitor.is_empty()));
        }
    }
}
