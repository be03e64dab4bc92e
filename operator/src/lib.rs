//! Bistro's operator.
//!
//! ```text
//! controller resources -> objects in a cluster           (watches, passes, statuses)
//! manifests  files -> admission -> typed resources          (what kubectl and the API server do)
//! plan       resources -> Validated -> Kubernetes objects   (pure; shared by the controller and `up`)
//! up         Kubernetes objects -> local processes          (what the kubelet does)
//! ```

#![forbid(unsafe_code)]

pub mod admission;
pub mod ask;
pub mod cli;
pub mod client;
pub mod controller;
pub mod crds;
pub mod manifests;
pub mod plan;
pub mod role;
pub mod text;
pub mod up;
pub mod yaml;
