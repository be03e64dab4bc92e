module bistro/hack/kube/pause

go 1.24.0
