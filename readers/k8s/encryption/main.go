// Command encryption-reader takes a kube-apiserver's encryption configuration
// on standard input with the API server's own loader, and uses it as the API
// server does: for each resource it encrypts a text, sees that the text cannot
// be found in what would be stored, and decrypts it again.
//
// It prints a line for each resource: the resource and what stored values begin
// with. It refuses a configuration that the API server would refuse, one that
// stores plain text, and one with which a changed value is read.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/value"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "encryption-reader")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := dir + "/config.yaml"
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	config, err := encryptionconfig.LoadEncryptionConfig(context.Background(), file, false, "reader")
	if err != nil {
		return err
	}
	return try(config.Transformers, out)
}

func try(transformers map[schema.GroupResource]value.Transformer, out io.Writer) error {
	var lines []string
	for resource, t := range transformers {
		stored, err := roundTrip(t)
		if err != nil {
			return fmt.Errorf("%s: %w", resource, err)
		}
		parts := bytes.SplitAfterN(stored, []byte(":"), 6) // k8s:enc:PROVIDER:v1:KEY:
		lines = append(lines, fmt.Sprintf("%s %s\n", resource, bytes.Join(parts[:5], nil)))
	}
	slices.Sort(lines)
	for _, line := range lines {
		if _, err := io.WriteString(out, line); err != nil {
			return err
		}
	}
	return nil
}

// roundTrip gives what is stored for a text.
func roundTrip(t value.Transformer) ([]byte, error) {
	text, ctx, object := []byte("a text that must not be read in etcd"), context.Background(), value.DefaultContext("/registry/object")
	stored, err := t.TransformToStorage(ctx, text, object)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(stored, text) {
		return nil, errors.New("the first provider stores plain text")
	}
	back, stale, err := t.TransformFromStorage(ctx, stored, object)
	if err != nil {
		return nil, err
	}
	if stale || !bytes.Equal(back, text) {
		return nil, errors.New("what was stored does not come back")
	}
	if _, _, err := t.TransformFromStorage(ctx, append(bytes.Clone(stored), 'x'), object); err == nil {
		return nil, errors.New("a changed value is taken")
	}
	return stored, nil
}
