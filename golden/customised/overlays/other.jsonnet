// The same files as local.jsonnet, with other values.
local paths = import 'lib.libsonnet';

function(node, files) {
  [if paths.kubelet in files then paths.kubelet]: files[paths.kubelet] { data+: { serializeImagePulls: false } },
  [paths.sysctl]: { content: 'fs.inotify.max_user_watches = 65536\n', mode: '0644' },
}
