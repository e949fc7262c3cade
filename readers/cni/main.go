// Command cni-reader judges a CNI configuration file with the library that
// container runtimes read it with and the plugins that it names.
//
//	cni-reader PLUGINS FILE     PLUGINS is the directory of the plugins' programs
//
// It is built once per release of the plugins from one source (see
// ../build.sh). It promises exit status 0 when the file loads, each plugin's
// program is there and speaks the file's cniVersion, host-local can use the
// ranges, and no key is one that its plugin does not read. It refuses such keys,
// which the plugins themselves pass over without a word.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: cni-reader PLUGINS FILE")
	}
	list, err := load(args[1])
	if err != nil {
		return err
	}
	for _, p := range list.Plugins {
		if err := strict(p.Network.Type, p.Bytes); err != nil {
			return fmt.Errorf("plugin %s: %w", p.Network.Type, err)
		}
	}
	_, err = libcni.NewCNIConfig(args[:1], nil).ValidateNetworkList(context.Background(), list)
	return err
}

// load reads the file as containerd does, by the end of its name.
func load(file string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(file) == ".conflist" {
		return libcni.ConfListFromFile(file)
	}
	conf, err := libcni.ConfFromFile(file)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(conf)
}

// common is what every plugin reads.
type common struct {
	CNIVersion   string          `json:"cniVersion"`
	Name         string          `json:"name"`
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	DNS          types.DNS       `json:"dns"`
}

// bridge, portmap and hostLocal are as in the plugins' documentation: their
// own types are in their programs.
type bridge struct {
	common
	Bridge           string    `json:"bridge"`
	IsGateway        bool      `json:"isGateway"`
	IsDefaultGateway bool      `json:"isDefaultGateway"`
	ForceAddress     bool      `json:"forceAddress"`
	IPMasq           bool      `json:"ipMasq"`
	MTU              int       `json:"mtu"`
	HairpinMode      bool      `json:"hairpinMode"`
	PromiscMode      bool      `json:"promiscMode"`
	VLAN             int       `json:"vlan"`
	IPAM             hostLocal `json:"ipam"`
}

type portmap struct {
	common
	SNAT                 *bool    `json:"snat"`
	ConditionsV4         []string `json:"conditionsV4"`
	ConditionsV6         []string `json:"conditionsV6"`
	MarkMasqBit          *int     `json:"markMasqBit"`
	ExternalSetMarkChain *string  `json:"externalSetMarkChain"`
}

type hostLocal struct {
	Type       string           `json:"type"`
	Routes     []route          `json:"routes"`
	DataDir    string           `json:"dataDir"`
	ResolvConf string           `json:"resolvConf"`
	Ranges     [][]addressRange `json:"ranges"`
}

type route struct {
	Dst types.IPNet `json:"dst"`
	GW  string      `json:"gw"`
}

type addressRange struct {
	Subnet     types.IPNet `json:"subnet"`
	RangeStart string      `json:"rangeStart"`
	RangeEnd   string      `json:"rangeEnd"`
	Gateway    string      `json:"gateway"`
}

// strict decodes a plugin's section without unknown keys, and lets host-local
// judge the ranges.
func strict(plugin string, section []byte) error {
	into, known := map[string]any{"bridge": &bridge{}, "portmap": &portmap{}, "loopback": &common{}}[plugin]
	if !known {
		return errors.New("this reader knows no such plugin")
	}
	decoder := json.NewDecoder(bytes.NewReader(section))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if plugin != "bridge" {
		return nil
	}
	_, _, err := allocator.LoadIPAMConfig(section, "")
	return err
}
