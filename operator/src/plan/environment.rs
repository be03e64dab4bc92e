//! What the operator was installed with, as far as it shows in pods.

use bistro_api::workload::Gpu;

/// Variables that name proxies, as programs agreed on them; both spellings are in use.
const PROXY_VARIABLES: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];

/// What the operator was installed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Image of the worker for nodes without a GPU, where a resource names none.
    pub image: String,
    /// The same for nodes with a GPU.
    pub image_cuda: String,
    /// Whether each Subnet gets a NetworkPolicy.
    pub network_policy: bool,
    /// Namespace of the operator, whose pods read `/status` of the nodes.
    pub operator_namespace: String,
    /// Namespaces whose pods may scrape the nodes.
    pub metrics_namespaces: Vec<String>,
    /// Proxy variables of the operator, handed to every worker unless its resource sets them.
    pub proxy: Vec<(String, String)>,
}

impl Environment {
    /// That of `bistro up` and `bistro check`: one image, and no cluster around it.
    pub fn local(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            image_cuda: image.to_owned(),
            network_policy: false,
            operator_namespace: "default".to_owned(),
            metrics_namespaces: Vec::new(),
            proxy: Vec::new(),
        }
    }

    /// The image for nodes with so many GPUs.
    pub fn image_for(&self, gpu: &Gpu) -> &str {
        if gpu.count > 0 { &self.image_cuda } else { &self.image }
    }
}

/// Those variables (of a process) that name proxies, in one order; empty ones are left out.
pub fn proxy_variables(variables: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let is_proxy = |(name, value): &(String, String)| PROXY_VARIABLES.contains(&name.as_str()) && !value.is_empty();
    let mut found: Vec<(String, String)> = variables.into_iter().filter(is_proxy).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_that_are_set_are_handed_on() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let all =
            [pair("no_proxy", "x"), pair("PATH", "/bin"), pair("HTTPS_PROXY", "http://p:3128"), pair("HTTP_PROXY", "")];
        assert_eq!(proxy_variables(all), [pair("HTTPS_PROXY", "http://p:3128"), pair("no_proxy", "x")]);
    }

    #[test]
    fn gpus_decide_the_image() {
        let environment = Environment { image_cuda: "cuda".to_owned(), ..Environment::local("cpu") };
        let gpu = |count| Gpu { count, resource_name: "nvidia.com/gpu".to_owned() };
        assert_eq!(environment.image_for(&gpu(0)), "cpu");
        assert_eq!(environment.image_for(&gpu(1)), "cuda");
    }
}
