package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kthwc/kthwc/pkg/pki"
)

// imported is what the flags of pki import name.
type imported struct {
	from, name, keyPair, symmetric, cert, key string
	ca                                        bool
}

func newPKIImport(s *session) *cobra.Command {
	var i imported
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Take certificates and keys that were made elsewhere into the store",
		Long: `Take certificates and keys that were made elsewhere into the store.

They are proven first: the cluster wants the name, the key is the
certificate's, the authority signed it, and it is in date. All of it becomes
one new generation; nothing is overwritten. Keys are PEM (PKCS #8, PKCS #1 or
SEC 1, without a passphrase); a symmetric key is base64, as it stands in
encryption-config.yaml. ` + "`kthwc pki plan`" + ` then says what differs from what the
cluster wants.`,
		Example: `  kthwc pki import --from ~/kubernetes-the-hard-way
  kthwc pki import --ca --name etcd --cert etcd-ca.crt --key etcd-ca.key
  kthwc pki import --name etcd-server@controller-0 --cert server.crt --key server.key
  kthwc pki import --key-pair service-account --key sa.key
  kthwc pki import --symmetric encryption/key1 --key key1.txt`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return s.importFiles(&i) },
	}
	cmd.Flags().StringVar(&i.from, "from", "", "a directory with files named as in the tutorial: ca.pem, ca-key.pem, kubernetes.pem, …")
	complete(cmd, "from", directories)
	cmd.Flags().StringVar(&i.name, "name", "", "the certificate or authority that it is to be")
	complete(cmd, "name", s.completeUses(pki.Certificate, pki.Authority))
	cmd.Flags().BoolVar(&i.ca, "ca", false, "it is an authority")
	cmd.Flags().StringVar(&i.keyPair, "key-pair", "", "the key pair that it is to be, such as service-account")
	cmd.Flags().StringVar(&i.symmetric, "symmetric", "", "the symmetric key that it is to be, such as encryption/key1")
	cmd.Flags().StringVar(&i.cert, "cert", "", "the certificate's file")
	cmd.Flags().StringVar(&i.key, "key", "", "the key's file")
	cmd.MarkFlagsOneRequired("from", "name", "key-pair", "symmetric")
	cmd.MarkFlagsMutuallyExclusive("from", "name", "key-pair", "symmetric")
	cmd.MarkFlagsRequiredTogether("name", "cert")
	cmd.MarkFlagsMutuallyExclusive("from", "key")
	return cmd
}

// list reads the files that the flags name.
func (i *imported) list(b *built) ([]pki.Import, error) {
	if i.from != "" {
		return pki.ImportsOf(b.cluster, i.from)
	}
	m := pki.Import{Kind: pki.Certificate, Name: i.name + i.keyPair + i.symmetric, Cert: pki.File{Name: i.cert}, Key: pki.File{Name: i.key}}
	switch {
	case i.ca:
		m.Kind, m.Name = pki.Authority, strings.TrimPrefix(m.Name, "ca/")
	case i.keyPair != "":
		m.Kind = pki.KeyPair
	case i.symmetric != "":
		m.Kind = pki.Key
	}
	for _, f := range []*pki.File{&m.Cert, &m.Key} {
		if f.Name == "" {
			continue
		}
		var err error
		if f.Content, err = os.ReadFile(f.Name); err != nil {
			return nil, err
		}
	}
	return []pki.Import{m}, nil
}

func (s *session) importFiles(i *imported) error {
	if i.from == "" && i.key == "" {
		return &exitError{exitUsage, "the key is missing", "give it with --key FILE"}
	}
	b, _, store, err := s.withKeys()
	if err != nil {
		return err
	}
	list, err := i.list(b)
	if err != nil {
		return err
	}
	names, err := store.Import(b.cluster, s.now(), list)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		fmt.Fprintf(s.err, "the store has all of it\n")
		return nil
	}
	fmt.Fprintf(s.err, "imported %s. Next: kthwc pki plan\n", strings.Join(names, ", "))
	return s.writeInventory(b, store)
}
