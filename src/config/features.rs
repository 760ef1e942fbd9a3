//! Feature gates: named switches with a stage and a default, set together by one flag
//! (`--feature-gates=A=true,B=false`).
//!
//! `AllAlpha` and `AllBeta` are no features; they set every gate of their stage that the flag has
//! not set by name, whatever the order in the text.

use std::collections::BTreeMap;
use std::fmt;

use super::goflag::{parse_bool, quote};

/// A switch for one piece of behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Health says NOT_SERVING while defragmenting.
    StopGrpcServiceOnDefrag,
    /// Compares hashes with the peers before serving.
    InitialCorruptCheck,
    /// The leader compares the hashes of compactions.
    CompactHashCheck,
    /// Chooses etcd's read buffer for write transactions; a performance matter of etcd's own.
    TxnModeWriteWithSharedBuffer,
    /// Replicates the remaining time of leases.
    LeaseCheckpoint,
    /// Persists the remaining time of leases.
    LeaseCheckpointPersist,
    /// Dials peers from the first usable advertised address.
    SetMemberLocalAddr,
    /// Renews a lease without waiting for the applied index.
    FastLeaseKeepAlive,
    /// Lets revocations pass where other writes are refused for overload.
    PriorityRequest,
}

/// How ripe a feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// On unless declined.
    Beta,
}

impl Feature {
    /// Every feature, in the order of the documentation.
    pub const ALL: [Feature; 9] = [
        Feature::StopGrpcServiceOnDefrag,
        Feature::InitialCorruptCheck,
        Feature::CompactHashCheck,
        Feature::TxnModeWriteWithSharedBuffer,
        Feature::LeaseCheckpoint,
        Feature::LeaseCheckpointPersist,
        Feature::SetMemberLocalAddr,
        Feature::FastLeaseKeepAlive,
        Feature::PriorityRequest,
    ];

    /// Returns the gate's name.
    pub const fn name(self) -> &'static str {
        match self {
            Feature::StopGrpcServiceOnDefrag => "StopGRPCServiceOnDefrag",
            Feature::InitialCorruptCheck => "InitialCorruptCheck",
            Feature::CompactHashCheck => "CompactHashCheck",
            Feature::TxnModeWriteWithSharedBuffer => "TxnModeWriteWithSharedBuffer",
            Feature::LeaseCheckpoint => "LeaseCheckpoint",
            Feature::LeaseCheckpointPersist => "LeaseCheckpointPersist",
            Feature::SetMemberLocalAddr => "SetMemberLocalAddr",
            Feature::FastLeaseKeepAlive => "FastLeaseKeepAlive",
            Feature::PriorityRequest => "PriorityRequest",
        }
    }

    /// Returns the feature's stage.
    pub const fn stage(self) -> Stage {
        match self {
            Feature::TxnModeWriteWithSharedBuffer | Feature::FastLeaseKeepAlive => Stage::Beta,
            _ => Stage::Alpha,
        }
    }

    /// Tells whether the feature is on when nobody says anything.
    pub const fn default_on(self) -> bool {
        matches!(self.stage(), Stage::Beta)
    }

    fn named(name: &str) -> Option<Feature> {
        Feature::ALL.into_iter().find(|feature| feature.name() == name)
    }
}

/// The state of all gates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    chosen: BTreeMap<Feature, bool>,
}

impl FeatureGates {
    /// Tells whether a feature is on.
    pub fn enabled(&self, feature: Feature) -> bool {
        self.chosen.get(&feature).copied().unwrap_or(feature.default_on())
    }

    /// Reads `Gate=bool,…` on top of what is set already. Nothing changes on an error; all values
    /// are looked at before the first name is.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        let mut pairs = Vec::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("missing bool value for {}", pair.trim()));
            };
            let (name, value) = (name.trim(), value.trim());
            let on = parse_bool(value).ok_or_else(|| {
                let reason = format!("parsing {}: invalid syntax", quote(value));
                format!("invalid value of {name}={value}, err: strconv.ParseBool: {reason}")
            })?;
            pairs.push((name, on));
        }
        let mut chosen = self.chosen.clone();
        for (name, on) in pairs {
            let stage = match name {
                "AllAlpha" => Stage::Alpha,
                "AllBeta" => Stage::Beta,
                _ => {
                    let feature = Feature::named(name)
                        .ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
                    chosen.insert(feature, on);
                    continue;
                }
            };
            for feature in Feature::ALL.into_iter().filter(|feature| feature.stage() == stage) {
                chosen.entry(feature).or_insert(on);
            }
        }
        self.chosen = chosen;
        Ok(())
    }
}

impl fmt::Display for FeatureGates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (feature, on)) in self.chosen.iter().enumerate() {
            write!(f, "{}{}={on}", if i > 0 { "," } else { "" }, feature.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the features that are on.
    fn on(text: &str) -> Result<Vec<&'static str>, String> {
        let mut gates = FeatureGates::default();
        gates.set(text)?;
        let on = Feature::ALL.into_iter().filter(|feature| gates.enabled(*feature));
        Ok(on.map(Feature::name).collect())
    }

    #[test]
    fn gates_follow_name_before_stage_before_default() {
        let beta = ["TxnModeWriteWithSharedBuffer", "FastLeaseKeepAlive"];
        assert_eq!(on("").as_deref(), Ok(&beta[..]));
        assert_eq!(on("AllBeta=false").as_deref(), Ok(&[][..]));
        assert_eq!(on("AllBeta=false,FastLeaseKeepAlive=true").as_deref(), Ok(&beta[1..]));
        assert_eq!(on("FastLeaseKeepAlive=1,,AllBeta=F").as_deref(), Ok(&beta[1..]));
        assert_eq!(on(" LeaseCheckpoint = true ").map(|on| on.len()), Ok(3));
        assert_eq!(on("AllAlpha=true").map(|on| on.len()), Ok(9));
        assert_eq!(on("AllAlpha=true,PriorityRequest=false").map(|on| on.len()), Ok(8));
    }

    #[test]
    fn bad_gates_are_refused_in_etcds_words() {
        for (text, error) in [
            ("X=true", "unrecognized feature gate: X"),
            ("LeaseCheckpoint", "missing bool value for LeaseCheckpoint"),
            (
                "LeaseCheckpoint=yes",
                "invalid value of LeaseCheckpoint=yes, err: strconv.ParseBool: \
                 parsing \"yes\": invalid syntax",
            ),
            ("X=true,LeaseCheckpoint", "missing bool value for LeaseCheckpoint"),
            ("leasecheckpoint=true", "unrecognized feature gate: leasecheckpoint"),
        ] {
            assert_eq!(on(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn an_error_leaves_the_gates_alone() {
        let mut gates = FeatureGates::default();
        assert!(gates.set("LeaseCheckpoint=true,X=true").is_err());
        assert_eq!(gates, FeatureGates::default());
        gates.set("LeaseCheckpoint=true").expect("the gate exists");
        gates.set("LeaseCheckpointPersist=true").expect("the gate exists");
        assert_eq!(gates.to_string(), "LeaseCheckpoint=true,LeaseCheckpointPersist=true");
    }
}
