//! What Linux tells of a process under `/proc/self`, for metrics.
//!
//! A file that is missing or reads otherwise than known leaves out everything: half a set of figures would
//! only be puzzled over.

use std::fs;
use std::time::Duration;

use super::Process;

/// Reads the figures now.
pub(super) fn read() -> Option<Process> {
    let text = |name: &str| fs::read_to_string(name).ok();
    let ticks = rustix::param::clock_ticks_per_second();
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    let stat = stat(&text("/proc/self/stat")?)?;
    let boot = text("/proc/stat")?;
    let boot: u64 =
        boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let limits = text("/proc/self/limits")?;
    let (received_bytes, sent_bytes) = octets(&text("/proc/self/net/netstat")?).unwrap_or_default();
    Some(Process {
        cpu: duration(stat.cpu_ticks, ticks),
        started: Duration::from_secs(boot) + duration(stat.started_ticks, ticks),
        resident_bytes: stat.resident_pages * page,
        virtual_bytes: stat.virtual_bytes,
        virtual_bytes_max: limit(&limits, "Max address space")?,
        // One of them is the descriptor that reads the directory.
        descriptors: u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count())
            .ok()?
            .saturating_sub(1),
        descriptors_max: limit(&limits, "Max open files")?,
        received_bytes,
        sent_bytes,
    })
}

fn duration(ticks: u64, a_second: u64) -> Duration {
    Duration::from_millis(ticks * 1000 / a_second.max(1))
}

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

/// Reads `/proc/self/stat`. The second field is the program's name, which may hold anything; numbers begin
/// after its last parenthesis, with the third one.
fn stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu_ticks: number(14)? + number(15)?,
        started_ticks: number(22)?,
        virtual_bytes: number(23)?,
        resident_pages: number(24)?,
    })
}

/// Reads a soft limit.
fn limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

/// Finds the bytes received and sent over IP in a table whose lines come in pairs, names and numbers.
fn octets(text: &str) -> Option<(u64, u64)> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let find = |wanted: &str| {
        let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
        pairs.find_map(|(name, number)| (name == wanted).then(|| number.parse().ok())?)
    };
    Some((find("InOctets")?, find("OutOctets")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_figures() {
        let now = read().expect("this is Linux");
        assert!(now.resident_bytes > 1 << 20 && now.virtual_bytes >= now.resident_bytes, "{now:?}");
        assert!(now.descriptors >= 3 && now.descriptors <= now.descriptors_max, "{now:?}");
        assert!(now.started > Duration::from_secs(1_600_000_000), "{now:?}");
    }

    #[test]
    fn a_name_with_parentheses_and_blanks_shifts_no_field() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = stat(&format!("7 (a ) R (b) S {}", fields.join(" "))).expect("well formed");
        let wanted =
            Stat { cpu_ticks: 14 + 15, started_ticks: 22, virtual_bytes: 23, resident_pages: 24 };
        assert_eq!(stat, wanted);
    }

    #[test]
    fn limits_and_tables_are_read_by_name() {
        let text = "Max address space     unlimited  unlimited  bytes\n\
                    Max open files        1024       4096       files\n";
        assert_eq!(limit(text, "Max address space"), Some(u64::MAX));
        assert_eq!(limit(text, "Max open files"), Some(1024));
        let text = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 1 20 30\n";
        assert_eq!(octets(text), Some((20, 30)));
    }
}
