package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
	"github.com/kthwc/kthwc/pkg/compile"
	"github.com/kthwc/kthwc/pkg/secret"
)

const notPublic = "the authority is the cluster's own: it has no place on the web to publish at, and nobody who is not in the cluster trusts it"

// excused are the lints that certificates of the hardened profile do not pass,
// and why that is right. They are rules for authorities that browsers trust.
var excused = map[string]string{
	"e_ca_country_name_missing":                                     notPublic,
	"e_ca_organization_name_missing":                                notPublic,
	"e_sub_cert_aia_does_not_contain_ocsp_url":                      notPublic,
	"e_sub_cert_aia_missing":                                        notPublic,
	"e_sub_cert_cert_policy_empty":                                  notPublic,
	"e_sub_cert_certificate_policies_missing":                       notPublic,
	"w_sub_cert_aia_does_not_contain_issuing_ca_url":                notPublic,
	"e_sub_cert_country_name_must_appear":                           "the organization is a group of Kubernetes' RBAC, not a company with an address",
	"e_sub_cert_locality_name_must_appear":                          "the organization is a group of Kubernetes' RBAC, not a company with an address",
	"e_sub_cert_province_must_appear":                               "the organization is a group of Kubernetes' RBAC, not a company with an address",
	"e_dnsname_bad_character_in_label":                              "the lint takes the common name for a DNS name: it is a user of Kubernetes, such as system:node:worker-0",
	"e_subject_common_name_not_exactly_from_san":                    "the common name is a user of Kubernetes or a component; clients look at the other names alone",
	"w_subject_common_name_included":                                "Kubernetes reads the user off the common name, and people the component",
	"e_dnsname_contains_bare_iana_suffix":                           "hosts are called by short names in their cluster",
	"e_dnsname_not_valid_tld":                                       "hosts and Services have names that the public DNS does not know",
	"e_ext_san_contains_reserved_ip":                                "hosts and Services have private addresses",
	"w_root_ca_basic_constraints_path_len_constraint_field_present": "every root signs leaves alone, and says so",
}

// excusedToo are those of the tutorial's certificates beside.
var excusedToo = map[string]string{
	"e_ext_san_missing": "the tutorial gives both usages to certificates that no server shows",
}

// A finding is what zlint-reader prints.
type finding struct {
	Certificate            int
	Lint, Severity, Detail string
}

// lint gives the errors and warnings of zlint.
func lint(t testing.TB, certificates []byte) []finding {
	t.Helper()
	out, err := readers.Run(certificates, readers.Path(t, "zlint-reader"))
	if err != nil {
		t.Fatal(err)
	}
	var found []finding
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		var f finding
		if err := decoder.Decode(&f); err == io.EOF {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		if f.Severity != "info" {
			found = append(found, f)
		}
	}
}

// withKeys is a cluster.yaml that wants another kind of key.
func withKeys(source, keyType string) string {
	if was := "keyType: rsa-2048\n"; strings.Contains(source, was) {
		return strings.Replace(source, was, "keyType: "+keyType+"\n", 1)
	}
	return strings.Replace(source, "spec:\n", "spec:\n  pki: {keyType: "+keyType+"}\n", 1)
}

// everyCluster is each example and each scenario of golden/.
func everyCluster(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"examples/*.yaml", "golden/*/cluster.yaml"} {
		found, err := filepath.Glob("../../" + pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, path := range found {
			out = append(out, strings.TrimPrefix(path, "../../"))
		}
	}
	return out
}

// Every certificate passes zlint, but for the lints above; and each of these
// is there for some certificate.
func TestCertificatesPassLint(t *testing.T) {
	used := map[string]bool{}
	for _, tc := range []struct {
		keyType  string
		clusters []string
	}{
		{"ecdsa-p256", everyCluster(t)}, // the others take long, and find nothing else
		{"ecdsa-p384", []string{"examples/lab.yaml", "examples/kthw-1.21.yaml"}}, {"rsa-2048", []string{"examples/lab.yaml", "examples/kthw-1.21.yaml"}}, {"rsa-4096", []string{"golden/single-node/cluster.yaml"}},
	} {
		for _, name := range tc.clusters {
			c := model(t, withKeys(example(t, name), tc.keyType))
			names, text := certificates(t, c)
			for _, f := range lint(t, text) {
				used[f.Lint] = true
				if excused[f.Lint] == "" && (excusedToo[f.Lint] == "" || c.Profile.V == "hardened") {
					t.Errorf("%s, %s, %s: %s: %s", name, tc.keyType, names[f.Certificate], f.Lint, f.Detail)
				}
			}
		}
	}
	for _, table := range []map[string]string{excused, excusedToo} {
		for l := range table {
			if !used[l] {
				t.Errorf("%s is excused, and no certificate needs it", l)
			}
		}
	}
}

// Serial numbers are random and long: nobody can tell the next one (CA/Browser
// Forum Baseline Requirements 7.1 wants 64 bits).
func TestSerialNumbersAreRandom(t *testing.T) {
	seen := map[string]bool{}
	_, text := certificates(t, model(t, example(t, "examples/lab.yaml")))
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		serial := parsed(t, pem.EncodeToMemory(block)).SerialNumber
		if seen[serial.String()] || serial.BitLen() < 100 || serial.BitLen() > 159 {
			t.Errorf("%x has %d bits, or is there twice", serial, serial.BitLen())
		}
		seen[serial.String()] = true
	}
}

// certificates issues a cluster's, and gives them all with their names.
func certificates(t testing.TB, c *compile.Cluster) (names []string, text []byte) {
	t.Helper()
	s := issued(t, t.TempDir()+"/store", c, time.Now())
	for _, ca := range c.CAs {
		names, text = append(names, "ca/"+ca.Name), append(text, material(t, s, secret.Bundle(ca.Name))...)
	}
	for _, cert := range c.Certs {
		names, text = append(names, cert.Name), append(text, material(t, s, secret.Cert(cert.Name))...)
	}
	return names, text
}

// What is wrong with a certificate is found, whatever is excused.
func TestLintFindsWhatIsWrong(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	if l := worst(lint(t, serving(t, func(*x509.Certificate) any { return nil }))); len(l) > 0 {
		t.Fatalf("the certificate that the others differ from: %v", l)
	}
	for want, change := range map[string]func(*x509.Certificate) any{
		"e_sub_cert_or_sub_ca_using_sha1":                   func(c *x509.Certificate) any { c.SignatureAlgorithm = x509.ECDSAWithSHA1; return nil },
		"e_serial_number_not_positive":                      func(c *x509.Certificate) any { c.SerialNumber = negative; return nil },
		"e_validity_time_not_positive":                      func(c *x509.Certificate) any { c.NotAfter = c.NotBefore.Add(-time.Hour); return nil },
		"e_sub_cert_valid_time_longer_than_825_days":        func(c *x509.Certificate) any { c.NotAfter = c.NotBefore.AddDate(3, 0, 0); return nil },
		"e_tls_server_cert_valid_time_longer_than_398_days": func(c *x509.Certificate) any { c.NotAfter = c.NotBefore.AddDate(2, 0, 0); return nil },
		"e_ext_san_missing":                                 func(c *x509.Certificate) any { c.DNSNames, c.IPAddresses = nil, nil; return nil },
		"e_sub_cert_key_usage_cert_sign_bit_set":            func(c *x509.Certificate) any { c.KeyUsage |= x509.KeyUsageCertSign; return nil },
		"e_ecdsa_allowed_ku":                                func(c *x509.Certificate) any { c.KeyUsage |= x509.KeyUsageKeyEncipherment; return nil },
		"e_sub_cert_eku_missing":                            func(c *x509.Certificate) any { c.ExtKeyUsage = nil; return nil },
		"w_sub_cert_eku_extra_values": func(c *x509.Certificate) any {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning)
			return nil
		},
		"w_ext_subject_key_identifier_missing_sub_cert": func(c *x509.Certificate) any { c.SubjectKeyId = nil; return nil },
		"e_rsa_mod_less_than_2048_bits":                 func(*x509.Certificate) any { return weak.Public() },
	} {
		found := worst(lint(t, serving(t, change)))
		if !found[want] {
			t.Errorf("%s is not found, but %v", want, found)
		}
	}
}

// worst is what was found beyond what is excused.
func worst(found []finding) map[string]bool {
	out := map[string]bool{}
	for _, f := range found {
		if excused[f.Lint] == "" {
			out[f.Lint] = true
		}
	}
	return out
}

// negative is a serial number below zero. Go does not write one: its bytes are
// put where other ones were.
var negative = new(big.Int).SetBytes(bytes.Repeat([]byte{0x7e}, 16))

// serving is a certificate as the API server has one, with one change, which
// may give it another public key.
func serving(t testing.TB, change func(*x509.Certificate) any) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, SubjectKeyId: []byte{1, 2, 3}}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 158))
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "kube-apiserver"}, DNSNames: []string{"api.example.net"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, SubjectKeyId: []byte{4, 5, 6},
	}
	public := change(about)
	if public == nil {
		public = key.Public()
	}
	der, err := x509.CreateCertificate(rand.Reader, about, ca, public, key)
	if err != nil {
		t.Fatal(err)
	}
	der = bytes.Replace(der, negative.Bytes(), bytes.Repeat([]byte{0xfe}, 16), 1)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
