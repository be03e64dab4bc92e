package main

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

type reconciler struct{ client.Client }

// Reconcile makes children that are missing, puts back those that were changed, and writes a status that changed.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var baseline Baseline
	if err := r.Get(ctx, request.NamespacedName, &baseline); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var readyReplicas int32
	for _, want := range children(&baseline) {
		have, err := r.ensure(ctx, &baseline, want)
		if err != nil {
			return ctrl.Result{}, err
		}
		if set, ok := have.(*appsv1.StatefulSet); ok {
			readyReplicas = set.Status.ReadyReplicas
		}
	}
	return r.updateStatus(ctx, &baseline, readyReplicas)
}

// ensure returns the child as it is in the cluster.
func (r *reconciler) ensure(ctx context.Context, owner *Baseline, want client.Object) (client.Object, error) {
	have := want.DeepCopyObject().(client.Object)
	err := r.Get(ctx, client.ObjectKeyFromObject(want), have)
	if apierrors.IsNotFound(err) {
		if err := ctrl.SetControllerReference(owner, want, r.Scheme()); err != nil {
			return nil, err
		}
		// The cache may be behind: what exists already is seen with the next event.
		if err := r.Create(ctx, want); err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, err
		}
		return want, nil
	}
	if err != nil {
		return nil, err
	}
	if overwrite(have, want) {
		err = r.Update(ctx, have)
	}
	return have, err
}

// overwrite sets what `want` says in `have` and tells whether that changed anything.
func overwrite(have, want client.Object) bool {
	switch want := want.(type) {
	case *corev1.ConfigMap:
		have := have.(*corev1.ConfigMap)
		if equality.Semantic.DeepEqual(want.Data, have.Data) {
			return false
		}
		have.Data = want.Data
	case *corev1.Service:
		have := have.(*corev1.Service)
		if equality.Semantic.DeepDerivative(want.Spec, have.Spec) {
			return false
		}
		have.Spec.Ports, have.Spec.Selector = want.Spec.Ports, want.Spec.Selector
		have.Spec.PublishNotReadyAddresses = want.Spec.PublishNotReadyAddresses
	case *policyv1.PodDisruptionBudget:
		have := have.(*policyv1.PodDisruptionBudget)
		if equality.Semantic.DeepDerivative(want.Spec, have.Spec) {
			return false
		}
		have.Spec = want.Spec
	case *appsv1.StatefulSet:
		have := have.(*appsv1.StatefulSet)
		if equality.Semantic.DeepDerivative(want.Spec, have.Spec) {
			return false
		}
		have.Spec.Replicas, have.Spec.Template = want.Spec.Replicas, want.Spec.Template
	}
	return true
}

func (r *reconciler) updateStatus(ctx context.Context, b *Baseline, readyReplicas int32) (ctrl.Result, error) {
	ready := metav1.Condition{
		Type: "Ready", Status: metav1.ConditionFalse, Reason: "Progressing", ObservedGeneration: b.Generation,
	}
	if readyReplicas == b.Spec.Replicas {
		ready.Status, ready.Reason = metav1.ConditionTrue, "AllReady"
	}
	changed := meta.SetStatusCondition(&b.Status.Conditions, ready)
	changed = changed || b.Status.ReadyReplicas != readyReplicas || b.Status.ObservedGeneration != b.Generation
	if !changed {
		return ctrl.Result{}, nil
	}
	b.Status.ReadyReplicas, b.Status.ObservedGeneration = readyReplicas, b.Generation
	err := r.Status().Update(ctx, b)
	if apierrors.IsConflict(err) {
		return ctrl.Result{Requeue: true}, nil
	}
	return ctrl.Result{}, err
}
