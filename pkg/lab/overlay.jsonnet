// How machines of a lab differ from others: written by `kthwc lab up` for the
// machine that it ran on. Pass it with --overlay.
local quirks = [
  // QUIRKS
];

// The runtime's part of containerd's configuration has had two names.
local cri(data) =
  local names = [n for n in ['io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri'] if n in data.plugins];
  names[0];

local laid(data, more) =
  if 'cri' in more then std.mergePatch(data, { plugins: { [cri(data)]: more.cri } })
  else std.mergePatch(data, more);

function(node, files)
  local kind(path) =
    local data = std.get(files[path], 'data', {});
    if path == '/etc/containerd/config.toml' then 'containerd'
    else if std.isObject(data) then std.get(data, 'kind', '')
    else '';
  local minor = std.parseInt(std.split(node.kubernetesVersion, '.')[1]);
  local here = [q for q in quirks if q.since <= minor];
  local of(path) = [q.data for q in here if q.kind == kind(path)];
  {
    [path]: { data: std.foldl(laid, of(path), files[path].data) }
    for path in std.objectFields(files)
    if of(path) != []
  }
