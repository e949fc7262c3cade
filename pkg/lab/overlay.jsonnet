// How machines of a lab differ from others: written by `kthwc lab up` for the
// machine that it ran on. Pass it with --overlay.
local quirks = [
  // QUIRKS
];

// The runtime's part of containerd's configuration has had three names.
local section(data) =
  [n for n in ['io.containerd.cri.v1.runtime', 'io.containerd.grpc.v1.cri', 'cri'] if n in data.plugins][0];
local options(data) =
  std.foldl(function(at, name) std.get(at, name, {}), ['plugins', section(data), 'containerd', 'runtimes', 'runc', 'options'], data);

// Where in a file the values of a quirk stand.
local place = {
  containerd(data, values): { plugins: { [section(data)]: values } },
  runc(data, values): self.containerd(data, { containerd: { runtimes: { runc: { options: values } } } }),
};

// What a file is, for the quirks.
local kinds(path, data) =
  if path == '/etc/containerd/config.toml' then ['containerd'] + (if options(data) == {} then [] else ['runc'])
  else if std.isObject(data) then [std.get(data, 'kind', '')]
  else [];

function(node, files)
  local minor = std.parseInt(std.split(node.kubernetesVersion, '.')[1]);
  local of(path) = [q for q in quirks if q.since <= minor && std.member(kinds(path, std.get(files[path], 'data', null)), q.kind)];
  local laid(data, q) = std.mergePatch(data, if q.kind in place then place[q.kind](data, q.data) else q.data);
  {
    [path]: { data: std.foldl(laid, of(path), files[path].data) }
    for path in std.objectFields(files)
    if of(path) != []
  }
