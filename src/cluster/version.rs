//! Versions as members and storage speak of them: three numbers.

use std::fmt;
use std::str::FromStr;

/// A version such as `3.7.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Incompatible changes.
    pub major: u64,
    /// What a cluster agrees on.
    pub minor: u64,
    /// Repairs; 0 in a cluster version.
    pub patch: u64,
}

impl Version {
    /// Makes a version.
    pub const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The text is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version of the form X.Y.Z")]
pub struct NotAVersion;

impl FromStr for Version {
    type Err = NotAVersion;

    /// Reads `X.Y.Z`, with an optional `-pre` or `+build` suffix that is passed over.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(|part| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let plain = digits && (part.len() == 1 || !part.starts_with('0'));
            if plain { part.parse().map_err(|_| NotAVersion) } else { Err(NotAVersion) }
        });
        let mut next = || parts.next().unwrap_or(Err(NotAVersion));
        let version = Self::new(next()?, next()?, next()?);
        if parts.next().is_some() { Err(NotAVersion) } else { Ok(version) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_plain_numbers_are_a_version() {
        assert_eq!("3.7.0".parse(), Ok(Version::new(3, 7, 0)));
        assert_eq!("3.7.1-alpha.0+git".parse(), Ok(Version::new(3, 7, 1)));
        for bad in ["", "3", "3.7", "3.7.", "3.7.0.0", "v3.7.0", "3.+7.0", "3.07.0", "3.7.x"] {
            assert_eq!(bad.parse::<Version>(), Err(NotAVersion), "{bad}");
        }
        assert!(Version::new(3, 10, 0) > Version::new(3, 9, 9));
    }
}
