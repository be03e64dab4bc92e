//! Raw resources become one [`Validated`], the single input of the builders (no client required).

use bistro_api::{
    Node, Role, Settings, Subnet,
    pod::Pod,
    run::MIN_PHASE_BLOCKS,
    settings::StartFrom,
    workload::{Gpu, NVIDIA_GPU, Storage, Workload},
};
use k8s_openapi::{
    api::core::v1::{PodTemplateSpec, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt;

use super::{
    Environment, config_map, metadata, pod_template, quantity, restricted, stored, subnet::endpoint_ports, template,
};
use crate::role;

/// A resource that passed its schema but cannot be turned into pods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// Path of the field.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Invalid {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Everything that the builders need, resolved and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// What the nodes do.
    pub role: Role,
    /// Name of the resource.
    pub name: String,
    /// Namespace of the resource and its children.
    pub namespace: String,
    /// The resource as owner of its children; absent where it was never stored in a cluster.
    pub owner: Option<OwnerReference>,
    /// Pods to run: none while suspended.
    pub replicas: i32,
    /// Image of the worker.
    pub image: String,
    /// The content of settings.yaml.
    pub settings: Settings,
    /// The same as text, written once: both the ConfigMap and the digest that rolls the pods need it.
    pub settings_yaml: String,
    /// GPUs of each pod; `count` may be 0.
    pub gpu: Gpu,
    /// CPU and memory of each pod.
    pub resources: ResourceRequirements,
    /// Volume of each pod's state.
    pub storage: Option<Storage>,
    /// Name of the Secret with hotkeys; absent for development wallets.
    pub wallet_secret: Option<String>,
    /// Name of the Secret with the bucket's credentials.
    pub bucket_secret: Option<String>,
    /// Where and how the pods run.
    pub pod: Pod,
    /// A partial template that is merged last.
    pub template: Option<PodTemplateSpec>,
    /// Proxy variables of the operator, for the pods too.
    pub proxy: Vec<(String, String)>,
}

impl Validated {
    /// Name of all children: `<kind>-<name>`.
    pub fn child_name(&self) -> String {
        format!("{}-{}", role::spec(self.role).command, self.name)
    }
}

/// Checks a resource together with its Subnet and resolves everything that the builders need.
pub fn validate<K: Node>(resource: &K, subnet: &Subnet, environment: &Environment) -> Result<Validated, Invalid> {
    // Without `..`: a new field does not compile until it is decided here what it does.
    let Workload { subnet_ref: _, replicas, wallet, bucket, gpu, resources, suspend, image, storage, pod, template } =
        resource.workload().clone();
    let namespace = resource.namespace().unwrap_or_else(|| "default".to_owned());
    let replicas = if suspend { 0 } else { replicas };
    let default_gpu = || Gpu { count: role::spec(K::ROLE).default_gpus, resource_name: NVIDIA_GPU.to_owned() };
    let gpu = gpu.unwrap_or_else(default_gpu);
    check_gpu(&gpu, &resources)?;
    check_metadata(&pod)?;
    let mut settings = settings(&namespace, &resource.name_any(), subnet, wallet.dev)?;
    settings.start_from = checked_start(resource.start_from(), &settings)?;
    let validated = Validated {
        role: K::ROLE,
        name: resource.name_any(),
        owner: resource.controller_owner_ref(&()),
        replicas: i32::try_from(replicas).map_err(|_| Invalid::new("spec.replicas", "is too large"))?,
        image: image.unwrap_or_else(|| environment.image_for(&gpu).to_owned()),
        settings_yaml: config_map::text(&settings),
        settings,
        gpu,
        resources: stored::resources(resources, "spec.resources")?,
        storage: storage.map(checked_storage).transpose()?,
        wallet_secret: wallet.secret_ref.map(|secret| secret.name),
        bucket_secret: bucket.credentials_secret_ref.map(|secret| secret.name),
        pod: stored::without_empty(&pod),
        template: template.map(template::parse).transpose()?,
        proxy: environment.proxy.clone(),
        namespace,
    };
    // What the operator builds by itself is restricted; these two can break it.
    if validated.template.is_some() || !validated.pod.annotations.is_empty() {
        restricted::check(&pod_template::build(&validated))?;
    }
    Ok(validated)
}

/// GPUs are asked for in one place, by a name that Kubernetes takes.
fn check_gpu(gpu: &Gpu, resources: &ResourceRequirements) -> Result<(), Invalid> {
    let Gpu { count: _, resource_name } = gpu;
    if !resource_name.split_once('/').is_some_and(|(domain, name)| !domain.is_empty() && !name.is_empty()) {
        let message = format!("{resource_name:?} needs a domain: write it like {NVIDIA_GPU}");
        return Err(Invalid::new("spec.gpu.resourceName", message));
    }
    for (list, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        if amounts.iter().flatten().any(|(name, _)| name == resource_name) {
            let field = format!("spec.resources.{list}[{resource_name}]");
            return Err(Invalid::new(field, "is set by spec.gpu.count: remove it here"));
        }
    }
    Ok(())
}

/// Labels and annotations of pods by which the operator finds and rolls them.
fn check_metadata(pod: &Pod) -> Result<(), Invalid> {
    let refused = |field: &str, key: &str, remedy: &str| {
        Err(Invalid::new(format!("spec.pod.{field}[{key}]"), format!("belongs to the pod contract: {remedy}")))
    };
    if let Some(key) = pod.labels.keys().find(|key| metadata::is_owned_label(key)) {
        return refused("labels", key, metadata::OTHER_LABEL);
    }
    if let Some(key) = pod.annotations.keys().find(|key| metadata::is_owned_annotation(key)) {
        return refused("annotations", key, metadata::OTHER_ANNOTATION);
    }
    Ok(())
}

fn checked_storage(storage: Storage) -> Result<Storage, Invalid> {
    let size = stored::canonical(&storage.size, "spec.storage.size")?;
    if quantity::is_zero(&size) {
        return Err(Invalid::new("spec.storage.size", "is nothing: write a size like 20Gi, or leave storage out"));
    }
    Ok(Storage { size, ..storage })
}

/// The one rule of a schedule that its schema cannot say.
pub(super) fn check_schedule(subnet: &Subnet) -> Result<(), Invalid> {
    if subnet.spec.run.schedule.train_blocks().is_none() {
        let message = format!("the phases leave fewer than {MIN_PHASE_BLOCKS} blocks for training: raise windowBlocks");
        return Err(Invalid::new("spec.run.schedule", message));
    }
    Ok(())
}

fn settings(namespace: &str, name: &str, subnet: &Subnet, dev_wallet: bool) -> Result<Settings, Invalid> {
    let of_subnet = |Invalid { field, message }| {
        Invalid::new("spec.subnetRef", format!("Subnet {} cannot be used: {field} {message}", subnet.name_any()))
    };
    check_schedule(subnet).and_then(|()| endpoint_ports(subnet)).map_err(of_subnet)?;
    let spec = subnet.spec.clone();
    Ok(Settings {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        subnet: subnet.name_any(),
        netuid: spec.netuid,
        chain: spec.chain,
        bucket: spec.bucket,
        run: spec.run,
        scoring: spec.scoring,
        averagers: spec.averagers,
        dev_wallet,
        start_from: StartFrom::default(),
    })
}

/// Miners that share a base have no choice where they start from.
fn checked_start(start_from: StartFrom, settings: &Settings) -> Result<StartFrom, Invalid> {
    if start_from.is_base() || settings.run.mechanism.loss_wins.is_some() {
        return Ok(start_from);
    }
    let message = format!("Subnet {} has one base for all: remove it, or use the mechanism lossWins", settings.subnet);
    Err(Invalid::new("spec.startFrom", message))
}
