//! Go's command line, as far as etcd's users can see it: how arguments are cut into flags, how the
//! text of a value becomes a number, a boolean or a duration, and how Go prints those back.
//!
//! Operators have unit files and scripts full of `-name x`, `--name=x` and `ETCD_…=0x10`, and tools
//! that match the messages, so both the accepted language and the words of refusal are fixed. Nothing
//! here knows a single flag of the server: the caller brings a [`Flags`].
//!
//! Invariants:
//! - [`cut`] consults only [`Flags`]; two runs over the same arguments end alike.
//! - What [`format_duration`] prints, [`parse_duration`] reads back as the same number.
//!
//! Left out: Go's hexadecimal floats and other kinds of value that no flag of the server has.

use std::fmt;

/// A set of defined flags that remembers the values given to it.
pub(super) trait Flags {
    /// Tells whether the flag `name` exists, and if so whether it is boolean.
    fn is_boolean(&self, name: &str) -> Option<bool>;
    /// Gives the flag a value; the error is the reason, in Go's words.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String>;
}

/// Why cutting stopped before the end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// `--help` or `-h` was met.
    Help,
    /// An argument was refused, with this message.
    Refused(String),
}

/// Cuts `args` (without the program's name) into flags, hands them to `flags`, and returns what is
/// left after the first argument that is no flag, or after `--`.
pub(super) fn cut<'a>(args: &'a [String], flags: &mut impl Flags) -> Result<&'a [String], Stop> {
    let mut rest = args;
    while let Some((arg, after)) = rest.split_first() {
        // A lone "-" is an ordinary argument, "--" ends the flags and is swallowed.
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else { break };
        if body == "-" {
            return Ok(after);
        }
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.starts_with(['-', '=']) {
            return Err(Stop::Refused(format!("bad flag syntax: {arg}")));
        }
        rest = after;
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        match (flags.is_boolean(name), value) {
            (None, _) if name == "help" || name == "h" => return Err(Stop::Help),
            (None, _) => {
                return Err(Stop::Refused(format!("flag provided but not defined: -{name}")));
            }
            // NB: a boolean never takes the next argument; `--auto-tls false` leaves "false" over.
            (Some(true), None) => flags
                .set(name, "true")
                .map_err(|why| Stop::Refused(format!("invalid boolean flag {name}: {why}")))?,
            (Some(true), Some(value)) => flags.set(name, value).map_err(|why| {
                let value = quote(value);
                Stop::Refused(format!("invalid boolean value {value} for -{name}: {why}"))
            })?,
            (Some(false), value) => {
                let value = match (value, rest.split_first()) {
                    (Some(value), _) => value,
                    (None, Some((next, after))) => {
                        rest = after;
                        next
                    }
                    (None, None) => {
                        return Err(Stop::Refused(format!("flag needs an argument: -{name}")));
                    }
                };
                flags.set(name, value).map_err(|why| {
                    let value = quote(value);
                    Stop::Refused(format!("invalid value {value} for flag -{name}: {why}"))
                })?;
            }
        }
    }
    Ok(rest)
}

/// Why the text is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotANumber {
    /// It does not look like one.
    Syntax,
    /// It needs more bits.
    Range,
}

impl fmt::Display for NotANumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotANumber::Syntax => "invalid syntax",
            NotANumber::Range => "value out of range",
        })
    }
}

/// Reads a boolean; the accepted spellings are Go's closed list.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads an unsigned literal of Go: decimal, `0x`, `0o`, `0b`, a leading zero for octal, and `_`
/// between digits.
pub(crate) fn parse_uint(text: &str) -> Result<u64, NotANumber> {
    let prefix = |p: &str| text.get(..2).is_some_and(|head| head.eq_ignore_ascii_case(p));
    let (radix, digits) = match text {
        _ if text.len() > 2 && prefix("0x") => (16, &text[2..]),
        _ if text.len() > 2 && prefix("0o") => (8, &text[2..]),
        _ if text.len() > 2 && prefix("0b") => (2, &text[2..]),
        "0" => return Ok(0),
        _ if text.starts_with('0') => (8, &text[1..]),
        _ => (10, text),
    };
    let (mut value, mut any) = (0_u64, false);
    for c in digits.chars().filter(|c| *c != '_') {
        let digit = c.to_digit(radix).ok_or(NotANumber::Syntax)?;
        any = true;
        // NB: too large is told as soon as it is known, whatever follows.
        value = value
            .checked_mul(u64::from(radix))
            .and_then(|value| value.checked_add(u64::from(digit)))
            .ok_or(NotANumber::Range)?;
    }
    // An underscore stands between two digits; a base prefix counts as a digit before it.
    let prefixed = digits.len() < text.len();
    let stray =
        (digits.starts_with('_') && !prefixed) || digits.ends_with('_') || digits.contains("__");
    if any && !stray { Ok(value) } else { Err(NotANumber::Syntax) }
}

/// Reads a signed literal: an optional sign and an unsigned one.
pub(crate) fn parse_int(text: &str) -> Result<i64, NotANumber> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = i128::from(parse_uint(digits)?);
    i64::try_from(if negative { -value } else { value }).map_err(|_| NotANumber::Range)
}

/// A length of time as Go counts it: nanoseconds, possibly negative.
pub(crate) type Nanoseconds = i64;

/// The units a duration may be written in.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration such as `1h30m` or `-1.5s`; the error is Go's sentence.
pub(crate) fn parse_duration(text: &str) -> Result<Nanoseconds, String> {
    let invalid = || format!("time: invalid duration {}", quote_ascii(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_u128;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        if name.is_empty() {
            // NB: a number beyond 64 bits is refused as such even where its unit is missing.
            return match whole.parse::<u64>() {
                Err(_) if !whole.is_empty() => Err(invalid()),
                _ => Err(format!("time: missing unit in duration {}", quote_ascii(text))),
            };
        }
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        let unit = UNITS.iter().find(|(known, _)| *known == name).map(|(_, unit)| *unit);
        let unit = unit.ok_or_else(|| {
            format!("time: unknown unit {} in duration {}", quote_ascii(name), quote_ascii(text))
        })?;
        total += u128::from(whole) * u128::from(unit) + part_of(fraction, unit);
        if total > 1 << 63 {
            return Err(invalid());
        }
        rest = after;
    }
    let total = i128::try_from(total).map_err(|_| invalid())?;
    Nanoseconds::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// Splits the leading decimal digits off.
fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Computes the digits after a point, of `unit`, rounded down. No unit is finer than 10⁻¹³ of an
/// hour, so eighteen digits decide.
fn part_of(digits: &str, unit: u64) -> u128 {
    let (mut value, mut scale) = (0_u128, 1_u128);
    for digit in digits.bytes().take(18) {
        value = value * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    value * u128::from(unit) / scale
}

/// Prints a duration the way Go does: `0s`, `100ms`, `1m0s`, `2h0m0s`.
pub(crate) fn format_duration(nanoseconds: Nanoseconds) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.unsigned_abs();
    let decimal = |value: u64, unit: u64| {
        let width = unit.ilog10() as usize;
        let part = format!("{:0width$}", value % unit);
        let part = part.trim_end_matches('0');
        let point = if part.is_empty() { "" } else { "." };
        format!("{}{point}{part}", value / unit)
    };
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(n, 1_000_000)),
        _ => {
            let (minutes, seconds) = (n / 60_000_000_000, n % 60_000_000_000);
            let seconds = decimal(seconds, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// Prints text in double quotes with Go's escapes (`%q`).
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            c if c < ' ' || c == '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_ascii() || is_printable(c) => quoted.push(c),
            c => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// Prints text in double quotes with every byte beyond ASCII escaped, as Go's `time` does.
fn quote_ascii(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..0x80 => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    format!("\"{quoted}\"")
}

/// Tells whether Go prints a character beyond ASCII as it is: no controls, blanks or marks without
/// width.
fn is_printable(c: char) -> bool {
    let invisible = matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e000}'..='\u{f8ff}' | '\u{fff9}'..='\u{fffb}');
    !c.is_control() && !c.is_whitespace() && !invisible
}

/// Prints a list of texts as Go prints a slice of strings with `%q`: `["a" "b"]`.
pub(super) fn quote_list<T: ToString>(list: &[T]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| quote(&text.to_string())).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two flags, `-b` boolean and `-s` not, that keep what they are given; "bad" is refused.
    #[derive(Default)]
    struct Two(Vec<(String, String)>);

    impl Flags for Two {
        fn is_boolean(&self, name: &str) -> Option<bool> {
            match name {
                "b" => Some(true),
                "s" => Some(false),
                _ => None,
            }
        }

        fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
            if value == "bad" {
                return Err("parse error".to_owned());
            }
            self.0.push((name.to_owned(), value.to_owned()));
            Ok(())
        }
    }

    fn cut_line(line: &str) -> String {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut flags = Two::default();
        let end = match cut(&args, &mut flags) {
            Ok(rest) => format!("rest {rest:?}"),
            Err(Stop::Help) => "help".to_owned(),
            Err(Stop::Refused(message)) => message,
        };
        let set: Vec<String> = flags.0.iter().map(|(n, v)| format!("{n}={v}")).collect();
        format!("{} | {end}", set.join(" "))
    }

    #[test]
    fn arguments_are_cut_as_go_cuts_them() {
        for (line, outcome) in [
            ("", " | rest []"),
            ("-s x --s y -s=z --s=", "s=x s=y s=z s= | rest []"),
            ("-b -s -b", "b=true s=-b | rest []"),
            ("-b=false --b=T", "b=false b=T | rest []"),
            ("-b false -s x", "b=true | rest [\"false\", \"-s\", \"x\"]"),
            ("-s a=b=c -s=a=b", "s=a=b=c s=a=b | rest []"),
            ("-s x -- -b", "s=x | rest [\"-b\"]"),
            ("- -b", " | rest [\"-\", \"-b\"]"),
            ("word -b", " | rest [\"word\", \"-b\"]"),
            ("-s", " | flag needs an argument: -s"),
            ("-x", " | flag provided but not defined: -x"),
            ("--x=1", " | flag provided but not defined: -x"),
            ("-b -h", "b=true | help"),
            ("--help -x", " | help"),
            ("---b", " | bad flag syntax: ---b"),
            ("--=b", " | bad flag syntax: --=b"),
            ("-=b", " | bad flag syntax: -=b"),
            ("-s bad", " | invalid value \"bad\" for flag -s: parse error"),
            ("-b=bad", " | invalid boolean value \"bad\" for -b: parse error"),
        ] {
            assert_eq!(cut_line(line), outcome, "{line}");
        }
    }

    #[test]
    fn integers_have_gos_literals() {
        use NotANumber::{Range, Syntax};
        for (text, value) in [
            ("0", Ok(0)),
            ("00", Ok(0)),
            ("10", Ok(10)),
            ("0x1F", Ok(31)),
            ("0X1f", Ok(31)),
            ("0b101", Ok(5)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("0_7", Ok(7)),
            ("1_000", Ok(1000)),
            ("0x_f", Ok(15)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(Range)),
            ("184467440737095516160x", Err(Range)),
            ("", Err(Syntax)),
            ("08", Err(Syntax)),
            ("0x", Err(Syntax)),
            ("_1", Err(Syntax)),
            ("1_", Err(Syntax)),
            ("1__0", Err(Syntax)),
            ("+1", Err(Syntax)),
            ("-1", Err(Syntax)),
            ("1.5", Err(Syntax)),
            (" 1", Err(Syntax)),
            ("é1", Err(Syntax)),
        ] {
            assert_eq!(parse_uint(text), value, "{text}");
        }
        for (text, value) in [
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("9223372036854775808", Err(Range)),
            ("-9223372036854775809", Err(Range)),
            ("+7", Ok(7)),
            ("-0x10", Ok(-16)),
            ("--1", Err(Syntax)),
            ("-", Err(Syntax)),
        ] {
            assert_eq!(parse_int(text), value, "{text}");
        }
    }

    #[test]
    fn durations_read_and_print_as_in_go() {
        for (text, nanoseconds, printed) in [
            ("0", 0, "0s"),
            ("-0", 0, "0s"),
            ("0s", 0, "0s"),
            ("1ns", 1, "1ns"),
            ("1500ns", 1_500, "1.5µs"),
            ("1100us", 1_100_000, "1.1ms"),
            ("300ms", 300_000_000, "300ms"),
            ("1.5s", 1_500_000_000, "1.5s"),
            (".5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("60s", 60_000_000_000, "1m0s"),
            ("90m", 5_400_000_000_000, "1h30m0s"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
            ("1h1m1.001s", 3_661_001_000_000, "1h1m1.001s"),
            ("-1m30s", -90_000_000_000, "-1m30s"),
            ("+5s", 5_000_000_000, "5s"),
            ("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(parse_duration(text), Ok(nanoseconds), "{text}");
            assert_eq!(format_duration(nanoseconds), printed, "{text}");
            assert_eq!(parse_duration(printed), Ok(nanoseconds), "{printed}");
        }
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("x", "time: invalid duration \"x\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
            ("5", "time: missing unit in duration \"5\""),
            ("1.5", "time: missing unit in duration \"1.5\""),
            ("1h5", "time: missing unit in duration \"1h5\""),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            ("1 s", "time: unknown unit \" s\" in duration \"1 s\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("99999999999999999999", "time: invalid duration \"99999999999999999999\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
        ] {
            assert_eq!(parse_duration(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn booleans_are_a_closed_list() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(text), Some(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(text), Some(false), "{text}");
        }
        for text in ["", "yes", "tRUE", "2", "on"] {
            assert_eq!(parse_bool(text), None, "{text}");
        }
    }

    #[test]
    fn quotes_carry_gos_escapes() {
        assert_eq!(quote("\u{85}\u{200b}\u{feff}\u{a0}"), r#""\u0085\u200b\ufeff\u00a0""#);
        assert_eq!(quote("a\"b\\c\n\t\u{1}\u{7f}é"), r#""a\"b\\c\n\t\x01\x7fé""#);
        assert_eq!(quote_list(&["a", "b"]), r#"["a" "b"]"#);
        assert_eq!(quote_list::<String>(&[]), "[]");
    }
}
