//! The vocabulary of status conditions, in one place: what is reported, and the reasons why.
//!
//! People write alerts and scripts against these words, so they only ever grow.

/// What a condition tells about a resource.
pub mod condition {
    /// Every wanted pod is ready; of a Subnet: its settings are valid.
    pub const READY: &str = "Ready";
    /// Pods are being created or replaced.
    pub const PROGRESSING: &str = "Progressing";
    /// `spec.suspend` is set and no pod is left.
    pub const SUSPENDED: &str = "Suspended";
    /// Every node's hotkey is registered on the subnet.
    pub const REGISTERED: &str = "Registered";
    /// Every node's last request to the chain was answered.
    pub const CHAIN_REACHABLE: &str = "ChainReachable";
    /// Every node's last request to the bucket was answered.
    pub const BUCKET_REACHABLE: &str = "BucketReachable";
}

/// Why a condition has its status.
pub mod reason {
    /// All wanted pods are ready.
    pub const ALL_READY: &str = "AllReady";
    /// Some wanted pods are not ready yet; the message names one and what it waits for.
    pub const NODES_NOT_READY: &str = "NodesNotReady";
    /// Pods are being created or replaced.
    pub const ROLLING_OUT: &str = "RollingOut";
    /// The children are what the resource asks for.
    pub const SETTLED: &str = "Settled";
    /// `spec.suspend` is set.
    pub const SUSPENDED: &str = "Suspended";
    /// `spec.suspend` is not set.
    pub const RUNNING: &str = "Running";
    /// `spec.subnetRef` names a Subnet that does not exist; running pods keep their settings.
    pub const SUBNET_NOT_FOUND: &str = "SubnetNotFound";
    /// The resource passes its schema but cannot be turned into pods; the message says what to change.
    pub const INVALID: &str = "Invalid";
    /// A Secret that the pods mount does not exist.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// The wallet Secret has no key for one of the pods.
    pub const HOTKEY_MISSING: &str = "HotkeyMissing";
    /// An older resource runs the same wallet; two pods must never sign with one hotkey.
    pub const HOTKEY_CONFLICT: &str = "HotkeyConflict";
    /// A node's hotkey is not registered on the subnet.
    pub const NOT_REGISTERED: &str = "NotRegistered";
    /// Every node's hotkey is registered.
    pub const REGISTERED: &str = "Registered";
    /// A node cannot reach the service.
    pub const UNREACHABLE: &str = "Unreachable";
    /// Every node reaches the service.
    pub const REACHABLE: &str = "Reachable";
    /// No node has reported yet.
    pub const NOT_REPORTED: &str = "NotReported";
}
