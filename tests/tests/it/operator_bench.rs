//! What the operator costs for many resources: `make bench-operator`.

use bistro_tests::bench_operator::{Settings, run};

#[tokio::test]
#[ignore = "a benchmark: make bench-operator"]
async fn bench_operator() {
    run(&Settings::from_environment()).await;
}
