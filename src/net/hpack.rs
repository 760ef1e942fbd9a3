//! As much of HPACK (RFC 7541) as it takes to replace one value in a block of headers.
//!
//! A block is a sequence of *representations*: a header named by its index in a table, or a *literal*
//! with its value (and perhaps its name) spelled out, plainly or in HPACK's Huffman code, and perhaps
//! to be put into the dynamic table, or a change of that table's size. All can be stepped over with
//! no knowledge of the table, so nothing is kept from block to block.
//!
//! Invariants:
//! - A block that is malformed as a whole, or has nothing to replace, gives `None`.
//! - A replaced literal stays the kind of literal it was. One that enters the dynamic table still
//!   enters it, as one entry, so what later blocks call by index is found where it was.
//! - Replacements must not be longer than what they replace. The decoder's table then counts each
//!   entry at most as large as the sender's does, so it holds all that the sender's holds and maybe
//!   more; and since indices count from the newest entry, the older ones beyond disturb none.
//!
//! What is left out: names called by an index of the dynamic table or spelled out. Encoders take the
//! static table's index for a name that is in it.

/// The static table's index of `:authority`.
const AUTHORITY: usize = 1;

/// The flag of a string in Huffman code.
const HUFFMAN: u8 = 0x80;

/// Replaces the values of `:authority` for which `replacement` has another.
pub(super) fn replace_authority(
    block: &[u8],
    replacement: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut replaced = Vec::new();
    let mut copied = 0;
    let mut rest = block;
    while let Some(&first) = rest.first() {
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(&mut rest, prefix)?;
        if !literal {
            continue;
        }
        if index == 0 {
            string(&mut rest)?;
        }
        let begin = block.len() - rest.len();
        let value = string(&mut rest)?;
        if index != AUTHORITY {
            continue;
        }
        if let Some(new) = value.decoded().and_then(|value| replacement(&value)) {
            replaced.extend(&block[copied..begin]);
            put_string(&new, &mut replaced);
            copied = block.len() - rest.len();
        }
    }
    if copied == 0 {
        return None;
    }
    replaced.extend(&block[copied..]);
    Some(replaced)
}

/// A string as it stands in a block.
struct Coded<'a> {
    huffman: bool,
    bytes: &'a [u8],
}

impl Coded<'_> {
    fn decoded(&self) -> Option<Vec<u8>> {
        if self.huffman { unhuffman(self.bytes) } else { Some(self.bytes.to_vec()) }
    }
}

/// Takes a string off a block.
fn string<'a>(block: &mut &'a [u8]) -> Option<Coded<'a>> {
    let huffman = block.first()? & HUFFMAN != 0;
    let len = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(len)?;
    *block = rest;
    Some(Coded { huffman, bytes })
}

/// Takes an integer off a block, of whose first byte it has the lowest `prefix` bits.
fn integer(block: &mut &[u8], prefix: u32) -> Option<usize> {
    /// Beyond this no length and no index makes sense.
    const SHIFT_MAX: u32 = 21;
    let (&first, mut rest) = block.split_first()?;
    let full = (1 << prefix) - 1;
    let mut value = usize::from(first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (&byte, later) = rest.split_first()?;
            rest = later;
            if shift > SHIFT_MAX {
                return None;
            }
            value += (usize::from(byte) & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Some(value)
}

/// Puts a string in plain to the end of a block.
fn put_string(string: &[u8], block: &mut Vec<u8>) {
    const FULL: usize = 0x7f;
    let mut len = string.len();
    if let Some(beyond) = len.checked_sub(FULL) {
        block.push(0x7f);
        len = beyond;
        while len >= 0x80 {
            block.push(0x80 | u8::try_from(len & 0x7f).expect("seven bits"));
            len >>= 7;
        }
    }
    block.push(u8::try_from(len).expect("less than a byte"));
    block.extend(string);
}

/// The bytes whose codes have at most 15 bits, in the order of their codes. All of printable ASCII is
/// here, but for the backslash; the rest is nowhere to be found in a value that is worth replacing.
const SYMBOLS: &[u8; 95] = b"012aceiost %-./3456789=A_bdfghlmnpru:BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz\
    &*,;XZ!\"()?'+|#>\0$@[]~^}<`{";

/// How many of [`SYMBOLS`] have a code of so many bits. The code is canonical (codes of one length
/// follow upon one another, and upon the shorter ones), so this is all there is to know about it.
const CODES_OF_LEN: [usize; 16] = [0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3];

/// Decodes HPACK's Huffman code. `None` for what is malformed, and for bytes not in [`SYMBOLS`].
fn unhuffman(coded: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(coded.len() * 2);
    // The bits since the last whole code, and the first code of their number with its symbol's place.
    let (mut code, mut len, mut first, mut place) = (0, 0, 0, 0);
    let bits = coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    for bit in bits {
        code = code << 1 | usize::from(bit);
        len += 1;
        let codes = *CODES_OF_LEN.get(len)?;
        if code < first + codes {
            decoded.push(SYMBOLS[place + code - first]);
            (code, len, first, place) = (0, 0, 0, 0);
        } else {
            first = (first + codes) << 1;
            place += codes;
        }
    }
    // The last byte is filled with ones, which is how no short code begins.
    (len < 8 && code == (1 << len) - 1).then_some(decoded)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shout(block: &[u8]) -> Option<Vec<u8>> {
        replace_authority(block, |value| Some(value.to_ascii_uppercase()))
    }

    /// Codes a string, of [`SYMBOLS`] alone.
    pub(in super::super) fn huffman(plain: &[u8]) -> Vec<u8> {
        let mut codes = Vec::new();
        let mut code = 0_usize;
        for (len, &count) in CODES_OF_LEN.iter().enumerate() {
            codes.extend((code..code + count).map(|code| (len, code)));
            code = (code + count) << 1;
        }
        let mut bits: Vec<_> = plain
            .iter()
            .map(|byte| SYMBOLS.iter().position(|symbol| symbol == byte).expect("a symbol"))
            .map(|place| codes[place])
            .flat_map(|(len, code)| (0..len).rev().map(move |bit| code >> bit & 1 == 1))
            .collect();
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8)
            .map(|byte| byte.iter().fold(0, |code, bit| code << 1 | u8::from(*bit)))
            .collect()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
        (0..text.len()).step_by(2).map(digit).collect()
    }

    #[test]
    fn the_standards_own_examples_are_decoded() {
        // RFC 7541, C.4.1, C.4.3 and C.6.1.
        for (coded, plain) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
        ] {
            let decoded = unhuffman(&hex(coded)).expect("decoded");
            assert_eq!(String::from_utf8_lossy(&decoded), plain);
        }
    }

    #[test]
    fn every_symbol_is_decoded() {
        let coded = hex(
            "00443214c742545565d865a6dc75e7e08628e49669e8a6aaecb6e5dbd7f061c58f265cd9f469d5af66dddb\
            f871e5cfa75eddfc79f5efe3e7ebeff3f7f8fe7fafeffcff5feffe7fd7fdffe3ff3ffaffdfff3ffbffe7ff\
            bfff3ffefffe",
        );
        assert_eq!(unhuffman(&coded).as_deref(), Some(&SYMBOLS[..]));
    }

    #[test]
    fn a_string_is_refused_for_its_filling_and_for_foreign_bytes() {
        assert_eq!(unhuffman(&hex("1f")).as_deref(), Some(&b"a"[..]));
        assert_eq!(unhuffman(&hex("18")), None, "filled with zeros");
        assert_eq!(unhuffman(&hex("1fff")), None, "a whole byte of filling");
        assert_eq!(unhuffman(&hex("9d29aee30c0ffff847")), None, "a backslash");
        assert_eq!(unhuffman(&[0xff; 4]), None, "the end of the string, spelled out");
    }

    #[test]
    fn a_literal_is_replaced_and_stays_the_kind_it_was() {
        for kind in [0x41, 0x01, 0x11] {
            let block = [&[0x83, kind, 1][..], b"a", &[0x3f, 0xe1, 0x1f, 0x40, 1], b"b\x01c"];
            let shouted = [&[0x83, kind, 1][..], b"A", &[0x3f, 0xe1, 0x1f, 0x40, 1], b"b\x01c"];
            assert_eq!(shout(&block.concat()), Some(shouted.concat()));
            assert_eq!(shout(&[kind, 0x81, 0x1f, 0x86]), Some(vec![kind, 1, b'A', 0x86]));
        }
    }

    #[test]
    fn what_is_cut_short_is_left_alone() {
        let block = [&[0x41, 1][..], b"a", &[0x40, 1], b"b\x01c"].concat();
        // At 3 a literal ends, and what is left is a block.
        for end in (0..block.len()).filter(|end| *end != 3) {
            assert_eq!(shout(&block[..end]), None, "cut at {end}");
        }
        assert!(shout(&block[..3]).is_some());
        assert_eq!(shout(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x41, 1, b'a']), None, "an integer");
    }

    #[test]
    fn other_headers_are_left_alone() {
        for other in [0x42, 0x04, 0x7e] {
            assert_eq!(shout(&[other, 1, b'a']), None);
        }
        assert_eq!(shout(&[0x81, 0xbe]), None);
    }

    proptest! {
        #[test]
        fn strings_of_any_length_are_read_as_written(len in 0_usize..100_000, more in any::<u8>()) {
            let mut block = Vec::new();
            put_string(&vec![b'x'; len], &mut block);
            block.push(more);
            let mut rest = &block[..];
            let read = string(&mut rest).expect("a string");
            prop_assert_eq!((read.huffman, read.bytes.len(), rest), (false, len, &[more][..]));
        }

        #[test]
        fn what_is_coded_is_decoded(text in proptest::collection::vec(
            proptest::sample::select(&SYMBOLS[..]), 0..100,
        )) {
            prop_assert_eq!(unhuffman(&huffman(&text)), Some(text));
        }

        #[test]
        fn nothing_panics(block in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(shouted) = shout(&block) {
                prop_assert!(shouted.len() <= 2 * block.len());
            }
        }
    }
}
