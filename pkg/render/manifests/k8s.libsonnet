// Kubernetes objects that more than one manifest makes.
{
  local rbac = 'rbac.authorization.k8s.io',

  // The head of an object. Cluster-wide objects have no namespace.
  object(apiVersion, kind, name, namespace=null):: {
    apiVersion: apiVersion,
    kind: kind,
    metadata: { name: name } + if namespace == null then {} else { namespace: namespace },
  },

  // What a binding names: a User or a Group of a certificate, or a ServiceAccount.
  subject(kind, name):: { apiGroup: rbac, kind: kind, name: name },
  serviceAccount(name, namespace):: { kind: 'ServiceAccount', name: name, namespace: namespace },

  // A binding of a ClusterRole to one subject.
  binding(name, role, subject):: self.object(rbac + '/v1', 'ClusterRoleBinding', name) {
    roleRef: { apiGroup: rbac, kind: 'ClusterRole', name: role },
    subjects: [subject],
  },

  // A ClusterRole and its binding, which has the same name.
  role(name, rules, subject):: [
    self.object(rbac + '/v1', 'ClusterRole', name) { rules: rules },
    self.binding(name, name, subject),
  ],
}
