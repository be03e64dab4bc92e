package main

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const nonroot = int64(65532)

// children are the four objects of a Baseline, the StatefulSet last: its pods mount the ConfigMap.
func children(b *Baseline) []client.Object {
	labels := map[string]string{"app.kubernetes.io/name": "baseline", "app.kubernetes.io/instance": b.Name}
	meta := metav1.ObjectMeta{Name: "baseline-" + b.Name, Namespace: b.Namespace, Labels: labels}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	return []client.Object{
		&corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"settings.yaml": b.Spec.Settings}},
		&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, PublishNotReadyAddresses: true, Selector: labels,
			Ports: []corev1.ServicePort{{Name: "http", Port: 8080, TargetPort: intstr.FromString("http")}},
		}},
		&policyv1.PodDisruptionBudget{ObjectMeta: meta, Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: ptr(intstr.FromInt32(1)), Selector: selector,
		}},
		&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{
			Replicas: ptr(b.Spec.Replicas), ServiceName: meta.Name, Selector: selector,
			PodManagementPolicy: appsv1.ParallelPodManagement, RevisionHistoryLimit: ptr(int32(2)),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod(b, meta.Name)},
		}},
	}
}

// pod is as restricted as Pod Security asks for, with probes, and with three volumes.
func pod(b *Baseline, configMap string) corev1.PodSpec {
	probe := func(path string) *corev1.Probe {
		get := &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("http")}
		// The server's own defaults in full: to DeepDerivative a number that is not set is a 0 that differs.
		return &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{HTTPGet: get}, TimeoutSeconds: 5,
			PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
		}
	}
	ordinal := &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}
	return corev1.PodSpec{
		AutomountServiceAccountToken:  ptr(false),
		EnableServiceLinks:            ptr(false),
		TerminationGracePeriodSeconds: ptr(int64(60)),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr(true), RunAsUser: ptr(nonroot), RunAsGroup: ptr(nonroot), FSGroup: ptr(nonroot),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: "worker", Image: b.Spec.Image, Args: []string{"miner"},
			Env: []corev1.EnvVar{
				{Name: "SETTINGS", Value: "/etc/baseline/settings.yaml"},
				{Name: "STATE", Value: "/var/lib/baseline"},
				{Name: "HTTP", Value: "0.0.0.0:8080"},
				{Name: "ORDINAL", ValueFrom: &corev1.EnvVarSource{FieldRef: ordinal}},
			},
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "settings", MountPath: "/etc/baseline", ReadOnly: true},
				{Name: "state", MountPath: "/var/lib/baseline"},
				{Name: "tmp", MountPath: "/tmp"},
			},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("16Mi"),
			}},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			ReadinessProbe: probe("/readyz"),
			LivenessProbe:  probe("/healthz"),
		}},
		Volumes: []corev1.Volume{
			{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: configMap},
			}}},
			{Name: "state", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
	}
}

func ptr[T any](value T) *T { return &value }
