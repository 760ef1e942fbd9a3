//! Small forms of text that scripts read: Go's quoting, hex, sizes, tables.

use comfy_table::{
    Cell, CellAlignment, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle,
};

use crate::config::goflag;

/// Quotes bytes as Go's `%q` does; what is no UTF-8 becomes `\x…`.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        let valid = goflag::quote(chunk.valid());
        quoted.push_str(&valid[1..valid.len() - 1]);
        for byte in chunk.invalid() {
            quoted.push_str(&format!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
}

/// Writes each byte as `\x6b`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// Encodes as standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            if i <= group.len() {
                let digit = (bits >> (18 - 6 * i)) & 63;
                text.push(char::from(ALPHABET[digit as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// Prints a size in SI units: one decimal below ten, none from ten on (`20 kB`, `2.1 GB`, `7 B`).
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog10() / 3) as usize;
    let unit = 1000_u64.pow(bytes.ilog10() / 3);
    // In tenths, rounded half up.
    let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power])
    } else {
        let whole = (tenths / 10).max(10);
        format!("{whole} {}", UNITS[power])
    }
}

/// Light lines, none between rows.
const LIGHT: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('┌', '─', '┬', '┐'))
    .header_lines(ContentLineStyle::new('│', '│', '│'))
    .header_separator(LineStyle::new('├', '─', '┼', '┤'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('└', '─', '┴', '┘'));

/// Draws a table: light lines, upper-case centred heads, cells to the right.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(LIGHT).set_content_arrangement(ContentArrangement::Disabled);
    let wide = |text: &str| text.chars().count();
    let heads = heads.iter().enumerate().map(|(column, text)| {
        let text = text.replace('_', " ").to_uppercase();
        let width = rows.iter().map(|row| wide(&row[column])).max().unwrap_or(0).max(wide(&text));
        // Centred by hand: where it cannot be even, the odd blank stands on the right.
        let left = (width - wide(&text)) / 2;
        Cell::new(format!("{:left$}{text}", "")).set_alignment(CellAlignment::Left)
    });
    table.set_header(heads);
    for row in rows {
        table.add_row(row.iter().map(|cell| Cell::new(cell).set_alignment(CellAlignment::Right)));
    }
    let mut text = table.to_string();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_quote_as_in_go() {
        assert_eq!(quote(b"a\"b\n\xff\xc3\xa9"), "\"a\\\"b\\n\\xff\u{e9}\"");
        assert_eq!(hex(b"k1"), "\\x6b\\x31");
    }

    #[test]
    fn base64_pads() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn sizes_have_two_digits_or_more() {
        let cases = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (20_480, "20 kB"),
            (25_000, "25 kB"),
            (2_147_483_648, "2.1 GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn tables_have_light_lines_and_align_right() {
        let text = table(&["ID", "is_learner"], &[vec!["8e9e1".into(), "false".into()]]);
        let drawn = "\
┌───────┬────────────┐
│  ID   │ IS LEARNER │
├───────┼────────────┤
│ 8e9e1 │      false │
└───────┴────────────┘
";
        assert_eq!(text, drawn);
    }
}
