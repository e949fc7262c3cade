package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kthwc/kthwc/pkg/pki"
)

// identityFiles are what opens a sealed store: those named, or the one that
// lies where it is looked for.
func (s *session) identityFiles() []string {
	if len(s.identity) > 0 {
		return s.identity
	}
	if file := s.getenv("KTHWC_IDENTITY"); file != "" {
		return []string{file}
	}
	file := filepath.Join(s.getenv("HOME"), ".config/kthwc/identity.txt")
	if _, err := os.Stat(file); err != nil || s.getenv("HOME") == "" {
		return nil
	}
	return []string{file}
}

// identities reads them all.
func (s *session) identities() ([]pki.Identity, error) {
	var all []pki.Identity
	for _, file := range s.identityFiles() {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &exitError{exitFailure, "there is no identity " + file, "--identity and KTHWC_IDENTITY name a file with an age identity or an ssh private key"}
		}
		if err != nil {
			return nil, fmt.Errorf("read the identity: %w", err)
		}
		list, err := pki.ParseIdentities(text, func() ([]byte, error) { return s.passphrase(file) })
		if err != nil {
			return nil, &exitError{exitFailure, file + ": " + err.Error(), "--identity and KTHWC_IDENTITY name a file with an age identity or an ssh private key"}
		}
		all = append(all, list...)
	}
	return all, nil
}

// passphrase asks a person, and nobody else.
func (s *session) passphrase(file string) ([]byte, error) {
	in, ok := s.in.(*os.File)
	if !ok || s.getenv("CI") != "" || !term.IsTerminal(int(in.Fd())) {
		return nil, errors.New("it has a passphrase, which is asked for on a terminal alone")
	}
	fmt.Fprintf(s.err, "passphrase of %s: ", file)
	word, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(s.err)
	return word, err
}

func newPKIInit(s *session) *cobra.Command {
	var recipients []string
	var file string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the directory that keys are kept in, and say whom new keys are encrypted to",
		Long: `Make the directory that keys are kept in, and say whom new keys are encrypted to.

Without recipients, keys lie in the store as they are, for you alone. With
recipients, the keys of every further generation are encrypted to all of them;
certificates, names and fingerprints stay readable, so that plan, list and
inspect need no identity. The recipients given take the place of those before.
What was issued before is as it was until ` + "`kthwc pki reseal`" + `.

The recipients are part of the chain of generations. The store's file
recipients is a copy to read: keys are never encrypted to what it says, and
nothing is written beside one that was changed by hand. Whoever can write every
file of the store can forge its chain too: review what changes in a committed
store as you review cluster.yaml. The store's .gitignore lets it be committed
as soon as no open key is in use, and never lets open generations in.`,
		Example: "  kthwc pki init --recipient age1… --recipient 'ssh-ed25519 AAAA…'\n  kthwc pki init --recipients-file team.txt",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := s.compiled()
			if err != nil {
				return err
			}
			if file != "" {
				text, err := os.ReadFile(file)
				if err != nil {
					return fmt.Errorf("read the recipients: %w", err)
				}
				recipients = append(recipients, pki.Recipients(text)...)
			}
			return s.initStore(b, recipients, file != "")
		},
	}
	cmd.Flags().StringArrayVar(&recipients, "recipient", nil, "an age recipient or ssh public key to encrypt keys to; may be given again")
	cmd.Flags().StringVar(&file, "recipients-file", "", "a file of recipients, one a line")
	return cmd
}

func (s *session) initStore(b *built, recipients []string, listed bool) error {
	dir := s.storeDir(b.cluster.Name.V)
	if err := pki.Create(dir); err != nil {
		return err
	}
	if len(recipients) == 0 && !listed {
		fmt.Fprintf(s.err, "%s is ready, for you alone; back it up. Next: kthwc pki issue\n", dir)
		return nil
	}
	store, err := s.store(b)
	if err != nil {
		return err
	}
	if err := store.SetRecipients(recipients); err != nil {
		return recipientsError(err)
	}
	fmt.Fprintf(s.err, "new keys in %s are encrypted to these, and to nobody else:\n  %s\n", dir, strings.Join(recipients, "\n  "))
	if open, used := store.Unsealed(); used {
		fmt.Fprintf(s.err, "the keys of generation %s lie open as before. Next: kthwc pki reseal\n", numbers(open))
	}
	return nil
}

func recipientsError(err error) error {
	if stored := (&pki.StoreError{}); errors.As(err, &stored) || errors.Is(err, pki.ErrChanged) {
		return err
	}
	return &exitError{exitUsage, err.Error(), "age-keygen prints one as its public key; ~/.ssh/id_ed25519.pub holds another"}
}

func numbers(list []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]")
}

func newPKIReseal(s *session) *cobra.Command {
	return &cobra.Command{
		Use:   "reseal",
		Short: "Encrypt every key in use to the recipients of now, as a new generation",
		Long: `Encrypt every key in use to the recipients of now, as a new generation.

No key changes, and nothing is issued. The new generation holds all that is in
use, so that those before it are needed no more; they stay where they are.
Whoever was a recipient before can still read them: what they must not know
any more has to be issued again, or rotated.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, _, store, err := s.withKeys()
			if err != nil {
				return err
			}
			if err := store.Reseal(); err != nil {
				return err
			}
			if open, _ := store.Unsealed(); len(open) > 0 {
				fmt.Fprintf(s.err, "the keys of generation %s lie open in their files, which nothing needs any more: delete %[1]s and what is older once the store is backed up\n", numbers(open))
			}
			return s.writeInventory(b, store)
		},
	}
}
