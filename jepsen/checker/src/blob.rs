//! Keys and values: bytes that are cheap to share and pleasant to read in a history.
//!
//! The model, the replies and the ground truth all hold the same keys and values; a [`Blob`] shares one
//! allocation between them. In JSON it is a plain string where the bytes are text, and `hex:…` where
//! they are not (or where the text itself begins with `hex:`), so any bytes survive the round trip.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};
use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Immutable shared bytes, ordered as etcd orders keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Blob(Arc<[u8]>);

impl Blob {
    /// Copies the bytes.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Blob(Arc::from(bytes.as_ref()))
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

// Sound for ordered maps: a blob compares and hashes as its bytes do.
impl Borrow<[u8]> for Blob {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Blob {
    fn from(text: &str) -> Self {
        Blob::new(text)
    }
}

impl From<String> for Blob {
    fn from(text: String) -> Self {
        Blob::new(text)
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Blob(Arc::from(bytes))
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Blob::new(bytes)
    }
}

const HEX: &str = "hex:";

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self) {
            Ok(text) if !text.starts_with(HEX) => f.write_str(text),
            _ => {
                f.write_str(HEX)?;
                self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self) {
            Ok(text) if !text.starts_with(HEX) => serializer.serialize_str(text),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(BlobVisitor)
    }
}

struct BlobVisitor;

impl Visitor<'_> for BlobVisitor {
    type Value = Blob;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or hex: followed by pairs of hexadecimal digits")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Blob, E> {
        match text.strip_prefix(HEX) {
            None => Ok(Blob::new(text)),
            Some(digits) => unhex(digits)
                .map(Blob::from)
                .ok_or_else(|| E::custom(format!("`{text}` is not hex: and pairs of digits"))),
        }
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    digits.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_json() {
        for bytes in
            [&b""[..], b"plain", b"hex:", b"hex:00", b"\0", b"\xff\x00\xfe", "żółw".as_bytes()]
        {
            let blob = Blob::new(bytes);
            let json = serde_json::to_string(&blob).unwrap();
            assert_eq!(serde_json::from_str::<Blob>(&json).unwrap(), blob, "{json}");
        }
        assert!(serde_json::from_str::<Blob>("\"hex:0\"").is_err());
        assert!(serde_json::from_str::<Blob>("\"hex:zz\"").is_err());
    }
}
