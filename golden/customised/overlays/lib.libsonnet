// What both overlays know.
{ kubelet: '/var/lib/kubelet/config.yaml', sysctl: '/etc/sysctl.d/95-local.conf' }
