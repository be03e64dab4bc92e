module bistro/hack/kube/probe

go 1.24.0
