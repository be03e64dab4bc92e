package main

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var groupVersion = schema.GroupVersion{Group: "bench.bistro.dev", Version: "v1"}

// Baseline asks for pods that read one file of settings.
type Baseline struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              BaselineSpec   `json:"spec"`
	Status            BaselineStatus `json:"status,omitempty"`
}

type BaselineSpec struct {
	Image    string `json:"image"`
	Replicas int32  `json:"replicas"`
	Settings string `json:"settings"`
}

type BaselineStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	ReadyReplicas      int32              `json:"readyReplicas"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

type BaselineList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Baseline `json:"items"`
}

func (in *Baseline) deepCopyInto(out *Baseline) {
	*out = *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Status.Conditions = append([]metav1.Condition(nil), in.Status.Conditions...)
}

func (in *Baseline) DeepCopyObject() runtime.Object {
	out := new(Baseline)
	in.deepCopyInto(out)
	return out
}

func (in *BaselineList) DeepCopyObject() runtime.Object {
	out := new(BaselineList)
	out.TypeMeta = in.TypeMeta
	in.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = make([]Baseline, len(in.Items))
	for i := range in.Items {
		in.Items[i].deepCopyInto(&out.Items[i])
	}
	return out
}
