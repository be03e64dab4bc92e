//! What distinguishes the three kinds that run nodes: one table instead of three copies.

use bistro_api::Role;

/// What a builder needs to know about a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleSpec {
    /// Kind of the resource.
    pub kind: &'static str,
    /// Argument of the worker, label value and prefix of the children's names.
    pub command: &'static str,
    /// GPUs of a node whose resource does not say.
    pub default_gpus: u32,
}

/// The table.
pub const fn spec(role: Role) -> RoleSpec {
    match role {
        Role::Miner => RoleSpec { kind: "Miner", command: "miner", default_gpus: 1 },
        Role::Validator => RoleSpec { kind: "Validator", command: "validator", default_gpus: 1 },
        // Merging is integer and f64 arithmetic that must agree to the bit, so it runs on the CPU anyway.
        Role::Averager => RoleSpec { kind: "Averager", command: "averager", default_gpus: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_the_role_as_the_worker_reads_it() {
        for role in Role::ALL {
            assert_eq!(spec(role).command, role.as_str());
            assert_eq!(spec(role).kind.to_lowercase(), role.as_str());
        }
    }
}
