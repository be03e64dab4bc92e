//! Parts of a pod as an API server gives them back.
//!
//! What people write into `pod`, `resources` and `template` may spell one thing in several ways; an API server answers
//! with one of them. It leaves out what means nothing (null, empty lists, empty texts, false) and respells quantities.
//! The operator sends that spelling, so that a comparison of the wanted object with the stored one finds no difference
//! where there is none.
//!
//! What it adds by itself is not repeated here, since only fields that were sent are compared: `restartPolicy: Always`,
//! `dnsPolicy`, `schedulerName`, `imagePullPolicy`, `terminationMessagePath`, thresholds of probes, `defaultMode` of
//! volumes, requests equal to limits, `volumeMode` of claims, addresses of Services and the like.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements, Volume},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Invalid,
    quantity::{self, QuantityError},
};

/// Members whose keys people choose: an empty text means something, and the whole is left out where it has no members.
const MAPS: [&str; 8] =
    ["labels", "annotations", "nodeSelector", "matchLabels", "limits", "requests", "volumeAttributes", "overhead"];
/// Texts that may be empty: an API server tells them from absent ones.
const TEXTS: [&str; 6] =
    ["storageClassName", "volumeAttributesClassName", "runtimeClassName", "fsType", "apiGroup", "localhostProfile"];
/// Flags that are left out where they are false; all others tell false from absent.
const FLAGS: [&str; 7] = ["hostNetwork", "hostPID", "hostIPC", "readOnly", "stdin", "stdinOnce", "tty"];
/// Numbers that are left out where they are zero, which means the default.
const NUMBERS: [&str; 6] =
    ["hostPort", "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];

/// A typed part without what means nothing.
pub fn without_empty<T: Serialize + DeserializeOwned>(part: &T) -> T {
    let mut value = serde_json::to_value(part).expect("a part of a pod is JSON");
    remove_empty(&mut value);
    serde_json::from_value(value).expect("only optional members were removed")
}

/// Removes members that mean nothing.
pub fn remove_empty(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(remove_empty),
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if !MAPS.contains(&name.as_str()) {
                    remove_empty(member);
                }
            }
            members.retain(|name, member| !means_nothing(name, member));
        }
        _ => {}
    }
}

fn means_nothing(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty() && !TEXTS.contains(&name),
        Value::Bool(flag) => !flag && FLAGS.contains(&name),
        Value::Number(number) => number.as_i64() == Some(0) && NUMBERS.contains(&name),
        // An object without members says that something is there (`emptyDir: {}`), except where its keys are free.
        Value::Object(members) => members.is_empty() && MAPS.contains(&name),
    }
}

/// CPU and memory with canonical quantities.
pub fn resources(mut resources: ResourceRequirements, field: &str) -> Result<ResourceRequirements, Invalid> {
    for (name, amounts) in [("limits", resources.limits.as_mut()), ("requests", resources.requests.as_mut())] {
        quantities(amounts, &format!("{field}.{name}"))?;
    }
    Ok(without_empty(&resources))
}

fn quantities(amounts: Option<&mut BTreeMap<String, Quantity>>, field: &str) -> Result<(), Invalid> {
    for (name, amount) in amounts.into_iter().flatten() {
        *amount = canonical(amount, &format!("{field}[{name}]"))?;
    }
    Ok(())
}

/// A quantity in canonical form, or what is wrong with it.
pub fn canonical(amount: &Quantity, field: &str) -> Result<Quantity, Invalid> {
    let wrong = |error: QuantityError| Invalid::new(field, format!("{:?} {error}", amount.0));
    quantity::canonical(amount).map_err(wrong)
}

/// A part of a pod with canonical quantities, wherever a template may hold some.
pub fn pod(spec: &mut PodSpec, field: &str) -> Result<(), Invalid> {
    let PodSpec { containers, init_containers, volumes, resources: of_pod, .. } = spec;
    if let Some(own) = of_pod {
        *own = resources(own.clone(), &format!("{field}.resources"))?;
    }
    for container in containers.iter_mut().chain(init_containers.iter_mut().flatten()) {
        let Container { name, resources: own, .. } = container;
        if let Some(own) = own {
            *own = resources(own.clone(), &format!("{field}.containers[{name}].resources"))?;
        }
    }
    for Volume { name, empty_dir, ephemeral, .. } in volumes.iter_mut().flatten() {
        let at = format!("{field}.volumes[{name}]");
        if let Some(limit) = empty_dir.as_mut().and_then(|folder| folder.size_limit.as_mut()) {
            *limit = canonical(limit, &format!("{at}.emptyDir.sizeLimit"))?;
        }
        let claim = ephemeral.as_mut().and_then(|volume| volume.volume_claim_template.as_mut());
        if let Some(own) = claim.and_then(|claim| claim.spec.resources.as_mut()) {
            for amounts in [own.limits.as_mut(), own.requests.as_mut()] {
                quantities(amounts, &format!("{at}.ephemeral.volumeClaimTemplate.spec.resources"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_means_nothing_goes_and_the_rest_stays() {
        let mut value = json!({
            "labels": {"empty": ""}, "annotations": {}, "x": null, "list": [], "text": "",
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s", "items": []}}],
            "readOnly": false, "hostUsers": false, "storageClassName": "", "tolerations": [{"key": "k", "value": ""}]
        });
        remove_empty(&mut value);
        let expected = json!({
            "labels": {"empty": ""},
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s"}}],
            "hostUsers": false, "storageClassName": "", "tolerations": [{"key": "k"}]
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn quantities_are_respelled_and_named_where_they_are_none() {
        let parsed: ResourceRequirements =
            serde_json::from_value(json!({"limits": {"cpu": "1000m", "memory": 1024}, "requests": {}})).expect("typed");
        let stored = resources(parsed, "spec.resources").expect("quantities");
        assert_eq!(serde_json::to_value(stored).expect("JSON"), json!({"limits": {"cpu": "1", "memory": "1024"}}));
        let parsed: ResourceRequirements = serde_json::from_value(json!({"limits": {"cpu": "many"}})).expect("typed");
        let error = resources(parsed, "spec.resources").expect_err("no quantity").to_string();
        assert_eq!(
            error,
            "spec.resources.limits[cpu]: \"many\" is no quantity: write a number with an optional suffix, for example 500m, 4 or 16Gi"
        );
    }
}
