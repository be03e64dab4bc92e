//! Pods as local processes: what the kubelet does, for one container and the pod contract.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bistro_api::Role;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Volume};
use kube::ResourceExt;

use super::{
    network::{self, Network, Workload},
    state::{StateError, StateFolder, create_folder, write_file},
};
use crate::plan::contract;

/// Retries of a Job that does not say, as Kubernetes has it.
const BACKOFF_LIMIT: u32 = 6;
/// Fields of a pod that a process has too.
const POD_NAME: &str = "metadata.name";
const POD_NAMESPACE: &str = "metadata.namespace";

/// A process and everything that it needs.
#[derive(Clone, Debug)]
pub struct LocalPod {
    /// Unique name: that of the pod in a cluster, and of its folder.
    pub id: String,
    /// Name for people: `<name>-<ordinal>`.
    pub label: String,
    /// What the node does; absent for Jobs and the devnet.
    pub role: Option<Role>,
    /// The program.
    pub program: PathBuf,
    /// Its arguments; the devnet's are fixed to its ports once it has some.
    pub arguments: Arc<Mutex<Vec<OsString>>>,
    /// Its variables, besides those of `up` itself.
    pub environment: BTreeMap<String, String>,
    /// Its folder.
    pub folder: PathBuf,
    /// When it starts again.
    pub restarts: Restarts,
}

/// When a process that ended starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restarts {
    /// Always: it should never end.
    Always,
    /// Until it succeeds, at most so often.
    UntilDone(u32),
}

impl LocalPod {
    /// Where its output goes.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// What rendering a pod needs besides the pod.
pub struct Renderer<'a> {
    /// The network, for Secrets and ConfigMaps.
    pub network: &'a Network,
    /// Where folders are made.
    pub state: &'a StateFolder,
    /// Where the programs are.
    pub programs: &'a Path,
    /// Threads of each process.
    pub threads: usize,
}

impl Renderer<'_> {
    /// The pods of a workload.
    pub fn nodes(&self, workload: &Workload) -> Result<Vec<LocalPod>, StateError> {
        let Some(spec) = workload.children.stateful_set.spec.as_ref() else { return Ok(Vec::new()) };
        let Some(pod) = spec.template.spec.as_ref() else { return Ok(Vec::new()) };
        let Some(container) = pod.containers.iter().find(|c| c.name == contract::CONTAINER) else {
            return Ok(Vec::new());
        };
        let set = workload.children.stateful_set.name_any();
        (0..spec.replicas.unwrap_or(1))
            .map(|ordinal| {
                let id = format!("{set}-{ordinal}");
                let settings = workload.children.config_map.data.clone().unwrap_or_default();
                let environment = self.environment(&id, Some(ordinal), pod, container)?;
                if let Some(text) = settings.get(contract::SETTINGS_FILE) {
                    write_file(&self.state.pod(&id).join(contract::SETTINGS_FILE), text.as_bytes())?;
                }
                Ok(LocalPod {
                    label: format!("{}-{ordinal}", workload.validated.name),
                    role: Some(workload.validated.role),
                    program: self.programs.join("bistro-worker"),
                    arguments: arguments(container),
                    environment,
                    folder: self.state.pod(&id),
                    restarts: Restarts::Always,
                    id,
                })
            })
            .collect()
    }

    /// The pods of all Jobs.
    pub fn jobs(&self) -> Result<Vec<LocalPod>, StateError> {
        let containers = self.network.jobs.iter().filter_map(|job| Some((job, network::job_container(job)?)));
        containers
            .filter_map(|(job, (pod, container))| Some((job, pod, container, network::program_of(container)?)))
            .map(|(job, pod, container, program)| {
                let id = format!("job-{}", job.name_any());
                let limit = job.spec.as_ref().and_then(|spec| spec.backoff_limit);
                Ok(LocalPod {
                    label: job.name_any(),
                    role: None,
                    program: self.programs.join(program),
                    arguments: arguments(container),
                    environment: self.environment(&id, None, pod, container)?,
                    folder: self.state.pod(&id),
                    restarts: Restarts::UntilDone(limit.and_then(|l| u32::try_from(l).ok()).unwrap_or(BACKOFF_LIMIT)),
                    id,
                })
            })
            .collect()
    }

    /// The container's variables, with those of the contract pointing into the pod's folder. Makes that folder.
    fn environment(
        &self,
        id: &str,
        ordinal: Option<i32>,
        pod: &PodSpec,
        container: &Container,
    ) -> Result<BTreeMap<String, String>, StateError> {
        let folder = self.state.pod(id);
        let (secrets, state) = (folder.join("secrets"), folder.join("state"));
        create_folder(&secrets)?;
        create_folder(&state)?;
        self.mount_secrets(&secrets, pod, container)?;
        let variables = container.env.iter().flatten();
        let mut environment: BTreeMap<String, String> =
            variables.filter_map(|variable| Some((variable.name.clone(), self.value(variable, id)?))).collect();
        let path = |path: &Path| path.display().to_string();
        environment.insert(contract::SECRETS.to_owned(), path(&secrets));
        environment.insert(contract::STATE.to_owned(), path(&state));
        environment.insert(contract::THREADS.to_owned(), self.threads.to_string());
        if let Some(ordinal) = ordinal {
            environment.insert(contract::SETTINGS.to_owned(), path(&folder.join(contract::SETTINGS_FILE)));
            environment.insert(contract::ORDINAL.to_owned(), ordinal.to_string());
        }
        Ok(environment)
    }

    /// A variable's value; `None` where only a cluster knows it.
    fn value(&self, variable: &EnvVar, id: &str) -> Option<String> {
        let EnvVar { name: _, value, value_from } = variable;
        let Some(source) = value_from else { return Some(value.clone().unwrap_or_default()) };
        let text = |content: &BTreeMap<String, BTreeMap<String, Vec<u8>>>, name: &str, key: &str| {
            String::from_utf8(content.get(name)?.get(key)?.clone()).ok()
        };
        if let Some(reference) = &source.secret_key_ref {
            return text(&self.network.secrets, &reference.name, &reference.key);
        }
        if let Some(reference) = &source.config_map_key_ref {
            return text(&self.network.config_maps, &reference.name, &reference.key);
        }
        match source.field_ref.as_ref()?.field_path.as_str() {
            POD_NAME => Some(id.to_owned()),
            POD_NAMESPACE => Some("default".to_owned()),
            _ => None,
        }
    }

    /// Writes the Secrets and ConfigMaps that are mounted below the secrets folder of the contract.
    fn mount_secrets(&self, secrets: &Path, pod: &PodSpec, container: &Container) -> Result<(), StateError> {
        for mount in container.volume_mounts.iter().flatten() {
            let Some(name) = secrets_folder(&mount.mount_path) else { continue };
            let Some(content) = self.content(pod, &mount.name) else { continue };
            let folder = secrets.join(name);
            create_folder(&folder)?;
            for (key, bytes) in content.iter().filter(|(key, _)| is_file_name(key)) {
                write_file(&folder.join(key), bytes)?;
            }
        }
        Ok(())
    }

    fn content(&self, pod: &PodSpec, volume: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        let volume: &Volume = pod.volumes.iter().flatten().find(|v| v.name == volume)?;
        if let Some(secret) = &volume.secret {
            return self.network.secrets.get(secret.secret_name.as_ref()?);
        }
        self.network.config_maps.get(&volume.config_map.as_ref()?.name)
    }
}

/// The folder below that of the Secrets where this path mounts something; `None` for any other path.
pub fn secrets_folder(mount_path: &str) -> Option<&str> {
    let below = mount_path.strip_prefix(contract::SECRETS_FOLDER)?.strip_prefix('/')?;
    // One plain folder name: a path could lead out of the pod's folder.
    (!below.is_empty() && !below.contains(['/', '\\']) && below != "..").then_some(below)
}

/// Whether a process has this field of a pod.
pub fn is_known_field(path: &str) -> bool {
    matches!(path, POD_NAME | POD_NAMESPACE)
}

/// Keys of Secrets are file names in a cluster too.
fn is_file_name(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !key.is_empty() && key.chars().all(plain) && key != "." && key != ".."
}

fn arguments(container: &Container) -> Arc<Mutex<Vec<OsString>>> {
    Arc::new(Mutex::new(container.args.iter().flatten().map(OsString::from).collect()))
}
