//! Raw resources become one [`Validated`], the single input of the builders (no client required).

use bistro_api::{
    Node, Role, Settings, Subnet,
    pod::Pod,
    run::MIN_PHASE_BLOCKS,
    workload::{Gpu, NVIDIA_GPU, Storage, Workload},
};
use k8s_openapi::{
    api::core::v1::{PodTemplateSpec, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt;

use super::{Environment, template};
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
    Ok(Validated {
        role: K::ROLE,
        name: resource.name_any(),
        owner: resource.controller_owner_ref(&()),
        replicas: i32::try_from(replicas).map_err(|_| Invalid::new("spec.replicas", "is too large"))?,
        image: image.unwrap_or_else(|| environment.image_for(&gpu).to_owned()),
        settings: settings(&namespace, &resource.name_any(), subnet, wallet.dev)?,
        gpu,
        resources,
        storage,
        wallet_secret: wallet.secret_ref.map(|secret| secret.name),
        bucket_secret: bucket.credentials_secret_ref.map(|secret| secret.name),
        pod,
        template: template.map(template::parse).transpose()?,
        proxy: environment.proxy.clone(),
        namespace,
    })
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
    check_schedule(subnet)?;
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
    })
}
