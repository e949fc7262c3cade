// Package kubetest starts a real etcd and kube-apiserver on this machine, for
// tests of what speaks to the Kubernetes API.
//
// It promises certificates of its own, TLS and RBAC as a cluster has them, an
// end with the test or the test program, and a skip in words where the programs
// are missing. There is no kubelet and no controller: what these would write, a
// test writes itself. It is a test helper.
package kubetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kthwc/kthwc/internal/readers"
)

// Server is a running API server and its etcd.
type Server struct {
	URL        string // https://127.0.0.1:port
	ServerName string // what its certificate says
	CA         []byte // PEM: the root of its certificate
	Etcd       string // http://127.0.0.1:port

	clients *authority
	dir     string
	ended   chan string // names of programs that have ended
	undo    []func()
}

// shared is the server of a test program, and why there is none.
var shared struct {
	sync.Mutex
	server *Server
	err    error
}

// Shared is one server for all tests of a program, which calls [Run] in its
// TestMain. Tests keep apart by namespaces and names.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	programs := find(tb)
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = start(programs)
	}
	if shared.err != nil {
		tb.Fatal(shared.err)
	}
	return shared.server
}

// Run runs the tests and ends the shared server. The result is for os.Exit.
func Run(m *testing.M) int {
	defer func() {
		if shared.server != nil {
			shared.server.stop()
		}
	}()
	return m.Run()
}

// Start is a server of the test's own.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s, err := start(find(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.stop)
	return s
}

// Identity is a client certificate and its key, in PEM, that the server knows
// as a user of groups.
func (s *Server) Identity(tb testing.TB, user string, groups ...string) (cert, key []byte) {
	tb.Helper()
	cert, key, err := s.clients.leaf(user, groups, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return cert, key
}

// programs are the places of what is started.
type programs struct{ apiserver, etcdArchive string }

// find looks among what `make lab-artifacts` builds. KTHWC_ARTIFACTS is another
// place of the same form.
func find(tb testing.TB) programs {
	tb.Helper()
	dir := os.Getenv("KTHWC_ARTIFACTS")
	if dir == "" {
		_, self, _, _ := runtime.Caller(0)
		dir = filepath.Join(filepath.Dir(self), "..", "..", "build", "artifacts")
	}
	return programs{
		apiserver:   newest(tb, filepath.Join(dir, "dl.k8s.io/v*/bin", runtime.GOOS, runtime.GOARCH, "kube-apiserver")),
		etcdArchive: newest(tb, filepath.Join(dir, "github.com/etcd-io/etcd/releases/download/v*/etcd-v*-"+runtime.GOOS+"-"+runtime.GOARCH+".tar.gz")),
	}
}

func newest(tb testing.TB, pattern string) string {
	tb.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		tb.Fatal(err)
	}
	if len(found) == 0 {
		readers.Missing(tb, "there is no "+pattern+": `make lab-artifacts` builds it")
	}
	slices.Sort(found)
	return found[len(found)-1]
}

// start starts both programs, and waits until the API server is ready.
func start(p programs) (s *Server, err error) {
	dir, err := os.MkdirTemp("", "kubetest")
	if err != nil {
		return nil, err
	}
	s = &Server{ServerName: "kubernetes.default.svc", dir: dir, ended: make(chan string, 2)}
	s.undo = append(s.undo, func() { os.RemoveAll(dir) })
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if err := s.startEtcd(p.etcdArchive); err != nil {
		return nil, err
	}
	return s, s.startAPIServer(p.apiserver)
}

// stop undoes what was started, the last first.
func (s *Server) stop() {
	for _, undo := range slices.Backward(s.undo) {
		undo()
	}
	s.undo = nil
}

func (s *Server) startEtcd(archive string) error {
	program := filepath.Join(s.dir, "etcd")
	if err := unpack(archive, "etcd", program); err != nil {
		return err
	}
	ports, err := free(2)
	if err != nil {
		return err
	}
	s.Etcd = "http://" + ports[0]
	peer := "http://" + ports[1]
	return s.run("etcd", program, "--data-dir", filepath.Join(s.dir, "etcd.data"), "--unsafe-no-fsync",
		"--listen-client-urls", s.Etcd, "--advertise-client-urls", s.Etcd,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
}

func (s *Server) startAPIServer(program string) error {
	files, err := s.material()
	if err != nil {
		return err
	}
	ports, err := free(1)
	if err != nil {
		return err
	}
	s.URL = "https://" + ports[0]
	_, port, _ := net.SplitHostPort(ports[0])
	err = s.run("kube-apiserver", program, "--etcd-servers="+s.Etcd, "--bind-address=127.0.0.1", "--secure-port="+port,
		"--tls-cert-file="+files["server.crt"], "--tls-private-key-file="+files["server.key"], "--client-ca-file="+files["clients.crt"],
		"--service-account-key-file="+files["token.key"], "--service-account-signing-key-file="+files["token.key"],
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.32.0.0/24",
		"--authorization-mode=Node,RBAC", "--anonymous-auth=false", "--allow-privileged=true", "--endpoint-reconciler-type=none",
		// Nothing here makes the service accounts that it would ask for.
		"--disable-admission-plugins=ServiceAccount")
	if err != nil {
		return err
	}
	return s.await()
}

// material writes the keys and certificates that the API server reads.
func (s *Server) material() (files map[string]string, err error) {
	serving, err := newAuthority("serving")
	if err != nil {
		return nil, err
	}
	if s.clients, err = newAuthority("clients"); err != nil {
		return nil, err
	}
	s.CA = serving.pem
	cert, key, err := serving.leaf(s.ServerName, nil, []string{s.ServerName, "127.0.0.1"})
	if err != nil {
		return nil, err
	}
	_, token, err := serving.leaf("token", nil, nil)
	if err != nil {
		return nil, err
	}
	files = map[string]string{}
	for name, content := range map[string][]byte{"server.crt": cert, "server.key": key, "clients.crt": s.clients.pem, "token.key": token} {
		files[name] = filepath.Join(s.dir, name)
		if err := os.WriteFile(files[name], content, 0o600); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// run starts a program that ends with the server, or with this program.
func (s *Server) run(name, program string, args ...string) error {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, s.dir
	dieWithUs(cmd)
	if err := cmd.Start(); err != nil {
		log.Close()
		return err
	}
	waited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		s.ended <- name
		close(waited)
	}()
	s.undo = append(s.undo, func() {
		_ = cmd.Process.Kill()
		<-waited
		log.Close()
	})
	return nil
}

// startTime bounds the start on a busy machine; four seconds are usual.
const startTime = 2 * time.Minute

// await waits for /readyz and for what the API server makes of itself.
func (s *Server) await() error {
	cert, key, err := s.clients.leaf("kubetest", []string{"system:masters"}, nil)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CA)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: s.ServerName, MinVersion: tls.VersionTLS12}}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for _, path := range []string{"/readyz", "/api/v1/namespaces/kube-system", "/api/v1/namespaces/default", "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin"} {
		if err := s.answers(ctx, client, path); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) answers(ctx context.Context, client *http.Client, path string) error {
	last := errors.New("nothing was tried")
	for ctx.Err() == nil {
		answer, err := client.Get(s.URL + path)
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(answer.Status)
		}
		last = err
		select {
		case <-ctx.Done():
		case name := <-s.ended:
			return fmt.Errorf("%s has ended:\n%s", name, s.log(name))
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("kube-apiserver did not serve %s within %v: %w\n%s", path, startTime, last, s.log("kube-apiserver"))
}

// log is the end of what a program said.
func (s *Server) log(name string) []byte {
	text, err := os.ReadFile(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-4000):]
}

// free finds addresses that nobody listens at.
func free(n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// unpack takes one program out of an archive.
func unpack(archive, name, to string) error {
	text, err := os.ReadFile(archive)
	if err != nil {
		return err
	}
	z, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err != nil {
			return fmt.Errorf("%s has no %s: %w", archive, name, err)
		}
		if filepath.Base(h.Name) != name {
			continue
		}
		body, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		return os.WriteFile(to, body, 0o700)
	}
}

// Stranger is a client certificate and its key that no server here knows.
func Stranger(tb testing.TB, user string, groups ...string) (cert, key []byte) {
	tb.Helper()
	other, err := newAuthority("strangers")
	if err != nil {
		tb.Fatal(err)
	}
	cert, key, err = other.leaf(user, groups, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return cert, key
}
