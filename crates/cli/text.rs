//! Values as Ceph's tools print them.

use ceph_codec::{AddrType, EntityAddr, Utime};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use rados::ObjectWatcher;

/// A number of bytes, such as `64 MiB` or `1.50 GiB`. Ceph: `byte_u_t` in `src/include/types.h`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = [" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"];
    const WIDTH: usize = 7;
    let power = bytes.checked_ilog2().unwrap_or(0) / 10;
    let unit = UNITS[power as usize];
    let multiple = 1u64 << (10 * power);
    if bytes.is_multiple_of(multiple) {
        return format!("{}{unit}", bytes / multiple);
    }
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    let number = bytes as f64 / multiple as f64;
    let shown = |decimals: usize| format!("{number:.decimals$}{unit}");
    (0..=2).rev().map(shown).find(|text| text.len() <= WIDTH).unwrap_or_else(|| shown(0))
}

/// A point in time, in local time, as `ctime` prints it.
pub(crate) fn time(time: Utime) -> String {
    time_in(time, &TimeZone::system())
}

/// A point in time, in local time, as Ceph's logs have it.
pub(crate) fn iso_time(time: Utime) -> String {
    let instant = jiff::Timestamp::from_second(time.sec.into()).expect("32 bits of seconds end in 2106");
    instant.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.000000%z").to_string()
}

fn time_in(time: Utime, zone: &TimeZone) -> String {
    let instant = jiff::Timestamp::from_second(time.sec.into()).expect("32 bits of seconds end in 2106");
    instant.to_zoned(zone.clone()).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

/// An address without the messenger that it speaks, which `rbd` leaves out, too.
pub(crate) fn address(addr: EntityAddr) -> String {
    EntityAddr { kind: AddrType::ANY, ..addr }.to_string()
}

/// The fields of `rbd status --format json`.
pub(crate) fn watchers_json(watchers: &[ObjectWatcher]) -> Value {
    watchers
        .iter()
        .map(|w| json!({ "address": address(w.addr), "client": w.name.num, "cookie": w.cookie }))
        .collect()
}

/// The lines of `rbd status`.
pub(crate) fn watchers(watchers: &[ObjectWatcher]) -> String {
    if watchers.is_empty() {
        return "Watchers: none\n".to_owned();
    }
    let line = |w: &ObjectWatcher| format!("\twatcher={} {} cookie={}\n", address(w.addr), w.name, w.cookie);
    "Watchers:\n".to_owned() + &watchers.iter().map(line).collect::<String>()
}

/// Columns of equal width, two blanks apart. Headings that begin with `>` stand over columns aligned to the right.
/// Ceph: `TextTable` in `src/common/TextTable.cc`.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let names = headings.map(|heading| heading.trim_start_matches('>'));
    let mut widths = names.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: [&str; N], to_the_right: [bool; N]| {
        let cells = cells.iter().zip(widths).zip(to_the_right).map(|((cell, width), to_the_right)| {
            if to_the_right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    let to_the_right = headings.map(|heading| heading.starts_with('>'));
    rows.iter().fold(line(names, [false; N]), |text, row| {
        text + &line(row.each_ref().map(String::as_str), to_the_right)
    })
}

/// The same, but nothing at all if there are no rows, not even headings: lists of `rbd`.
pub(crate) fn listing<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    if rows.is_empty() { String::new() } else { table(headings, &rows) }
}

#[cfg(test)]
mod tests {
    use ceph_codec::{EntityName, EntityType};

    use super::*;

    /// What `rbd info` of Ceph 16.2 prints for these sizes.
    #[test]
    fn sizes_are_printed_as_rbd_prints_them() {
        for (size, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1_000_000, "977 KiB"),
            (64 << 20, "64 MiB"),
            (10 << 20, "10 MiB"),
            (3 << 29, "1.5 GiB"),
            (1 << 40, "1 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(size), text, "{size}");
        }
    }

    #[test]
    fn times_are_printed_as_by_ctime() {
        assert_eq!(
            time_in(Utime { sec: 1_793_929_171, nsec: 5 }, &TimeZone::UTC),
            "Fri Nov  6 01:39:31 2026"
        );
        assert_eq!(time_in(Utime { sec: u32::MAX, nsec: 0 }, &TimeZone::UTC), "Sun Feb  7 06:28:15 2106");
    }

    #[test]
    fn watchers_are_shown_with_address_and_client() {
        let addr =
            EntityAddr { kind: AddrType::LEGACY, nonce: 7, addr: Some("127.0.0.1:0".parse().unwrap()) };
        let name = EntityName { kind: EntityType::CLIENT, num: 4187 };
        let watcher = ObjectWatcher { name, cookie: 5, timeout_secs: 30, addr };
        assert_eq!(watchers(&[watcher]), "Watchers:\n\twatcher=127.0.0.1:0/7 client.4187 cookie=5\n");
        assert_eq!(watchers(&[]), "Watchers: none\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["image", "4 GiB", ""], ["i", "64 MiB", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["NAME", ">SIZE", "P"], &rows),
            "NAME   SIZE    P\nimage   4 GiB   \ni      64 MiB  x\n"
        );
    }
}
