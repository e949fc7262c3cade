//go:build !k8s1_21

package main

import (
	"k8s.io/apimachinery/pkg/runtime"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/kubernetes/scheme"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	eventratelimit "k8s.io/kubernetes/plugin/pkg/admission/eventratelimit/apis/eventratelimit/v1alpha1"
	podsecurity "k8s.io/pod-security-admission/admission/api/v1"
)

var adders = []func(*runtime.Scheme) error{
	scheme.AddToScheme, clientcmdv1.AddToScheme, auditv1.AddToScheme, apiserverv1.AddToScheme,
	kubeletv1beta1.AddToScheme, proxyv1alpha1.AddToScheme, schedulerv1.AddToScheme,
	eventratelimit.AddToScheme, podsecurity.AddToScheme,
}
