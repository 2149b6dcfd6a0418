//! Reading what `crushtool --show-mappings` prints.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod random;

/// One line of the output.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) rule: u32,
    pub(crate) x: u32,
    pub(crate) devices: Vec<i32>,
}

/// Reads lines like `CRUSH rule 1 x 17 [3,2147483647,8]`; others are messages.
pub(crate) fn parse_mappings(text: &str) -> Vec<Mapping> {
    text.lines().filter(|line| line.starts_with("CRUSH rule")).map(parse_line).collect()
}

fn parse_line(line: &str) -> Mapping {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["CRUSH", "rule", rule, "x", x, devices] = words[..] else { panic!("unexpected line {line:?}") };
    let devices = devices.trim_matches(['[', ']']);
    Mapping {
        rule: rule.parse().unwrap(),
        x: x.parse().unwrap(),
        devices: devices.split(',').filter(|d| !d.is_empty()).map(|d| d.parse().unwrap()).collect(),
    }
}
