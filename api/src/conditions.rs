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
    /// A machine took pods with it that nobody may replace before somebody made sure that it is off.
    pub const NODE_LOST: &str = "NodeLost";
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
    /// A child could not be written; the message has the API server's answer.
    pub const APPLY_FAILED: &str = "ApplyFailed";
    /// The annotation `bistro.dev/paused: "true"` keeps the operator from writing children.
    pub const PAUSED: &str = "Paused";
    /// No pod is wanted: `spec.replicas` is 0.
    pub const SCALED_TO_ZERO: &str = "ScaledToZero";
    /// No machine has room for a pod; the message has the scheduler's words.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// The image of a pod cannot be pulled.
    pub const IMAGE_NOT_PULLED: &str = "ImageNotPulled";
    /// A pod's worker ends again and again; the message has its last line.
    pub const WORKER_FAILING: &str = "WorkerFailing";
    /// A pod is past its grace period on a machine that does not answer.
    pub const MACHINE_SILENT: &str = "MachineSilent";
    /// Every pod's machine answers.
    pub const MACHINES_ANSWER: &str = "MachinesAnswer";
    /// The Subnet's settings can be used.
    pub const VALID: &str = "Valid";
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
