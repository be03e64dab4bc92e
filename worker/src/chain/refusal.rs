//! Calls that the chain refused, by name, with what to do about it.
//!
//! A call can be refused twice: by the pool before it is in a block, as error 1010 with a number, or by the pallet in the
//! block, by name. Both mean the same and get the same name here.

use std::fmt;

/// A call that the chain refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The call, such as `set_weights`.
    pub call: &'static str,
    /// The error's name in the pallet, such as `SettingWeightsTooFast`.
    pub name: String,
}

/// Name, what to do, and whether waiting alone helps.
const KNOWN: [(&str, &str, bool); 22] = [
    ("SettingWeightsTooFast", "the subnet's rate limit has not passed; wait for WeightsSetRateLimit blocks", true),
    ("NeuronNoValidatorPermit", "add stake to this hotkey; the permit comes with the next epoch", true),
    ("NotEnoughStakeToSetWeights", "add stake to this hotkey until it has the chain's StakeThreshold", false),
    ("HotKeyNotRegisteredInSubNet", "register the hotkey with its coldkey (btcli subnet register)", false),
    ("HotKeyNotRegisteredInNetwork", "register the hotkey with its coldkey (btcli subnet register)", false),
    ("HotKeyAlreadyRegisteredInSubNet", "nothing to do", false),
    ("IncorrectWeightVersionKey", "the subnet asks for a higher version key; update this worker", false),
    ("CommitRevealEnabled", "this subnet wants committed weights; its owner can switch commit-reveal off", false),
    (
        "WeightVecLengthIsLow",
        "the subnet wants more weights at once (MinAllowedWeights); wait until more miners have a score",
        true,
    ),
    ("MaxWeightExceeded", "the subnet bounds the share of one weight (MaxWeightsLimit); its owner can raise it", false),
    ("UidVecContainInvalidOne", "a miner left the subnet; the next weights leave it out", true),
    ("UidsLengthExceedUidsInSubNet", "miners left the subnet; the next weights leave them out", true),
    ("DuplicateUids", "report this as a fault of the worker", false),
    ("WeightVecNotEqualSize", "report this as a fault of the worker", false),
    ("CanNotSetRootNetworkWeights", "netuid 0 takes no weights; correct spec.netuid", false),
    ("SubnetNotExists", "correct spec.netuid or register the subnet", false),
    ("MechanismDoesNotExist", "correct spec.netuid or register the subnet", false),
    ("TooManyRegistrationsThisBlock", "others registered in the same block; try again", true),
    ("TooManyRegistrationsThisInterval", "the subnet bounds registrations per interval; try again later", true),
    ("AccountNotAllowedCommit", "register the hotkey with its coldkey (btcli subnet register)", false),
    ("SpaceLimitExceeded", "the chain bounds the bytes of commitments per epoch; the next epoch has room again", true),
    ("InsufficientBalance", "transfer funds to the account that signs", false),
];

impl Refusal {
    /// Waiting and trying again can help.
    pub fn is_transient(&self) -> bool {
        KNOWN.iter().any(|(name, _, passes)| self.name == *name && *passes)
    }

    /// What to do.
    pub fn remedy(&self) -> &'static str {
        KNOWN
            .iter()
            .find(|(name, ..)| self.name == *name)
            .map_or("see the chain's documentation", |(_, remedy, _)| remedy)
    }

    /// From the pool's `Custom error: n`: the numbers are subtensor's.
    pub(super) fn from_pool(call: &'static str, number: u8) -> Self {
        let name = match (number, call) {
            (1, _) => "NotEnoughStakeToSetWeights",
            (3, _) => "SubnetNotExists",
            (6, "set_weights") => "SettingWeightsTooFast",
            (6, _) => "RateLimitExceeded",
            (10, _) => "HotKeyNotRegisteredInSubNet",
            (18, _) => "WeightVecNotEqualSize",
            (19, _) => "UidVecContainInvalidOne",
            (21, _) => "ColdkeySwapDisputed",
            (255, _) => "BadRequest",
            (other, _) => return Self { call, name: format!("Custom({other})") },
        };
        Self { call, name: name.to_owned() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}: the chain refused with {}: {}", self.call, self.name, self.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_and_pallet_say_the_same() {
        let pool = Refusal::from_pool("set_weights", 6);
        let pallet = Refusal { call: "set_weights", name: "SettingWeightsTooFast".to_owned() };
        assert_eq!(pool, pallet);
        assert!(pool.is_transient());
        assert!(pool.to_string().contains("WeightsSetRateLimit"));
        assert_eq!(Refusal::from_pool("set_weights", 77).name, "Custom(77)");
    }
}
