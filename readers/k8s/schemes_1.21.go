//go:build k8s1_21

package main

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/config/v1"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/client-go/kubernetes/scheme"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	schedulerv1beta1 "k8s.io/kube-scheduler/config/v1beta1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	proxyconfig "k8s.io/kubernetes/pkg/proxy/apis/config"
	proxyscheme "k8s.io/kubernetes/pkg/proxy/apis/config/scheme"
	proxyvalidation "k8s.io/kubernetes/pkg/proxy/apis/config/validation"
	"sigs.k8s.io/yaml"
)

var adders = []func(*runtime.Scheme) error{
	scheme.AddToScheme, clientcmdv1.AddToScheme, auditv1.AddToScheme, apiserverv1.AddToScheme,
	kubeletv1beta1.AddToScheme, proxyv1alpha1.AddToScheme, schedulerv1beta1.AddToScheme,
}

// validate runs the component's own validation after its defaults.
func validate(object runtime.Object) error {
	switch o := object.(type) {
	case *auditv1.Policy:
		text, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		_, err = policy.LoadPolicyFromBytes(text)
		return err
	case *proxyv1alpha1.KubeProxyConfiguration:
		proxyscheme.Scheme.Default(o)
		var config proxyconfig.KubeProxyConfiguration
		if err := proxyscheme.Scheme.Convert(o, &config, context.Background()); err != nil {
			return err
		}
		return proxyvalidation.Validate(&config).ToAggregate()
	}
	return nil
}
