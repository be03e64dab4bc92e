// crbase is what operator.* benchmarks compare with: about the least that an operator with our children can be in Go with
// controller-runtime. A Baseline owns a ConfigMap, a headless Service, a PodDisruptionBudget and a StatefulSet, and
// has a Ready condition. It reads from its cache and writes only what is missing or differs.
package main

import (
	"flag"
	"fmt"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

func main() {
	concurrency := flag.Int("concurrency", 16, "reconciles at once")
	qps := flag.Float64("qps", 5000, "requests per second of the client; client-go's own default of 20 would be all that is measured")
	metrics := flag.String("metrics", "127.0.0.1:0", "address of /metrics")
	elect := flag.Bool("leader-elect", false, "take part in leader election")
	flag.Parse()
	if err := run(*concurrency, *qps, *metrics, *elect); err != nil {
		fmt.Fprintln(os.Stderr, "crbase:", err)
		os.Exit(1)
	}
}

func run(concurrency int, qps float64, metrics string, elect bool) error {
	ctrl.SetLogger(zap.New())
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	scheme.AddKnownTypes(groupVersion, &Baseline{}, &BaselineList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	config.QPS, config.Burst = float32(qps), int(2*qps)
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Metrics:                       metricsserver.Options{BindAddress: metrics},
		LeaderElection:                elect,
		LeaderElectionID:              "crbase",
		LeaderElectionNamespace:       "default",
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(manager).
		For(&Baseline{}).
		Owns(&corev1.ConfigMap{}).
		Owns(&corev1.Service{}).
		Owns(&policyv1.PodDisruptionBudget{}).
		Owns(&appsv1.StatefulSet{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency}).
		Complete(&reconciler{manager.GetClient()})
	if err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}
