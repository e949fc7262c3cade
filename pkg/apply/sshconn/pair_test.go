package sshconn

import (
	"crypto"
	"crypto/ed25519"
	"testing"

	"golang.org/x/crypto/ssh"
)

func newPair(t testing.TB) (crypto.PrivateKey, ssh.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return private, signer
}
