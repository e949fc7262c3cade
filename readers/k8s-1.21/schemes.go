package main

import (
	"k8s.io/apimachinery/pkg/runtime"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	encryptionv1 "k8s.io/apiserver/pkg/apis/config/v1"
	"k8s.io/client-go/kubernetes/scheme"
	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	schedulerv1beta1 "k8s.io/kube-scheduler/config/v1beta1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

var adders = []func(*runtime.Scheme) error{
	scheme.AddToScheme, clientcmdv1.AddToScheme, auditv1.AddToScheme, apiserverv1.AddToScheme, encryptionv1.AddToScheme,
	kubeletv1beta1.AddToScheme, proxyv1alpha1.AddToScheme, schedulerv1beta1.AddToScheme,
}

func validate(runtime.Object) error { return nil }
