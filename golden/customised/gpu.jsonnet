// Gives GPU nodes a larger pod limit, and every node a marker file.
local limits = import 'lib/limits.libsonnet';

function(node, files) {
  '/etc/kthwc-overlay': { content: 'overlaid ' + node.name + '\n', mode: '0644' },
} + if std.objectHas(files, '/var/lib/kubelet/config.yaml') then {
  local kubelet = files['/var/lib/kubelet/config.yaml'],
  '/var/lib/kubelet/config.yaml': kubelet { doc+: { podPidsLimit: limits.pids } },
} else {}
