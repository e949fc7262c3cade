// Slower image pulls for the workers, and a limit of the kernel's.
local paths = import 'lib.libsonnet';

function(node, files) {
  [if paths.kubelet in files then paths.kubelet]: files[paths.kubelet] { data+: { serializeImagePulls: true } },
  [paths.sysctl]: { content: 'fs.inotify.max_user_watches = 524288\n', mode: '0600' },
}
