package pki

import (
	"crypto/x509"
	"strings"
	"time"
)

// Describe is what a certificate says, as rows of a table.
func Describe(c *x509.Certificate) [][2]string {
	facts := factsOf(c)
	rows := [][2]string{
		{"subject", c.Subject.String()}, {"issuer", c.Issuer.String()}, {"serial", facts.Serial},
		{"valid from", c.NotBefore.Format(time.RFC3339)}, {"valid until", c.NotAfter.Format(time.RFC3339)},
		{"key", facts.KeyType}, {"key SHA-256", facts.SPKI},
	}
	if len(facts.Names) > 0 {
		rows = append(rows, [2]string{"names", strings.Join(facts.Names, ", ")})
	}
	if len(facts.Usages) > 0 {
		rows = append(rows, [2]string{"usages", strings.Join(facts.Usages, ", ")})
	}
	if c.IsCA {
		rows = append(rows, [2]string{"authority", "yes, of leaves only"})
	}
	return rows
}
