//go:build !k8s1_21

package main

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit/policy"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	proxyconfig "k8s.io/kubernetes/pkg/proxy/apis/config"
	proxyscheme "k8s.io/kubernetes/pkg/proxy/apis/config/scheme"
	proxyvalidation "k8s.io/kubernetes/pkg/proxy/apis/config/validation"
	"sigs.k8s.io/yaml"
)

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
	return utilerrors.NewAggregate(nil)
}
