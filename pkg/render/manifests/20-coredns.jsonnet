// The cluster's DNS: its rights, its configuration, its pods, and the Service
// at the address that every kubelet tells its pods.
local k = import 'k8s.libsonnet';

local namespace = 'kube-system';
local labels = { 'k8s-app': 'kube-dns' };
local port(name, number, protocol) = { name: name, port: number, protocol: protocol };
local ports = [port('dns', 53, 'UDP'), port('dns-tcp', 53, 'TCP'), port('metrics', 9153, 'TCP')];
local probe(path, number) = { httpGet: { path: path, port: number }, timeoutSeconds: 5 };

local corefile(cluster) = |||
  .:53 {
      errors
      health {
          lameduck 5s
      }
      ready
      kubernetes %(domain)s in-addr.arpa ip6.arpa {
          pods insecure
          fallthrough in-addr.arpa ip6.arpa
      }
      prometheus :9153
      forward . %(upstream)s
      cache 30
      loop
      reload
      loadbalance
  }
||| % { domain: cluster.domain, upstream: std.join(' ', cluster.dns.upstream) };

local container(cluster) = {
  name: 'coredns',
  image: 'registry.k8s.io/coredns/coredns:v' + cluster.dns.version,
  args: ['-conf', '/etc/coredns/Corefile'],
  resources: { limits: { memory: '170Mi' }, requests: { cpu: '100m', memory: '70Mi' } },
  livenessProbe: probe('/health', 8080),
  readinessProbe: probe('/ready', 8181),
  ports: [{ containerPort: p.port, name: p.name, protocol: p.protocol } for p in ports],
  securityContext: {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { add: ['NET_BIND_SERVICE'], drop: ['ALL'] },
  },
  volumeMounts: [{ mountPath: '/etc/coredns', name: 'config', readOnly: true }],
};

function(cluster) [
  k.object('v1', 'ServiceAccount', 'coredns', namespace),
] + k.role('system:coredns', [
  { apiGroups: [''], resources: ['endpoints', 'services', 'pods', 'namespaces'], verbs: ['list', 'watch'] },
  { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
], k.serviceAccount('coredns', namespace)) + [
  k.object('v1', 'ConfigMap', 'coredns', namespace) { data: { Corefile: corefile(cluster) } },
  k.object('apps/v1', 'Deployment', 'coredns', namespace) {
    spec: {
      replicas: cluster.dns.replicas,
      selector: { matchLabels: labels },
      template: {
        metadata: { labels: labels },
        spec: {
          containers: [container(cluster)],
          dnsPolicy: 'Default',
          serviceAccountName: 'coredns',
          priorityClassName: 'system-cluster-critical',
          nodeSelector: { 'kubernetes.io/os': 'linux' },
          volumes: [{ name: 'config', configMap: { name: 'coredns' } }],
        },
      },
    },
  },
  k.object('v1', 'Service', 'kube-dns', namespace) {
    spec: { clusterIP: cluster.dns.address, selector: labels, ports: ports },
  },
]
