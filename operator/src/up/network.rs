//! All resources of the files together: references resolved, everything planned (no process yet).

use std::{collections::BTreeMap, fmt, path::Path};

use bistro_api::{Node, Role, Subnet};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, PodSpec},
};
use kube::ResourceExt;

use super::{
    endpoints::{self, Endpoints},
    not_honoured,
};
use crate::{
    admission,
    manifests::{Manifests, Problem, Problems, Sourced},
    plan::{self, Children, Environment, Validated},
    role,
};

/// `up` runs the binaries beside it; this name only shows in the plan.
const LOCAL_IMAGE: &str = "bistro-worker";

/// What is to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The subnet that all nodes belong to.
    pub subnet: Subnet,
    /// The nodes, averagers first: everybody waits for them.
    pub workloads: Vec<Workload>,
    /// Things to do once, beside the nodes.
    pub jobs: Vec<Job>,
    /// Content of the Secrets.
    pub secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Content of the ConfigMaps.
    pub config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// What is not honoured, one line each.
    pub warnings: Vec<String>,
}

/// One Miner, Validator or Averager as the controller would run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The validated resource.
    pub validated: Validated,
    /// Its objects.
    pub children: Children,
}

impl Network {
    /// Whether the subnet lives on a devnet that `up` has to start.
    pub fn needs_devnet(&self) -> bool {
        let spec = &self.subnet.spec;
        spec.chain.endpoints.iter().chain(&spec.bucket.endpoint).any(|endpoint| endpoints::names_devnet(endpoint))
    }
}

/// The manifests with all endpoints of the devnet replaced.
pub fn on_devnet(manifests: &Manifests, devnet: &Endpoints) -> Manifests {
    fn all<T: serde::Serialize + serde::de::DeserializeOwned>(
        devnet: &Endpoints,
        sourced: &[Sourced<T>],
    ) -> Vec<Sourced<T>> {
        sourced.iter().map(|s| Sourced { file: s.file.clone(), object: devnet.replace_in(&s.object) }).collect()
    }
    let text = |bytes: &Vec<u8>| match std::str::from_utf8(bytes) {
        Ok(text) => devnet.replace(text).into_bytes(),
        Err(_) => bytes.clone(),
    };
    let config_maps = manifests
        .config_maps
        .iter()
        .map(|(name, content)| (name.clone(), content.iter().map(|(key, bytes)| (key.clone(), text(bytes))).collect()));
    Manifests {
        subnets: all(devnet, &manifests.subnets),
        miners: all(devnet, &manifests.miners),
        validators: all(devnet, &manifests.validators),
        averagers: all(devnet, &manifests.averagers),
        jobs: all(devnet, &manifests.jobs),
        secrets: manifests.secrets.clone(),
        config_maps: config_maps.collect(),
        warnings: manifests.warnings.clone(),
    }
}

/// Resolves references and plans every resource.
pub fn plan(manifests: &Manifests) -> Result<Network, Problems> {
    let mut planner =
        Planner { manifests, workloads: Vec::new(), warnings: manifests.warnings.clone(), problems: Vec::new() };
    planner.one_subnet();
    manifests.averagers.iter().for_each(|averager| planner.workload(averager));
    manifests.validators.iter().for_each(|validator| planner.workload(validator));
    manifests.miners.iter().for_each(|miner| planner.workload(miner));
    manifests.jobs.iter().for_each(|job| planner.job(job));
    planner.wallets_are_used_once();
    let Planner { workloads, warnings, problems, .. } = planner;
    match manifests.subnets.first() {
        Some(subnet) if problems.is_empty() => Ok(Network {
            subnet: subnet.object.clone(),
            workloads,
            jobs: manifests.jobs.iter().map(|job| job.object.clone()).collect(),
            secrets: manifests.secrets.clone(),
            config_maps: manifests.config_maps.clone(),
            warnings,
        }),
        _ => Err(Problems(problems)),
    }
}

struct Planner<'a> {
    manifests: &'a Manifests,
    workloads: Vec<Workload>,
    warnings: Vec<String>,
    problems: Vec<Problem>,
}

impl Planner<'_> {
    fn refuse(&mut self, file: &Path, resource: &str, field: &str, message: impl Into<String>) {
        self.problems.push(Problem::new(file, resource, field, message));
    }

    fn one_subnet(&mut self) {
        match self.manifests.subnets.as_slice() {
            [] => self.refuse(Path::new("files"), "", "", "hold no Subnet: add the file of one with -f"),
            [_] => {}
            [_, second, ..] => {
                let resource = format!("Subnet {}", second.object.name_any());
                self.refuse(&second.file, &resource, "", "is a second subnet: run one at a time, name its files only");
            }
        }
    }

    fn workload<K: Node>(&mut self, sourced: &Sourced<K>) {
        let Sourced { file, object } = sourced;
        let resource = format!("{} {}", role::spec(K::ROLE).kind, object.name_any());
        let wanted = &object.workload().subnet_ref.name;
        let named = |subnet: &&Sourced<Subnet>| subnet.object.name_any() == *wanted;
        let Some(subnet) = self.manifests.subnets.iter().find(named) else {
            let names: Vec<String> = self.manifests.subnets.iter().map(|s| s.object.name_any()).collect();
            let message = missing("Subnet", wanted, names.iter().map(String::as_str));
            return self.refuse(file, &resource, "spec.subnetRef.name", message);
        };
        match plan::validate(object, &subnet.object, &Environment::local(LOCAL_IMAGE)) {
            Ok(validated) => {
                self.secret(file, &resource, "spec.wallet.secretRef.name", validated.wallet_secret.as_deref());
                let field = "spec.bucket.credentialsSecretRef.name";
                self.secret(file, &resource, field, validated.bucket_secret.as_deref());
                self.not_honoured(file, &resource, &not_honoured::workload(object.workload()));
                let children = plan::build(&validated);
                self.workloads.push(Workload { validated, children });
            }
            Err(error) => self.refuse(file, &resource, &error.field, error.message),
        }
    }

    fn secret(&mut self, file: &Path, resource: &str, field: &str, secret: Option<&str>) {
        if let Some(name) = secret
            && !self.manifests.secrets.contains_key(name)
        {
            let message = missing("Secret", name, self.manifests.secrets.keys().map(String::as_str));
            self.refuse(file, resource, field, message);
        }
    }

    fn not_honoured(&mut self, file: &Path, resource: &str, fields: &[String]) {
        if !fields.is_empty() {
            let warning =
                format!("{}: {resource}: not honoured outside a cluster: {}", file.display(), fields.join(", "));
            self.warnings.push(warning);
        }
    }

    fn job(&mut self, sourced: &Sourced<Job>) {
        let Sourced { file, object } = sourced;
        let resource = format!("Job {}", object.name_any());
        let Some((pod, container)) = job_container(object) else {
            let message = "needs exactly one container and no init containers to run as a process";
            return self.refuse(file, &resource, "spec.template.spec.containers", message);
        };
        if program_of(container).is_none() {
            let image = container.image.as_deref().unwrap_or_default();
            let message = format!("{image:?} cannot run as a process: only images named bistro-worker can");
            self.refuse(file, &resource, "spec.template.spec.containers[0].image", message);
        }
        if container.command.is_some() {
            let message = "cannot be honoured outside a cluster: remove it, the image decides what runs";
            self.refuse(file, &resource, "spec.template.spec.containers[0].command", message);
        }
        self.not_honoured(file, &resource, &not_honoured::job(pod, container));
        for volume in pod.volumes.iter().flatten() {
            let field = format!("spec.template.spec.volumes[{}]", volume.name);
            let secret = volume.secret.as_ref().and_then(|secret| secret.secret_name.clone());
            self.secret(file, &resource, &field, secret.as_deref());
        }
    }

    /// Two pods that sign with one hotkey would overwrite each other's work.
    fn wallets_are_used_once(&mut self) {
        let mut users: BTreeMap<String, String> = BTreeMap::new();
        for workload in self.workloads.clone() {
            let resource = format!("{} {}", role::spec(workload.validated.role).kind, workload.validated.name);
            let Some(secret) = workload.validated.wallet_secret else { continue };
            if let Some(other) = users.insert(secret.clone(), resource.clone()) {
                let message = format!("{other} signs with Secret {secret} too: give each its own hotkeys");
                self.refuse(Path::new("files"), &resource, "spec.wallet.secretRef.name", message);
            }
        }
    }
}

/// The pod and the container of a Job that has exactly one.
pub fn job_container(job: &Job) -> Option<(&PodSpec, &Container)> {
    let pod = job.spec.as_ref()?.template.spec.as_ref()?;
    match (pod.containers.as_slice(), pod.init_containers.as_deref().unwrap_or_default()) {
        ([container], []) => Some((pod, container)),
        _ => None,
    }
}

/// The program that an image stands for, by the last part of its name.
pub fn program_of(container: &Container) -> Option<&'static str> {
    let name = container.image.as_deref()?.rsplit('/').next()?;
    name.starts_with("bistro-worker").then_some("bistro-worker")
}

fn missing<'a>(kind: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    match admission::nearest(name, known) {
        Some(meant) => format!("there is no {kind} {name} among the files: did you mean {meant}?"),
        None => format!("there is no {kind} {name} among the files: add the file that holds it with -f"),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |role: Role| {
            let of_role = self.workloads.iter().filter(|w| w.validated.role == role);
            of_role.map(|w| w.validated.replicas).sum::<i32>()
        };
        let nodes: Vec<String> = Role::ALL.into_iter().map(|role| format!("{} {role}(s)", count(role))).collect();
        let jobs = self.jobs.len();
        write!(f, "subnet {}: {}, {jobs} job(s): everything in order", self.subnet.name_any(), nodes.join(", "))
    }
}
