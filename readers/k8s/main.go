// Command k8s-reader judges what kthwc renders with the Kubernetes components'
// own code: their flag sets and the decoders of their configuration files.
//
//	k8s-reader flags COMPONENT          every flag of the real option set, one per line
//	k8s-reader args COMPONENT           arguments on standard input, one per line
//	k8s-reader decode                   YAML documents on standard input
//	k8s-reader companions               the versions that kubeadm of this minor goes with
//
// It is built once per Kubernetes minor from one source (see ../build.sh). It
// promises exit status 0 when the component would accept the input and 1 with
// a reason per line when not. It refuses unknown fields and duplicate keys, as
// the components do for their own files.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app/constants"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app/options"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == "flags":
		return listFlags(args[1], out)
	case len(args) == 2 && args[0] == "args":
		return parseArgs(args[1], in)
	case len(args) == 1 && args[0] == "decode":
		return decode(in)
	case len(args) == 1 && args[0] == "companions":
		_, err := fmt.Fprintf(out, "coredns\t%s\npause\t%s\n", strings.TrimPrefix(kubeadm.CoreDNSVersion, "v"), kubeadm.PauseVersion)
		return err
	}
	return fmt.Errorf("usage: k8s-reader flags COMPONENT | args COMPONENT | decode | companions")
}

func flagSet(component string) (*pflag.FlagSet, error) {
	switch component {
	case "kube-apiserver":
		return apiserver.NewAPIServerCommand().Flags(), nil
	case "kube-controller-manager":
		return controllermanager.NewControllerManagerCommand().Flags(), nil
	case "kube-scheduler":
		return scheduler.NewSchedulerCommand().Flags(), nil
	case "kube-proxy":
		return proxy.NewProxyCommand().Flags(), nil
	case "kubelet":
		return kubeletFlags()
	}
	return nil, fmt.Errorf("no component %q", component)
}

// kubeletFlags is the set that the kubelet's command parses by itself.
func kubeletFlags() (*pflag.FlagSet, error) {
	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	config, err := kubelet.NewKubeletConfiguration()
	if err != nil {
		return nil, err
	}
	kubelet.NewKubeletFlags().AddFlags(fs)
	kubelet.AddKubeletConfigFlags(fs, config)
	kubelet.AddGlobalFlags(fs)
	return fs, nil
}

func listFlags(component string, out io.Writer) error {
	fs, err := flagSet(component)
	if err != nil {
		return err
	}
	fs.VisitAll(func(f *pflag.Flag) {
		fmt.Fprintf(out, "%s\t%s\t%s\n", f.Name, f.Value.Type(), strings.ReplaceAll(f.Deprecated, "\n", " "))
	})
	return nil
}

func parseArgs(component string, in io.Reader) error {
	fs, err := flagSet(component)
	if err != nil {
		return err
	}
	var argv []string
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		argv = append(argv, lines.Text())
	}
	fs.SetOutput(io.Discard)
	if err := fs.Parse(argv); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected arguments: %q", fs.Args())
	}
	return lines.Err()
}

func decode(in io.Reader) error {
	scheme := runtime.NewScheme()
	for _, add := range adders {
		if err := add(scheme); err != nil {
			return err
		}
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{Yaml: true, Strict: true})
	documents := utilyaml.NewYAMLReader(bufio.NewReader(in))
	for n := 0; ; n++ {
		document, err := documents.Read()
		if err == io.EOF && n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		object, kind, err := strict.Decode(document, nil, nil)
		if err != nil {
			return fmt.Errorf("document %d: %w", n+1, err)
		}
		if err := validate(object); err != nil {
			return fmt.Errorf("document %d: %s: %w", n+1, kind.Kind, err)
		}
	}
}
