{{/*
What the operator may do in every namespace that it serves. It may not read Secrets (their absence shows in the events of
pods) and not touch Nodes.
*/}}
{{- define "bistro.operatorRules" -}}
# The resources that it serves: one watch each (operator/src/controller).
- apiGroups: [bistro.dev]
  resources: [subnets, miners, validators, averagers]
  verbs: [get, list, watch]
# The result of each reconcile, written only when it changed.
- apiGroups: [bistro.dev]
  resources: [subnets/status, miners/status, validators/status, averagers/status]
  verbs: [patch]
# Owner references of children block the owner's deletion; clusters that enforce it ask for this right.
- apiGroups: [bistro.dev]
  resources: [subnets/finalizers, miners/finalizers, validators/finalizers, averagers/finalizers]
  verbs: [update]
# Children: watched for changes by others, written by server-side apply (create and patch), deleted when no longer wanted.
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [list, watch, create, patch, delete]
# The same: one StatefulSet per Miner, Validator and Averager.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [list, watch, create, patch, delete]
# The same: where a resource has a disruption budget.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
# The same: one per Subnet.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch, create, patch, delete]
# Which pods run, why one does not (no room, a dead machine), and the address to ask for its status.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# What the kubelet says of a pod that waits: that a Secret is missing stands nowhere else.
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch]
# Events on its resources; a repeated one is counted up (patch) instead of written anew.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
