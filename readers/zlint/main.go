// Command zlint-reader judges certificates with zlint, the linter of public
// authorities: RFC 5280 and its kin, and the rules of the web's browsers.
//
// It reads PEM certificates on standard input and prints one JSON object for
// each finding of severity notice or worse: the number of the certificate, from
// 0, the lint, its severity, where the rule is from, and what it says. A lint
// that does not concern a certificate says nothing. It refuses input that has
// no certificate or one that cannot be read.
package main

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// finding is one line of output.
type finding struct {
	Certificate int    `json:"certificate"`
	Lint        string `json:"lint"`
	Severity    string `json:"severity"`
	Source      string `json:"source"`
	Detail      string `json:"detail"`
}

func run(in io.Reader, out io.Writer) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	encoder, count := json.NewEncoder(out), 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d: %w", count, err)
		}
		for _, f := range findings(count, certificate) {
			if err := encoder.Encode(f); err != nil {
				return err
			}
		}
		count++
	}
	if count == 0 {
		return errors.New("no certificate in PEM on standard input")
	}
	return nil
}

func findings(number int, certificate *x509.Certificate) []finding {
	var out []finding
	results := zlint.LintCertificate(certificate).Results
	for _, name := range slices.Sorted(maps.Keys(results)) {
		r := results[name]
		if r.Status < lint.Notice {
			continue
		}
		detail, source := r.Details, ""
		if l := lint.GlobalRegistry().CertificateLints().ByName(name); l != nil {
			source = string(l.Source)
			if detail == "" {
				detail = l.Description
			}
		}
		out = append(out, finding{number, name, r.Status.String(), source, detail})
	}
	return out
}
