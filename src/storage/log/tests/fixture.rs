//! A stored log of format version 1 that must open for as long as that version is read.

use super::*;

/// One segment of 512 bytes, as hexadecimal lines of 32 bytes.
const FIXTURE: &str = include_str!("../../fixtures/log_v1.hex");

fn example() -> MemDisk {
    let disk = MemDisk::default();
    let options = LogOptions { segment_bytes: 512 };
    let mut s = Session::create(&disk, options).expect("created");
    s.append(&[entry(1, 1, 3), entry(2, 1, 8)]).expect("pending");
    s.hard_state(HardState { term: Term(1), vote: Some(NodeId(5)), commit: Index(1) }).expect("ok");
    s.sync().expect("synced");
    s.trim(1).expect("pending");
    s.append(&[entry(2, 2, 4)]).expect("pending");
    s.sync().expect("synced");
    s.log.take().expect("open").close().expect("closed");
    disk
}

fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hexadecimal")
    };
    digits.chunks(2).map(byte).collect()
}

#[test]
fn a_log_of_format_version_1_still_opens() {
    let disk = MemDisk::default();
    disk.put(&segment(1), unhex(FIXTURE));
    let recovered = reopen(&disk).expect("opens");
    assert_eq!(recovered.metadata, Metadata { cluster: 11, member: 22, boot: 2 });
    let hard_state = HardState { term: Term(1), vote: Some(NodeId(5)), commit: Index(1) };
    assert_eq!(recovered.hard_state, hard_state);
    assert_eq!(
        recovered.mark.as_ref().map(|m| m.position),
        Some(LogPosition::new(Index(1), Term(1)))
    );
    assert_eq!(recovered.entries, [entry(2, 2, 4)]);
    assert_eq!(recovered.repaired, None);
}

#[test]
fn the_same_log_is_written_as_ever() {
    let written = hex(&example().read(&segment(1)));
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/storage/fixtures/log_v1.hex");
        std::fs::write(path, &written).expect("the fixture is written");
        return;
    }
    assert_eq!(written, FIXTURE, "the format has changed: that needs a new version and fixture");
}
