// What the API server may ask kubelets for, under the name in its client
// certificate: logs, exec and metrics go this way.
local k = import 'k8s.libsonnet';

function(cluster)
  local hardened = cluster.profile == 'hardened';
  k.role('system:kube-apiserver-to-kubelet', [{
    apiGroups: [''],
    resources: ['nodes/proxy', 'nodes/stats', 'nodes/log', 'nodes/spec', 'nodes/metrics'],
    verbs: if hardened then ['get', 'create'] else ['*'],
  }], k.subject('User', if hardened then 'kube-apiserver-kubelet-client' else 'kubernetes'))
