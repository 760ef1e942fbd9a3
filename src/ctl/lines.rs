//! Lines that a person types into `txn` and `watch -i`: words with quotes, Go's escapes.

/// Splits a line into words: `"…"` with Go's escapes, `'…'` as it stands, or a run without blanks. A
/// quote that is not closed is skipped.
pub(super) fn words(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.first() {
        match first {
            b'"' => match quoted(rest) {
                Some((word, after)) => {
                    words.push(word);
                    rest = after;
                }
                None => rest = &rest[1..],
            },
            b'\'' => match rest[1..].iter().position(|byte| *byte == b'\'') {
                Some(end) => {
                    words.push(rest[1..=end].to_vec());
                    rest = &rest[end + 2..];
                }
                None => rest = &rest[1..],
            },
            byte if byte.is_ascii_whitespace() => rest = &rest[1..],
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                words.push(rest[..end].to_vec());
                rest = &rest[end..];
            }
        }
    }
    words
}

/// Reads a string in double quotes (Go's escapes) or backquotes (none) from the front.
pub(super) fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    if let Some(raw) = text.strip_prefix(b"`") {
        let end = raw.iter().position(|byte| *byte == b'`')?;
        return Some((raw[..end].to_vec(), &raw[end + 1..]));
    }
    let mut rest = text.strip_prefix(b"\"")?;
    let mut value = Vec::new();
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some((value, rest)),
            b'\n' => return None,
            b'\\' => rest = escape(rest, &mut value)?,
            byte => value.push(*byte),
        }
    }
}

/// Reads what follows a backslash, and returns what is left.
fn escape<'a>(text: &'a [u8], value: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (byte, rest) = text.split_first()?;
    let digits = |count: usize, radix: u32| {
        let digits = std::str::from_utf8(text.get(..count)?).ok()?;
        u32::from_str_radix(digits, radix).ok()
    };
    let (simple, length) = match byte {
        b'a' => (7, 0),
        b'b' => (8, 0),
        b'f' => (12, 0),
        b'n' => (b'\n', 0),
        b'r' => (b'\r', 0),
        b't' => (b'\t', 0),
        b'v' => (11, 0),
        b'\\' | b'"' => (*byte, 0),
        b'0'..=b'7' => {
            value.push(u8::try_from(digits(3, 8)?).ok()?);
            return text.get(3..);
        }
        b'x' => (0, 2),
        b'u' => (0, 4),
        b'U' => (0, 8),
        _ => return None,
    };
    if length == 0 {
        value.push(simple);
        return Some(rest);
    }
    let number = u32::from_str_radix(std::str::from_utf8(rest.get(..length)?).ok()?, 16).ok()?;
    if length == 2 {
        value.push(u8::try_from(number).ok()?);
    } else {
        let mut buffer = [0; 4];
        value.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut buffer).as_bytes());
    }
    rest.get(length..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_like_a_shell_cuts_them() {
        let cut = |line: &str| {
            let words = words(line.as_bytes());
            words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(cut("put  key1 \"over \\\"written\\n\""), ["put", "key1", "over \"written\n"]);
        assert_eq!(cut("put 'a b' c\"d"), ["put", "a b", "c\"d"]);
        assert_eq!(cut("get \"\" --prefix"), ["get", "", "--prefix"]);
        assert_eq!(cut("   "), [""; 0]);
    }

    #[test]
    fn quotes_carry_every_escape_of_go() {
        let read = |text: &str| quoted(text.as_bytes()).map(|(value, _)| value);
        assert_eq!(
            read(r#""\x00\101\u00e9\U0001f600\a""#),
            Some(b"\0A\xc3\xa9\xf0\x9f\x98\x80\x07".to_vec())
        );
        assert_eq!(read("`a\\n`"), Some(b"a\\n".to_vec()));
        assert_eq!(read("\"open"), None);
        assert_eq!(read(r#""\q""#), None);
    }
}
