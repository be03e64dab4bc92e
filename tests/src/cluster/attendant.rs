//! What a cloud does for a node and nobody does here: it makes volumes, and says that there are GPUs.

use std::{collections::BTreeMap, fs, path::PathBuf, thread::JoinHandle, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::{Node as Machine, PersistentVolume, PersistentVolumeClaim},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    node::{GPUS, NAME},
    site::Site,
};

/// Class of the volumes; the default one.
pub const CLASS: &str = "bistro-local";
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// A thread that looks after the node. It ends when this is dropped.
pub struct Attendant {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Attendant {
    pub fn start(site: &Site) -> Self {
        let (kubeconfig, volumes) = (site.kubeconfig("admin"), site.file("volumes"));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // A runtime of its own: the one of the test may be anybody's.
        let attend = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let attending = attend(kubeconfig, volumes);
            runtime.block_on(async { stopped.run_until_cancelled(attending).await });
        };
        Self { stop, thread: Some(std::thread::spawn(attend)) }
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn attend(kubeconfig: PathBuf, volumes: PathBuf) {
    let file = Kubeconfig::read_from(kubeconfig).expect("a sound file");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("a sound file");
    let client = Client::try_from(config).expect("a sound configuration");
    loop {
        // The API server may be away, and objects may be changed meanwhile: the next look sees to it.
        let _ = has_gpus(&client).await;
        let _ = has_class(&client).await;
        let _ = gives_volumes(&client, &volumes).await;
        let _ = takes_volumes(&client, &volumes).await;
        tokio::time::sleep(LOOK).await;
    }
}

/// Says that the node has GPUs, as their plugin would.
async fn has_gpus(client: &Client) -> kube::Result<()> {
    let nodes: Api<Machine> = Api::all(client.clone());
    let node = nodes.get(NAME).await?;
    let status = node.status.unwrap_or_default();
    let gpus = GPUS.to_string();
    let has = |room: Option<&BTreeMap<String, Quantity>>| {
        room.and_then(|room| room.get("nvidia.com/gpu")).is_some_and(|count| count.0 == gpus)
    };
    if !has(status.capacity.as_ref()) || !has(status.allocatable.as_ref()) {
        let room = json!({ "nvidia.com/gpu": gpus });
        let patch = json!({ "status": { "capacity": room, "allocatable": room } });
        nodes.patch_status(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    }
    Ok(())
}

/// The class is there, and is the default.
async fn has_class(client: &Client) -> kube::Result<()> {
    let classes: Api<StorageClass> = Api::all(client.clone());
    if classes.get_opt(CLASS).await?.is_none() {
        let class = json!({
            "metadata": {
                "name": CLASS, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" },
            },
            "provisioner": "kubernetes.io/no-provisioner", "reclaimPolicy": "Delete",
        });
        classes.create(&PostParams::default(), &serde_json::from_value(class).expect("a class")).await?;
    }
    Ok(())
}

/// Makes a folder and a volume for every claim that waits for one.
async fn gives_volumes(client: &Client, folder: &std::path::Path) -> kube::Result<()> {
    let claims: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    for claim in claims.list(&ListParams::default()).await? {
        let spec = claim.spec.clone().unwrap_or_default();
        let pending = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending");
        if !pending || spec.storage_class_name.as_deref() != Some(CLASS) {
            continue;
        }
        let name = format!("pvc-{}", claim.uid().expect("stored objects have one"));
        if volumes.get_opt(&name).await?.is_some() {
            continue;
        }
        let path = folder.join(&name);
        fs::create_dir_all(&path).expect("the folder takes a folder");
        // Of type local, not hostPath: only there fsGroup is honoured, so that a pod that is not root can write.
        let volume = json!({
            "metadata": { "name": name },
            "spec": {
                "accessModes": spec.access_modes, "storageClassName": CLASS, "local": { "path": path },
                "capacity": spec.resources.and_then(|room| room.requests),
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": { "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid() },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{
                    "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [NAME] }],
                }] } },
            },
        });
        volumes.create(&PostParams::default(), &serde_json::from_value(volume).expect("a volume")).await?;
    }
    Ok(())
}

/// Removes volumes whose claims are gone, with what they hold.
async fn takes_volumes(client: &Client, folder: &std::path::Path) -> kube::Result<()> {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    for volume in volumes.list(&ListParams::default()).await? {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Released" | "Failed")) {
            volumes.delete(&volume.name_any(), &DeleteParams::default()).await?;
            // A pod that still ends may hold files open; the folder of the cluster goes in any case.
            let _ = fs::remove_dir_all(folder.join(volume.name_any()));
        }
    }
    Ok(())
}
