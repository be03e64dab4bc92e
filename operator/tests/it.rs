//! Tests of the operator from outside.
#[test]
fn flat() {
    let text = r#"{"apiVersion":"bistro.dev/v1alpha1","kind":"Miner","metadata":{"name":"x"},"spec":{"subnetRef":{"name":"a"},"replicas":3,"wallet":{"dev":true},"gpu":{"count":2}}}"#;
    let m: bistro_api::Miner = serde_json::from_str(text).expect("parses");
    assert_eq!(m.spec.workload.replicas, 3);
    println!("{}", serde_json::to_string(&m).expect("x"));
}
