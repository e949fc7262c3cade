// What the API server may ask kubelets for, under the name in its client
// certificate: logs, exec and metrics go this way.
local k = import 'k8s.libsonnet';

local name = 'system:kube-apiserver-to-kubelet';

local role(verbs, user) = k.role(name, [{
  apiGroups: [''],
  resources: ['nodes/proxy', 'nodes/stats', 'nodes/log', 'nodes/spec', 'nodes/metrics'],
  verbs: verbs,
}], k.subject('User', user));

// The tutorial's own writing: every verb, its labels, and its name of the binding.
local tutorial =
  local both = role(['*'], 'kubernetes');
  [
    both[0] {
      metadata+: {
        annotations: { 'rbac.authorization.kubernetes.io/autoupdate': 'true' },
        labels: { 'kubernetes.io/bootstrapping': 'rbac-defaults' },
      },
    },
    both[1] { metadata+: { name: 'system:kube-apiserver' } },
  ];

function(cluster)
  if cluster.profile == 'tutorial' then tutorial else role(['get', 'create'], 'kube-apiserver-kubelet-client')
