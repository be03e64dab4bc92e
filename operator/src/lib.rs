//! Bistro's operator.
//!
//! ```text
//! manifests  files -> admission -> typed resources          (what kubectl and the API server do)
//! plan       resources -> Validated -> Kubernetes objects   (pure; shared by the controller and `up`)
//! up         Kubernetes objects -> local processes          (what the kubelet does)
//! ```

#![forbid(unsafe_code)]

pub mod admission;
pub mod cli;
pub mod crds;
pub mod manifests;
pub mod plan;
pub mod role;
pub mod up;
pub mod yaml;
