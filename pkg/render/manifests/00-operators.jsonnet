// Operators are cluster-admin through a group of ours, which can be taken away,
// and not through system:masters, which cannot.
local k = import 'k8s.libsonnet';

function(cluster) [
  k.binding('kthwc:cluster-admins', 'cluster-admin', k.subject('Group', 'kthwc:cluster-admins')),
]
