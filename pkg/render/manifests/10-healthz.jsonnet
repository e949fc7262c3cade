// The healthz site asks with a certificate of its own, and may ask for nothing else.
local k = import 'k8s.libsonnet';

function(cluster)
  k.role('kthwc:healthz', [{
    nonResourceURLs: ['/healthz', '/livez', '/readyz'],
    verbs: ['get'],
  }], k.subject('User', 'kthwc-healthz'))
