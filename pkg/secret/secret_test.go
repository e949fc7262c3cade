package secret_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/kthwc/kthwc/pkg/secret"
)

func TestParseReadsWhatStringWrites(t *testing.T) {
	for _, r := range []secret.Ref{
		secret.Cert("admin"), secret.Key("kubelet-serving@worker-0").Base64(), secret.Bundle("etcd-peer"),
		secret.CAKey("ca"), secret.PublicKey("service-account"), secret.Symmetric("encryption/key1").Base64(),
		secret.PublicKey("service-account").At(2), secret.Cert("service-accounts").At(999999).Base64(), secret.Bundle("ca").Base64().At(7),
	} {
		got, err := secret.Parse(r.String())
		if err != nil || got != r {
			t.Errorf("%v was read as %v, %v", r, got, err)
		}
	}
}

func TestMalformedPlaceholdersAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "pki/admin.key", "${secret:}", "${secret:pki/admin.key", "${secret:pki/admin.key|rot13}",
		"${secret:../store/ca.key}", "${secret:pki/../../x}", "${secret:pki/a b}", "${secret:/etc/passwd}", "${secret:a|base64|base64}",
		"${secret:pki/a.pub#}", "${secret:pki/a.pub#0}", "${secret:pki/a.pub#02}", "${secret:pki/a.pub#-1}", "${secret:pki/a.pub#1#2}",
		"${secret:pki/a.pub#1000000}", "${secret:#1}", "${secret:pki/a.pub|base64#1}", "${secret:pki/a.key#1}", "${secret:keys/encryption/key1#1}",
	} {
		if r, err := secret.Parse(text); err == nil {
			t.Errorf("%q was read as %v", text, r)
		}
	}
}

func TestOnlyPrivateMaterialIsSensitive(t *testing.T) {
	for r, want := range map[secret.Ref]bool{
		secret.Cert("a"): false, secret.Bundle("a"): false, secret.PublicKey("a"): false,
		secret.Key("a"): true, secret.CAKey("a"): true, secret.Symmetric("a"): true,
	} {
		if r.Sensitive() != want || r.Base64().Sensitive() != want {
			t.Errorf("%v: sensitive is %v", r, r.Sensitive())
		}
	}
}

// A Ref holds a name and nothing else, however it is printed.
func TestEveryPrintingIsTheName(t *testing.T) {
	r := secret.Key("admin").Base64()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprintf("%v", r), fmt.Sprintf("%+v", r), r.String(), strings.Trim(string(text), `"`)} {
		if s != "${secret:pki/admin.key|base64}" {
			t.Errorf("printed as %s", s)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("a ${secret:pki/admin.key|base64} b")
	f.Add("${secret:pki/admin.crt}${secret:pki/admin.key}")
	f.Add("${secret:")
	f.Add("$${secret:x}}")
	f.Add("${secret:pki/a.pub#2}${secret:pki/ca/ca.crt#12|base64}")
	f.Add("${secret:pki/a.pub#02}")
	f.Fuzz(func(t *testing.T, text string) {
		texts, refs, err := secret.Split(text)
		if err != nil {
			return
		}
		if len(texts) != len(refs)+1 {
			t.Fatalf("%d texts and %d refs", len(texts), len(refs))
		}
		var b strings.Builder
		for i, s := range texts {
			b.WriteString(s)
			if i < len(refs) {
				b.WriteString(refs[i].String())
			}
		}
		if b.String() != text {
			t.Fatalf("%q was joined to %q", text, b.String())
		}
	})
}
