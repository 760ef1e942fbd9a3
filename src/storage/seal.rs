//! The checksum at the end of a physical row: LMDB has none, and what a disk forgets must not be believed.
//!
//! ```text
//! value | CRC-32C over: the table's number, the physical key, the value   (little-endian)
//! ```
//! - Every row is sealed but those of [`Table::Rows`], [`Table::Keys`] and [`Table::Counts`] under their
//!   own keys: `mvcc` puts a checksum into each of those and verifies it with the row's form, and they are
//!   read too often to pay twice. A bucket (see `bucket.rs`) is sealed in every table, since its list of
//!   ends is nobody else's.
//! - The checksum covers the table and the key, so a row that lies where another should is no row.
//! - A value is lent as it lies in the map: the checksum comes last, and is cut off.

use super::error::StorageError;
use super::schema::Table;

/// Bytes of a seal.
const LEN: usize = 4;

fn checksum(table: Table, key: &[u8], value: &[u8]) -> [u8; LEN] {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[table.number()]), key);
    crc32c::crc32c_append(crc, value).to_le_bytes()
}

/// Makes what is to be stored of a value, in `buf`.
pub(super) fn seal<'b>(table: Table, key: &[u8], value: &[u8], buf: &'b mut Vec<u8>) -> &'b [u8] {
    buf.clear();
    buf.reserve(value.len() + LEN);
    buf.extend_from_slice(value);
    buf.extend_from_slice(&checksum(table, key, value));
    buf
}

/// Returns the value in what is stored.
pub(super) fn unseal<'t>(
    table: Table,
    key: &[u8],
    stored: &'t [u8],
) -> Result<&'t [u8], StorageError> {
    match stored.split_last_chunk::<LEN>() {
        Some((value, found)) if *found == checksum(table, key, value) => Ok(value),
        _ => Err(StorageError::Rot(format!(
            "row \"{}\" of table {} does not fit its checksum",
            key.escape_ascii(),
            table.name()
        ))),
    }
}
